"""int16 activations: exact int32 sums by bytes, float64's rounding in 32-bit integers, functions by tables."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.operands import Kernel, option_float, present, scale, source, target, zero_point
from jaxq.export.program import Operator, Tensor
from jaxq.numerics import lut_int16
from jaxq.numerics.fixed_point import high_and_low

Limbs = tuple[jax.Array, jax.Array, jax.Array]  # uint32, the lowest first: 96 bits


def by_bytes(contract: Callable[[jax.Array], jax.Array], x: jax.Array, dtype: str) -> jax.Array:
    """`contract(x)` of a linear function, int32; of int16 from the upper and the lower byte. Wraps beyond int32."""
    if dtype != "int16":
        return contract(x)
    high = (x + 128) >> 8
    return (contract(high) << 8) + contract(x - (high << 8))


def round_double(acc: jax.Array, multiplier: np.ndarray) -> jax.Array:
    """`round_half_away(float64(acc) * m)` without float64, for results below 2^16 in magnitude; greater ones are
    approximate, with the right sign.

    `acc`: int32 (..., channels). `multiplier`: float64 (channels,) in [2^-41, 1). An estimate in float32 is off by one
    at most: the product is compared exactly with the tie on either side. Of a product so close below a tie that
    float64 rounds it up, the half unit in the last place counts as well.
    """
    magnitude = jnp.abs(acc)
    mantissa, exponent = np.frexp(np.asarray(multiplier, np.float64))
    integer = (mantissa * 2.0**53).astype(np.uint64)  # m = integer 2^(exponent - 53)
    places = 52 - exponent  # of a half, in units of the product
    product = _product(magnitude, integer)
    guess = jnp.round(magnitude.astype(jnp.float32) * jnp.asarray(multiplier, jnp.float32)).astype(jnp.int32)
    guess = jnp.clip(guess, 0, 1 << 17)
    lower = ~_reaches(product, 2 * guess - 1, places) & (guess > 0)
    higher = _reaches(product, 2 * guess + 1, places)
    return jnp.where(acc < 0, -1, 1) * (guess - lower.astype(jnp.int32) + higher.astype(jnp.int32))


def _product(magnitude: jax.Array, integer: np.ndarray) -> Limbs:
    """A number below 2^31 by one below 2^53."""
    low_word, high_word = (integer & 0xFFFFFFFF).astype(np.uint32), (integer >> 32).astype(np.uint32)
    a1, a0 = _unsigned(magnitude, low_word)
    b1, b0 = _unsigned(magnitude, high_word)
    middle = a1 + b0
    return a0, middle, b1 + (middle < a1).astype(jnp.uint32)


def _unsigned(a: jax.Array, b: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """`a b` for a in [0, 2^31) and b in [0, 2^32): high and low word."""
    signed = jnp.asarray(b.view(np.int32))
    high, low = high_and_low(*jnp.broadcast_arrays(a, signed))
    return (high + jnp.where(signed < 0, a, 0)).astype(jnp.uint32), low


def _reaches(product: Limbs, odd: jax.Array, places: np.ndarray) -> jax.Array:
    """Whether the product, rounded to 53 bits, is at least `odd 2^places`."""
    length = 32 - jax.lax.clz(jnp.maximum(odd, 1)) + places
    unit = length - 54 - (odd == 1).astype(jnp.int32)  # half a unit in the last place below the tie
    sums, carry = [], jnp.zeros_like(product[0])
    for i, limb in enumerate(product):
        half = _shifted(jnp.ones_like(odd), unit - 32 * i)
        partial = limb + carry
        total = partial + half
        carry = ((partial < limb) | (total < partial)).astype(jnp.uint32)
        sums.append(total)
    ties = [_shifted(odd, jnp.asarray(places - 32 * i)) for i in range(3)]
    reached = sums[0] >= ties[0]
    for ours, tie in zip(sums[1:], ties[1:], strict=True):
        reached = (ours > tie) | ((ours == tie) & reached)
    return reached


def _shifted(value: jax.Array, places: jax.Array) -> jax.Array:
    """The 32 bits at 0 of `value 2^places`; 0 where nothing is left. `value`: int32 >= 0."""
    bits = value.astype(jnp.uint32)
    up = jnp.where(places < 32, bits << jnp.clip(places, 0, 31).astype(jnp.uint32), 0)
    down = jnp.where(places > -32, bits >> jnp.clip(-places, 0, 31).astype(jnp.uint32), 0)
    return jnp.where(places >= 0, up, down)


# --- LOGISTIC, TANH, SOFTMAX ----------------------------------------------------------------------------------------

# Exponents of two near which a scale of the input counts as that power, and a kernel may shift instead of multiply.
POWERS = {"LOGISTIC": (-12,), "TANH": (-12, -11)}
OUTPUT_SCALE = 2.0**-15


def powers_of_two(scale: np.float32) -> int | None:
    """The exponent of the power of two that a scale counts as (CheckedLog2: within 1e-3 of it in the logarithm)."""
    exponent = np.log(np.float32(scale)) * (np.float32(1) / np.log(np.float32(2)))
    nearest = np.floor(exponent + np.float32(0.5))
    return int(nearest) if np.abs(exponent - nearest) < np.float32(1e-3) else None


def _integers(op: Operator, tensors: tuple[Tensor, ...], values: list[jax.Array | None]) -> tuple[jax.Array, Tensor]:
    x, y = source(op, tensors), target(op, tensors)
    if (float(scale(y)), zero_point(x), zero_point(y)) != (OUTPUT_SCALE, 0, 0):
        raise ExportError(f"{op.kind} of int16 has zero points 0 and the scale 1/32768 behind it. Write these.")
    return present(op, values).astype(jnp.int32), x


def squashed(function: Callable[..., jax.Array], shifts: bool) -> Kernel:
    """LOGISTIC or TANH of int16. shifts: whether the kernel takes an input scale near a power of two for that power;
    the other one has different arithmetic there.
    """

    def kernel(op: Operator, tensors: tuple[Tensor, ...], values: list[jax.Array | None]) -> list[jax.Array]:
        value, x = _integers(op, tensors, values)
        own, power = scale(x), powers_of_two(scale(x))
        if power is not None and power in POWERS[op.kind]:
            if not shifts:
                raise ExportError(
                    f"{op.kind} of int16 with scale {own:.7g}, near 2^{power}: LiteRT's kernel for powers of two is "
                    "not modelled. Move the scale by a thousandth."
                )
            own = np.ldexp(np.float32(1), power)
        return [function(value, *lut_int16.multiplier(jnp.float32(own))).astype(jnp.int16)]

    return kernel


def softmax(
    op: Operator,
    tensors: tuple[Tensor, ...],
    values: list[jax.Array | None],
    dtype: type[np.floating] = np.float64,
) -> list[jax.Array]:
    """SOFTMAX of int16 over the last axis. dtype: in which the runtime makes its tables."""
    value, x = _integers(op, tensors, values)
    steps = scale(x) * option_float(op, "beta", 0.0)
    return [lut_int16.softmax(value, *lut_int16.softmax_multiplier(jnp.float32(steps)), dtype).astype(jnp.int16)]


def by_width(narrow: Kernel, wide: Kernel) -> Kernel:
    """The kernel of 8 bits, or that of 16 where the input has so many."""

    def kernel(op: Operator, tensors: tuple[Tensor, ...], values: list[jax.Array | None]) -> list[jax.Array]:
        return (wide if source(op, tensors).dtype == "int16" else narrow)(op, tensors, values)

    return kernel


KERNELS: dict[str, dict[str, Kernel]] = {
    family: {"LOGISTIC": squashed(lut_int16.logistic, shifts), "TANH": squashed(lut_int16.tanh, shifts)}
    for family, shifts in (("reference", True), ("xnnpack", False))
}
