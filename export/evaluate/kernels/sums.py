"""Sums of products in int32, before they are brought to the output's scale: the same in every kernel family."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import contraction, wide
from jaxq.export.evaluate.kernels.operands import (
    Tensors,
    Values,
    centred,
    constant,
    option_int,
    option_str,
    present,
    source,
    target,
    zero_point,
)
from jaxq.export.program import Operator


def convolution(op: Operator, tensors: Tensors, values: Values) -> jax.Array:
    """CONV_2D accumulator with bias, int32 (N, H', W', O)."""
    weights, padding = weight(op, tensors, values), option_str(op, "padding", "SAME")

    def convolve(x: jax.Array) -> jax.Array:
        return contraction.convolve(x, weights, _strides(op), _dilations(op), padding)

    return _plus_bias(
        wide.by_bytes(convolve, centred(present(op, values), source(op, tensors)), source(op, tensors).dtype), values, 2
    )


def depthwise_convolution(op: Operator, tensors: Tensors, values: Values) -> jax.Array:
    """DEPTHWISE_CONV_2D accumulator with bias, int32 (N, H', W', O)."""
    weights, padding = weight(op, tensors, values), option_str(op, "padding", "SAME")

    def convolve(x: jax.Array) -> jax.Array:
        return contraction.convolve_depthwise(x, weights, _strides(op), _dilations(op), padding)

    return _plus_bias(
        wide.by_bytes(convolve, centred(present(op, values), source(op, tensors)), source(op, tensors).dtype), values, 2
    )


def transposed_convolution(op: Operator, tensors: Tensors, values: Values) -> jax.Array:
    """TRANSPOSE_CONV accumulator with bias, int32 (N, H', W', O)."""
    x, weights = centred(present(op, values, 2), source(op, tensors, 2)), weight(op, tensors, values)
    height, width = (int(size) for size in constant(op, tensors, 0)[1:3])
    padding = option_str(op, "padding", "SAME")
    return _plus_bias(contraction.convolve_transposed(x, weights, _strides(op), padding, (height, width)), values, 3)


def dense(op: Operator, tensors: Tensors, values: Values) -> jax.Array:
    """FULLY_CONNECTED accumulator with bias, int32, in the output's shape."""
    x, weights = centred(present(op, values), source(op, tensors)), weight(op, tensors, values)

    def multiply(x: jax.Array) -> jax.Array:
        return contraction.multiply_dense(x.reshape(-1, weights.shape[1]), weights)

    acc = wide.by_bytes(multiply, x, source(op, tensors).dtype)
    return _plus_bias(acc, values, 2).reshape(target(op, tensors).shape)


def matrix_product(op: Operator, tensors: Tensors, values: Values) -> jax.Array:
    """BATCH_MATMUL accumulator, int32; options `adj_x` and `adj_y` transpose the last two axes."""
    if "int16" in (source(op, tensors).dtype, source(op, tensors, 1).dtype):
        raise ExportError(f"{op.kind} of int16: its sums of 64 bits are not modelled. Use int8.")
    a, b = (centred(present(op, values, i), source(op, tensors, i)) for i in (0, 1))
    a = a.swapaxes(-1, -2) if option_int(op, "adj_x", 0) else a
    b = b.swapaxes(-1, -2) if option_int(op, "adj_y", 0) else b
    return contraction.multiply_batched(a, b)


def centred_sum(op: Operator, tensors: Tensors, values: Values) -> tuple[jax.Array, int]:
    """`sum(x - z_x)` over the constant axes of input 1, int32, and the number of terms."""
    x = centred(present(op, values), source(op, tensors))
    axes = tuple(int(axis) for axis in constant(op, tensors, 1).reshape(-1))
    total = x.sum(axis=axes, keepdims=bool(option_int(op, "keep_dims", 0)))
    return total, int(np.prod([x.shape[axis] for axis in axes]))


def weight(op: Operator, tensors: Tensors, values: Values) -> contraction.Weights:
    """Centred weights (input 1), on the host where they are a constant: then they bound the accumulator."""
    w = source(op, tensors, 1)
    if w.data is not None:
        return np.asarray(w.data).astype(np.int32) - np.int32(zero_point(w))
    return centred(present(op, values, 1), w)


def _plus_bias(acc: jax.Array, values: Values, position: int) -> jax.Array:
    bias = values[position] if position < len(values) else None
    return acc if bias is None else acc + bias.astype(jnp.int32)


def _strides(op: Operator) -> tuple[int, int]:
    return option_int(op, "stride_h", 0), option_int(op, "stride_w", 0)


def _dilations(op: Operator) -> tuple[int, int]:
    return option_int(op, "dilation_h_factor", 1), option_int(op, "dilation_w_factor", 1)
