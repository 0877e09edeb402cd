"""`artifact.run` gives what the model gives for the same call: structure, shapes, numbers, wherever the batch is."""

from __future__ import annotations

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import InputError

RNG = np.random.default_rng(0)
X = RNG.normal(size=(7, 3, 4)).astype(np.float32)
W = {"w": RNG.normal(size=(4, 5)).astype(np.float32)}


def exported(fn: Any, example: Any, batch: Any, **keywords: Any) -> tuple[Any, Any]:
    """A function's artifact, and its training forward of positional and keyword inputs."""
    q = jaxq.quantize(fn, "int8", W, *example, **keywords)
    ranges = jaxq.calibrate(q, [batch], W, q.init(W, *example, **keywords), progress=False)
    artifact = jaxq.export.to_tflite(q, W, ranges, progress=False)
    return artifact, lambda *args, **kwargs: q.apply(W, ranges, *args, **kwargs)


def same(found: Any, wanted: Any) -> None:
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert a.shape == b.shape
        np.testing.assert_array_equal(a, b)


def in_places(p: Any, x: Any) -> dict[str, Any]:
    """Results that hold the examples first, in the middle, last, within an axis and twice."""
    y = jax.nn.relu(x @ p["w"])
    return {
        "first": y,
        "second": y.swapaxes(0, 1),
        "last": y.transpose(1, 2, 0),
        "rows": y.reshape(-1, 5),
        "major": y.swapaxes(0, 1).reshape(-1, 5),
        "twice": jnp.concatenate([y, y + 1.0]),
        "one": y.mean((1, 2)),
        "kept": y.mean(1, keepdims=True).swapaxes(0, 1),
    }


@pytest.mark.parametrize("size", [1, 7])
@pytest.mark.parametrize("example", [1, 7])
def test_shapes_are_the_models(example: int, size: int) -> None:
    artifact, forward = exported(in_places, (X[:example],), X)
    if size % example:
        with pytest.raises(InputError, match="1 of the examples to run on are left over: the file takes 7 at a time"):
            artifact.run(X[:size])
        return
    same(artifact.run(X[:size]), forward(X[:size]))


def test_the_graph_of_results_that_hold_the_batch_elsewhere() -> None:
    """[1, N, C] begins with a 1 that is no batch, and [T, N, C] with a T that may be as long as the batch."""
    q = jaxq.quantize(in_places, "int8", W, X[:1])
    ops = [[(op.kind, op.name) for op in q.captured(W, X[:n]).plan.graph.ops] for n in (1, 3, 7)]
    assert ops[0] == ops[1] == ops[2] and ("TRANSPOSE", "transpose") in ops[0]


def test_a_multiple_of_the_files_batch() -> None:
    artifact, forward = exported(in_places, (X[:2],), X)
    same(artifact.run(X[:6]), forward(X[:6]))


def with_mask(p: Any, x: Any, *, mask: Any, bias: Any, flag: bool = False) -> tuple[Any, Any]:
    y = x @ p["w"] * mask[..., None]
    return (y if flag else -y), {"sum": y + bias}


def test_arguments_by_position_and_by_keyword() -> None:
    mask, bias = RNG.uniform(size=(7, 3)).astype(np.float32), np.ones((1, 5), np.float32)
    given = {"mask": mask, "bias": bias}
    artifact, forward = exported(with_mask, (X[:1],), (X, given), mask=mask[:1], bias=bias, flag=True)
    wanted = forward(X, mask=mask, bias=bias, flag=True)
    same(artifact.run(X, mask=mask, bias=bias), wanted)
    same(artifact.run(x=X, mask=mask, bias=bias, flag=True), wanted)
    same(artifact.run(X, bias, mask), wanted)  # arrays in the file's order
    with pytest.raises(InputError, match="The file has 3 inputs, x, bias, mask; 2 were given."):
        artifact.run(X, mask)
    with pytest.raises(InputError, match="There is no example to run on"):
        artifact.run(X[:0], mask=mask[:0], bias=bias)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, image: jax.Array, context: jax.Array) -> dict[str, jax.Array]:
        return {"rows": self.dense(image).swapaxes(0, 1), "gate": jax.nn.relu(context)}


class LinenNet(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, image: jax.Array, context: jax.Array) -> dict[str, jax.Array]:
        return {"rows": flax.linen.Dense(5)(image).swapaxes(0, 1), "gate": jax.nn.relu(context)}


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_modules(kind: str) -> None:
    if kind == "nnx":
        q = jaxq.quantize(Net(nnx.Rngs(0)), "int8", X[:1], context=X[:1, 0])
        jaxq.calibrate(q, [(X, X[:, 0])], progress=False)
        artifact, forward = jaxq.export.to_tflite(q, progress=False), q
    else:
        q = jaxq.quantize(LinenNet(), "int8", X[:1], context=X[:1, 0])
        variables = jaxq.calibrate(q, [(X, X[:, 0])], q.init(jax.random.key(0), X, context=X[:, 0]), progress=False)
        artifact, forward = jaxq.export.to_tflite(q, variables, progress=False), lambda *a: q.apply(variables, *a)
    wanted = forward(X, X[:, 0])
    same(artifact.run(X, context=X[:, 0]), wanted)
    same(artifact.run(context=X[:, 0], image=X), wanted)


def first_rows(p: Any, x: Any) -> Any:
    """Where the examples are is found by shapes: a strided slice may hold the first row of each."""
    return (x @ p["w"]).reshape(-1, 5)[::3].T


def test_an_axis_found_by_shapes() -> None:
    artifact, forward = exported(first_rows, (X[:1],), X)
    same(artifact.run(X), [forward(X)])
    artifact, _ = exported(lambda p, x: first_rows(p, x).reshape(5, -1, 1) * jnp.ones(2), (X[:1],), X)
    assert artifact.run(X)[0].shape == (5, 7, 2)
