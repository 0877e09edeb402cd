"""The calibration method of each tensor: the one that leaves the least error in the output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from jaxq.analyze.choices import exactly
from jaxq.analyze.sensitivity import default_loss
from jaxq.analyze.trials import Measure, Trials
from jaxq.calibration import calibrated
from jaxq.display.progress import bar
from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.frontends.core import replanned
from jaxq.observers import METHODS
from jaxq.plan.recipe import Recipe, Rule
from jaxq.quantization import bind
from jaxq.search.found import Found

COLUMNS = ("tensors", "method", ">loss")
Ranges = dict[str, dict[str, Any]]


def ranges(
    target: Any,
    batches: Any,
    *state: Any,
    labels: Any = None,
    loss: Measure | None = None,
    methods: Sequence[str] = ("minmax", "percentile", "mse", "entropy"),
    progress: bool = True,
) -> Found:
    """Choose how each activation's range is calibrated, by the loss of the whole model.

    The model is calibrated by each method for all tensors; the best of these is where the search starts ("try all", Wu
    et al. 2020, section 4). Then each range in turn, in the order of the graph, takes the method of least loss with
    the others as they are by then, so that no step makes the loss worse. Interrupted (Ctrl-C), it returns what it has.

    Args:
      target: what `jaxq.quantize` gave; calibrated or not, for its own ranges are not used.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these. They calibrate
        and they measure.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      labels, loss: as of `jaxq.analyze.sensitivity`.
      methods: names of calibrations of activations.
      progress: show a progress bar.

    Returns: Found, whose recipe has the best method for all tensors and a rule for each that takes another. Calibrate
    with it on the same data.

    Raises: InputError for empty data or an unknown method.

    References: Wu et al. 2020, section 4; NNCF's tuner of quantization parameters.

    Example:
      >>> found = jaxq.search.ranges(qmodel, images, methods=("minmax", "percentile"), progress=False)
      >>> found.recipe.activations.calibration
      'percentile'
    """
    _check_methods(methods)
    bound = bind(target, *state)
    tables = calibrated_by(bound, batches, methods)
    trials = Trials(bound._replace(ranges=tables[methods[0]]), batches, labels)
    loss, name = (loss, getattr(loss, "__name__", "loss")) if loss is not None else default_loss(trials)
    whole = {m: trials.measured(loss, ranges=tables[m]) for m in methods}
    start = min(whole, key=lambda m: whole[m])
    used, least, complete = dict[str, str](), whole[start], True
    now = dict(tables[start])
    sites = [n for n, g in trials.plan.groups.items() if g.has_range and _differ([t[n] for t in tables.values()])]
    with bar(progress) as shown:
        try:
            for site in shown.track(sites, description="the range of each tensor"):
                for method in (m for m in methods if m != start):
                    changed = {**now, site: tables[method][site]}
                    if (found := trials.measured(loss, ranges=changed)) < least:
                        now, least, used[site] = changed, found, method
        except KeyboardInterrupt:
            complete = False
    recipe = with_method(trials.recipe, start)
    rules = (Rule(exactly(site), calibration=method) for site, method in used.items())  # pyright: ignore[reportArgumentType]
    recipe = msgspec.structs.replace(recipe, rules=(*recipe.rules, *rules))
    rows = [("all", m, f"{whole[m]:.6g}") for m in methods] + [(s, m, "") for s, m in used.items()]
    rows.append(("each its own", "", f"{least:.6g}"))
    title = f"{name} by calibration, {trials.examples} examples; {start} for all but {len(used)} of {len(sites)} ranges"
    facts = {"loss": least, "losses": whole, "method": start, "methods": used, "measure": name}
    return Found(recipe, title, COLUMNS, tuple(rows), facts, complete)


def _check_methods(methods: Sequence[str]) -> None:
    for method in methods:
        if method not in METHODS:
            raise InputError(f"There is no calibration {method!r}. {did_you_mean(method, METHODS)}")
    if not methods:
        raise InputError(f"There is no method to choose: methods is empty. {did_you_mean('', METHODS)}")


def _differ(states: Sequence[dict[str, Any]]) -> bool:
    return any(not np.array_equal(s[k], states[0][k]) for s in states for k in s)


def with_method(recipe: Recipe, method: str) -> Recipe:
    """The recipe with another calibration of activations where no rule says one."""
    activations = msgspec.structs.replace(recipe.activations, calibration=method)
    return msgspec.structs.replace(recipe, activations=activations)


def calibrated_by(bound: Any, batches: Any, methods: Sequence[str]) -> dict[str, Ranges]:
    """The ranges of a model by each method, from the same examples."""
    whole = batches if hasattr(batches, "shape") or isinstance(batches, tuple | dict) else list(batches)
    data = [whole] if not isinstance(whole, list) else whole
    return {m: calibrated(replanned(bound, with_method(bound.core.recipe, m)), data, False) for m in methods}
