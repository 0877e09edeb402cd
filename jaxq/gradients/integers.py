"""Symmetric integers of a float array: `q = round(x / s)`, `s = max|x| / levels`, zero point 0."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jaxq.gradients.noise import noise
from jaxq.numerics.rounding import true_divide

SMALLEST = np.finfo(np.float32).tiny  # a group of zeros has this scale


def levels(bits: int) -> int:
    """The largest integer of so many bits, symmetric: 127 or 7."""
    return 2 ** (bits - 1) - 1


def largest(x: Array, axes: Sequence[int]) -> Array:
    """`max|x|` over some axes, which stay with size 1."""
    return jnp.max(jnp.abs(x), tuple(axes), keepdims=True, initial=0.0)


def scale_of(x: Array, axes: Sequence[int], top: int) -> Array:
    """The scale that brings `max|x|` over some axes, which stay with size 1, to `top`."""
    return scale_for(largest(x, axes), top)


def scale_for(bound: Array, top: int) -> Array:
    """`bound / top`, at least the smallest normal number."""
    return jnp.maximum(true_divide(bound, jnp.full_like(bound, top)), SMALLEST)


def quantized(x: Array, scale: Array, top: int, stochastic: bool) -> Array:
    """`clip(round(x / s), -top, top)` as int8, ties to even; stochastic: `floor(x / s + u)`, u of `noise(x)`.

    A NaN or an infinity is not kept in an integer: its scale is NaN or infinite, which makes the product NaN.

    Args:
      x: float32 array.
      scale: float32, positive, broadcasts against x.
      top: 127 or 7.
      stochastic: whether the expected value of `s q` is x.
    """
    steps = true_divide(x, scale)
    # The fraction is exact, and the sum of it with the noise nearly so. That of a large number would be biased.
    whole = jnp.floor(steps)
    up = ((steps - whole) > noise(x)).astype(jnp.float32)
    rounded = whole + up if stochastic else jnp.round(steps)
    return jnp.clip(rounded, -float(top), float(top)).astype(jnp.int8)


def align(scale: Array, axes: dict[int, int], ndim: int) -> Array:
    """A scale with its axis `a` moved to `axes[a]` of an array of `ndim` axes; its other axes have size 1."""
    kept = sorted(axes, key=axes.__getitem__)
    sizes = {axes[a]: scale.shape[a] for a in kept}
    moved = lax.transpose(scale, [*kept, *(a for a in range(scale.ndim) if a not in axes)])
    return moved.reshape([sizes.get(a, 1) for a in range(ndim)])
