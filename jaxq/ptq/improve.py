"""The passes of a recipe, in their one right order, with one float reference."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.ptq.adaround import Settings
from jaxq.ptq.bias import corrected
from jaxq.ptq.equalize import equalized, smoothed
from jaxq.ptq.gptq import rounded_by_gptq
from jaxq.ptq.norm import reestimated
from jaxq.ptq.outputs import noise
from jaxq.ptq.report import Report
from jaxq.ptq.rounding import rounded
from jaxq.ptq.setting import EXAMPLES, Done, Setting, run

# In order: factors change what is calibrated, rounding what biases make up for, both what statistics are.
PASSES: Mapping[str, Callable[[Setting], Done]] = {
    "equalize": equalized,
    "smooth": smoothed,
    "round": rounded,
    "gptq": rounded_by_gptq,
    "bias": corrected,
    "norm": reestimated,
}
DEFAULT = ("bias",)


def improve(
    target: Any,
    batches: Any,
    *state: Any,
    passes: Iterable[str] | None = None,
    examples: int = EXAMPLES,
    reference: Any = None,
    steps: int = 2000,
) -> Any:
    """Run post-training passes in their right order: equalize, smooth, round or gptq, bias, norm.

    All compare with one float reference, the parameters before the first pass; after `equalize` and `smooth`, which
    compute the same in floats, the parameters that these give.

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change: keep a copy with
        `nnx.clone(model)` if the float model is needed later.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      passes: names among "equalize", "smooth", "round", "gptq", "bias", "norm", in any order; by default the recipe's
        `passes`, or "bias" alone where it names none.
      examples: at most how many examples are held in memory.
      reference: the float parameters to compare with, by default those at hand.
      steps: gradient steps for each op of "round".

    Returns:
      A `Report` (NNX), `(variables, Report)` (Linen) or `(params, ranges, Report)` (function), with a report for each
      pass and the outputs' SQNR before and after.

    Raises:
      InputError: an unknown pass, "round" together with "gptq", no example, NaN, or a reference of another model.
      RangeError: the model is not calibrated.

    Example:
      >>> report = jaxq.ptq.improve(qmodel, images, passes=["gptq", "bias"])
      >>> [part.name for part in report.parts]
      ['gptq', 'bias']
    """
    step = functools.partial(_improved, passes=passes, steps=steps)
    return run(step, target, batches, state, reference, examples)


def _improved(setting: Setting, passes: Iterable[str] | None, steps: int) -> Done:
    names = in_order(passes if passes is not None else setting.bound.core.recipe.passes or DEFAULT)
    first, parts = setting, []
    for name in names:
        step = functools.partial(rounded, settings=Settings(steps=steps)) if name == "round" else PASSES[name]
        setting, report = step(setting)
        parts.append(report)
    before, after = noise((first, setting), first.reference)
    sqnr = tuple((n, before[n], after[n]) for n in before)
    title = f"improve: {', '.join(names)}"
    return Done(setting, Report(title, "", setting.examples, parts=tuple(parts), sqnr=sqnr))


def in_order(passes: Iterable[str]) -> tuple[str, ...]:
    """The passes as they are run. Raises InputError for an unknown one, and for two that choose the same integers."""
    asked = tuple([passes] if isinstance(passes, str) else passes)
    for name in asked:
        if name not in PASSES:
            raise InputError(f"There is no pass {name!r}. {did_you_mean(name, PASSES)}")
    if {"round", "gptq"} <= set(asked):
        raise InputError('"round" and "gptq" choose the same integers. Give one of them.')
    return tuple(name for name in PASSES if name in asked)
