"""256-entry tables of 8-bit functions, computed on the host in the runtime's float32 steps, then looked up.

Two makers: TFLite's own kernels (`builtin_table`) and XNNPACK (`xnnpack_table`). A real function is evaluated
in float64 and rounded once to float32, as a correctly rounding libm does.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.operands import limits, scale, zero_point
from jaxq.export.program import Tensor
from jaxq.numerics.rounding import round_away

Real = Callable[[np.ndarray], np.ndarray]  # float32 (256,) -> float32 (256,)

ONE, HALF = np.float32(1), np.float32(0.5)


def codes(tensor: Tensor) -> np.ndarray:
    """All 256 integers of an 8-bit tensor in ascending order, int32."""
    low, high = limits(tensor)
    if high - low > 255:
        raise ExportError(f"Tensor {tensor.name!r} is {tensor.dtype}: the operator's kernel is modelled for 8 bits.")
    return np.arange(low, high + 1, dtype=np.int32)


def dequantized(tensor: Tensor) -> np.ndarray:
    """`scale * (q - zero_point)` of all codes, float32 (256,)."""
    return (scale(tensor) * (codes(tensor) - zero_point(tensor)).astype(np.float32)).astype(np.float32)


def builtin_table(real: Real, x: Tensor, y: Tensor) -> np.ndarray:
    """`round_half_away(f(d) * (1/s_y)) + z_y`, float32 (TFLite LUTPopulateInt8). (256,) in y's dtype."""
    steps = (real(dequantized(x)).astype(np.float32) * (ONE / scale(y))).astype(np.float32)
    return _narrow(round_away(steps), y)


def xnnpack_table(real: Real, x: Tensor, y: Tensor) -> np.ndarray:
    """`rint(f(d) * (1/s_y) + z_y)`, float32, half to even (XNNPACK reference/unary-elementwise.cc)."""
    steps = (real(dequantized(x)).astype(np.float32) * (ONE / scale(y))).astype(np.float32)
    shifted = (steps + np.float32(zero_point(y))).astype(np.float32)
    low, high = limits(y)
    return np.clip(np.rint(shifted), low, high).astype(y.dtype)


def _narrow(rounded: np.ndarray | np.floating, y: Tensor) -> np.ndarray:
    low, high = limits(y)
    finite = np.clip(rounded, -(2.0**30), 2.0**30)  # before the zero point: inf has no integer
    return np.clip(finite.astype(np.int64) + zero_point(y), low, high).astype(y.dtype)


def look_up(table: np.ndarray, value: jax.Array, x: Tensor) -> jax.Array:
    """`table[q - q_min]`, in the table's dtype."""
    return jnp.asarray(table)[value.astype(jnp.int32) - limits(x)[0]]


def logistic(v: np.ndarray) -> np.ndarray:
    """`1 / (1 + exp(-v))` in TFLite's float32 steps."""
    with np.errstate(over="ignore"):  # exp(-v) = inf gives 0, as it does there
        return ONE / (ONE + exp(-v))


def logistic_double(v: np.ndarray) -> np.ndarray:
    """`e / (1 + e)` in float64, as XNNPACK computes it; saturated beyond |v| = 100."""
    e = np.exp(np.clip(v.astype(np.float64), -100.0, 100.0))
    inside = (e / (1.0 + e)).astype(np.float32)
    return np.where(v > 100, ONE, np.where(v < -100, np.float32(0), inside))


def exp(v: np.ndarray) -> np.ndarray:
    """float32 exponential, correctly rounded; inf past the range."""
    with np.errstate(over="ignore", under="ignore"):
        return np.exp(v.astype(np.float64)).astype(np.float32)


def tanh(v: np.ndarray) -> np.ndarray:
    """float32 hyperbolic tangent."""
    return np.tanh(v.astype(np.float64)).astype(np.float32)


def elu(v: np.ndarray) -> np.ndarray:
    """`v` if v >= 0 else `expm1(v)`, float32."""
    return np.where(v < 0, np.expm1(np.minimum(v, 0).astype(np.float64)).astype(np.float32), v)


def log(v: np.ndarray, smallest: np.float32) -> np.ndarray:
    """float32 logarithm; `smallest` where v <= 0."""
    positive = v > 0
    return np.where(positive, np.log(np.where(positive, v, 1).astype(np.float64)).astype(np.float32), smallest)


def gelu(v: np.ndarray) -> np.ndarray:
    """`0.5 v erfc(-v / sqrt 2)`, float32 steps (TFLite gelu.h)."""
    inner = (v * np.float32(-math.sqrt(0.5))).astype(np.float32)
    erfc = np.array([math.erfc(float(a)) for a in inner]).astype(np.float32)
    return (HALF * v * erfc).astype(np.float32)


def gelu_tanh(v: np.ndarray) -> np.ndarray:
    """`0.5 v (1 + tanh(sqrt(2/pi) (v + 0.044715 v^3)))`, float32 steps."""
    cubic = (v + np.float32(0.044715) * v * v * v).astype(np.float32)
    return HALF * v * (ONE + tanh(np.float32(math.sqrt(2 / math.pi)) * cubic))
