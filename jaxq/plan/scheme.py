"""How a tensor is quantized, as frozen values: `Scheme` says it before training, `QParams` while a model runs.

A *range* is a plain mapping of three float32 arrays, so that it is a subtree of any pytree, of Linen's variables and
of an NNX state alike:

    scale         ()  or (channels,)   the trained step, in real units; > 0
    zero_point    ()                   the trained zero point, in steps; used rounded
    observed      (2,)                 moving [min, max] of the tensor, in real units

`is_range` recognises one by its keys.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from jaxtyping import Array, Float

RANGE_KEYS = frozenset({"scale", "zero_point", "observed"})


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The integer type of a tensor and how its scale comes about.

    bits: width of the signed integer. symmetric: zero point fixed at 0. axis: the channel axis of a per-channel
    scale, None for one scale. narrow: leave out the least integer (weights lie in [-127, 127], Jacob et al. 2018,
    section 3).
    ranges: "learned" by gradient, "frozen", or "follow" (a weight's scale is max|w| / 127 at every step).
    """

    bits: int = 8
    symmetric: bool = False
    axis: int | None = None
    narrow: bool = False
    ranges: str = "learned"

    @property
    def qmax(self) -> int:
        """The greatest integer, 127 for 8 bits."""
        return 2 ** (self.bits - 1) - 1

    @property
    def qmin(self) -> int:
        """The least integer, -128 for 8 bits, -127 when narrow."""
        return -self.qmax if self.narrow else -self.qmax - 1

    def __str__(self) -> str:
        """`int8 per-channel(3) symmetric learned`."""
        parts = [f"int{self.bits}", "per-tensor" if self.axis is None else f"per-channel({self.axis})"]
        return " ".join([*parts, *(["symmetric"] if self.symmetric else []), self.ranges])


class QParams(NamedTuple):
    """Scale and zero point in use: float32 arrays, the zero point integer-valued. `real = scale * (q - zero_point)`."""

    scale: Float[Array, "..."]
    zero_point: Float[Array, ""]


def is_range(node: Any) -> bool:
    """Whether a pytree node is a range: a mapping with exactly the three keys."""
    return isinstance(node, Mapping) and frozenset(node) == RANGE_KEYS
