"""Files behind a `.tflite`'s flatbuffer, as TFLite metadata has them: a zip archive, appended.

Entries are stored uncompressed, for the readers on phones map them into memory, and carry the same date always, so
that the same files give the same bytes.
"""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Mapping

from jaxq.errors import FormatError

_MOST_BYTES = 64  # bytes unpacked for each byte of the file: an archive that holds more was made to do harm
_DATE = (1980, 1, 1, 0, 0, 0)  # the least that zip can say
_BROKEN = (
    zipfile.BadZipFile,
    lzma.LZMAError,
    zlib.error,
    struct.error,
    RuntimeError,
    ValueError,
    OSError,
    EOFError,
    KeyError,
)


def attach(data: bytes, files: Mapping[str, bytes]) -> bytes:
    """The file with other files behind it. With none it is the same bytes."""
    if not files:
        return data
    whole = io.BytesIO(data)
    with zipfile.ZipFile(whole, "a", zipfile.ZIP_STORED) as archive:
        for name, content in files.items():
            entry = zipfile.ZipInfo(name, _DATE)
            entry.create_system = 3  # not the system that this runs on
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, content)
    return whole.getvalue()


def attached(data: bytes) -> dict[str, bytes]:
    """The files behind a `.tflite`, by name; {} where it ends with its flatbuffer.

    Raises FormatError for an archive that is torn, or that unpacks to more than 64 times the file.
    """
    if not zipfile.is_zipfile(io.BytesIO(data)):
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_size(sum(entry.file_size for entry in archive.infolist()), len(data))
            return {entry.filename: archive.read(entry) for entry in archive.infolist()}
    except _BROKEN as e:
        raise FormatError(
            f"The file has an archive of files behind its flatbuffer that cannot be read: {e}. Copy it again."
        ) from e


def _check_size(unpacked: int, size: int) -> None:
    if unpacked > _MOST_BYTES * size:
        raise FormatError(
            f"The file is {size:,} bytes, but the files behind its flatbuffer unpack to {unpacked:,}, more than "
            f"{_MOST_BYTES} times that. Do not use it."
        )
