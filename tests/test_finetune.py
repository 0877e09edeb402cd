"""The fine-tuning recipes: a smoke run of each, what it leaves, what is said where images or weights lack."""

from __future__ import annotations

import json
import pathlib
import shutil
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

import jaxq
from jaxq.cli.app import app
from jaxq.cli.train import going_on
from jaxq.errors import ExportError, InputError, WeightsError
from jaxq.recipes import cifar10_efficientnet_lite0, cifar10_mobilenet_v2, finetune
from jaxq.recipes.finetune import Finetune
from jaxq.recipes.train import Training

STAGES = {"float", "int8_per_tensor_ptq", "float_longer", "int8_ptq", "int8_qat", "int8_artifact"}
SHORT = Training(epochs=1.0, batch=8, resolution=8, save=1, look=0)


class Tiny(nnx.Module):
    """The least network that the ladder takes."""

    def __init__(self, classes: int, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 4, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=0.9, rngs=rngs)
        self.classifier = nnx.Linear(4, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.classifier(jax.nn.relu(self.bn(self.stem(x))).mean((1, 2)))


TINY = Finetune(
    network=Tiny, mean=(127.0, 127.0, 127.0), std=(128.0, 128.0, 128.0), first=SHORT, extra=SHORT, train=24, test=20,
    calibrate=16, verify=2,
)  # fmt: skip


def checked(out: pathlib.Path, four_bits: bool) -> None:
    """What a finished run leaves."""
    summary = json.loads((out / "summary.json").read_text())
    kinds = ["int8", "int4"] if four_bits else ["int8"]
    assert all(0 <= summary[stage] <= 1 for stage in STAGES)
    for kind in kinds:
        assert summary[f"{kind}_logits_differing"] == 0 and summary[f"{kind}_logits_compared"] == 20 * 4
        assert summary[f"{kind}_artifact"] == summary[f"{kind}_qat"]
        assert summary[f"{kind}_differing_integers"] == {"xnnpack": 0, "reference": 0}
    files = ["model.tflite", "model_int4.tflite"][: len(kinds)]
    sizes = [(out / file).stat().st_size for file in files]
    assert sizes == [summary[f"{kind}_bytes"] for kind in kinds] and sizes == sorted(sizes, reverse=True)
    phases = ["float", "float_longer", *(f"{kind}_qat" for kind in kinds)]
    assert sorted(path.name for path in (out / "checkpoints").iterdir()) == sorted(phases)
    names = {json.loads(line)["name"].partition("/")[0] for line in (out / "log.jsonl").read_text().splitlines()}
    assert names == {phase.replace("_", " ") for phase in phases}


def test_a_run_and_its_resumption(tmp_path: pathlib.Path) -> None:
    out = tmp_path / "run"
    finetune.ladder(TINY, out, data=None, smoke=True)
    checked(out, four_bits=False)
    before, summary = (out / "model.tflite").read_bytes(), json.loads((out / "summary.json").read_text())
    assert b"class 3" in before  # the names of the classes
    with pytest.raises(ExportError, match="model.tflite exists. Go on with --resume"):
        finetune.ladder(TINY, out, data=None, smoke=True)
    shutil.rmtree(out / "checkpoints" / "int8_qat" / "2")
    finetune.ladder(TINY, out, data=None, smoke=True, resume=True)
    assert (out / "model.tflite").read_bytes() == before
    again = json.loads((out / "summary.json").read_text())
    assert again.pop("int8_qat_seconds") > summary.pop("int8_qat_seconds") and again == summary


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [cifar10_mobilenet_v2, cifar10_efficientnet_lite0], ids=lambda recipe: recipe.NAME)
def test_a_smoke_run(recipe: Any, tmp_path: pathlib.Path) -> None:
    recipe.smoke(tmp_path)
    checked(tmp_path, recipe.CONFIG.four_bits)


def test_images_that_are_not_here(tmp_path: pathlib.Path) -> None:
    found = CliRunner().invoke(app, ["train", "recipes/cifar10_mobilenet_v2", "--out", str(tmp_path / "run")])
    assert found.exit_code == 1 and "Give it with --data FOLDER." in found.stderr and "git clone https" in found.stderr
    with pytest.raises(InputError, match="There is no folder .*/none/train"):
        cifar10_mobilenet_v2.run(tmp_path / "run", data=tmp_path / "none")
    assert not (tmp_path / "run").exists()


def test_weights_that_are_not_here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="To fetch them once: jaxq weights efficientnet_lite0"):
        cifar10_efficientnet_lite0.CONFIG.network(10, nnx.Rngs(0))


def test_how_to_go_on_after_ctrl_c() -> None:
    out, data = pathlib.Path("build/a b"), pathlib.Path("photos")
    assert going_on("recipes/mnist", out, False, 0, {}) == "jaxq train recipes/mnist --out 'build/a b' --resume"
    whole = "jaxq train x --out 'build/a b' --data photos --seed 3 --smoke --resume"
    assert going_on("x", out, True, 3, {"data": data}) == whole


def test_the_table_holds_what_was_found() -> None:
    summary = {"train_images": 20, "test_images": 100, "seed": 0, "float_steps": 4, "float_seconds": 3.0, "float": 0.5}
    found = finetune.table({**summary, "int8_qat": 0.75, "int8_qat_steps": 2, "int8_qat_seconds": 7.5})
    assert found.splitlines() == [
        "| stage | test accuracy | steps | seconds |",
        "| --- | --- | --- | --- |",
        "| float | 50.00 % | 4 | 3 |",
        "| int8 QAT, the extra epochs | 75.00 % | 2 | 8 |",
    ]


def test_a_recipe_with_data_of_its_own_takes_none(tmp_path: pathlib.Path) -> None:
    found = CliRunner().invoke(app, ["train", "mnist", "--data", str(tmp_path)])
    assert found.exit_code == 2 and "--data: the recipe mnist brings its own data." in found.stderr
    found = CliRunner().invoke(app, ["train", "mnist", "--policy", "int8"])
    assert found.exit_code == 2 and "--policy: the recipe mnist has no policies to choose from." in found.stderr


@pytest.mark.parametrize("recipe", [cifar10_mobilenet_v2, cifar10_efficientnet_lite0])
def test_what_four_bits_are_for(recipe: Any) -> None:
    """Pointwise convolutions have 4 bits; stem, depthwise and head keep 8, in both families of networks."""
    model = recipe.SMOKE.network(4, nnx.Rngs(0))
    model.eval()
    plan = jaxq.quantize(model, finetune.FOUR_BITS, np.zeros((1, 32, 32, 3), np.float32)).plan
    bits = {name: scheme.bits for name, scheme in plan.weights.items()}
    eight = {"stem/conv/kernel", "blocks/0/depthwise/conv/kernel", "classifier/kernel"}
    four = {"blocks/0/expand/conv/kernel", "blocks/0/project/conv/kernel", "head/conv/kernel"}
    assert bits == {**dict.fromkeys(eight, 8), **dict.fromkeys(four, 4)}
