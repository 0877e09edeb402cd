"""TFLiteConverter's files, made by `jaxq.export.tflite_converter`. conftest.py leaves it out without tensorflow."""

from __future__ import annotations

import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from typer.testing import CliRunner

import jaxq
import jaxq.export
from jaxq.cli.app import app
from jaxq.errors import ExportError
from jaxq.export.flatbuffer.read import read
from jaxq.export.program import Program
from jaxq.export.runtimes import litert
from jaxq.export.tflite_converter import convert

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(24, 6)).astype(np.float32)
IDS = RNG.integers(0, 20, (24, 5)).astype(np.int32)
W = RNG.normal(size=(6, 3)).astype(np.float32)
TYPES = {
    "dynamic-range-int8": ("float32", "float32"),
    "float16": ("float32", "float16"),
    "float32": ("float32", "float32"),
    "int8": ("int8", "int8"),
    "int8-float-io": ("float32", "int8"),
    "int8-uint8-io": ("uint8", "int8"),
    "int16x8": ("int16", "int8"),
}


class Dense(nnx.Module):
    """A network of NNX with a BatchNorm."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.norm = nnx.Linear(6, 8, rngs=rngs), nnx.BatchNorm(8, rngs=rngs)
        self.second = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.relu(self.norm(self.first(x))))


class Words(linen.Module):
    """Two inputs, two outputs: Linen."""

    @linen.compact
    def __call__(self, ids: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
        h = linen.Embed(20, 8)(ids).mean(1) + linen.Dense(8)(x)
        return {"scores": linen.softmax(linen.Dense(4)(h)), "index": jnp.argmax(linen.Dense(5)(h), -1)}


def of(form: str) -> tuple[Any, tuple[Any, ...], Any]:
    """A quantized model, its state, its examples."""
    if form == "nnx":
        model = Dense(nnx.Rngs(0))
        model.eval()
        q = jaxq.quantize(model, "int8", X[:1])
        jaxq.calibrate(q, [X], progress=False)
        return q, (), X
    if form == "linen":
        q = jaxq.quantize(Words(), "int8", IDS[:1], X[:1])
        variables = q.init(jax.random.key(0), IDS[:1], X[:1])
        return q, (jaxq.calibrate(q, [(IDS, X)], variables, progress=False),), (IDS, X)
    q = jaxq.quantize(lambda w, x: x @ w, "int8", W, X[:1])
    return q, (W, jaxq.calibrate(q, [X], W, q.init(W, X[:1]), progress=False)), X


def types(program: Program) -> tuple[str, str]:
    """The element types of the input, and of the weights of the dense layer."""
    (dense,) = (op for op in program.operators if op.kind == "FULLY_CONNECTED")
    return program.tensors[program.inputs[0]].dtype, program.tensors[dense.inputs[1]].dtype


@pytest.mark.parametrize("recipe", TYPES)
def test_the_file_has_the_bits_of_the_recipe(recipe: str) -> None:
    large = RNG.normal(size=(64, 64)).astype(np.float32)  # TFLiteConverter leaves weights below 1,024 in floats
    x = RNG.normal(size=(8, 64)).astype(np.float32)
    program = read(convert(lambda x: x @ large, [x[:1]], recipe, [[x]]))
    end, weights = types(program) if recipe != "float16" else TYPES[recipe]
    wanted = "int8" if recipe == "dynamic-range-int8" else TYPES[recipe][1]
    assert (end, weights) == (TYPES[recipe][0], wanted)


def test_twelve_ends_keep_their_order() -> None:
    def many(*arrays: jax.Array) -> list[jax.Array]:
        return [(i + 1.0) * array for i, array in enumerate(arrays)]

    arrays = [np.full((1, 2), 1.0 + i, np.float32) for i in range(12)]
    found = litert.run(convert(many, arrays, "float32"), arrays, "xnnpack")
    assert [float(np.ravel(array)[0]) for array in found] == [(i + 1.0) ** 2 for i in range(12)]


@pytest.mark.parametrize("form", ["nnx", "linen", "function"])
def test_the_converters_file_is_near_the_float_model(form: str) -> None:
    q, state, examples = of(form)
    found = jaxq.export.compare(q, examples, *state, rounds=1, progress=False)
    assert found.examples == len(X) and min(found.bytes) > 500
    for output in found.outputs:
        assert output.sqnr is None or min(output.sqnr) > 20.0
        assert output.agree is None or min(output.agree) > 0.8


def test_the_command_prints_one_table(tmp_path: pathlib.Path) -> None:
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", RNG.integers(0, 3, len(X)))
    (tmp_path / "net.py").write_text("from tests.test_tflite_converter import W, X\n"
                                     "def net(): return (lambda w, x: x @ w), X[:1], W\n")  # fmt: skip
    options = ["--calibrate", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy"), "--rounds", "2", "--json"]
    done = CliRunner().invoke(app, ["compare", f"{tmp_path / 'net.py'}:net", *options])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["names"] == ["jaxq", "tflite-converter"] and len(found["accuracy"]) == 3
    assert found["outputs"][0]["sqnr"][0] > 20


def test_what_the_converter_refuses_is_said() -> None:
    with pytest.raises(ExportError, match="TFLiteConverter does not convert this model: "):
        convert(lambda x: jnp.linalg.cholesky(x @ x.T), [X], "float32")
