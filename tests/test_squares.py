"""A mean of squares is a product of two vectors: exact, nearer the float model than squares in int8, and only there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export

RNG = np.random.default_rng(0)


def root_mean_square(x: jax.Array) -> jax.Array:
    return x * jax.lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-6)


def deviation(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.mean((x - x.mean(-1, keepdims=True)) ** 2, axis=-1))


def twice(x: jax.Array) -> jax.Array:
    squares = jnp.square(x)
    return jax.lax.rsqrt(squares.mean(-1, keepdims=True) + 1e-6) * squares


FUNCTIONS: dict[str, tuple[Callable[[jax.Array], jax.Array], tuple[int, ...]]] = {
    "nnx.LayerNorm": (nnx.LayerNorm(24, rngs=nnx.Rngs(0)), (16, 7, 24)),
    "nnx.LayerNorm of images": (nnx.LayerNorm(8, rngs=nnx.Rngs(0)), (4, 6, 5, 8)),
    "nnx.RMSNorm, two products a sentence": (nnx.RMSNorm(24, rngs=nnx.Rngs(0)), (8, 32, 24)),
    "a prime number of vectors": (root_mean_square, (4, 17, 24)),
    "of vectors": (root_mean_square, (16, 24)),
    "no axis kept": (deviation, (16, 7, 24)),
}


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    """One channel is much larger than the others, as in trained encoders."""
    x = RNG.normal(size=shape)
    x[..., 1] *= 20
    return x.astype(np.float32)


def quantized(fn: Callable[[jax.Array], jax.Array], x: np.ndarray, recipe: Any = "int8") -> tuple[Any, Any]:
    q = jaxq.quantize(lambda params, x: fn(x), recipe, {}, x[:1])
    return q, jaxq.calibrate(q, [x], {}, q.init({}, x[:1]), progress=False)


def kinds(q: Any) -> list[str]:
    return [op.kind for op in q.plan.graph.ops]


@pytest.mark.parametrize(
    "name", [name if name == "no axis kept" else pytest.param(name, marks=pytest.mark.slow) for name in FUNCTIONS]
)
def test_a_product_is_exact(name: str) -> None:
    fn, shape = FUNCTIONS[name]
    x = numbers(shape)
    q, ranges = quantized(fn, x)
    assert "BATCH_MATMUL" in kinds(q) and kinds(q).count("MEAN") <= 1
    assert "a mean of squares as a product of two vectors, none of whose terms is rounded" in str(q.plan)
    artifact = jaxq.export.to_tflite(q, {}, ranges, verify=x, progress=False)
    assert artifact.verify(x, families=("tflm",), progress=False).ok
    assert artifact.certificate is not None and artifact.certificate.ok
    assert artifact.certificate.simulation_differing == 0
    np.testing.assert_allclose(q.apply({}, ranges, x[:1]), q.apply({}, ranges, x)[:1])


def test_what_has_zero_point_0_anyway_needs_no_range_of_its_own() -> None:
    x = numbers((16, 24))
    rules = [{"match": "sub", "symmetric": True}]
    for recipe, copies in (("int8", 1), ({"rules": rules}, 0)):
        q, ranges = quantized(deviation, x, recipe)
        assert kinds(q).count("AFFINE") == copies and kinds(q).count("BATCH_MATMUL") == 1
        artifact = jaxq.export.to_tflite(q, {}, ranges, verify=x, progress=False)
        assert artifact.certificate is not None and artifact.certificate.ok


@pytest.mark.parametrize(("length", "block"), [(1, 1), (7, 7), (17, 1), (32, 16), (40, 10), (197, 1)])
def test_vectors_are_multiplied_by_blocks(length: int, block: int) -> None:
    """One vector at a time leaves no diagonal to take; what lies beside it needs no place in the range."""
    q = jaxq.quantize(lambda params, x: root_mean_square(x), "int8", {}, numbers((2, length, 24)))
    (product,) = (op for op in q.plan.graph.ops if op.kind == "BATCH_MATMUL")
    assert q.plan.graph.avals[product.outputs[0]].shape == (2, length // block, block, block)
    assert kinds(q).count("SLICE") == (block > 1)
    group = q.plan.group(product.outputs[0])
    assert group is not None and group.nonnegative


@pytest.mark.slow
@pytest.mark.parametrize(
    "recipe", [{"activations": {"symmetric": True}}, {"rules": [{"match": "mean:sum", "float": True}]}]
)
def test_a_product_is_exact_where_its_zero_is_no_least_integer(recipe: dict[str, Any]) -> None:
    x = numbers((4, 32, 24))
    q, ranges = quantized(root_mean_square, x, recipe)
    artifact = jaxq.export.to_tflite(q, {}, ranges, verify=x, progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    assert artifact.certificate.simulation_differing == 0


def test_what_reads_the_deviations_keeps_its_steps() -> None:
    """All but one number lie in [-4, 4], the one at 100: a range that is symmetric has twice the step."""
    x = RNG.normal(size=(64, 40, 48)).astype(np.float32)
    x[:, 0, 3] += 100
    norm = nnx.LayerNorm(48, rngs=nnx.Rngs(0))
    wanted, found = np.asarray(norm(jnp.asarray(x))), []
    for rules in ([], [{"match": "sub", "symmetric": True}]):
        q, ranges = quantized(norm, x, {"rules": rules})
        found.append(np.mean(np.square(q.apply({}, ranges, x) - wanted)))
    assert found[0] < 0.5 * found[1]


def test_it_is_nearer_the_float_model() -> None:
    """The squares of the small channels are below half a step of the large one's."""
    x = numbers((64, 48))
    found = {}
    for target in ("litert", "edgetpu"):
        q, ranges = quantized(root_mean_square, x, {"target": target})
        found[target] = np.mean(np.square(q.apply({}, ranges, x) - root_mean_square(jnp.asarray(x))))
    assert found["litert"] < 0.5 * found["edgetpu"]


@pytest.mark.parametrize(
    "recipe",
    [
        {"target": "edgetpu"},
        {"rules": [{"match": "mean", "float": True}]},
        {"rules": [{"match": "mul", "float": True}]},
        {"rules": [{"match": "mean", "activation_bits": 16}]},
        "float32",
    ],
)
def test_where_there_is_no_kernel_or_no_need_the_squares_stay(recipe: Any) -> None:
    q = jaxq.quantize(lambda params, x: root_mean_square(x), recipe, {}, numbers((1, 24)))
    assert {"MUL", "MEAN"} <= {*kinds(q)} and "BATCH_MATMUL" not in kinds(q)


def test_squares_that_something_else_reads_stay() -> None:
    q = jaxq.quantize(lambda params, x: twice(x), "int8", {}, numbers((1, 24)))
    assert kinds(q)[:2] == ["MUL", "MEAN"]


def test_a_gradient_is_the_float_functions() -> None:
    x = numbers((32, 24))
    q, ranges = quantized(root_mean_square, x)
    found, wanted = (
        jax.grad(lambda x, f=f: jnp.sum(jnp.sin(f(x))))(jnp.asarray(x))
        for f in (lambda x: q.apply({}, ranges, x), root_mean_square)
    )
    assert np.sum(found * wanted) / np.linalg.norm(found) / np.linalg.norm(wanted) > 0.98
