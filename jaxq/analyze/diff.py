"""The training forward against the float reading on data, in one streaming pass."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.analyze.difference import Difference, Differences, Error
from jaxq.analyze.error_sums import KINDS, Summed, summed
from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.frontends.batches import chunks
from jaxq.frontends.core import CACHED_SHAPES, Bound
from jaxq.frontends.ranges import check_ranges
from jaxq.graph.recent import Recent
from jaxq.plan.plan import Plan
from jaxq.quantization import bind, reference_leaves


def diff(target: Any, batches: Any, *state: Any, reference: Any = None, progress: bool = True) -> Differences:
    """Say of every integer tensor how far the training forward is from the float reading, and whose doing it is.

    Args:
      target: what `jaxq.quantize` gave, calibrated.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the parameters of the float reading, by default those at hand: for NNX a module or its `nnx.state`,
        for Linen variables, for a function params. After a pass of `jaxq.ptq` or after training the parameters at hand
        are no float model any more: give those of before, or a pass's `report.reference`.
      progress: show a progress bar.

    Returns:
      Differences: for each tensor its error in steps and its signal to noise ratio in dB, own and inherited. It prints
      as a table.

    Raises:
      InputError: empty data, NaN, a recipe of floats, or a reference of another model.
      RangeError: a model without ranges.

    Example:
      >>> jaxq.analyze.diff(qmodel, images, progress=False).examples
      8
    """
    bound = bind(target, *state)
    refuse_floats(bound)
    leaves = reference_leaves(target, bound, reference)
    return compare(bound, chunks(bound, batches, "compare"), progress, leaves)


def compare(
    bound: Bound, chunked: Iterable[Sequence[np.ndarray]], progress: bool, reference: list[Any] | None = None
) -> Differences:
    """As `diff`, of arrays in the order of the graph's inputs, some examples at a time. reference: leaves."""
    gathered, examples = _Gathered(reference or jax.tree.leaves(bound.params)), 0
    with bar(progress) as shown:
        task = shown.add_task("comparing", total=None)
        for arrays in chunked:
            gathered.add(bound, arrays)
            examples += bound.core.examples(arrays)
            shown.update(task, description=f"comparing: {examples} examples")
    if gathered.plan is None:
        raise InputError("There is no example to compare: the iterable is empty.")
    return Differences(examples, gathered.finish(gathered.plan))


def refuse_floats(bound: Bound) -> None:
    """Raise InputError for a recipe whose activations are floats."""
    if bound.core.recipe.floats:
        raise InputError(
            f"The recipe {bound.core.recipe.name} keeps activations in floats: there are no steps and no integers to "
            "compare. The certificate of jaxq.export.to_tflite(..., verify=images) compares the numbers."
        )


class _Gathered:
    """Sums so far, by tensor and kind of error, in float64."""

    def __init__(self, reference: list[Any]) -> None:
        self.reference = reference
        self.plan: Plan | None = None
        self.sums: dict[str, dict[str, np.ndarray]] = {}
        self._compiled = Recent[Summed](CACHED_SHAPES)

    def add(self, bound: Bound, arrays: Sequence[np.ndarray]) -> None:
        args, kwargs = bound.core.with_arrays(arrays)
        captured = bound.captured(*args, **kwargs)
        plan = self.plan = captured.plan
        check_ranges(plan, bound.ranges, bound.core.plans)
        leaves = jax.tree.leaves(bound.params)
        run = self._compiled.get(captured, lambda: summed(plan, leaves, self.reference))
        found = run({n: dict(r) for n, r in bound.ranges.items()}, list(arrays))
        for site, sums in jax.tree.map(_on_host, found, is_leaf=lambda node: isinstance(node, tuple)).items():
            before = self.sums.get(site, {})
            self.sums[site] = {kind: _merged(before.get(kind), now) for kind, now in sums.items()}

    def finish(self, plan: Plan) -> tuple[Difference, ...]:
        names = plan.graph.site_names
        kinds = {names[v]: "INPUT" for v in plan.graph.inputs}
        kinds |= {names[v]: op.kind for op in plan.graph.ops for v in op.outputs}
        return tuple(_difference(site, kind, self.sums[site]) for site, kind in kinds.items() if site in self.sums)


def _on_host(sums: tuple[Any, ...]) -> np.ndarray:
    total, absolute, squares, largest, elements = (np.asarray(s, np.float64) for s in sums)
    return np.array([*map(np.sum, (total, absolute, squares)), np.max(largest, initial=0.0), elements])


def _merged(before: np.ndarray | None, now: np.ndarray) -> np.ndarray:
    if before is None:
        return now
    merged = before + now
    merged[3] = max(before[3], now[3])
    return merged


def _difference(site: str, kind: str, sums: Mapping[str, np.ndarray]) -> Difference:
    power, elements = sums["real"][2], int(sums["real"][4])
    errors = {name: _error(sums[name], power) for name in KINDS}
    return Difference(site, kind, float(sums["step"][3]), elements, float(sums["clipped"][0] / elements), **errors)


def _error(sums: np.ndarray, power: float) -> Error:
    total, absolute, squares, largest, elements = (float(s) for s in sums)
    return Error(total / elements, absolute / elements, largest, decibels(float(power), squares))


def decibels(signal: float, noise: float) -> float:
    """`10 log10(signal / noise)`, of two powers; infinite without noise, minus infinity without signal."""
    if not noise:
        return math.inf
    return 10.0 * math.log10(signal / noise) if signal else -math.inf
