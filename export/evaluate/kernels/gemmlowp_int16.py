"""gemmlowp's logistic and tanh of int16, as tables of all 65,536 inputs, made on the host.

LiteRT's recurrent kernels use them, where its LOGISTIC and TANH operators interpolate (`numerics.lut_int16`). A number
Qm.n has m integer and n fractional bits, m + n = 15. Source: gemmlowp/fixedpoint/fixedpoint.h.
"""

from __future__ import annotations

import functools

import numpy as np

from jaxq.export.evaluate.kernels.gemmlowp import EXP_OF_POWERS

LOW, HIGH = -(1 << 15), (1 << 15) - 1


@functools.cache
def logistic(integer_bits: int = 3) -> np.ndarray:
    """`1 / (1 + exp(-x))` of Qm.n in Q0.15, int32 (65536,), from the smallest x on."""
    x = np.arange(LOW, HIGH + 1)
    positive = _one_over_one_plus_x(_exp(_wrapped(-np.abs(x)), integer_bits))
    return np.where(x == 0, 1 << 14, np.where(x > 0, positive, HIGH - positive)).astype(np.int32)


@functools.cache
def tanh(integer_bits: int) -> np.ndarray:
    """`tanh(x)` of Qm.n in Q0.15, int32 (65536,)."""
    x = np.arange(LOW, HIGH + 1)
    magnitude = _one_minus_x_over_one_plus_x(_exp(_wrapped(-np.abs(x)), integer_bits + 1))
    return np.where(x == 0, 0, np.where(x > 0, magnitude, -magnitude)).astype(np.int32)


def _wrapped(x: np.ndarray) -> np.ndarray:
    return x.astype(np.int16).astype(np.int64)


def _constant(raw: int) -> int:
    """A constant of 32 bits in 16, rounded half up."""
    return min((raw + (1 << 15)) >> 16, HIGH)


def _times(a: np.ndarray | int, b: np.ndarray | int) -> np.ndarray:
    """The doubling high product of 16 bits, rounded half away from zero, saturated."""
    product = np.asarray(a, np.int64) * b
    nudged = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.clip(np.trunc(nudged / (1 << 15)).astype(np.int64), LOW, HIGH)


def _right(x: np.ndarray, bits: int) -> np.ndarray:
    """`x / 2^bits`, rounded half away from zero."""
    rest, mask = x & ((1 << bits) - 1), (1 << bits) - 1
    return (x >> bits) + (rest > (mask >> 1) + (x < 0))


def _left(x: np.ndarray, bits: int) -> np.ndarray:
    return np.clip(x << bits, LOW, HIGH)


def _exp(a: np.ndarray, integer_bits: int) -> np.ndarray:
    """exp of a <= 0 in Q0.15."""
    fraction = 15 - integer_bits
    quarter = 1 << (fraction - 2)
    rest = (a & (quarter - 1)) - quarter
    result = _exp_of_quarter(_left(rest, integer_bits))
    for exponent, factor in EXP_OF_POWERS:
        if integer_bits > exponent:
            bit = ((rest - a) >> (fraction + exponent)) & 1
            result = np.where(bit == 1, _times(result, _constant(factor)), result)
    if integer_bits > 5:
        result = np.where(a < -(32 << fraction), 0, result)
    return np.where(a == 0, HIGH, result)


def _exp_of_quarter(a: np.ndarray) -> np.ndarray:
    """exp on [-1/4, 0) in Q0.15."""
    eighth = _constant(1895147668)
    x = a + (1 << 12)
    x2 = _times(x, x)
    x3, x4 = _times(x2, x), _times(x2, x2)
    tail = _right(_times(_right(x4, 2) + x3, _constant(715827883)) + x2, 1)
    return np.clip(eighth + _times(eighth, x + tail), LOW, HIGH)


def _two_over_one_plus_x(a: np.ndarray) -> np.ndarray:
    """`2 / (1 + a)` of Q0.15 in Q2.13, by three Newton steps."""
    total = a + HIGH
    half = (total + np.where(total >= 0, 1, -1)) // 2
    x = _constant(1515870810) + _times(half, _constant(-1010580540))
    for _ in range(3):
        x = x + _left(_times(x, (1 << 13) - _times(half, x)), 2)
    return x


def _one_over_one_plus_x(a: np.ndarray) -> np.ndarray:
    return _left(_two_over_one_plus_x(a), 1)


def _one_minus_x_over_one_plus_x(a: np.ndarray) -> np.ndarray:
    return _left(_two_over_one_plus_x(a) - (1 << 13), 2)
