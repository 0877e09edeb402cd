"""Scale and zero point in use, of every group of activations: differentiable in the ranges that they come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.numerics.rounding import positive
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.range_methods import METHODS
from jaxq.range_methods.affine import integer_zero_point

Ranges = Mapping[str, Mapping[str, jax.Array]]


def qparams(group: Group, ranges: Ranges, env: Mapping[int, Any], plan: Plan) -> QParams:
    """Scale and zero point in use for a group: prescribed, of a FakeQuant module, or from its range."""
    if group.fixed is not None:
        return QParams(jnp.float32(group.fixed[0]), jnp.float32(group.fixed[1]))
    if group.fake_quant is not None:
        op = next(op for op in plan.graph.ops if op.name == group.fake_quant)
        scale, zero_point = (jnp.asarray(env[v], jnp.float32) for v in op.inputs[1:])
        return QParams(positive(scale), integer_zero_point(zero_point, group.grid))
    if group.derived is not None:  # exact in 16 bits; a 256th in 8
        source = plan.groups[plan.group_of[group.derived]]
        steps = 2.0 ** (source.scheme.bits - min(group.scheme.bits, source.scheme.bits))
        return QParams(qparams(source, ranges, env, plan).scale * jnp.float32(steps), jnp.float32(0))
    return METHODS[group.scheme.ranges].forward(ranges[group.name], group.grid)
