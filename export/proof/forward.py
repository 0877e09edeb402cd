"""The proof object: the training forward of a model, held against the file that was made of it."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.evaluate.op_by_op import Steps
from jaxq.export.evaluate.program import joined
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.program import Program
from jaxq.export.proof.certificate import (
    FLOAT_TOLERANCE,
    Certificate,
    Tally,
    certificate,
    loose_sites,
    new_tallies,
)
from jaxq.export.proof.examples import apart
from jaxq.export.proof.families import Reader, compare_families, one_by_one, readers, tolerance_of
from jaxq.export.proof.machines import differ
from jaxq.export.runtimes import litert
from jaxq.frontends.batches import file_chunks
from jaxq.frontends.core import Bound
from jaxq.graph import Graph
from jaxq.graph.recent import Recent
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.groups import numbers
from jaxq.plan.plan import Plan
from jaxq.plan.target import target_named
from jaxq.simulate.effort import LONG, small
from jaxq.simulate.forward import simulate
from jaxq.simulate.op_by_op import MOST, OpByOp
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.steps import Step

Forward = Callable[..., tuple[dict[str, np.ndarray], list[np.ndarray]]]
# (inputs, results that take the place of those computed, which inputs are batches) -> stored integers by value
Carriers = Callable[[Sequence[Any], Mapping[int, Any], frozenset[int]], dict[int, np.ndarray]]

STEPS = Recent[Step](MOST)  # compiled ops of all proofs


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """A file with the model that it was made of.

    data: the file's bytes. program: the same, read. forward: the training forward (`training_forward`). frozen: its
    integers. bound: the model with its state. tensor_of: by value of the graph, the tensor that holds it. steps: the
    program's operators as compiled so far.
    """

    data: bytes
    program: Program
    forward: Forward
    frozen: Frozen
    bound: Bound
    tensor_of: Mapping[int, int]
    steps: Steps = dataclasses.field(default_factory=dict)

    @property
    def machine(self) -> str:
        """The machine whose kernels the training forward follows: the recipe's target's."""
        return target_named(self.frozen.plan.recipe.target).machine

    def verify(
        self, batches: Any, families: Sequence[str], machine: str, progress: bool, runtime: str = "litert"
    ) -> Certificate:
        """Compare every integer on data; see `Artifact.verify`."""
        if one_by_one(self.program):
            return self._verify_each(batches, families, machine, runtime)
        if self.frozen.plan.recipe.floats:
            return self._verify_floats(batches, families, runtime)
        ours = readers(self.program, {"xnnpack": None, **dict.fromkeys(families)}, steps=self.steps)
        trained = self._reader(machine) or ours["xnnpack"]
        tallies, simulated, examples = new_tallies(families), Tally(), 0
        with bar(progress) as shown:
            task = shown.add_task("verifying", total=None)
            for chunk in file_chunks(self.bound, batches, "verify on"):
                integers, file_inputs = self.forward(chunk)
                found = trained(*file_inputs)
                for name, index in self.recorded():
                    simulated.add(name, integers[name], np.asarray(found[index]))
                compare_families(self.data, self.program, file_inputs, ours, tallies, runtime)
                examples += self.bound.core.examples(chunk)
                shown.update(task, description=f"verifying: {examples} examples")
        if not examples:
            raise InputError("There is no example to verify on: the iterable is empty.")
        return certificate(examples, tallies, simulated, self.frozen.plan.graph, self.program, machine, runtime)

    def _verify_floats(self, batches: Any, families: Sequence[str], runtime: str) -> Certificate:
        """The training forward against the runtime, within `FLOAT_TOLERANCE` of each tensor's largest number."""
        tallies, examples = new_tallies(families), 0
        for chunk in file_chunks(self.bound, batches, "verify on"):
            found, file_inputs = self.forward(chunk)
            for family, tally in tallies.items():
                theirs = litert.run(self.data, file_inputs, family, every_tensor=True, runtime=runtime)
                for name, index in self.recorded():
                    if name in found:
                        tally.add(name, found[name], theirs[index], FLOAT_TOLERANCE)
            examples += self.bound.core.examples(chunk)
        if not examples:
            raise InputError("There is no example to verify on: the iterable is empty.")
        return certificate(examples, tallies, None, None, self.program, runtime=runtime)

    def _reader(self, machine: str) -> Reader | None:
        """Our `xnnpack` reading for a machine, None where this one's is the same."""
        apart = differ(self.program, machine, this_machine())
        return readers(self.program, ["xnnpack"], machine, self.steps)["xnnpack"] if apart else None

    def _verify_each(self, batches: Any, families: Sequence[str], machine: str, runtime: str) -> Certificate:
        """Our reading of each family against its runtime, and the training forward against XNNPACK: every op on the
        runtime's own numbers, within its tolerance.
        """
        ours, tallies = readers(self.program, families, steps=self.steps), new_tallies(families)
        simulated, examples = Tally(), 0
        makers, trained = {index: op for op in self.program.operators for index in op.outputs}, self._reader(machine)
        for chunk in file_chunks(self.bound, batches, "verify on"):
            theirs = litert.run(self.data, self.forward(chunk)[1], "xnnpack", every_tensor=True, runtime=runtime)
            found, file_inputs = self.forward(chunk, {name: theirs[index] for name, index in self.recorded()})
            wanted = theirs if trained is None else trained(theirs)
            for name, index in self.recorded():
                if name in found and index in makers:
                    tolerance = tolerance_of(makers[index], self.program)
                    simulated.add(name, found[name], np.asarray(wanted[index]), tolerance)
            compare_families(self.data, self.program, file_inputs, ours, tallies, runtime)
            examples += self.bound.core.examples(chunk)
        if not examples:
            raise InputError("There is no example to verify on: the iterable is empty.")
        loose = loose_sites(self.frozen.plan)
        proof = certificate(examples, tallies, simulated, None, self.program, machine, runtime)
        return dataclasses.replace(proof, exact_sites=frozenset(simulated.differing) - loose, table_sites=loose)

    def recorded(self) -> list[tuple[str, int]]:
        """The sites that the program holds under their own name, and their tensors."""
        names, plan = self.frozen.plan.graph.site_names, self.frozen.plan
        integers = {v: i for v, i in self.tensor_of.items() if plan.recipe.floats or plan.group(v) is not None}
        return [(names[v], i) for v, i in integers.items() if self.program.tensors[i].name == names[v]]


def training_forward(bound: Bound, plan: Plan, frozen: Frozen) -> Forward:
    """The training forward of a batch, as stored integers by site, and the file's inputs in the file's type. `others`:
    of a recipe of floats, numbers by site that take the place of those computed, in what reads them.

    It runs the file's own graph on one example after the other: where an axis of the batch moves (a BATCH_MATMUL of all
    heads of all examples), the graph of a batch holds the same integers in another order.
    """
    params, ranges = jax.tree.leaves(bound.params), {n: dict(r) for n, r in bound.ranges.items()}
    carriers = _op_by_op(plan, params, ranges) if len(plan.graph.ops) >= LONG else _whole(plan, params, ranges)
    graph, names = plan.graph, plan.graph.site_names
    groups = [plan.group(v) for v in graph.inputs]
    types, real = ["" if g is None else f"int{g.scheme.bits}" for g in groups], numbers(graph)
    sites = {name: value for value, name in names.items() if value not in graph.inputs}

    def forward(
        arrays: Sequence[Any], others: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        given = {sites[name]: a for name, a in (others or {}).items() if name in sites}
        examples, batched = apart(graph, arrays)
        if batched:
            given = {v: a.reshape(-1, *graph.avals[v].shape) for v, a in given.items()}
        stored = carriers(examples, given, batched)
        found = {names[v]: joined(a) if batched else a for v, a in stored.items()}
        shared = [names[v] for v in graph.inputs if batched and v not in batched]  # inputs without a batch
        whole = {**found, **{name: found[name][0] for name in shared if name in found}}
        ends = zip(graph.inputs, arrays, types, strict=True)
        return found, [_file_input(frozen, whole.get(names[v]), a, own, v in real) for v, a, own in ends]

    return forward


def _whole(plan: Plan, params: Sequence[Any], ranges: Ranges) -> Carriers:
    """The training forward compiled as a whole."""

    def recorded(params: Any, ranges: Any, inputs: Any, given: Any) -> dict[int, jax.Array]:
        seen: dict[int, jax.Array] = {}

        def record(value: int, carrier: Carrier) -> None:
            seen[value] = carrier.q + carrier.zero_point.astype(carrier.q.dtype)

        simulate(plan, params, ranges, inputs, record, given, differentiable=False)
        return seen

    @functools.cache
    def compiled(batched: frozenset[int]) -> Callable[..., dict[int, jax.Array]]:
        axes = [0 if v in batched else None for v in plan.graph.inputs]
        many = jax.vmap(recorded, in_axes=(None, None, axes, 0)) if batched else recorded
        return jax.jit(many, compiler_options=small())

    def carriers(inputs: Sequence[Any], given: Mapping[int, Any], batched: frozenset[int]) -> dict[int, np.ndarray]:
        found = compiled(batched)(params, ranges, list(inputs), dict(given))
        return {v: np.asarray(q) for v, q in found.items()}

    return carriers


def _op_by_op(plan: Plan, params: Sequence[Any], ranges: Ranges) -> Carriers:
    """The training forward compiled op by op."""
    evaluator = OpByOp(params, STEPS)

    def carriers(inputs: Sequence[Any], given: Mapping[int, Any], batched: frozenset[int]) -> dict[int, np.ndarray]:
        found: dict[int, np.ndarray] = {}
        many = depending(plan.graph, batched)
        count = tuple(len(a) for v, a in zip(plan.graph.inputs, inputs, strict=True) if v in batched)[:1]

        def record(value: int, carrier: Carrier) -> None:
            stored = _compact(np.asarray(carrier.q), np.asarray(carrier.zero_point))
            alike = value not in many  # for all examples
            found[value] = np.broadcast_to(stored, (*count, *stored.shape)) if alike else stored

        evaluator.recorded(plan, ranges, inputs, record, given, batched)
        return found

    return carriers


def depending(graph: Graph, inputs: frozenset[int]) -> frozenset[int]:
    """The values that depend on some of the graph's inputs, these included."""
    found = set(inputs)
    for op in graph.ops:
        if found.intersection(op.inputs):
            found.update(op.outputs)
    return frozenset(found)


def _compact(q: np.ndarray, zero_point: np.ndarray) -> np.ndarray:
    """The stored integers of a carrier as int16 where they are such, else as they are."""
    stored = q + zero_point
    narrow = stored.astype(np.int16) if np.all(np.abs(stored) < 2**15) else stored
    return narrow if np.array_equal(narrow, stored) else stored


def _file_input(frozen: Frozen, integers: np.ndarray | None, array: Any, own: str, real: bool) -> np.ndarray:
    dtype = frozen.plan.recipe.input
    if integers is None or frozen.plan.recipe.floats:
        return np.asarray(array, np.float32) if real else array
    if dtype == "float32":
        return np.asarray(array, np.float32)
    return (integers + (128 if dtype == "uint8" else 0)).astype(dtype if dtype == "uint8" else own)
