"""The certificate: integer for integer, the artifact against the training forward and against the runtimes.

Three comparisons, tensor by tensor. *simulation*: the training forward against our `xnnpack` reading, on every
activation; equal, but for tensors after a table op (LOGISTIC, SOFTMAX ...), where one step may differ at the op
itself. *xnnpack*, *reference* and, where asked for, *tflm*: our reading of each kernel family against the runtime
running the very file; equal without exception.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from jaxq.export.evaluate.kernels.machine import PHONE, this_machine
from jaxq.export.program import Program
from jaxq.export.proof.machines import Known, by_machine, text
from jaxq.export.runtimes.litert import runtime_version
from jaxq.graph import Graph, Op
from jaxq.ops import OPS
from jaxq.plan.plan import Plan

FAMILIES = ("xnnpack", "reference")
FLOAT_TOLERANCE = 1e-5  # of float32 operators, whose sums have no prescribed order, by the tensor's largest number


@dataclasses.dataclass
class Tally:
    """One comparison: integers and numbers of float32 operators compared, within which tolerances, and by tensor how
    many differ and by how much at most.
    """

    compared: int = 0
    floats: int = 0
    differing: dict[str, int] = dataclasses.field(default_factory=dict)
    largest: dict[str, int] = dataclasses.field(default_factory=dict)
    tolerances: set[float] = dataclasses.field(default_factory=set)

    def add(self, name: str, ours: np.ndarray, theirs: np.ndarray, tolerance: float = 0.0) -> None:
        """Compare one tensor of one batch. `tolerance`: of floats, as a share of the tensor's largest magnitude."""
        if not tolerance and self._equal(name, ours, theirs):
            return
        wanted = np.asarray(theirs, np.float64).reshape(np.shape(ours))
        gap = np.abs(np.asarray(ours, np.float64) - wanted)
        gap = np.where(gap <= tolerance * np.max(np.abs(wanted), initial=0.0), 0.0, gap)
        gap = np.nan_to_num(gap, nan=1.0, posinf=2.0**31)  # what is no number differs
        self.compared += 0 if tolerance else gap.size
        self.floats += gap.size if tolerance else 0
        self.tolerances.update([tolerance] if tolerance else [])
        self.differing[name] = self.differing.get(name, 0) + int(np.count_nonzero(gap))
        self.largest[name] = max(self.largest.get(name, 0), int(np.max(gap, initial=0)))

    def _equal(self, name: str, ours: np.ndarray, theirs: np.ndarray) -> bool:
        """Compare integers in their own types. Whether all are equal, and counted."""
        a, b = np.asarray(ours), np.asarray(theirs).reshape(np.shape(ours))
        if a.dtype.kind not in "iu" or b.dtype.kind not in "iu" or not np.array_equal(a, b):
            return False
        self.compared += a.size
        self.differing.setdefault(name, 0)
        self.largest.setdefault(name, 0)
        return True

    @property
    def total(self) -> int:
        """How many integers differ."""
        return sum(self.differing.values())

    @property
    def what(self) -> str:
        """What was compared, in words."""
        if not self.floats:
            return f"{self.compared:,} integers"
        within = " and ".join(f"{t:g}" for t in sorted(self.tolerances, reverse=True))
        return f"{self.compared:,} integers and {self.floats:,} numbers of float32 operators (to {within})"

    @property
    def first(self) -> str | None:
        """The first tensor, in the order of computation, with a differing integer."""
        return next((name for name, count in self.differing.items() if count), None)


@dataclasses.dataclass(frozen=True)
class Certificate:
    """What was compared and what differed.

    Attributes:
      examples: how many examples were compared.
      runtime: the name and version of the runtime that ran the file.
      families: for each kernel family, what was compared with the runtime and what differed.
      simulation: what of the training forward was compared with the file and what differed.
      exact_sites: activations upon which no table op acts.
      table_sites: results of table ops of exact inputs.
      machine: whose kernels the training forward was compared with.
      machines: what is known of each machine.
    """

    examples: int
    runtime: str
    families: Mapping[str, Tally]
    simulation: Tally | None
    exact_sites: frozenset[str]
    table_sites: frozenset[str] = frozenset()
    machine: str = PHONE
    machines: Mapping[str, Known] = dataclasses.field(default_factory=dict)

    @property
    def tolerance(self) -> float:
        """0 for integers; of a file that holds float32 operators, the gap that counts as none, by its largest."""
        return FLOAT_TOLERANCE if any(tally.floats for tally in self.families.values()) else 0.0

    @property
    def differing_integers(self) -> dict[str, int]:
        """By kernel family, how many integers of the file differ from our reading."""
        return {name: tally.total for name, tally in self.families.items()}

    @property
    def compared_integers(self) -> int:
        """How many integers were compared with the runtimes."""
        return sum(tally.compared for tally in self.families.values())

    @property
    def simulation_differing(self) -> int:
        """How many integers of the training forward differ from the xnnpack reading, where they must be equal."""
        if self.simulation is None:
            return 0
        return sum(count for name, count in self.simulation.differing.items() if name in self.exact_sites)

    @property
    def ok(self) -> bool:
        """Whether every integer that must be equal is."""
        return not any(self.differing_integers.values()) and self.simulation_differing == 0 and not self._table_misses

    @property
    def _table_misses(self) -> list[str]:
        """Table ops that miss their kernel by more than one step, though their input is exact."""
        return [n for n in self.table_sites if self.simulation is not None and self.simulation.largest.get(n, 0) > 1]

    def as_dict(self) -> dict[str, Any]:
        """The certificate as JSON values."""
        simulation = self.simulation
        return {
            "ok": self.ok,
            "examples": self.examples,
            "tolerance": self.tolerance,
            "runtime": self.runtime,
            "differing_integers": self.differing_integers,
            "compared_integers": self.compared_integers,
            "machines": {name: known.as_dict() for name, known in self.machines.items()},
            "first_divergent": {name: tally.first for name, tally in self.families.items()},
            "training_forward": None if simulation is None else {
                "machine": self.machine,
                "compared": simulation.compared,
                "differing": self.simulation_differing,
                "after_table_ops": {n: c for n, c in simulation.differing.items() if c and n not in self.exact_sites},
                "largest_step": max(simulation.largest.values(), default=0),
            },
        }  # fmt: skip

    def __str__(self) -> str:
        """Two to five lines."""
        lines = [f"certificate: {self.examples} examples, {self.runtime}"]
        for name, tally in self.families.items():
            where = f", first in {tally.first}" if tally.total else ""
            lines.append(f"  {name}: {tally.total} of {tally.what} differ{where}")
        if self.simulation is not None:
            lines.append(f"  training forward, {self.machine}: {_simulation_text(self)}")
        if self.machines:
            lines.append(f"  machines: {text(self.machines)}")
        return "\n".join(lines)


def _simulation_text(certificate: Certificate) -> str:
    tally = certificate.simulation
    assert tally is not None
    loose = {n: c for n, c in tally.differing.items() if n not in certificate.exact_sites}
    text = f"{certificate.simulation_differing} of {tally.what} differ"
    if sum(loose.values()):
        worst = max(tally.largest[n] for n in loose)
        text += f"; after table ops {sum(loose.values()):,}, by at most {worst} step{'s' if worst > 1 else ''}"
    return text


def exact_sites(graph: Graph) -> frozenset[str]:
    """The activations that no table op feeds; there training and the xnnpack reading agree in every integer."""
    loose: set[int] = set()
    for op in graph.ops:
        if _is_table(op) or op.kind == "FLOAT" or loose.intersection(op.inputs):
            loose.update(op.outputs)
    return frozenset(name for value, name in graph.site_names.items() if value not in loose)


def table_sites(graph: Graph) -> frozenset[str]:
    """The results of table ops whose inputs are exact: within one step of their kernel."""
    exact, names = exact_sites(graph), graph.site_names
    tables = [op for op in graph.ops if _is_table(op) and all(names.get(v) in exact for v in op.inputs)]
    return frozenset(names[v] for op in tables for v in op.outputs)


def loose_sites(plan: Plan) -> frozenset[str]:
    """What training may miss by one step though its operands are the runtime's: results of table ops, and of float
    islands, which are rounded to integers.
    """
    islands = () if plan.recipe.floats else plan.islands
    loose = [op for op in plan.graph.ops if _is_table(op) or op.name in islands]
    return frozenset(plan.graph.site_names[v] for op in loose for v in op.outputs)


def _is_table(op: Op) -> bool:
    return op.kind in OPS and OPS[op.kind].table


def new_tallies(families: Iterable[str] = FAMILIES) -> dict[str, Tally]:
    """An empty tally for each family."""
    return {family: Tally() for family in families}


def certificate(
    examples: int,
    tallies: Mapping[str, Tally],
    simulation: Tally | None,
    graph: Graph | None,
    program: Program,
    machine: str = PHONE,
    runtime: str = "litert",
) -> Certificate:
    """The certificate of finished tallies; `graph` is the training forward's, if that was compared, on `machine`.
    `runtime`: which interpreter ran the file, "litert" or "tf.lite".
    """
    exact, tables = (frozenset(), frozenset()) if graph is None else (exact_sites(graph), table_sites(graph))
    known = by_machine(program, this_machine())
    return Certificate(
        examples, runtime_version(tallies, runtime), dict(tallies), simulation, exact, tables, machine, known
    )
