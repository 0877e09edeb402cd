"""Training state on disk, through orbax: parameters, ranges and optimizer, saved whole and resumed bit for bit.

Of several processes each writes what it holds, into a folder that all of them see; any number of them can read it.

Beside the steps, `plan.json` says which plan the ranges are of: by the module's number, the fingerprint of its plan and
what it is a hash of. Ranges of another plan are refused.
"""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax import nnx

from jaxq.errors import ExportError, InputError
from jaxq.export.files import write_whole
from jaxq.recipes import processes
from jaxq.recipes.identity import differing

PLAN = "plan.json"


def manager(folder: pathlib.Path, *, every: int, keep: int = 2) -> ocp.CheckpointManager:
    """Checkpoints every so many steps, the last `keep` of them; a half-written one is never seen."""
    options = ocp.CheckpointManagerOptions(max_to_keep=keep, save_interval_steps=every)
    return ocp.CheckpointManager(folder.absolute(), options=options)


def save(checkpoints: ocp.CheckpointManager, step: int, *modules: Any, last: bool = False) -> None:
    """Save the state of some NNX modules (model, optimizer) if this step is one to save at, or the last."""
    if last or checkpoints.should_save(step):
        _note_plans(pathlib.Path(checkpoints.directory), modules)
        # A copy, for it is written while training goes on, and a step may give the memory of the state away.
        checkpoints.save(step, args=ocp.args.StandardSave(jax.tree.map(jnp.copy, _state(modules))), force=last)


def restore(checkpoints: ocp.CheckpointManager, *modules: Any) -> int:
    """Restore the newest state into the modules; returns the step that comes next, 0 when there is none.

    Raises InputError where a module's plan is another than the checkpoint's.
    """
    step = checkpoints.latest_step()
    if step is None:
        return 0
    for number, plan in _plans(modules).items():
        refuse_another_plan(pathlib.Path(checkpoints.directory), plan, number)
    state = checkpoints.restore(step, args=ocp.args.StandardRestore(_state(modules)))
    for index, module in enumerate(modules):
        nnx.update(module, state[str(index)])
    return step + 1


def refuse_another_plan(folder: pathlib.Path, plan: Mapping[str, Any], number: str = "0") -> None:
    """Raise InputError where a folder's ranges are of another plan, with what differs.

    Args:
      folder: of checkpoints. One without `plan.json` says nothing.
      plan: of the model, as `plan_of` gives it.
      number: of the module among those saved.
    """
    file = folder / PLAN
    known = json.loads(file.read_text()).get(number) if file.is_file() else None
    if known is None or known["fingerprint"] == plan["fingerprint"]:
        return
    raise InputError(
        f"{folder} holds the ranges of another plan ({known['fingerprint']}, the model's is {plan['fingerprint']}): "
        f"{differing(known['facts'], plan['facts'])}. Quantize with the recipe that it was trained with, or train anew."
    )


def plan_of(module: Any) -> dict[str, Any] | None:
    """The fingerprint of a quantized module's plan, and what it is a hash of; None of another module."""
    plan = getattr(module, "plan", None)
    return None if plan is None else {"fingerprint": plan.fingerprint, "facts": plan.facts}


def _plans(modules: tuple[Any, ...]) -> dict[str, dict[str, Any]]:
    return {str(i): plan for i, module in enumerate(modules) if (plan := plan_of(module)) is not None}


def _note_plans(folder: pathlib.Path, modules: tuple[Any, ...]) -> None:
    """Before the checkpoint that it speaks of: whenever the process ends, ranges have their plan."""
    text = json.dumps(_plans(modules), indent=2).encode() + b"\n"
    known = (folder / PLAN).read_bytes() if (folder / PLAN).is_file() else None
    if processes.writes() and _plans(modules) and known != text:
        write_whole({folder / PLAN: text})


def make_room(out: pathlib.Path, resume: bool, force: bool) -> None:
    """Refuse a folder that holds an earlier run, unless told to go on with it or to start again. Raises ExportError."""
    earlier = [path for path in (out / "model.tflite", out / "checkpoints") if path.exists()]
    if earlier and not (resume or force):
        raise ExportError(f"{earlier[0]} exists. Go on with --resume, start again with --force, or give another --out.")
    processes.wait("the folder was looked at")
    if processes.writes() and not resume:
        _clear(out)
    processes.wait("the folder has room")


def _clear(out: pathlib.Path) -> None:
    (out / "log.jsonl").unlink(missing_ok=True)  # the curves of another run
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
