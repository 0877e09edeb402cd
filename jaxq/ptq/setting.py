"""What a pass works on: parameters, ranges, a float reference, and examples held in memory."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxq.assign import assigned, refusals
from jaxq.errors import InputError
from jaxq.frontends.batches import BATCH, in_chunks, joined
from jaxq.frontends.core import Bound
from jaxq.frontends.ranges import check_ranges
from jaxq.graph import Op
from jaxq.plan.plan import Plan
from jaxq.ptq.report import Report
from jaxq.quantization import as_reference, bind, given_back, reference_leaves
from jaxq.simulate.norm_statistics import states_of
from jaxq.simulate.qparams import Ranges

EXAMPLES = 512


@dataclasses.dataclass(frozen=True, eq=False)
class Setting:
    """A bound model with the parameters and ranges that passes have changed so far.

    bound: the target with its state as given. plan: for batches of the size of `data`. leaves, reference: parameters
    as lists of arrays, those at hand and those that the float targets come from. data: chunks of equal size, each
    the arrays of the graph's inputs.
    """

    bound: Bound
    plan: Plan
    leaves: list[Any]
    reference: list[Any]
    ranges: Ranges
    data: tuple[tuple[np.ndarray, ...], ...]

    @property
    def examples(self) -> int:
        """How many examples are held."""
        return len(self.data) * self.bound.core.examples(self.data[0])

    @property
    def weighted(self) -> list[Op]:
        """The ops whose kernels are integers in the file, in the order of computation."""
        return [op for op in self.plan.graph.ops if op.name in self.plan.weights]

    def refusals(self, values: Sequence[int]) -> dict[int, str]:
        """The weights that no parameter of their own sets, and why."""
        return refusals(self.plan.graph, self.leaves, values, statistics=self.bound.statistics)

    def assigned(self, wanted: Mapping[int, Any]) -> Setting:
        """With parameters that give these weight values."""
        if not wanted:
            return self
        found = assigned(self.plan.graph, self.leaves, wanted, statistics=self.bound.statistics)
        ranges = {**self.ranges, **states_of(self.plan.norms, found.params)}
        return dataclasses.replace(self, leaves=found.params, ranges=ranges)


class Done(NamedTuple):
    """A setting after a pass, and the pass's report."""

    setting: Setting
    report: Report


def run(
    step: Callable[[Setting], Done], target: Any, batches: Any, state: Sequence[Any], reference: Any, examples: int
) -> Any:
    """Run a pass on a target: NNX changes in place and gets the Report; else the new state comes before it."""
    setting = prepared(target, batches, state, reference, examples)
    done = step(setting)
    structure = jax.tree.structure(setting.bound.params)
    params, floats = (jax.tree.unflatten(structure, a) for a in (done.setting.leaves, done.setting.reference))
    back = given_back(target, state, params, done.setting.ranges)
    report = dataclasses.replace(done.report, reference=as_reference(target, floats))
    return (*back, report) if back else report


def prepared(target: Any, batches: Any, state: Sequence[Any], reference: Any, examples: int) -> Setting:
    """The setting of a calibrated target. Raises InputError for too few examples, RangeError without ranges."""
    bound = bind(target, *state)
    data = _held(bound, batches, examples)
    args, kwargs = bound.core.with_arrays(data[0])
    plan = bound.captured(*args, **kwargs).plan
    check_ranges(plan, bound.ranges, bound.core.plans)
    leaves = jax.tree.leaves(bound.params)
    ranges = {name: dict(state) for name, state in bound.ranges.items()}
    return Setting(bound, plan, leaves, reference_leaves(target, bound, reference), ranges, data)


def _held(bound: Bound, batches: Any, examples: int) -> tuple[tuple[np.ndarray, ...], ...]:
    """At most `examples` examples in chunks of one size; fewer than a chunk's number may be left out at the end."""
    whole = joined(bound, batches, "improve the model on", examples)
    if not whole:
        raise InputError("There is no example to improve the model on: the iterable is empty.")
    count, batched = bound.core.examples(whole), bound.core.batched(whole)
    size = count // -(-count // BATCH)
    return tuple(tuple(arrays) for arrays in in_chunks(whole, batched, size))[: count // size]
