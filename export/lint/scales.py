"""Rules of quantization parameters: of one tensor, of the tensors that an operator ties, of those it fixes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import (
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
from jaxq.export.operators import OPERATORS, positions, prescribed_scale
from jaxq.export.program import LIMITS, Operator, Program, Quantization


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
    for i, op in of_kinds(program, *(kind for kind, facts in OPERATORS.items() if facts.scaled)):
        read = [op.inputs[p] for p in positions(OPERATORS[op.kind].scaled, op.inputs)]
        for t in [*read, *op.outputs]:
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
    for i, op in of_kinds(program, *(kind for kind, facts in OPERATORS.items() if facts.scale)):
        y = written(program, op)
        has, wanted = scale_of(y), None if y is None else prescribed_scale(op.kind, y.dtype)
        if y is not None and has is not None and wanted is not None:
            scale, point, tolerance = wanted
            if abs(has - scale) > tolerance * scale or zero_point_of(y) != point:
                yield Spot(f"has {parameters_text(y)}; the kernel has {scale:.9g} and {point}", i, first_output(op))


def tied(program: Program) -> Iterator[Spot]:
    """Operators that copy integers have one scale and one zero point at both ends."""
    for i, op in of_kinds(program, *(kind for kind, facts in OPERATORS.items() if facts.copies)):
        y = written(program, op)
        for t in _copied(op) if y is not None and is_integer(y) else ():
            tensor = program.tensors[t]
            if y is not None and tensor.dtype == y.dtype and not _equal(tensor.quantization, y.quantization):
                yield Spot(f"has {parameters_text(tensor)}; the output has {parameters_text(y)}", i, t)


def _copied(op: Operator) -> list[int]:
    """The tensors that must be as the first output is."""
    inputs = [op.inputs[p] for p in positions(OPERATORS[op.kind].copies, op.inputs)]
    return [t for t in dict.fromkeys([*inputs, *op.outputs[1:]]) if t >= 0]


def _equal(a: Quantization | None, b: Quantization | None) -> bool:
    """Whether both are absent, or equal in every bit."""
    if a is None or b is None:
        return a is b
    return np.array_equal(a.scale, b.scale, equal_nan=True) and np.array_equal(a.zero_point, b.zero_point)
