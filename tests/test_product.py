"""`jaxq bench`, `jaxq infer` and metadata on the command line."""

from __future__ import annotations

import io
import json
import pathlib
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from jaxq.cli.photo import photo
from jaxq.errors import InputError
from jaxq.export import Metadata, TensorMetadata
from jaxq.export.flatbuffer.attached import attach
from jaxq.export.flatbuffer.metadata import with_metadata
from jaxq.export.flatbuffer.write import write
from jaxq.export.runtimes.bench import Contestant, Latency, measure
from tests.labelled import CASES, GOLDEN
from tests.test_cli import MODELS, call, refused
from tests.test_metadata import LABELS, MEAN, STD, artifact

SMALL = GOLDEN / "small_ai_edge.tflite"
FLOAT = GOLDEN / "small_float.tflite"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A labelled file, a photo, a model and its data."""
    place = tmp_path_factory.mktemp("product")
    artifact().save(place / "labelled.tflite")
    pixels = np.random.default_rng(1).integers(0, 256, (30, 20, 3), np.uint8)
    Image.fromarray(pixels).save(place / "photo.png")
    (place / "models.py").write_text(MODELS)
    np.save(place / "images.npy", np.random.default_rng(0).normal(size=(4, 8, 8, 1)))
    (place / "labels.txt").write_text("a\nb\nc\n")
    return place


# --- bench ----------------------------------------------------------------------------------------------------------


def test_bench_measures_both_files_in_turns() -> None:
    found = call("bench", SMALL, "--against", FLOAT, "--threads", "1,2", "--rounds", 4, "--json").json
    rows = found["latencies"]
    assert [(row["file"], row["threads"]) for row in rows] == [(str(f), n) for f in (SMALL, FLOAT) for n in (1, 2)]
    for row in rows:
        assert 0 < row["least_seconds"] <= row["p10_seconds"] <= row["median_seconds"] <= row["p90_seconds"]
        assert row["invocations"] >= 8 and row["bytes"] == pathlib.Path(row["file"]).stat().st_size
    assert [row["ratio"] is None for row in rows] == [False, False, True, True]


def test_bench_as_text() -> None:
    found = call("bench", SMALL, "--threads", 1, "--rounds", 2)
    assert found.code == 0
    assert re.search(r"file +bytes +threads +median +p10 +p90 +least\n +small_ai_edge.tflite +13,736 +1 ", found.out)
    assert "XNNPACK; 2 rounds in turns" in found.out


def test_a_ratio_is_the_median_of_the_rounds() -> None:
    """A machine that is ten times slower in some rounds does not change it."""
    contestant = Contestant("x", b"", 1, [])
    slowed = np.array([[1.0, 1.0], [10.0, 10.0], [10.0, 10.0]])
    a, b = Latency(contestant, 2 * slowed), Latency(contestant, slowed)
    assert (a.ratio(b), b.ratio(a), a.median, a.least, b.percentile(10)) == (2.0, 0.5, 20.0, 2.0, 1.0)


def test_every_contestant_has_its_turn_in_every_round() -> None:
    x = np.zeros((1, 4, 5, 3), np.int8)
    data = (GOLDEN / "labelled_image.tflite").read_bytes()
    found = measure([Contestant("a", data, 1, [x]), Contestant("b", data, 2, [x])], rounds=3)
    assert [latency.seconds.shape for latency in found] == [(3, 30), (3, 30)]


def test_bench_misused() -> None:
    assert refused(2, "bench", SMALL, "--threads", "1;2").startswith("--threads 1;2 must be numbers with commas")
    assert refused(2, "bench", SMALL, "--threads", "0").startswith("--threads 0 must be numbers from 1 to 256.")


@pytest.mark.parametrize("package", ["typer", "ai_edge_litert", "flatbuffers"])
def test_without_its_packages_the_command_says_what_to_install(package: str) -> None:
    """In a process whose imports do not find one."""
    code = f"import sys; sys.modules[{package!r}] = None; from jaxq.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "bench", str(SMALL)], capture_output=True, text=True)
    name = package.replace("_", "-")
    message = f"error: The command line needs the package {name}. Run: pip install 'jaxq[export]'\n"
    assert (done.returncode, done.stderr) == (1, message)


# --- infer ----------------------------------------------------------------------------------------------------------


def test_infer_prints_the_classes_that_the_artifact_computes(folder: pathlib.Path) -> None:
    found = call("infer", folder / "labelled.tflite", folder / "photo.png", "--top", 2, "--json").json
    pixels = photo(folder / "photo.png", "RGB", 8, 8)
    real = (pixels.astype(np.float32) - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    (scores,) = artifact().run(real)
    best = np.argsort(-scores[0])[:2]
    (output,) = found["outputs"]
    assert [(c["label"], c["score"]) for c in output["classes"]] == [(LABELS[i], float(scores[0, i])) for i in best]
    shares = np.exp(scores[0].astype(np.float64)) / np.exp(scores[0].astype(np.float64)).sum()
    assert [c["probability"] for c in output["classes"]] == pytest.approx(shares[best].tolist())


def test_infer_as_text(folder: pathlib.Path) -> None:
    found = call("infer", folder / "labelled.tflite", folder / "photo.png")
    assert re.search(r"class +label +score +probability\n", found.out)
    assert all(label in found.out for label in LABELS)


def test_a_photo_is_cut_out_of_the_middle(tmp_path: pathlib.Path) -> None:
    """Of 256 x 320 the middle 224 x 224: at this size nothing is scaled."""
    pixels = np.random.default_rng(0).integers(0, 256, (256, 320, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photo.png")
    np.testing.assert_array_equal(photo(tmp_path / "photo.png", "RGB", 224, 224)[0], pixels[16:240, 48:272])
    assert photo(tmp_path / "photo.png", "L", 20, 10).shape == (1, 20, 10, 1)


def test_what_infer_cannot_read(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    labelled, text = folder / "labelled.tflite", GOLDEN / "labelled_text.tflite"
    assert refused(1, "infer", FLOAT, "x").startswith(
        f"{FLOAT} has no TFLite metadata, so nothing says how x becomes its input"
    )
    assert refused(1, "infer", labelled, tmp_path / "none.jpg").startswith(
        f"{tmp_path}/none.jpg cannot be read as a photo"
    )
    assert refused(1, "infer", labelled, folder / "models.py").startswith(
        f"{folder}/models.py cannot be read as a photo"
    )
    assert "vocabulary of 4 tokens lacks [CLS], [SEP]: not BERT's" in refused(1, "infer", text, "a sentence")


def test_a_photo_too_large_to_open_is_refused(tmp_path: pathlib.Path) -> None:
    """A PNG of a few bytes that says it has 40,000 x 40,000 pixels."""
    whole = io.BytesIO()
    Image.new("1", (8, 8)).save(whole, "PNG")
    data = bytearray(whole.getvalue())
    data[16:24] = (40_000).to_bytes(4, "big") * 2
    (tmp_path / "bomb.png").write_bytes(data)
    with pytest.raises(InputError, match="bomb.png cannot be read as a photo"):
        photo(tmp_path / "bomb.png", "RGB", 8, 8)


# --- metadata -------------------------------------------------------------------------------------------------------

TOML = """\
name = "net"
[[inputs]]
mean = [0.0]
std = [255.0]
color = "GRAYSCALE"
[[outputs]]
labels = "labels.txt"
"""


def exported(folder: pathlib.Path, tmp_path: pathlib.Path, toml: str) -> list[object]:
    (folder / "metadata.toml").write_text(toml)
    given = ["--calibrate", folder / "images.npy", "--metadata", folder / "metadata.toml"]
    return ["export", f"{folder}/models.py:net", "--out", tmp_path / "net.tflite", *given]


def test_export_with_metadata_and_inspect(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    assert call(*exported(folder, tmp_path, TOML)).code == 0
    shown = call("inspect", tmp_path / "net.tflite").out
    assert "name: net\n" in shown and "output 'layers/0/kernel:out': 3 classes, a, b, c, ...\n" in shown
    assert "input 'input': GRAYSCALE; (pixel - [0.0]) / [255.0]\n" in shown
    found = call("inspect", tmp_path / "net.tflite", "--json").json
    assert found["described"]["outputs"][0]["labels"] == ["a", "b", "c"]
    python = call("inspect", tmp_path / "net.tflite", "--python").out
    assert "def prepared(" in python and "'labels': 'labels.txt'" in python
    compile(python, "host.py", "exec")


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("name = ", "is not TOML"),
        ("name = 3", "Expected `str`, got `int`"),
        ("nam = 'x'", "The metadata has no field 'nam'; there is name, description"),
        ("[[inputs]]\ncolour = 'RGB'", "The metadata has no field 'colour'; there is name, description, mean"),
    ],
)
def test_wrong_metadata_files(folder: pathlib.Path, tmp_path: pathlib.Path, toml: str, message: str) -> None:
    assert message in refused(2, *exported(folder, tmp_path, toml))


def test_programs_of_files_without_metadata() -> None:
    assert "INPUTS = [" in call("inspect", FLOAT, "--python").out


# --- manifests that are kept ----------------------------------------------------------------------------------------

KEPT = sorted((pathlib.Path(__file__).parent.parent / "docs" / "manifests").glob("*.json"))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_a_kept_manifest_certifies_every_photo(path: pathlib.Path) -> None:
    """Of `benchmarks/imagenet.py --write`: 224x224, both kernel families, no integer that differs."""
    kept = json.loads(path.read_text())
    proof = kept["certificate"]
    assert proof["ok"] and proof["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert proof["examples"] == kept["photos"] == 20 and proof["compared_integers"] > 10**8
    assert proof["training_forward"]["differing"] == 0
    assert kept["inputs"][0]["shape"] == [1, 224, 224, 3] and re.fullmatch("[0-9a-f]{64}", kept["sha256"])


def test_broken_metadata_hides_nothing_else(tmp_path: pathlib.Path) -> None:
    data = (GOLDEN / "labelled_image.tflite").read_bytes()
    (tmp_path / "cut.tflite").write_bytes(data[: data.index(b"PK\x03\x04")])
    found = call("inspect", tmp_path / "cut.tflite")
    assert found.code == 0 and "metadata: The file's metadata names 'labels.txt', which is not among" in found.out
    assert "AVERAGE_POOL_2D" in found.out
    described = call("inspect", tmp_path / "cut.tflite", "--json").json["described"]
    assert described["error"].startswith("The file's metadata names 'labels.txt'")


def test_metadata_of_another_file_is_no_photos(tmp_path: pathlib.Path, folder: pathlib.Path) -> None:
    """Someone's metadata with two means for three channels: refused, not computed with."""
    program, _ = CASES["labelled_image"]
    wrong = Metadata(inputs=(TensorMetadata("image", mean=(1.0, 2.0), std=(1.0, 2.0), color="RGB"),))
    changed, files = with_metadata(program, wrong)
    (tmp_path / "wrong.tflite").write_bytes(attach(write(changed), files))
    message = refused(1, "infer", tmp_path / "wrong.tflite", folder / "photo.png")
    assert "has 2 means and 2 standard deviations" in message
