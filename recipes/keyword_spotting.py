"""Keyword spotting on a microcontroller: a folder of WAV files to a proven int8 DS-CNN for TFLite Micro.

    jaxq train recipes/keyword_spotting --data FOLDER --out build/keywords

Data: FOLDER/CLASS/*.wav, one folder a class, of one rate; Speech Commands (Warden 2018) has this form. Features: MFCC
(`jaxq.recipes.mfcc`), each coefficient less its mean over its standard deviation on the training clips; sizes, formula
and tables are in the manifest under `preprocess`. Model: DS-CNN (`jaxq.recipes.ds_cnn`). Method: float training,
calibration, a short training on integers (Jacob et al. 2018), as in `jaxq.recipes.mnist`.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.errors import InputError
from jaxq.export.artifact import Artifact
from jaxq.export.files import write_whole
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.plan.recipe import Activations
from jaxq.recipes import checkpoint, identity, loop, pages, sounds
from jaxq.recipes.ds_cnn import DSCNN
from jaxq.recipes.mfcc import FrontEnd, Mfcc
from jaxq.recipes.settings import changed
from jaxq.recipes.sounds import Clips, Folder
from jaxq.recipes.writers import JsonLines

FOLDER = (
    "This recipe reads a folder of WAV files. Give it with --data FOLDER: one folder a class in it, FOLDER/CLASS/*.wav."
)


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and lengths of the run.

    seconds: of a clip. shift: by at most so many frames a training clip is moved. observe, freeze: the steps on
    integers after which ranges learn, and stand still. verify: clips that prove the file. target: of docs/targets.md.
    """

    seconds: float = 1.0
    width: int = 64
    blocks: int = 4
    batch: int = 64
    shift: int = 5
    float_steps: int = 1000
    float_rate: float = 1e-2
    qat_steps: int = 250
    observe: int = 50
    freeze: int = 200
    calibrate: int = 512
    verify: int = 64
    target: str = "tflm"


SMOKE = Config(
    seconds=0.5, width=8, blocks=1, batch=16, float_steps=4, qat_steps=4, observe=1, freeze=3, calibrate=32, verify=4
)


@dataclasses.dataclass(frozen=True)
class Data:
    """Clips as MFCC, and the front end that makes an input of a clip."""

    front_end: FrontEnd
    train: Clips
    test: Clips

    def inputs(self, of: Clips, count: int | None = None) -> np.ndarray:
        """float32 [n, frames, coefficients, 1]."""
        return self.front_end.normalized(of.features[:count])


def target() -> tuple[nnx.Module, np.ndarray]:
    """The untrained network of twelve classes and an example, for `jaxq plan recipes/keyword_spotting`."""
    model = DSCNN(12, rngs=nnx.Rngs(0))
    model.eval()
    return model, np.zeros((1, Mfcc().frames, Mfcc().coefficients, 1), np.float32)


def run(
    out: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    smoke: bool = False,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Run the recipe on the clips in `data`; leaves model.tflite, its manifest and report in `out`.

    With `smoke` a small network and a few steps, on tones where no folder is given.

    Returns: the summary.
    Raises: InputError where the folder or a setting is not as `Config` and `sounds` say.
    """
    config = changed(SMOKE if smoke else Config(), settings or {})
    if data is None and not smoke:
        raise InputError(FOLDER)
    checkpoint.make_room(out, resume, force)
    found = normalized(sounds.made_up(seed) if data is None else sounds.read_folder(data, config.seconds))
    out.mkdir(parents=True, exist_ok=True)
    whole = identity.fingerprint((found.train, found.test))
    identity.claim(out, resume, recipe="keyword_spotting", seed=seed, config=config, data=whole)
    model = train_float(config, found, seed, out / "checkpoints" / "float", resume)
    summary: dict[str, Any] = {"train_clips": len(found.train.labels), "test_clips": len(found.test.labels)}
    summary["float_accuracy"] = _accuracy(model, found)
    recipe = jaxq.Recipe(name="int8", target=config.target, activations=Activations(observe=True))
    qmodel = jaxq.quantize(model, recipe, found.inputs(found.test, 1))
    seen = found.inputs(found.train, config.calibrate)
    jaxq.calibrate(qmodel, (seen[i : i + 128] for i in range(0, len(seen), 128)))
    summary["ptq_accuracy"] = _accuracy(qmodel, found)
    train_qat(config, qmodel, found, seed, out / "checkpoints" / "qat", resume)
    summary["qat_accuracy"] = _accuracy(qmodel, found)
    artifact = exported(config, qmodel, found)
    summary |= _measured(config, artifact, found)
    artifact.save(out / "model.tflite", force=True)
    write_whole({out / "summary.json": (json.dumps(summary, indent=2) + "\n").encode()})
    _report(summary)
    shown = None if smoke else found.inputs(found.test, config.verify)
    return summary | {"report": pages.written(artifact, out / "model.html", out, shown)}


def normalized(folder: Folder) -> Data:
    """The clips, with the mean and the standard deviation of each coefficient over the training clips."""
    features = folder.train.features.astype(np.float64)
    mean, std = features.mean((0, 1)).astype(np.float32), features.std((0, 1)).astype(np.float32)
    order = np.random.default_rng(0).permutation(len(folder.train.labels))  # so that the first ones are of all classes
    mixed = Clips(folder.train.features[order], folder.train.labels[order], folder.train.classes)
    test = np.random.default_rng(1).permutation(len(folder.test.labels))
    tested = Clips(folder.test.features[test], folder.test.labels[test], folder.test.classes)
    return Data(FrontEnd(folder.sizes, mean, np.maximum(std, np.float32(1e-3))), mixed, tested)


def exported(config: Config, qmodel: Any, data: Data) -> Artifact:
    """The proven file, its manifest with `preprocess`."""
    said = Metadata(
        "Keyword spotting", "Which word is it?",
        inputs=(TensorMetadata("mfcc", "Normalized MFCC; the manifest's `preprocess` says how to compute them."),),
        outputs=(TensorMetadata("word", "A score for each word.", labels=data.train.classes),),
    )  # fmt: skip
    artifact = jaxq.export.to_tflite(qmodel, verify=data.inputs(data.test, config.verify), metadata=said)
    return dataclasses.replace(artifact, manifest={**artifact.manifest, "preprocess": data.front_end.recorded()})


def batches(config: Config, data: Data, steps: int, seed: int, first: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random batches for the steps `first` to `steps`, each clip moved by up to `shift` frames.

    Each depends on its step alone, so that training resumes exactly. What moves in is a copy of the outer frame.
    """
    frames = np.arange(data.front_end.sizes.frames)
    for step in range(first, steps):
        rng = np.random.default_rng((seed, step))
        pick = rng.integers(0, len(data.train.labels), config.batch)
        moved = frames + rng.integers(-config.shift, config.shift + 1, (config.batch, 1))
        places = np.clip(moved, 0, len(frames) - 1)[..., None]
        features = np.take_along_axis(data.train.features[pick], places, 1)
        yield data.front_end.normalized(features), data.train.labels[pick]


def train_float(config: Config, data: Data, seed: int, folder: pathlib.Path, resume: bool) -> DSCNN:
    """The float network, trained with batch statistics, left in evaluation mode."""
    model = DSCNN(len(data.train.classes), width=config.width, blocks=config.blocks, rngs=nnx.Rngs(seed))
    schedule = optax.cosine_onecycle_schedule(config.float_steps, config.float_rate)
    optimizer = nnx.Optimizer(model, optax.adamw(schedule, weight_decay=1e-3), wrt=nnx.Param)
    model.train()
    _train(config, data, (model, optimizer), seed, "float", config.float_steps, folder, resume)
    model.eval()
    return model


def train_qat(config: Config, qmodel: Any, data: Data, seed: int, folder: pathlib.Path, resume: bool) -> None:
    """Fine-tune on the integers: ranges observe, then learn, then are frozen."""
    schedule = jaxq.optim.qat_schedule(config.float_rate, config.qat_steps, share=0.05)
    tx = jaxq.optim.partition(optax.adam(schedule), observe=config.observe, freeze=config.freeze)
    optimizer = nnx.Optimizer(qmodel, tx, wrt=nnx.Param)
    _train(config, data, (qmodel, optimizer), seed + 1, "int8 QAT", config.qat_steps, folder, resume)


def _train(
    config: Config, data: Data, state: tuple[Any, Any], seed: int, title: str, steps: int, folder: pathlib.Path,
    resume: bool,
) -> None:  # fmt: skip
    with checkpoint.manager(folder, every=100) as checkpoints:
        first = checkpoint.restore(checkpoints, *state) if resume else 0

        def save(step: int) -> None:
            checkpoint.save(checkpoints, step, *state, last=step == steps - 1)

        stream, writer = batches(config, data, steps, seed, first), JsonLines(folder.parent.parent / "log.jsonl")
        loop.fit(*state, stream, title=title, steps=steps, first=first, after=save, writer=writer)


def _accuracy(model: Any, data: Data) -> float:
    return loop.accuracy(model, data.inputs(data.test), data.test.labels)


def _measured(config: Config, artifact: Artifact, data: Data) -> dict[str, Any]:
    """The file's accuracy on LiteRT, the proof, and, where the package is here, the proof on TFLite Micro."""
    assert artifact.certificate is not None
    (logits,) = artifact.run(data.inputs(data.test))
    found = {
        "artifact_accuracy": float(np.mean(np.argmax(logits, -1) == data.test.labels)),
        "differing_integers": artifact.certificate.differing_integers,
        "compared_integers": artifact.certificate.compared_integers,
        "tflite_bytes": len(artifact.data),
    }
    if importlib.util.find_spec("tflite_micro") is None:
        return found
    micro = artifact.verify(data.inputs(data.test, config.verify), families=("tflm",))
    return found | {
        "tflm_differing_integers": micro.differing_integers,
        "tflm_compared_integers": micro.compared_integers,
    }


def _report(summary: Mapping[str, Any]) -> None:
    table = Table(title="Keywords")
    for column in ("stage", "test accuracy"):
        table.add_column(column)
    for stage in ("float", "ptq", "qat", "artifact"):
        table.add_row(stage, f"{100 * summary[f'{stage}_accuracy']:.2f} %")
    Console().print(table)
