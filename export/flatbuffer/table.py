"""The tables of a `.tflite` that jaxq reads, as data, and a view of one table.

`verify` checks the fields listed here, and `Table` reads no others: what is read has been checked.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping

import numpy as np

from jaxq.export.flatbuffer.field import Field, Fields, Number, fields
from jaxq.export.flatbuffer.metadata_table import METADATA_TABLES

_SIGNED, _UNSIGNED, _SHORT = struct.Struct("<i"), struct.Struct("<I"), struct.Struct("<H")

# Slots of the TFLite schema, version 3. Fields that jaxq never reads are left out, and so never checked.
TABLES: Mapping[str, Fields] = {
    "Model": fields(
        Field("version", 0, "number", "<u4"),
        Field("operator_codes", 1, "tables", "OperatorCode"),
        Field("subgraphs", 2, "tables", "SubGraph"),
        Field("description", 3, "string"),
        Field("buffers", 4, "tables", "Buffer"),
        Field("metadata", 6, "tables", "Metadata"),
        Field("signature_defs", 7, "tables", "SignatureDef"),
    ),
    "OperatorCode": fields(
        Field("deprecated_builtin_code", 0, "number", "<i1"),
        Field("custom_code", 1, "string"),
        Field("version", 2, "number", "<i4", default=1),
        Field("builtin_code", 3, "number", "<i4"),
    ),
    "SubGraph": fields(
        Field("tensors", 0, "tables", "Tensor"),
        Field("inputs", 1, "vector", "<i4"),
        Field("outputs", 2, "vector", "<i4"),
        Field("operators", 3, "tables", "Operator"),
    ),
    "Tensor": fields(
        Field("shape", 0, "vector", "<i4"),
        Field("type", 1, "number", "<i1"),
        Field("buffer", 2, "number", "<u4"),
        Field("name", 3, "string"),
        Field("quantization", 4, "table", "QuantizationParameters"),
        Field("is_variable", 5, "number", "|b1"),
        Field("sparsity", 6, "table", "SparsityParameters"),
        Field("external_buffer", 10, "number", "<u4"),
    ),
    "QuantizationParameters": fields(
        Field("scale", 2, "vector", "<f4"),
        Field("zero_point", 3, "vector", "<i8"),
        Field("details_type", 4, "number", "<u1"),
        Field("quantized_dimension", 6, "number", "<i4"),
    ),
    "SparsityParameters": fields(),  # only its presence is read: sparse constants are refused
    "Operator": fields(
        Field("opcode_index", 0, "number", "<u4"),
        Field("inputs", 1, "vector", "<i4"),
        Field("outputs", 2, "vector", "<i4"),
        Field("builtin_options_type", 3, "number", "<u1"),
        Field("builtin_options", 4, "union", "BuiltinOptions"),
        Field("intermediates", 8, "vector", "<i4"),
        Field("builtin_options2_type", 11, "number", "<u1"),
        Field("builtin_options2", 12, "union", "BuiltinOptions2"),
    ),
    "Buffer": fields(
        Field("data", 0, "vector", "<u1"),
        Field("offset", 1, "number", "<u8"),
        Field("size", 2, "number", "<u8"),
    ),
    "Metadata": fields(
        Field("name", 0, "string"),
        Field("buffer", 1, "number", "<u4"),
    ),
    "SignatureDef": fields(
        Field("inputs", 0, "tables", "TensorMap"),
        Field("outputs", 1, "tables", "TensorMap"),
        Field("signature_key", 2, "string"),
        Field("subgraph_index", 4, "number", "<u4"),
    ),
    "TensorMap": fields(
        Field("name", 0, "string"),
        Field("tensor_index", 1, "number", "<u4"),
    ),
}


# Every table that can be read, of either schema.
LAYOUTS: Mapping[str, Fields] = {**TABLES, **METADATA_TABLES}


class Table:
    """One table of bytes that `verify` has passed. Reading a field that its layout lacks is a KeyError."""

    __slots__ = ("_data", "_layout", "_position")  # a file may hold one table for every few of its bytes

    def __init__(self, data: bytes, position: int, layout: Fields):
        self._data = data
        self._position = position
        self._layout = layout

    @staticmethod
    def root(data: bytes, name: str = "Model") -> Table:
        """The table that the bytes begin with: a file's Model, or its metadata's ModelMetadata."""
        return Table(data, unsigned(data, 0), LAYOUTS[name])

    def number(self, name: str) -> Number:
        """A scalar field, or its default where the file leaves it out."""
        field, at = self._find(name)
        return np.frombuffer(self._data, field.type, 1, at)[0].item() if at else field.default

    def index(self, name: str) -> int:
        """A scalar field that is an integer."""
        return int(self.number(name))

    def text(self, name: str) -> str | None:
        """A string, or None where absent. Bytes that are not UTF-8 become `\\xNN`: no name stops a reader."""
        raw = self._vector(name, "<u1")
        return None if raw is None else raw.tobytes().decode("utf-8", "backslashreplace")

    def vector(self, name: str) -> np.ndarray | None:
        """A vector of numbers, None where absent: a read-only view; a copy where it is unaligned."""
        raw = self._vector(name, self._layout[name].type)
        return raw if raw is None or raw.flags.aligned else raw.copy()

    def integers(self, name: str) -> tuple[int, ...]:
        """A vector of integers, () where absent."""
        values = self.vector(name)
        return () if values is None else tuple(values.tolist())

    def table(self, name: str, layout: Fields | None = None) -> Table | None:
        """A table, or None where absent. A union needs the layout of its member."""
        field, at = self._find(name)
        chosen = LAYOUTS[field.type] if layout is None else layout
        return Table(self._data, at + unsigned(self._data, at), chosen) if at else None

    def tables(self, name: str) -> list[Table]:
        """A vector of tables, [] where absent."""
        offsets, layout = self._vector(name, "<u4"), LAYOUTS[self._layout[name].type]
        if offsets is None:
            return []
        start = self._start(name)
        return [Table(self._data, start + 4 * i + offset, layout) for i, offset in enumerate(offsets.tolist())]

    def _find(self, name: str) -> tuple[Field, int]:
        """The field and its position in the file, 0 where absent."""
        field = self._layout[name]
        inside = entry(self._data, self._position, field.slot)
        return field, self._position + inside if inside else 0

    def _start(self, name: str) -> int:
        """Position of a present vector's first element."""
        _, at = self._find(name)
        return at + unsigned(self._data, at) + 4

    def _vector(self, name: str, dtype: str) -> np.ndarray | None:
        if not self._find(name)[1]:
            return None
        start = self._start(name)
        return np.frombuffer(self._data, dtype, unsigned(self._data, start - 4), start)


def entry(data: bytes, position: int, slot: int) -> int:
    """Where a table's field lies, from its start; 0 where absent. The vtable must lie inside the file."""
    vtable = position - _SIGNED.unpack_from(data, position)[0]
    at = 4 + 2 * slot
    return _SHORT.unpack_from(data, vtable + at)[0] if at < _SHORT.unpack_from(data, vtable)[0] else 0


def unsigned(data: bytes, position: int) -> int:
    """The uint32 at a position inside the file."""
    return _UNSIGNED.unpack_from(data, position)[0]
