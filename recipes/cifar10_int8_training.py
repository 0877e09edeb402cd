"""INT8 training from scratch beside float training: one network, the same weights and batches, a scheme by name.

    float      the network trained in floats, BatchNorm in training mode
    int8       the same from the same weights, its convolutions and products in int8, forward and backward
    QAT        the second, calibrated, on the integers of the file, with the scheme's gradients
    artifact   the file of it, proven

Data: a folder of images, CIFAR-10 (Krizhevsky 2009) or another. Schemes: docs/int8_training.md. Commands:

    jaxq train recipes/cifar10_int8_training --data FOLDER --network resnet_20 --set scheme=unified --set bits=4
"""

from __future__ import annotations

import dataclasses
import pathlib
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal

import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.gradients.backward import SchemeName
from jaxq.int8 import Backward
from jaxq.recipes import checkpoint, identity, images, pages, stepping, train
from jaxq.recipes.finetune import FOLDER
from jaxq.recipes.images import Images
from jaxq.recipes.layers import example
from jaxq.recipes.mobilenet_v2 import MobileNetV2
from jaxq.recipes.notes import Notes
from jaxq.recipes.resnet_20 import ResNet20
from jaxq.recipes.settings import changed
from jaxq.recipes.train import Training

# MobileNetV2 for 32 pixels: the second stage keeps its size.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 1), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
Network = Callable[[int, nnx.Rngs], Any]
NETWORKS: dict[str, Network] = {
    "mobilenet_v2": lambda classes, rngs: MobileNetV2(classes=classes, stages=STAGES, rngs=rngs),
    "resnet_20": lambda classes, rngs: ResNet20(classes, rngs=rngs),
}
SMALL: dict[str, Network] = {
    "mobilenet_v2": lambda classes, rngs: MobileNetV2(0.25, classes, stages=((6, 16, 1, 2),), rngs=rngs),
    "resnet_20": lambda classes, rngs: ResNet20(classes, channels=(8, 16), repeats=1, rngs=rngs),
}
DEFAULT = "mobilenet_v2"


@dataclasses.dataclass(frozen=True)
class Config:
    """The choices of a run.

    scheme, bits: of gradients, as in `jaxq.int8.Backward`. training: of float and of int8 training; its rate is SGD's,
    with momentum 0.9. qat: of the training on the file's integers, by AdamW. train, test: how many images, None for
    all. calibrate, verify: how many of them calibrate, and prove the file.
    """

    scheme: SchemeName = "row"
    bits: Literal[8, 4] = 8
    training: Training = Training(epochs=20.0, batch=64, rate=0.1, resolution=32, save=500)
    qat: Training = Training(epochs=1.0, batch=64, rate=1e-4, resolution=32)
    train: int | None = None
    test: int | None = None
    calibrate: int = 256
    verify: int = 16

    @property
    def backward(self) -> Backward:
        """How gradients are quantized."""
        return Backward(scheme=self.scheme, bits=self.bits)

    def preprocess(self, pixels: np.ndarray) -> np.ndarray:
        """Images uint8 [n, h, w, 3], RGB, to the network's float32 inputs in [-1, 1]."""
        return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1.0)


_SHORT = Training(epochs=1.0, batch=8, rate=0.01, resolution=16, save=1, look=0)
SMOKE = Config(
    training=_SHORT, qat=dataclasses.replace(_SHORT, rate=1e-4), train=24, test=20, calibrate=16, verify=2
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: its choices, its network, its images and what has been found so far."""

    config: Config
    network: Network
    out: pathlib.Path
    seed: int
    train: Images
    test: Images
    writer: train.Writer
    notes: Notes

    def untrained(self) -> Any:
        """The network with the seed's weights."""
        model = self.network(len(self.train.classes), nnx.Rngs(self.seed))
        for _, module in nnx.iter_modules(model):
            if isinstance(module, nnx.BatchNorm):
                module.momentum = 0.9
        return model

    def inputs(self, count: int | None = None) -> np.ndarray:
        """Test images as they enter the network."""
        return self.config.preprocess(train.middle(self.test.images[:count], self.config.training.resolution))


def target() -> tuple[MobileNetV2, np.ndarray]:
    """The untrained network with ten classes and an example, for `jaxq plan` and `jaxq export`."""
    model = NETWORKS[DEFAULT](10, nnx.Rngs(0))
    model.eval()
    return model, example(32)


def run(
    out: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    network: str | None = None,
    epochs: float | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    smoke: bool = False,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Run the recipe on the images in `data`; leaves model.tflite, its manifest and report, log.jsonl and summary.json.

    With `smoke` a small network and a few steps, on made-up images where no folder is given.

    Args:
      out: the folder of the run.
      data: FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg.
      network: a key of NETWORKS.
      epochs: passes over the images, in float and again in int8.
      settings: fields of `Config`, by dotted names.
      seed: of the weights and of the order of the images.
      smoke, resume, force: as in `jaxq train`.

    Returns: the summary, accuracies as shares, and under "report" lines about the page.
    Raises: InputError for images, a network or a setting that there is not.
    """
    chosen = changed(SMOKE if smoke else Config(), settings or {})
    if epochs is not None:
        chosen = dataclasses.replace(chosen, training=dataclasses.replace(chosen.training, epochs=epochs))
    name, networks = network or DEFAULT, SMALL if smoke else NETWORKS
    if name not in networks:
        raise InputError(f"There is no network {name!r} for INT8 training. {did_you_mean(name, networks)}")
    training, test = _images(chosen, data, smoke, seed)
    checkpoint.make_room(out, resume, force)
    out.mkdir(parents=True, exist_ok=True)
    whole = identity.fingerprint((training, test))
    identity.claim(out, resume, recipe=f"cifar10_int8_training {name}", seed=seed, config=chosen, data=whole)
    notes, writer = Notes(out / "summary.json", resume=resume), train.JsonLines(out / "log.jsonl")
    return compared(Run(chosen, networks[name], out, seed, training, test, writer, notes), smoke)


def smoke(out: pathlib.Path) -> dict[str, Any]:
    """A run of seconds on made-up images, without downloads: that everything works, not how well."""
    return run(out, smoke=True)


def _images(config: Config, data: pathlib.Path | None, smoke: bool, seed: int) -> tuple[Images, Images]:
    side = config.training.resolution + config.training.resolution // 8
    if data is None and smoke:
        return images.synthetic(4, config.train or 24, side, seed), images.synthetic(
            4, config.test or 20, side, seed + 1
        )
    if data is None:
        raise InputError(FOLDER)
    return images.read_splits(data, side, config.train, config.test, seed)


def compared(run: Run, smoke: bool) -> dict[str, Any]:
    """Float training, INT8 training, and the file of the second."""
    run.notes.add(train_images=len(run.train.labels), test_images=len(run.test.labels))
    model = run.untrained()
    _trained(run, "float", model)
    run.notes.once("float", lambda: _accuracy(run, model))
    model = run.untrained()
    _trained(run, "int8", jaxq.int8.training(model, run.config.backward, run.inputs(1)))
    run.notes.once("int8", lambda: _accuracy(run, model))
    lines = _exported(run, model, smoke)
    return run.notes.found | {"report": lines}


def _trained(run: Run, name: str, model: Any) -> None:
    """SGD with momentum from the seed's weights, in training mode, from its newest checkpoint if there is one."""
    config = run.config.training
    rate = train.schedule(config, config.steps(len(run.train.labels)))
    sgd = optax.chain(optax.add_decayed_weights(config.decay), optax.sgd(rate, momentum=0.9))
    model.train()
    _fit(run, name, model, _scaled(run, name, jaxq.optim.partition(sgd)), config)


def _scaled(run: Run, name: str, tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """With the rate of each weight by the deviation of its gradient, which is a part of the scheme "unified"."""
    return optax.chain(tx, jaxq.optim.scale_by_deviation()) if (name, run.config.scheme) == ("int8", "unified") else tx


def _fit(run: Run, name: str, model: Any, tx: optax.GradientTransformation, config: Training) -> None:
    start = time.perf_counter()
    with checkpoint.manager(run.out / "checkpoints" / name, every=config.save) as checkpoints:
        found = train.fit(
            model, nnx.Optimizer(model, tx, wrt=nnx.Param), run.train, config, preprocess=run.config.preprocess,
            checkpoints=checkpoints, title=name, seed=run.seed, writer=run.writer,
        )  # fmt: skip
    seconds = run.notes.found.get(f"{name}_seconds", 0.0) + (time.perf_counter() - start if found else 0.0)
    run.notes.add(**{f"{name}_steps": config.steps(len(run.train.labels)), f"{name}_seconds": round(seconds, 1)})


def _exported(run: Run, model: Any, smoke: bool) -> list[str]:
    """Calibrate, train on the file's integers with the scheme's gradients, export. Lines about the report."""
    config = run.config
    model.eval()
    qmodel = jaxq.quantize(model, jaxq.Recipe(name="int8", backward=config.backward), run.inputs(1))
    chosen = config.preprocess(train.middle(run.train.images[: config.calibrate], config.training.resolution))
    jaxq.calibrate(qmodel, (chosen[i : i + 64] for i in range(0, len(chosen), 64)))
    run.notes.once("int8_ptq", lambda: _accuracy(run, qmodel))
    count = config.qat.steps(len(run.train.labels))
    rate = train.schedule(config.qat, count)
    adamw = optax.adamw(rate, weight_decay=config.qat.decay)
    _fit(run, "int8_qat", qmodel, jaxq.optim.partition(adamw, freeze=max(1, 4 * count // 5)), config.qat)
    qmodel.eval()
    said = jaxq.export.Metadata.image_classifier(run.test.classes, (127.5,) * 3, (127.5,) * 3)
    artifact = jaxq.export.to_tflite(qmodel, verify=run.inputs(config.verify), metadata=said)
    artifact.save(run.out / "model.tflite", force=True)
    assert artifact.certificate is not None
    run.notes.add(
        int8_qat=_accuracy(run, qmodel), differing_integers=artifact.certificate.differing_integers,
        compared_integers=artifact.certificate.compared_integers, bytes=len(artifact.data),
    )  # fmt: skip
    return pages.written(artifact, run.out / "model.html", run.out, None if smoke else run.inputs(config.verify))


def _accuracy(run: Run, model: Any) -> float:
    """Share of test images whose greatest logit is their label's, in evaluation mode."""
    model.eval()
    pictures = train.middle(run.test.images, run.config.training.resolution)
    logits = stepping.outputs_of(model, [pictures], preprocess=run.config.preprocess, mesh=stepping.mesh_of())
    return float(np.mean(np.argmax(logits, -1) == run.test.labels))
