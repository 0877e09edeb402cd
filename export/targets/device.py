"""What a target is: a table of operators, the limits of each, and where every entry of it comes from."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

from jaxq.export.program import Operator, Program
from jaxq.plan.target import Target

# Where an entry comes from. MEASURED: jaxq's tests run it on the real compiler or runtime. VENDOR: the vendor's
# document or source code says it. INFERRED: concluded from logs, issues or neighbouring versions.
MEASURED, VENDOR, INFERRED = "measured", "vendor", "inferred"

# The fact that breaks a limit, with its numbers; None where the operator keeps it.
Check = Callable[[Program, Operator], str | None]


@dataclasses.dataclass(frozen=True)
class Limit:
    """One condition that an operator has to meet.

    `law`: the condition. `check`: what breaks it. `evidence`, `source`: how it is known. `status`: the target's own
    word for an operator that breaks it; "" is `Device.limited`. `fix`: what to do.
    """

    law: str
    check: Check
    evidence: str
    source: str
    status: str = ""
    fix: str = ""


@dataclasses.dataclass(frozen=True)
class Device:
    """The reading of a target (`jaxq.plan.target.Target`, which has the kinds of operators) for finished files.

    `operators`: the limits of each operator kind that it takes. `everywhere`: limits of all of them. `mapped`,
    `unlisted`, `limited`: its words for an operator that it takes, has no entry for, or takes within a limit that is
    broken. `runs_rest`: whether an operator that is not mapped still runs as part of the target, as on a CPU.
    `one_subgraph`: whether everything that depends on an unmapped operator is unmapped, too. `at_ends`: kinds that
    may stay behind at the program's inputs without that consequence. `cache_bytes`: what constants may take on the
    chip; None without such a limit. `verdict`: how much the answer is worth. `compilers`: Vela's configurations.
    """

    target: Target
    verdict: str
    operators: Mapping[str, Sequence[Limit]]
    everywhere: Sequence[Limit]
    mapped: str
    unlisted: str
    limited: str
    source: str
    runs_rest: bool = False
    one_subgraph: bool = False
    at_ends: frozenset[str] = frozenset()
    cache_bytes: int | None = None
    compilers: Sequence[str] = ()

    @property
    def name(self) -> str:
        """The target's name."""
        return self.target.name

    @property
    def title(self) -> str:
        """The target's full name."""
        return self.target.title

    @property
    def evidence(self) -> str:
        """How the kinds are known."""
        return self.target.evidence


def table(target: Target, limits: Mapping[str, Sequence[Limit]]) -> dict[str, tuple[Limit, ...]]:
    """The operators of a target, each with its limits; those that the limits name, where it runs every operator."""
    kinds = limits.keys() if target.operators is None else target.operators
    return {kind: tuple(limits.get(kind, ())) for kind in sorted(kinds)}
