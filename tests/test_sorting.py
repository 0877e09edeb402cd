"""Sorts and the largest numbers: TOPK_V2, exact in numbers and in places, ties among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import ExportError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3, 6)).astype(np.float32)
IDS = RNG.integers(-4, 5, (7, 3, 6)).astype(np.int32)  # many are equal
W = RNG.normal(size=(6, 6)).astype(np.float32)

CASES: dict[str, Callable[[Any], Any]] = {
    "argsort": lambda x: jnp.argsort(x, -1),
    "argsort, descending": lambda x: jnp.argsort(x, -1, descending=True),
    "argsort, middle axis": lambda x: jnp.argsort(x, 1),
    "sort": lambda x: jnp.sort(x, -1),
    "sort, descending": lambda x: jnp.sort(x, -1, descending=True),
    "sort, middle axis": lambda x: jnp.sort(x, 1),
    "top_k": lambda x: lax.top_k(x, 4),
    "top_k of one": lambda x: lax.top_k(x, 1),
    "top_k, middle axis": lambda x: lax.top_k(x.swapaxes(1, 2), 2),
}


def exported(fn: Callable[..., Any], x: np.ndarray, recipe: Any = "int8") -> Any:
    q = jaxq.quantize(fn, recipe, W, x[:1])
    ranges = q.init(W, x[:1])
    ranges = jaxq.calibrate(q, [x], W, ranges, progress=False) if ranges else ranges
    return jaxq.export.to_tflite(q, W, ranges, verify=x, progress=False)


def every(p: Any, x: Any, names: Sequence[str] = tuple(CASES)) -> list[Any]:
    return [CASES[name](x) for name in names]


@pytest.mark.slow
def test_integers_with_ties_are_sorted_as_jax_sorts_them():
    artifact = exported(every, IDS)
    found, wanted = jax.tree.leaves(artifact.run(IDS)), jax.tree.leaves(every(W, IDS))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert artifact.verify([IDS], families=("xnnpack", "reference")).ok


WIDE = tuple(name for name in CASES if name != "top_k of one")  # whose REDUCE_MAX computes in 8 bits
SORTED = [
    ("int8", ("argsort", "top_k")),
    *(pytest.param(recipe, WIDE, marks=pytest.mark.slow) for recipe in ("int8", "int16x8", "float32")),
]


@pytest.mark.parametrize(("recipe", "names"), SORTED)
def test_activations_are_sorted_by_their_integers(recipe: str, names: Sequence[str]):
    """The file's places are those of the integers, equal ones in order: of the layer's own output, sorted by JAX."""
    artifact = exported(lambda p, x: [x @ p, *every(p, x @ p, names)], X, recipe)
    kinds = {op.kind for op in artifact.program.operators}
    assert not kinds & {"QUANTIZE", "DEQUANTIZE"} and "TOPK_V2" in kinds
    y, *found = jax.tree.leaves(artifact.run(X))
    for ours, theirs in zip(found, jax.tree.leaves(every(W, jnp.asarray(y), names)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_the_largest_numbers_have_gradients():
    """Those of the float function, but for rows whose second and third number are one integer."""

    def largest(p: Any, x: Any) -> Any:
        return jnp.sum(lax.top_k(x @ p, 2)[0], -1)

    q = jaxq.quantize(largest, "int8", W, X[:1])
    ranges = jaxq.calibrate(q, [X], W, q.init(W, X[:1]), progress=False)
    ours = jax.grad(lambda p: jnp.sum(q.apply(p, ranges, X) ** 2))(W)
    theirs = jax.grad(lambda p: jnp.sum(largest(p, X) ** 2))(W)
    assert np.corrcoef(np.ravel(ours), np.ravel(theirs))[0, 1] > 0.95


def test_what_is_carried_along_a_sort_is_refused():
    q = jaxq.quantize(lambda p, x: lax.sort_key_val(x @ p, x)[1], "int8", W, X[:1])
    ranges = jaxq.calibrate(q, [X], W, q.init(W, X[:1]), progress=False)
    with pytest.raises(ExportError, match=r"`sort` .*test_sorting.py:.*has no export rule in jaxq"):
        jaxq.export.to_tflite(q, W, ranges)


def test_examples_are_not_sorted_against_each_other():
    with pytest.raises(jaxq.errors.BatchStatisticsError, match="sorts axis 2, the batch"):
        jaxq.quantize(lambda p, x: jnp.sort(x @ p, 0), "int8", W, X[:1])


class Mixture(linen.Module):
    """Experts of which the two with the largest gates answer."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        gates = jax.nn.softmax(linen.Dense(3)(x))
        most, places = lax.top_k(gates, 2)
        chosen = jnp.sum(jax.nn.one_hot(places, 3) * (most / jnp.sum(most, -1, keepdims=True))[..., None], -2)
        experts = jnp.stack([linen.Dense(4)(x) for _ in range(3)], -2)
        return jnp.sum(experts * chosen[..., None], -2)


@pytest.mark.slow
def test_a_mixture_of_experts_routes_by_top_k():
    q = jaxq.quantize(Mixture(), "int8", X[:1])
    variables = jaxq.calibrate(q, [X], q.init(jax.random.key(0), X[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, variables, verify=X, progress=False)
    assert "TOPK_V2" in {op.kind for op in artifact.program.operators} and not q.plan.islands
    wanted = cast(Any, Mixture().apply({"params": variables["params"]}, X))
    assert np.corrcoef(np.ravel(wanted), np.ravel(artifact.run(X)[0]))[0, 1] > 0.99
