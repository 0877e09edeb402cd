"""Training, short enough to copy: images in, a trained NNX module out, on every device there is.

    with checkpoint.manager(folder, every=100) as checkpoints:
        train.fit(model, optimizer, data, config, checkpoints=checkpoints, ...)

Any NNX module will do, a float model or one that `jaxq.quantize` gave. What a step sees depends on the seed and on the
step's number alone, so a run that was cut off and resumed equals one that was not, bit for bit.
"""

from __future__ import annotations

import dataclasses
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
from jaxq.recipes import stepping
from jaxq.recipes.images import Images
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


# --- data: a batch is a function of seed and step -----------------------------------------------------------------


def batch_at(data: Images, config: Training, step: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The images uint8 [batch, resolution, resolution, 3] and labels of one step, cropped and flipped at random.

    Every epoch is a permutation of all images.
    """
    places = np.arange(step * config.batch, (step + 1) * config.batch)
    epochs, within = np.divmod(places, len(data.labels))
    orders = {e: np.random.default_rng((seed, 0, e)).permutation(len(data.labels)) for e in set(epochs.tolist())}
    pick = np.array([orders[e][i] for e, i in zip(epochs.tolist(), within, strict=True)])
    return augmented(data.images[pick], config.resolution, np.random.default_rng((seed, 1, step))), data.labels[pick]


def augmented(images: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """A random square of `size` out of each image, half of them mirrored."""
    margin = np.array(images.shape[1:3]) - size
    corners = rng.integers(0, margin + 1, (len(images), 2))
    cut = np.stack([image[y : y + size, x : x + size] for image, (y, x) in zip(images, corners, strict=True)])
    mirrored = rng.random(len(images)) < 0.5
    return np.where(mirrored[:, None, None, None], cut[:, :, ::-1], cut)


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
) -> Metrics | None:
    """Train on every device, from the newest checkpoint if there is one. The metrics of the last step, if one was left.

    Raises KeyboardInterrupt (`stepping.drive`).
    """
    mesh, metrics = stepping.mesh_of() if mesh is None else mesh, None
    report = Report(title, config, writer)

    def step_of(step: int, is_last: Callable[[], bool]) -> str:
        nonlocal metrics
        images, labels = batch_at(data, config, step, seed)
        inputs = preprocess(images)
        metrics = train_step(model, optimizer, *stepping.divide(mesh, inputs, labels))
        return report.after(step, metrics, model, inputs, is_last())

    count = config.steps(len(data.labels))
    stepping.drive((model, optimizer), count, step_of, checkpoints=checkpoints, title=title, mesh=mesh)
    return metrics


# --- what is shown and written ------------------------------------------------------------------------------------


class Report:
    """What is seen of a running phase: loss, accuracy, images a second, what ranges clip, channels that died."""

    def __init__(self, title: str, config: Training, writer: Writer | None) -> None:
        self.title, self.config, self.writer = title, config, writer
        self.since, self.images, self.health, self.text = time.perf_counter(), 0, "", title

    def after(self, step: int, metrics: Metrics, model: Any, inputs: np.ndarray, last: bool) -> str:
        """Take note of one finished step, and say so; its metrics are waited for only where they are shown."""
        self.images += len(inputs)
        if step % self.config.log == 0 or last:
            loss, right = float(metrics.loss), float(metrics.accuracy)  # this waits for the steps so far
            seconds = time.perf_counter() - self.since
            self._write(step, {"loss": loss, "accuracy": right, "images_per_second": self.images / seconds})
            self.text = f"{self.title}: loss {loss:.3f}, {100 * right:.0f} %, {self.images / seconds:.0f} images/s"
            self.since, self.images = time.perf_counter(), 0
        if hasattr(model, "ranges") and self.config.look and (step % self.config.look == 0 or last):
            found = jaxq.analyze.health(model, inputs)
            self._write(step, {"clipped": found.clipped, "dead_channels": found.dead})
            self.health = f", {100 * found.clipped:.2f} % clipped, {found.dead} dead"
            self.since, self.images = time.perf_counter(), 0  # looking is not training
        return self.text + self.health

    def _write(self, step: int, values: dict[str, float]) -> None:
        if self.writer is not None:
            for name, value in values.items():
                self.writer.scalar(f"{self.title}/{name}", value, step)
