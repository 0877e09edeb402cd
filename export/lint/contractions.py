"""Rules of convolutions and dense layers: their weights and their biases."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import (
    SMALLEST_NORMAL,
    contractions,
    index_at,
    is_integer,
    of_kinds,
    read_at,
    scale_of,
    zero_points,
)
from jaxq.export.program import Program, Tensor

TOLERANCE = 1e-6  # relative; a float32 product is within 6e-8
BIAS_DTYPES = {"int8": ("int32",), "uint8": ("int32",), "int16": ("int32", "int64")}


def bias_scale(program: Program) -> Iterator[Spot]:
    """`s_bias = s_x s_w`, for each channel."""
    for i, op, at in contractions(program):
        x, w, b = (read_at(program, op, position) for position in (at.x, at.weights, at.bias))
        s_x = scale_of(x)
        if is_integer(x) and s_x is not None and w is not None and w.quantization and b is not None:
            fact = _difference(np.float64(s_x) * w.quantization.scale, b)
            if fact:
                yield Spot(fact, i, index_at(op, at.bias))


def _difference(wanted: np.ndarray, bias: Tensor) -> str | None:
    """What is wrong with a bias's scale. Products that are no normal number are left to the rules on scales."""
    if bias.quantization is None:
        return f"has no scale; s_x s_w is {wanted[0]:.9g}"
    scale = bias.quantization.scale
    if 1 < scale.size != wanted.size > 1:
        return f"has {scale.size:,} scales, the weights {wanted.size:,}"
    normal = np.isfinite(wanted) & (wanted >= SMALLEST_NORMAL)
    off = np.where(normal, np.abs(scale - wanted) / wanted, 0)
    worst = int(np.argmax(np.where(np.isnan(off), np.inf, off)))
    if off[worst] <= TOLERANCE:
        return None
    has, wants = (values[min(worst, values.size - 1)] for values in (scale, wanted))
    return f"has scale {has:.9g} where s_x s_w is {wants:.9g} (channel {worst})"


def bias_zero_point(program: Program) -> Iterator[Spot]:
    """Zero points of biases are 0."""
    for i, op, at in contractions(program):
        b = read_at(program, op, at.bias)
        if b is not None and zero_points(b).any():
            yield Spot(
                f"has zero point {int(zero_points(b)[np.argmax(zero_points(b) != 0)])}", i, index_at(op, at.bias)
            )


def bias_type(program: Program) -> Iterator[Spot]:
    """A bias is int32, or int64 beside int16 activations."""
    for i, op, at in contractions(program):
        x, b = read_at(program, op, at.x), read_at(program, op, at.bias)
        if x is not None and b is not None and b.dtype not in BIAS_DTYPES.get(x.dtype, (b.dtype,)):
            yield Spot(f"is {b.dtype} beside {x.dtype} activations", i, index_at(op, at.bias))


def bias_missing(program: Program) -> Iterator[Spot]:
    """CONV_2D has three inputs."""
    for i, op in of_kinds(program, "CONV_2D"):
        if index_at(op, 2) is None:
            yield Spot("has no bias", i)


def weight_zero_point(program: Program) -> Iterator[Spot]:
    """Signed weights of convolutions have zero point 0."""
    return _asymmetric(program, "CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV")


def dense_zero_point(program: Program) -> Iterator[Spot]:
    """Signed weights of FULLY_CONNECTED have zero point 0."""
    return _asymmetric(program, "FULLY_CONNECTED")


def _asymmetric(program: Program, *kinds: str) -> Iterator[Spot]:
    for i, op in of_kinds(program, *kinds):
        w = read_at(program, op, 1)
        if w is not None and is_integer(w, "int8", "int4") and zero_points(w).any():
            yield Spot(f"has zero point {int(zero_points(w)[np.argmax(zero_points(w) != 0)])}", i, index_at(op, 1))


def weight_range(program: Program) -> Iterator[Spot]:
    """int8 weights are in [-127, 127]."""
    counts: dict[tuple[int, int], int] = {}  # tensors may share a buffer: each is counted once
    for i, op, at in contractions(program):
        w = read_at(program, op, at.weights)
        if w is not None and w.data is not None and is_integer(w, "int8"):
            key = w.data.__array_interface__["data"][0], w.data.size
            if key not in counts:
                counts[key] = int(np.count_nonzero(w.data == -128))
            if counts[key]:
                yield Spot(f"holds -128 {counts[key]:,} times", i, index_at(op, at.weights))


def weight_axis(program: Program) -> Iterator[Spot]:
    """Scales per channel run along the output channels."""
    for i, op, at in contractions(program):
        w = read_at(program, op, at.weights)
        if w is not None and w.quantization and w.quantization.per_channel and w.quantization.axis != at.axis:
            spot = f"has its {w.quantization.scale.size} scales along axis {w.quantization.axis}, not {at.axis}"
            yield Spot(spot, i, index_at(op, at.weights))
