"""TensorFlow as a further referee, and the SavedModel. conftest.py leaves it out where tensorflow is not installed.

The SavedModels run in a process that has no JAX, as a server.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import subprocess
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen
from typer.testing import CliRunner

import jaxq
import jaxq.export
from jaxq.cli.app import app
from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.flatbuffer.write import write
from jaxq.export.io_formulas import dequantized, quantized
from jaxq.export.program import Program
from jaxq.export.runtimes import litert
from tests.test_exact import exported
from tests.test_kernels import chain
from tests.zoo import Case

pytestmark = pytest.mark.slow

NETWORKS = [("heads", "int8"), ("separable", "int16x8"), ("two_inputs", "int8-float-io"), ("parts", "int4")]
FORMS = ("function", "linen")

SERVER = """
import sys
sys.modules |= {"jax": None, "jaxq": None}  # TensorFlow imports JAX where it is installed; a server has none
import numpy as np
import tensorflow as tf
folder, arrays, found = sys.argv[1:]
model = tf.saved_model.load(folder)
given, results = np.load(arrays), {}
for name, function in model.signatures.items():
    for count in (1, 7):
        inputs = {k.split("/")[1]: tf.constant(given[k][:count]) for k in given.files if k.split("/")[0] == name}
        results |= {f"{name}/{count}/{k}": v.numpy() for k, v in function(**inputs).items()}
np.savez(found, **results)
"""


class Words(linen.Module):
    """Indices in, a 2-D table of embeddings, a 1-D convolution, a mean: Linen."""

    @linen.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        x = linen.Conv(8, (3,))(linen.Embed(20, 8)(ids))
        return linen.Dense(3)(jnp.mean(jax.nn.relu(x), axis=1))


@functools.cache
def of(form: str) -> tuple[Any, tuple[Any, ...], tuple[np.ndarray, ...]]:
    """A quantized model, its state and examples, as a function or as a Linen module."""
    rng = np.random.default_rng(5)
    if form == "linen":
        ids = rng.integers(0, 20, (16, 6)).astype(np.int32)
        q = jaxq.quantize(Words(), "int8", ids[:1])
        variables = q.init(jax.random.key(0), ids[:1])
        return q, (jaxq.calibrate(q, [ids], variables, progress=False),), (ids,)
    params, x = rng.normal(size=(4, 3)).astype(np.float32), rng.normal(size=(16, 4)).astype(np.float32)
    q = jaxq.quantize(lambda p, x: {"logits/raw": jax.nn.relu(x @ p)}, "int8", params, x[:1])
    return q, (params, jaxq.calibrate(q, [x], params, q.init(params, x[:1]), progress=False)), (x,)


def served(folder: pathlib.Path, entries: list[dict[str, Any]], arrays: tuple[np.ndarray, ...]) -> dict[str, Any]:
    """What both signatures give for 1 and for 7 examples, in a process that has TensorFlow alone."""
    integers = [quantized(a[:7], entry) for a, entry in zip(arrays, entries, strict=True)]
    given: dict[str, Any] = {
        f"serving_default/{entry['name']}": a[:7] for a, entry in zip(arrays, entries, strict=True)
    }
    given |= {f"integers/{entry['name']}": q for q, entry in zip(integers, entries, strict=True)}
    np.savez(folder.parent / "given.npz", **given)
    command = [
        sys.executable,
        "-c",
        SERVER,
        str(folder),
        str(folder.parent / "given.npz"),
        str(folder.parent / "f.npz"),
    ]
    subprocess.run(command, check=True, capture_output=True, cwd=folder.parent)
    with np.load(folder.parent / "f.npz") as file:
        return {name: file[name] for name in file.files}


def assert_served(artifact: jaxq.export.Artifact, arrays: tuple[np.ndarray, ...], folder: pathlib.Path) -> None:
    """Both signatures equal LiteRT running the file here, bit for bit, at batch 1 and 7."""
    inputs, outputs = artifact.manifest["inputs"], artifact.manifest["outputs"]
    found = served(folder, inputs, arrays)
    for count in (1, 7):
        integers = [quantized(a[:count], entry) for a, entry in zip(arrays, inputs, strict=True)]
        wanted = litert.run(artifact.data, integers, "xnnpack")
        assert isinstance(wanted, tuple)
        for entry, q in zip(outputs, wanted, strict=True):
            name = entry["name"].replace("/", "_")
            np.testing.assert_array_equal(found[f"integers/{count}/{name}"], q)
            np.testing.assert_array_equal(found[f"serving_default/{count}/{name}"], dequantized(q, entry))
    assert len(found) == 4 * len(outputs)


# --- tf.lite ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), NETWORKS)
def test_every_integer_equals_tf_lite(name: str, recipe: str) -> None:
    found = exported(name, recipe)
    proof = found.artifact.verify(found.case.arrays, runtime="tf.lite", progress=False)
    assert proof.ok and proof.differing_integers == {"xnnpack": 0, "reference": 0}, str(proof)
    assert proof.runtime.startswith("tensorflow") and proof.compared_integers > 1000


def test_the_command_verifies_by_tf_lite(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "chain.tflite"
    file.write_bytes(write(chain()))
    done = CliRunner().invoke(app, ["verify", str(file), "--random", "3", "--runtime", "tf.lite", "--json"])
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert found["runtime"].startswith("tensorflow")


def test_a_tampered_file_is_reported_as_different() -> None:
    found = exported("separable", "int8")
    proof = found.artifact.proof
    assert proof is not None
    tampered = dataclasses.replace(proof, data=write(with_another_weight(proof.program)))
    seen = tampered.verify(found.case.arrays, ("xnnpack", "reference"), proof.machine, False, "tf.lite")
    assert not seen.ok and min(seen.differing_integers.values()) > 0
    first = next(op for op in proof.program.operators if op.kind.endswith("CONV_2D"))
    assert {tally.first for tally in seen.families.values()} == {proof.program.tensors[first.outputs[0]].name}


def with_another_weight(program: Program) -> Program:
    """The program with the sign of the largest weight of its first convolution changed."""
    op = next(op for op in program.operators if op.kind.endswith("CONV_2D"))
    tensors, index = list(program.tensors), op.inputs[1]
    weights = tensors[index].data
    assert weights is not None
    changed = np.where(weights == np.abs(weights).max(), -weights, weights)
    tensors[index] = dataclasses.replace(tensors[index], data=changed)
    return dataclasses.replace(program, tensors=tuple(tensors))


# --- SavedModel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "recipe"), NETWORKS)
def test_a_saved_model_computes_the_integers_of_the_file(name: str, recipe: str, tmp_path: pathlib.Path) -> None:
    found = exported(name, recipe)
    case: Case = found.case
    folder = jaxq.export.to_saved_model(found.artifact, tmp_path / "1", machine=this_machine())
    assert_served(found.artifact, case.arrays, folder)


@pytest.mark.parametrize("form", FORMS)
def test_a_saved_model_of_a_function_and_of_linen(form: str, tmp_path: pathlib.Path) -> None:
    q, state, arrays = of(form)
    folder = jaxq.export.to_saved_model(q, tmp_path / "1", *state, machine=this_machine(), progress=False)
    assert_served(jaxq.export.to_tflite(q, *state, progress=False), arrays, folder)


def test_a_place_that_is_taken_and_a_platform_that_is_not_known_are_refused(tmp_path: pathlib.Path) -> None:
    q, state, _ = of("function")
    with pytest.raises(ExportError, match="'tpu' is not known. Platforms: cpu, cuda."):
        jaxq.export.to_saved_model(q, tmp_path / "1", *state, platforms=("tpu",))
    with pytest.raises(ExportError, match="exists. Give another path"):
        jaxq.export.to_saved_model(q, tmp_path, *state)
    with pytest.raises(ExportError, match="does not exist. Make it first."):
        jaxq.export.to_saved_model(q, tmp_path / "no" / "1", *state)
    assert list(tmp_path.iterdir()) == []
