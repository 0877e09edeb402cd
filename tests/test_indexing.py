"""Indexing at constant places, branches that a constant chooses, running and whole products: graphs of integers."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import ControlFlowError, ExportError
from jaxq.simulate.reals import reals

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 6, 4)).astype(np.float32)
P = {"w": RNG.normal(size=(4, 4)).astype(np.float32), "rows": RNG.normal(size=(2, 4)).astype(np.float32)}
ROWS, TWICE, PLACES = np.array([-1, 2]), np.array([3, 3]), np.array([[[2, 0, 1]]])

Function = Callable[[Any, Any], Any]

# Those that only move numbers: the graph's are the function's in every bit.
MOVES: dict[str, Function] = {
    "all axes": lambda p, x: jnp.take_along_axis(x, jnp.broadcast_to(PLACES, (x.shape[0], 6, 3)), 2),
    "along an axis": lambda p, x: jnp.take_along_axis(x, PLACES.reshape(1, 3, 1), 1),
    "batch by hand": lambda p, x: x[jnp.arange(x.shape[0])[:, None], ROWS[None]],
    "branch": lambda p, x: lax.cond(True, lambda a: a[:, ::-1], lambda a: a, x),
    "diagonal": lambda p, x: jnp.diagonal(x[:, :4], axis1=1, axis2=2),
    "greatest": lambda p, x: lax.top_k(x, 1)[0],
    "keep the greater": lambda p, x: x.at[:, ROWS].max(x[:, :2]),
    "keep what is above": lambda p, x: x.at[:, ROWS].max(0.1),
    "pairs": lambda p, x: x[:, ROWS, np.array([1, 0])],
    "running extremes": lambda p, x: lax.cummax(x, 1) - lax.cummin(x, 1, reverse=True),
    "set a number": lambda p, x: x.at[:, ROWS].set(0.5),
    "set by a mask": lambda p, x: x.at[:, np.array([1, 0, 1, 1, 0, 1], bool)].set(0.0),
    "set by the batch": lambda p, x: x.at[jnp.arange(x.shape[0])[:, None], ROWS[None]].set(x[:, :2]),
    "set every other": lambda p, x: x.at[:, ::2].set(x[:, :3]),
    "set in zeros": lambda p, x: jnp.zeros((x.shape[0], 9, 4)).at[:, np.array([0, 8, 2, 4, 5, 7])].set(x),
    "set parameters": lambda p, x: x.at[:, ROWS].set(p["rows"]),
    "switch": lambda p, x: lax.switch(jnp.int32(7), [lambda a: a, lambda a: a[:, ::-1]], x),
    "triangle": lambda p, x: jnp.triu(x, 1),
    "where": lambda p, x: jnp.where(True, x[:, 1:], x[:, :-1]),
}
# Those that compute; all of them are integers.
COMPUTED: dict[str, Function] = {
    "add to one place": lambda p, x: x.at[:, TWICE].add(x[:, :2]),
    "add to several": lambda p, x: x.at[:, ROWS].add(x[:, :2]),
    "multiply": lambda p, x: x.at[:, ROWS].multiply(2.0),
    "product": lambda p, x: jnp.prod(jax.nn.sigmoid(x[:, :5]), (1, 2)),
    "running product": lambda p, x: jnp.cumprod(jax.nn.sigmoid(x), 1),
    "running product, reverse": lambda p, x: lax.cumprod(jax.nn.sigmoid(x), 2, reverse=True),
    "segments": lambda p, x: jax.vmap(lambda row: jax.ops.segment_sum(row, np.array([0, 0, 1, 3, 1, 3]), 4))(x),
}
ALL = MOVES | COMPUTED


def together(names: Any) -> Function:
    """The functions of these names as one, of one input."""
    return lambda p, x: {name: ALL[name](p, x) for name in names}


@pytest.mark.parametrize("names", [MOVES, COMPUTED], ids=["moves", "computed"])
def test_the_graph_computes_the_functions_numbers(names: dict[str, Function]) -> None:
    fn = together(names)
    q = jaxq.quantize(fn, "int8", P, X[:1])
    plan = q.captured(P, X).plan
    assert not plan.islands
    ours, theirs = ([(op.kind, op.name) for op in graph.ops] for graph in (plan.graph, q.plan.graph))
    assert ours == theirs  # at any batch

    @jax.jit
    def both(p: Any, x: jax.Array) -> Any:
        found = reals(plan, jax.tree.leaves(p), [x], differentiable=False)
        return [found[v] for v in plan.graph.outputs], fn(p, x)

    found, wanted = both(P, X)
    tolerance = 0.0 if names is MOVES else 1e-5
    for name, ours in zip(sorted(names), found, strict=True):
        np.testing.assert_allclose(ours, wanted[name], rtol=tolerance, atol=tolerance, err_msg=name)


def exported(names: Any, recipe: Any = "int8") -> Any:
    q = jaxq.quantize(together(names), recipe, P, X[:1])
    assert not q.plan.islands, q.plan
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxq.PrecisionWarning)  # of products of many numbers below one
        ranges = jaxq.calibrate(q, [X], P, q.init(P, X[:1]), progress=False)
        artifact = jaxq.export.to_tflite(q, P, ranges, verify=X, progress=False)
    proof = artifact.certificate
    assert proof is not None and proof.ok and proof.examples == len(X)
    return artifact


QUICK = ("diagonal", "segments", "set a number", "set every other")


def test_every_integer_is_equal() -> None:
    kinds = {op.kind for op in exported(QUICK).program.operators}
    assert {"GATHER", "SELECT_V2", "FULLY_CONNECTED", "CONCATENATION"} <= kinds


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int16x8", {"target": "tflm"}], ids=["int16x8", "tflm"])
@pytest.mark.parametrize("names", [MOVES, COMPUTED], ids=["moves", "computed"])
def test_every_integer_is_equal_of_all(names: dict[str, Function], recipe: Any) -> None:
    exported(names, recipe)


class Masked(nnx.Module):
    """Written into, read from, and behind a branch that its configuration chooses."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = lax.cond(x.shape[-1] == 4, lambda a: a, lambda a: -a, self.dense(x))
        return jnp.take_along_axis(y.at[:, ROWS].set(0.0), PLACES.reshape(1, 3, 1), 1)


class LinenMasked(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = lax.cond(x.shape[-1] == 4, lambda a: a, lambda a: -a, linen.Dense(4)(x))
        return jnp.take_along_axis(y.at[:, ROWS].set(0.0), PLACES.reshape(1, 3, 1), 1)


def test_in_both_kinds_of_modules() -> None:
    q = jaxq.quantize(Masked(nnx.Rngs(0)), "int8", X[:1])
    other = jaxq.quantize(LinenMasked(), "int8", X[:1])
    kinds = [[op.kind for op in plan.graph.ops] for plan in (q.plan, other.plan)]
    assert kinds[0] == kinds[1] == ["FULLY_CONNECTED", "SELECT", "GATHER"]


def test_a_branch_that_no_constant_chooses_is_refused() -> None:
    fn = lambda p, x: lax.cond(p["w"][0, 0] > 0, lambda a: a @ p["w"], lambda a: a, x)  # noqa: E731
    wanted = "Choose the branch in Python, by a flag that is no array, or compute both and choose with jnp.where"
    with pytest.raises(ControlFlowError, match=rf"`cond` at test_indexing.py:\d+ .*{re.escape(wanted)}"):
        jaxq.quantize(fn, "int8", P, X[:1])


IDS, TABLE = np.array([[0, 2, 5], [1, 1, 4]], np.int32), RNG.normal(size=(12, 4)).astype(np.float32)
# Arithmetic of integers that TFLite has no kernel for.
OF_INTEGERS: dict[str, Function] = {
    "or": lambda p, i: p[i | 3],
    "reduce_prod": lambda p, i: p[i.prod(-1) // 4],
}


@pytest.mark.parametrize("name", OF_INTEGERS)
def test_arithmetic_of_integers_is_an_island(name: str) -> None:
    q = jaxq.quantize(OF_INTEGERS[name], "int8", TABLE, IDS[:1])
    assert any(f"`{name}` (test_indexing.py:" in reason for reason in q.plan.islands.values()), q.plan


def test_arithmetic_of_integers_runs_and_is_said() -> None:
    fn = OF_INTEGERS["or"]
    q = jaxq.quantize(fn, "int8", TABLE, IDS[:1])
    ranges = jaxq.calibrate(q, [IDS], TABLE, q.init(TABLE, IDS[:1]), progress=False)
    step = float(np.max(np.abs(TABLE))) / 127
    np.testing.assert_allclose(q.apply(TABLE, ranges, IDS), fn(TABLE, IDS), rtol=0, atol=step)
    wanted = r"float computes int32, such as indices: `or` \(test_indexing.py:\d+ .*has no export rule in jaxq"
    with pytest.raises(ExportError, match=wanted):
        jaxq.export.to_tflite(q, TABLE, ranges)


def test_positions_of_what_a_mask_holds() -> None:
    def fn(p: Any, i: jax.Array) -> jax.Array:
        return p[jnp.cumsum((i > 1).astype(jnp.int32), -1)]

    q = jaxq.quantize(fn, "int8", TABLE, IDS[:1])
    ranges = jaxq.calibrate(q, [IDS], TABLE, q.init(TABLE, IDS[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, TABLE, ranges, verify=IDS, progress=False)
    assert {"SELECT_V2", "CUMSUM"} <= {op.kind for op in artifact.program.operators}
    assert artifact.certificate is not None and artifact.certificate.ok
