"""The workflow of Wu et al. 2020, section 6, as one search: calibrators, partial quantization, then training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxq.analyze.trials import Measure, Trials, accuracy
from jaxq.frontends.core import replanned
from jaxq.quantization import bind
from jaxq.search.distillation import taught
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
    steps: int = 0,
    rate: float = 1e-4,
    progress: bool = True,
) -> Found:
    """Quantize as well as a drop of accuracy asks for, and say at each step what it brings.

    1. Calibrate by each method; keep the best (of equal ones the first).
    2. If the drop is larger than `max_drop`: partial quantization (`jaxq.search.rollback`).
    3. If that is not enough: `steps` steps of quantization-aware training with the recipe found, on the float model's
       outputs, not on labels. What they give is kept where it is better.

    Args:
      target: what `jaxq.quantize` gave; calibrated or not, for its own ranges are not used.
      batches: examples to measure on: an array, a tuple or dict of arrays (several inputs), or an iterable of these.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      max_drop, labels, metric: as of `jaxq.search.rollback`.
      calibration: examples to calibrate and to train with, by default `batches`.
      methods: names of calibrations of activations.
      choices: as of `jaxq.search.rollback`; none leaves out step 2.
      steps: of training, on batches of 32; 0 leaves out step 3.
      rate: the first learning rate of training, falling by cosine; 1 % of the float training's is usual.
      progress: show a progress bar.

    Returns:
      `Found`, whose table has a row for each step. `found.facts["reached"]` says whether the drop is kept.
      `found.install(q, *state)` gives the parameters and ranges of the result to `q = jaxq.quantize(model,
      found.recipe, example)`; the target itself does not change.

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
    recipe, value, complete = with_method(trials.recipe, best), found[best], True
    at = replanned(bound._replace(ranges=tables[best]), recipe)
    taken: dict[str, str] = {}
    if reference - value > max_drop and choices:
        tried = Trials(at, batches, labels)
        partial = search_rollback(tried, metric, max_drop, reference, choices, progress)
        recipe, complete, taken = partial.recipe, partial.complete, dict(partial.facts["choices"])
        value = partial.facts["metric"]
        at = replanned(at._replace(ranges=tried.carried(recipe)), recipe)
        rows.append(_row("partial quantization", f"{len(taken)} sites taken back", value, reference, ""))
    if reference - value > max_drop and steps and complete:
        learned = taught(at, batches if calibration is None else calibration, steps, rate, progress)
        gained = Trials(learned, batches, labels).measured_against(trials, metric)
        rows.append(_row("training", f"{steps} steps", gained, reference, "kept" if gained > value else "no better"))
        at, value = (learned, gained) if gained > value else (at, value)
    reached = reference - value <= max_drop
    last = f"within {max_drop:g}" if reached else f"not within {max_drop:g}: train with this recipe"
    rows.append(_row("result", recipe.activations.calibration, value, reference, last))
    facts = {
        "reference": reference, "metric": value, "metrics": found, "calibration": best, "choices": taken,
        "reached": reached, "max_drop": max_drop,
    }  # fmt: skip
    title = f"{getattr(metric, '__name__', 'metric')} on {trials.examples} examples; a drop of {max_drop:g} allowed"
    return Found(recipe, title, COLUMNS, tuple(rows), facts, complete, (at.params, at.ranges))


def _row(step: str, what: str, value: float, reference: float, verdict: str) -> tuple[str, ...]:
    return step, what, f"{value:.2f}", f"{reference - value:+.2f}", verdict
