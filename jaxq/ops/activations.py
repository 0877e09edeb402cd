"""Activation functions in the fixed-point form of their kernels, with the gradient of the function that they stand for.

A rule is as in `ops.integer_ops`; it returns the kernel's integer. Sources: XNNPACK qs8-vlrelu, and for what it does
not take TFLite's builtin kernels (internal/reference/hard_swish.h, leaky_relu.h).
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxq.graph import Op
from jaxq.numerics.fixed_point import hard_swish as hard_swish_steps
from jaxq.numerics.fixed_point import quantized_ratio, rescale_half_away
from jaxq.numerics.rounding import true_divide
from jaxq.ops import compute
from jaxq.ops.builtin_ops import straight

# The ratios of scales that XNNPACK multiplies by, with eight bits behind the point.
LEAST_RATIO, GREATEST_RATIO = 2.0**-8, 2.0**7


def hard_swish(op: Op, x: Any, *, scale: Array, zero_point: Array) -> Array:
    """`jaxq.numerics.fixed_point.hard_swish`; the multipliers are formed of float32 numbers."""
    s_x, s_y = map(lax.stop_gradient, (x.scale, scale))
    fine = s_x * np.float32(1 / 128)
    out, third = (_multiplier(true_divide(fine, s)) for s in (s_y, jnp.full_like(fine, 3.0 / 32768.0)))
    steps = hard_swish_steps(lax.stop_gradient(x.q).astype(jnp.int32), out, third)
    return straight(compute.hard_swish(op, x.real) / scale, steps)


def leaky_relu(op: Op, x: Any, *, scale: Array, zero_point: Array) -> Array:
    """`(d k + 128) >> 8`, k a multiplier for each sign; where a ratio is out of its window, the builtin kernel's two
    roundings.
    """
    s_x, s_y = map(lax.stop_gradient, (x.scale, scale))
    slope = np.float32(op.attrs["alpha"])
    up = true_divide(s_x, s_y)
    down, d = up * slope, lax.stop_gradient(x.q).astype(jnp.int32)
    inside = _converts(up) & _converts(down)
    k_up, k_down = (jnp.round(256 * ratio).astype(jnp.int32) for ratio in (up, down))
    shifted = (d * jnp.where(d >= 0, k_up, k_down) + 128) >> 8
    rounded = jnp.where(
        d >= 0,
        rescale_half_away(d, *_multiplier(up)),
        rescale_half_away(d, *_multiplier(true_divide(s_x * slope, s_y))),
    )
    return straight(compute.leaky_relu(op, x.real) / scale, jnp.where(inside, shifted, rounded))


def prelu(op: Op, x: Any, alpha: Any, *, scale: Array, zero_point: Array) -> Array:
    """`MBQM(q_x, f32(s_x / s_y))` where q_x >= 0, else `MBQM(q_x q_a, f32(f32(s_x s_a) / s_y))` (TFLite's prelu.cc)."""
    s_x, s_a, s_y = map(lax.stop_gradient, (x.scale, alpha.scale, scale))
    q_x, q_a = (lax.stop_gradient(held.q).astype(jnp.int32) for held in (x, alpha))
    up = rescale_half_away(q_x, *_multiplier(true_divide(s_x, s_y)))
    down = rescale_half_away(q_x * q_a, *_multiplier(true_divide(s_x * s_a, s_y)))
    return straight(compute.prelu(op, x.real, alpha.real) / scale, jnp.where(q_x >= 0, up, down))


def _multiplier(ratio: Array) -> tuple[Array, Array]:
    return quantized_ratio(ratio, jnp.ones_like(ratio), jnp.ones_like(ratio))


def _converts(ratio: Array) -> Array:
    return (ratio >= LEAST_RATIO) & (ratio <= GREATEST_RATIO)
