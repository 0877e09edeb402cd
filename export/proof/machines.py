"""What is known of a file's integers on each kind of processor: what ran, what follows, what is modelled."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from typing import Any

from jaxq.export.evaluate.kernels.machine import MACHINES, Machine, machine_named
from jaxq.export.evaluate.kernels.xnnpack import differs
from jaxq.export.program import Program


@dataclasses.dataclass(frozen=True)
class Known:
    """The integers of LiteRT's default kernels on one machine.

    Attributes:
      ran: whether LiteRT ran the file there, for this certificate.
      derived: how many operators have the same kernels there as on the machine that ran.
      modelled: the other operators, by kind. jaxq evaluates their kernels, which are compared with LiteRT's on
        emulated or real machines of the kind by jaxq's own tests, not by this certificate.
    """

    ran: bool
    derived: int
    modelled: Mapping[str, int]

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"ran": self.ran, "derived_operators": self.derived, "modelled_operators": dict(self.modelled)}


def by_machine(program: Program, ran: str) -> dict[str, Known]:
    """What is known of each machine, where the machine `ran` has run the file."""
    found = {}
    for name in MACHINES:
        apart = Counter(op.kind for op in program.operators if differs(op, program.tensors, *_both(ran, name)))
        derived = 0 if name == ran else len(program.operators) - apart.total()
        found[name] = Known(name == ran, derived, dict(sorted(apart.items())))
    return found


def differ(program: Program, a: str, b: str) -> bool:
    """Whether an operator of the file has other arithmetic on one machine than on the other."""
    return any(differs(op, program.tensors, *_both(a, b)) for op in program.operators)


def _both(a: str, b: str) -> tuple[Machine, Machine]:
    return machine_named(a), machine_named(b)


def text(known: Mapping[str, Known]) -> str:
    """One line: the machine that ran, then what follows for each other."""
    ran = [f"{name} ran" for name, machine in known.items() if machine.ran]
    return "; ".join([*ran, *(_follows(name, machine) for name, machine in known.items() if not machine.ran)])


def _follows(name: str, machine: Known) -> str:
    kinds = ", ".join(f"{kind} {count:,}" for kind, count in machine.modelled.items())
    return f"{name} follows" + (f" but for {kinds} (modelled)" if kinds else "")
