"""Primitives that move or select numbers, and pooling: one rule each, `(builder, equation) -> bool`."""

from __future__ import annotations

import math
from typing import Any

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation


def reshape(builder: Builder, eq: Equation) -> bool:
    """RESHAPE, for every primitive that only changes the shape."""
    shape = builder.shape(eq.outputs[0])
    reordered = eq.primitive == "reshape" and eq.params.get("dimensions") is not None
    if reordered or math.prod(shape) != math.prod(builder.shape(eq.inputs[0])):
        return False
    builder.becomes(eq.outputs[0], builder.reshape(builder.resolve(eq.inputs[0]), shape, eq.source))
    return True


def transpose(builder: Builder, eq: Equation) -> bool:
    """TRANSPOSE."""
    builder.becomes(
        eq.outputs[0], builder.transpose(builder.resolve(eq.inputs[0]), eq.params["permutation"], eq.source)
    )
    return True


def concatenate(builder: Builder, eq: Equation) -> bool:
    """CONCATENATION of activations."""
    if not builder.dynamic.issuperset(eq.inputs):
        return False
    builder.op("CONCATENATION", eq.inputs, {"axis": int(eq.params["dimension"])}, eq.source, outputs=eq.outputs)
    return True


def split(builder: Builder, eq: Equation) -> bool:
    """SPLIT into equal parts, else one SLICE a part."""
    axis, sizes = int(eq.params["axis"]), [int(s) for s in eq.params["sizes"]]
    if len(set(sizes)) == 1:
        builder.op("SPLIT", eq.inputs, {"axis": axis, "splits": len(sizes)}, eq.source, outputs=eq.outputs)
        return True
    for i, out in enumerate(eq.outputs):
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


def pad(builder: Builder, eq: Equation) -> bool:
    """PAD with zeros, not between elements nor negative."""
    config = eq.params["padding_config"]
    if builder.view.scalar(eq.inputs[1]) != 0.0 or any(low < 0 or high < 0 or inner for low, high, inner in config):
        return False
    pads = tuple((int(low), int(high)) for low, high, _ in config)
    builder.op("PAD", eq.inputs[:1], {"pads": pads}, eq.source, outputs=eq.outputs)
    return True


def max_pool(builder: Builder, eq: Equation) -> bool:
    """MAX_POOL_2D of NHWC windows."""
    window, stride, padding = (tuple(eq.params[k]) for k in ("window_dimensions", "window_strides", "padding"))
    dilated = set(eq.params["base_dilation"]) | set(eq.params["window_dilation"]) != {1}
    if len(window) != 4 or (window[0], window[3]) != (1, 1) or dilated:
        return False
    attrs: dict[str, Any] = {"window": window[1:3], "stride": stride[1:3], "padding": tuple(map(tuple, padding[1:3]))}
    builder.op("MAX_POOL_2D", eq.inputs, attrs, eq.source, outputs=eq.outputs)
    return True
