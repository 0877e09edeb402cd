"""What the generated TFLite schema says: codes, names, and which options table belongs to which operator.

The only user of the generated classes. jaxq writes options in snake_case (`stride_h`); they say `strideH`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Mapping
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as generated

from jaxq.export.flatbuffer.field import Field, Fields, fields
from jaxq.export.flatbuffer.metadata_table import METADATA_TABLES, METADATA_UNIONS
from jaxq.export.program import DTYPES, RAW

VERSION = 3
IDENTIFIER = b"TFL3"
METADATA_IDENTIFIER = b"M001"
ALIGNMENT = 16  # `force_align` of Buffer.data in the schema

# int4 is held one value per int8 element; the types in RAW are held as the bytes of their buffer.
_STORAGE: Mapping[str, str] = {"int4": "int8", "resource": "uint8", "variant": "uint8", **dict.fromkeys(RAW, "uint8")}
# Bits of one element in the file, where they are not those of its storage. A string tensor has no fixed size.
_BITS: Mapping[str, int] = {"bfloat16": 16, "int2": 2, "int4": 4, "uint4": 4}

# Options tables shared by several operators. Every other table has the name of its one operator.
_SHARED = {
    "Pool2DOptions": ("AVERAGE_POOL_2D", "MAX_POOL_2D", "L2_POOL_2D"),
    "L2NormOptions": ("L2_NORMALIZATION",),
    "ReducerOptions": (
        "MEAN", "SUM", "REDUCE_PROD", "REDUCE_MAX", "REDUCE_MIN", "REDUCE_ANY", "REDUCE_ALL",
    ),
    "SequenceRNNOptions": ("UNIDIRECTIONAL_SEQUENCE_RNN",),
    "MaximumMinimumOptions": ("MAXIMUM", "MINIMUM"),
    "RandomOptions": ("RANDOM_UNIFORM", "RANDOM_STANDARD_NORMAL", "MULTINOMIAL"),
    "Conv3DOptions": ("CONV_3D", "CONV_3D_TRANSPOSE"),
}  # fmt: skip


def _codes(enum: type) -> dict[str, int]:
    return {name: code for name, code in vars(enum).items() if not name.startswith("_")}


def _swap(table: Mapping[str, int]) -> dict[int, str]:
    return {code: name for name, code in table.items()}


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def _options() -> dict[str, tuple[str, str]]:
    tables = {_letters(table): (union, table) for union, members in UNIONS.items() for table in members}
    shared = {kind: table for table, kinds in _SHARED.items() for kind in kinds}
    wanted = {kind: _letters(shared.get(kind, f"{kind}Options")) for kind in OPERATORS}
    return {kind: tables[table] for kind, table in wanted.items() if table in tables}


OPERATORS: Mapping[str, int] = _codes(generated.BuiltinOperator)
OPERATOR_NAMES: Mapping[int, str] = _swap(OPERATORS)
TENSOR_TYPES: Mapping[str, int] = {name: _codes(generated.TensorType)[name.upper()] for name in DTYPES}
DTYPE_NAMES: Mapping[int, str] = _swap(TENSOR_TYPES)
TENSOR_TYPE_NAMES: Mapping[int, str] = _swap(_codes(generated.TensorType))

# Union field of Operator -> member table -> code.
UNIONS: Mapping[str, Mapping[str, int]] = {
    "BuiltinOptions": _codes(generated.BuiltinOptions),
    "BuiltinOptions2": _codes(generated.BuiltinOptions2),
}
UNION_FIELDS = {"BuiltinOptions": "builtin_options", "BuiltinOptions2": "builtin_options2"}
_MEMBERS = {union: _swap(members) for union, members in UNIONS.items()}

# CONV_2D -> ("BuiltinOptions", "Conv2DOptions"): union and table. An operator not here has no options.
OPTIONS: Mapping[str, tuple[str, str]] = _options()

# Options that are numbers in the file and names in a Program.
ENUMS: Mapping[str, Mapping[str, int]] = {
    "padding": _codes(generated.Padding),
    "fused_activation_function": _codes(generated.ActivationFunctionType),
}
ENUM_NAMES: Mapping[str, Mapping[int, str]] = {field: _swap(values) for field, values in ENUMS.items()}


def storage(dtype: str) -> np.dtype:
    """The little-endian numpy dtype that holds a constant of this tensor type in memory."""
    return np.dtype(_STORAGE.get(dtype, dtype)).newbyteorder("<")


def byte_size(dtype: str, elements: int) -> int:
    """Bytes that so many elements take in the file: int4 packs two in a byte, int2 four. Not of a string tensor."""
    bits = _BITS.get(dtype, 8 * storage(dtype).itemsize)
    return (elements * bits + 7) // 8


def union_member(union: str, code: int) -> str | None:
    """The table that a union's code names; None for "NONE" and for codes newer than this schema."""
    name = _MEMBERS[union].get(code)
    return None if name == "NONE" else name


def member_fields(union: str, code: int) -> Fields:
    """The fields of the table that a union's code names, of either schema; none of one that is not known."""
    if union in METADATA_UNIONS:
        return METADATA_TABLES.get(METADATA_UNIONS[union].get(code, ""), {})
    member = union_member(union, code)
    return options_fields(member) if member else {}


@functools.cache
def options_fields(table: str) -> Fields:
    """The fields of an options table, asked of its generated class, with their slots, types and defaults."""
    defaults = vars(getattr(generated, f"{table}T")())
    return fields(*(_field(table, camel, default) for camel, default in defaults.items()))


def new(table: str, **values: Any) -> Any:
    """A generated table with its fields set by their snake_case names; `Pack(builder)` writes it.

    Raises AttributeError for a field that the table does not have.
    """
    made = AlignedBuffer() if table == "Buffer" else getattr(generated, f"{table}T")()
    camel = {_snake(name): name for name in vars(made)}
    for name, value in values.items():
        if name not in camel:
            raise AttributeError(f"{table} has no field {name!r}; it has {', '.join(sorted(camel))}")
        setattr(made, camel[name], value)
    return made


class AlignedBuffer(generated.BufferT):
    """A Buffer whose data starts at a multiple of 16 bytes: the generated Pack ignores `force_align`."""

    def Pack(self, builder: flatbuffers.Builder) -> int:
        """Writes the padding first, then the buffer as generated. `data` is a uint8 array or None."""
        if self.data is not None:
            builder.Prep(ALIGNMENT, len(self.data))
        return super().Pack(builder)


class _Probe:
    """Stands in for a flatbuffers table, and notes what a generated getter asks of it."""

    Pos = 0

    def __init__(self):
        self.slot, self.kind, self.type = 0, "", ""

    def Offset(self, vtable_offset: int) -> int:
        self.slot = (vtable_offset - 4) // 2
        return 1  # present, so that the getter goes on to read

    def Get(self, flags: Any, offset: int) -> int:
        self.kind, self.type = "number", _dtype(flags)
        return 0

    def String(self, offset: int) -> bytes:
        self.kind = "string"
        return b""

    def GetVectorAsNumpy(self, flags: Any, offset: int) -> None:
        self.kind, self.type = "vector", _dtype(flags)


def _field(table: str, camel: str, default: Any) -> Field:
    """Calls the field's getter on a probe: the generated code itself says the slot and the type."""
    view, probe = getattr(generated, table)(), _Probe()
    view._tab = probe
    getter = camel[0].upper() + camel[1:]
    getattr(view, f"{getter}AsNumpy", getattr(view, getter))()
    return Field(_snake(camel), probe.slot, probe.kind, probe.type, 0 if default is None else default)


def _dtype(flags: Any) -> str:
    return np.dtype(flags.name).newbyteorder("<").str


def _snake(camel: str) -> str:
    return re.sub(r"[A-Z]", lambda capital: "_" + capital.group().lower(), camel)
