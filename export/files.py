"""Files on disk: each appears whole or not at all, and a model with its manifest as a pair that can be checked.

Data goes under a temporary name in the same folder, to disk (fsync), and then takes its own name in one step: by a hard
link where nothing may be replaced (of two writers one succeeds), by a rename where it may. Of a pair the manifest comes
first. A process that is killed between the two leaves no model, or the old model beside the new manifest, whose SHA-256
is not the model's: `check_pair` refuses that.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import tempfile
from collections.abc import Mapping

from jaxq.errors import ExportError, FormatError

TEMPORARY = ".jaxq."  # short: the file's own name may be as long as the file system allows
WITHOUT_LINKS = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EACCES})


REPLACE = "Give another path, or force=True to replace it."


def refuse_place(file: pathlib.Path, force: bool, instead: str = REPLACE) -> None:
    """Raise ExportError where a file cannot be written, or where there is one (also a link that leads nowhere)."""
    try:
        folder = file.parent
        if not folder.exists():
            raise ExportError(f"Cannot write {file}: {folder} does not exist. Make it first.")
        if not folder.is_dir():
            raise ExportError(f"Cannot write {file}: {folder} is not a directory.")
        if file.is_dir():
            raise ExportError(f"Cannot write {file}: it is a directory.")
        if os.path.lexists(file) and not force:
            lost = f"a link to {os.readlink(file)}, which is missing" if file.is_symlink() else ""
            size = f"{file.stat().st_size:,} bytes" if file.exists() else lost
            raise ExportError(f"{file} exists ({size}). {instead}")
        os.lstat(file)
    except FileNotFoundError:
        return  # nothing there, and the name is one that the file system takes
    except (OSError, ValueError) as e:  # a name too long, or with a NUL
        raise ExportError(f"Cannot write {str(file)[:100]!r}: {getattr(e, 'strerror', None) or e}.") from e


def write_whole(files: Mapping[pathlib.Path, bytes], *, force: bool = True) -> None:
    """Write files, in order, so that no reader ever sees a part of one.

    Args:
      files: what to write, by path. All data is on disk before the first takes its name.
      force: replace what is there. Without it a file that appears meanwhile is kept, and what was placed is taken back.

    Raises: ExportError where that cannot be done: no space, no permission, a file in the way.
    """
    temporary: dict[pathlib.Path, str] = {}
    placed: list[pathlib.Path] = []
    try:
        for path, data in files.items():
            temporary[path] = _written(path.parent, data)
        for path, name in temporary.items():
            os.replace(name, path) if force else _place_new(name, path)
            placed.append(path)
        for folder in {path.parent for path in files}:
            _sync(folder)
    except (OSError, ValueError) as e:
        for path in [] if force else reversed(placed):
            path.unlink(missing_ok=True)
        raise ExportError(_reason(e, next(iter(files)), placed if force else [])) from e
    finally:
        for name in temporary.values():
            pathlib.Path(name).unlink(missing_ok=True)


def _written(folder: pathlib.Path, data: bytes) -> str:
    """The name of a temporary file that holds the data, on disk."""
    handle, name = tempfile.mkstemp(dir=folder, prefix=TEMPORARY)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
    except BaseException:
        pathlib.Path(name).unlink(missing_ok=True)
        raise
    return name


def _place_new(name: str, path: pathlib.Path) -> None:
    """Give a temporary file its own name, unless that is taken: FileExistsError."""
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError as e:
        if e.errno not in WITHOUT_LINKS:
            raise
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY))  # a file system without links: claim the name
        os.replace(name, path)


def _sync(folder: pathlib.Path) -> None:
    """Bring a folder's names to disk, where the system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _reason(error: Exception, path: pathlib.Path, replaced: list[pathlib.Path]) -> str:
    if isinstance(error, FileExistsError):
        taken = error.filename2 or error.filename or path
        return f"{taken} exists: it appeared meanwhile. {REPLACE}"
    left = f"{replaced[0].name} is replaced already: write again." if replaced else "Nothing was left behind."
    return f"Cannot write {str(path)[:300]}: {getattr(error, 'strerror', None) or error}. {left}"


def check_pair(model: pathlib.Path, data: bytes) -> None:
    """Raise FormatError where a manifest of jaxq's stands beside a file that is not the one it describes.

    Args:
      model: the path of a .tflite file; its manifest has the same name with .json.
      data: the file's bytes.
    """
    manifest = model.with_suffix(".json")
    if not manifest.is_file():
        return
    try:
        said = json.loads(manifest.read_bytes())
    except ValueError as e:
        raise FormatError(f"{manifest} is no JSON ({e}); it is not the manifest of {model}. Export again.") from e
    if not isinstance(said, dict) or not {"sha256", "jaxq"} <= said.keys():
        return  # another program's
    found = hashlib.sha256(data).hexdigest()
    if said["sha256"] != found:
        raise FormatError(
            f"{manifest} is the manifest of another file: it says SHA-256 {str(said['sha256'])[:12]}..., and {model} "
            f"has {found[:12]}.... Was writing cut off, or one of them copied alone? Export again, or move "
            f"{manifest.name} away."
        )
