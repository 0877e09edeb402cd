"""How much each op bears: the loss of the whole model when one op alone is quantized otherwise."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import Any

from jaxq.analyze.choices import Option, options, with_options
from jaxq.analyze.trials import Measure, Trials, cross_entropy
from jaxq.display.progress import bar
from jaxq.display.text import aligned, did_you_mean
from jaxq.errors import PlanError, RangeError
from jaxq.quantization import bind

WIDTH = 20  # characters of the longest bar


@dataclasses.dataclass(frozen=True)
class Score:
    """One op, or one range, alone under another choice.

    Attributes:
      site: its name.
      kind: of its op.
      choice: "w4", "w8", "a16" or "float".
      loss: of the whole model.
      change: `loss` minus the model's own; above zero the choice hurts.
    """

    site: str
    kind: str
    choice: str
    loss: float
    change: float


@dataclasses.dataclass(frozen=True)
class Sensitivity:
    """The scores of a model, worst first within each choice; prints as a table.

    Attributes:
      examples: how many examples were seen.
      measure: what the loss is.
      loss: of the model as it is.
      scores: a `Score` of each site and choice.
      skipped: sites and choices that the plan refuses, and why.
    """

    examples: int
    measure: str
    loss: float
    scores: tuple[Score, ...]
    skipped: tuple[str, ...] = ()

    def __getitem__(self, key: tuple[str, str]) -> Score:
        """The score of (site, choice). Raises KeyError."""
        found = {(s.site, s.choice): s for s in self.scores}
        if key not in found:
            raise KeyError(f"There is no score of {key!r}. {did_you_mean(key[0], [s for s, _ in found])}")
        return found[key]

    @property
    def title(self) -> str:
        """What the table holds."""
        return f"each alone under another choice, {self.examples} examples; {self.measure} as it is: {self.loss:.6g}"

    columns = ("site", "op", "choice", ">change", ">loss", "")

    def rows(self) -> list[list[str]]:
        """The cells of the table, under `columns`; the last is a bar as long as the change."""
        largest = max((abs(s.change) for s in self.scores), default=0.0) or 1.0
        return [
            [s.site, s.kind, s.choice, f"{s.change:+.4g}", f"{s.loss:.6g}", _bar(s.change / largest)]
            for s in self.scores
        ]

    def __str__(self) -> str:
        """The table, and what could not be tried."""
        return "\n".join([self.title, aligned(self.columns, self.rows()), *self.skipped])

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return dataclasses.asdict(self)

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)


def _bar(share: float) -> str:
    return ("#" if share > 0 else "-") * round(abs(share) * WIDTH)


def sensitivity(
    target: Any,
    batches: Any,
    *state: Any,
    labels: Any = None,
    loss: Measure | None = None,
    choices: Sequence[str] = ("w4", "a16", "float"),
    progress: bool = True,
) -> Sensitivity:
    """The loss of a model when one op alone is quantized otherwise, of every op: leave one out, exactly.

    A score is the loss that the model would have under its recipe and one rule more, on the integers that its file
    would compute. Each op is compiled once, and once more for each choice; nothing is trained and nothing calibrated.
    The scores of several ops do not add up exactly: `jaxq.search` measures what it finds.

    Args:
      target: what `jaxq.quantize` gave, calibrated.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these. Use data that
        the model was not trained on: on training data the gradient is almost zero, and so is every score.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      labels: [examples, ...]; by default the float model's results take their place.
      loss: `loss(result, labels)`, one number for each example or their mean; lower is better. By default the cross
        entropy of integer labels; without labels the power of the output's error over that of the output.
      choices: of "w4", "w8" (bits of weights), "a16" (bits of activations) and "float".
      progress: show a progress bar.

    Returns: a Sensitivity, which prints as a table.

    Raises:
      InputError: empty data, NaN, another number of labels, or an unknown choice.
      RangeError: a model without ranges.

    References: Wu et al. 2020, "Integer quantization for deep learning inference", section 5.1 (one layer at a time).

    Example:
      >>> found = jaxq.analyze.sensitivity(qmodel, images, choices=("w4",), progress=False)
      >>> [(score.site, score.choice) for score in found.scores]
      [('kernel', 'w4')]
    """
    trials = Trials(bind(target, *state), batches, labels)
    loss, measure = (loss, getattr(loss, "__name__", "loss")) if loss is not None else default_loss(trials)
    base, found = trials.measured(loss), list[Score]()
    skipped: list[str] = []
    wanted = options(trials.plan, choices)
    with bar(progress) as shown:
        for option in shown.track(wanted, description="each op alone"):
            alone = tried(trials, loss, option, skipped)
            if alone is not None:
                found.append(Score(option.site, option.kind, option.choice, alone, alone - base))
    order = {choice: i for i, choice in enumerate(choices)}
    ranked = sorted(found, key=lambda s: (order[s.choice], -s.change))
    return Sensitivity(trials.examples, measure, base, tuple(ranked), tuple(skipped))


def default_loss(trials: Trials) -> tuple[Measure | None, str]:
    """The loss that is meant where none is given, and its name."""
    return (cross_entropy, "cross entropy") if trials.labelled else (None, "noise / signal of the output")


def tried(trials: Trials, loss: Measure | None, option: Option, skipped: list[str]) -> float | None:
    """The loss under one option; None, with the reason in `skipped`, where the plan cannot be made."""
    try:
        return trials.measured(loss, with_options(trials.recipe, [option]))
    except (PlanError, RangeError) as e:
        skipped.append(f"not tried: {option.site} {option.choice}: {e}")
        return None
