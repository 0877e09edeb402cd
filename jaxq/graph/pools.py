"""Pools: windows over the axes between batch and channels, of which there are one or two."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation
from jaxq.graph.unification import Match


def max_pool(builder: Builder, eq: Equation) -> bool:
    """MAX_POOL_2D."""
    attrs = _window(eq)
    if attrs is not None:
        builder.becomes(eq.outputs[0], _pool(builder, eq, "MAX_POOL_2D", eq.inputs[0], attrs))
    return attrs is not None


def min_pool(builder: Builder, eq: Equation) -> bool:
    """MAX_POOL_2D of the negated numbers, negated: TFLite has no other."""
    attrs = _window(eq)
    if attrs is None:
        return False
    negated = _times(builder, eq.inputs[0], -1.0, eq.source)
    pooled = _pool(builder, eq, "MAX_POOL_2D", negated, attrs)
    builder.becomes(eq.outputs[0], _times(builder, pooled, -1.0, eq.source))
    return True


def sum_pool(builder: Builder, eq: Equation) -> bool:
    """AVERAGE_POOL_2D, times the numbers in a window."""
    attrs = _window(eq)
    if attrs is None:
        return False
    mean = _pool(builder, eq, "AVERAGE_POOL_2D", eq.inputs[0], attrs | {"count_padding": True})
    builder.becomes(eq.outputs[0], _times(builder, mean, float(math.prod(attrs["window"])), eq.source))
    return True


def average_pool_1d(builder: Builder, eq: Equation, match: Match) -> None:
    """AVERAGE_POOL_2D of windows over one axis."""
    builder.becomes(eq.outputs[0], _pool(builder, eq, "AVERAGE_POOL_2D", match.inputs[0], match.attrs))


def _window(eq: Equation) -> dict[str, Any] | None:
    """Window, stride and padding over one or two axes; None where TFLite's pools have no such window."""
    window, stride, padding = (tuple(eq.params[k]) for k in ("window_dimensions", "window_strides", "padding"))
    dilated = set(eq.params["base_dilation"]) | set(eq.params["window_dilation"]) != {1}
    if len(window) not in (3, 4) or (window[0], window[-1]) != (1, 1) or dilated:
        return None
    if any(map(any, (padding[0], padding[-1]))) or (stride[0], stride[-1]) != (1, 1):
        return None
    return {"window": window[1:-1], "stride": stride[1:-1], "padding": tuple(map(tuple, padding[1:-1]))}


def _pool(builder: Builder, eq: Equation, kind: str, value: int, attrs: Mapping[str, Any]) -> int:
    """A pool of TFLite's; over rows of one number between RESHAPEs to [N, 1, L, C] and back."""
    shape, value = builder.shape(eq.outputs[0]), builder.resolve(value)
    if len(shape) == 4:
        return builder.op(kind, (value,), attrs, eq.source, shape=shape)
    (n, size, channels), (m, out, _) = builder.shape(value), shape
    flat = {"window": (1,), "stride": (1,), "padding": ((0, 0),)}
    attrs = dict(attrs) | {name: (*first, *attrs[name]) for name, first in flat.items()}
    image = builder.reshape(value, (n, 1, size, channels), eq.source)
    pooled = builder.op(kind, (image,), attrs, eq.source, shape=(m, 1, out, channels))
    return builder.reshape(pooled, shape, eq.source)


def _times(builder: Builder, value: int, number: float, source: str) -> int:
    factor = builder.full(number, builder.shape(value)[-1:])
    return builder.op("AFFINE", (value,), {"mul": factor, "add": None}, source)
