"""The differentiable reading of a graph: training forward, in the integers of LiteRT's default CPU runtime.

`simulate` runs the graph's ops by `jaxq.simulate.run.Run`. Ops that are one computation on other numbers, such as those
of a network's layers, are traced, differentiated and transposed once. `jaxq.simulate.reals` is the float reading of the
same folded graph: calibration and analysis run it.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax

from jaxq.plan.plan import Plan
from jaxq.simulate.norm_statistics import statistics, with_statistics
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.run import Record, Run
from jaxq.simulate.steps import Step, function_of, step_key, take
from jaxq.simulate.weights import weight_values


def simulate(
    plan: Plan,
    params: Sequence[Any],
    ranges: Ranges,
    inputs: Sequence[Any],
    record: Record | None = None,
    given: Mapping[int, Any] | None = None,
    differentiable: bool = True,
) -> list[jax.Array]:
    """The graph's outputs as real numbers on their integer grids (float islands and state as they are).

    `record(value, carrier)` is called for every integer activation; in a recipe of floats for every result. There
    `given` holds results that take the place of those computed, once these are recorded: each op on another's numbers.
    Differentiable in params, ranges and inputs, unless `differentiable` is False: then the same integers, in a
    faster way where there is one.
    """
    params = with_statistics(plan.norms, params, ranges)
    env = weight_values(plan.graph, params)
    parameters = {name: qparams(g, ranges, env, plan) for name, g in plan.groups.items()}
    observing = plan.recipe.activations.observe or plan.recipe.activations.ranges == "ema"
    norms = statistics(plan, params)
    run = Run(plan, env, parameters, ranges, record, given or {}, observing, norms, differentiable)
    for value, array in zip(plan.graph.inputs, inputs, strict=True):
        run.enter(value, array)
    steps = dict[Hashable, Step]()
    for op in plan.graph.ops:
        if run.watches(op):
            run.apply(op)
            continue
        key = step_key(plan, op)
        if key not in steps:
            steps[key] = jax.jit(function_of(plan, op, differentiable))
        take(plan, op, run, steps[key])
    outputs = [run.output(v) for v in plan.graph.outputs]
    return run.with_observations(outputs)
