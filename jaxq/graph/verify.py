"""What a legal graph is. `verify` runs after capture and after every rewrite of the plan, in time linear in the graph.

The rules, in the order in which they are checked:

1. Every parameter and constant, every input and every value that is made has a shape and a dtype (`Graph.avals`).
2. A value is made once: by the graph's inputs, by a parameter or constant, by one weight equation or by one op.
3. A weight equation reads parameters, constants and the results of earlier weight equations, never an activation.
4. The kind of every op is known. A FLOAT and a TABLE hold the recorded function that they compute.
5. Names of ops are unique and not empty; every activation has a site name, and no other value has that name.
6. An op reads inputs, weights and results of earlier ops.
7. Of an op with a kernel, the first input is an activation, the kernel and the bias are weights, the bias has one
   number an output channel, and so does the last axis of the output.
8. Shapes agree where the kind of the op determines them (`SHAPES`).
9. The graph's outputs are inputs, weights or results of ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, NoReturn

import numpy as np

from jaxq.errors import GraphError
from jaxq.graph.ir import ELEMENTWISE, WEIGHTED, Graph, Op

# Ops that hold the function that they compute.
RECORDED = frozenset({"FLOAT", "TABLE"})

Shape = tuple[int, ...]
Agrees = Callable[[Mapping[str, Any], Sequence[Shape], Shape], bool]


def _same(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    return inputs[0] == out


def _broadcast(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    try:
        return np.broadcast_shapes(*inputs) == out
    except ValueError:
        return False


def _reshaped(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    return tuple(attrs["shape"]) == out and math.prod(inputs[0]) == math.prod(out)


def _transposed(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    perm = attrs["perm"]
    return sorted(perm) == list(range(len(inputs[0]))) and tuple(inputs[0][axis] for axis in perm) == out


def _concatenated(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    axis = attrs["axis"] % len(out)
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in (*inputs, out)}
    return len(rest) == 1 and sum(shape[axis] for shape in inputs) == out[axis]


def _padded(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    return tuple(size + sum(pads) for size, pads in zip(inputs[0], attrs["pads"], strict=True)) == out


def _multiplied(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    (*_, m, k), (*_, k2, n) = inputs
    return k == k2 and out[-2:] == (m, n)


def _dense(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    return inputs[0][-1] == inputs[1][0] and inputs[0][:-1] == out[:-1]


def _largest(attrs: Mapping[str, Any], inputs: Sequence[Shape], out: Shape) -> bool:
    return out == (*inputs[0][:-1], attrs["k"]) and attrs["k"] <= inputs[0][-1]


# Kinds whose output's shape follows from their inputs' in a line. A TABLE may hold reshapes as well.
SHAPES: Mapping[str, Agrees] = dict.fromkeys(ELEMENTWISE - {"BROADCAST_TO", "TABLE"}, _broadcast) | {
    "AFFINE": _same,
    "BATCH_MATMUL": _multiplied,
    "CONCATENATION": _concatenated,
    "CUMSUM": _same,
    "FULLY_CONNECTED": _dense,
    "PAD": _padded,
    "RESHAPE": _reshaped,
    "REVERSE_V2": _same,
    "SOFTMAX": _same,
    "TOPK_V2": _largest,
    "TRANSPOSE": _transposed,
}


def verify(graph: Graph, after: str, kinds: Container[str] | None = None) -> Graph:
    """Check a graph and return it unchanged.

    Args:
      graph: the graph to check.
      after: the name of the rewrite that made it, for the text of the error.
      kinds: the kinds that an op may have; None to allow any.

    Returns:
      `graph`.

    Raises:
      GraphError: a rule of this module is broken. The text names the op and the rewrite.
    """
    _Check(graph, after, kinds).run()
    return graph


class _Check:
    """One pass over a graph: `weights` and `activations` hold the values made so far."""

    def __init__(self, graph: Graph, after: str, kinds: Container[str] | None) -> None:
        self.graph, self.after, self.kinds = graph, after, kinds
        self.weights: set[int] = set()
        self.activations: set[int] = set()
        self.names: set[str] = set()

    def run(self) -> None:
        for value in (*self.graph.params, *self.graph.constants):
            self.weights.add(self._known(value, "the parameters"))
        for value in self.graph.inputs:
            self._make(value, "the inputs", self.activations)
        for i, eq in enumerate(self.graph.weights):
            where = f"weight equation {i} ({eq.primitive})"
            self._reads(eq.inputs, (self.weights,), where, "weights made before it")
            for value in eq.outputs:
                self._make(value, where, self.weights)
        for op in self.graph.ops:
            self._op(op)
        self._reads(self.graph.outputs, (self.weights, self.activations), "the outputs", "values that exist")
        self._sites()

    def _op(self, op: Op) -> None:
        where = f"{op.name or 'an op without a name'} ({op.kind})"
        if self.kinds is not None and op.kind not in self.kinds:
            self._fail(f"{where} has a kind that is not in the op catalogue")
        if op.kind in RECORDED and op.call is None:
            self._fail(f"{where} has no recorded function")
        if not op.name or op.name in self.names:
            self._fail(f"{where} has a name that is {'given twice' if op.name else 'empty'}")
        self.names.add(op.name)
        self._reads(op.inputs, (self.weights, self.activations), where, "values made before it")
        if op.kind in WEIGHTED:
            self._weighted(op, where)
        for value in op.outputs:
            self._make(value, where, self.activations)
        inputs, outputs = ([self.graph.avals[v].shape for v in values] for values in (op.inputs, op.outputs))
        if op.kind in SHAPES and not SHAPES[op.kind](op.attrs, inputs, outputs[0]):
            self._fail(f"{where} makes {outputs} of {inputs}, which disagrees with its attributes {dict(op.attrs)}")

    def _weighted(self, op: Op, where: str) -> None:
        if len(op.inputs) != 3:
            self._fail(f"{where} has {len(op.inputs)} inputs, not an activation, a kernel and a bias")
        x, *weights = op.inputs
        if x not in self.activations:
            self._fail(f"{where} reads value {x}, a weight, as its activation")
        self._reads(weights, (self.weights,), where, "weights (its kernel and its bias)")
        kernel, bias, out = ((1, *self.graph.avals[v].shape)[-1:] for v in (*weights, *op.outputs))  # a scalar has one
        if not kernel == bias == out:
            self._fail(f"{where} has {kernel} channels in its kernel, {bias} in its bias, {out} in its output")

    def _known(self, value: int, where: str) -> int:
        if value not in self.graph.avals:
            self._fail(f"{where}: value {value} has no shape and dtype")
        return value

    def _make(self, value: int, where: str, into: set[int]) -> None:
        self._known(value, where)
        if value in self.weights or value in self.activations:
            self._fail(f"{where}: value {value} is made a second time")
        into.add(value)

    def _reads(self, values: Sequence[int], allowed: Sequence[set[int]], where: str, what: str) -> None:
        for value in values:
            if not any(value in made for made in allowed):
                self._fail(f"{where} reads value {value}, which is not among the {what}")

    def _sites(self) -> None:
        seen: dict[str, int] = {}
        for value in self.activations:
            name = self.graph.site_names.get(value)
            if not name:
                self._fail(f"value {value}, an activation, has no site name")
            if name in seen:
                self._fail(f"the site name {name} is given to the values {seen[name]} and {value}")
            seen[name] = value

    def _fail(self, what: str) -> NoReturn:
        raise GraphError(
            f"After {self.after} the graph is not legal: {what}. This is a fault of jaxq, not of the model. Report it "
            "with the model and the recipe."
        )
