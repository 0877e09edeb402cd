"""Steps of training on every device: from the newest checkpoint, one at a time, until the last or Ctrl-C.

What the recipes for images and for text share. The batch is divided over the devices of all processes; everything else
is on each of them (`replicate`), or divided too where a model is large (`shard`).
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
from jaxq.frontends.gathered import gathered
from jaxq.recipes import checkpoint, processes
from jaxq.recipes.input_pipeline import Batches


def mesh_of(devices: Sequence[Any] | None = None) -> Mesh:
    """All devices, or those given, along one axis "data"."""
    return Mesh(np.array(jax.devices() if devices is None else devices), ("data",))


def replicate(mesh: Mesh, *modules: Any) -> None:
    """Put the whole state of some modules on every device."""
    _place(lambda leaf: NamedSharding(mesh, PartitionSpec()), modules)


def shard(mesh: Mesh, *modules: Any) -> None:
    """Divide the state of some modules over the devices: each array along its longest axis that they divide.

    What has no such axis, as a range's scale, is on every device. XLA gathers a layer's weights where a step needs
    them, so that a device holds 1/n of parameters, ranges and optimizer (Rajbhandari et al. 2020, ZeRO stage 3; Zhao et
    al. 2023, FSDP).
    """
    _place(lambda leaf: NamedSharding(mesh, divided(mesh.size, leaf.shape)), modules)


def divided(devices: int, shape: Sequence[int]) -> PartitionSpec:
    """How an array of this shape is divided over so many devices along the mesh's axis "data"."""
    axes = [axis for axis, size in enumerate(shape) if size and size % devices == 0]
    longest = max(axes, key=lambda axis: shape[axis], default=None)
    return PartitionSpec() if longest is None else PartitionSpec(*[None] * longest, "data")


def _place(sharding_of: Callable[[Any], NamedSharding], modules: Sequence[Any]) -> None:
    for module in modules:
        state = nnx.state(module)
        nnx.update(module, jax.tree.map(lambda leaf: processes.placed(leaf, sharding_of(leaf)), state))


def divide(mesh: Mesh, *arrays: np.ndarray) -> Any:
    """Arrays with an equal part of the first axis on each device. Raises InputError where it cannot be equal.

    arrays: this process's rows, the whole arrays where there is one process.
    """
    rows = len(arrays[0]) * jax.process_count()
    if rows % mesh.size:
        raise InputError(f"A batch of {rows} cannot be divided by {mesh.size} devices: take a multiple of {mesh.size}.")
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return tuple(jax.make_array_from_process_local_data(sharding, np.asarray(array)) for array in arrays)


def spread(mesh: Mesh, array: np.ndarray) -> jax.Array:
    """An array that every process holds whole, its first axis divided over the devices, or on each where it cannot be
    divided equally.
    """
    if len(array) % mesh.size:
        return jax.device_put(array, NamedSharding(mesh, PartitionSpec()))
    return divide(mesh, processes.share().of(array))[0]


def drive(
    state: Sequence[Any],
    count: int,
    batches_from: Callable[[int], Batches],
    step_of: Callable[[int, Any, Callable[[], bool]], str],
    *,
    checkpoints: ocp.CheckpointManager,
    title: str,
    mesh: Mesh,
    place: Callable[..., None] = replicate,
) -> None:
    """Call `step_of(step, batch, is_last)` for every step of `count` after the newest checkpoint; it gives the bar's
    text.

    state: the modules that a step changes, saved and restored whole. batches_from(step): this process's batches from
    that step on. place(mesh, *state): `replicate` or `shard`. `is_last()`, asked after the step's work, says whether no
    other follows. Ctrl-C ends the step that is running, saves, and raises KeyboardInterrupt; so does a second one, at
    once. With several processes it is raised at once, for the others would wait for this one.
    """
    place(mesh, *state)
    first = checkpoint.restore(checkpoints, *state)
    with interruptible() as stopped, bar(processes.writes()) as shown, batches_from(first) as batches:
        task = shown.add_task(title, total=count, completed=first)
        for step, batch in zip(range(first, count), batches, strict=True):
            text = step_of(step, batch, lambda step=step: step == count - 1 or stopped())
            shown.update(task, advance=1, description=text)
            checkpoint.save(checkpoints, step, *state, last=step == count - 1 or stopped())
            if stopped():
                checkpoints.wait_until_finished()
                raise KeyboardInterrupt(f"{title} was stopped after step {step}; its checkpoint is saved")


@contextlib.contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C asks to stop instead of cutting a step in two; a second one does not wait. In the main thread of a run of
    one process only.
    """
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    if threading.current_thread() is not threading.main_thread() or jax.process_count() > 1:
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
    place: Callable[..., None] = replicate,
) -> np.ndarray:
    """The outputs [n, ...] for inputs [n, ...], some `size` at a time; the last batch is filled up with copies.

    preprocess: from each input as it is kept to what the model takes. place: `replicate` or `shard`. Every process
    holds all inputs, computes its part of each batch, and gets all outputs.
    """
    size, found, share = math.ceil(size / mesh.size) * mesh.size, [], processes.share()
    place(mesh, model)
    with bar(processes.writes()) as shown:
        for start in shown.track(range(0, len(inputs[0]), size), description="testing"):
            parts = [array[start : start + size] for array in inputs]
            filled = [preprocess(share.of(np.resize(part, (size, *part.shape[1:])))) for part in parts]
            found.append(gathered(_forward(model, *divide(mesh, *filled)))[: len(parts[0])])
    return np.concatenate(found)
