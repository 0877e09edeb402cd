"""A training loop, short enough to copy: images and labels in, a trained module out."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.typing import ArrayLike

from jaxq.display.progress import bar
from jaxq.optim import oscillations
from jaxq.recipes.writers import Writer


@nnx.jit
def train_step(model: nnx.Module, optimizer: nnx.Optimizer, images: ArrayLike, labels: ArrayLike) -> jax.Array:
    """One step of gradient descent on cross entropy; returns the loss before it."""

    def loss_of(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


@nnx.jit
def _predict(model: Any, images: ArrayLike) -> jax.Array:
    return jnp.argmax(model(images), axis=-1)


def accuracy(model: nnx.Module, images: np.ndarray, labels: np.ndarray, size: int = 250) -> float:
    """Share of images whose greatest logit is their label's."""
    hits = [_predict(model, images[i : i + size]) == labels[i : i + size] for i in range(0, len(labels), size)]
    return float(np.mean(np.concatenate(hits)))


def fit(
    model: nnx.Module,
    optimizer: nnx.Optimizer,
    data: Iterable[tuple[np.ndarray, Any]],
    *,
    title: str,
    steps: int,
    first: int = 0,
    after: Callable[[int], None] = lambda step: None,
    writer: Writer | None = None,
    update: Callable[[Any, Any, Any, Any], jax.Array] = train_step,
) -> float:
    """Train on every batch of `data`, with a progress bar; `after(step)` may save. Returns the last loss.

    `writer` takes the loss of every 20th step, and where `jaxq.optim.freeze_oscillations` tracks weights the shares of
    those that oscillate and that are frozen. `update(model, optimizer, images, labels)` makes a step.
    """
    loss = float("nan")
    with bar() as shown:
        task = shown.add_task(title, total=steps, completed=first)
        for step, (images, labels) in enumerate(data, start=first):
            value = update(model, optimizer, images, labels)
            if step % 20 == 0:
                loss = float(value)
                if writer is not None:
                    writer.scalar(f"{title}/loss", loss, step)
                    for name, share in oscillations(optimizer.opt_state).items():
                        writer.scalar(f"{title}/{name}", share, step)
            shown.update(task, advance=1, description=f"{title}: loss {loss:.3f}")
            after(step)
    return loss


def step_seconds(
    models: Sequence[tuple[Any, Any]], images: np.ndarray, labels: np.ndarray, rounds: int = 15
) -> list[float]:
    """Median seconds of a training step of each (model, optimizer), measured in turns; the state is changed."""
    times: list[list[float]] = [[] for _ in models]
    for _ in range(rounds + 2):
        for taken, (model, optimizer) in zip(times, models, strict=True):
            start = time.perf_counter()
            jax.block_until_ready(train_step(model, optimizer, images, labels))
            taken.append(time.perf_counter() - start)
    return [float(np.median(taken[2:])) for taken in times]
