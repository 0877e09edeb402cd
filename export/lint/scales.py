"""Rules of quantization parameters: of one tensor, of the tensors that an operator ties, of those it fixes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import (
    LIMITS,
    SMALLEST_NORMAL,
    first_output,
    is_integer,
    of_kinds,
    parameters_text,
    scale_of,
    written,
    zero_point_of,
    zero_points,
)
from jaxq.export.program import Operator, Program, Quantization

# Kind and dtype -> scale, zero point, relative tolerance of the scale.
FIXED: dict[tuple[str, str], tuple[float, int, float]] = {
    ("SOFTMAX", "int8"): (1 / 256, -128, 1e-3),
    ("SOFTMAX", "uint8"): (1 / 256, 0, 1e-3),
    ("SOFTMAX", "int16"): (1 / 32768, 0, 1e-3),
    ("LOGISTIC", "int8"): (1 / 256, -128, 0),
    ("LOGISTIC", "uint8"): (1 / 256, 0, 0),
    ("LOGISTIC", "int16"): (1 / 32768, 0, 0),
    ("TANH", "int8"): (1 / 128, 0, 0),
    ("TANH", "uint8"): (1 / 128, 128, 0),
    ("TANH", "int16"): (1 / 32768, 0, 0),
    ("L2_NORMALIZATION", "int8"): (1 / 128, 0, 1e-3),
    ("L2_NORMALIZATION", "uint8"): (1 / 128, 128, 1e-3),
    ("LOG_SOFTMAX", "int8"): (16 / 256, 127, 1e-3),
    ("LOG_SOFTMAX", "uint8"): (16 / 256, 255, 1e-3),
}

# Operators that copy or select integers, and which of their inputs they do it to; None is all of them.
COPIES: dict[str, Sequence[int] | None] = {
    "AVERAGE_POOL_2D": (0,),
    "BATCH_TO_SPACE_ND": (0,),
    "BROADCAST_TO": (0,),
    "CONCATENATION": None,
    "DEPTH_TO_SPACE": (0,),
    "EXPAND_DIMS": (0,),
    "GATHER": (0,),
    "GATHER_ND": (0,),
    "MAXIMUM": (0, 1),
    "MAX_POOL_2D": (0,),
    "MINIMUM": (0, 1),
    "MIRROR_PAD": (0,),
    "PACK": None,
    "PAD": (0,),
    "PADV2": (0, 2),
    "REDUCE_MAX": (0,),
    "REDUCE_MIN": (0,),
    "RESHAPE": (0,),
    "RESIZE_BILINEAR": (0,),
    "RESIZE_NEAREST_NEIGHBOR": (0,),
    "REVERSE_V2": (0,),
    "SELECT": (1, 2),
    "SELECT_V2": (1, 2),
    "SLICE": (0,),
    "SPACE_TO_BATCH_ND": (0,),
    "SPACE_TO_DEPTH": (0,),
    "SPLIT": (1,),
    "SPLIT_V": (0,),
    "SQUEEZE": (0,),
    "STRIDED_SLICE": (0,),
    "TILE": (0,),
    "TRANSPOSE": (0,),
    "UNPACK": (0,),
}

# Operators whose integer kernels compute with scales, and which of their inputs have them.
SCALED: dict[str, Sequence[int]] = {
    **dict.fromkeys(("ADD", "BATCH_MATMUL", "DIV", "MUL", "PRELU", "SQUARED_DIFFERENCE", "SUB"), (0, 1)),
    **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), (0, 1)),
    "TRANSPOSE_CONV": (1, 2),
    **dict.fromkeys(("ABS", "ELU", "EXP", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC", "MEAN"), (0,)),
    **dict.fromkeys(("L2_NORMALIZATION", "LOG_SOFTMAX", "SOFTMAX", "SQRT", "RSQRT", "SUM", "TANH"), (0,)),
    **dict.fromkeys(("RELU", "RELU6", "RELU_N1_TO_1", "QUANTIZE", "DEQUANTIZE"), (0,)),
}


def invalid(program: Program) -> Iterator[Spot]:
    """Scales are finite and positive."""
    for t, tensor in enumerate(program.tensors):
        if tensor.quantization:
            scale = tensor.quantization.scale
            bad = ~(np.isfinite(scale) & (scale > 0))
            if bad.any():
                yield Spot(f"has scale {scale[np.argmax(bad)]:g} (of {scale.size:,}, {int(bad.sum()):,} so)", None, t)


def denormal(program: Program) -> Iterator[Spot]:
    """Scales are normal float32. Those of int32 biases are not read by kernels."""
    for t, tensor in enumerate(program.tensors):
        if tensor.quantization and tensor.dtype != "int32":
            scale = tensor.quantization.scale
            bad = (scale > 0) & (scale < SMALLEST_NORMAL)
            if bad.any():
                yield Spot(f"has scale {scale[np.argmax(bad)]:.3g}, below 2^-126", None, t)


def zero_point(program: Program) -> Iterator[Spot]:
    """Zero points lie in their dtype; those of int16 are 0."""
    for t, tensor in enumerate(program.tensors):
        if tensor.dtype in LIMITS:
            low, high = (0, 0) if tensor.dtype == "int16" else LIMITS[tensor.dtype]
            points = zero_points(tensor)
            bad = (points < low) | (points > high)
            if bad.any():
                yield Spot(f"is {tensor.dtype} with zero point {int(points[np.argmax(bad)])}", None, t)


def missing(program: Program) -> Iterator[Spot]:
    """What an integer kernel computes with has a scale."""
    seen: set[int] = set()
    for i, op in of_kinds(program, *SCALED):
        for t in [*(op.inputs[p] for p in SCALED[op.kind] if p < len(op.inputs)), *op.outputs]:
            if t >= 0 and t not in seen and is_integer(program.tensors[t]) and not _has_scale(program, t):
                seen.add(t)
                yield Spot(f"is {program.tensors[t].dtype} and has no scale", i, t)


def _has_scale(program: Program, tensor: int) -> bool:
    q = program.tensors[tensor].quantization
    return q is not None and q.scale.size > 0


def per_channel(program: Program) -> Iterator[Spot]:
    """What is computed has one scale."""
    for t, tensor in enumerate(program.tensors):
        if tensor.data is None and tensor.quantization and tensor.quantization.per_channel:
            yield Spot(f"is computed at run time and has {tensor.quantization.scale.size:,} scales", None, t)


def fixed(program: Program) -> Iterator[Spot]:
    """Outputs whose parameters the kernel has built in."""
    for i, op in of_kinds(program, *{kind for kind, _ in FIXED}):
        y = written(program, op)
        has, wanted = scale_of(y), None if y is None else FIXED.get((op.kind, y.dtype))
        if y is not None and has is not None and wanted is not None:
            scale, point, tolerance = wanted
            if abs(has - scale) > tolerance * scale or zero_point_of(y) != point:
                yield Spot(f"has {parameters_text(y)}; the kernel has {scale:.9g} and {point}", i, first_output(op))


def tied(program: Program) -> Iterator[Spot]:
    """Operators that copy integers have one scale and one zero point at both ends."""
    for i, op in of_kinds(program, *COPIES):
        y = written(program, op)
        for t in _copied(op) if y is not None and is_integer(y) else ():
            tensor = program.tensors[t]
            if y is not None and tensor.dtype == y.dtype and not _equal(tensor.quantization, y.quantization):
                yield Spot(f"has {parameters_text(tensor)}; the output has {parameters_text(y)}", i, t)


def _copied(op: Operator) -> list[int]:
    """The tensors that must be as the first output is."""
    positions = COPIES[op.kind]
    inputs = op.inputs if positions is None else [op.inputs[p] for p in positions if p < len(op.inputs)]
    return [t for t in dict.fromkeys([*inputs, *op.outputs[1:]]) if t >= 0]


def _equal(a: Quantization | None, b: Quantization | None) -> bool:
    """Whether both are absent, or equal in every bit."""
    if a is None or b is None:
        return a is b
    return np.array_equal(a.scale, b.scale, equal_nan=True) and np.array_equal(a.zero_point, b.zero_point)
