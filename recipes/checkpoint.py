"""Training state on disk, through orbax: parameters, ranges and optimizer, saved whole and resumed bit for bit."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp
from flax import nnx


def manager(folder: pathlib.Path, *, every: int, keep: int = 2) -> ocp.CheckpointManager:
    """Checkpoints every so many steps, the last `keep` of them; a half-written one is never seen."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, save_interval_steps=every)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, *modules: Any, last: bool = False) -> None:
    """Save the state of some NNX modules (model, optimizer) if this step is one to save at, or the last."""
    checkpoints.save(step, args=ocp.args.StandardSave(_state(modules)), force=last)


def restore(checkpoints: ocp.CheckpointManager, *modules: Any) -> int:
    """Restore the newest state into the modules; returns the step that comes next, 0 when there is none."""
    step = checkpoints.latest_step()
    if step is None:
        return 0
    state = checkpoints.restore(step, args=ocp.args.StandardRestore(_state(modules)))
    for index, module in enumerate(modules):
        nnx.update(module, state[str(index)])
    return step + 1


def _state(modules: tuple[Any, ...]) -> dict[str, Any]:
    return {str(i): nnx.to_pure_dict(nnx.state(m)) for i, m in enumerate(modules)}


def bytes_of(module: Any) -> int:
    """Size of a module's parameters in memory."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
