"""Training state on disk, through orbax: parameters, ranges and optimizer, saved whole and resumed bit for bit."""

from __future__ import annotations

import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from jaxq.errors import ExportError


def manager(folder: pathlib.Path, *, every: int, keep: int = 2) -> ocp.CheckpointManager:
    """Checkpoints every so many steps, the last `keep` of them; a half-written one is never seen."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, save_interval_steps=every)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, *modules: Any, last: bool = False) -> None:
    """Save the state of some NNX modules (model, optimizer) if this step is one to save at, or the last."""
    if last or checkpoints.should_save(step):
        # A copy, for it is written while training goes on, and a step may give the memory of the state away.
        checkpoints.save(step, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, _state(modules))), force=last)


def restore(checkpoints: ocp.CheckpointManager, *modules: Any) -> int:
    """Restore the newest state into the modules; returns the step that comes next, 0 when there is none."""
    step = checkpoints.latest_step()
    if step is None:
        return 0
    state = checkpoints.restore(step, args=ocp.args.StandardRestore(_state(modules)))
    for index, module in enumerate(modules):
        nnx.update(module, state[str(index)])
    return step + 1


def make_room(out: pathlib.Path, resume: bool, force: bool) -> None:
    """Refuse a folder that holds an earlier run, unless told to go on with it or to start again. Raises ExportError."""
    if not resume and (force or not (out / "checkpoints").exists()):
        (out / "log.jsonl").unlink(missing_ok=True)  # the curves of another run
    earlier = [path for path in (out / "model.tflite", out / "checkpoints") if path.exists()]
    if resume or not earlier:
        return
    if not force:
        raise ExportError(f"{earlier[0]} exists. Go on with --resume, start again with --force, or give another --out.")
    gone = out / "checkpoints.old"  # in one step: a half-removed folder is no run
    shutil.rmtree(gone, ignore_errors=True)
    if (out / "checkpoints").exists():
        (out / "checkpoints").rename(gone)
    shutil.rmtree(gone, ignore_errors=True)


def _state(modules: tuple[Any, ...]) -> dict[str, Any]:
    return {str(i): nnx.to_pure_dict(nnx.state(m)) for i, m in enumerate(modules)}


def bytes_of(module: Any) -> int:
    """Size of a module's parameters in memory."""
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(nnx.state(module, nnx.Param)))
