"""Sums of products of carriers: the one function through which every contraction of the training forward goes.

A carrier is an integer held in a float array. A float32 sum of products of carriers is the kernel's int32 accumulator
as long as no partial sum passes 2^24, in whatever order it is formed. Partial sums are bounded by the number of
products; sums that can be too long are formed in parts, each exact, which are added in int32, unless the weights at
hand bound them too (decision 011).

`Products` has the seams for other ways to compute a product. `sums` computes the same sums in another way. `gradient`
gives an op's result a derivative of its own, such as one that quantizes the cotangent. `finish` says how what follows
the sums is run. None of them changes an integer of the forward pass.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxq.numerics.rounding import straight_through
from jaxq.ops.arithmetic import Arithmetic

EXACT = 2**24  # float32 holds every integer up to this magnitude
REACH = 255  # the largest magnitude of a carrier of 8 bits
BYTE, NIBBLE = 256, 16  # bases of the digits that carriers are split into


class Product(NamedTuple):
    """A contraction of two arrays, linear in each.

    Attributes:
      of: `of(x, w)`, the float32 sums. The reduction runs over the last axis of x and the last axis but one of w, and
        for a convolution over its taps too.
      terms: the number of products in the longest sum.
      of_activations: whether w holds activations, as the right-hand side of a BATCH_MATMUL does, and not weights whose
        last axis is the output channels.
    """

    of: Callable[[Array, Array], Array]
    terms: int
    of_activations: bool = False


@dataclasses.dataclass(frozen=True)
class Products:
    """How training computes the products of one op.

    Attributes:
      arithmetic: what the device does.
      dtype: what carriers are multiplied in, "float32" or "bfloat16". Sums are float32. Both are exact.
      sums: `sums(product, x, w)`, the float32 sums `product.of(x, w)` computed in another way. None for `product.of`.
      gradient: `gradient(product, result, operands)`, `result(operands)[0]` with a derivative of its own. None for
        JAX's own derivative.
      finish: `finish(steps, *arrays)`, what becomes of the op's result `steps(*arrays)`, in units of its step. None for
        that result as it is.
    """

    arithmetic: Arithmetic = Arithmetic()
    dtype: str = "float32"
    sums: Callable[[Product, Array, Array], Array] | None = None
    gradient: Callable[[Product, Result, Operands], Array] | None = None
    finish: Callable[..., Any] | None = None


class Operands(NamedTuple):
    """What an op's result is computed of.

    Attributes:
      x: carriers of activations.
      w: carriers of weights, or of the right-hand side of a BATCH_MATMUL.
      bias: in the accumulator's steps.
      scales: of x, of w and of the output, where the accumulator is brought to an output's scale; else none.
    """

    x: Array
    w: Array
    bias: Array
    scales: tuple[Array, ...] = ()


# An op's result, and the float32 sums that it is formed of: the accumulator with its bias.
Result = Callable[[Operands], tuple[Array, Array]]


class Sums(NamedTuple):
    """The sums of products alone, as `Accumulator` has them.

    Attributes:
      real: float32, whole numbers; it carries the gradients.
      integer: int32, where a bias can bring them past 2^24; else None.
    """

    real: Float[Array, "..."]
    integer: Int[Array, "..."] | None


class Accumulator(NamedTuple):
    """The int32 accumulator of a kernel, twice.

    Attributes:
      real: the accumulator rounded once to float32, as `(float) acc` in C; it carries the gradients.
      integer: the accumulator in int32, a constant for differentiation.
    """

    real: Float[Array, "..."]
    integer: Int[Array, "..."]


def contract(
    product: Product,
    how: Products,
    x: Float[Array, "..."],
    w: Float[Array, "..."],
    bias: Float[Array, "..."] | float = 0.0,
) -> Accumulator:
    """`sum x w + bias` of carriers, exact for every input, with straight-through gradients for all three.

    Args:
      product: the contraction.
      how: the arithmetic of the device, the dtype of carriers, and how the sums are computed.
      x: carriers of activations: magnitude at most 255 of 8 bits, 32768 of 16 bits.
      w: carriers of weights, or of the right-hand side of a BATCH_MATMUL: magnitude at most 128.
      bias: integers in the accumulator's steps, float32, broadcast against the sums.

    Returns:
      The accumulator. Beyond int32 it wraps around, as a kernel's does.
    """
    return with_bias(sums_of_products(product, how, x, w), bias)


def sums_of_products(product: Product, how: Products, x: Float[Array, "..."], w: Float[Array, "..."]) -> Sums:
    """`sum x w` of carriers, which `with_bias` makes the accumulator of. Arguments as `contract` has them."""
    real = _differentiable(product, how, x, w)
    if not how.arithmetic.is_int16 and is_bounded(product.terms, REACH, how.arithmetic):
        return Sums(real, None)
    total = _exact_sums(product, how, lax.stop_gradient(x), lax.stop_gradient(w))
    return Sums(straight_through(total.astype(jnp.float32), real), total)


def with_bias(sums: Sums, bias: Float[Array, "..."] | float) -> Accumulator:
    """The accumulator of `sums + bias`. Gradients are straight-through for both."""
    real = sums.real + bias
    if sums.integer is None:
        return Accumulator(real, _integer(real))
    total = sums.integer + _integer(bias)
    return Accumulator(straight_through(total.astype(jnp.float32), real), total)


def is_bounded(terms: int, reach: int, how: Arithmetic) -> bool:
    """Whether no sum of `terms` products of carriers up to `reach` by weights can pass 2^24, whatever the weights."""
    return terms * reach * (how.largest_weight + 1) <= EXACT


def _differentiable(product: Product, how: Products, x: Array, w: Array) -> Array:
    """The float32 sums that carry the gradient; of 16 bits, of the two bytes, for bfloat16 holds no more."""
    if not how.arithmetic.is_int16:
        return _sums(product, how, x, w, how.sums)
    high, low = _digits(x, BYTE)
    return _sums(product, how, high, w, how.sums) * BYTE + _sums(product, how, low, w, how.sums)


def _sums(
    product: Product, how: Products, x: Array, w: Array, sums: Callable[[Product, Array, Array], Array] | None
) -> Array:
    x, w = x.astype(how.dtype), w.astype(how.dtype)
    total = product.of(x, w) if sums is None else sums(product, x, w)
    return total.astype(jnp.float32)


def _integer(x: Array | float) -> Array:
    return lax.stop_gradient(jnp.asarray(x)).astype(jnp.int32)


# --- sums that can pass 2^24 ------------------------------------------------------------------------------------------


def _exact_sums(product: Product, how: Products, x: Array, w: Array) -> Array:
    """The sums in int32, formed in one float32 sum where the numbers at hand allow, else in parts."""
    if how.arithmetic.is_int16:
        high, low = (_bounded_sums(product, how, digit, w, BYTE // 2) for digit in _digits(x, BYTE))
        return (high << 8) + low
    return _bounded_sums(product, how, x, w, REACH)


def _bounded_sums(product: Product, how: Products, x: Array, w: Array, reach: int) -> Array:
    """int32 sums of carriers up to `reach`.

    Sums that could pass 2^24 by their length are formed in parts. Where reading the weights costs less than adding the
    parts (a convolution of many pixels), or parts are digits, a bound of the numbers at hand decides first.
    """
    whole = functools.partial(_whole, product, how)
    if is_bounded(product.terms, reach, how.arithmetic):
        return whole(x, w)
    in_parts = functools.partial(_in_parts, product, how, reach)
    read = x.size if product.of_activations else w.size
    if _slices(product, how.arithmetic, reach, x, w) and math.prod(jax.eval_shape(product.of, x, w).shape) < read:
        return in_parts(x, w)
    return lax.cond(largest_sum(product, x, w, reach) <= EXACT, whole, in_parts, x, w)


def largest_sum(product: Product, x: Array, w: Array, reach: int) -> Array:
    """A bound for every partial sum, of the weights for any input up to `reach`; of activations, of the left ones.

    It is right wherever it is at most 2^24: until then its own float32 sum, of magnitudes, is exact, and beyond that it
    does not fall.
    """
    if product.of_activations:
        return jnp.max(jnp.sum(jnp.abs(x), axis=-1), initial=0.0) * 128.0
    return jnp.max(jnp.sum(jnp.abs(w), axis=tuple(range(w.ndim - 1))), initial=0.0) * float(reach)


def _whole(product: Product, how: Products, x: Array, w: Array) -> Array:
    return _sums(product, how, x, w, None).astype(jnp.int32)


def _in_parts(product: Product, how: Products, reach: int, x: Array, w: Array) -> Array:
    total = None
    for factor, part_x, part_w in _parts(product, how.arithmetic, reach, x, w):
        part = _whole(product, how, part_x, part_w) * jnp.int32(factor)
        total = part if total is None else total + part
    assert total is not None
    return total


def _parts(product: Product, how: Arithmetic, reach: int, x: Array, w: Array) -> Iterator[tuple[int, Array, Array]]:
    """Factors and operands whose products add up to that of x and w, each with sums below 2^24.

    Slices of the input channels, where there is one group of them and a tap is few enough products. Else digits: of x
    for up to 8,192 products, of x and w for as many as int32 holds.
    """
    if slices := _slices(product, how, reach, x, w):
        for start, end in slices:
            yield 1, lax.slice_in_dim(x, start, end, axis=x.ndim - 1), lax.slice_in_dim(w, start, end, axis=w.ndim - 2)
        return
    few = is_bounded(product.terms, NIBBLE, how)
    w_digits = [(1, w)] if few else list(zip((NIBBLE, 1), _digits(w, NIBBLE), strict=True))
    for x_factor, x_digit in zip((NIBBLE, 1), _digits(x, NIBBLE), strict=True):
        yield from ((x_factor * w_factor, x_digit, w_digit) for w_factor, w_digit in w_digits)


def _slices(product: Product, how: Arithmetic, reach: int, x: Array, w: Array) -> list[tuple[int, int]]:
    """Ranges of input channels, of nearly one size, whose sums stay below 2^24; none where they cannot be sliced."""
    channels = w.shape[-2]
    taps = product.terms // channels
    most = EXACT // (reach * (how.largest_weight + 1)) // taps
    if x.shape[-1] != channels or not most:
        return []
    size = -(-channels // -(-channels // most))
    return [(start, min(start + size, channels)) for start in range(0, channels, size)]


def _digits(x: Array, base: int) -> tuple[Array, Array]:
    """`x = base high + low` with `|low| <= base / 2`, both integers. The gradient is that of the high digit."""
    low = lax.stop_gradient(x - base * jnp.round(x * (1.0 / base)))
    return (x - low) * (1.0 / base), low
