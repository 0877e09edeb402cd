#!/usr/bin/env bash
# run.sh DIR CPU ARGUMENTS...: Python with these arguments in DIR's aarch64 root, on an emulated CPU of qemu-aarch64:
# cortex-a53 (no dot product), cortex-a76 (dot product), max,sme=off (i8mm and SVE; QEMU 7.2's SME computes garbage).
# LiteRT reads /proc/cpuinfo and crashes on an x86 one; qemu-user takes DIR/root/proc/cpuinfo in its place.
set -euo pipefail
dir=$(cd "${1:?DIR}" && pwd) cpu=${2:?CPU}
shift 2

armv8="fp asimd evtstrm aes pmull sha1 sha2 crc32"
dot="$armv8 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
case $cpu in
  cortex-a53) features=$armv8 part=0xd03 ;;
  cortex-a76) features=$dot part=0xd0b ;;
  *) features="$dot i8mm bf16" part=0xd4d ;;
esac
for core in 0 1; do
  printf '%s\t: %s\n' processor $core BogoMIPS 48.00 Features "$features" 'CPU implementer' 0x41 'CPU architecture' 8 \
    'CPU variant' 0x3 'CPU part' $part 'CPU revision' 1
  echo
done >"$dir/root/proc/cpuinfo"

export QEMU_LD_PREFIX="$dir/root" PYTHONPATH="$dir/site"
exec qemu-aarch64 -cpu "$cpu" "$dir/root/usr/bin/python3.11" "$@"
