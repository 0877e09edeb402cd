"""The arithmetic of quantization, as pure differentiable functions of arrays.

Notation: `r` is a real number, `q` an integer carried in a float array with the zero point *removed* (a carrier), `s` a
scale (float32, > 0), `z` a zero point (an integer in [-128, 127] for int8), so that `r = s * q` and the stored
integer is
`q + z` (Jacob et al. 2018, section 2.1, writes `r = S (q - Z)`). A carrier of an int8 tensor lies in [-128 - z, 127 -
z], so |q| <= 255: exact in bfloat16 (integers to 2^8) and in float32 (to 2^24).

Gradients are straight-through (Bengio et al. 2013): rounding passes the gradient unchanged, clipping passes it where
the *rounded* integer lies inside its bounds, ends included, and hands it to the bound elsewhere. By the chain rule
that gives LSQ's gradient to the scale (Esser et al. 2020, eq. 3) and LSQ+'s to the zero point (Bhalgat et al. 2020,
eq. 5). The LSQ paper masks on the unrounded `r / s`; PyTorch and this file on the rounded integer: they differ within
half a step of a bound.

Not here: TFLite's fixed-point forms (`jaxq.export.evaluate.kernels`), and which tensor gets which scale (`jaxq.plan`).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

# What only rounds once is the same number on every machine: export forms its integers from numpy arrays by the very
# functions that training traces. They take either; for a numpy array they are numpy.
HostOrTraced = Any


def namespace(x: HostOrTraced) -> Any:
    """The module whose functions work on `x`: numpy for a numpy array, `jax.numpy` for any other."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


# Smallest scale of any tensor: a channel of zeros keeps a normal float32 (XNNPACK refuses denormal scales).
SMALLEST_SCALE = 2.0**-100


def true_divide(a: HostOrTraced, b: HostOrTraced) -> HostOrTraced:
    """`a / b` rounded once, as numpy, TFLite and the exported file compute it. Float arrays; `b` broadcasts to `a`.

    XLA may rewrite a division by a broadcast scalar into a multiplication by its reciprocal, one ulp off for one
    quotient in ten. So b is chosen number by number, and is never the NaN. A constant `a` takes that choice away;
    constants are vectors here, and a barrier hides besides that their b is a broadcast. Every scale, reciprocal,
    multiplier and integer bias is formed by this function.
    """
    return np.asarray(a / b) if namespace(a) is np else _divided(a, jnp.asarray(b))


@jax.custom_jvp
def _divided(a: Array, b: Array) -> Array:
    shape = jnp.broadcast_shapes(jnp.shape(a), jnp.shape(b))
    a, b = jnp.broadcast_to(a, shape), jnp.broadcast_to(b, shape)
    return a / jnp.where(jnp.isnan(a), a, b if len(shape) > 1 else lax.optimization_barrier(b))


def _divided_jvp(primals: tuple[Array, Array], tangents: tuple[Any, Any]) -> tuple[Array, Array]:
    """With one reciprocal for all numbers that share a divisor."""
    (a, b), (da, db) = primals, tangents
    quotient, inverse = _divided(a, b), 1.0 / b
    of_a = jnp.zeros_like(quotient) if isinstance(da, SymbolicZero) else jnp.broadcast_to(da * inverse, quotient.shape)
    return quotient, of_a if isinstance(db, SymbolicZero) else of_a - quotient * (inverse * db)


_divided.defjvp(_divided_jvp, symbolic_zeros=True)


def unfused(x: HostOrTraced) -> HostOrTraced:
    """`x`, rounded to float32 where it stands: XLA may not contract `a * b + c` into one rounding across it.

    An optimization barrier alone does not hold on every backend (measured on CPU: jaxlib 0.10.2 contracts through
    it), a maximum with a number below all others does.
    """
    return x if namespace(x) is np else _unfused(x)


@jax.custom_jvp
def _unfused(x: Array) -> Array:
    return jnp.maximum(lax.optimization_barrier(x), np.finfo(np.float32).min)


@_unfused.defjvp
def _unfused_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return _unfused(primals[0]), tangents[0]


def round_ste(x: HostOrTraced) -> HostOrTraced:
    """Round half to even, with gradient one (the straight-through estimator). Float array of any shape."""
    return np.rint(x) if namespace(x) is np else _round(x)


@jax.custom_jvp
def _round(x: Array) -> Array:
    return jnp.round(x)


@_round.defjvp
def _round_ste_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    return jnp.round(primals[0]), tangents[0]


def round_away(x: HostOrTraced) -> HostOrTraced:
    """Round to nearest, ties away from zero: C's `round`, without the double rounding of `floor(x + 0.5)`.

    Float array of any shape. Its gradient is zero.
    """
    xp = namespace(x)
    whole = xp.trunc(x)
    return whole + xp.where(xp.abs(x - whole) >= 0.5, xp.sign(x), xp.zeros_like(x))


@jax.custom_jvp
def straight_through(value: Array, surrogate: Array) -> Array:
    """`value`, with the gradient of `surrogate`. Float arrays of one shape."""
    return value


@straight_through.defjvp
def _straight_through_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[0], tangents[1]


def clip_ste(x: HostOrTraced, low: HostOrTraced, high: HostOrTraced) -> HostOrTraced:
    """`min(max(x, low), high)`, whose gradient goes to `x` inside [low, high], both ends included, and to the bound
    outside.

    `jnp.clip` halves the gradient at a tie; an integer sits on its bound all the time.
    """
    return np.clip(x, low, high) if namespace(x) is np else _clip(x, low, high)


@jax.custom_jvp
def _clip(x: Array, low: Array, high: Array) -> Array:
    return jnp.minimum(jnp.maximum(x, low), high)


@_clip.defjvp
def _clip_ste_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    x, low, high = primals
    dx, dlow, dhigh = tangents
    inner = jnp.where(x > high, dhigh, dx)
    return _clip(x, low, high), jnp.where(x < low, dlow, inner)


@jax.custom_jvp
def saturate(v: Array, zero_point: Array, qmin: Array, qmax: Array) -> Array:
    """`clip(round(v), qmin - z, qmax - z)`: steps to carriers, ties to even. `z`, `qmin`, `qmax` are scalars.

    The gradient goes to `v` where the rounded integer is inside, ends included, and to `-z` elsewhere. The same as
    `clip_ste(round_ste(v), ...)`, in one reduction over the tensor for the zero point where that takes two.
    """
    return jnp.clip(jnp.round(v), qmin - zero_point, qmax - zero_point)


def _saturate_jvp(primals: tuple[Array, ...], tangents: tuple[Any, ...]) -> tuple[Array, Array]:
    v, zero_point, qmin, qmax = primals
    rounded = jnp.round(v)
    inside = (rounded >= qmin - zero_point) & (rounded <= qmax - zero_point)
    dv = jnp.zeros_like(v) if isinstance(tangents[0], SymbolicZero) else tangents[0]
    # A prescribed zero point has no tangent. An array of zeros in its place would be held for the backward pass.
    outside = 0.0 * dv if isinstance(tangents[1], SymbolicZero) else -tangents[1]
    return saturate(v, zero_point, qmin, qmax), jnp.where(inside, dv, outside)


saturate.defjvp(_saturate_jvp, symbolic_zeros=True)


def positive(scale: HostOrTraced) -> HostOrTraced:
    """A trained scale as it is used:

    its magnitude, at least `SMALLEST_SCALE`. Bitwise the scale itself when that is > 0.
    """
    xp = namespace(scale)
    return xp.maximum(xp.abs(scale), np.float32(SMALLEST_SCALE))


def carrier_bounds(zero_point: Array, bits: int = 8) -> tuple[Array, Array]:
    """The least and greatest carrier of a signed `bits`-bit tensor: `-2^(bits-1) - z` and `2^(bits-1) - 1 - z`."""
    half = 2.0 ** (bits - 1)
    return -half - zero_point, half - 1 - zero_point


def quantize(r: Array, scale: Array, low: Array, high: Array) -> Array:
    """Carrier of a real number: `clip(round(r * (1 / s)), low, high)`, ties to even. Shapes broadcast.

    XNNPACK multiplies by the reciprocal as here (qs8 `f32-qs8-vcvt`); TFLite's reference kernel divides and rounds ties
    away from zero. The two differ on exact ties and on quotients one ulp from one.
    """
    inverse = true_divide(jnp.ones_like(scale), scale)
    return clip_ste(round_ste(r * inverse), low, high)


def dequantize(q: Array, scale: Array) -> Array:
    """Real number of a carrier, `s * q`."""
    return q * scale


def requantize(accumulator: Array, multiplier: Array, low: Array, high: Array) -> Array:
    """`clip(round(acc * m), low, high)`, ties to even: XNNPACK's `fp32` requantization of an int32 accumulator.

    `m = f32(f32(s_x * s_w) / s_y)` must be formed first and multiplied once: any other association differs in the
    last bit.
    """
    return clip_ste(round_ste(accumulator * multiplier), low, high)


def fake_quant(
    r: Float[Array, "..."],
    scale: Float[Array, "..."],
    zero_point: Float[Array, "..."],
    qmin: int = -128,
    qmax: int = 127,
) -> Float[Array, "..."]:
    """`s * clip(round(r / s), qmin - z, qmax - z)` with `z = clip(round(zero_point))`: simulated quantization.

    Differentiable in `r`, `scale` and `zero_point` (LSQ, LSQ+); scale and zero point broadcast against `r`.

    References: Jacob et al. 2018, eq. 12; Esser et al. 2020, eq. 1-3; Bhalgat et al. 2020, eq. 4-5. LSQ+ adds a free
    float offset, which makes real zero inexact; here the zero point is rounded, as TFLite requires.
    """
    s, z = positive(scale), clip_ste(round_ste(zero_point), jnp.float32(qmin), jnp.float32(qmax))
    return dequantize(quantize(r, s, qmin - z, qmax - z), s)


def scale_and_zero_point(low: Array, high: Array, qmin: int = -128, qmax: int = 127) -> tuple[Array, Array]:
    """The scale and integer zero point of the range [low, high], widened to hold zero: `s = (high - low) / (qmax -
    qmin)`.

    The zero point is nudged to an integer so that real zero is exact (Jacob et al. 2018, section 3).
    """
    low, high = jnp.minimum(low, 0.0), jnp.maximum(high, 0.0)
    scale = positive(true_divide(high - low, jnp.full_like(high, qmax - qmin)))
    zero_point = jnp.clip(jnp.round(qmin - true_divide(low, scale)), qmin, qmax)
    return scale, zero_point


def fake_quant_min_max(
    r: Float[Array, "..."], low: Float[Array, "..."], high: Float[Array, "..."], bits: int = 8, narrow: bool = False
) -> Float[Array, "..."]:
    """Simulated quantization by a trained range [low, high], with TensorFlow's gradients to its two ends.

    The range is nudged so that zero is an integer; then `dr = g` inside the nudged range, `dlow` is the sum of `g`
    below it and `dhigh` the sum above it (`fake_quant_with_min_max_vars`). TensorFlow rounds ties up, this function
    to even.
    """
    qmin, qmax = (1 if narrow else 0), 2**bits - 1
    scale, zero_point = scale_and_zero_point(low, high, qmin, qmax)
    nudged_low, nudged_high = (qmin - zero_point) * scale, (qmax - zero_point) * scale
    # Values come from the nudged ends, gradients go to the given ones.
    low, high = low + lax.stop_gradient(nudged_low - low), high + lax.stop_gradient(nudged_high - high)
    scale, zero_point = lax.stop_gradient((scale, zero_point))
    clipped = clip_ste(r, low, high)
    return clipped + lax.stop_gradient(jnp.round(true_divide(clipped, scale)) * scale - clipped)
