"""Convolutions and matrix products in their canonical forms: NHWC by HWIO, and rows by a [in, out] matrix.

Whatever dimension numbers the model uses, the activation is moved there by TRANSPOSE and RESHAPE ops, the weight by
weight arithmetic, and the result back. Flax's layers already have these forms, so for them nothing moves.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation
from jaxq.graph.pieces import sliced


def conv_general_dilated(builder: Builder, eq: Equation) -> bool:
    """CONV_2D or DEPTHWISE_CONV_2D, also for 1-D convolutions. Not for transposed or 3-D ones."""
    p = eq.params
    spec = p["dimension_numbers"]
    spatial = len(spec.lhs_spec) - 2
    x, w = eq.inputs
    if w in builder.dynamic or spatial not in (1, 2) or p["batch_group_count"] != 1:
        return False
    transposed = set(p["lhs_dilation"]) != {1}
    if transposed and not _transposable(builder, eq):
        return False
    x = builder.transpose(builder.resolve(x), (spec.lhs_spec[0], *spec.lhs_spec[2:], spec.lhs_spec[1]), eq.source)
    w = builder.transpose(w, (*spec.rhs_spec[2:], spec.rhs_spec[1], spec.rhs_spec[0]), eq.source)
    window = _Window(p["lhs_dilation"] if transposed else p["window_strides"], p["padding"], p["rhs_dilation"])
    if spatial == 1:
        x = builder.reshape(x, (builder.shape(x)[0], 1, *builder.shape(x)[1:]), eq.source)
        w = builder.reshape(w, (1, *builder.shape(w)), eq.source)
        window = _Window((1, *window.stride), ((0, 0), *window.padding), (1, *window.dilation))
    if transposed:
        y = _transpose_conv(builder, x, w, window, eq.source)
    else:
        x, window = _cropped(builder, x, window, eq.source)
        y = _conv_2d(builder, x, w, window, int(p["feature_group_count"]), eq.source)
    if spatial == 1:
        shape = builder.shape(y)
        y = builder.reshape(y, (shape[0], *shape[2:]), eq.source)
    back = np.argsort((spec.out_spec[0], *spec.out_spec[2:], spec.out_spec[1]))
    builder.becomes(eq.outputs[0], builder.transpose(y, [int(i) for i in back], eq.source))
    return True


def _cropped(builder: Builder, x: int, window: _Window, source: str) -> tuple[int, _Window]:
    """A padding below zero is a SLICE of the image."""
    crops = [(max(0, -low), max(0, -high)) for low, high in window.padding]
    n, *sizes, channels = builder.shape(x)
    begin = (0, *(low for low, _ in crops), 0)
    size = (n, *(whole - low - high for whole, (low, high) in zip(sizes, crops, strict=True)), channels)
    padding = [(max(0, low), max(0, high)) for low, high in window.padding]
    return sliced(builder, x, begin, size, source), _Window(window.stride, padding, window.dilation)


def _transposable(builder: Builder, eq: Equation) -> bool:
    """Whether a convolution of a spread image is one that TRANSPOSE_CONV computes, but for a crop."""
    p = eq.params
    plain = set(p["window_strides"]) == {1} and set(p["rhs_dilation"]) == {1} and p["feature_group_count"] == 1
    window = [builder.shape(eq.inputs[1])[d] for d in p["dimension_numbers"].rhs_spec[2:]]
    inside = all(max(low, high) <= k - 1 for (low, high), k in zip(p["padding"], window, strict=True))
    return plain and inside


def _transpose_conv(builder: Builder, x: int, w: int, window: _Window, source: str) -> int:
    """A convolution of the image spread by the stride: what TFLite computes with the kernel turned around."""
    n, height, width, _ = builder.shape(x)
    kh, kw, _, out = builder.shape(w)
    sizes = [
        (size - 1) * stride + 1 + low + high - (k - 1)
        for size, stride, (low, high), k in zip((height, width), window.stride, window.padding, (kh, kw), strict=True)
    ]
    attrs: dict[str, Any] = {"stride": window.stride, "pads": window.padding, "activation": None}
    bias = builder.full(0.0, (out,))
    return builder.op("TRANSPOSE_CONV", (x, w, bias), attrs, source, shape=(n, *sizes, out))


class _Window:
    def __init__(self, stride: Sequence[int], padding: Sequence[Sequence[int]], dilation: Sequence[int]) -> None:
        self.stride, self.dilation = tuple(stride), tuple(dilation)
        self.padding = tuple((int(low), int(high)) for low, high in padding)


def _conv_2d(builder: Builder, x: int, w: int, window: _Window, groups: int, source: str) -> int:
    n, height, width, channels = builder.shape(x)
    kh, kw, _, out = builder.shape(w)
    sizes = [
        (size + low + high - dilation * (k - 1) - 1) // stride + 1
        for size, (low, high), dilation, k, stride in zip(
            (height, width), window.padding, window.dilation, (kh, kw), window.stride, strict=True
        )
    ]
    attrs: dict[str, Any] = {"stride": window.stride, "padding": window.padding, "dilation": window.dilation}
    attrs["activation"] = None
    depthwise = groups == channels and groups > 1
    attrs |= {"multiplier": out // channels} if depthwise else {"groups": groups}
    bias = builder.full(0.0, (out,))
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    return builder.op(kind, (x, w, bias), attrs, source, shape=(n, *sizes, out))


def dot_general(builder: Builder, eq: Equation) -> bool:
    """FULLY_CONNECTED, for an activation of any rank by a weight of any rank, on either side; a grouped CONV_2D where
    they share batch axes; BATCH_MATMUL for two activations.
    """
    (left_dims, right_dims), (left_batch, _) = eq.params["dimension_numbers"]
    left, right = eq.inputs
    if {left, right} <= builder.dynamic:
        return _batch_matmul(builder, eq)
    if left_batch:
        return _grouped(builder, eq)
    swapped = right in builder.dynamic
    x, w, x_dims, w_dims = (right, left, right_dims, left_dims) if swapped else (left, right, left_dims, right_dims)
    x, w = builder.resolve(x), builder.resolve(w)
    x_free = [d for d in range(len(builder.shape(x))) if d not in x_dims]
    w_free = [d for d in range(len(builder.shape(w))) if d not in w_dims]
    rows = [builder.shape(x)[d] for d in x_free]
    columns = [builder.shape(w)[d] for d in w_free]
    inner = math.prod(builder.shape(x)[d] for d in x_dims)
    x = builder.reshape(builder.transpose(x, (*x_free, *x_dims), eq.source), (*rows, inner), eq.source)
    w = builder.reshape(builder.transpose(w, (*w_dims, *w_free), eq.source), (inner, math.prod(columns)), eq.source)
    bias = builder.full(0.0, (math.prod(columns),))
    matrix = rows or [1]  # TFLite has no product of a lone vector
    x = builder.reshape(x, (*matrix, inner), eq.source)
    shape = (*matrix, math.prod(columns))
    y = builder.op("FULLY_CONNECTED", (x, w, bias), {"activation": None}, eq.source, shape=shape)
    y = builder.reshape(y, (*rows, *columns), eq.source)
    if swapped:  # the weight's axes come first
        n, m = len(rows), len(columns)
        y = builder.transpose(y, (*range(n, n + m), *range(n)), eq.source)
    builder.becomes(eq.outputs[0], y)
    return True


def _grouped(builder: Builder, eq: Equation) -> bool:
    """A product with a matrix of its own for each place of the batch axes, as in a stack of layers.

    [rows, groups, inner] by [groups, inner, columns] is a convolution of one pixel in groups. BATCH_MATMUL would have
    one scale for all weights; a convolution keeps one for each output channel. A batch axis along which the weight is
    repeated, as learned queries are for every example, is one of the rows.
    """
    (left_dims, right_dims), (left_batch, right_batch) = eq.params["dimension_numbers"]
    left, right = eq.inputs
    sides = [(builder.resolve(left), left_batch, left_dims), (right, right_batch, right_dims)]
    swapped = right in builder.dynamic
    (x, x_batch, x_dims), (w, w_batch, w_dims) = (sides[1], sides[0]) if swapped else sides
    x_free, w_free = _others(builder, x, x_batch, x_dims), _others(builder, w, w_batch, w_dims)
    repeated = _repeated(builder, w, w_batch)
    w = _first(builder, w, repeated)
    own = [i for i, j in zip(x_batch, w_batch, strict=True) if j not in repeated]
    of_rows = sorted({*x_free, *x_batch} - {*own})
    rows, batch, columns = ([builder.shape(v)[d] for d in dims] for v, dims in ((x, of_rows), (x, own), (w, w_free)))
    groups, inner, outer = math.prod(batch), math.prod(builder.shape(x)[d] for d in x_dims), math.prod(columns)
    x = builder.transpose(x, (*of_rows, *own, *x_dims), eq.source)
    w = builder.transpose(w, (*w_dims, *w_batch, *w_free), eq.source)
    x = builder.reshape(x, (*(rows[:1] or [1]), 1, math.prod(rows[1:]), groups * inner), eq.source)
    w = builder.reshape(w, (1, 1, inner, groups * outer), eq.source)
    y = _conv_2d(builder, x, w, _Window((1, 1), ((0, 0), (0, 0)), (1, 1)), groups, eq.source)
    y = builder.reshape(y, (*rows, *batch, *columns), eq.source)
    of_columns = [~d for d in w_free]  # tells the weight's axes from the activation's
    axes = [*of_rows, *own, *of_columns]
    wanted = (*x_batch, *of_columns, *x_free) if swapped else (*x_batch, *x_free, *of_columns)
    builder.becomes(eq.outputs[0], builder.transpose(y, [axes.index(d) for d in wanted], eq.source))
    return True


def _repeated(builder: Builder, w: int, axes: Sequence[int]) -> set[int]:
    """Those of a weight's axes along which it is one matrix again and again, also where that is once."""
    return set() if w not in builder.view.producer else set(axes) - set(builder.varying.axes(w))


def _first(builder: Builder, w: int, axes: set[int]) -> int:
    """The first place of a weight along axes, which stay with size 1."""
    if not axes:
        return w
    index = tuple(slice(0, 1) if d in axes else slice(None) for d in range(len(builder.shape(w))))
    shape = [1 if d in axes else size for d, size in enumerate(builder.shape(w))]
    return builder.weight(lambda whole: whole[index], (w,), shape)


def _batch_matmul(builder: Builder, eq: Equation) -> bool:
    """BATCH_MATMUL of [batch, M, K] by [batch, K, N], both activations.

    The right side has zero point 0 (XNNPACK refuses others): what cannot have it, such as probabilities, goes left.
    """
    (left_dims, right_dims), (left_batch, right_batch) = eq.params["dimension_numbers"]
    left, right = (builder.resolve(v) for v in eq.inputs)
    swapped = _is_offset(builder, right)
    sides = [(left, left_batch, left_dims), (right, right_batch, right_dims)]
    (a, a_batch, a_dims), (b, b_batch, b_dims) = sides[::-1] if swapped else sides
    a_free, b_free = (_others(builder, *side) for side in ((a, a_batch, a_dims), (b, b_batch, b_dims)))
    batch, rows, columns = ([builder.shape(v)[d] for d in dims] for v, dims in ((a, a_batch), (a, a_free), (b, b_free)))
    inner = math.prod(builder.shape(a)[d] for d in a_dims)
    flat = batch if 1 <= len(batch) <= 2 else [math.prod(batch)]
    a = builder.transpose(a, (*a_batch, *a_free, *a_dims), eq.source)
    b = builder.transpose(b, (*b_batch, *b_dims, *b_free), eq.source)
    a = builder.reshape(a, (*flat, math.prod(rows), inner), eq.source)
    b = builder.reshape(b, (*flat, inner, math.prod(columns)), eq.source)
    y = builder.op("BATCH_MATMUL", (a, b), {}, eq.source, shape=(*flat, math.prod(rows), math.prod(columns)))
    y = builder.reshape(y, (*batch, *rows, *columns), eq.source)
    if swapped:
        n, r, c = len(batch), len(rows), len(columns)
        y = builder.transpose(y, (*range(n), *range(n + r, n + r + c), *range(n, n + r)), eq.source)
    builder.becomes(eq.outputs[0], y)
    return True


def _others(builder: Builder, value: int, batch: Sequence[int], dims: Sequence[int]) -> list[int]:
    return [d for d in range(len(builder.shape(value))) if d not in (*batch, *dims)]


def _is_offset(builder: Builder, value: int) -> bool:
    """Whether TFLite prescribes a zero point other than 0 for an activation."""
    op = builder.made.get(value)
    while op is not None and op.kind in {"RESHAPE", "TRANSPOSE"}:
        op = builder.made.get(op.inputs[0])
    return op is not None and op.kind in {"SOFTMAX", "LOGISTIC"}
