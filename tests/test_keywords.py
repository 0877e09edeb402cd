"""Keyword spotting: WAV files, MFCC against librosa, folders of clips, and a run to a file for TFLite Micro."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import wave
from typing import Any

import numpy as np
import pytest
import scipy.io.wavfile
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.errors import InputError
from jaxq.export.evaluate.load import load_program
from jaxq.export.flatbuffer.metadata import read_metadata
from jaxq.recipes import keyword_spotting, mfcc, sounds
from jaxq.recipes.mfcc import Mfcc
from jaxq.recipes.wav import read_wav

GOLDEN = pathlib.Path(__file__).parent / "golden" / "mfcc.npz"
RATE = 8_000


# --- WAV --------------------------------------------------------------------------------------------------------------


def written(path: pathlib.Path, data: bytes, *, bits: int = 16, channels: int = 1, rate: int = RATE) -> pathlib.Path:
    """A file of PCM, by the standard library."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, bits // 8, rate, 0, "NONE", "not compressed"))
        file.writeframes(data)
    return path


@pytest.mark.parametrize("bits", [8, 16, 24, 32])
@pytest.mark.parametrize("channels", [1, 2])
def test_pcm_is_read_as_scipy_reads_it(bits: int, channels: int, tmp_path: pathlib.Path) -> None:
    data = np.random.default_rng(0).integers(0, 256, 60 * channels * bits // 8, np.uint8).tobytes()
    file = written(tmp_path / "a.wav", data, bits=bits, channels=channels)
    rate, theirs = scipy.io.wavfile.read(file)
    real = (theirs.astype(np.float64) - 128) / 128 if bits == 8 else theirs / 2.0 ** (31 if bits == 24 else bits - 1)
    found = read_wav(file)
    assert found.rate == rate == RATE
    np.testing.assert_array_equal(found.samples, real.reshape(60, channels).mean(1).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_floats_are_read(dtype: str, tmp_path: pathlib.Path) -> None:
    samples = np.random.default_rng(0).uniform(-1, 1, 60).astype(dtype)
    scipy.io.wavfile.write(tmp_path / "a.wav", RATE, samples)
    np.testing.assert_array_equal(read_wav(tmp_path / "a.wav").samples, samples.astype(np.float32))


def test_the_extensible_header_is_read(tmp_path: pathlib.Path) -> None:
    plain = written(tmp_path / "a.wav", b"\x01\x02\x03" * 4, bits=24).read_bytes()
    form = plain[20:36].replace(b"\x01\x00", b"\xfe\xff", 1) + b"\x16\x00\x18\x00\x00\x00\x00\x00\x01\x00" + bytes(14)
    chunks = b"fmt " + len(form).to_bytes(4, "little") + form + b"LIST\x03\x00\x00\x00abc\x00" + plain[36:]
    other = tmp_path / "b.wav"
    other.write_bytes(b"RIFF" + (len(chunks) + 4).to_bytes(4, "little") + b"WAVE" + chunks)
    np.testing.assert_array_equal(read_wav(other).samples, read_wav(tmp_path / "a.wav").samples)


def test_what_is_no_wav_file_is_refused(tmp_path: pathlib.Path) -> None:
    whole = written(tmp_path / "whole.wav", bytes(18), channels=2, bits=24).read_bytes()
    floats = tmp_path / "nan.wav"
    scipy.io.wavfile.write(floats, RATE, np.array([0, np.nan], np.float32))
    cases = {
        b"ID3\x04 an mp3 file": "is no WAV file: it begins with b'ID3",
        whole[:-7]: "is cut short: its chunk 'data' should have 18 bytes and has 11",
        whole[:30]: "is cut short: its chunk 'fmt ' should have 16 bytes and has 10",
        whole[:36]: "has no chunk 'data'",
        whole[:40] + b"\x04\x00\x00\x00abcd": "4 bytes of samples are no multiple of 6, 2 channels of 24 bits",
        whole[:40] + bytes(4): "holds no sample",
        whole[:20] + b"\x02" + whole[21:]: "the encoding 2 with 24 bits; what is read is PCM",
        whole[:22] + b"\x00" + whole[23:]: "has 0 channels",
        floats.read_bytes(): "holds NaN or infinity, at sample 1",
    }
    for data, message in cases.items():
        (tmp_path / "a.wav").write_bytes(data)
        with pytest.raises(InputError, match=message):
            read_wav(tmp_path / "a.wav")


# --- MFCC -------------------------------------------------------------------------------------------------------------


def golden() -> dict[str, np.ndarray]:
    with np.load(GOLDEN) as stored:
        return {name: stored[name] for name in stored.files}


def test_coefficients_and_tables_are_those_of_librosa() -> None:
    wanted, sizes = golden(), Mfcc()
    window, mel, dct = mfcc.tables(sizes)
    np.testing.assert_allclose(window, wanted["window"], atol=1e-12)
    np.testing.assert_allclose(mel, wanted["mel"], atol=1e-9)
    np.testing.assert_allclose(dct, wanted["dct"], atol=1e-12)
    found = mfcc.mfcc((wanted["samples"] / 2**15).astype(np.float32), sizes)
    assert found.shape == (2, sizes.frames, 10) == (2, 49, 10)
    np.testing.assert_allclose(found, wanted["mfcc"], atol=2e-5)


@pytest.mark.parametrize("change", [{"hop": 319}, {"low": 21.0}, {"floor": 2e-6}, {"filters": 41}, {"window": 639}])
def test_another_size_gives_other_numbers(change: dict[str, Any]) -> None:
    wanted = golden()
    found = mfcc.mfcc(wanted["samples"] / 2**15, dataclasses.replace(Mfcc(), **change))
    assert np.max(np.abs(found[:, :49] - wanted["mfcc"])) > 1e-2


def test_the_record_is_enough_for_a_host() -> None:
    said, samples = json.loads(json.dumps(mfcc.recorded(Mfcc()))), golden()["samples"][0] / 2**15
    mel = np.zeros((said["filters"], said["fft"] // 2 + 1))
    for row, filled in zip(mel, said["tables"]["mel"], strict=True):
        row[filled["first"] : filled["first"] + len(filled["weights"])] = filled["weights"]
    names: dict[str, Any] = {
        "rfft": np.fft.rfft,
        "log": np.log,
        "abs": abs,
        "len": len,
        "mel": mel,
        "x": samples,
        "mean": 0,
        "std": 1,
    }
    names |= {k: np.array(said["tables"][k]) for k in ("window", "dct")} | {k: said[k] for k in ("hop", "fft", "floor")}
    steps = said["formula"].replace("input =", "result =")
    for t in (0, 13, said["frames"] - 1):
        here: dict[str, Any] = {}
        exec(steps.replace("; ", "\n"), names | {"t": t}, here)  # the text of the manifest, as a deployer reads it
        np.testing.assert_allclose(here["result"], mfcc.mfcc(samples[None], Mfcc())[0, t], atol=1e-5)


def test_a_rate_or_a_length_that_cannot_be() -> None:
    with pytest.raises(InputError, match="A clip of 0.01 seconds is shorter than a frame of 0.04"):
        Mfcc.of(16_000, 0.01)
    with pytest.raises(InputError, match="500 samples a second are too few for 40 filters up to 250 Hz"):
        Mfcc.of(500, 1.0)
    assert (Mfcc.of(16_000, 1.0), Mfcc.of(44_100, 1.0).fft, Mfcc.of(44_100, 1.0).frames) == (Mfcc(), 2048, 49)


# --- folders ----------------------------------------------------------------------------------------------------------


def tones(folder: pathlib.Path, count: int = 12) -> pathlib.Path:
    """Two classes of tones, of different lengths, bits and channels."""
    rng = np.random.default_rng(0)
    for name, pitch in (("hum", 300), ("whistle", 2_000)):
        for i in range(count):
            turns = np.arange(int(rng.integers(3_000, 6_000))) * pitch / RATE
            samples = np.rint(8_000 * np.sin(2 * np.pi * turns) + rng.normal(0, 200, turns.size)).astype("<i2")
            data, channels = (samples, 1) if i % 3 else (np.repeat(samples, 2), 2)
            written(folder / name / f"{i}_nohash_{i % 2}.wav", data.tobytes(), channels=channels)
    return folder


def test_a_folder_is_read(tmp_path: pathlib.Path) -> None:
    tones(tmp_path)
    written(tmp_path / "_background_noise_" / "a.wav", bytes(2), rate=44_100)
    found = sounds.read_folder(tmp_path, 0.5)
    assert found.train.classes == found.test.classes == ("hum", "whistle") and found.sizes == Mfcc.of(RATE, 0.5)
    assert len(found.train.labels) + len(found.test.labels) == 24 and {0, 1} <= set(found.test.labels.tolist())
    assert found.train.features.shape[1:] == (24, 10)
    hum, whistle = (found.train.features[found.train.labels == label].mean((0, 1)) for label in (0, 1))
    assert hum[1] > whistle[1] + 5  # low tones have more of the first cosine


def test_a_speaker_is_on_one_side_and_each_class_on_both() -> None:
    files = [pathlib.Path(f"{speaker:08x}_nohash_{take}.wav") for speaker in range(300) for take in range(2)]
    sides = sounds.tested(files)
    assert sides[::2] == sides[1::2] and 0.15 < np.mean(sides) < 0.25
    for count in range(2, 9):
        assert set(sounds.tested([pathlib.Path(f"{i}.wav") for i in range(count)])) == {True, False}


def test_lengths() -> None:
    np.testing.assert_array_equal(sounds.of_length(np.arange(1.0, 8.0), 3), [3, 4, 5])
    np.testing.assert_array_equal(sounds.of_length(np.array([1.0, 2.0]), 5), [0, 0, 1, 2, 0])


def test_what_is_no_folder_of_clips_is_refused(tmp_path: pathlib.Path) -> None:
    def refused(message: str) -> None:
        with pytest.raises(InputError, match=message):
            sounds.read_folder(tmp_path / "clips", 0.5)

    refused(r"There is no folder .*clips. The clips belong in .*clips/CLASS/\*.wav")
    (tmp_path / "clips" / "hum").mkdir(parents=True)
    refused("has one class, hum; there must be two or more")
    (tmp_path / "clips" / "hiss").mkdir()
    refused("hiss has 0 WAV files; each class has two or more")
    tones(tmp_path / "clips", 2)
    refused("hiss has 0 WAV files")
    for i in range(2):
        written(tmp_path / "clips" / "hiss" / f"{i}.wav", bytes(9_000), rate=16_000)
    refused(r"hum/\S+ has 8,000 samples a second, and .*hiss/0.wav has 16,000. .* -ar 16000 OUT.wav")


# --- the recipe -------------------------------------------------------------------------------------------------------


def test_a_run_says_what_it_needs(tmp_path: pathlib.Path) -> None:
    command = ["train", "recipes/keyword_spotting", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 1 and "Give it with --data FOLDER: one folder a class in it" in done.stderr
    done = CliRunner().invoke(app, [*command, "--set", "bach=3"])
    assert done.exit_code == 1 and "There is no setting 'bach'. Did you mean 'batch'" in done.stderr


def test_batches_depend_on_their_step_alone() -> None:
    data, config = keyword_spotting.normalized(sounds.made_up(0)), keyword_spotting.SMOKE
    whole = list(keyword_spotting.batches(config, data, 4, 0, 0))
    for wanted, found in zip(whole[2:], keyword_spotting.batches(config, data, 4, 0, 2), strict=True):
        np.testing.assert_array_equal(wanted[0], found[0])
        np.testing.assert_array_equal(wanted[1], found[1])
    still = dataclasses.replace(config, shift=0)
    ((inputs, labels),) = keyword_spotting.batches(still, data, 1, 0, 0)
    every = data.inputs(data.train)
    assert all(np.any(np.all(every == one, axis=(1, 2, 3))) for one in inputs) and labels.shape == (16,)
    np.testing.assert_allclose(every.mean((0, 1, 3)), 0, atol=1e-3)
    np.testing.assert_allclose(every.std((0, 1, 3)), 1, atol=1e-3)


@pytest.mark.slow
def test_own_clips_to_a_file_that_runs_on_tflite_micro(tmp_path: pathlib.Path) -> None:
    clips, out = tones(tmp_path / "clips"), tmp_path / "run"
    (tmp_path / "own.toml").write_text("width = 8\nqat_steps = 5\n")
    settings = ["--config", str(tmp_path / "own.toml"), "--set", "float_steps=30"]
    command = ["train", "recipes/keyword_spotting", "--data", str(clips), "--out", str(out), "--smoke", *settings]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    summary, manifest = (json.loads((out / name).read_text()) for name in ("summary.json", "model.json"))
    assert summary["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert summary["tflm_differing_integers"] == {"tflm": 0} and summary["tflm_compared_integers"] > 1_000
    assert summary["artifact_accuracy"] == summary["qat_accuracy"] == 1.0
    program, file = load_program(out / "model.tflite"), (out / "model.tflite").read_bytes()
    assert program.tensors[program.inputs[0]].shape == (1, 24, 10, 1)
    said = read_metadata(file, program)
    assert said is not None and said.outputs[0].labels == ("hum", "whistle")
    made = manifest["preprocess"]
    assert (made["rate"], made["samples"], made["frames"]) == (RATE, 4_000, 24) and len(made["mean"]) == 10
    assert manifest["target"] == "tflm"
