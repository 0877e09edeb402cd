"""TFLite metadata: the standard reader reads ours, we read the standard writer's; what does not fit is refused."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib
import re
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import ExportError, FormatError
from jaxq.export import Metadata, TensorMetadata
from jaxq.export.flatbuffer.attached import attach, attached
from jaxq.export.flatbuffer.metadata import read_metadata
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.io_formulas import formula, pixel_table
from jaxq.export.lint import lint
from jaxq.export.metadata import completed
from jaxq.export.runtimes.litert import run
from tests.labelled import CASES, GOLDEN, IMAGE, TEXT, image_program, labelled
from tests.zoo import proof_of

READ = json.loads((GOLDEN / "metadata_read.json").read_text())
MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
LABELS = ("cat", "dog", "Öl")


# --- the format -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CASES)
def test_the_bytes_are_those_that_the_standard_reader_read(name: str) -> None:
    assert labelled(name) == (GOLDEN / f"{name}.tflite").read_bytes()


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_read_back(name: str) -> None:
    program, metadata = CASES[name]
    found, wanted = read_metadata(labelled(name)), completed(metadata, program)
    assert found is not None
    inputs = [dataclasses.replace(e, mean=single(e.mean), std=single(e.std)) for e in wanted.inputs]
    assert found == dataclasses.replace(wanted, inputs=tuple(inputs))


def single(numbers: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(float(np.float32(x)) for x in numbers)


def test_the_standard_reader_finds_what_an_image_classifier_says() -> None:
    found, (graph,) = READ["labelled_image"], READ["labelled_image"]["metadata"]["subgraph_metadata"]
    (image,), (scores,) = graph["input_tensor_metadata"], graph["output_tensor_metadata"]
    texts = {key: getattr(IMAGE, key) for key in ("name", "description", "version", "author", "license")}
    assert texts == {key: found["metadata"][key] for key in texts}
    assert image["content"]["content_properties"] == {
        "color_space": "RGB", "default_size": {"width": 5, "height": 4},
    }  # fmt: skip
    (unit,) = image["process_units"]
    assert unit["options_type"] == "NormalizationOptions"
    assert unit["options"]["mean"] == pytest.approx(MEAN) and unit["options"]["std"] == pytest.approx(STD)
    assert image["stats"]["min"] == pytest.approx([-m / s for m, s in zip(MEAN, STD, strict=True)])
    (file,) = scores["associated_files"]
    assert file["type"] == "TENSOR_AXIS_LABELS"
    assert tuple(found["files"][file["name"]].splitlines()) == IMAGE.outputs[0].labels


def test_the_standard_reader_finds_the_vocabulary() -> None:
    (graph,) = READ["labelled_text"]["metadata"]["subgraph_metadata"]
    (unit,) = graph["input_process_units"]
    assert unit["options_type"] == "BertTokenizerOptions"
    (file,) = unit["options"]["vocab_file"]
    assert tuple(READ["labelled_text"]["files"][file["name"]].splitlines()) == TEXT.vocabulary


@pytest.mark.parametrize("name", CASES)
def test_the_parser_version_is_the_least_that_the_fields_need(name: str) -> None:
    assert READ[name]["metadata"]["min_parser_version"] == READ[name]["parser version"]


def test_metadata_of_the_standard_writer_is_read() -> None:
    found = read_metadata((GOLDEN / "labelled_by_support.tflite").read_bytes())
    assert found is not None
    assert found.outputs[0].labels == ("one", "two", "three")
    assert (found.inputs[0].mean, found.inputs[0].std, found.inputs[0].color) == ((127.5,), (127.5,), "RGB")
    assert found.outputs[0].name == "probability" and found.name == "ImageClassifier"


def test_a_file_without_metadata_has_none() -> None:
    data = write(image_program())
    assert read_metadata(data) is None and attached(data) == {} and attach(data, {}) == data


# --- in an artifact -------------------------------------------------------------------------------------------------


class Net(nnx.Module):
    """An image classifier of three classes."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), strides=2, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.conv(x)).mean((1, 2)))


PIXELS = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)


def preprocessed(pixels: np.ndarray) -> np.ndarray:
    """As the float network was trained: written here on its own."""
    return (pixels.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)


@functools.cache
def artifact(recipe: str = "int8", with_metadata: bool = True) -> jaxq.export.Artifact:
    x = preprocessed(PIXELS)
    qmodel = jaxq.quantize(Net(nnx.Rngs(0)), recipe, x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    metadata = Metadata.image_classifier(LABELS, MEAN, STD, name="tiny") if with_metadata else None
    return jaxq.export.to_tflite(qmodel, verify=x, metadata=metadata, progress=False)


def test_an_artifact_with_metadata_is_verified_clean_and_the_same_program() -> None:
    bare = artifact(with_metadata=False)
    assert artifact().certificate == bare.certificate
    assert str(artifact().program) == str(bare.program)
    assert not lint(artifact().program)
    x = proof_of(artifact()).forward([preprocessed(PIXELS)])[1]
    ours, theirs = run(artifact().data, x, "xnnpack"), run(bare.data, x, "xnnpack")
    assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_an_artifact_with_metadata_loads(tmp_path: pathlib.Path) -> None:
    path = artifact().save(tmp_path / "model.tflite")
    (found,) = jaxq.load(path).real(preprocessed(PIXELS))
    np.testing.assert_array_equal(np.asarray(found), artifact().run(preprocessed(PIXELS))[0])


def test_the_same_export_gives_the_same_bytes() -> None:
    again = artifact.__wrapped__()
    assert again.data == artifact().data and again.manifest == artifact().manifest


# --- the host's arithmetic ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("recipe", ["int8", "int8-uint8-io"])
def test_the_manifest_folds_normalization_into_a_table(recipe: str) -> None:
    """Every pixel value of every channel, against the artifact's own path."""
    (entry,) = artifact(recipe).manifest["inputs"]
    every = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(4, 8, 8, 1), (4, 8, 8, 3))
    wanted = proof_of(artifact(recipe)).forward([preprocessed(every)])[1][0]
    columns = [np.frombuffer(bytes.fromhex(column), entry["dtype"]) for column in entry["pixel_table"]]
    np.testing.assert_array_equal(np.stack(columns, -1)[every, np.arange(3)], wanted)
    p, mean, std = every.astype(np.float32), *(np.array(entry[k], np.float32) for k in ("mean", "std"))
    names: dict[str, Any] = {"x": (p - mean) / std, "clip": np.clip, "rint": np.rint, "float32": np.float32}
    found = eval(entry["quantize"], names)
    np.testing.assert_array_equal(found, wanted.astype(np.float32))
    assert entry["normalize"] == "(float32(p) - float32(mean[c])) / float32(std[c])"


def test_a_float_input_has_a_normalization_and_no_table() -> None:
    (entry,) = artifact("int8-float-io").manifest["inputs"]
    assert "pixel_table" not in entry and entry["mean"] == list(single(MEAN))


def test_one_mean_serves_all_channels() -> None:
    entry = {**formula("x", image_program().tensors[0]), "mean": [127.5], "std": [127.5]}
    assert pixel_table(entry).shape == (256, 1)


@pytest.mark.parametrize("recipe", ["int8", "int8-float-io"])
def test_the_python_program_computes_the_artifacts_integers(recipe: str, tmp_path: pathlib.Path) -> None:
    """In a process of its own, without jaxq: its integers, and the classes that it prints."""
    built = artifact(recipe)
    built.save(tmp_path / "model.tflite")
    (tmp_path / "host.py").write_text(built.python())
    np.save(tmp_path / "pixels.npy", PIXELS[:1])
    code = (
        "import sys, numpy as np, host; np.save('out.npy', host.run('model.tflite', np.load('pixels.npy'))[0]);"
        "assert not [m for m in sys.modules if m.split('.')[0] in ('jaxq', 'jax', 'flax')]"
    )
    for arguments in (["-c", code], ["host.py", "model.tflite", "pixels.npy"]):
        done = subprocess.run([sys.executable, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    file_inputs = proof_of(built).forward([preprocessed(PIXELS[:1])])[1]
    np.testing.assert_array_equal(np.load(tmp_path / "out.npy"), run(built.data, file_inputs, "xnnpack")[0])
    (scores,) = built.run(preprocessed(PIXELS[:1]))
    best = [LABELS[i] for i in np.argsort(-scores[0])]
    assert [line.split("  ")[1] for line in done.stdout.splitlines()] == best


# --- what is refused ------------------------------------------------------------------------------------------------

WRONG = [
    (Metadata(inputs=(TensorMetadata(),) * 2), "The metadata describes 2 inputs; the file has 1 (input). Describe"),
    (Metadata(inputs=(TensorMetadata(mean=(1.0, 2.0), std=(1.0, 2.0)),)), "has 2 means and 2 standard deviations"),
    (Metadata(inputs=(TensorMetadata(mean=(1.0,), std=(0.0,)),)), "has std (0.0,); each must be above 0."),
    (Metadata(inputs=(TensorMetadata(color="GRAYSCALE"),)), "is an image in color 'GRAYSCALE'. Images are"),
    (Metadata(outputs=(TensorMetadata("y", labels=("a",)),)), "has 1 labels; the output is int8[1,1,1,3] scale=0.015"),
    (Metadata(outputs=(TensorMetadata(labels=("a", "b\nc", "d")),)), "Number 1 of the labels is 'b\\nc'; each must be"),
    (Metadata(vocabulary=("a", "")), "Number 1 of the vocabulary is ''; each must be one line of text, and not empty."),
]


@pytest.mark.parametrize(("metadata", "text"), WRONG, ids=[text[:40] for _, text in WRONG])
def test_metadata_that_is_not_the_files_is_refused(metadata: Metadata, text: str) -> None:
    with pytest.raises(ExportError, match=re.escape(text)):
        completed(metadata, image_program())


def test_labels_that_were_cut_off_are_missed() -> None:
    data = labelled("labelled_image")
    cut = data[: data.index(b"PK\x03\x04")]
    with pytest.raises(FormatError, match="names 'labels.txt', which is not among the 0 files"):
        read_metadata(cut)


def test_an_archive_that_unpacks_to_too_much_is_refused() -> None:
    data = attach(write(image_program()), {"labels.txt": b"x"})
    size = data.rindex(b"PK\x01\x02") + 24  # where the directory says how long the entry is
    with pytest.raises(FormatError, match="unpack to 268,435,455, more than 64 times that. Do not use it."):
        attached(data[:size] + b"\xff\xff\xff\x0f" + data[size + 4 :])


@pytest.mark.parametrize("name", CASES)
def test_torn_metadata_is_read_or_refused(name: str) -> None:
    """Bytes changed at random: an answer or a FormatError."""
    data, rng, refused = labelled(name), np.random.default_rng(0), 0
    for _ in range(300):
        torn = bytearray(data)
        for at in rng.integers(0, len(data), 3):
            torn[at] = rng.integers(0, 256)
        try:
            program = read(bytes(torn))
            read_metadata(bytes(torn), program)
        except FormatError:
            refused += 1
    assert 0 < refused < 300
