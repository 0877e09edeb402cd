"""Sums of the parts of every tensor's error over a batch: of a short graph compiled as a whole, of a long one op by op.

Compiling a long graph with all that is measured of it takes minutes. Op by op the time grows with the number of
different ops; the numbers are the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.analyze.parts import Parts, of_input, of_op, parts
from jaxq.graph import Op
from jaxq.graph.recent import Recent
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Plan
from jaxq.plan.scheme import QParams
from jaxq.simulate.effort import LONG, for_results
from jaxq.simulate.op_by_op import MOST, OpByOp, RealsOpByOp
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.run import Run
from jaxq.simulate.steps import Step, grid_key, step_key

KINDS = ("total", "own", "rounding", "clipping", "weights", "inherited")

# By a part's name (sum e, sum |e|, sum e^2, max |e|, elements); all but the last one for each row of each example.
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
        run = forward.entered(plan, ranges, arrays)
        weights = frozenset(run.env) - frozenset(plan.graph.inputs)
        found = [_of_input(run, v, array) for v, array in zip(plan.graph.inputs, arrays, strict=True)]
        both = zip(forward.each(run), floats.each(arrays, frozenset()), strict=True)  # neither keeps what is not read
        found += [_of_results(run, weights, op, env) for op, (_, env) in both]
        return {site: sums for each in found for site, sums in each.items()}

    return measure


def _of_input(run: Run, value: int, array: Any) -> dict[str, Sums]:
    """An input's sums, if it is quantized."""
    plan, held = run.plan, run.env[value]
    if not isinstance(held, Carrier):
        return {}
    real = jnp.asarray(array, jnp.float32)
    step = STEPS.get(grid_key(plan, value), lambda: _compiled(of_input(plan, value), real.size))
    return {plan.graph.site_names[value]: step(real, held.q, QParams(held.scale, held.zero_point))[0]}


def _of_results(run: Run, weights: frozenset[int], op: Op, floats: Mapping[int, Any]) -> dict[str, Sums]:
    """The sums of an op's quantized results. weights: values that are no activations. floats: the float reading."""
    plan, values = run.plan, (*op.inputs, *op.outputs)
    held = {v: run.env[v] for v in values if isinstance(run.env[v], Carrier)}
    made = [v for v in op.outputs if v in held]
    if not made:
        return {}
    around = [QParams(held[v].scale, held[v].zero_point) if v in held else None for v in values]
    numbers = [run.env[v] if v in weights else floats[v] for v in values]
    site = plan.weight_site(op)
    trained = None if site is None else dict(run.ranges[site])
    largest = max(math.prod(plan.graph.avals[v].shape) for v in made)
    key = step_key(plan, op), *(grid_key(plan, v) for v in op.inputs)  # which are rounded there
    step = STEPS.get(key, lambda: _compiled(of_op(plan, op), largest))
    sums = step(numbers, [floats[v] for v in op.inputs], [held[v].q for v in made], around, trained)
    return {plan.graph.site_names[v]: s for v, s in zip(made, sums, strict=True)}


def _compiled(step: Callable[..., Sequence[Parts]], largest: int) -> _Step:
    def measure(*given: Any) -> list[Sums]:
        return [_sums_of(found) for found in step(*given)]

    return jax.jit(measure, compiler_options=for_results(largest))


def _sums_of(found: Parts) -> dict[str, tuple[Any, ...]]:
    errors = {kind: getattr(found, kind) for kind in KINDS}
    arrays = {"real": found.real, "clipped": found.clipped.astype(jnp.float32), **errors}
    elements, step = jnp.int32(found.real.size), jnp.full((1,), found.scale)
    reduced = dict(zip(arrays, _reduced(list(arrays.values())), strict=True))
    return {name: (*sums, elements) for name, sums in reduced.items()} | {
        "step": (step, step, step * step, step, jnp.int32(1))
    }


def _reduced(arrays: Sequence[jax.Array]) -> list[tuple[jax.Array, ...]]:
    """(sum e, sum |e|, sum e^2, max |e|) of each of several arrays of one shape, in one pass over all of them.

    float32 sums stay short, one row of an image each: a long one would lose the small numbers that it is made of.
    """
    ndim = arrays[0].ndim
    terms = [term for e in arrays for term in (e, jnp.abs(e), e * e, jnp.abs(e))]
    found = lax.reduce(terms, [jnp.float32(0)] * len(terms), _combined, range(min(2, max(ndim - 1, 0)), ndim))
    return [tuple(found[i : i + 4]) for i in range(0, len(found), 4)]


def _combined(before: Sequence[jax.Array], now: Sequence[jax.Array]) -> list[jax.Array]:
    pairs = enumerate(zip(before, now, strict=True))
    return [jnp.maximum(a, b) if i % 4 == 3 else a + b for i, (a, b) in pairs]
