"""One calibrated model under many recipes on the same examples: what sensitivity and searches measure with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxq.analyze.transfer import transferred
from jaxq.errors import InputError
from jaxq.frontends.batches import in_chunks, joined
from jaxq.frontends.captured import Captured
from jaxq.frontends.core import Bound
from jaxq.frontends.ranges import check_ranges
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe
from jaxq.simulate.op_by_op import OpByOp
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.reals import reals

# (result of the model, labels or the float model's result) -> one number for each example, or their mean
Measure = Callable[[Any, Any], Any]
LARGEST, SMALLEST = 128, 16  # examples at a time


class Sums(NamedTuple):
    """What one batch adds: a measure is `mean(top / bottom)` of the sums."""

    top: np.ndarray
    bottom: np.ndarray


class Trials:
    """Measures of one model under many recipes.

    Args:
      bound: a calibrated model (`jaxq.quantization.bind`).
      batches: examples; kept on the host.
      labels: [examples, ...], what measures compare the result with; by default the float model's result.
    """

    def __init__(self, bound: Bound, batches: Any, labels: Any = None) -> None:
        arrays = _whole(bound, batches)
        self.bound, self.examples = bound, bound.core.examples(arrays)
        self.labelled, self.recipe = labels is not None, bound.core.recipe
        self._evaluator = OpByOp(jax.tree.leaves(bound.params))
        size = batch_size(self.examples)
        self.batches = list(in_chunks(arrays, bound.core.batched(arrays), size))
        captured = [self._captured(batch) for batch in self.batches]
        check_ranges(captured[0].plan, bound.ranges, bound.core.plans)
        self.ranges: Ranges = {name: dict(r) for name, r in bound.ranges.items()}
        self.floats = self._float_results(captured)
        self.wanted = self._labels(labels, size) if labels is not None else self.floats

    @property
    def plan(self) -> Plan:
        """The plan of the model's own recipe."""
        return self._captured(self.batches[0]).plan

    @property
    def compiled(self) -> int:
        """How many ops have been compiled so far, for all recipes together."""
        return self._evaluator.compiled

    def measured(self, measure: Measure | None, recipe: Recipe | None = None, ranges: Ranges | None = None) -> float:
        """A measure of the model under a recipe (its own by default), over all examples.

        Args:
          measure: None is the power of the output's error over that of the float model's output.
          recipe: another recipe for the same model.
          ranges: of that recipe; by default the model's own, carried over.
        """
        return self._over(measure, self.results(recipe, ranges))

    def float_measured(self, measure: Measure | None) -> float:
        """A measure of the float model."""
        return self._over(measure, self.floats)

    def measured_against(self, other: Trials, measure: Measure | None) -> float:
        """A measure of the model against what another's trials want on the same examples: after training the float
        results are no longer these parameters' own.
        """
        return self._over(measure, self.results(), other.wanted)

    def _over(self, measure: Measure | None, results: Iterable[Any], others: Sequence[Any] | None = None) -> float:
        read, found = _noise if measure is None else functools.partial(_mean, measure), []
        for result, wanted in zip(results, self.wanted if others is None else others, strict=True):
            found.append(Sums(*(np.asarray(a, np.float64) for a in read(result, wanted))))
        top, bottom = (np.sum(arrays, axis=0) for arrays in zip(*found, strict=True))
        return float(np.mean(top / np.maximum(bottom, np.finfo(np.float64).tiny)))

    def planned(self, recipe: Recipe) -> Plan:
        """The plan of the model by another recipe. Raises PlanError."""
        return self._captured(self.batches[0]).under(recipe).plan

    def carried(self, recipe: Recipe) -> Ranges:
        """The ranges of the model under another recipe. Raises PlanError, RangeError."""
        return transferred(self.plan, self.ranges, self.planned(recipe), self._evaluator.params)

    def results(self, recipe: Recipe | None = None, ranges: Ranges | None = None) -> Iterator[Any]:
        """The model's result on every batch. Raises PlanError, RangeError."""
        planned: dict[Captured, Captured] = {}
        for batch in self.batches:
            captured = own = self._captured(batch)
            if recipe is not None and recipe != self.recipe:
                captured = planned[own] = planned.get(own) or own.under(recipe)
                ranges = ranges or transferred(own.plan, self.ranges, captured.plan, self._evaluator.params)
            outputs = self._evaluator.outputs(captured.plan, ranges or self.ranges, batch)
            kept = zip(outputs, captured.plan.graph.outputs, strict=True)
            yield captured.result_of([o for o, v in kept if v in captured.plan.graph.activations])

    def _captured(self, batch: Sequence[np.ndarray]) -> Captured:
        args, kwargs = self.bound.core.with_arrays(batch)
        return self.bound.captured(*args, **kwargs)

    def _labels(self, labels: Any, size: int) -> list[Any]:
        if len(labels) != self.examples:
            raise InputError(
                f"There are {len(labels)} labels for {self.examples} examples; there must be one for each."
            )
        return [jnp.asarray(labels[start : start + size]) for start in range(0, self.examples, size)]

    def _float_results(self, captured: Sequence[Captured]) -> list[Any]:
        read = {id(c.plan): jax.jit(functools.partial(_outputs, c.plan)) for c in captured}
        params = self._evaluator.params
        return [c.result_of(read[id(c.plan)](params, b)) for c, b in zip(captured, self.batches, strict=True)]


def _outputs(plan: Plan, params: Sequence[Any], inputs: Sequence[Any]) -> list[jax.Array]:
    """The outputs of the float reading that are activations."""
    found = reals(plan, params, inputs)
    return [found[v] for v in plan.graph.outputs if v in found]


def _whole(bound: Bound, batches: Any) -> list[np.ndarray]:
    found = joined(bound, batches, "measure on")
    if not found:
        raise InputError("There is no example to measure on: the iterable is empty.")
    return found


def batch_size(examples: int) -> int:
    """How many examples to take at a time: all batches equal where the count has a divisor of middling size."""
    if examples <= LARGEST:
        return examples
    return next((n for n in range(LARGEST, SMALLEST - 1, -1) if examples % n == 0), LARGEST // 2)


# --- measures -------------------------------------------------------------------------------------------------------


@jax.jit
def _noise(result: Any, wanted: Any) -> tuple[jax.Array, jax.Array]:
    """Of each output the sums of squares: of the error, and of the float model's numbers."""
    pairs = list(zip(jax.tree.leaves(result), jax.tree.leaves(wanted), strict=True))
    pairs = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs]
    return jnp.stack([jnp.sum((a - b) ** 2) for a, b in pairs]), jnp.stack([jnp.sum(b * b) for _, b in pairs])


def _mean(measure: Measure, result: Any, wanted: Any) -> tuple[np.ndarray, np.ndarray]:
    found, count = np.asarray(measure(result, wanted), np.float64), len(jax.tree.leaves(result)[0])
    if not np.all(np.isfinite(found)):
        raise InputError(f"The measure {getattr(measure, '__name__', measure)} gives {found.ravel()[:4]}: not finite.")
    return np.array([found.mean() * count]), np.array([float(count)])


def cross_entropy(result: Any, labels: Any) -> jax.Array:
    """Of logits, [examples, classes], with integer labels, [examples]."""
    return optax.softmax_cross_entropy_with_integer_labels(_logits(result), labels)


def accuracy(result: Any, wanted: Any) -> jax.Array:
    """In per cent: whether the largest logit is the label's, or the float model's own largest; [examples]."""
    logits, classes = _logits(result), jax.tree.leaves(wanted)[0]
    classes = classes if jnp.issubdtype(classes.dtype, jnp.integer) else jnp.argmax(classes, -1)
    return jnp.where(jnp.argmax(logits, -1) == classes, 100.0, 0.0)


def _logits(result: Any) -> jax.Array:
    leaves = jax.tree.leaves(result)
    if len(leaves) != 1 or leaves[0].ndim != 2:
        shapes = ", ".join(str(leaf.shape) for leaf in leaves)
        raise InputError(
            f"Labels are compared with one output of logits, [examples, classes]; the model gives {shapes}. Give a "
            "function of your own, of the result and the labels."
        )
    return leaves[0]
