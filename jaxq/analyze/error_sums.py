"""Sums of the parts of every tensor's error over a batch: of a short graph compiled as a whole, of a long one op by op.

Compiling a long graph with all that is measured of it takes minutes. Op by op the time grows with the number of
different ops; the numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxq.analyze.parts import Parts, of_input, of_op, parts
from jaxq.graph import Op
from jaxq.graph.recent import Recent
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Plan
from jaxq.plan.scheme import QParams
from jaxq.simulate.effort import LONG, for_results
from jaxq.simulate.op_by_op import MOST, OpByOp, RealsOpByOp
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.steps import Step, grid_key, step_key

KINDS = ("total", "own", "rounding", "clipping", "weights", "inherited")

# By a part's name (sum e, sum |e|, sum e^2, max |e|, elements); sums are still one for each row of each example.
Sums = Mapping[str, tuple[Any, ...]]
_Step = Callable[..., list[Sums]]  # one op's numbers -> the sums of its results
Summed = Callable[[Ranges, Sequence[Any]], dict[str, Sums]]  # (ranges, the graph's inputs) -> sums by site

# Compiled ops of all models: of the training forward, of the float reading, of the measurement.
FORWARD, FLOATS, STEPS = Recent[Step](MOST), Recent[Step](MOST), Recent[_Step](MOST)


def summed(plan: Plan, params: Sequence[Any], reference: Sequence[Any]) -> Summed:
    """A function of ranges and inputs: for each integer tensor, by site, the sums of its parts.

    params, reference: the leaves of the parameters, and of those of the float reading.
    """
    make = op_by_op if len(plan.graph.ops) >= LONG else whole
    return make(plan, params, reference)


def whole(plan: Plan, params: Sequence[Any], reference: Sequence[Any]) -> Summed:
    """All of a graph in one compiled function."""

    def measure(params: Any, reference: Any, ranges: Any, arrays: Any) -> dict[str, Sums]:
        return {site: _sums_of(found) for site, found in parts(plan, params, ranges, arrays, reference).items()}

    largest = max(math.prod(plan.graph.avals[v].shape) for v in plan.graph.activations)
    compiled = jax.jit(measure, compiler_options=for_results(largest))
    return lambda ranges, arrays: compiled(params, reference, ranges, list(arrays))


def op_by_op(plan: Plan, params: Sequence[Any], reference: Sequence[Any]) -> Summed:
    """One op after the other; ops that compute alike are one compiled function."""
    forward, floats = OpByOp(params, FORWARD), RealsOpByOp(plan, reference, FLOATS)

    def measure(ranges: Ranges, arrays: Sequence[Any]) -> dict[str, Sums]:
        carried: dict[int, Carrier] = {}
        forward.recorded(plan, ranges, arrays, carried.__setitem__, {})
        batch = _Batch(plan, forward.weights(plan.graph), ranges, carried)
        found = [batch.input(v, array) for v, array in zip(plan.graph.inputs, arrays, strict=True)]
        found += [batch.results(op, env) for op, env in floats.each(arrays, frozenset())]
        return {site: sums for each in found for site, sums in each.items()}

    return measure


class _Batch(NamedTuple):
    """What one batch is in the training forward."""

    plan: Plan
    weights: Mapping[int, Any]
    ranges: Ranges
    carried: Mapping[int, Carrier]

    def input(self, value: int, array: Any) -> dict[str, Sums]:
        """An input's sums, if it is quantized."""
        if value not in self.carried:
            return {}
        real, held = jnp.asarray(array, jnp.float32), self.carried[value]
        step = STEPS.get(grid_key(self.plan, value), lambda: _compiled(of_input(self.plan, value), real.size))
        return {self.plan.graph.site_names[value]: step(real, held.q, QParams(held.scale, held.zero_point))[0]}

    def results(self, op: Op, env: Mapping[int, Any]) -> dict[str, Sums]:
        """The sums of an op's quantized results. env: the float reading."""
        made = [v for v in op.outputs if v in self.carried]
        if not made:
            return {}
        plan, values = self.plan, (*op.inputs, *op.outputs)
        held = {v: self.carried[v] for v in values if v in self.carried}
        around = [QParams(held[v].scale, held[v].zero_point) if v in held else None for v in values]
        numbers = [self.weights[v] if v in self.weights else env[v] for v in values]
        site = plan.weight_site(op)
        trained = None if site is None else dict(self.ranges[site])
        largest = max(math.prod(plan.graph.avals[v].shape) for v in made)
        key = step_key(plan, op), *(grid_key(plan, v) for v in op.inputs)  # which are rounded there
        step = STEPS.get(key, lambda: _compiled(of_op(plan, op), largest))
        sums = step(numbers, [env[v] for v in op.inputs], [held[v].q for v in made], around, trained)
        return {plan.graph.site_names[v]: s for v, s in zip(made, sums, strict=True)}


def _compiled(step: Callable[..., Sequence[Parts]], largest: int) -> _Step:
    def measure(*given: Any) -> list[Sums]:
        return [_sums_of(found) for found in step(*given)]

    return jax.jit(measure, compiler_options=for_results(largest))


def _sums_of(found: Parts) -> dict[str, tuple[Any, ...]]:
    errors = {kind: _sums(getattr(found, kind)) for kind in KINDS}
    others = {"real": found.real, "clipped": found.clipped.astype(jnp.float32), "step": jnp.full((1,), found.scale)}
    return {name: _sums(array) for name, array in others.items()} | errors


def _sums(e: jax.Array) -> tuple[Any, ...]:
    # float32 sums stay short, one row of an image each: a long one would lose the small numbers that it is made of.
    axes = tuple(range(min(2, max(e.ndim - 1, 0)), e.ndim))
    largest = jnp.max(jnp.abs(e), initial=0.0)
    return jnp.sum(e, axes), jnp.sum(jnp.abs(e), axes), jnp.sum(e * e, axes), largest, jnp.int32(e.size)
