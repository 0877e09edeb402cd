"""From a loaded target to a quantized model with ranges, whichever of the three interfaces it has."""

from __future__ import annotations

import pathlib
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

from jaxq.cli.checkpoint import restore_into
from jaxq.cli.data import chunks, read_arrays
from jaxq.cli.failures import usage
from jaxq.cli.targets import Loaded
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe


class Quantized(NamedTuple):
    """What `jaxq.quantize` gave, and the state that follows it in calibrate and to_tflite (Linen, functions)."""

    model: Any
    state: tuple[Any, ...]
    plan: Plan


def quantized(loaded: Loaded, recipe: Recipe | str) -> Quantized:
    """Quantize a loaded target, its ranges not yet set. Raises a usage error when the target lacks its parameters."""
    import jaxq
    from jaxq.plan.recipe import read_recipe

    kind, read = _kind(loaded), read_recipe(recipe)
    if (kind == "nnx") != (loaded.state is None):
        wanted = {"nnx": "(model, example)", "linen": "(module, example, variables)"}.get(kind, "(f, example, params)")
        raise usage(f"{loaded.name} returned a {type(loaded.model).__name__}; with one goes {wanted}.")
    if kind == "function":
        q = jaxq.quantize(loaded.model, read, loaded.state, *loaded.example)
        return Quantized(q, (loaded.state, q.init(loaded.state)), q.plan)
    q = jaxq.quantize(loaded.model, read, *loaded.example)
    if kind == "nnx":
        return Quantized(q, (), q.plan)
    return Quantized(q, (_with_ranges(q, loaded.state),), q.core.plan)


def _kind(loaded: Loaded) -> str:
    from jaxq.linen import quantize_linen
    from jaxq.nnx import quantize_nnx
    from jaxq.quantization import frontend_of

    try:
        face = frontend_of(loaded.model)
    except TypeError as e:
        raise usage(f"{loaded.name}: {e}") from e
    return {quantize_nnx: "nnx", quantize_linen: "linen"}.get(face, "function")


def _with_ranges(q: Any, variables: Any) -> Any:
    """Linen variables with a range for every site, as `qmodule.init` would make them, parameters unchanged."""
    from jaxq.frontends.ranges import initial_ranges
    from jaxq.quantization import bind

    if "ranges" in variables:
        return variables
    return {**variables, "ranges": initial_ranges(bind(q, variables).captured().plan)}


def with_ranges(q: Quantized, checkpoint: pathlib.Path | None, calibration: pathlib.Path | None) -> Quantized:
    """Give the model its ranges: from a checkpoint, or from data."""
    import jaxq

    if checkpoint is not None and calibration is not None:
        raise usage("--checkpoint and --calibrate exclude each other: a checkpoint holds trained ranges.")
    if checkpoint is not None:
        restore_into(q.model, checkpoint)
        return q
    if calibration is None:
        if q.state and "ranges" in q.state[0]:
            return q
        raise usage(
            "The model has no ranges yet. Give --checkpoint DIR (trained), or --calibrate data.npy (not trained)."
        )
    given = jaxq.calibrate(q.model, _batches(calibration), *q.state, progress=sys.stdout.isatty())
    return q._replace(state=() if given is None else (*q.state[:-1], given))


def passes_named(passes: str | None, calibration: pathlib.Path | None) -> tuple[str, ...] | None:
    """The post-training passes of `--passes a,b`; None without the option. Raises a usage error."""
    from jaxq.errors import InputError
    from jaxq.ptq.improve import in_order

    if passes is None:
        return None
    if calibration is None:
        raise usage("--passes needs --calibrate data.npy: the inputs that the passes look at.")
    try:
        return in_order(passes.split(","))
    except InputError as e:
        raise usage(f"--passes {passes}: {e}") from e


def improved(q: Quantized, calibration: pathlib.Path | None, passes: tuple[str, ...] | None) -> tuple[Quantized, Any]:
    """The model after these passes, by default the recipe's, and their report; None where there are none."""
    import jaxq

    names = q.plan.recipe.passes if passes is None else passes
    if not names or calibration is None:
        return q, None
    *state, report = _as_tuple(jaxq.ptq.improve(q.model, _batches(calibration), *q.state, passes=names))
    return q._replace(state=tuple(state)), report


def _as_tuple(found: Any) -> tuple[Any, ...]:
    return found if isinstance(found, tuple) else (found,)


def _batches(path: pathlib.Path) -> Iterable[tuple[Any, ...]]:
    return (tuple(batch) for batch in chunks(read_arrays(path)))
