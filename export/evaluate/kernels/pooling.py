"""Pooling windows, shared by the kernel families. Sources:
tflite/kernels/internal/reference/integer_ops/pooling.h.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.export.evaluate.kernels.contraction import window_padding
from jaxq.export.evaluate.kernels.fixedpoint import divide_towards_zero
from jaxq.export.evaluate.kernels.operands import option_int, option_str
from jaxq.export.program import Operator


def average(op: Operator, x: jax.Array) -> jax.Array:
    """`(sum +- n/2) / n`, truncating: half away from zero of the raw integers, over the n valid taps.

    `x`: 8-bit (N, H, W, C). Returns int32, not clamped.
    """
    total = windows(op, x.astype(jnp.int32), 0, lax.add)
    count = tap_counts(op, x.shape)
    half = jnp.asarray(count // 2)
    return divide_towards_zero(jnp.where(total > 0, total + half, total - half), count)


def maximum(op: Operator, x: jax.Array) -> jax.Array:
    """Largest value of each window, int32, not clamped. Padding taps do not take part."""
    return windows(op, x.astype(jnp.int32), -(1 << 31), lax.max)


def windows(op: Operator, x: jax.Array, start: int | float, combine: object) -> jax.Array:
    """Each window's values combined, from `start` on, in x's dtype."""
    (height, width), strides, pads = _geometry(op, x.shape)
    window, steps = (1, height, width, 1), (1, *strides, 1)
    padding = ((0, 0), *pads, (0, 0))
    return lax.reduce_window(x, np.asarray(start, x.dtype), combine, window, steps, padding)  # type: ignore[arg-type]


def _geometry(
    op: Operator, shape: tuple[int, ...]
) -> tuple[tuple[int, int], tuple[int, int], tuple[tuple[int, int], tuple[int, int]]]:
    window = (option_int(op, "filter_height", 0), option_int(op, "filter_width", 0))
    strides = (option_int(op, "stride_h", 0), option_int(op, "stride_w", 0))
    padding = option_str(op, "padding", "SAME")
    rows = window_padding(padding, shape[1], window[0], strides[0])
    columns = window_padding(padding, shape[2], window[1], strides[1])
    return window, strides, (rows, columns)


def tap_counts(op: Operator, shape: tuple[int, ...]) -> np.ndarray:
    """Valid taps of each window, int32 (1, H', W', 1)."""
    window, strides, pads = _geometry(op, shape)
    rows, columns = (_valid(shape[1 + i], window[i], strides[i], pads[i]) for i in (0, 1))
    return (rows[:, None] * columns[None, :])[None, :, :, None].astype(np.int32)


def _valid(size: int, window: int, stride: int, pad: tuple[int, int]) -> np.ndarray:
    starts = np.arange((size + sum(pad) - window) // stride + 1) * stride - pad[0]
    return np.minimum(starts + window, size) - np.maximum(starts, 0)
