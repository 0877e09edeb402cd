"""What is said of one field of a flatbuffer's table: a row of `table.TABLES` or `metadata_table.METADATA_TABLES`."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping

import numpy as np

Number = bool | int | float


@dataclasses.dataclass(frozen=True)
class Field:
    """One field of a table.

    `kind` is "number", "string", "vector" (of numbers), "table", "tables" (a vector of them) or "union".
    `type` is the little-endian numpy dtype of a number or of an element; the table's name in TABLES; or the
    union's name. A union's code is in the slot before its own. `default` is the value of an absent number.
    """

    name: str
    slot: int
    kind: str
    type: str = ""
    default: Number = 0

    @functools.cached_property
    def width(self) -> int:
        """Bytes that the field takes inside its table: its own size for a number, else an offset's 4."""
        return self.element_width if self.kind == "number" else 4

    @functools.cached_property
    def element_width(self) -> int:
        """Bytes of a number, or of one element of a vector of them."""
        return np.dtype(self.type).itemsize


Fields = Mapping[str, Field]


def fields(*listed: Field) -> Fields:
    """The fields of one table by name."""
    return {field.name: field for field in listed}
