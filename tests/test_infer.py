"""`jaxq infer` on sounds, arrays and files of text. Photos are in test_product.py, sentences in test_bert.py."""

from __future__ import annotations

import dataclasses
import pathlib
import wave
from typing import Any

import numpy as np
import pytest

import jaxq
from jaxq.cli import sound
from jaxq.errors import InputError
from jaxq.export.artifact import Artifact
from jaxq.export.io_formulas import quantized
from jaxq.export.program import Program
from jaxq.recipes import mfcc
from jaxq.recipes.mfcc import FrontEnd, Mfcc
from jaxq.recipes.sounds import of_length
from tests.test_cli import call, refused

GOLDEN = pathlib.Path(__file__).parent / "golden"
LIBROSA = np.load(GOLDEN / "mfcc.npz")
MEAN, STD = np.linspace(-5, 5, 10, dtype=np.float32), np.linspace(1, 3, 10, dtype=np.float32)
FRONT_END = FrontEnd(Mfcc(), MEAN, STD)
RATE = FRONT_END.sizes.rate


def product(inputs: np.ndarray) -> Artifact:
    """A file of one matrix product, of an input in the shape of these."""
    weights = np.random.default_rng(0).normal(0, 0.1, (inputs[0].size, 3)).astype(np.float32)
    qmodel = jaxq.quantize(lambda p, x: x.reshape(x.shape[0], -1) @ p, "int8", weights, inputs[:1])
    ranges = jaxq.calibrate(qmodel, [inputs], weights, qmodel.init(weights, inputs[:1]), progress=False)
    return jaxq.export.to_tflite(qmodel, weights, ranges, progress=False)


@pytest.fixture(scope="module")
def words() -> Artifact:
    """A file of MFCC, with the manifest of the recipe."""
    clips = np.random.default_rng(0).normal(0, 0.1, (4, FRONT_END.sizes.samples))
    artifact = product(FRONT_END.inputs(clips))
    return dataclasses.replace(artifact, manifest={**artifact.manifest, "preprocess": FRONT_END.recorded()})


@pytest.fixture(scope="module")
def samples() -> Artifact:
    """A file of 60 samples."""
    return product(np.random.default_rng(0).uniform(-1, 1, (4, 60)).astype(np.float32))


def written(path: pathlib.Path, samples: np.ndarray, *, channels: int = 1, rate: int = RATE) -> pathlib.Path:
    """A WAV file of int16, by the standard library."""
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, 2, rate, 0, "NONE", "not compressed"))
        file.writeframes(samples.astype("<i2").tobytes())
    return path


def noise(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(-9_000, 9_000, count)


def scores(file: pathlib.Path, given: pathlib.Path) -> np.ndarray:
    """What `jaxq infer` prints of each class."""
    classes = call("infer", file, given, "--json").json["outputs"][0]["classes"]
    return np.array([entry["score"] for entry in sorted(classes, key=lambda entry: entry["class"])], np.float32)


# --- sounds -----------------------------------------------------------------------------------------------------------


def test_a_clip_becomes_the_coefficients_of_librosa(words: Artifact, tmp_path: pathlib.Path) -> None:
    """Within the steps that a coefficient on a tie can move a score; the other clip gives other scores."""
    file = words.save(tmp_path / "words.tflite")
    theirs = words.run(((LIBROSA["mfcc"] - MEAN) / STD)[..., None].astype(np.float32))[0]
    found = [scores(file, written(tmp_path / f"{i}.wav", clip)) for i, clip in enumerate(LIBROSA["samples"])]
    np.testing.assert_allclose(found, theirs, atol=1.01 * words.manifest["outputs"][0]["scale"])
    assert np.abs(theirs[0] - theirs[1]).max() > 20 * words.manifest["outputs"][0]["scale"]


@pytest.mark.parametrize(
    ("count", "said"),
    [(16_000, "all 16,000 samples"), (17_001, "the middle 16,000 of 17,001 samples"),
     (500, "all 500 samples, with silence on both sides up to 16,000")],
)  # fmt: skip
def test_a_clip_of_any_length(words: Artifact, count: int, said: str, tmp_path: pathlib.Path) -> None:
    file, path = words.save(tmp_path / "words.tflite"), written(tmp_path / "a.wav", noise(count))
    found = call("infer", file, path)
    assert found.out.startswith(f"{file}: {path} (16,000 samples a second; {said})\n"), found
    clip = of_length(noise(count) / 2.0**15, 16_000)
    (wanted,) = words.run(FRONT_END.inputs(clip[None].astype(np.float32)))
    np.testing.assert_array_equal(scores(file, path), wanted[0])


def test_channels_are_averaged(words: Artifact, tmp_path: pathlib.Path) -> None:
    file, left = words.save(tmp_path / "words.tflite"), 2 * noise(16_000)
    stereo = written(tmp_path / "stereo.wav", np.stack([left, np.zeros_like(left)], 1), channels=2)
    np.testing.assert_array_equal(scores(file, stereo), scores(file, written(tmp_path / "a.wav", left // 2)))


def test_a_file_without_a_front_end_takes_samples(samples: Artifact, tmp_path: pathlib.Path) -> None:
    file, path = samples.save(tmp_path / "samples.tflite"), written(tmp_path / "a.wav", noise(90), rate=44_100)
    found = call("infer", file, path)
    assert "(44,100 samples a second, which nothing checks; the middle 60 of 90 samples)" in found.out, found
    middle = (noise(90)[None, 15:75] / 2.0**15).astype(np.float32)
    np.testing.assert_array_equal(scores(file, path), samples.run(middle)[0][0])
    q = quantized(middle[0], samples.manifest["inputs"][0])
    for shape in ((60,), (1, 60, 1)):
        np.testing.assert_array_equal(
            sound.file_inputs(path, file, shaped(samples, shape), None).inputs[0], q.reshape(shape)
        )
    for shape in ((2, 60), (1, 30, 2), (1, 6, 10, 1)):
        with pytest.raises(InputError, match="no manifest beside it says how this is made of sound"):
            sound.file_inputs(path, file, shaped(samples, shape), None)


def shaped(artifact: Artifact, shape: tuple[int, ...]) -> Program:
    """The program, its input in another shape."""
    program = artifact.program
    tensors = list(program.tensors)
    tensors[program.inputs[0]] = dataclasses.replace(tensors[program.inputs[0]], shape=shape)
    return dataclasses.replace(program, tensors=tuple(tensors))


def test_what_is_no_sound_for_the_file(words: Artifact, samples: Artifact, tmp_path: pathlib.Path) -> None:
    file, other = words.save(tmp_path / "words.tflite"), samples.save(tmp_path / "samples.tflite")
    whole = written(tmp_path / "a.wav", noise(16_000))
    wrong = written(tmp_path / "rate.wav", noise(100), rate=44_100)
    assert refused(1, "infer", file, wrong) == (
        f"{wrong} has 44,100 samples a second; the network was trained on 16,000. Convert it: "
        "ffmpeg -i IN.wav -ar 16000 OUT.wav"
    )
    cut = tmp_path / "cut.wav"
    cut.write_bytes(whole.read_bytes()[:500])
    for path in (file, other):
        said = refused(1, "infer", path, cut)
        assert said.startswith(f"{cut} is cut short: its chunk 'data' should have 32,000 bytes and has 456")
    empty = written(tmp_path / "empty.wav", noise(0))
    assert refused(1, "infer", file, empty) == f"{empty} holds no sample. Delete it, or record it again."
    missing = tmp_path / "none.wav"
    assert refused(1, "infer", file, missing) == f"Cannot read {missing}: No such file or directory."
    (tmp_path / "words.json").unlink()
    said = refused(1, "infer", file, whole)
    assert said.startswith(f"{file} takes int8[1,49,10,1] scale=")
    assert "Keep the manifest that jaxq train recipes/keyword_spotting wrote beside the file, as words.json" in said


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "log-mel"}, "`preprocess` is of kind 'log-mel'; jaxq computes MFCC by 'power = "),
        ({"formula": "x"}, "`preprocess` was written with another formula; jaxq computes MFCC by"),
        ({"hop": "wide"}, "`preprocess` lacks a number, or has a wrong one: ValueError: invalid literal for int"),
        ({"mean": [0.0]}, "`preprocess` lacks a number, or has a wrong one: ValueError: cannot reshape"),
        ({"hop": 640}, "its manifest's `preprocess` makes one of 25 frames of 10 coefficients. Export the file again."),
    ],
)
def test_a_front_end_that_is_not_the_file_s(
    words: Artifact, changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    said = {**words.manifest, "preprocess": {**FRONT_END.recorded(), **changes}}
    file = dataclasses.replace(words, manifest=said).save(tmp_path / "words.tflite")
    assert message in refused(1, "infer", file, written(tmp_path / "a.wav", noise(16_000)))


def test_the_manifest_of_another_file_is_refused(words: Artifact, samples: Artifact, tmp_path: pathlib.Path) -> None:
    file, clip = samples.save(tmp_path / "a.tflite"), written(tmp_path / "a.wav", noise(90))
    words.save(tmp_path / "b.tflite")
    (tmp_path / "b.json").rename(tmp_path / "a.json")
    message = f"{tmp_path}/a.json is the manifest of another file: it says SHA-256"
    assert refused(1, "infer", file, clip).startswith(message)
    assert refused(1, "verify", file, "--random", 1).startswith(message)
    (tmp_path / "a.json").write_text("{")
    assert refused(1, "report", file).startswith(f"{tmp_path}/a.json is no manifest: Expecting property name")


@pytest.mark.slow
def test_a_proof_does_without_the_manifest_of_another_file(
    words: Artifact, samples: Artifact, tmp_path: pathlib.Path
) -> None:
    file = samples.save(tmp_path / "a.tflite")
    words.save(tmp_path / "b.tflite")
    (tmp_path / "b.json").rename(tmp_path / "a.json")
    found = call("proof", file, "--random", 1, "--out", tmp_path / "proof")
    assert found.code == 0 and found.err == (
        f"warning: {tmp_path}/a.json is not the manifest of {file}: its sha256 is another file's. The proof does "
        "without it.\n"
    )


def test_the_front_end_is_read_as_it_was_written() -> None:
    found = mfcc.front_end(FRONT_END.recorded())
    assert found.sizes == FRONT_END.sizes and [type(x) for x in dataclasses.astuple(found.sizes)][:2] == [int, int]
    np.testing.assert_array_equal([found.mean, found.std], [MEAN, STD])


# --- arrays and texts -------------------------------------------------------------------------------------------------


def test_arrays(samples: Artifact, tmp_path: pathlib.Path) -> None:
    file, x = samples.save(tmp_path / "a.tflite"), np.linspace(-1, 1, 60)
    (wanted,) = samples.run(x[None].astype(np.float32))
    entry = samples.manifest["inputs"][0]
    integers = np.clip(np.rint(x.astype(np.float32) * np.float32(1 / entry["scale"])) + entry["zero_point"], -128, 127)
    for name, array in {"real": x, "batch": x[None], "stored": integers.astype(np.int8)[None]}.items():
        np.save(tmp_path / f"{name}.npy", array)
        np.testing.assert_array_equal(scores(file, tmp_path / f"{name}.npy"), wanted[0], err_msg=name)
    np.savez(tmp_path / "real.npz", x=x)
    np.testing.assert_array_equal(scores(file, tmp_path / "real.npz"), wanted[0])


def test_what_is_no_array_for_the_file(samples: Artifact, tmp_path: pathlib.Path) -> None:
    file, path = samples.save(tmp_path / "a.tflite"), tmp_path / "x.npy"
    assert refused(1, "infer", file, path) == f"There is no file {path}. Save the input: np.save({str(path)!r}, x)"
    cases = {
        "holds 7 examples, and jaxq infer takes one. Save one: np.save(F, x[:1])": np.zeros((7, 60)),
        "holds 100 examples, and jaxq infer takes one": np.zeros((100, 60)),
        "The data for 'input' is (61,); the file says (1, 60).": np.zeros(61),
        "input 0 holds 60 of 60 values that are NaN or infinite": np.full((1, 60), np.nan),
    }
    for message, array in cases.items():
        np.save(path, array)
        assert message in refused(1, "infer", file, path)
    path.write_bytes(b"text")
    assert f"{path} is not an .npy or .npz file of numbers" in refused(1, "infer", file, path)


@pytest.mark.slow
def test_pixels_in_an_array_are_normalized(tmp_path: pathlib.Path) -> None:
    from tests.test_metadata import PIXELS, artifact, preprocessed

    file = artifact().save(tmp_path / "a.tflite")
    np.save(tmp_path / "a.npy", PIXELS[0])
    np.testing.assert_array_equal(scores(file, tmp_path / "a.npy"), artifact().run(preprocessed(PIXELS[:1]))[0][0])


def test_a_file_of_text(tmp_path: pathlib.Path) -> None:
    """The sentence in it is what is inferred; what cannot be read is refused before the vocabulary is asked."""
    file, path = GOLDEN / "labelled_text.tflite", tmp_path / "a.txt"
    assert refused(1, "infer", file, path) == (
        f"Cannot read {path}: No such file or directory. Give a .txt file that exists, or a sentence."
    )
    path.write_bytes(b"caf\xe9")
    assert refused(1, "infer", file, path) == f"{path} is not UTF-8: byte 3 is 0xe9. Save it as UTF-8."
    path.write_text("a sentence")
    assert "vocabulary of 4 tokens lacks [CLS], [SEP]" in refused(1, "infer", file, path)
