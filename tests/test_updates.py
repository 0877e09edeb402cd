"""Changes of a part of an array, pads and pools as JAX writes them: one graph of integers, the function's numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import ExportError
from jaxq.simulate.reals import reals

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6, 4)).astype(np.float32)
P = {"w": RNG.normal(size=(4, 4)).astype(np.float32), "k": RNG.normal(size=(3, 4, 5)).astype(np.float32)}


def windowed(reduce: Callable[..., Any], start: float, padding: str) -> Callable[[Any, Any], Any]:
    return lambda p, x: lax.reduce_window(x @ p["w"], start, reduce, (1, 2, 1), (1, 2, 1), padding)


def convolved(padding: tuple[int, int]) -> Callable[[Any, Any], Any]:
    return lambda p, x: lax.conv_general_dilated(
        x, p["k"], (1,), [padding], dimension_numbers=("NWC", "WIO", "NWC")
    )  # fmt: skip


def buffered(p: Any, x: jax.Array) -> jax.Array:
    """The oldest row out, a new one in, as streaming models keep their past."""
    return jnp.concatenate([x[:, 1:], x[:, :1] @ p["w"]], 1).at[:, 0].set(x[:, 3])


# Name: the function, and the operators that it is written with.
CASES: dict[str, tuple[Callable[[Any, Any], Any], set[str]]] = {
    "add a part": (lambda p, x: x.at[:, 1:3].add(x[:, 3:5] @ p["w"]), {"PAD", "ADD"}),
    "associative scan": (
        lambda p, x: lax.associative_scan(jnp.add, x @ p["w"], axis=1), {"ADD", "CONCATENATION", "PAD", "SLICE"}
    ),
    "buffer": (buffered, {"CONCATENATION"}),
    "convolution, padding below zero": (convolved((-1, 2)), {"SLICE", "CONV_2D"}),
    "multiply a row": (lambda p, x: x.at[:, 2].multiply(x[:, 0]), {"MUL"}),
    "pad and cut": (lambda p, x: lax.pad(x @ p["w"], 0.0, ((0, 0, 0), (-1, 2, 0), (1, -2, 0))), {"PAD", "SLICE"}),
    "pad between elements": (
        lambda p, x: lax.pad(x @ p["w"], 0.5, ((0, 0, 0), (-1, 1, 2), (0, 0, 1))), {"CONCATENATION"}
    ),
    "pad with a number": (
        lambda p, x: jnp.pad(x @ p["w"], ((0, 0), (1, 2), (0, 1)), constant_values=0.5), {"CONCATENATION"}
    ),
    "pool, least": (windowed(lax.min, jnp.inf, "SAME"), {"MAX_POOL_2D"}),
    "pool, sum": (windowed(lax.add, 0.0, "SAME"), {"AVERAGE_POOL_2D"}),
    "set a corner": (lambda p, x: x.at[:, 2:4, 1:3].set((x @ p["w"])[:, :2, :2]), {"CONCATENATION"}),
    "set a number": (lambda p, x: (x @ p["w"]).at[:, -1].set(0.25), {"CONCATENATION"}),
    "set in zeros": (lambda p, x: jnp.zeros((*x.shape[:1], 3, 4)).at[:, 1].set(x[:, 0] @ p["w"]), {"CONCATENATION"}),
    "set one element": (lambda p, x: x.at[:, 1, 2].set((x @ p["w"])[:, 0, 0]), {"CONCATENATION"}),
    "update a slice": (
        lambda p, x: lax.dynamic_update_slice(x, (x @ p["w"])[:, :2], (0, 9, 0)), {"CONCATENATION"}  # 9 is clamped
    ),
}  # fmt: skip


def captured(name: str) -> jaxq.QuantizedFunction:
    return jaxq.quantize(CASES[name][0], "int8", P, X[:1])


@pytest.mark.parametrize("name", sorted(CASES))
def test_the_graph_computes_the_functions_numbers(name: str) -> None:
    plan = captured(name).captured(P, X).plan
    assert not plan.islands
    (output,) = plan.graph.outputs
    found = reals(plan, jax.tree.leaves(P), [jnp.asarray(X)], differentiable=False)[output]
    np.testing.assert_allclose(found, CASES[name][0](P, jnp.asarray(X)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", sorted(CASES))
def test_every_integer_is_equal(name: str) -> None:
    q = captured(name)
    ranges = jaxq.calibrate(q, [X], P, q.init(P, X[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, P, ranges, verify=X, progress=False)
    assert {op.kind for op in artifact.program.operators} >= CASES[name][1]
    np.testing.assert_array_equal(artifact.run(X)[0], q.apply(P, ranges, X))


def test_places_that_are_not_constant_are_said() -> None:
    q = jaxq.quantize(lambda p, x: jax.vmap(lambda a: a.at[jnp.argmax(a[:, 0])].set(0.5))(x), "int8", P, X[:1])
    ranges = jaxq.calibrate(q, [X], P, q.init(P, X[:1]), progress=False)
    with pytest.raises(ExportError, match=r"`scatter` \(test_updates.py:\d+ .* has no export rule"):
        jaxq.export.to_tflite(q, P, ranges)
