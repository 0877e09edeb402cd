"""The workflow of Wu et al. 2020, section 6, as one search: calibrators, partial quantization, then training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from jaxq.analyze.trials import Measure, Trials, accuracy
from jaxq.frontends.core import Bound, replanned
from jaxq.plan.recipe import Recipe
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
    data = batches if calibration is None else calibration
    tables = calibrated_by(bound, data, methods)
    trials = Trials(bound._replace(ranges=tables[methods[0]]), batches, labels)
    search = _Search(trials, batches, labels, metric, trials.float_measured(metric), max_drop, progress)
    metrics = {name: trials.measured(metric, ranges=tables[name]) for name in methods}
    best = max(metrics, key=lambda name: metrics[name])
    stage = search.calibrated(bound._replace(ranges=tables[best]), best, metrics)
    if choices and not search.reached(stage):
        stage = search.partly_quantized(stage, choices)
    if steps and stage.complete and not search.reached(stage):
        stage = search.trained(stage, data, steps, rate)
    return search.found(stage, {"metrics": metrics, "calibration": best})


Row = tuple[str, ...]


class _Stage(NamedTuple):
    """Where the search stands: the model under its recipe, its metric, and the rows of the table so far."""

    at: Bound
    recipe: Recipe
    value: float
    rows: tuple[Row, ...]
    taken: Mapping[str, Any] = {}
    complete: bool = True


class _Search(NamedTuple):
    """What all steps share. trials: of the model as it came. reference: the float model's metric."""

    trials: Trials
    batches: Any
    labels: Any
    metric: Measure
    reference: float
    max_drop: float
    progress: bool

    def reached(self, stage: _Stage) -> bool:
        return self.reference - stage.value <= self.max_drop

    def calibrated(self, bound: Bound, best: str, metrics: Mapping[str, float]) -> _Stage:
        """The model with the ranges of the best method."""
        recipe = with_method(self.trials.recipe, best)
        rows = [("float", "the model", f"{self.reference:.2f}", "", "")]
        rows += [self._row("calibrate", m, value, "best" if m == best else "") for m, value in metrics.items()]
        return _Stage(replanned(bound, recipe), recipe, metrics[best], tuple(rows))

    def partly_quantized(self, stage: _Stage, choices: Sequence[str]) -> _Stage:
        """With the sites taken back that the drop asks for."""
        trials = Trials(stage.at, self.batches, self.labels)
        found = search_rollback(trials, self.metric, self.max_drop, self.reference, choices, self.progress)
        recipe, value, taken = found.recipe, found.facts["metric"], dict(found.facts["choices"])
        at = replanned(stage.at._replace(ranges=trials.carried(recipe)), recipe)
        row = self._row("partial quantization", f"{len(taken)} sites taken back", value, "")
        return _Stage(at, recipe, value, (*stage.rows, row), taken, found.complete)

    def trained(self, stage: _Stage, data: Any, steps: int, rate: float) -> _Stage:
        """After training with the recipe, where that is better."""
        learned = taught(stage.at, data, steps, rate, self.progress)
        value = Trials(learned, self.batches, self.labels).measured_against(self.trials, self.metric)
        row = self._row("training", f"{steps} steps", value, "kept" if value > stage.value else "no better")
        kept = stage._replace(at=learned, value=value) if value > stage.value else stage
        return kept._replace(rows=(*stage.rows, row))

    def found(self, stage: _Stage, facts: Mapping[str, Any]) -> Found:
        """The search's result, with a last row."""
        reached, drop = self.reached(stage), f"{self.max_drop:g}"
        verdict = f"within {drop}" if reached else f"not within {drop}: train with this recipe"
        row = self._row("result", stage.recipe.activations.calibration, stage.value, verdict)
        name = getattr(self.metric, "__name__", "metric")
        title = f"{name} on {self.trials.examples} examples; a drop of {drop} allowed"
        all_facts = {"reference": self.reference, "metric": stage.value, **facts, "choices": stage.taken,
                     "reached": reached, "max_drop": self.max_drop}  # fmt: skip
        tuned = stage.at.params, stage.at.ranges
        return Found(stage.recipe, title, COLUMNS, (*stage.rows, row), all_facts, stage.complete, tuned)

    def _row(self, step: str, what: str, value: float, verdict: str) -> Row:
        return step, what, f"{value:.2f}", f"{self.reference - value:+.2f}", verdict
