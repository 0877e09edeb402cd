"""The proof object: the training forward of a model, held against the file that was made of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.evaluate.program import joined
from jaxq.export.lowering.freeze import Frozen
from jaxq.export.program import Program
from jaxq.export.proof.certificate import (
    FLOAT_TOLERANCE,
    Certificate,
    Tally,
    certificate,
    loose_sites,
    new_tallies,
)
from jaxq.export.proof.families import Reader, compare_families, one_by_one, readers, tolerance_of
from jaxq.export.proof.machines import differ
from jaxq.export.runtimes import litert
from jaxq.frontends.batches import file_chunks
from jaxq.frontends.core import Bound
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Plan
from jaxq.plan.target import target_named
from jaxq.simulate.forward import simulate

Forward = Callable[..., tuple[dict[str, np.ndarray], list[np.ndarray]]]


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """A file with the model that it was made of.

    data: the file's bytes. program: the same, read. forward: the training forward (`training_forward`). frozen: its
    integers. bound: the model with its state. tensor_of: by value of the graph, the tensor that holds it.
    """

    data: bytes
    program: Program
    forward: Forward
    frozen: Frozen
    bound: Bound
    tensor_of: Mapping[int, int]

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
        ours = readers(self.program, {"xnnpack": None, **dict.fromkeys(families)})
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
                assert isinstance(theirs, dict)
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
        return readers(self.program, ["xnnpack"], machine)["xnnpack"] if apart else None

    def _verify_each(self, batches: Any, families: Sequence[str], machine: str, runtime: str) -> Certificate:
        """Our reading of each family against its runtime, and the training forward against XNNPACK: every op on the
        runtime's own numbers, within its tolerance.
        """
        ours, tallies, simulated, examples = readers(self.program, families), new_tallies(families), Tally(), 0
        makers, trained = {index: op for op in self.program.operators for index in op.outputs}, self._reader(machine)
        for chunk in file_chunks(self.bound, batches, "verify on"):
            theirs = litert.run(self.data, self.forward(chunk)[1], "xnnpack", every_tensor=True, runtime=runtime)
            assert isinstance(theirs, dict)
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
    shapes = [plan.graph.avals[v].shape for v in plan.graph.inputs]
    names = [plan.graph.site_names[v] for v in plan.graph.inputs]
    groups = [plan.group(v) for v in plan.graph.inputs]
    types = ["" if g is None else f"int{g.scheme.bits}" for g in groups]
    axes = [0 if shape[:1] == (1,) else None for shape in shapes]

    def recorded(params: Any, ranges: Any, inputs: Any, given: Any) -> dict[str, jax.Array]:
        seen: dict[str, jax.Array] = {}

        def record(value: int, carrier: Carrier) -> None:
            seen[plan.graph.site_names[value]] = carrier.q + carrier.zero_point.astype(carrier.q.dtype)

        simulate(plan, params, ranges, inputs, record, given)
        return seen

    one = jax.jit(recorded)
    many = jax.jit(jax.vmap(recorded, in_axes=(None, None, axes, 0)))
    sites = {name: value for value, name in plan.graph.site_names.items() if value not in plan.graph.inputs}

    def forward(
        arrays: Sequence[Any], others: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        given = {sites[name]: a for name, a in (others or {}).items() if name in sites}
        if [a.shape for a in arrays] == shapes:
            found, shared = one(params, ranges, list(arrays), given), []
        else:
            examples = [a if axis is None else a[:, None] for a, axis in zip(arrays, axes, strict=True)]
            given = {v: a.reshape(-1, *plan.graph.avals[v].shape) for v, a in given.items()}
            found = {name: joined(q) for name, q in many(params, ranges, examples, given).items()}
            shared = [name for name, axis in zip(names, axes, strict=True) if axis is None]  # inputs without a batch
        found = {name: np.asarray(q) for name, q in found.items()}
        whole = {**found, **{name: found[name][0] for name in shared if name in found}}
        return found, [
            _file_input(frozen, whole.get(n), a, own) for n, a, own in zip(names, arrays, types, strict=True)
        ]

    return forward


def _file_input(frozen: Frozen, integers: np.ndarray | None, array: Any, own: str) -> np.ndarray:
    dtype = frozen.plan.recipe.input
    if integers is None or frozen.plan.recipe.floats:
        return np.asarray(array, np.float32) if jnp.issubdtype(np.asarray(array).dtype, jnp.floating) else array
    if dtype == "float32":
        return np.asarray(array, np.float32)
    return (integers + (128 if dtype == "uint8" else 0)).astype(dtype if dtype == "uint8" else own)
