"""gemmlowp's fixed-point functions of int32 raw numbers; Qm.n has m integer and n fractional bits.

Source: gemmlowp/fixedpoint/fixedpoint.h.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxq.export.evaluate.kernels.fixedpoint import (
    INT32_MAX,
    apart,
    rounding_divide_by_pot,
    saturating_shift_left,
    srdhm,
)

# exp(-2^k) in Q0.31, with k: the barrel shifter of exp_on_negative_values.
EXP_OF_POWERS = (
    (-2, 1672461947),
    (-1, 1302514674),
    (0, 790015084),
    (1, 290630308),
    (2, 39332535),
    (3, 720401),
    (4, 242),
)


def exp_on_negative_values(a: jax.Array, integer_bits: int) -> jax.Array:
    """exp of a <= 0 with 4 or 5 integer bits, in Q0.31."""
    fraction_bits = 31 - integer_bits
    quarter = 1 << (fraction_bits - 2)
    remainder_of_quarter = (a & (quarter - 1)) - quarter
    result = _exp_between_minus_quarter_and_0(saturating_shift_left(remainder_of_quarter, integer_bits))
    rest = remainder_of_quarter - a
    for exponent, factor in EXP_OF_POWERS:
        bit = (rest >> (fraction_bits + exponent)) & 1
        result = apart(jnp.where(bit == 1, srdhm(result, factor), result))
    return jnp.where(a == 0, INT32_MAX, result)


def _exp_between_minus_quarter_and_0(a: jax.Array) -> jax.Array:
    """Taylor expansion of exp around -1/8, Q0.31 to Q0.31."""
    exp_minus_eighth, third = 1895147668, 715827883
    x = a + (1 << 28)
    x2 = apart(srdhm(x, x))
    x3, x4 = apart(srdhm(x2, x)), apart(srdhm(x2, x2))
    tail = apart(rounding_divide_by_pot(srdhm(rounding_divide_by_pot(x4, 2) + x3, third) + x2, 1))
    return apart(exp_minus_eighth + srdhm(x + tail, exp_minus_eighth))


def one_over_one_plus_x(a: jax.Array) -> jax.Array:
    """1 / (1 + a) of Q0.31 a in [0, 1), in Q0.31."""
    return saturating_shift_left(_two_over_one_plus_x(a), 1)


def one_minus_x_over_one_plus_x(a: jax.Array) -> jax.Array:
    """(1 - a) / (1 + a) of Q0.31 a in [0, 1), in Q0.31."""
    return saturating_shift_left(_two_over_one_plus_x(a) - (1 << 29), 2)


def _two_over_one_plus_x(a: jax.Array) -> jax.Array:
    """2 / (1 + a) in Q2.29, by three Newton steps."""
    half_denominator = (a >> 1) + (1 << 30)
    x = 1515870810 + srdhm(half_denominator, -1010580540)  # 48/17 - 32/17 * d
    for _ in range(3):
        error = apart((1 << 29) - srdhm(half_denominator, x))
        x = apart(x + saturating_shift_left(srdhm(x, error), 2))
    return x


def logistic(a: jax.Array) -> jax.Array:
    """1 / (1 + exp(-a)) of Q4.27, in Q0.31."""
    positive = one_over_one_plus_x(exp_on_negative_values(-jnp.abs(a), 4))
    return jnp.where(a == 0, 1 << 30, jnp.where(a > 0, positive, INT32_MAX - positive))


def tanh(a: jax.Array) -> jax.Array:
    """Hyperbolic tangent of Q4.27, in Q0.31: (1 - e) / (1 + e) with e = exp(-2 |a|)."""
    magnitude = one_minus_x_over_one_plus_x(exp_on_negative_values(-jnp.abs(a), 5))  # the same bits, read as 2 a
    return jnp.where(a == 0, 0, jnp.where(a > 0, magnitude, -magnitude))
