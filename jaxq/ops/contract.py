"""Sums of products of carriers: the one function through which every contraction of the training forward goes.

A carrier is an integer held in a float array. A float32 sum of products of carriers is the kernel's int32 accumulator
as long as no partial sum passes 2^24, in whatever order it is formed.

`contract` is also the seam for other ways to compute a product. `Products.gradient` is the one hook: a function that
takes the place of `Product.of` wherever a gradient is taken, with a derivative of its own (`jax.custom_vjp`), such as
one that quantizes the cotangent. It changes gradients and never the integers of the forward pass.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import NamedTuple

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxq.ops.arithmetic import Arithmetic


class Product(NamedTuple):
    """A contraction of two arrays, linear in each.

    Attributes:
      of: `of(x, w)`, the float32 sums. The reduction runs over the last axis of x and the last axis but one of w, and
        for a convolution over its taps too.
      terms: the number of products in the longest sum.
    """

    of: Callable[[Array, Array], Array]
    terms: int


@dataclasses.dataclass(frozen=True)
class Products:
    """How training computes the products of one op.

    Attributes:
      arithmetic: what the device does.
      dtype: what carriers are multiplied in, "float32" or "bfloat16". Sums are float32. Both are exact.
      gradient: takes the place of `Product.of` for differentiation: `gradient(product, x, w)` returns
        `product.of(x, w)` with a derivative of its own. None for JAX's own derivative.
    """

    arithmetic: Arithmetic = Arithmetic()
    dtype: str = "float32"
    gradient: Callable[[Product, Array, Array], Array] | None = None


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
    """`sum x w + bias` of carriers, with straight-through gradients for all three.

    Args:
      product: the contraction.
      how: the arithmetic of the device, the dtype of carriers, and the hook for another gradient.
      x: carriers of activations: magnitude at most 255 of 8 bits, 32768 of 16 bits.
      w: carriers of weights, or of the right-hand side of a BATCH_MATMUL: magnitude at most 128.
      bias: integers in the accumulator's steps, float32, broadcast against the sums.

    Returns:
      The accumulator.
    """
    if how.arithmetic.is_int16:
        return _of_bytes(product, how, x, w, bias)
    real = _sums(product, how, x, w) + bias
    return Accumulator(real, lax.stop_gradient(real).astype(jnp.int32))


def _sums(product: Product, how: Products, x: Array, w: Array) -> Array:
    x, w = x.astype(how.dtype), w.astype(how.dtype)
    total = product.of(x, w) if how.gradient is None else how.gradient(product, x, w)
    return total.astype(jnp.float32)


def _of_bytes(product: Product, how: Products, x: Array, w: Array, bias: Array | float) -> Accumulator:
    """Of activations of 16 bits: the sums of their upper and of their lower byte, each exact in float32."""
    low = lax.stop_gradient(x - 256.0 * jnp.round(x * (1.0 / 256.0)))
    high_sum, low_sum = (_sums(product, how, part, w) for part in ((x - low) * (1.0 / 256.0), low))
    integers = (lax.stop_gradient(a).astype(jnp.int32) for a in (high_sum, low_sum, jnp.asarray(bias)))
    i_high, i_low, i_bias = integers
    return Accumulator(high_sum * 256.0 + low_sum + bias, (i_high << 8) + i_low + i_bias)
