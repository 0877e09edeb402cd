"""Primitives that move or select numbers: one rule each, `(builder, equation) -> bool`."""

from __future__ import annotations

import math

import numpy as np

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation, with_ones


def reshape(builder: Builder, eq: Equation) -> bool:
    """RESHAPE, for every primitive that only changes the shape."""
    shape = builder.shape(eq.outputs[0])
    reordered = eq.primitive == "reshape" and eq.params.get("dimensions") is not None
    if reordered or math.prod(shape) != math.prod(builder.shape(eq.inputs[0])):
        return False
    builder.becomes(eq.outputs[0], builder.reshape(builder.resolve(eq.inputs[0]), shape, eq.source))
    return True


def broadcast(builder: Builder, eq: Equation) -> bool:
    """BROADCAST_TO, behind a RESHAPE that adds the new axes; RESHAPE alone where nothing grows."""
    if reshape(builder, eq):
        return True
    operand, shape = builder.resolve(eq.inputs[0]), tuple(int(d) for d in eq.params["shape"])
    operand = builder.reshape(operand, with_ones(eq.params, builder.shape(operand)), eq.source)
    builder.op("BROADCAST_TO", (operand,), {"shape": shape}, eq.source, outputs=eq.outputs)
    return True


def tile(builder: Builder, eq: Equation) -> bool:
    """CONCATENATION of copies, axis by axis."""
    value = builder.resolve(eq.inputs[0])
    for axis, count in enumerate(eq.params["reps"]):
        if count == 1:
            continue
        shape = list(builder.shape(value))
        shape[axis] *= int(count)
        value = builder.op("CONCATENATION", (value,) * int(count), {"axis": axis}, eq.source, shape=shape)
    builder.becomes(eq.outputs[0], value)
    return True


def stack(builder: Builder, eq: Equation) -> bool:
    """CONCATENATION along an axis that RESHAPEs add."""
    axis = int(eq.params["axis"])
    if not builder.dynamic.issuperset(eq.inputs):
        return False
    shape = list(builder.shape(eq.outputs[0]))
    shape[axis] = 1
    parts = [builder.reshape(builder.resolve(v), shape, eq.source) for v in eq.inputs]
    builder.op("CONCATENATION", parts, {"axis": axis}, eq.source, outputs=eq.outputs)
    return True


def gather(builder: Builder, eq: Equation) -> bool:
    """GATHER of slices along one axis at constant indices (in bounds, as JAX's indexing makes them)."""
    x, indices = eq.inputs
    numbers, sizes, shape = eq.params["dimension_numbers"], tuple(eq.params["slice_sizes"]), builder.shape(x)
    if indices in builder.dynamic or len(numbers.start_index_map) != 1 or numbers.operand_batching_dims:
        return False
    axis, count = int(numbers.start_index_map[0]), len(builder.shape(indices)) - 1
    whole = tuple(1 if a == axis else size for a, size in enumerate(shape))
    rest = tuple(a for a in range(len(builder.shape(eq.outputs[0]))) if not axis <= a < axis + count)
    if tuple(numbers.collapsed_slice_dims) != (axis,) or sizes != whole or tuple(numbers.offset_dims) != rest:
        return False
    indices = builder.weight(lambda i: i[..., 0], (indices,), builder.shape(indices)[:-1], dtype=np.dtype(np.int32))
    builder.op("GATHER", (x, indices), {"axis": axis}, eq.source, outputs=eq.outputs)
    return True


def dynamic_slice(builder: Builder, eq: Equation) -> bool:
    """SLICE at a constant place."""
    begin = [builder.view.scalar(v) for v in eq.inputs[1:]]
    if any(b is None for b in begin):
        return False
    size = tuple(int(d) for d in eq.params["slice_sizes"])
    limits = [whole - part for whole, part in zip(builder.shape(eq.inputs[0]), size, strict=True)]
    begin = tuple(min(max(int(b or 0), 0), limit) for b, limit in zip(begin, limits, strict=True))
    builder.op("SLICE", eq.inputs[:1], {"begin": begin, "size": size}, eq.source, outputs=eq.outputs)
    return True


def transpose(builder: Builder, eq: Equation) -> bool:
    """TRANSPOSE."""
    builder.becomes(
        eq.outputs[0], builder.transpose(builder.resolve(eq.inputs[0]), eq.params["permutation"], eq.source)
    )
    return True


def concatenate(builder: Builder, eq: Equation) -> bool:
    """CONCATENATION, also with constants; empty arrays add nothing to it."""
    parts = [v for v in eq.inputs if 0 not in builder.shape(v)]
    if len(parts) == 1:
        builder.becomes(eq.outputs[0], builder.resolve(parts[0]))
        return True
    builder.op("CONCATENATION", parts, {"axis": int(eq.params["dimension"])}, eq.source, outputs=eq.outputs)
    return True


def split(builder: Builder, eq: Equation) -> bool:
    """SPLIT into equal parts, else one SLICE a part."""
    axis, sizes = int(eq.params["axis"]), [int(s) for s in eq.params["sizes"]]
    if len(set(sizes)) == 1:
        builder.op("SPLIT", eq.inputs, {"axis": axis, "splits": len(sizes)}, eq.source, outputs=eq.outputs)
        return True
    for i, out in enumerate(eq.outputs):
        if 0 in builder.shape(out):
            continue
        begin = [0] * len(builder.shape(out))
        begin[axis] = sum(sizes[:i])
        builder.op("SLICE", eq.inputs, {"begin": tuple(begin), "size": builder.shape(out)}, eq.source, outputs=(out,))
    return True


def slice(builder: Builder, eq: Equation) -> bool:
    """SLICE, or STRIDED_SLICE with strides."""
    begin, size = tuple(eq.params["start_indices"]), builder.shape(eq.outputs[0])
    strides = tuple(eq.params["strides"] or ())
    if set(strides) <= {1}:
        builder.op("SLICE", eq.inputs, {"begin": begin, "size": size}, eq.source, outputs=eq.outputs)
        return True
    attrs = {"begin": begin, "end": tuple(eq.params["limit_indices"]), "strides": strides}
    builder.op("STRIDED_SLICE", eq.inputs, attrs, eq.source, outputs=eq.outputs)
    return True


def reverse(builder: Builder, eq: Equation) -> bool:
    """REVERSE_V2, one axis at a time: TFLite's kernel takes several only where they are neighbours."""
    value = builder.resolve(eq.inputs[0])
    axes = [int(axis) for axis in eq.params["dimensions"] if builder.shape(value)[int(axis)] != 1]
    for axis in axes[:-1]:
        value = builder.op("REVERSE_V2", (value,), {"axes": (axis,)}, eq.source)
    if not axes:
        builder.becomes(eq.outputs[0], value)
        return True
    builder.op("REVERSE_V2", (value,), {"axes": (axes[-1],)}, eq.source, outputs=eq.outputs)
    return True
