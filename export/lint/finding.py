"""What a rule is, and what it gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from jaxq.export.program import Program

ERROR, WARNING = "error", "warning"


@dataclasses.dataclass(frozen=True, slots=True)
class Spot:
    """A fact that a rule found, with its numbers, and the operator and tensor that it holds of."""

    message: str
    operator: int | None = None
    tensor: int | None = None


Check = Callable[[Program], Iterator[Spot]]


@dataclasses.dataclass(frozen=True)
class Rule:
    """One thing to check.

    `severity`: "error" where a runtime refuses the file, aborts, or computes something else than the file says;
    "warning" where it is slower, less portable or harder to use than need be. `what`: the law. `source`: where it
    is written, or the code that shows it. `fix`: what to do about a finding.
    """

    id: str
    severity: str
    what: str
    source: str
    fix: str
    check: Check


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a program breaks a rule: indices into its operators and tensors, None where it is neither.

    `kind` and `name`: of that operator and that tensor; a long name is shortened.
    """

    message: str
    operator: int | None
    kind: str | None
    tensor: int | None
    name: str | None

    def __str__(self) -> str:
        """`operator 3 (CONV_2D), tensor 5 'conv/b' has ...`."""
        places = [] if self.operator is None else [f"operator {self.operator} ({self.kind})"]
        places += [] if self.tensor is None else [f"tensor {self.tensor} {self.name!r}"]
        return f"{', '.join(places) or 'the file'} {self.message}"


@dataclasses.dataclass(frozen=True)
class Finding:
    """A rule that a program breaks, and every place where it does, at least one."""

    rule: Rule
    places: tuple[Place, ...]

    @property
    def message(self) -> str:
        """The fact at the first place."""
        return self.places[0].message

    @property
    def operator(self) -> int | None:
        """The operator of the first place."""
        return self.places[0].operator

    @property
    def tensor(self) -> int | None:
        """The tensor of the first place."""
        return self.places[0].tensor

    @property
    def count(self) -> int:
        """How often the rule is broken."""
        return len(self.places)

    def __str__(self) -> str:
        """`error bias-scale: operator 3 (CONV_2D), tensor 5 'conv/b' has ... (and in 4 other places)`: one line."""
        rest = "" if self.count == 1 else f" (and in {self.count - 1:,} other place{'' if self.count == 2 else 's'})"
        return f"{self.rule.severity} {self.rule.id}: {self.places[0]}{rest}"
