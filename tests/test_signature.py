"""What the user calls the arguments and results of a model is what the file calls them."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.frontends.signature import argument_names, parameters_of, placed_as, result_names, unique

X = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
W = np.ones((4, 3), np.float32)


class Pair(NamedTuple):
    """Two results."""

    first: Any
    second: Any


def nested(p: Any, image: Any, features: Any, *more: Any, scale: Any) -> Any:
    """Arguments and results in structures of each kind."""
    pair = Pair(features["x"] @ p, jax.nn.sigmoid(features["y"] @ p))
    return {"boxes": image @ p, "rest": (pair, more[0] @ p + scale)}


def test_names_and_structure_of_a_function() -> None:
    q = jaxq.quantize(nested, "int8", W, X[:1], {"x": X[:1], "y": X[:1]}, X[:1], scale=X[:1, :3])
    batch = (X, {"x": X, "y": X}, X, {"scale": X[:, :3]})
    ranges = jaxq.calibrate(q, [batch], W, q.init(W, *batch[:3], **batch[3]), progress=False)
    artifact = jaxq.export.to_tflite(q, W, ranges)
    inputs = ("image", "features/x", "features/y", "more_0", "scale")
    outputs = ("boxes", "rest/0/first", "rest/0/second", "rest/1")
    assert (artifact.program.input_names, artifact.program.output_names) == (inputs, outputs)
    assert tuple(e["name"] for e in artifact.manifest["inputs"]) == inputs
    assert tuple(e["name"] for e in artifact.manifest["outputs"]) == outputs
    found, wanted = artifact.run(X, X, X, X, X[:, :3]), q.apply(W, ranges, *batch[:3], **batch[3])
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


class Batched(nnx.Module):
    """Takes one dict, as data loaders give it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.image, self.word = nnx.Linear(4, 3, rngs=rngs), nnx.Embed(9, 3, rngs=rngs)

    def __call__(self, batch: dict[str, jax.Array]) -> dict[str, jax.Array]:
        return {"sum": self.image(batch["x"]) + self.word(batch["ids"]), "best": jnp.argmax(self.image(batch["x"]), -1)}


def test_a_dict_that_the_model_takes_is_a_batch_as_it_is() -> None:
    model, batch = Batched(nnx.Rngs(0)), {"x": X, "ids": np.arange(8, dtype=np.int32)}
    q = jaxq.quantize(model, "int8", {name: array[:1] for name, array in batch.items()})
    jaxq.calibrate(q, [batch], progress=False)
    artifact = jaxq.export.to_tflite(q, verify=batch, progress=False)
    jax.tree.map(np.testing.assert_array_equal, artifact.run(batch), q(batch))


class Detector(nnx.Module):
    """Two inputs, two results."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.a, self.b = nnx.Linear(4, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, image: jax.Array, context: jax.Array) -> dict[str, jax.Array]:
        return {"scores": jax.nn.sigmoid(self.b(image)), "boxes": self.a(image + context)}


class LinenDetector(flax.linen.Module):
    """The same in Linen."""

    @flax.linen.compact
    def __call__(self, image: jax.Array, context: jax.Array) -> dict[str, jax.Array]:
        scores = jax.nn.sigmoid(flax.linen.Dense(3)(image))
        return {"scores": scores, "boxes": flax.linen.Dense(4)(image + context)}


def test_names_of_modules() -> None:
    plans = [jaxq.quantize(m, "int8", X[:1], X[:1]).plan for m in (Detector(nnx.Rngs(0)), LinenDetector())]
    for plan in plans:
        assert plan.graph.ends == (("image", "context"), ("boxes", "scores"))


def test_names_of_results_without_keys() -> None:
    assert result_names(0) == ["output"] and result_names((0, [1, 2])) == ["output_0", "output_1/0", "output_1/1"]
    assert jaxq.quantize(lambda p, x: x @ p, "int8", W, X[:1]).plan.graph.ends == (("x",), ("output",))


def test_names_of_arguments_are_unique_and_those_of_the_parameters() -> None:
    def called(a: Any, /, b: Any, *rest: Any, **options: Any) -> None: ...

    assert argument_names(called, 0, (1, 2, 3, {"k": 4}), {"z": 5, "y": 6}) == [
        "a",
        "b",
        "rest_0",
        "rest_1/k",
        "y",
        "z",
    ]
    assert argument_names(jnp.add, 99, (1, 2), {}) == ["input_0", "input_1"]
    assert unique(["a", "a", "a_1"]) == ["a", "a_1", "a_1_1"]


def takes_all(a: Any, /, b: Any, c: Any = None, *more: Any, d: Any = 0, **rest: Any) -> None:
    """Parameters of each kind."""


@pytest.mark.parametrize(
    ("count", "args", "kwargs", "placed"),
    [
        (2, (1,), {"b": 2}, ((1, 2), {})),
        (1, (1, 2), {}, ((1,), {"b": 2})),
        (1, (1, 2, 3), {"d": 4}, ((1,), {"b": 2, "c": 3, "d": 4})),
        (3, (1, 2), {}, ((1, 2), {})),  # what a call leaves out at its end stays its default
        (4, (1,), {"c": 3, "b": 2}, ((1, 2, 3), {})),
        (1, (1, 2, 3, 4), {}, ((1, 2, 3, 4), {})),  # more positions than names: all by position
        (2, (1, 2), {"a": 5}, ((1, 2), {"a": 5})),  # not the parameter, which is positional alone
        (3, (1,), {"c": 3}, ((1,), {"c": 3})),  # b is missing: the function says so
        (0, (1,), {}, ((1,), {})),
        (2, (1, 2), {"b": 3}, ((1, 2), {"b": 3})),  # twice
    ],
)
def test_a_call_is_placed_as_the_example(count: int, args: Any, kwargs: Any, placed: Any) -> None:
    assert placed_as(parameters_of(takes_all, 0), count, args, kwargs) == placed
    assert placed_as(parameters_of(lambda p, *a, **k: takes_all(*a, **k), 1), count, args, kwargs) == (args, kwargs)
    assert placed_as(parameters_of(dict, 0), count, args, kwargs) == (args, kwargs)  # says nothing of its parameters


def two(p: Any, x: Any, shift: Any = None, train: bool = False) -> Any:
    """The last two may be left out."""
    return (x if shift is None else x + shift) @ p * (2.0 if train else 1.0)


class Two(nnx.Module):
    """The same."""

    def __init__(self) -> None:
        self.p = nnx.Param(jnp.asarray(W))

    def __call__(self, x: Any, shift: Any = None, train: bool = False) -> Any:
        return two(self.p[...], x, shift, train)


class TwoLinen(flax.linen.Module):
    """The same."""

    @flax.linen.compact
    def __call__(self, x: Any, shift: Any = None, train: bool = False) -> Any:
        return two(self.param("p", lambda _: jnp.asarray(W)), x, shift, train)


def called(face: str, *example: Any, **kwargs: Any) -> tuple[Any, Any, Any]:
    """A quantized model calibrated by other ways to give the same arguments, its state, and its call."""
    state: Any = ()
    given = [(X, {"shift": X}), {"shift": X, "x": X}, (X, X)]
    if face == "nnx":
        q: Any = jaxq.quantize(Two(), "int8", *example, **kwargs)
        jaxq.calibrate(q, given, progress=False)
        return q, state, q
    if face == "linen":
        q = jaxq.quantize(TwoLinen(), "int8", *example, **kwargs)
        state = (jaxq.calibrate(q, given, q.init(jax.random.key(0), shift=X, x=X), progress=False),)
    else:
        q = jaxq.quantize(two, "int8", W, *example, **kwargs)
        state = (W, jaxq.calibrate(q, given, W, q.init(W, shift=X, x=X), progress=False))
    return q, state, functools.partial(q.apply, *state)


FACES = [
    ("function", (X[:1], X[:1], True), {}),
    pytest.param("function", (), {"x": X[:1], "shift": X[:1], "train": True}, marks=pytest.mark.slow),
    pytest.param("nnx", (X[:1],), {"shift": X[:1], "train": True}, marks=pytest.mark.slow),
    pytest.param("linen", (X[:1], X[:1]), {"train": True}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("face", "example", "kwargs"), FACES)
def test_an_argument_by_position_and_by_keyword_is_one(face: str, example: Any, kwargs: Any) -> None:
    q, _, call = called(face, *example, **kwargs)
    assert set(q.plan.graph.input_names) == {"x", "shift"}  # `train=True` is no array
    wanted = call(*(jnp.asarray(X),) * 2, True)
    for args, named in [((X,), {"shift": X}), ((), {"shift": X, "x": X}), ((X, X), {})]:
        np.testing.assert_array_equal(call(*args, **named, train=True), wanted)


@pytest.mark.slow
@pytest.mark.parametrize(("face", "example", "kwargs"), FACES)
def test_a_flag_of_the_example_holds_for_its_proof(face: str, example: Any, kwargs: Any) -> None:
    q, state, call = called(face, *example, **kwargs)
    artifact = jaxq.export.to_tflite(q, *state, verify=(X, {"shift": X}), progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    np.testing.assert_array_equal(jax.tree.leaves(artifact.run(X, X))[0], call(X, X, True))
