"""The shipped training scripts: what they leave behind, how they go on, what an interruption costs."""

from __future__ import annotations

import itertools
import json
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import numpy as np
import optax
import pytest
from flax import nnx

from jaxq.errors import ExportError
from jaxq.export.evaluate.load import load_program
from jaxq.recipes import checkpoint, data, mnist
from jaxq.report import read_run

SUMMARY = {
    "float_accuracy",
    "ptq_accuracy",
    "qat_accuracy",
    "artifact_accuracy",
    "differing_integers",
    "compared_integers",
    "tflite_bytes",
    "float_bytes",
    "step_ratio",
}
ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A finished smoke run."""
    out = tmp_path_factory.mktemp("recipes") / "run"
    mnist.run(out, smoke=True)
    return out


def summary_of(out: pathlib.Path) -> dict[str, Any]:
    return json.loads((out / "summary.json").read_text())


def steps_of(out: pathlib.Path, phase: str) -> list[int]:
    return sorted(int(folder.name) for folder in (out / "checkpoints" / phase).iterdir() if folder.name.isdigit())


# --- a whole run -------------------------------------------------------------------------------------------------


def test_a_run_leaves_its_files_and_checkpoints(finished: pathlib.Path) -> None:
    files = {"log.jsonl", "model.html", "model.json", "model.tflite", "run.json", "summary.json"}
    assert {path.name for path in finished.iterdir()} == {"checkpoints", *files}
    assert steps_of(finished, "float") == steps_of(finished, "qat") == [0, 3]


def test_the_summary(finished: pathlib.Path) -> None:
    summary = summary_of(finished)
    assert summary.keys() == SUMMARY
    assert summary["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert summary["compared_integers"] > 0
    assert summary["artifact_accuracy"] == summary["qat_accuracy"]
    assert all(0 <= summary[f"{stage}_accuracy"] <= 1 for stage in ("float", "ptq", "qat", "artifact"))
    assert summary["tflite_bytes"] == (finished / "model.tflite").stat().st_size
    assert summary["step_ratio"] is None  # a smoke run measures no speed


def test_the_report_shows_the_ladder_and_the_curves_of_the_run(finished: pathlib.Path) -> None:
    run = read_run(finished)
    summary = summary_of(finished)
    stages = ("float", "ptq", "qat", "artifact")
    assert [a.value for a in run.ladder] == [summary[f"{stage}_accuracy"] for stage in stages]
    assert [(p.phase, p.curve, p.step) for p in run.points] == [("float", "loss", 0), ("int8 QAT", "loss", 0)]
    page = (finished / "model.html").read_text()
    assert "Every integer of the file is the one that was trained" in page and 'data-table="curves:loss"' in page


def test_the_file_and_its_manifest_belong_together(finished: pathlib.Path) -> None:
    manifest = json.loads((finished / "model.json").read_text())
    assert manifest["bytes"] == (finished / "model.tflite").stat().st_size
    assert [op.kind for op in load_program(finished / "model.tflite").operators][-1] == "FULLY_CONNECTED"


def test_a_finished_run_is_not_overwritten(finished: pathlib.Path) -> None:
    before = (finished / "model.tflite").read_bytes()
    with pytest.raises(ExportError, match=r"model\.tflite exists\. Go on with --resume, start again with --force"):
        mnist.run(finished, smoke=True)
    assert (finished / "model.tflite").read_bytes() == before


@pytest.mark.slow
def test_a_run_cut_off_in_both_phases_resumes_to_the_same_file(finished: pathlib.Path, tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    for phase in ("float", "qat"):
        shutil.rmtree(out / "checkpoints" / phase / "3")
    for file in ("model.tflite", "model.json", "summary.json"):
        (out / file).unlink()
    mnist.run(out, smoke=True, resume=True)
    assert steps_of(out, "qat") == [0, 3]
    assert (out / "model.tflite").read_bytes() == (finished / "model.tflite").read_bytes()
    steady = SUMMARY - {"step_ratio"}
    assert {k: summary_of(out)[k] for k in steady} == {k: summary_of(finished)[k] for k in steady}


# --- an interruption ---------------------------------------------------------------------------------------------


def interrupted(out: pathlib.Path) -> tuple[int, str]:
    """Start the whole recipe, press Ctrl-C once its first checkpoint is there; the exit code and what was printed."""
    command = [sys.executable, "-m", "jaxq", "train", "recipes/mnist", "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as child:
        deadline = time.monotonic() + 120
        while not (out / "checkpoints" / "float" / "0").is_dir():
            assert child.poll() is None and time.monotonic() < deadline, child.communicate()[0]
            time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        printed = child.communicate(timeout=60)[0]
        return child.returncode, printed


def test_ctrl_c_leaves_no_part_of_a_file_and_keeps_the_checkpoint(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    code, printed = interrupted(out)
    assert code == 130, printed
    assert "interrupted; to go on from the last checkpoint" in printed
    assert {path.name for path in out.iterdir()} == {"checkpoints", "log.jsonl", "run.json"}
    steps = steps_of(out, "float")
    assert steps and steps[0] == 0
    model = mnist.DigitNet(mnist.Config().width, nnx.Rngs(7))
    optimizer = nnx.Optimizer(model, optax.adamw(optax.constant_schedule(1e-3)), wrt=nnx.Param)
    with checkpoint.manager(out / "checkpoints" / "float", every=100) as checkpoints:
        assert checkpoint.restore(checkpoints, model, optimizer) == steps[-1] + 1


def smoke_run(out: pathlib.Path, killed_at: str = "") -> int:
    """Start or resume a smoke run in a process of its own, and kill it (SIGKILL) as soon as anything of the first
    checkpoint of a phase is on the disk; the exit code.
    """
    command = [sys.executable, "-m", "jaxq", "train", "recipes/mnist", "--smoke", "--out", str(out)]
    command += ["--resume"] * out.exists()
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as child:
        while killed_at and child.poll() is None:
            if any((out / "checkpoints" / killed_at).glob("[0-9]*")):
                child.kill()
                break
            time.sleep(0.01)
        return child.wait()


@pytest.mark.slow
def test_a_recipe_killed_in_both_phases_resumes_to_the_same_file(tmp_path: pathlib.Path) -> None:
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert smoke_run(whole) == 0
    for phase in ("float", "qat"):
        assert smoke_run(cut, killed_at=phase) == -signal.SIGKILL
        assert not (cut / "model.tflite").exists()
    assert smoke_run(cut) == 0
    for file in ("model.tflite", "model.json"):
        assert (cut / file).read_bytes() == (whole / file).read_bytes()


# --- data --------------------------------------------------------------------------------------------------------


def test_digits_are_split_by_seed() -> None:
    first, again, other = data.mnist(0), data.mnist(0), data.mnist(1)
    assert [a.shape for a in first] == [(4000, 28, 28, 1), (4000,), (1000, 28, 28, 1), (1000,)]
    assert (first.train_images.min(), first.train_images.max()) == (0.0, 1.0)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.test_labels, other.test_labels)


def test_a_batch_depends_on_its_step_alone() -> None:
    images, labels = np.arange(800).reshape(50, 4, 4, 1), np.arange(50)
    whole = list(data.batches(images, labels, 4, 6, seed=3))
    rest = list(data.batches(images, labels, 4, 6, seed=3, first=4))
    assert len(whole) == 6 and len(rest) == 2
    for (x, y), (x_again, y_again) in zip(itertools.islice(whole, 4, None), rest, strict=True):
        np.testing.assert_array_equal(x, x_again)
        np.testing.assert_array_equal(y, y_again)
