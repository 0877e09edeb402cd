"""Exact int32 accumulators of convolutions and matrix products, by float32 where that is exact.

A float32 sum of integers is exact below 2^24 in any order, and far faster than int32 on every backend. So:
one float contraction where the weights bound the sum, two (the weights' high and low four bits) where only
the halves do, int32 arithmetic where neither does.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FLOAT_INTEGERS = 1 << 24
LARGEST_CENTRED = 255  # |q - zero_point| of an 8-bit activation
SPLIT_BITS = 4
MOST_TAPS = 64  # of a depthwise window that is summed tap by tap; each is code to compile

Contract = Callable[[jax.Array, jax.Array], jax.Array]
Weights = np.ndarray | jax.Array


def accumulate(contract: Contract, x: jax.Array, weights: Weights, out_axes: tuple[int, ...]) -> jax.Array:
    """`contract(x, weights)` as exact int32.

    `x`: int32, centred, |x| <= 255. `weights`: integers, centred. `out_axes`: the weights' axes that are not
    summed. `contract` must be bilinear and keep its operands' dtype.
    """
    if _fits(weights, out_axes):
        return _in_floats(contract, x, weights)
    high, low = _halves(weights)
    if _fits(high, out_axes) and _fits(low, out_axes):
        return (_in_floats(contract, x, high) << SPLIT_BITS) + _in_floats(contract, x, low)
    return contract(x, jnp.asarray(weights, jnp.int32))


def _fits(weights: Weights, out_axes: tuple[int, ...]) -> bool:
    summed = tuple(axis for axis in range(weights.ndim) if axis not in out_axes)
    if isinstance(weights, np.ndarray):
        worst = int(np.abs(weights.astype(np.int64)).sum(axis=summed).max(initial=0))
    else:
        worst = int(np.prod([weights.shape[axis] for axis in summed])) * LARGEST_CENTRED
    return worst * LARGEST_CENTRED < FLOAT_INTEGERS


def _halves(weights: Weights) -> tuple[Weights, Weights]:
    """`weights = 2^SPLIT_BITS * high + low`, `low` in [-8, 7]."""
    integers = weights.astype(np.int32)
    high = (integers + (1 << (SPLIT_BITS - 1))) >> SPLIT_BITS
    return high, integers - (high << SPLIT_BITS)


def _in_floats(contract: Contract, x: jax.Array, weights: Weights) -> jax.Array:
    return contract(x.astype(jnp.float32), jnp.asarray(weights, jnp.float32)).astype(jnp.int32)


def window_padding(padding: str, size: int, window: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """Rows before and after, TensorFlow's convention: an odd total puts the extra one after."""
    if padding == "VALID":
        return 0, 0
    total = max((-(-size // stride) - 1) * stride + (window - 1) * dilation + 1 - size, 0)
    return total // 2, total - total // 2


def convolve(
    x: jax.Array,
    weights: Weights,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: str,
) -> jax.Array:
    """2-D convolution accumulator, int32 (N, H', W', O).

    `x`: int32 centred (N, H, W, C). `weights`: OHWI integers, I = C / groups. Padding adds real zeros.
    """
    return accumulate(convolution(x.shape, weights.shape, strides, dilations, padding), x, weights, (0,))


def convolution(
    x: tuple[int, ...],
    weights: tuple[int, ...],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: str,
) -> Contract:
    """The 2-D convolution of arrays of these shapes, NHWC and OHWI, in their own dtype."""
    windows = [window_padding(padding, x[1 + i], weights[1 + i], strides[i], dilations[i]) for i in (0, 1)]

    def contract(a: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            a,
            w,
            strides,
            windows,
            rhs_dilation=dilations,
            dimension_numbers=("NHWC", "OHWI", "NHWC"),
            feature_group_count=x[3] // weights[3],
            precision=lax.Precision.HIGHEST,
            preferred_element_type=a.dtype,
        )

    return contract


def convolve_depthwise(
    x: jax.Array,
    weights: Weights,
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: str,
) -> jax.Array:
    """Depthwise accumulator: one group a channel. `weights`: 1HWO integers, O = C * depth_multiplier."""
    turned = weights.transpose(3, 1, 2, 0)
    contract = depthwise_convolution(x.shape, turned.shape, strides, dilations, padding)
    return accumulate(contract, x, turned, (0,))


def depthwise_convolution(
    x: tuple[int, ...],
    weights: tuple[int, ...],
    strides: tuple[int, int],
    dilations: tuple[int, int],
    padding: str,
) -> Contract:
    """The depthwise convolution of arrays of these shapes, NHWC and OHW1, as a sum over the window's taps.

    XLA fuses the taps into one pass; its grouped convolution on a CPU took 2 to 12 times as long.
    """
    height, width = weights[1:3]
    if height * width > MOST_TAPS:
        return convolution(x, weights, strides, dilations, padding)
    pads = [window_padding(padding, x[1 + i], weights[1 + i], strides[i], dilations[i]) for i in (0, 1)]
    spans = [x[1 + i] + sum(pads[i]) - (weights[1 + i] - 1) * dilations[i] for i in (0, 1)]

    def contract(a: jax.Array, w: jax.Array) -> jax.Array:
        padded = jnp.pad(jnp.repeat(a, weights[0] // x[3], axis=3), ((0, 0), *pads, (0, 0)))

        def tap(row: int, column: int) -> jax.Array:
            top, left = row * dilations[0], column * dilations[1]
            part = padded[:, top : top + spans[0] : strides[0], left : left + spans[1] : strides[1]]
            return part * w[:, row, column, 0]

        taps = [tap(row, column) for row in range(height) for column in range(width)]
        return functools.reduce(operator.add, taps)

    return contract


def convolve_transposed(
    x: jax.Array, weights: Weights, strides: tuple[int, int], padding: str, out_size: tuple[int, int]
) -> jax.Array:
    """Transposed convolution accumulator, int32 (N, *out_size, O): `out[s*i + k - pad] += x[i] * w[k]`.

    It is the convolution of x, dilated by the strides, with the flipped kernel. `weights`: OHWI integers.
    """
    contract = transposed_convolution(x.shape, weights.shape, strides, padding, out_size)
    return accumulate(contract, x, weights[:, ::-1, ::-1, :], (0,))


def transposed_convolution(
    x: tuple[int, ...], weights: tuple[int, ...], strides: tuple[int, int], padding: str, out_size: tuple[int, int]
) -> Contract:
    """The transposed convolution of arrays of these shapes with a kernel that is flipped already."""
    window = weights[1:3]
    before = [_transposed_padding(padding, out_size[i], window[i], strides[i], x[1 + i]) for i in (0, 1)]
    spans = [(x[1 + i] - 1) * strides[i] + 1 for i in (0, 1)]
    low = [window[i] - 1 - before[i] for i in (0, 1)]
    pads = [(low[i], out_size[i] + window[i] - 1 - spans[i] - low[i]) for i in (0, 1)]

    def contract(a: jax.Array, w: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            a,
            w,
            (1, 1),
            pads,
            lhs_dilation=strides,
            dimension_numbers=("NHWC", "OHWI", "NHWC"),
            precision=lax.Precision.HIGHEST,
            preferred_element_type=a.dtype,
        )

    return contract


def _transposed_padding(padding: str, out_size: int, window: int, stride: int, in_size: int) -> int:
    if padding == "VALID":
        return 0
    return max((in_size - 1) * stride + window - out_size, 0) // 2


def multiply_dense(x: jax.Array, weights: Weights) -> jax.Array:
    """Dense accumulator, int32 (..., O). `x`: int32 centred (..., I). `weights`: (O, I) integers."""

    def contract(a: jax.Array, w: jax.Array) -> jax.Array:
        return lax.dot_general(
            a, w, (((a.ndim - 1,), (1,)), ((), ())), lax.Precision.HIGHEST, preferred_element_type=a.dtype
        )

    return accumulate(contract, x, weights, (0,))


def multiply_batched(x: jax.Array, y: jax.Array) -> jax.Array:
    """Batched matrix product, int32 (..., M, N), batch axes broadcast. `x`: (..., M, K), `y`: (..., K, N),
    centred.
    """

    def contract(a: jax.Array, b: jax.Array) -> jax.Array:
        return jnp.matmul(a, b, precision=lax.Precision.HIGHEST, preferred_element_type=a.dtype)

    batch: Sequence[int] = range(y.ndim - 2)
    return accumulate(contract, x, y, (*batch, y.ndim - 1))
