"""How a tensor is quantized, as frozen values: `Scheme` says it before training, `QParams` while a model runs.

What a range holds beside them is declared by its method (`jaxq.range_methods`).
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

from jaxtyping import Array, Float


class Grid(NamedTuple):
    """The integers that a scale spreads over a range: `qmin` to `qmax`. symmetric: zero point 0. nonnegative: zero
    point `qmin`.
    """

    qmin: int
    qmax: int
    symmetric: bool = False
    nonnegative: bool = False


# How each way to train a range reads in a plan.
RANGES = {
    "clip": "learned ends (PACT)",
    "ema": "moving min and max",
    "frozen": "frozen range",
    "learned": "learned range",
    "lsq": "learned scale (LSQ)",
    "lsq+": "learned scale and zero point (LSQ+)",
    "tqt": "learned power of two (TQT)",
}


@dataclasses.dataclass(frozen=True)
class Scheme:
    """The integer type of a tensor and how its scale comes about.

    Args:
      bits: width of the signed integer.
      symmetric: zero point fixed at 0.
      axis: the channel axis of a per-channel scale, None for one scale.
      narrow: leave out the least integer (weights lie in [-127, 127], Jacob et al. 2018, section 3).
      ranges: a name of `jaxq.range_methods.METHODS`, or "follow" (a weight's scale is max|w| / 127 at every step).
      calibration: how the range is found in data.
      percentile: the per cent that "percentile" keeps.

    Example:
      >>> Scheme(bits=8, narrow=True).qmin, Scheme(bits=16).qmax
      (-127, 32767)
    """

    bits: int = 8
    symmetric: bool = False
    axis: int | None = None
    narrow: bool = False
    ranges: str = "learned"
    calibration: str = "minmax"
    percentile: float = 99.99

    @property
    def qmax(self) -> int:
        """The greatest integer, 127 for 8 bits."""
        return 2 ** (self.bits - 1) - 1

    @property
    def qmin(self) -> int:
        """The least integer, -128 for 8 bits, -127 when narrow."""
        return -self.qmax if self.narrow else -self.qmax - 1

    @property
    def grid(self) -> Grid:
        """The integers of the type."""
        return Grid(self.qmin, self.qmax, self.symmetric)

    @property
    def integers(self) -> str:
        """`int8, per channel (axis 3), symmetric`."""
        granularity = "per tensor" if self.axis is None else f"per channel (axis {self.axis})"
        return ", ".join([f"int{self.bits}", granularity, *(["symmetric"] if self.symmetric else [])])

    def __str__(self) -> str:
        """`int8, per channel (axis 3), symmetric, learned range`; `calibrated by mse` where not by the extremes."""
        follow = f"scale = max abs(w) / {self.qmax} at each step"
        parts = [self.integers, follow if self.ranges == "follow" else RANGES[self.ranges]]
        if self.calibration not in ("minmax", "max"):
            kept = f" {self.percentile:g}" if self.calibration == "percentile" else ""
            parts += [f"calibrated by {self.calibration}{kept}"]
        return ", ".join(parts)


class QParams(NamedTuple):
    """Scale and zero point in use: float32 arrays, the zero point integer-valued. `real = scale * (q - zero_point)`."""

    scale: Float[Array, "..."]
    zero_point: Float[Array, ""]
