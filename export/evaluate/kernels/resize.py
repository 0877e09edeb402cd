"""RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR of images [n, h, w, c].

TFLite's own kernel counts a pixel's place in 1024ths, by a factor that it rounds as well, so that it is up to three
steps from XNNPACK's (`jaxq.ops.resizing`). Sources: tensorflow/lite/kernels/internal/reference/resize_bilinear.h and
resize_nearest_neighbor.h.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.operands import Tensors, Values, constant, present, source
from jaxq.export.program import Operator
from jaxq.ops.resizing import Taps, by_2048ths, in_float32, mixed


def in_1024ths(size: int, out: int, align: bool, half: bool) -> Taps:
    """TFLite's fixed point. Before the first pixel's centre the weight is negative: it extrapolates."""
    ends = align and out > 1
    scale = ((size - ends) * 1024 + (out - ends) // 2) // (out - ends)
    place = np.arange(out) * scale + (scale // 2 - 512 if half else 0)
    first = np.maximum(np.trunc(place / 1024).astype(np.int64), 0)
    second = np.minimum(np.trunc((place + 1023) / 1024).astype(np.int64), size - 1)
    return Taps(first, second, place - 1024 * first)


def bilinear_builtin(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TFLite's: `x 2^20` rounded half away from zero."""
    total = mixed(_integers(op, tensors, values, ("int8",)), _size(op, tensors), in_1024ths, 1024, *_centres(op))
    half = jnp.where(total > 0, 1 << 19, -(1 << 19))
    return [lax.div(total + half, jnp.full_like(total, 1 << 20)).astype(jnp.int8)]


def bilinear_xnnpack(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """XNNPACK's, as training computes it."""
    x = source(op, tensors)
    steps = _integers(op, tensors, values, ("int8", "uint8"))
    return [by_2048ths(steps, _size(op, tensors), *_centres(op)).astype(x.dtype)]


def bilinear_float(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """Of real numbers."""
    return [mixed(present(op, values), _size(op, tensors), in_float32, 1, *_centres(op))]


def _size(op: Operator, tensors: Tensors) -> list[int]:
    """Rows and columns of the output."""
    return constant(op, tensors, 1).tolist()


def _integers(op: Operator, tensors: Tensors, values: Values, known: tuple[str, ...]) -> jax.Array:
    dtype = source(op, tensors).dtype
    if dtype not in known:
        advice = " Evaluate with family 'xnnpack'." if dtype == "uint8" else " Use int8."
        raise ExportError(f"{op.kind} of {dtype}: the kernel of this family is modelled for {known[0]} alone.{advice}")
    return present(op, values).astype(jnp.int32)


def _centres(op: Operator) -> tuple[bool, bool]:
    """Options align_corners and half_pixel_centers."""
    align, half = bool(op.options.get("align_corners")), bool(op.options.get("half_pixel_centers"))
    if align and half and op.kind == "RESIZE_BILINEAR":
        raise ExportError(f"{op.kind} has align_corners and half_pixel_centers, which TFLite refuses. Choose one.")
    return align, half


def nearest(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """RESIZE_NEAREST_NEIGHBOR of any dtype, in every family: float32 coordinates, as TFLite rounds them."""
    x = present(op, values)
    for axis, out in zip((1, 2), _size(op, tensors), strict=True):
        x = jnp.take(x, _nearest_places(x.shape[axis], out, *_centres(op)), axis)
    return [x]


def _nearest_places(size: int, out: int, align: bool, half: bool) -> np.ndarray:
    ends, f32 = align and out > 1, np.float32
    place = (np.arange(out).astype(f32) + f32(0.5 if half else 0)) * (f32(size - ends) / f32(out - ends))
    return np.clip(np.floor(place + f32(0.5)) if align else np.floor(place), 0, size - 1).astype(np.int64)
