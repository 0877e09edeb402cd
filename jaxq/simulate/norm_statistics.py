"""BatchNorm that follows: the forward runs on running statistics, and a batch's own travel as gradients.

The statistics of each folded BatchNorm are held among the ranges, with the keys of `jaxq.plan.norms`. With
`g = gamma / sigma`, an op's result before its activation is `a = (y - mean) g + beta`, y what BatchNorm would see. So

    mean of y = mean + (mean of a - beta) / g,     variance of y = variance of a / g^2

without a second convolution (Krishnamoorthi 2018, section 3.2.2, needs one). y is that of the quantized network.
`jaxq.optim.partition` takes the step of the moving average (decision 003).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.graph import Graph, equations_behind
from jaxq.plan.norms import MEAN, VAR, Norm
from jaxq.plan.plan import Plan
from jaxq.simulate.weights import weight_values

Ranges = Mapping[str, Mapping[str, Any]]
INFINITE = 1e30  # a variance that leaves beta alone in a bias
Statistics = Callable[[jax.Array], dict[str, jax.Array]]


def with_statistics(norms: Mapping[str, Norm], params: Sequence[Any], ranges: Ranges) -> list[Any]:
    """A model's parameters, with the statistics among the ranges in the place of its own. They get no gradient of the
    loss. Statistics that are not calibrated, where their values are known, leave the model's own.
    """
    leaves = list(params)
    for site, norm in norms.items():
        if site in ranges and _is_set(ranges[site]):
            for key, i in ((MEAN, norm.mean), (VAR, norm.var)):
                held = lax.stop_gradient(jnp.asarray(ranges[site][key]))
                leaves[i] = held.reshape(leaves[i].shape).astype(leaves[i].dtype)
    return leaves


def states_of(norms: Mapping[str, Norm], params: Sequence[Any]) -> dict[str, dict[str, jax.Array]]:
    """The statistics among a model's parameters, as states of ranges."""
    return {site: norm.state_of(params) for site, norm in norms.items()}


def _is_set(state: Mapping[str, Any]) -> bool:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in state.values()):
        return True
    return all(np.all(np.isfinite(np.asarray(leaf))) for leaf in state.values())


def statistics(plan: Plan, params: Sequence[Any]) -> dict[str, tuple[str, Statistics]]:
    """By an op's name, the site of its BatchNorm, and the function from its result before the activation to the
    statistics of what BatchNorm sees, by key.
    """
    return {norm.op: (site, _of_norm(plan.graph, norm, params)) for site, norm in plan.norms.items()}


def _of_norm(graph: Graph, norm: Norm, params: Sequence[Any]) -> Statistics:
    op = next(op for op in graph.ops if op.name == norm.op)
    part = dataclasses.replace(graph, weights=equations_behind(graph.weights, [op.inputs[2]]))
    leaves = [lax.stop_gradient(p) for p in params]

    def bias(mean: Any, var: Any) -> Any:
        replaced = [mean if i == norm.mean else var if i == norm.var else p for i, p in enumerate(leaves)]
        return jnp.asarray(weight_values(part, replaced)[op.inputs[2]], jnp.float32)

    def found(a: jax.Array) -> dict[str, jax.Array]:
        mean, var = leaves[norm.mean], leaves[norm.var]
        _, slope = jax.jvp(lambda m: bias(m, var), (mean,), (jnp.ones_like(mean),))
        beta = bias(mean, jnp.full_like(var, INFINITE))
        return _unfolded(lax.stop_gradient(a), -slope, beta, norm.state_of(leaves))

    return found


def _unfolded(a: jax.Array, g: jax.Array, beta: jax.Array, now: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """Mean and variance by channel of y from `a = (y - mean) g + beta`; where g is 0, as they are."""
    axes = tuple(range(a.ndim - 1))
    center = jnp.mean(a, axes)
    spread = jnp.mean(jnp.square(a - center), axes)
    safe = jnp.where(g != 0, g, 1)
    mean, var = now[MEAN] + (center - beta) / safe, spread / jnp.square(safe)
    return {MEAN: jnp.where(g != 0, mean, now[MEAN]), VAR: jnp.where(g != 0, var, now[VAR])}
