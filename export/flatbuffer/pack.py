"""A flatbuffer from plain values and a table of fields, for schemas that have no generated classes here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np

from jaxq.export.flatbuffer.field import Field
from jaxq.export.flatbuffer.metadata_table import METADATA_TABLES, METADATA_UNIONS

Values = Mapping[str, Any]

PREPEND = {
    "<i1": flatbuffers.Builder.PrependInt8Slot,
    "<u1": flatbuffers.Builder.PrependUint8Slot,
    "<u4": flatbuffers.Builder.PrependUint32Slot,
}


def pack(root: str, values: Values, identifier: bytes) -> bytes:
    """The bytes of one table of METADATA_TABLES with all below it; the same values give the same bytes.

    values: by field; a table is a mapping, a vector of tables a sequence of them, a union the pair of its member's
    name and values. None, empty strings and empty sequences are left out. Raises KeyError for an unknown field.
    """
    builder = flatbuffers.Builder(1024)
    builder.Finish(_table(builder, root, values), identifier)
    return bytes(builder.Output())


def _table(builder: flatbuffers.Builder, name: str, values: Values) -> int:
    """Writes what the table points at, then the table: its offset."""
    layout = METADATA_TABLES[name]
    given = {layout[key]: value for key, value in values.items() if value not in (None, "", (), [])}
    children = {field: _child(builder, field, value) for field, value in given.items() if field.kind != "number"}
    builder.StartObject(1 + max((field.slot for field in layout.values()), default=-1))
    for field, value in given.items():
        if field.kind == "number":
            PREPEND[field.type](builder, field.slot, value, field.default)
            continue
        if field.kind == "union":
            builder.PrependUint8Slot(field.slot - 1, _code(field.type, value[0]), 0)
        builder.PrependUOffsetTRelativeSlot(field.slot, children[field], 0)
    return builder.EndObject()


def _child(builder: flatbuffers.Builder, field: Field, value: Any) -> int:
    match field.kind:
        case "string":
            return builder.CreateString(value)
        case "vector":
            return builder.CreateNumpyVector(np.asarray(value, field.type))
        case "table":
            return _table(builder, field.type, value)
        case "tables":
            return _vector(builder, [_table(builder, field.type, one) for one in value])
        case _:
            return _table(builder, *value)


def _vector(builder: flatbuffers.Builder, offsets: list[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return builder.EndVector()


def _code(union: str, member: str) -> int:
    return next(code for code, name in METADATA_UNIONS[union].items() if name == member)
