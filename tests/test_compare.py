"""jaxq's file beside another of the same float model: what the table says, and what is refused.

Here the other file is jaxq's own by another recipe; tests/test_tflite_converter.py has TensorFlow's.
"""

from __future__ import annotations

import functools
import json
import pathlib
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxq
import jaxq.export
from jaxq.cli.app import app
from jaxq.errors import ExportError, InputError
from jaxq.export import Artifact, SideBySide
from jaxq.export.compare_files import File, checked, float_results, measured
from jaxq.export.tflite_converter import ends, rows, settings
from jaxq.frontends.batches import file_chunks
from jaxq.plan.recipe import SHIPPED, Recipe, Weights
from jaxq.quantization import bind

INSTALL = r"The package tensorflow is not installed. Run: pip install 'jaxq\[tensorflow\]'"
RNG = np.random.default_rng(0)
X = RNG.normal(size=(20, 4)).astype(np.float32)
PARAMS = RNG.normal(size=(4, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 20)


def network(params: jax.Array, x: jax.Array) -> dict[str, jax.Array]:
    """Logits, a map of numbers that are no classes, and an index."""
    logits = x @ params
    return {"logits": logits, "map": jax.nn.relu(logits[:, None] + 1.0), "index": jnp.argmax(logits, -1)}


@functools.cache
def exported(recipe: str) -> tuple[Any, Artifact]:
    q = jaxq.quantize(network, recipe, PARAMS, X[:1])
    ranges = q.init(PARAMS, X[:1])
    if not q.plan.recipe.floats:
        ranges = jaxq.calibrate(q, [X], PARAMS, ranges, progress=False)
    return bind(q, PARAMS, ranges), jaxq.export.to_tflite(q, PARAMS, ranges, progress=False)


@pytest.fixture(scope="module")
def found() -> SideBySide:
    (bound, ours), (_, theirs) = exported("int8"), exported("float32")
    chunked = list(file_chunks(bound, X, "compare"))
    files = File.of("jaxq", ours.data), File.of("floats", theirs.data)
    return measured(["index", "logits", "map"], files, chunked, float_results(bound, chunked), None, 2)


def decibels(found: np.ndarray, wanted: np.ndarray) -> float:
    found, wanted = (np.asarray(a, np.float64) for a in (found, wanted))
    return float(10 * np.log10(np.sum(wanted**2) / np.sum((found - wanted) ** 2)))


def test_the_error_of_each_output_is_numpys(found: SideBySide) -> None:
    ours, theirs = (exported(recipe)[1].run(X) for recipe in ("int8", "float32"))
    wanted = jax.jit(network)(PARAMS, X)
    index, logits, maps = found.outputs
    for output in (logits, maps):
        assert output.sqnr is not None
        assert output.sqnr[0] == pytest.approx(decibels(ours[output.name], wanted[output.name]), abs=1e-3)
        assert output.sqnr[1] > 100.0 and 20.0 < output.sqnr[0] < 60.0
        assert output.between == pytest.approx(decibels(theirs[output.name], ours[output.name]), abs=1e-3)
    same = np.mean(ours["logits"].argmax(-1) == np.asarray(wanted["logits"]).argmax(-1))
    assert logits.agree == (same, 1.0) and logits.agree_between == same
    assert maps.agree is None and maps.agree_between is None
    assert index.sqnr is None and index.agree == (np.mean(ours["index"] == wanted["index"]), 1.0)


def test_sizes_and_latencies_are_the_files(found: SideBySide) -> None:
    assert found.bytes == tuple(len(exported(recipe)[1].data) for recipe in ("int8", "float32"))
    assert found.examples == len(X) and min(found.seconds) > 0 and found.accuracy is None


def test_the_table_has_a_row_for_each_number(found: SideBySide) -> None:
    text = str(found)
    assert text.startswith("jaxq beside floats, 20 examples, ai-edge-litert")
    for row in ("bytes", "latency, 1 thread, ms", "logits: the float model's class", "index: the same result in both"):
        assert row in text
    assert "map: the float model's class" not in text
    assert json.loads(found.to_json())["outputs"][1]["name"] == "logits"


def test_labels_give_the_accuracy_of_all_three() -> None:
    def logits(params: jax.Array, x: jax.Array) -> jax.Array:
        return x @ params

    floats = np.asarray(logits(jnp.asarray(PARAMS), jnp.asarray(X)))
    q = jaxq.quantize(logits, "int8", PARAMS, X[:1])
    ranges = jaxq.calibrate(q, [X], PARAMS, q.init(PARAMS, X[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, PARAMS, ranges, progress=False)
    file, labels = File.of("jaxq", artifact.data), checked(LABELS, [floats])
    seen = measured(["output"], (file, file), [[X[:12]], [X[12:]]], [floats], labels, 1)
    right = [float(np.mean(a.argmax(-1) == LABELS)) for a in (floats, artifact.run(X)[0])]
    assert seen.accuracy == (right[0], right[1], right[1])
    assert seen.outputs[0].between == np.inf and seen.as_dict()["outputs"][0]["between"] is None
    assert f"accuracy (float: {100 * right[0]:.2f} %)" in str(seen)


def test_labels_of_another_kind_are_refused() -> None:
    with pytest.raises(InputError, match=r"one output of logits, \[examples, classes\]; the model gives \(20, 2, 3\)"):
        checked(LABELS, [np.zeros((20, 2, 3), np.float32)])
    with pytest.raises(InputError, match=r"The labels are \(3,\); there must be one for each of 20 examples"):
        checked(LABELS[:3], [np.zeros((20, 3), np.float32)])


@pytest.mark.parametrize("name", sorted(SHIPPED))
def test_each_recipe_has_a_counterpart_or_a_reason(name: str) -> None:
    recipe = SHIPPED[name]
    if name in ("int4", "weight-only-int4", "weight-only-int8"):
        with pytest.raises(ExportError, match=rf"no counterpart of the recipe '{name}'.*int8, int16x8, dynamic-range"):
            settings(recipe)
    else:
        assert settings(recipe)[0] is None if recipe.floats else "INT8" in str(settings(recipe)[0])


def test_the_ends_are_those_of_our_file() -> None:
    assert ends(SHIPPED["int16x8"]) == ("int16", "int16") and ends(SHIPPED["int8-uint8-io"]) == ("uint8", "uint8")
    assert ends(Recipe(input="float32", weights=Weights(bits=8))) == ("float32", "int8")


def test_without_tensorflow_the_line_that_installs_it_is_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    q = jaxq.quantize(network, "int8", PARAMS, X[:1])
    with pytest.raises(ExportError, match=INSTALL):
        jaxq.export.compare(q, X, PARAMS, q.init(PARAMS, X[:1]))
    done = CliRunner().invoke(app, ["compare", "net.py:net"])  # before the target is looked for
    assert done.exit_code == 1 and "Run: pip install 'jaxq[tensorflow]'" in done.stderr


def test_another_name_is_refused() -> None:
    q = jaxq.quantize(network, "int8", PARAMS, X[:1])
    with pytest.raises(InputError, match="nothing called 'tflite' to compare with. Did you mean 'tflite-converter'"):
        jaxq.export.compare(q, X, PARAMS, {}, against="tflite")
    done = CliRunner().invoke(app, ["compare", "net.py:net", "--against", "onnx"])
    assert done.exit_code == 2 and "Known: tflite-converter." in done.stderr


def test_the_converter_is_given_whole_inputs_that_have_no_batch() -> None:
    table = RNG.normal(size=(6, 4)).astype(np.float32)
    for batch, count in ((1, 20), (8, 2)):  # of 20 examples 4 are left over
        given = list(rows([[X, table]], [X[:batch], table]))
        assert len(given) == count and all(second is not X and np.array_equal(second, table) for _, second in given)
        np.testing.assert_array_equal(np.concatenate([first for first, _ in given]), X[: count * batch])
