"""The graph verifier: every rule catches a graph that breaks it, and names the op and the rewrite."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from jaxq.errors import GraphError
from jaxq.graph import Aval, Equation, Graph, Op, capture, verify
from jaxq.graph.verify import WEIGHTED
from jaxq.ops import OPS
from jaxq.plan.make_plan import DECISIONS, REWRITES
from tests.zoo import ZOO

FLOAT = np.dtype(np.float32)
X, W, B, DENSE, FLAT, SUM = range(6)


def legal() -> Graph:
    """input [1, 2, 3] -> FULLY_CONNECTED [1, 2, 4] -> RESHAPE [1, 8] -> ADD of itself."""
    shapes = {X: (1, 2, 3), W: (3, 4), B: (4,), DENSE: (1, 2, 4), FLAT: (1, 8), SUM: (1, 8)}
    ops = (
        Op("FULLY_CONNECTED", "w", (X, W, B), (DENSE,), {"activation": None}),
        Op("RESHAPE", "reshape", (DENSE,), (FLAT,), {"shape": (1, 8)}),
        Op("ADD", "add", (FLAT, FLAT), (SUM,), {"activation": None}),
    )
    bias = Equation("weight", (), (B,), {}, lambda: [jnp.zeros(4)])
    names = {X: "input", DENSE: "w:out", FLAT: "reshape", SUM: "add"}
    avals = {v: Aval(shape, FLOAT) for v, shape in shapes.items()}
    return Graph(avals, (X,), {W: "w"}, {}, (bias,), ops, (SUM,), names)


def with_op(index: int, **changes: Any) -> Callable[[Graph], Graph]:
    def broken(graph: Graph) -> Graph:
        ops = list(graph.ops)
        ops[index] = dataclasses.replace(ops[index], **changes)
        return dataclasses.replace(graph, ops=tuple(ops))

    return broken


def with_field(**changes: Any) -> Callable[[Graph], Graph]:
    return lambda graph: dataclasses.replace(graph, **changes)


def reshaped(value: int, shape: tuple[int, ...]) -> Callable[[Graph], Graph]:
    return lambda graph: dataclasses.replace(graph, avals={**graph.avals, value: Aval(shape, FLOAT)})


def without(field: str, value: int) -> Callable[[Graph], Graph]:
    return lambda graph: dataclasses.replace(
        graph, **{field: {k: v for k, v in getattr(graph, field).items() if k != value}}
    )


BROKEN: dict[str, tuple[Callable[[Graph], Graph], str]] = {
    "a value without a shape": (without("avals", FLAT), r"reshape \(RESHAPE\): value 4 has no shape and dtype"),
    "a parameter without a shape": (without("avals", W), "the parameters: value 1 has no shape and dtype"),
    "a value made twice": (with_op(2, outputs=(FLAT,)), r"add \(ADD\): value 4 is made a second time"),
    "an equation of an activation": (
        with_field(weights=(Equation("mul", (X, W), (B,), {}, lambda: []),)),
        r"weight equation 0 \(mul\) reads value 0, which is not among the weights made before it",
    ),
    "an unknown kind": (with_op(2, kind="ADDD"), r"add \(ADDD\) has a kind that is not in the op catalogue"),
    "a table without a function": (with_op(1, kind="TABLE"), r"reshape \(TABLE\) has no recorded function"),
    "a name given twice": (with_op(2, name="reshape"), r"reshape \(ADD\) has a name that is given twice"),
    "an empty name": (with_op(2, name=""), r"an op without a name \(ADD\) has a name that is empty"),
    "an activation without a site": (without("site_names", FLAT), "value 4, an activation, has no site name"),
    "a site named twice": (
        lambda g: dataclasses.replace(g, site_names={**g.site_names, SUM: "reshape"}),
        "the site name reshape is given to the values 4 and 5",
    ),
    "a read before it is made": (with_op(1, inputs=(SUM,)), r"reshape \(RESHAPE\) reads value 5, which is not among"),
    "an activation as a bias": (
        with_op(0, inputs=(X, W, X)),
        r"w \(FULLY_CONNECTED\) reads value 0, which is not among",
    ),
    "a weight as an activation": (
        with_op(0, inputs=(W, W, B)),
        r"w \(FULLY_CONNECTED\) reads value 1, a weight, as its",
    ),
    "no bias": (with_op(0, inputs=(X, W)), r"w \(FULLY_CONNECTED\) has 2 inputs, not an activation, a kernel and a"),
    "a bias of other channels": (reshaped(B, (5,)), r"has \(4,\) channels in its kernel, \(5,\) in its bias"),
    "a reshape of other numbers": (
        reshaped(FLAT, (1, 9)),
        r"reshape \(RESHAPE\) makes \[\(1, 9\)\] of \[\(1, 2, 4\)\]",
    ),
    "a sum of another shape": (reshaped(SUM, (2, 8)), r"add \(ADD\) makes \[\(2, 8\)\] of \[\(1, 8\), \(1, 8\)\]"),
    "an output that nobody makes": (
        with_field(outputs=(9,)),
        "the outputs reads value 9, which is not among the values",
    ),
}


def test_a_legal_graph_is_returned() -> None:
    graph = legal()
    assert verify(graph, after="nothing", kinds=OPS) is graph


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_graph_is_caught_and_named(name: str) -> None:
    broken, said = BROKEN[name]
    with pytest.raises(GraphError, match=said) as caught:
        verify(broken(legal()), after="separation of islands", kinds=OPS)
    assert str(caught.value).startswith("After separation of islands the graph is not legal: ")


def test_the_ops_with_weights_are_the_catalogues() -> None:
    assert {kind for kind, spec in OPS.items() if spec.weights} == WEIGHTED


@pytest.mark.parametrize("name", ZOO)
def test_the_shapes_of_a_planned_graph_are_those_that_its_ops_compute(name: str) -> None:
    case = ZOO[name]()
    args, kwargs = case.first(2)
    graph = jaxq.quantize(case.model, "int8", *args, **kwargs).plan.graph
    for op in graph.ops:
        if op.call is None:
            shaped = [jax.ShapeDtypeStruct(graph.avals[v].shape, graph.avals[v].dtype) for v in op.inputs]
            out = jax.eval_shape(lambda *arrays, op=op: OPS[op.kind].compute(op, *arrays), *shaped)
            assert [o.shape for o in jax.tree.leaves(out)] == [graph.avals[v].shape for v in op.outputs], op


def test_capture_verifies(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jaxq.graph.fuse", lambda builder, outputs: ())
    with pytest.raises(GraphError, match=re.escape("After capture the graph is not legal: the outputs")):
        capture(lambda x: [jnp.tanh(x)], [], [], [jnp.zeros((2, 3))])


def test_the_plan_verifies_after_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.zeros((1, 3), np.float32)
    for name, passes in [*((name, REWRITES) for name in REWRITES), *((name, DECISIONS) for name in DECISIONS)]:
        with monkeypatch.context() as patch:
            broken = lambda plan, run=passes[name]: dataclasses.replace(  # noqa: E731
                run(plan), graph=dataclasses.replace(plan.graph, outputs=(-1,))
            )
            patch.setitem(passes, name, broken)
            with pytest.raises(GraphError, match=f"After {name} the graph is not legal: the outputs reads value -1"):
                _ = jaxq.quantize(lambda params, x: jnp.tanh(x), "int8", {}, x).plan
