"""Requantization as TFLite's builtin kernels do it, differentiable: int32 arithmetic, straight-through gradients.

XNNPACK leaves to them convolutions with weights of 4 bits and everything in 16 bits. `REQUANTIZE` holds what becomes of
an accumulator, `STEPS` the other ops' rules for activations of 16 bits. A rule computes the real number, which carries
the gradient, and beside it the kernel's integer.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array

from jaxq.graph import Op
from jaxq.numerics import lut_int16
from jaxq.numerics.fixed_point import (
    folded_mean,
    quantized_ratio,
    rescale_by_15_bits,
    rescale_half_away,
    rescale_half_up,
    rescale_once,
    srdhm,
)
from jaxq.numerics.rounding import straight_through, true_divide
from jaxq.ops import compute
from jaxq.ops.contract import Accumulator

VECTOR = 16  # numbers that TFLite's vector kernel of ADD takes at a time
ADD_SHIFT = 15  # bits that ADD and SUB keep behind the point of their operands


def straight(real: Array, integer: Array) -> Array:
    """The integer, as a float, with the gradient of the real number that it rounds."""
    return straight_through(integer.astype(jnp.float32), real)


def _integers(*arrays: Array) -> list[Array]:
    return [lax.stop_gradient(a).astype(jnp.int32) for a in arrays]


def _in_float32(total: Accumulator, x_scale: Array, w_scale: Array, scale: Array) -> Array:
    """`f32(acc) f32(f32(s_x s_w) / s_y)`: XNNPACK's one multiplication, before rounding."""
    return total.real * true_divide(x_scale * w_scale, scale)


def by_multiplier(rescale: Callable[..., Array]) -> Callable[..., Array]:
    """The way of a builtin kernel, `rescale(int32, q, shift)`. The gradient is that of the real product."""

    def requantize(total: Accumulator, x_scale: Array, w_scale: Array, scale: Array) -> Array:
        ratio = quantized_ratio(*map(lax.stop_gradient, (x_scale, w_scale, scale)))
        return straight(_in_float32(total, x_scale, w_scale, scale), rescale(total.integer, *ratio))

    return requantize


# By `Arithmetic.requantize`: from an accumulator to steps of the output, requantize(total, s_x, s_w, s_y).
REQUANTIZE: dict[str, Callable[..., Array]] = {
    "15 bits": by_multiplier(rescale_by_15_bits),
    "float32": _in_float32,
    "half away": by_multiplier(rescale_half_away),
    "half up": by_multiplier(rescale_half_up),
    "once": by_multiplier(rescale_once),
}


# --- activations of 16 bits -------------------------------------------------------------------------------------------


def add(op: Op, a: Any, b: Any, *, scale: Array, zero_point: Array) -> Array:
    """Both operands to the grid `2 max(s_a, s_b) / 2^15`, their sum to the output's; three times rounded.

    Operands of one shape pass a vector kernel, sixteen numbers at a time, which rounds each operand once instead of
    twice; the rest of an example, less than sixteen, does not.
    """
    return _sum(a, b, 1, scale)


def sub(op: Op, a: Any, b: Any, *, scale: Array, zero_point: Array) -> Array:
    """As `add` with a minus."""
    return _sum(a, b, -1, scale)


def _sum(a: Any, b: Any, sign: int, scale: Array) -> Array:
    real = (a.real + sign * b.real) / scale
    s_a, s_b, s_y = map(lax.stop_gradient, (a.scale, b.scale, scale))
    twice, one = 2.0 * jnp.maximum(s_a, s_b), jnp.ones_like(s_a)
    once = in_vectors(a.q.shape, b.q.shape) if sign == 1 else False
    sides = [
        aligned(q, *quantized_ratio(s, one, twice), once) for q, s in zip(_integers(a.q, b.q), (s_a, s_b), strict=True)
    ]
    total = sides[0] + sign * sides[1]
    return straight(real, rescale_half_away(total, *quantized_ratio(twice, one, s_y * 2.0**ADD_SHIFT)))


def in_vectors(a: tuple[int, ...], b: tuple[int, ...]) -> Any:
    """Which numbers of an example the vector kernel adds, in its shape, or False. A constant has one example."""
    if len(a) != len(b) or a[1:] != b[1:]:
        return False
    size = math.prod(a[1:])
    return (np.arange(size) < size // VECTOR * VECTOR).reshape(1, *a[1:])


def aligned(x: Array, q: Array, shift: Array, once: Any) -> Array:
    """An operand of ADD on the common grid: rounded in multiplication and shift, or shifted first (`once`)."""
    twice = rescale_half_away(x << ADD_SHIFT, q, shift)
    return twice if once is False else jnp.where(once, srdhm(x << (ADD_SHIFT + shift), q), twice)


def product(rescale: Callable[..., Array]) -> Callable[..., Array]:
    """Rule of MUL: `q_a q_b` by the multiplier of the float32 number `f32(s_a s_b) / s_y`."""

    def rule(op: Op, a: Any, b: Any, *, scale: Array, zero_point: Array) -> Array:
        """The product in units of the output's step, rounded."""
        ratio = true_divide(a.scale * b.scale, scale)
        q_a, q_b = _integers(a.q, b.q)
        one = jnp.ones_like(scale)
        return straight(a.q * b.q * ratio, rescale(q_a * q_b, *quantized_ratio(lax.stop_gradient(ratio), one, one)))

    return rule


mul_rndnu = product(rescale_once)


def mean(op: Op, x: Any, *, scale: Array, zero_point: Array) -> Array:
    """The int32 sum by the multiplier of `s_x / s_y` with 1 / n folded into it by integer division."""
    axes, keep = op.attrs["axes"], op.attrs["keepdims"]
    count = math.prod(x.q.shape[axis] for axis in axes)
    real = jnp.mean(x.q, axis=axes, keepdims=keep) * (x.scale / scale)
    s_x, s_y = map(lax.stop_gradient, (x.scale, scale))
    multiplier = folded_mean(*quantized_ratio(s_x, jnp.ones_like(s_x), s_y), count)
    return straight(real, rescale_half_away(jnp.sum(*_integers(x.q), axis=axes, keepdims=keep), *multiplier))


def average_pool_2d(op: Op, x: Any, *, scale: Array, zero_point: Array) -> Array:
    """`(sum +- n / 2) / n` in integers: ties away from zero."""
    real = compute.average_pool_2d(op, x.q)
    total = compute.window_sum(op, lax.stop_gradient(x.q).astype(jnp.int32))
    count = jnp.asarray(compute.window_count(op, x.q)).astype(jnp.int32)
    half = jnp.where(total > 0, count // 2, -(count // 2))
    return straight(real, lax.div(total + half, jnp.broadcast_to(count, jnp.shape(total))))


def requantize(op: Op, x: Any, *, scale: Array, zero_point: Array) -> Array:
    """To 8 bits: `q / 256`, ties away from zero; to 16 bits: the same number at the same scale."""
    if op.attrs["bits"] == 16:
        return x.q
    return rescaled(x, scale)


def rescaled(x: Any, scale: Array) -> Array:
    """To another scale, by QUANTIZE from or to 16 bits."""
    s_x, s_y = map(lax.stop_gradient, (x.scale, scale))
    q, shift = quantized_ratio(s_x, jnp.ones_like(s_x), s_y)
    (integers,) = _integers(x.q)
    return straight(x.real / scale, rescale_half_away(integers, q, shift))


def looked_up(
    real: Callable[..., Array], integers: Callable[..., Array], multiplier: Callable[..., Any]
) -> Callable[..., Array]:
    """Rule of an op that TFLite computes by tables (`numerics.lut_int16`), with the float function's gradient."""

    def rule(op: Op, x: Any, *, scale: Array, zero_point: Array) -> Array:
        q, s = lax.stop_gradient(x.q).astype(jnp.int32), lax.stop_gradient(x.scale)
        return straight(real(op, x.real) / scale, integers(q, *multiplier(s)))

    return rule


STEPS: dict[str, Callable[..., Array]] = {
    "ADD": add,
    "AVERAGE_POOL_2D": average_pool_2d,
    "LOGISTIC": looked_up(compute.logistic, lut_int16.logistic, lut_int16.multiplier),
    "MEAN": mean,
    "MUL": product(rescale_half_away),
    "SOFTMAX": looked_up(compute.softmax, lut_int16.softmax, lut_int16.softmax_multiplier),
    "SUB": sub,
    "TANH": looked_up(compute.tanh, lut_int16.tanh, lut_int16.multiplier),
}
