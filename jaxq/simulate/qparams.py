"""Scale and zero point in use, of every group of activations: differentiable in the ranges that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.numerics.rounding import clip_ste, positive, round_ste, scale_and_zero_point, true_divide
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams

Ranges = Mapping[str, Mapping[str, jax.Array]]


def qparams(group: Group, ranges: Ranges, env: Mapping[int, Any], plan: Plan) -> QParams:
    """Scale and zero point in use for a group: prescribed, of a FakeQuant module, or from its range."""
    if group.fixed is not None:
        return QParams(jnp.float32(group.fixed[0]), jnp.float32(group.fixed[1]))
    if group.fake_quant is not None:
        op = next(op for op in plan.graph.ops if op.name == group.fake_quant)
        scale, zero_point = (jnp.asarray(env[v], jnp.float32) for v in op.inputs[1:])
        return QParams(positive(scale), _integer(zero_point, group))
    if group.derived is not None:  # exact in 16 bits; a 256th in 8
        source = plan.groups[plan.group_of[group.derived]]
        steps = 2.0 ** (source.scheme.bits - min(group.scheme.bits, source.scheme.bits))
        return QParams(qparams(source, ranges, env, plan).scale * jnp.float32(steps), jnp.float32(0))
    trained = ranges[group.name]
    if group.scheme.ranges == "ema":
        return _from_observed(trained["observed"], group)
    scale, zero_point = positive(trained["scale"]), _integer(trained["zero_point"], group)
    if group.scheme.ranges == "frozen":
        return QParams(lax.stop_gradient(scale), lax.stop_gradient(zero_point))
    return QParams(scale, zero_point)


def _integer(zero_point: jax.Array, group: Group) -> jax.Array:
    """The zero point as used: rounded, or given by the group's sign."""
    low, high = jnp.float32(group.scheme.qmin), jnp.float32(group.scheme.qmax)
    if group.scheme.symmetric:
        return jnp.zeros_like(zero_point)
    if group.nonnegative:
        return jnp.full_like(zero_point, group.scheme.qmin)
    return clip_ste(round_ste(zero_point), low, high)


def _from_observed(observed: jax.Array, group: Group) -> QParams:
    observed = lax.stop_gradient(observed)
    return range_parameters(observed[0], observed[1], group)


def range_parameters(low: jax.Array, high: jax.Array, group: Group) -> QParams:
    """Scale and zero point of a group that covers [low, high]."""
    if group.scheme.symmetric:
        bound = jnp.maximum(jnp.abs(low), jnp.abs(high))
        return QParams(positive(true_divide(bound, jnp.full_like(bound, group.scheme.qmax))), jnp.zeros_like(bound))
    scale, zero_point = scale_and_zero_point(low, high, group.scheme.qmin, group.scheme.qmax)
    return QParams(scale, _integer(zero_point, group))
