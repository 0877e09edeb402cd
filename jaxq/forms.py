"""Ops that a target has no kernel for, in other ops that mean the same: chosen in the plan, trained in that form."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.graph import Aval, Equation, Graph, Op


class _Draft:
    """A graph that gets further values."""

    def __init__(self, graph: Graph) -> None:
        self.avals, self.names = dict(graph.avals), dict(graph.site_names)
        self.weights = list(graph.weights)

    def value(self, like: int, name: str) -> int:
        new = max(self.avals) + 1
        self.avals[new], self.names[new] = self.avals[like], name
        return new

    def vector(self, number: float, channels: int) -> int:
        new = max(self.avals) + 1
        self.avals[new] = Aval((channels,), np.dtype(np.float32))

        def call() -> Any:
            return [np.full(channels, number, np.float32)]

        self.weights.append(Equation("weight", (), (new,), {}, call))
        return new


def _affine(draft: _Draft, op: Op, name: str, mul: float, add: float, bounds: tuple[float, float] | None) -> Op:
    x, shape = op.inputs[0], draft.avals[op.inputs[0]].shape
    channels = shape[-1] if shape else 1
    inputs = (x, draft.vector(mul, channels), draft.vector(add, channels))
    return Op("AFFINE", name, inputs, (draft.value(x, name),), {"activation": bounds}, op.source)


def _of_two(op: Op, kind: str, first: Op) -> Sequence[Op]:
    """`first`, and the op of this kind of the input and of what `first` makes of it."""
    return first, dataclasses.replace(op, kind=kind, inputs=(op.inputs[0], *first.outputs), attrs={"form": op.kind})


def _hard_swish(draft: _Draft, op: Op) -> Sequence[Op]:
    """`x * clip(x / 6 + 1/2, 0, 1)`."""
    return _of_two(op, "MUL", _affine(draft, op, f"{op.name}:gate", 1 / 6, 0.5, (0.0, 1.0)))


def _leaky_relu(draft: _Draft, op: Op) -> Sequence[Op]:
    """`max(x, alpha x)`, for alpha up to 1."""
    slope = _affine(draft, op, f"{op.name}:slope", float(op.attrs["alpha"]), 0.0, None)
    return slope, dataclasses.replace(
        op, kind="MAXIMUM", inputs=(op.inputs[0], *slope.outputs), attrs={"form": op.kind}
    )


FORMS: Mapping[str, Callable[[_Draft, Op], Sequence[Op]]] = {"HARD_SWISH": _hard_swish, "LEAKY_RELU": _leaky_relu}


def meaning(kind: str) -> str:
    """What the form of an op computes."""
    return (FORMS[kind].__doc__ or "").strip().rstrip(".").replace("`", "")


def has_form(op: Op) -> bool:
    """Whether there is another form of an op."""
    return op.kind in FORMS and op.attrs.get("alpha", 0.0) <= 1.0


def composed(graph: Graph, kinds: frozenset[str]) -> Graph:
    """The graph with every op of these kinds in its other form; `graph` itself where there is none."""
    if not any(op.kind in kinds and has_form(op) for op in graph.ops):
        return graph
    draft, ops = _Draft(graph), []
    for op in graph.ops:
        ops.extend(FORMS[op.kind](draft, op) if op.kind in kinds and has_form(op) else [op])
    return dataclasses.replace(
        graph, avals=draft.avals, site_names=draft.names, weights=tuple(draft.weights), ops=tuple(ops)
    )
