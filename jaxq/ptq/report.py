"""What a pass did, as frozen values that print as one table."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from jaxq.display.text import aligned


@dataclasses.dataclass(frozen=True)
class Change:
    """What a pass did to one op.

    Attributes:
      op: its name.
      before: the pass's own objective on the examples; less is better.
      after: the same, afterwards.
      note: what the pass did, or why nothing.
    """

    op: str
    before: float
    after: float
    note: str


@dataclasses.dataclass(frozen=True)
class Report:
    """One pass, or several in order (`parts`).

    Attributes:
      name: the pass.
      objective: what `before` and `after` of each change measure; less is better.
      examples: how many examples it looked at.
      changes: by op, in the order of computation.
      reference: the float parameters that the pass compared with, in the form that a following pass takes them
        (`reference=`): an `nnx.State`, Linen variables without ranges, or a function's params.
      parts: the reports of the passes that `improve` ran.
      sqnr: of each output of the network, in dB against the reference, before and after; empty where not measured.
    """

    name: str
    objective: str
    examples: int
    changes: tuple[Change, ...] = ()
    reference: Any = dataclasses.field(default=None, repr=False, compare=False)
    parts: tuple[Report, ...] = ()
    sqnr: tuple[tuple[str, float, float], ...] = ()

    def __str__(self) -> str:
        """A title, one line an op, the outputs' SQNR."""
        lines = [f"{self.name}, {self.examples} examples"]
        if self.changes:
            rows = [[c.op, f"{c.before:.4g}", f"{c.after:.4g}", c.note] for c in self.changes]
            lines += [f"  {self.objective}", aligned(("op", ">before", ">after", "what"), rows)]
        lines += [str(part) for part in self.parts]
        lines += [f"  {name}: SQNR {before:.1f} dB before, {after:.1f} dB after" for name, before, after in self.sqnr]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an SQNR that is not finite is null."""
        return {
            "name": self.name,
            "objective": self.objective,
            "examples": self.examples,
            "changes": [dataclasses.asdict(c) for c in self.changes],
            "parts": [part.as_dict() for part in self.parts],
            "sqnr": [{"output": n, "before": _finite(a), "after": _finite(b)} for n, a, b in self.sqnr],
        }


def _finite(number: float) -> float | None:
    return number if math.isfinite(number) else None
