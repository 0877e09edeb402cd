"""Training, short enough to copy: images in, a trained NNX module out, on every device there is.

    with checkpoint.manager(folder, every=100) as checkpoints:
        train.fit(model, optimizer, data, config, checkpoints=checkpoints, ...)

Any NNX module will do, a float model or one that `jaxq.quantize` gave. What a step sees depends on the seed and on the
step's number alone, so a run that was cut off and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh

import jaxq
from jaxq.recipes import processes, stepping
from jaxq.recipes.images import Images
from jaxq.recipes.input_pipeline import Batches, Rows
from jaxq.recipes.processes import Share
from jaxq.recipes.writers import JsonLines as JsonLines
from jaxq.recipes.writers import Logged as Logged
from jaxq.recipes.writers import TensorBoard as TensorBoard
from jaxq.recipes.writers import WeightsAndBiases as WeightsAndBiases
from jaxq.recipes.writers import Writer as Writer

Preprocess = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Training:
    """One phase of training.

    epochs: passes over the images. batch: images a step, over all devices together. rate: the peak of the learning
    rate, reached after the share `warmup` of the steps and left by half a cosine down to a hundredth. decay: of weights
    (Loshchilov and Hutter 2019). resolution: side of what is cropped from an image. save, log, look: every so many
    steps a checkpoint, the loss, and the health of the ranges (0: never).
    """

    epochs: float = 1.0
    batch: int = 32
    rate: float = 1e-3
    warmup: float = 0.1
    decay: float = 1e-4
    resolution: int = 96
    save: int = 100
    log: int = 10
    look: int = 50

    def steps(self, images: int) -> int:
        """How many steps there are for so many images; the last batch of an epoch runs over into the next."""
        return max(1, round(self.epochs * images / self.batch))


def schedule(config: Training, steps: int) -> optax.Schedule:
    """Linear warm-up to `config.rate`, then half a cosine to a hundredth of it (Loshchilov and Hutter 2017)."""
    warm = round(config.warmup * steps)
    return optax.warmup_cosine_decay_schedule(0.0, config.rate, warm, max(steps, warm + 1), config.rate / 100)


# --- data: a batch is a function of seed and step (jaxq.recipes.input_pipeline) ------------------------------------


def batches_from(
    data: Images, config: Training, seed: int, first: int = 0, *, share: Share | None = None, workers: int = 0
) -> Batches:
    """Images uint8 [batch, resolution, resolution, 3] and labels of the steps from `first` on, cropped and flipped at
    random. Every epoch is a permutation of all images.

    Args:
      share: this process's part of each batch.
      workers: processes that make them; 0: threads of this one.
    """
    source, steps = Rows((data.images, data.labels)), config.steps(len(data.labels))
    change = functools.partial(augmented, size=config.resolution)
    return Batches(
        source, batch=config.batch, steps=steps, seed=seed, first=first, change=change, share=share, workers=workers
    )


def augmented(example: tuple[np.ndarray, Any], rng: np.random.Generator, *, size: int) -> tuple[np.ndarray, Any]:
    """A random square of `size` out of an image, half of the time mirrored, and its label."""
    image, label = example
    top, left = (int(rng.integers(0, side - size + 1)) for side in image.shape[:2])
    cut = image[top : top + size, left : left + size]
    return (cut[:, ::-1] if rng.random() < 0.5 else cut), label


def middle(images: np.ndarray, size: int) -> np.ndarray:
    """The middle square of each image, which is what a trained network is tested on."""
    top, left = ((side - size) // 2 for side in images.shape[1:3])
    return images[:, top : top + size, left : left + size]


# --- one step, and the loop around it -----------------------------------------------------------------------------


class Metrics(NamedTuple):
    """Of one batch, before its step: mean cross entropy and share of right answers, both float32 ()."""

    loss: jax.Array
    accuracy: jax.Array


@nnx.jit(donate_argnames=("model", "optimizer"))
def train_step(model: Any, optimizer: nnx.Optimizer, images: jax.Array, labels: jax.Array) -> Metrics:
    """One step of gradient descent on the mean cross entropy of a batch. The old state's memory holds the new."""

    def loss_of(model: Any) -> tuple[jax.Array, jax.Array]:
        logits = model(images)
        loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
        return loss, jnp.mean(jnp.argmax(logits, -1) == labels)

    (loss, accuracy), gradients = nnx.value_and_grad(loss_of, has_aux=True)(model)
    optimizer.update(model, gradients)
    return Metrics(loss, accuracy)


def fit(
    model: Any,
    optimizer: nnx.Optimizer,
    data: Images,
    config: Training,
    *,
    preprocess: Preprocess,
    checkpoints: ocp.CheckpointManager,
    title: str,
    seed: int = 0,
    mesh: Mesh | None = None,
    writer: Writer | None = None,
    workers: int = 0,
    place: Callable[..., None] = stepping.replicate,
) -> Metrics | None:
    """Train on every device, from the newest checkpoint if there is one. The metrics of the last step, if one was left.

    workers: processes that make the batches (`batches_from`). place: `stepping.shard` divides parameters, ranges and
    optimizer over the devices, where one device cannot hold them. Raises KeyboardInterrupt (`stepping.drive`).
    """
    mesh, metrics = stepping.mesh_of() if mesh is None else mesh, None
    report = Report(title, config, writer)

    def begin(first: int) -> Batches:
        report.batches = batches_from(data, config, seed, first, share=processes.share(), workers=workers)
        return report.batches

    def step_of(step: int, batch: Any, is_last: Callable[[], bool]) -> str:
        nonlocal metrics
        inputs = preprocess(batch[0])
        metrics = train_step(model, optimizer, *stepping.divide(mesh, inputs, batch[1]))
        return report.after(step, metrics, model, inputs, is_last())

    count = config.steps(len(data.labels))
    stepping.drive(
        (model, optimizer), count, begin, step_of, checkpoints=checkpoints, title=title, mesh=mesh, place=place
    )
    return metrics


# --- what is shown and written ------------------------------------------------------------------------------------


class Report:
    """What is seen of a running phase: loss, accuracy, images a second, what share of the time steps waited for their
    batches, what ranges clip, channels that died.

    batches: of the phase, which know how long they let steps wait.
    """

    def __init__(self, title: str, config: Training, writer: Writer | None) -> None:
        self.title, self.config, self.writer = title, config, writer if processes.writes() else None
        self.batches: Batches | None = None
        self.health, self.text = "", title
        self._begin()

    def _begin(self) -> None:
        self.since, self.images = time.perf_counter(), 0
        self.waited = 0.0 if self.batches is None else self.batches.waited

    def after(self, step: int, metrics: Metrics, model: Any, inputs: np.ndarray, last: bool) -> str:
        """Take note of one finished step, and say so; its metrics are waited for only where they are shown.

        inputs: of this process.
        """
        self.images += len(inputs) * jax.process_count()
        if step % self.config.log == 0 or last:
            self._numbers(step, float(metrics.loss), float(metrics.accuracy))  # this waits for the steps so far
            self._begin()
        if hasattr(model, "ranges") and self.config.look and (step % self.config.look == 0 or last):
            found = jaxq.analyze.health(processes.local(model) if jax.process_count() > 1 else model, inputs)
            self._write(step, {"clipped": found.clipped, "dead_channels": found.dead})
            self.health = f", {100 * found.clipped:.2f} % clipped, {found.dead} dead"
            self._begin()  # looking is not training
        return self.text + self.health

    def _numbers(self, step: int, loss: float, right: float) -> None:
        seconds = time.perf_counter() - self.since
        rate, waited = self.images / seconds, (self.batches.waited - self.waited) / seconds if self.batches else 0.0
        self._write(step, {"loss": loss, "accuracy": right, "images_per_second": rate, "waiting": waited})
        self.text = f"{self.title}: loss {loss:.3f}, {100 * right:.0f} %, {rate:.0f} images/s"

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.scalar(f"{self.title}/{name}", value, step)
