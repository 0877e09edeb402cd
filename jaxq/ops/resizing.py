"""RESIZE_BILINEAR: each axis by itself, an output pixel between two of the input's.

Sources: google/XNNPACK src/indirection.c (coordinates) and src/qs8-ibilinear (integers). The pixels' centres are what
is aligned (`half_pixel_centers`), as in `jax.image.resize`; the kernels of files align corners as well.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxq.graph import Op
from jaxq.ops.builtin_ops import straight
from jaxq.ops.integer_ops import Carrier


class Taps(NamedTuple):
    """For each place of an output axis: two places of the input, and the weight of the second, all [size]."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


# taps(input size, output size, align_corners, half_pixel_centers)
Placed = Callable[[int, int, bool, bool], Taps]


def in_float32(size: int, out: int, align: bool, half: bool) -> Taps:
    """XNNPACK's coordinates, float32; each product and sum rounded."""
    ends, f32 = align and out > 1, np.float32
    scale = f32(size - ends) / f32(out - ends)
    place = np.arange(out).astype(f32) * scale
    if half and not align:
        place = np.clip(place + (f32(0.5) * scale - f32(0.5)), f32(0), f32(size - 1))
    first = place.astype(np.int64)
    return Taps(first, np.minimum(first + 1, size - 1), place - first.astype(f32))


def in_2048ths(size: int, out: int, align: bool, half: bool) -> Taps:
    """XNNPACK's weights of integers: nearest, ties to even."""
    taps = in_float32(size, out, align, half)
    return taps._replace(weight=np.rint(taps.weight * np.float32(2048)).astype(np.int64))


def mixed(x: Array, size: Sequence[int], placed: Placed, one: int, align: bool = False, half: bool = True) -> Array:
    """[n, h, w, c] to [n, *size, c]: on both axes a sum of two, with weights that add up to `one`."""
    for axis, out in zip((1, 2), size, strict=True):
        first, second, weight = placed(x.shape[axis], out, align, half)
        shaped = jnp.asarray(weight, x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
        x = jnp.take(x, first, axis) * (one - shaped) + jnp.take(x, second, axis) * shaped
    return x


def by_2048ths(x: Array, size: Sequence[int], align: bool = False, half: bool = True) -> Array:
    """int32 [n, h, w, c] to [n, *size, c] as XNNPACK computes it: `x 2^22` rounded half up."""
    return (mixed(x, size, in_2048ths, 2048, align, half) + (1 << 21)) >> 22


def resize_bilinear(op: Op, x: Float[Array, "n h w c"]) -> Float[Array, "n h2 w2 c"]:
    """Real numbers; attribute `size`: the rows and columns of the output."""
    return mixed(x, op.attrs["size"], in_float32, 1)


def resize_steps(op: Op, x: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """Integers. The weights add up to 2^22, so that a zero point that was taken off before is off after."""
    integers = by_2048ths(lax.stop_gradient(x.q).astype(jnp.int32), op.attrs["size"])
    return straight(resize_bilinear(op, x.q.astype(jnp.float32)), integers)
