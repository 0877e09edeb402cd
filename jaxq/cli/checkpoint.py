"""Trained parameters and ranges from an orbax checkpoint of a quantized NNX model.

Two layouts: what `StandardCheckpointer` saved of `nnx.to_pure_dict(nnx.state(qmodel))`, and the folder of a
`CheckpointManager` whose steps hold the model under "0", as the shipped recipes write it; its newest step is taken.
"""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from jaxq.cli.failures import usage
from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.quantization import bind

Path = tuple[str, ...]


def restore_into(qmodel: Any, folder: pathlib.Path) -> None:
    """Give a quantized NNX model the parameters and ranges of a checkpoint. Raises InputError when they do not fit."""
    if not hasattr(qmodel, "set_ranges"):
        raise usage("--checkpoint restores NNX models. For Linen, return the trained variables, ranges included.")
    _refuse_another_plan(qmodel, folder)
    saved = dict(_leaves(_read(folder)))
    variables = {("model", *path): v for path, v in _leaves(bind(qmodel).params)}
    ranges = {("ranges", *path): a for path, a in _leaves(qmodel.pure_ranges())}
    for path, own in {**variables, **ranges}.items():
        _check(folder, path, own, saved)
    for path, variable in variables.items():
        variable[...] = saved[path]
    qmodel.set_ranges({n: {k: saved["ranges", n, k] for k in r} for n, r in qmodel.pure_ranges().items()})


def _refuse_another_plan(qmodel: Any, folder: pathlib.Path) -> None:
    from jaxq.recipes.checkpoint import plan_of, refuse_another_plan

    plan = plan_of(qmodel)
    if plan is not None:
        refuse_another_plan(folder, plan)


def _check(folder: pathlib.Path, path: Path, own: Any, saved: Mapping[Path, Any]) -> None:
    name = "/".join(path)
    if path not in saved:
        raise InputError(
            f"The checkpoint {folder} has no {name}: it is of another model or recipe. "
            f"{did_you_mean(name, ['/'.join(p) for p in saved])}"
        )
    if tuple(saved[path].shape) != tuple(own.shape):
        raise InputError(f"{name} is {tuple(saved[path].shape)} in the checkpoint {folder}, {own.shape} in the model.")


def _leaves(tree: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    if not isinstance(tree, Mapping):
        yield path, tree
        return
    for key, value in tree.items():
        yield from _leaves(value, (*path, str(key)))


def _read(folder: pathlib.Path) -> Mapping[str, Any]:
    """The saved tree of the model. Raises InputError for a folder that orbax cannot read."""
    import orbax.checkpoint as ocp

    steps = [int(child.name) for child in folder.iterdir() if child.name.isdigit()]
    place = folder / str(max(steps)) / "default" if steps else folder
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            tree = checkpointer.restore(place.absolute())
    except (ValueError, OSError, KeyError) as e:
        raise InputError(f"{place} is no orbax checkpoint of a quantized model: {str(e).splitlines()[0]}") from e
    return tree.get("0", {}) if steps else tree
