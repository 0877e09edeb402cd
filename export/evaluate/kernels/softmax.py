"""8-bit SOFTMAX over the last axis: gemmlowp fixed point (BUILTIN_REF), and LiteRT's default: a float table on
x86-64, a table of 16-bit integers on aarch64.

Fixed-point values are int32 raw numbers; Qm.n has m integer and n fractional bits. Sources:
gemmlowp/fixedpoint/fixedpoint.h; tflite/kernels/internal/reference/softmax.h; optimized/optimized_ops.h.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.export.evaluate.kernels.fixedpoint import (
    INT32_MAX,
    apart,
    multiply_by_quantized_multiplier,
    multiply_by_variable,
    quantize_multiplier,
    rounding_divide_by_pot,
    srdhm,
)
from jaxq.export.evaluate.kernels.gemmlowp import exp_on_negative_values, one_over_one_plus_x
from jaxq.export.evaluate.kernels.operands import limits, saturate, scale, zero_point
from jaxq.export.program import Tensor

SCALED_DIFF_INTEGER_BITS = 5  # exponents are Q5.26
ACCUMULATION_INTEGER_BITS = 12  # the sum of exponentials is Q12.19


def fixed_point(value: jax.Array, x: Tensor, y: Tensor, beta: np.float32) -> jax.Array:
    """SOFTMAX of BUILTIN_REF. `value`: 8-bit (..., C). Rows whose sum of exponentials reaches 512 abort the
    runtime.
    """
    q, shift = quantize_multiplier(min(float(beta) * float(scale(x)) * (1 << 26), float(INT32_MAX)))
    radius = ((1 << SCALED_DIFF_INTEGER_BITS) - 1) * (1 << (31 - SCALED_DIFF_INTEGER_BITS))
    smallest = -int(np.floor(radius / float(2.0 ** int(shift))))
    integers = value.astype(jnp.int32)
    diff = integers - integers.max(axis=-1, keepdims=True)
    kept = diff >= smallest
    scaled = apart(multiply_by_quantized_multiplier(jnp.where(kept, diff, 0), (q, shift)))
    exps = jnp.where(kept, exp_on_negative_values(scaled, SCALED_DIFF_INTEGER_BITS), 0)
    total = jnp.where(kept, rounding_divide_by_pot(exps, ACCUMULATION_INTEGER_BITS), 0)
    probability = _divide(exps, total.sum(axis=-1, keepdims=True))
    low, high = limits(y)
    return saturate(jnp.where(kept, probability + low, low), y, low, high)


def _divide(exps: jax.Array, total: jax.Array) -> jax.Array:
    """`256 * exps / total` in int32, rounded: multiplication by a reciprocal found by Newton's method."""
    headroom = lax.clz(total)
    fraction = (total << headroom) & INT32_MAX  # total = (1 + fraction) * 2^n; the bit shifted into the sign is the 1
    reciprocal = one_over_one_plus_x(fraction)
    exponent = ACCUMULATION_INTEGER_BITS - headroom + 31 - 8
    return rounding_divide_by_pot(srdhm(reciprocal, exps), jnp.broadcast_to(exponent, exps.shape))


def float_table(value: jax.Array, x: Tensor, y: Tensor, beta: np.float32) -> jax.Array:
    """SOFTMAX of TFLite's optimized kernel: exponentials from a float32 table, summed left to right in
    float32.
    """
    table = _exponentials(np.float32(-scale(x) * beta))
    integers = value.astype(jnp.int32)
    exps = jnp.asarray(table)[integers.max(axis=-1, keepdims=True) - integers]
    total = _sum_in_order(exps) * scale(y)
    inverse = jnp.ones_like(total) / lax.optimization_barrier(total)
    low, high = limits(y)
    return saturate(_round_away(exps * inverse).astype(jnp.int32) + zero_point(y), y, low, high)


def uint16_table(value: jax.Array, x: Tensor, y: Tensor, beta: np.float32) -> jax.Array:
    """SOFTMAX of TFLite's optimized kernel in clang builds for aarch64 (optimized_ops.h, SoftmaxInt8LUT).

    With e from a table of 65535 exp, S its int32 sum over the row and (q, shift) = QuantizeMultiplier(1 / f32(S s_y)):
    MBQM(e, q, shift) + z_y. The multiplier of a row depends on S alone.
    """
    integers = value.astype(jnp.int32)
    exps = jnp.asarray(_scaled_exponentials(scale(x) * beta))[integers.max(axis=-1, keepdims=True) - integers]
    total = exps.sum(axis=-1, keepdims=True).astype(jnp.float32) * scale(y)
    inverse = lax.optimization_barrier(jnp.ones_like(total)) / lax.optimization_barrier(total)
    fraction, exponent = jnp.frexp(inverse)  # a float32 has 24 bits, so q is the fraction itself
    steps = multiply_by_variable(exps, (fraction * 2.0**24).astype(jnp.int32) << 7, exponent.astype(jnp.int32))
    return saturate(steps + zero_point(y), y, *limits(y))


def _scaled_exponentials(step: np.float32) -> np.ndarray:
    """`trunc(f32(expf(-step d) 65535) + 0.5)` for d = 0..255, int32."""
    steps = np.floor((_exponentials(-step) * np.float32(65535)).astype(np.float64) + 0.5)
    return np.minimum(steps, 65535).astype(np.int32)


def _exponentials(negative_scale: np.float32) -> np.ndarray:
    """`expf(-scale * beta * d)` for d = 0..255, float32."""
    with np.errstate(under="ignore"):
        arguments = (negative_scale * np.arange(256, dtype=np.float32)).astype(np.float64)
        return np.exp(arguments).astype(np.float32)


def _sum_in_order(exps: jax.Array) -> jax.Array:
    """Float32 sum over the last axis, first to last: a reduction would choose its own order and other last
    bits.
    """
    start = jnp.zeros_like(exps[..., 0])
    total, _ = lax.scan(lambda carry, e: (carry + e, None), start, jnp.moveaxis(exps, -1, 0))
    return total[..., None]


def _round_away(x: jax.Array) -> jax.Array:
    return jnp.floor(x) + (x - jnp.floor(x) >= 0.5).astype(x.dtype)  # x >= 0, and x - floor(x) is exact
