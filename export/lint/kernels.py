"""Rules of kernels: where one is known to be wrong, to abort, or to be left for another with other arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import (
    first_output,
    index_at,
    is_integer,
    of_kinds,
    parameters_text,
    read_at,
    scale_of,
    written,
    zero_points,
)
from jaxq.export.operators import ADD_SHIFT, CONTRACTIONS
from jaxq.export.program import Operator, Program

MANY_CLASSES = 512


def add_aborts(program: Program) -> Iterator[Spot]:
    """ADD needs `2 max(s_1, s_2) < 2^20 s_y`."""
    for i, op in of_kinds(program, "ADD"):
        ratio = _add_ratio(program, op)
        if ratio is not None and ratio >= 1:
            yield Spot(f"has 2 max(s_1, s_2) / (2^20 s_y) = {ratio:.4g}", i, first_output(op))


def _add_ratio(program: Program, op: Operator) -> float | None:
    scales, y = _scales(program, op, 2), written(program, op)
    if scales is None or y is None or y.dtype not in ADD_SHIFT:
        return None
    *inputs, out = scales
    return 2 * max(inputs) / (2.0 ** ADD_SHIFT[y.dtype] * out)


def squared_difference_aborts(program: Program) -> Iterator[Spot]:
    """SQUARED_DIFFERENCE needs `(2 max(s_1, s_2))^2 < 2^14 s_y`."""
    for i, op in of_kinds(program, "SQUARED_DIFFERENCE"):
        scales = _scales(program, op, 2)
        ratio = 0 if scales is None else (2 * max(scales[:2])) ** 2 / (2.0**14 * scales[2])
        if ratio >= 1:
            yield Spot(f"has (2 max(s_1, s_2))^2 / (2^14 s_y) = {ratio:.4g}", i, first_output(op))


def hard_swish_refused(program: Program) -> Iterator[Spot]:
    """HARD_SWISH needs `s_x < 128 s_y`."""
    for i, op in of_kinds(program, "HARD_SWISH"):
        scales = _scales(program, op, 1)
        if scales is not None and scales[0] >= 128 * scales[1]:
            yield Spot(f"has s_x / (128 s_y) = {scales[0] / 128 / scales[1]:.4g}", i, first_output(op))


def window(program: Program) -> Iterator[Spot]:
    """Ratios of scales that XNNPACK's 8-bit kernels take."""
    for i, op in of_kinds(program, *RATIOS):
        for what, exact, low, high in RATIOS[op.kind](program, op):
            ratio = _float32(exact)  # as the delegate computes it
            if not low <= ratio < high:
                yield Spot(f"has {what} = {ratio:.4g}, outside [{low:.4g}, {high:g})", i, first_output(op))


def _float32(x: float) -> float:
    return float(np.float32(x))


# What is bounded, its value, the least allowed, the first that is too large.
Ratio = tuple[str, float, float, float]
CONVERTS = 2.0**-8, float(np.nextafter(2.0**7, np.inf))  # both ends are allowed


def _product(program: Program, op: Operator) -> list[Ratio]:
    scales = _scales(program, op, 2)
    return [] if scales is None else [("s_1 s_2 / s_y", _float32(scales[0] * scales[1]) / scales[2], 2.0**-16, 2.0**8)]


def _sum(program: Program, op: Operator) -> list[Ratio]:
    scales, aborts = _scales(program, op, 2), op.kind == "ADD" and (_add_ratio(program, op) or 0) >= 1
    if scales is None or aborts:
        return []
    return [(f"s_{k} / s_y", s / scales[2], 2.0**-10, 2.0**8) for k, s in enumerate(scales[:2], 1)]


def _conversion(program: Program, op: Operator) -> list[Ratio]:
    """QUANTIZE within one type, and both slopes of LEAKY_RELU."""
    scales, x, y = _scales(program, op, 1), read_at(program, op), written(program, op)
    if scales is None or x is None or y is None or x.dtype != y.dtype:
        return []
    ratio, slope = scales[0] / scales[1], op.options.get("alpha")
    found = [("s_x / s_y", ratio, *CONVERTS)]
    return [*found, ("alpha s_x / s_y", ratio * abs(slope), *CONVERTS)] if isinstance(slope, float) else found


def _contraction(program: Program, op: Operator) -> list[Ratio]:
    at = CONTRACTIONS[op.kind]
    x, w, y = read_at(program, op, at.x), read_at(program, op, at.weights), written(program, op)
    s_x, s_y = scale_of(x), scale_of(y)
    if s_x is None or s_y is None or w is None or w.quantization is None or not is_integer(y, "int8"):
        return []
    product = _float32(s_x * float(w.quantization.scale.max()))
    return [("the largest s_x s_w / s_y", product / s_y, 0.0, 2.0**8)] if np.isfinite(product) else []


def _scales(program: Program, op: Operator, inputs: int) -> list[float] | None:
    """The scales of the first inputs and of the output; None unless all are 8-bit and have one valid scale."""
    tensors = [*(read_at(program, op, position) for position in range(inputs)), written(program, op)]
    found = [scale_of(tensor) for tensor in tensors if is_integer(tensor)]
    known = [scale for scale in found if scale is not None]
    return known if len(known) == len(tensors) else None


RATIOS: dict[str, Callable[[Program, Operator], list[Ratio]]] = {
    "ADD": _sum,
    "CONV_2D": _contraction,
    "DEPTHWISE_CONV_2D": _contraction,
    "FULLY_CONNECTED": _contraction,
    "LEAKY_RELU": _conversion,
    "MUL": _product,
    "QUANTIZE": _conversion,
    "SUB": _sum,
    "TRANSPOSE_CONV": _contraction,
}


def sum_on_reference(program: Program) -> Iterator[Spot]:
    """SUM of int8."""
    for i, op in of_kinds(program, "SUM"):
        if is_integer(read_at(program, op), "int8"):
            yield Spot("sums int8", i, first_output(op))


def matmul_zero_point(program: Program) -> Iterator[Spot]:
    """The right operand of BATCH_MATMUL has zero point 0."""
    for i, op in of_kinds(program, "BATCH_MATMUL"):
        right = read_at(program, op, 1)
        if right is not None and is_integer(right, "int8") and zero_points(right).any():
            yield Spot(f"is the right operand, with zero point {int(zero_points(right)[0])}", i, index_at(op, 1))


def softmax_classes(program: Program) -> Iterator[Spot]:
    """SOFTMAX of fewer than 512 classes."""
    for i, op in of_kinds(program, "SOFTMAX"):
        x = read_at(program, op)
        if x is not None and is_integer(x, "int8", "uint8") and x.shape and x.shape[-1] >= MANY_CLASSES:
            yield Spot(f"has {x.shape[-1]:,} classes", i, index_at(op, 0))


def sqrt_truncates(program: Program) -> Iterator[Spot]:
    """SQRT of int8."""
    for i, op in of_kinds(program, "SQRT"):
        if is_integer(read_at(program, op), "int8"):
            yield Spot("truncates", i, first_output(op))


def relu6_rescales(program: Program) -> Iterator[Spot]:
    """RELU6 has one scale and zero point at both ends."""
    for i, op in of_kinds(program, "RELU6"):
        x, y = read_at(program, op), written(program, op)
        if x is not None and y is not None and is_integer(x, "int8") and is_integer(y, "int8"):
            ends = [(t.quantization.scale[0], t.quantization.zero_point[0]) for t in (x, y) if t.quantization]
            if len(set(ends)) == 2:
                yield Spot(f"has {parameters_text(x)}; the output has {parameters_text(y)}", i, index_at(op, 0))


def bilinear_differs(program: Program) -> Iterator[Spot]:
    """RESIZE_BILINEAR of int8."""
    for i, op in of_kinds(program, "RESIZE_BILINEAR"):
        if is_integer(read_at(program, op), "int8"):
            yield Spot("resizes int8", i, first_output(op))
