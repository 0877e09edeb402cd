"""Ops that are found by what they mean, however JAX spells them: SOFTMAX and variances; else by `patterns`."""

from __future__ import annotations

from collections.abc import Callable

from jaxq.graph import patterns
from jaxq.graph.ir import Equation, Trace
from jaxq.graph.patterns import VIEWS
from jaxq.graph.unification import Match, View


def find(view: View, eq: Equation) -> Match | None:
    """The op that computes `eq`'s result, if it is one of ours."""
    meant = MEANT[eq.primitive](view, eq) if eq.primitive in MEANT else None
    return meant or patterns.find(view, eq)


def whole(recorded: Trace) -> bool:
    """Whether one op of ours, or a clip, is all that a custom-gradient function computes (so its gradient is ours as
    well).
    """
    if len(recorded.outputs) != 1 or not recorded.equations:
        return False
    view = View(recorded)
    root = view.producer.get(recorded.outputs[0])
    if root is None:
        return False
    match = find(view, root)
    if match is not None:
        return set(match.inputs) <= set(recorded.arguments)
    return all(_is_clip(view, eq) for eq in recorded.equations)


def _is_clip(view: View, eq: Equation) -> bool:
    return eq.primitive in {"max", "min"} and any(view.scalar(v) is not None for v in eq.inputs)


def softmax_of(view: View, eq: Equation) -> Match | None:
    """SOFTMAX, however it is laid out: exp(x - m) over its own sum, for any m that is constant along the axis."""
    total, exponential = view.upstream(eq.inputs[1], "reduce_sum", VIEWS), view.producer.get(eq.inputs[0])
    if total is None or exponential is None or exponential.primitive != "exp" or total.inputs[0] != eq.inputs[0]:
        return None
    rank, axes = len(view.trace.avals[eq.inputs[0]].shape), tuple(int(a) for a in total.params["axes"])
    if len(axes) != 1 or not _constant_along(view, eq.inputs[1], axes[0], rank):
        return None
    shifted = view.producer.get(exponential.inputs[0])
    x = exponential.inputs[0]
    if shifted is not None and shifted.primitive == "sub" and _constant_along(view, shifted.inputs[1], axes[0], rank):
        x = shifted.inputs[0]
    return Match("SOFTMAX", (x,), {"axis": axes[0] - rank})


def _constant_along(view: View, value: int, axis: int, rank: int) -> bool:
    """Whether a value is one number along an axis, because it was broadcast there."""
    eq = view.producer.get(value)
    while eq is not None and eq.primitive in {"stop_gradient", "convert_element_type"}:
        eq = view.producer.get(eq.inputs[0])
    if len(view.trace.avals[value].shape) == rank and view.trace.avals[value].shape[axis] == 1:
        return True
    if eq is None or eq.primitive != "broadcast_in_dim":
        return False
    dimensions = [int(d) for d in eq.params["broadcast_dimensions"]]
    return axis not in dimensions or view.trace.avals[eq.inputs[0]].shape[dimensions.index(axis)] == 1


def variance_of(view: View, eq: Equation) -> Match | None:
    """VARIANCE: the mean of squares less the square of the mean, also where it is kept from being negative.

    It is computed from deviations instead, for that difference of two large numbers has no bits left in int8.
    """
    if eq.primitive == "max":
        operand = next((v for v in eq.inputs if view.scalar(v) is None), None)
        inner = view.producer.get(operand) if operand is not None else None
        floor = any(view.scalar(v) == 0.0 for v in eq.inputs)
        return variance_of(view, inner) if floor and inner is not None and inner.primitive == "sub" else None
    average = _root_of_square(view, eq.inputs[1])
    if average is None:
        return None
    squares, mean = _mean_of(view, eq.inputs[0]), _mean_of(view, average)
    if squares is None or mean is None or squares.attrs != mean.attrs or mean.attrs["keepdims"]:
        return None
    if _root_of_square(view, squares.inputs[0]) != mean.inputs[0]:
        return None
    return Match("VARIANCE", (mean.inputs[0], average), mean.attrs)


def _mean_of(view: View, value: int) -> Match | None:
    eq = view.producer.get(value)
    match = None if eq is None or eq.primitive != "div" else patterns.find(view, eq)
    return match if match is not None and match.kind == "MEAN" else None


def _root_of_square(view: View, value: int) -> int | None:
    eq = view.producer.get(value)
    if eq is None:
        return None
    squared = eq.primitive == "square" or (eq.primitive == "integer_pow" and eq.params["y"] == 2)
    return eq.inputs[0] if squared or (eq.primitive == "mul" and len(set(eq.inputs)) == 1) else None


# Ops that are found by what they mean rather than by how JAX spells them, by the primitive of their result.
MEANT: dict[str, Callable[[View, Equation], Match | None]] = {
    "div": softmax_of,
    "max": variance_of,
    "sub": variance_of,
}
