"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR of images [n, h, w, c].

Each axis by itself: an output place lies between two input places, and a fraction tells how near to the second.
TFLite's own kernel counts the fraction in 1024ths of a coordinate that it rounds too, so that it is up to three steps
from XNNPACK's, which takes 2048ths of a float32 coordinate. Sources: tensorflow/lite/kernels/internal/reference/
resize_bilinear.h and resize_nearest_neighbor.h, google/XNNPACK src/indirection.c and src/qs8-ibilinear.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.errors import ExportError
from jaxq.export.kernels.operands import constant, present, source
from jaxq.export.program import Operator, Tensor

Tensors = tuple[Tensor, ...]
Values = list[jax.Array | None]


class Taps(NamedTuple):
    """For each place of an output axis: two places of the input, and the weight of the second, all [size]."""

    first: np.ndarray
    second: np.ndarray
    weight: np.ndarray


# taps(input size, output size, align_corners, half_pixel_centers)
Placed = Callable[[int, int, bool, bool], Taps]


def in_1024ths(size: int, out: int, align: bool, half: bool) -> Taps:
    """TFLite's fixed point. Before the first pixel's centre the weight is negative: it extrapolates."""
    ends = align and out > 1
    scale = ((size - ends) * 1024 + (out - ends) // 2) // (out - ends)
    place = np.arange(out) * scale + (scale // 2 - 512 if half else 0)
    first = np.maximum(np.fix(place / 1024).astype(np.int64), 0)
    second = np.minimum(np.fix((place + 1023) / 1024).astype(np.int64), size - 1)
    return Taps(first, second, place - 1024 * first)


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


def _mixed(op: Operator, tensors: Tensors, x: jax.Array, placed: Placed, one: int) -> jax.Array:
    """Both axes, each a sum of two with weights that add up to `one`."""
    _no_contradiction(op)
    align, half = bool(op.options.get("align_corners")), bool(op.options.get("half_pixel_centers"))
    for axis, out in zip((1, 2), constant(op, tensors, 1), strict=True):
        first, second, weight = placed(x.shape[axis], int(out), align, half)
        shaped = jnp.asarray(weight, x.dtype).reshape(-1, *[1] * (x.ndim - 1 - axis))
        x = jnp.take(x, first, axis) * (one - shaped) + jnp.take(x, second, axis) * shaped
    return x


def _no_contradiction(op: Operator) -> None:
    if op.options.get("align_corners") and op.options.get("half_pixel_centers"):
        raise ExportError(f"{op.kind} has align_corners and half_pixel_centers, which TFLite refuses. Choose one.")


def _int8(op: Operator, tensors: Tensors, values: Values) -> jax.Array:
    if source(op, tensors).dtype != "int8":
        raise ExportError(f"{op.kind} of {source(op, tensors).dtype}: its arithmetic is known here for int8 alone.")
    return present(op, values).astype(jnp.int32)


def bilinear_builtin(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TFLite's: `x 2^20` rounded half away from zero."""
    total = _mixed(op, tensors, _int8(op, tensors, values), in_1024ths, 1024)
    half = jnp.where(total > 0, 1 << 19, -(1 << 19))
    return [lax.div(total + half, jnp.full_like(total, 1 << 20)).astype(jnp.int8)]


def bilinear_xnnpack(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """XNNPACK's: `x 2^22` rounded half up."""
    total = _mixed(op, tensors, _int8(op, tensors, values), in_2048ths, 2048)
    return [((total + (1 << 21)) >> 22).astype(jnp.int8)]


def bilinear_float(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """Of real numbers."""
    return [_mixed(op, tensors, present(op, values), in_float32, 1)]


def nearest(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """RESIZE_NEAREST_NEIGHBOR of any dtype, in every family: float32 coordinates, as TFLite rounds them."""
    x = present(op, values)
    align, half = bool(op.options.get("align_corners")), bool(op.options.get("half_pixel_centers"))
    for axis, out in zip((1, 2), constant(op, tensors, 1), strict=True):
        x = jnp.take(x, _nearest_places(x.shape[axis], int(out), align, half), axis)
    return [x]


def _nearest_places(size: int, out: int, align: bool, half: bool) -> np.ndarray:
    ends, f32 = align and out > 1, np.float32
    place = (np.arange(out).astype(f32) + f32(0.5 if half else 0)) * (f32(size - ends) / f32(out - ends))
    return np.clip(np.floor(place + f32(0.5)) if align else np.floor(place), 0, size - 1).astype(np.int64)
