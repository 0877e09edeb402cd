#!/usr/bin/env bash
# make_root.sh DIR [VERSION]: unpacks an aarch64 Python 3.11 with LiteRT's aarch64 wheel into DIR, to run under qemu-user on this machine.
# Needs Debian 12 as root, its archive and the index that pip is configured for. Takes a few minutes and 300 MB; a finished DIR is left alone.
# Exits with 3 and one sentence where something is missing.
set -euo pipefail
dir=${1:?DIR} version=${2:-2.3.0}

missing() { echo "arm64: $1" >&2; exit 3; }
[ ! -f "$dir/done-$version" ] || exit 0
command -v apt-get >/dev/null || missing "needs apt-get, to unpack Debian's arm64 packages."
[ "$(id -u)" = 0 ] || missing "needs root, for dpkg --add-architecture and apt-get."
mkdir -p "$dir"/{lists/partial,packages,root/proc,site,wheels}
dir=$(cd "$dir" && pwd)

# qemu-user-binfmt and other recommended packages are not wanted: they change the machine.
command -v qemu-aarch64 >/dev/null || { apt-get update -qq && apt-get install -y -qq --no-install-recommends qemu-user; } >/dev/null 2>&1 ||
  missing "no qemu-aarch64, and apt-get cannot install qemu-user."

PACKAGES="python3.11 python3.11-minimal libpython3.11-stdlib libpython3.11-minimal libc6 libstdc++6 libgcc-s1 zlib1g libexpat1 libffi8
  libbz2-1.0 liblzma5 libssl3 libuuid1 libncursesw6 libtinfo6 libreadline8 libnsl2 libtirpc3 libcrypt1"
WHEELS="ai-edge-litert==$version numpy flatbuffers typing_extensions tqdm backports.strenum protobuf ml_dtypes"

if ! ls "$dir"/packages/python3.11_*.deb >/dev/null 2>&1; then
  foreign=$(dpkg --print-foreign-architectures | grep -cx arm64 || true)
  dpkg --add-architecture arm64
  trap '[ "$foreign" -gt 0 ] || dpkg --remove-architecture arm64' EXIT
  arm="apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::Lists=$dir/lists -o APT::Sandbox::User=root"
  $arm update >/dev/null 2>&1 || missing "apt-get cannot read Debian's archive."
  (cd "$dir/packages" && for package in $PACKAGES; do $arm download "$package:arm64" >/dev/null || exit 1; done) ||
    missing "Debian's archive lacks a package of Python 3.11 for arm64 (it is in Debian 12)."
fi
for package in "$dir"/packages/*.deb; do dpkg -x "$package" "$dir/root"; done

platforms=$(for glibc in 2014 _2_17 _2_27 _2_28; do echo --platform "manylinux${glibc}_aarch64"; done)
for wheel in $WHEELS; do
  python3 -m pip download -q --no-deps --only-binary=:all: --python-version 3.11 --implementation cp $platforms -d "$dir/wheels" "$wheel" >/dev/null 2>&1 ||
    missing "pip finds no aarch64 wheel of $wheel."
done
for wheel in "$dir"/wheels/*.whl; do python3 -m zipfile -e "$wheel" "$dir/site"; done
touch "$dir/done-$version"
