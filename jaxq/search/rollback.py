"""As few ops as a drop of accuracy allows leave int8: to 16 bits first, to floats where that is not enough."""

from __future__ import annotations

import dataclasses
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from jaxq.analyze.choices import Option, options, with_options
from jaxq.analyze.sensitivity import default_loss
from jaxq.analyze.trials import Measure, Trials, accuracy
from jaxq.display.progress import bar
from jaxq.errors import InputError, PlanError, RangeError
from jaxq.quantization import bind
from jaxq.search.found import Found

COLUMNS = ("site", "op", "choice", ">loss without it")


def rollback(
    target: Any,
    batches: Any,
    *state: Any,
    max_drop: float,
    labels: Any = None,
    metric: Measure | None = None,
    reference: float | None = None,
    choices: Sequence[str] = ("a16", "float"),
    progress: bool = True,
) -> Found:
    """Give up as few int8 tensors as brings the model within `max_drop` of its reference.

    For the first of `choices`: all tensors get it, and each is taken back alone; what the loss gains by it says how
    much that tensor needs the choice. Those that need it most get it, as many as the drop asks for (found by
    bisection), and then each of them is left out again if the drop allows. If the first choice everywhere is not
    enough, the next is added to it. Every step is measured on the integers that the file would compute; nothing is
    calibrated or compiled as a whole again.

    Interrupted (Ctrl-C), it returns the best recipe so far.

    Args:
      target: what `jaxq.quantize` gave, calibrated.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      max_drop: in the metric's unit: with the default metric, points of per cent.
      labels: [examples, ...]; by default the float model's results.
      metric: `metric(result, labels)`, one number for each example or their mean; higher is better. By default the per
        cent of examples whose largest logit is the label's, or without labels the float model's.
      reference: what the drop is counted from; by default the float model's metric.
      choices: of "a16" and "float", in the order in which they are tried.
      progress: show a progress bar.

    Returns: Found; `found.facts["reached"]` says whether the drop is kept.

    Raises: InputError for empty data or an unknown choice; RangeError for a model without ranges.

    References: NNCF's accuracy-aware quantization (ranks groups, then takes back one after the other); Wu et al. 2020,
    section 5.1 (partial quantization).

    Example:
      >>> found = jaxq.search.rollback(qmodel, images, max_drop=0.5, progress=False)
      >>> found.recipe.rules, found.facts["reached"]
      ((), True)
    """
    trials, metric = Trials(bind(target, *state), batches, labels), metric or accuracy
    reference = trials.float_measured(metric) if reference is None else reference
    return search_rollback(trials, metric, max_drop, reference, choices, progress)


def search_rollback(
    trials: Trials, metric: Measure, max_drop: float, reference: float, choices: Sequence[str], progress: bool
) -> Found:
    """`rollback` on trials that are there already."""
    if unknown := [c for c in choices if c not in ("a16", "float")]:
        raise InputError(f'jaxq.search.rollback chooses among "a16" and "float", not {unknown[0]!r}.')
    search = _Rollback(trials, metric, reference - max_drop)
    complete = True
    with bar(progress) as shown:
        task = shown.add_task("taking back", total=None)
        try:
            for done in search.steps(choices):
                shown.update(task, description=done)
        except KeyboardInterrupt:
            complete = False
    return search.found(max_drop, complete)


@dataclasses.dataclass
class _Rollback:
    """The search so far. best: the options of the best set measured, value: its metric, None before any."""

    trials: Trials
    metric: Measure
    wanted: float
    best: tuple[Option, ...] = ()
    value: float | None = None
    start: float | None = None
    losses: dict[Option, float] = dataclasses.field(default_factory=dict)

    def steps(self, choices: Sequence[str]) -> Iterator[str]:
        """Run, a sentence of progress at each step."""
        self.start = self.measured(())
        yield f"as it is: {self.start:.4g}, wanted {self.wanted:.4g}"
        kept: tuple[Option, ...] = ()
        for choice in choices:
            if self.reached:
                return
            added = self._possible(kept, options(self.trials.plan, [choice]))
            everywhere = self.measured((*kept, *added))
            yield f"{choice} everywhere: {everywhere:.4g}"
            if everywhere < self.wanted:
                kept = (*kept, *added)
                continue
            ranked = yield from self._ranked(kept, added)
            yield from self._grown(kept, ranked)
            yield from self._shrunk()

    @property
    def reached(self) -> bool:
        """Whether a set that keeps the drop is known."""
        return self.value is not None and self.value >= self.wanted

    def measured(self, chosen: tuple[Option, ...]) -> float:
        """The metric of a set, which becomes the best if it keeps the drop with fewer options, or comes nearer."""
        value = self.trials.measured(self.metric, with_options(self.trials.recipe, chosen))
        fewer = self.reached and value >= self.wanted and len(chosen) < len(self.best)
        nearer = not self.reached and (self.value is None or value > self.value)
        if fewer or nearer:
            self.best, self.value = chosen, value
        return value

    def _possible(self, kept: tuple[Option, ...], wanted: Sequence[Option]) -> tuple[Option, ...]:
        """The options that the plan takes together, in order."""
        found: tuple[Option, ...] = ()
        if self._plans((*kept, *wanted)):
            return tuple(wanted)
        for option in wanted:
            found = (*found, option) if self._plans((*kept, *found, option)) else found
        return found

    def _plans(self, chosen: tuple[Option, ...]) -> bool:
        try:
            self.trials.carried(with_options(self.trials.recipe, chosen))
        except (PlanError, RangeError):
            return False
        return True

    def _ranked(self, kept: tuple[Option, ...], added: tuple[Option, ...]) -> Generator[str, None, tuple[Option, ...]]:
        """The options, those first whose absence costs most while all others are there."""
        loss, _ = default_loss(self.trials)
        for i, option in enumerate(added):
            others = with_options(self.trials.recipe, (*kept, *(o for o in added if o != option)))
            self.losses[option] = self.trials.measured(loss, others)
            yield f"{option.choice}: each taken back alone, {i + 1} of {len(added)}"
        return tuple(sorted(added, key=lambda o: -self.losses[o]))

    def _grown(self, kept: tuple[Option, ...], ranked: tuple[Option, ...]) -> Iterator[str]:
        """The least count of the first options that keeps the drop, by bisection: all of them do."""
        fails, holds = 0, len(ranked)
        while holds - fails > 1:
            middle = (fails + holds) // 2
            value = self.measured((*kept, *ranked[:middle]))
            fails, holds = (fails, middle) if value >= self.wanted else (middle, holds)
            yield f"{middle} of {len(ranked)}: {value:.4g}"

    def _shrunk(self) -> Iterator[str]:
        """Leave out what is not needed, floats first and what was needed least first, until each that is left is."""
        before: tuple[Option, ...] | None = None
        while before != self.best:
            before = self.best
            for option in sorted(before, key=lambda o: (o.choice != "float", self.losses.get(o, 0.0))):
                value = self.measured(tuple(o for o in self.best if o != option))
                yield f"without {option.site}: {value:.4g}"

    def found(self, max_drop: float, complete: bool) -> Found:
        """The result."""
        value = self.value if self.value is not None else float("nan")
        rows = [(o.site, o.kind, o.choice, _number(self.losses.get(o))) for o in self.best]
        facts = {
            "metric": value, "metric_before": self.start, "reference": self.wanted + max_drop, "max_drop": max_drop,
            "reached": self.reached, "choices": {o.site: o.choice for o in self.best},
        }  # fmt: skip
        start = "not measured" if self.start is None else f"{self.start:.4g}"
        verdict = "" if self.reached else f"; a drop of {max_drop:g} is not reached"
        title = (
            f"{getattr(self.metric, '__name__', 'metric')} {value:.4g}, {start} as it was, reference "
            f"{self.wanted + max_drop:.4g}, with {len(rows)} taken back{verdict}, {self.trials.examples} examples"
        )
        return Found(with_options(self.trials.recipe, self.best), title, COLUMNS, tuple(rows), facts, complete)


def _number(loss: float | None) -> str:
    return "" if loss is None else f"{loss:.4g}"
