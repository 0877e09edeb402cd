"""Additive masks of every dtype and spelling are selected; empty arrays are as in JAX."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq

LEAST = np.finfo(np.float32).min
X = np.random.default_rng(0).normal(size=(4, 6, 6)).astype(np.float32)
MASKS: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "float, least number": (np.float32, lambda m: (1 - m[:, None]) * LEAST),
    "float, where": (np.float32, lambda m: jnp.where(m[:, None] > 0, 0.0, -jnp.inf)),
    "int, cast": (np.int32, lambda m: (1 - m[:, None].astype(jnp.float32)) * -1e9),
    "int, before the cast": (np.int32, lambda m: ((1 - m) * -10000)[:, None].astype(jnp.float32)),
    "bool through int": (bool, lambda m: (1 - m.astype(jnp.int32))[:, None].astype(jnp.float32) * -1e4),
    "product of two": (np.float32, lambda m: -1e9 * (1 - m[:, None, :] * m[:, :, None])),
}


@pytest.mark.parametrize("name", sorted(MASKS))
def test_an_additive_mask_is_selected(name: str) -> None:
    dtype, added = MASKS[name]
    mask = np.ones((4, 6), dtype)
    graph = jaxq.quantize(lambda p, x, m: jax.nn.softmax(x + added(m)), "int8", {}, X[:1], mask[:1]).plan.graph
    kinds = [op.kind for op in graph.ops]
    assert kinds.count("SELECT") == 1 and not {"ADD", "AFFINE", "FLOAT"} & {*kinds}


def test_arithmetic_of_an_input_that_is_no_mask_stays() -> None:
    kinds = [
        op.kind for op in jaxq.quantize(lambda p, x, y: x + (1 - y) * 9.0, "int8", {}, X[:1], X[:1]).plan.graph.ops
    ]
    assert "SELECT" not in kinds and "ADD" in kinds


@pytest.mark.parametrize(
    "fn",
    (
        lambda x: jnp.roll(x[..., :1], 1, 2),
        lambda x: jnp.pad(x, [(0, 0), (0, 1), (0, 0)], mode="edge"),
        lambda x: jnp.concatenate([x[:, :0], x, x[:, 6:]], 1),
        lambda x: x + x[:, :0].sum(1, keepdims=True),
    ),
    ids=("roll", "pad", "concatenate", "sum"),
)
def test_empty_arrays_are_as_in_jax(fn: Callable[[Any], Any]) -> None:
    q = jaxq.quantize(lambda p, x: fn(x * 2.0), "int8", {}, X[:1])
    captured = q.captured({}, X)
    assert all(0 not in captured.plan.graph.avals[v].shape for op in captured.plan.graph.ops for v in op.outputs)
    found = q.core.reals(captured, {}, (X,), {})
    (output,) = (captured.plan.graph.site_names[v] for v in captured.plan.graph.outputs)
    np.testing.assert_array_equal(found[output], fn(X * 2.0))
