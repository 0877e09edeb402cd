"""Steps of training on every device: from the newest checkpoint, one at a time, until the last or Ctrl-C.

What the recipes for images and for text share. The batch is divided over the devices, everything else is on each.
"""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.recipes import checkpoint


def mesh_of(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices, or those given, along one axis "data"."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def replicate(mesh: Mesh, *modules: Any) -> None:
    """Put the whole state of some modules on every device."""
    for module in modules:
        nnx.update(module, jax.device_put(nnx.state(module), NamedSharding(mesh, PartitionSpec())))


def divide(mesh: Mesh, *arrays: np.ndarray) -> Any:
    """Arrays with an equal part of the first axis on each device. Raises InputError where it cannot be equal."""
    if len(arrays[0]) % mesh.size:
        raise InputError(
            f"A batch of {len(arrays[0])} cannot be divided by {mesh.size} devices: take a multiple of {mesh.size}."
        )
    return jax.device_put(arrays, NamedSharding(mesh, PartitionSpec("data")))


def drive(
    state: Sequence[Any],
    count: int,
    step_of: Callable[[int, Callable[[], bool]], str],
    *,
    checkpoints: ocp.CheckpointManager,
    title: str,
    mesh: Mesh,
) -> None:
    """Call `step_of(step, is_last)` for every step of `count` after the newest checkpoint; it gives the bar's text.

    state: the modules that a step changes, saved and restored whole. `is_last()`, asked after the step's work, says
    whether no other follows. Ctrl-C ends the step that is running, saves, and raises KeyboardInterrupt; so does a
    second one, at once.
    """
    first = checkpoint.restore(checkpoints, *state)
    replicate(mesh, *state)
    with interruptible() as stopped, bar() as shown:
        task = shown.add_task(title, total=count, completed=first)
        for step in range(first, count):
            text = step_of(step, lambda step=step: step == count - 1 or stopped())
            shown.update(task, advance=1, description=text)
            checkpoint.save(checkpoints, step, *state, last=step == count - 1 or stopped())
            if stopped():
                checkpoints.wait_until_finished()
                raise KeyboardInterrupt(f"{title} was stopped after step {step}; its checkpoint is saved")


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks to stop instead of cutting a step in two; a second one does not wait. In the main thread only."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, ask)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)


@nnx.jit
def _forward(model: Any, *inputs: jax.Array) -> jax.Array:
    return model(*inputs)


def outputs_of(
    model: Any,
    inputs: Sequence[np.ndarray],
    *,
    mesh: Mesh,
    size: int = 128,
    preprocess: Callable[[np.ndarray], np.ndarray] = lambda array: array,
) -> np.ndarray:
    """The outputs [n, ...] for inputs [n, ...], some `size` at a time; the last batch is filled up with copies.

    preprocess: from each input as it is kept to what the model takes.
    """
    size, found = math.ceil(size / mesh.size) * mesh.size, []
    replicate(mesh, model)
    with bar() as shown:
        for start in shown.track(range(0, len(inputs[0]), size), description="testing"):
            parts = [array[start : start + size] for array in inputs]
            filled = [preprocess(np.resize(part, (size, *part.shape[1:]))) for part in parts]
            found.append(np.asarray(_forward(model, *divide(mesh, *filled)))[: len(parts[0])])
    return np.concatenate(found)
