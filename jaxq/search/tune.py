"""The workflow of Wu et al. 2020, section 6, as one search: calibrators compared, then partial quantization."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxq.analyze.trials import Measure, Trials, accuracy
from jaxq.frontends.core import replanned
from jaxq.quantize import bind
from jaxq.search.found import Found
from jaxq.search.ranges import calibrated_by, with_method
from jaxq.search.rollback import search_rollback

COLUMNS = ("step", "what", ">metric", ">drop", "verdict")


def tune(
    target: Any,
    batches: Any,
    *state: Any,
    max_drop: float,
    labels: Any = None,
    metric: Measure | None = None,
    calibration: Any = None,
    methods: Sequence[str] = ("minmax", "mean", "percentile", "mse", "entropy"),
    choices: Sequence[str] = ("a16", "float"),
    progress: bool = True,
) -> Found:
    """Quantize without training as well as a drop of accuracy asks for, and say at each step what it brings.

    1. Calibrate by each method; keep the best (of equal ones the first).
    2. If the drop is larger than `max_drop`: partial quantization (`jaxq.search.rollback`).
    3. If that is not enough: the recipe found is the one to train with (quantization-aware training).

    Args:
      target: what `jaxq.quantize` gave; calibrated or not, for its own ranges are not used.
      batches: examples to measure on: an array, a tuple or dict of arrays (several inputs), or an iterable of these.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      max_drop, labels, metric: as of `jaxq.search.rollback`.
      calibration: examples to calibrate with, by default `batches`.
      methods: names of calibrations of activations.
      choices: as of `jaxq.search.rollback`; none leaves out step 2.
      progress: show a progress bar.

    Returns:
      `Found`, whose table has a row for each step. `found.facts["reached"]` says whether the drop is kept.

    Raises:
      As `jaxq.search.rollback`.

    Example:
      >>> found = jaxq.search.tune(qmodel, images, max_drop=0.5, methods=("minmax", "mse"), progress=False)
      >>> found.facts["reached"]
      True

    References: Wu et al. 2020, "Integer quantization for deep learning inference", section 6 and figure 3.
    """
    bound, metric = bind(target, *state), metric or accuracy
    tables = calibrated_by(bound, batches if calibration is None else calibration, methods)
    trials = Trials(bound._replace(ranges=tables[methods[0]]), batches, labels)
    reference = trials.float_measured(metric)
    found = {m: trials.measured(metric, ranges=tables[m]) for m in methods}
    best = max(found, key=lambda m: found[m])
    rows = [("float", "the model", f"{reference:.2f}", "", "")]
    rows += [_row("calibrate", m, value, reference, "best" if m == best else "") for m, value in found.items()]
    recipe, value, reached, complete = with_method(trials.recipe, best), found[best], True, True
    taken: dict[str, str] = {}
    if reference - value > max_drop and choices:
        at = replanned(bound._replace(ranges=tables[best]), recipe)
        partial = search_rollback(Trials(at, batches, labels), metric, max_drop, reference, choices, progress)
        recipe, complete, taken = partial.recipe, partial.complete, dict(partial.facts["choices"])
        value = partial.facts["metric"]
        rows.append(_row("partial quantization", f"{len(taken)} sites taken back", value, reference, ""))
    reached = reference - value <= max_drop
    last = f"within {max_drop:g}" if reached else f"not within {max_drop:g}: train with this recipe"
    rows.append(_row("result", recipe.activations.calibration, value, reference, last))
    facts = {
        "reference": reference, "metric": value, "metrics": found, "calibration": best, "choices": taken,
        "reached": reached, "max_drop": max_drop,
    }  # fmt: skip
    title = f"{getattr(metric, '__name__', 'metric')} on {trials.examples} examples; a drop of {max_drop:g} allowed"
    return Found(recipe, title, COLUMNS, tuple(rows), facts, complete)


def _row(step: str, what: str, value: float, reference: float, verdict: str) -> tuple[str, ...]:
    return step, what, f"{value:.2f}", f"{reference - value:+.2f}", verdict
