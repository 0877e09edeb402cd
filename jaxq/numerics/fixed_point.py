"""Fixed-point requantization of TFLite's builtin kernels (gemmlowp), in int32 alone: JAX needs no 64-bit mode.

A real multiplier is `q 2^(shift - 31)` with q in [2^30, 2^31). Kernels multiply by q's high word (`srdhm`) and then
shift. In training the multiplier is traced and TFLite forms it in float64; `quantized_ratio` gives the same integers
by long division. Functions of many operations are compiled functions, which JAX traces once for each shape. Sources:
gemmlowp/fixedpoint/fixedpoint.h, tflite/kernels/internal/quantization_util.cc.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

Integers = jax.Array | np.ndarray
Multiplier = tuple[Integers, Integers]  # (q, shift)

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
DIGIT = 7  # bits of the quotient a division: a remainder below 2^24 with seven more bits stays below 2^31


def high_and_low(a: jax.Array, b: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The 64-bit product of int32 `a` and `b` (broadcast) as its int32 high and uint32 low word.

    Schoolbook by 16-bit limbs: no partial product passes 32 bits.
    """
    a_low, a_high = a & 0xFFFF, a >> 16
    b_low, b_high = b & 0xFFFF, b >> 16
    low = a_low.astype(jnp.uint32) * b_low.astype(jnp.uint32)
    cross1, cross2 = a_high * b_low, a_low * b_high
    middle = (cross1 & 0xFFFF).astype(jnp.uint32) + (cross2 & 0xFFFF).astype(jnp.uint32) + (low >> 16)
    high = a_high * b_high + (cross1 >> 16) + (cross2 >> 16) + (middle >> 16).astype(jnp.int32)
    return high, (middle << 16) | (low & 0xFFFF)


@jax.jit
def srdhm(a: jax.Array, b: jax.Array | int | np.ndarray) -> jax.Array:
    """SaturatingRoundingDoublingHighMul: `trunc((a*b + nudge) / 2^31)`, nudge 2^30 or 1 - 2^30 by the
    product's sign.

    int32, broadcast. Saturates in the one case a = b = -2^31.
    """
    a, b = jnp.broadcast_arrays(jnp.asarray(a, jnp.int32), jnp.asarray(b, jnp.int32))
    high, low = high_and_low(a, b)
    negative = high < 0
    nudged = low + jnp.where(negative, jnp.uint32(0xC0000001), jnp.uint32(1 << 30))
    high = high + jnp.where(negative, -1, 0) + (nudged < low).astype(jnp.int32)
    floor = (high << 1) | (nudged >> 31).astype(jnp.int32)
    inexact = (nudged & jnp.uint32(INT32_MAX)) != 0
    towards_zero = floor + ((high < 0) & inexact).astype(jnp.int32)
    return jnp.where((a == INT32_MIN) & (b == INT32_MIN), INT32_MAX, towards_zero)


@jax.jit
def rounding_divide_by_pot(x: jax.Array, exponent: jax.Array | np.ndarray | int) -> jax.Array:
    """`x / 2^exponent` to nearest, half away from zero (gemmlowp RoundingDivideByPOT). int32, exponent in [0,
    31].
    """
    exponent = jnp.asarray(exponent, jnp.int32)
    mask = (jnp.int32(1) << exponent) - 1
    threshold = (mask >> 1) + (x < 0).astype(jnp.int32)
    return (x >> exponent) + ((x & mask) > threshold).astype(jnp.int32)


@jax.jit
def rescale_half_up(x: jax.Array, q: jax.Array, shift: jax.Array) -> jax.Array:
    """`x q 2^(shift - 31)`: `srdhm`, then a shift that rounds half towards +infinity (ruy and NEON's vrshl). int32."""
    left, right = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    half = jnp.where(right > 0, jnp.int32(1) << jnp.maximum(right - 1, 0), 0)
    return (srdhm(x << left, q) + half) >> right


@jax.jit
def rescale_once(x: jax.Array, q: Integers, shift: Integers) -> jax.Array:
    """`(x q + 2^(30 - shift)) >> (31 - shift)`: the 64-bit product, rounded once, half towards +infinity (ruy's
    apply_multiplier.cc, and its aarch64 kernels by SQDMULH and SRSHL). int32, broadcast; the result must fit.
    """
    left, right = jnp.maximum(shift, 0), jnp.maximum(-jnp.asarray(shift), 0)
    high, low = high_and_low(*jnp.broadcast_arrays(x << left, jnp.asarray(q, jnp.int32)))
    floor = (high << 1) | (low >> 31).astype(jnp.int32)  # of the product by 2^31
    below = jnp.where(right > 0, floor >> jnp.maximum(right - 1, 0), (low >> 30).astype(jnp.int32))
    return (floor >> right) + (below & 1)


@jax.jit
def rescale_half_away(x: jax.Array, q: jax.Array, shift: jax.Array) -> jax.Array:
    """`x q 2^(shift - 31)`, rounded twice (TFLite MultiplyByQuantizedMultiplier). int32, broadcast."""
    left, right = jnp.maximum(shift, 0), jnp.maximum(-shift, 0)
    return rounding_divide_by_pot(srdhm(x << left, q), right)


def quantized_ratio(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`QuantizeMultiplier(f64(a) f64(b) / f64(c))`: int32 (q, shift). float32 arrays of normal numbers > 0, broadcast.

    The product of two float32 is exact in float64. Its quotient is rounded to 53 bits, ties to even, then to 31 bits,
    ties away from zero; both roundings are done here on the integer quotient and its remainder.
    """
    (m_a, e_a), (m_b, e_b), (m_c, e_c) = (mantissa(x) for x in jnp.broadcast_arrays(a, b, c))
    whole, fraction, inexact = quotient(m_a, m_b, m_c)
    length = 32 - lax.clz(whole)  # 23 to 25 bits before the point
    q = _rounded_to_31(whole, fraction, inexact, length)
    carried = q < 0  # 2^31: the next power of two
    exponent = length + (e_a + e_b - e_c) + carried.astype(jnp.int32)
    q = jnp.where(carried, 1 << 30, q)
    return jnp.where(exponent < -31, 0, q), jnp.where(exponent < -31, 0, exponent)


def mantissa(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`x = m 2^e` with the integer m in [2^23, 2^24)."""
    fraction, exponent = jnp.frexp(x)
    return (fraction * 2.0**24).astype(jnp.int32), exponent.astype(jnp.int32) - 24


def quotient(a: jax.Array, b: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """`a b / c` of integers in [2^23, 2^24): the whole part, 31 bits behind the point, and whether more follow."""
    high, low = high_and_low(a, b)
    top = (high << 8) | (low >> 24).astype(jnp.int32)
    whole = (top >= c).astype(jnp.int32)
    remainder = top - whole * c
    bits = (low & 0xFFFFFF).astype(jnp.int32)  # the 24 that are still to come, seven at a time
    fraction = jnp.zeros_like(whole)
    for width, end in ((7, 17), (7, 10), (7, 3), (3, 0)):
        digit, remainder = _digit(remainder, width, (bits >> end) & ((1 << width) - 1), c)
        whole = (whole << width) | digit
    for width in (7, 7, 7, 7, 3):
        digit, remainder = _digit(remainder, width, jnp.zeros_like(bits), c)
        fraction = (fraction << width) | digit
    return whole, fraction, remainder != 0


def _digit(remainder: jax.Array, width: int, following: jax.Array, c: jax.Array) -> tuple[jax.Array, jax.Array]:
    dividend = (remainder << width) | following
    digit = lax.div(dividend, c)
    return digit, dividend - digit * c


def _rounded_to_31(whole: jax.Array, fraction: jax.Array, inexact: jax.Array, length: jax.Array) -> jax.Array:
    """The 31 leading bits of `whole.fraction`, rounded at 53 bits to even and at 31 away. 2^31 wraps to below zero."""
    dropped = length - 22  # bits of the fraction behind the 53rd: 1 to 3
    below = fraction & ((jnp.int32(1) << dropped) - 1)
    middle = (fraction >> dropped) & ((1 << 22) - 1)
    half = jnp.int32(1) << (dropped - 1)
    middle = middle + ((below > half) | ((below == half) & (inexact | (middle & 1 == 1)))).astype(jnp.int32)
    leading = (whole << (31 - length)) | (fraction >> (dropped + 22))
    return leading + (middle >= 1 << 21).astype(jnp.int32)


@jax.jit
def rescale_by_15_bits(x: jax.Array, q: jax.Array, shift: jax.Array) -> jax.Array:
    """`(x q15 + 2^(14 - shift)) >> (15 - shift)` with `q15` the upper 15 bits of q (MultiplyByQuantizedMultiplier of
    int64, which 16x8 kernels with an int64 bias use). `x`: int32, and the result must fit; shift <= 7.
    """
    short = jnp.where(q < 0x7FFF0000, (q + (1 << 15)) >> 16, 0x7FFF)
    right = 15 - shift  # 8 to 46
    high, low = high_and_low(*jnp.broadcast_arrays(x, short))
    far = right > 32
    half_low = jnp.where(far, 0, jnp.int32(1) << jnp.minimum(right - 1, 31)).astype(jnp.uint32)
    half_high = jnp.where(far, jnp.int32(1) << jnp.maximum(right - 33, 0), 0)
    total = low + half_low
    high = high + half_high + (total < low).astype(jnp.int32)
    near = (high << jnp.clip(32 - right, 0, 31)) | (total >> jnp.minimum(right, 31).astype(jnp.uint32)).astype(
        jnp.int32
    )
    return jnp.where(right >= 32, high >> jnp.maximum(right - 32, 0), near)


def folded_mean(q: jax.Array, shift: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """The multiplier (q, shift) over `count`: `floor(q 2^k / n)`, `shift - k` with `2^k <= n < 2^(k+1)` (TFLite MEAN).

    `count` < 2^24; shift >= k - 31.
    """
    bits = count.bit_length() - 1
    n = jnp.asarray(count, jnp.int32)
    folded, remainder, left = lax.div(q, n), lax.rem(q, n), bits
    while left:
        width = min(left, DIGIT)
        dividend = remainder << width
        folded, remainder = (folded << width) | lax.div(dividend, n), lax.rem(dividend, n)
        left -= width
    return folded, shift - bits


# --- 16 bits ----------------------------------------------------------------------------------------------------------


def srdhm16(a: jax.Array, b: jax.Array | int) -> jax.Array:
    """The 16-bit SaturatingRoundingDoublingHighMul, on int32 arrays that hold int16 values."""
    product = a * jnp.asarray(b, jnp.int32)
    nudge = jnp.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return saturate16(divide_towards_zero(product + nudge, 1 << 15))


def saturate16(x: jax.Array) -> jax.Array:
    """Clip int32 values to int16's range."""
    return jnp.clip(x, -32768, 32767)


def divide_towards_zero(x: jax.Array, divisor: jax.Array | np.ndarray | int) -> jax.Array:
    """C's integer division. int32, broadcast."""
    return lax.div(*jnp.broadcast_arrays(x, jnp.asarray(divisor, jnp.int32)))


def upper_16(q: Integers) -> jax.Array:
    """A 31-bit multiplier in 16 bits (TFLite DownScaleInt32ToInt16Multiplier)."""
    return jnp.where(q < INT32_MAX - (1 << 15) + 1, (q + (1 << 15)) >> 16, 32767)


def hard_swish(d: jax.Array, out: Multiplier, third: Multiplier) -> jax.Array:
    """HARD_SWISH `x relu6(x + 3) / 6` of `x = s_x d` in steps of s_y (internal/reference/hard_swish.h). int32.

    d: below 256 in magnitude. out: multiplier (q, shift <= 0) of `s_x / 128 / s_y`; third: of `s_x / 128 / (3 / 2^15)`.
    """
    (q_out, shift), fine = out, d * 128
    product = _relu_ish(fine, *third) * srdhm16(fine, upper_16(q_out))
    return rounding_divide_by_pot(divide_towards_zero(product, 1 << 15), jnp.maximum(-shift, 0))


def _relu_ish(fine: jax.Array, q: Integers, shift: Integers) -> jax.Array:
    """`clip((x + 3) / 6, 0, 1)` in Q0.15: x / 3 on 16 bits, saturated, moved from [-1, 1] to [0, 1]."""
    value = srdhm16(saturate16(fine << jnp.maximum(shift - 1, 0)), upper_16(q))
    value = jnp.where(shift > 0, saturate16(value << 1), value)
    return (rounding_divide_by_pot(value, jnp.maximum(-shift, 0)) + (1 << 15)) >> 1
