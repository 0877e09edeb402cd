"""Structural verification of TFLite bytes, before anything is read from them.

A flatbuffer is a graph of offsets. A hostile or torn one points outside the file, or says that a vector has
2^31 elements, or points ten thousand times at one table. Here every offset, size and alignment of every field
that jaxq reads (`table.LAYOUTS`) is checked before it is followed, and all that is visited is charged to a
budget of twice the file's size: a well-formed file visits each of its bytes at most once. Time and memory are
thus linear in the size.
"""

from __future__ import annotations

import struct
from typing import NoReturn

from jaxq.errors import FormatError
from jaxq.export.flatbuffer import schema
from jaxq.export.flatbuffer.field import Field, Fields
from jaxq.export.flatbuffer.table import LAYOUTS, entry, unsigned

_SMALLEST = 20  # root offset, identifier, one vtable, one table
_BUDGET = 2  # bytes visited per byte of the file


def verify(data: bytes) -> None:
    """Raises FormatError unless the file can be read safely. Indices and shapes are `read`'s to check."""
    if len(data) < _SMALLEST:
        raise FormatError(f"The file is {len(data)} bytes; no TFLite file is shorter than {_SMALLEST}. Copy it again.")
    if data[4:8] != schema.IDENTIFIER:
        raise FormatError(
            f"The file has {data[4:8]!r} at byte 4, where a TFLite file has b'TFL3'. "
            "Pass the bytes of a .tflite file, neither compressed nor wrapped."
        )
    _Walk(data, "The file", "model").table(unsigned(data, 0), LAYOUTS["Model"])


def verify_metadata(data: bytes) -> None:
    """Raises FormatError unless the buffer TFLITE_METADATA of a file can be read safely."""
    if len(data) < _SMALLEST or data[4:8] != schema.METADATA_IDENTIFIER:
        raise FormatError(
            f"The file's TFLITE_METADATA is {len(data)} bytes and has {data[4:8]!r} at byte 4, where there must be "
            f"{schema.METADATA_IDENTIFIER!r}. Write the metadata again."
        )
    _Walk(data, "The file's TFLITE_METADATA", "metadata").table(unsigned(data, 0), LAYOUTS["ModelMetadata"])


class _Walk:
    """One pass over a file, or what is named in its stead. `path` says where the walk is, for messages."""

    def __init__(self, data: bytes, named: str, root: str):
        self.data, self.named = data, named
        self.budget = _BUDGET * len(data)
        self.path: list[str] = [root]

    def table(self, position: int, layout: Fields) -> None:
        """Checks a table, its vtable, every listed field. As deep as the schema, which does not recurse."""
        self.inside(position, 4, align=4)
        vtable = position - struct.unpack_from("<i", self.data, position)[0]
        self.inside(vtable, 4, align=2)
        vtable_size, size = struct.unpack_from("<HH", self.data, vtable)
        if vtable_size < 4 or vtable_size % 2 or size < 4:
            self.fail(f"has a vtable of {vtable_size} bytes for a table of {size}")
        self.inside(vtable, vtable_size)
        self.inside(position, size)
        self.charge(8)  # the table's own smallest size and the offset that led to it
        for field in layout.values():
            inside = entry(self.data, position, field.slot)
            if inside:
                self.path.append(f".{field.name}")
                self.field(field, position, inside, size)
                self.path.pop()

    def field(self, field: Field, table: int, inside: int, table_size: int) -> None:
        """Checks a present field, and what it points at. `inside`: its offset from the table's start."""
        if inside < 4 or inside + field.width > table_size:
            self.fail(f"lies at byte {inside} of a table of {table_size} bytes")
        at = table + inside
        self.inside(at, field.width, align=field.width)
        match field.kind:
            case "string":
                self.string(at)
            case "vector":
                self.vector(at, field.element_width)
            case "table":
                self.table(self.target(at), LAYOUTS[field.type])
            case "tables":
                self.tables(at, LAYOUTS[field.type])
            case "union":
                self.union(field, table, at)

    def vector(self, at: int, width: int) -> tuple[int, int]:
        """Checks the vector that the offset at `at` points to: its first element's position, its length."""
        start = self.target(at)
        self.inside(start, 4, align=4)
        length = unsigned(self.data, start)
        self.inside(start + 4, length * width)
        self.charge(4 + length * width)
        return start + 4, length

    def string(self, at: int) -> None:
        """A string is a vector of bytes with a zero after the last."""
        start, length = self.vector(at, 1)
        self.inside(start + length, 1)
        if self.data[start + length]:
            self.fail(f"is a string of {length:,} bytes with no zero after it")

    def tables(self, at: int, layout: Fields) -> None:
        """Checks a vector of offsets and every table that it leads to."""
        start, length = self.vector(at, 4)
        for i in range(length):
            self.path.append(f"[{i}]")
            self.table(self.target(start + 4 * i), layout)
            self.path.pop()

    def union(self, field: Field, table: int, at: int) -> None:
        """Checks a union's member by the code in the slot before. No field of an unknown member is read."""
        code_at = entry(self.data, table, field.slot - 1)
        code = self.data[table + code_at] if code_at else 0
        self.table(self.target(at), schema.member_fields(field.type, code))

    def target(self, at: int) -> int:
        """Where the offset at `at` points."""
        return at + unsigned(self.data, at)

    def inside(self, start: int, size: int, align: int = 1) -> None:
        """Fails unless [start, start + size) is within the file and starts at a multiple of `align`."""
        if start < 0 or start + size > len(self.data):
            self.fail(f"needs bytes {start:,} to {start + size:,}: it is truncated or corrupt")
        if start % align:
            self.fail(f"lies at byte {start:,}, not at a multiple of {align}")

    def charge(self, size: int) -> None:
        """Fails once more has been visited than a file of this size can hold."""
        self.budget -= size
        if self.budget < 0:
            self.fail(f"is reached after {_BUDGET} times that much was visited: its parts overlap")

    def fail(self, fact: str) -> NoReturn:
        """Raises FormatError with the place and the fact."""
        where = "".join(self.path)
        raise FormatError(
            f"{self.named} is {len(self.data):,} bytes, but its {where} {fact}. Copy or convert it again."
        )
