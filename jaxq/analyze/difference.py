"""What `diff` finds, as frozen values that print as one table."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from typing import Any

from jaxq.display.text import aligned, did_you_mean
from jaxq.errors import InputError


@dataclasses.dataclass(frozen=True)
class Error:
    """One kind of error over all elements of a tensor.

    Attributes:
      mean: in steps of the tensor's scale; it keeps the sign, so that means of parts add up.
      mean_abs: in steps.
      max_abs: in steps.
      sqnr: `10 log10(sum r^2 / sum e^2)` in dB, r the float reading; infinite where there is no error.
    """

    mean: float
    mean_abs: float
    max_abs: float
    sqnr: float

    def as_dict(self) -> dict[str, float | None]:
        """JSON values; an SQNR that is not finite is null."""
        return {k: v if math.isfinite(v) else None for k, v in dataclasses.asdict(self).items()}


@dataclasses.dataclass(frozen=True)
class Difference:
    """One integer tensor of the training forward against the float reading.

    Element by element total = own + inherited and own = rounding + clipping + weights (`jaxq.analyze.parts`).

    Attributes:
      site: its name.
      kind: the op that makes it, INPUT for an input.
      step: its scale, in real units.
      elements: how many numbers were compared.
      clipped: the share of the float reading that lies more than half a step outside the range.
      total: the error against the float reading.
      own: what the op itself adds, given exact inputs.
      rounding: the part of `own` that rounding to the grid adds.
      clipping: the part of `own` that the range's ends add.
      weights: the part of `own` that quantized weights add.
      inherited: what the op's inputs bring.
    """

    site: str
    kind: str
    step: float
    elements: int
    clipped: float
    total: Error
    own: Error
    rounding: Error
    clipping: Error
    weights: Error
    inherited: Error

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return {k: v.as_dict() if isinstance(v, Error) else v for k, v in plain.items()}


# What comes first, by the name of an order: None is the order of computation.
ORDERS: dict[str, Callable[[Difference], float] | None] = {
    "program": None,
    "sqnr": lambda d: d.total.sqnr,
    "own": lambda d: d.own.sqnr,
    "mean": lambda d: -d.total.mean_abs,
    "max": lambda d: -d.total.max_abs,
    "clipped": lambda d: -d.clipped,
}

COLUMNS = (
    *("tensor", "op", ">SQNR dB", ">own dB", ">mean", ">max"),
    *(">rounding", ">clipping", ">weights", ">inherited", ">clipped"),
)


@dataclasses.dataclass(frozen=True)
class Differences:
    """Every integer tensor of a model; prints as a table.

    Attributes:
      examples: how many examples were compared.
      tensors: a `Difference` each, in the order of computation unless `sorted_by`.
    """

    examples: int
    tensors: tuple[Difference, ...]

    def __getitem__(self, site: str) -> Difference:
        """The tensor of that name. Raises KeyError."""
        found = {d.site: d for d in self.tensors}
        if site not in found:
            raise KeyError(f"There is no tensor {site!r}. {did_you_mean(site, found)}")
        return found[site]

    def sorted_by(self, order: str) -> Differences:
        """Worst first: by "sqnr", "own" (SQNR), "mean" and "max" error, or "clipped"; "program" leaves it as it is.

        Raises InputError for another word.
        """
        if order not in ORDERS:
            raise InputError(f"There is no order {order!r}. {did_you_mean(order, ORDERS)}")
        key = ORDERS[order]
        return self if key is None else dataclasses.replace(self, tensors=tuple(sorted(self.tensors, key=key)))

    @property
    def title(self) -> str:
        """What the table holds."""
        return (
            f"training forward against the float reading, {self.examples} examples; errors in steps of each tensor's "
            "scale, mean |e| unless max"
        )

    def rows(self) -> list[list[str]]:
        """The cells of the table, under `COLUMNS`."""
        return [_row(d) for d in self.tensors]

    def __str__(self) -> str:
        """The table, one line a tensor."""
        return f"{self.title}\n{aligned(COLUMNS, self.rows())}"

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"examples": self.examples, "tensors": [d.as_dict() for d in self.tensors]}

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)


def _row(d: Difference) -> list[str]:
    parts = (d.rounding, d.clipping, d.weights, d.inherited)
    numbers = [f"{d.total.mean_abs:.3f}", f"{d.total.max_abs:.2f}", *(f"{p.mean_abs:.3f}" for p in parts)]
    return [d.site, d.kind, sqnr_text(d.total.sqnr), sqnr_text(d.own.sqnr), *numbers, f"{100 * d.clipped:.2f} %"]


def sqnr_text(sqnr: float) -> str:
    """`41.3`; `exact` where there is no error."""
    return "exact" if sqnr == math.inf else f"{sqnr:.1f}"
