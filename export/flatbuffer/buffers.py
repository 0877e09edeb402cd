"""The buffers of a `.tflite`: constants and metadata as views of the file's bytes."""

from __future__ import annotations

import math

import numpy as np

from jaxq.errors import FormatError
from jaxq.export.flatbuffer import schema
from jaxq.export.flatbuffer.table import Table
from jaxq.export.program import RAW


class Buffers:
    """Views and not copies. Where a copy must be made (int4, bool, unaligned) it is made once a buffer.

    Were it made once a tensor, a thousand tensors that share one buffer would need a thousand times the
    file.
    """

    def __init__(self, data: bytes, tables: list[Table]):
        self._data = data
        self._tables = tables
        self._start = _address(np.frombuffer(data, np.uint8))
        self._unclaimed = len(data)
        self._raws: dict[int, np.ndarray | None] = {}
        self._decoded: dict[tuple[int, str], np.ndarray] = {}
        self._contents: dict[int, bytes] = {}

    @property
    def count(self) -> int:
        """How many buffers the file has."""
        return len(self._tables)

    def constant(self, index: int, dtype: str, shape: tuple[int, ...], where: str) -> np.ndarray | None:
        """A tensor's data in its shape; None for an empty buffer, which means a value of run time.

        A type in `program.RAW` gives its bytes, uint8 of shape (bytes,). Raises FormatError for a wrong size.
        """
        raw = self._raw(index, where)
        elements = math.prod(shape)
        if raw is None or (not raw.size and elements):
            return None
        if dtype != "string":
            self._check_size(raw.size, index, dtype, shape, where)
        if dtype in RAW:
            return raw
        key = (index, dtype)
        if key not in self._decoded:
            self._decoded[key] = _decode(raw, dtype)
        return self._decoded[key][:elements].reshape(shape)

    def offset(self, index: int) -> int | None:
        """The byte of the file at which a buffer's data begins. None where it has none, or none was asked for."""
        raw = self._raws.get(index)
        return None if raw is None else _address(raw) - self._start

    def content(self, index: int, where: str) -> bytes:
        """A buffer as bytes, b"" where it is empty."""
        if index not in self._contents:
            raw = self._raw(index, where)
            self._contents[index] = b"" if raw is None else raw.tobytes()
        return self._contents[index]

    def _raw(self, index: int, where: str) -> np.ndarray | None:
        """The buffer's bytes as uint8, None where it has none."""
        if not index and not self._tables:
            return None
        if index >= len(self._tables):
            raise FormatError(
                f"The file's {where} has buffer {index:,}, of {len(self._tables):,} buffers. "
                "The file is corrupt: copy or convert it again."
            )
        if index not in self._raws:
            table = self._tables[index]
            # Offset 0 is absent, 1 the converter's placeholder for one never filled in.
            behind = table.index("offset") > 1
            self._raws[index] = self._behind(table, where) if behind else table.vector("data")
        return self._raws[index]

    def _behind(self, table: Table, where: str) -> np.ndarray:
        """Data behind the flatbuffer, as in files beyond 2 GB: not seen by `verify`, so charged here."""
        offset, size = table.index("offset"), table.index("size")
        if offset + size > len(self._data):
            raise FormatError(
                f"The file is {len(self._data):,} bytes, but the data of its {where} lies at bytes "
                f"{offset:,} to {offset + size:,}: it is truncated. Copy it again."
            )
        self._unclaimed -= size
        if self._unclaimed < 0:
            raise FormatError(
                f"The file is {len(self._data):,} bytes, but its buffers claim more than that behind the "
                f"flatbuffer, the last for its {where}: they overlap. Convert it again."
            )
        return np.frombuffer(self._data, np.uint8, size, offset)

    def _check_size(self, size: int, index: int, dtype: str, shape: tuple[int, ...], where: str) -> None:
        needed = schema.byte_size(dtype, math.prod(shape))
        if size != needed:
            raise FormatError(
                f"The file's {where}, {dtype}{list(shape)}, needs {needed:,} bytes, but its buffer {index} "
                f"has {size:,}. The file is corrupt: copy or convert it again."
            )


def _address(array: np.ndarray) -> int:
    """Where the array's first element lies in memory."""
    return array.__array_interface__["data"][0]


def _decode(raw: np.ndarray, dtype: str) -> np.ndarray:
    """Bytes to a flat array of the dtype that holds this tensor type in memory."""
    if dtype == "int4":
        return _unpack_int4(raw)
    if dtype == "bool":
        return raw != 0  # a byte of 2 viewed as numpy's bool is neither True nor False
    values = raw.view(schema.storage(dtype))
    return values if values.flags.aligned else values.copy()


def _unpack_int4(raw: np.ndarray) -> np.ndarray:
    """Two values per byte, the low nibble first; an odd count leaves one value too many at the end."""
    nibbles = np.stack([raw & 0xF, raw >> 4], axis=-1).reshape(-1)
    return (nibbles.astype(np.int8) ^ 8) - 8
