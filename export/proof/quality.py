"""How good a file is, beside how exact: its outputs against the float model's, on the data of the proof.

A file whose every integer is proven can still be worthless: with a range that is a thousand times too wide its outputs
are constant, as trained. So the outputs that were verified are compared with the float model's:

* SQNR = 10 log10(sum f^2 / sum (f - q)^2) decibels of each output, f the float model's numbers and q the file's.
  Below `LEAST_SQNR` the error is more than 18 per cent of the signal (root mean square), where networks begin to lose
  accuracy; usual int8 files have 20 to 40 dB (docs/results.md).
* The number of different results, where the float model gives many: fewer than a quarter of these (or of `LEVELS`, a
  quarter of int8's own number) means that the file no longer tells its inputs apart.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.analyze.diff import decibels
from jaxq.export.evaluate.program import joined
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.proof.examples import apart
from jaxq.graph.recent import Recent
from jaxq.plan.plan import Plan
from jaxq.plan.target import target_named
from jaxq.plan.transformers import plain_sums
from jaxq.simulate.effort import LONG, quickly
from jaxq.simulate.op_by_op import MOST, RealsOpByOp
from jaxq.simulate.reals import reals
from jaxq.simulate.steps import Step

LEAST_SQNR = 15.0  # decibels
NEAR_SQNR = 25.0  # decibels, from which on a transformer's outputs have not suffered
LEVELS = 64
FEWEST = 8  # different results of the float model, below which they are not counted

STEPS = Recent[Step](MOST)  # compiled ops of the float readings of all files


@dataclasses.dataclass
class Quality:
    """The outputs of one file so far. power, noise: sums of squares, by output. rows: hashes of the different results
    of the float model and of the file.
    """

    power: dict[str, float] = dataclasses.field(default_factory=dict)
    noise: dict[str, float] = dataclasses.field(default_factory=dict)
    rows: dict[str, tuple[set[bytes], set[bytes]]] = dataclasses.field(default_factory=dict)

    def add(self, name: str, floats: np.ndarray, reals: np.ndarray) -> None:
        """Compare one output of some examples: the float model's numbers and the file's, in real units."""
        floats, reals = np.asarray(floats, np.float64), np.asarray(reals, np.float64).reshape(np.shape(floats))
        self.power[name] = self.power.get(name, 0.0) + float(np.sum(floats**2))
        self.noise[name] = self.noise.get(name, 0.0) + float(np.sum((floats - reals) ** 2))
        theirs, ours = self.rows.setdefault(name, (set(), set()))
        theirs.update(row.tobytes() for row in np.atleast_1d(floats + 0.0))  # of -0.0 too it makes 0.0
        ours.update(row.tobytes() for row in np.atleast_1d(reals + 0.0))

    @property
    def sqnr(self) -> dict[str, float]:
        """Decibels by output; infinite where nothing differs."""
        return {name: decibels(self.power[name], self.noise[name]) for name in self.power}

    @property
    def distinct(self) -> dict[str, tuple[int, int]]:
        """How many different results the float model and the file give, by output."""
        return {name: (len(theirs), len(ours)) for name, (theirs, ours) in self.rows.items()}

    def as_dict(self) -> dict[str, Any]:
        """The comparison as JSON values; an infinite SQNR is null."""
        return {
            name: {"sqnr": sqnr if math.isfinite(sqnr) else None, "distinct_float": many, "distinct": few}
            for name, sqnr in self.sqnr.items()
            for many, few in [self.distinct[name]]
        }


def doubts(quality: Quality, plan: Plan, untrained: bool) -> list[str]:
    """One message for each kind of thing that is wrong with the outputs, with what to do; none for a usual file.

    untrained: whether the parameters are those that calibration saw.
    """
    low = {name: sqnr for name, sqnr in quality.sqnr.items() if sqnr < LEAST_SQNR}
    few = {name: pair for name, pair in quality.distinct.items() if pair[0] >= FEWEST and _few(*pair)}
    texts = []
    if low:
        facts = ", ".join(f"{name} {sqnr:.1f} dB" for name, sqnr in low.items())
        texts.append(f"precision: outputs are far from the float model's (SQNR below {LEAST_SQNR:g} dB): {facts}.")
    if few:
        facts = ", ".join(f"{name} has {ours} different results where the float model has {theirs:,}"
                          for name, (theirs, ours) in few.items())  # fmt: skip
        texts.append(f"precision: the file hardly tells its inputs apart: {facts}.")
    narrow = [name for name, scheme in plan.weights.items() if scheme.bits == 4]
    if untrained and narrow and not plan.recipe.floats:
        count = f"{len(narrow)} of {len(plan.weights)} weights have 4 bits (the first is {narrow[0]})"
        texts.append(f"precision: {count} and were not trained since calibration.")
    said = [f"{text} {_advice(plan, bool(narrow))}" for text in texts]
    return said + _of_transformers(quality, plan) if untrained else said


def _of_transformers(quality: Quality, plan: Plan) -> list[str]:
    """What 8 bits cost a transformer, unless its outputs have been measured and are near the float model's."""
    sums = plain_sums(plan)
    near = quality.sqnr and all(sqnr >= NEAR_SQNR for sqnr in quality.sqnr.values())
    if not sums or near:
        return []
    wide = " Or give them 16 bits (jaxq.search.rollback finds which), or use the recipe int16x8."
    return [
        f"precision: {len(sums)} sums of a transformer's residual stream (the first is {sums[0]}) have 8 bits and no "
        f"bound, and were not trained since calibration. {ADVICE['transformer']}"
        + (wide if target_named(plan.recipe.target).int16 else "")
    ]


def _few(theirs: int, ours: int) -> bool:
    return 4 * ours < min(theirs, LEVELS)


def _advice(plan: Plan, narrow: bool) -> str:
    if plan.findings:
        return f"The likely cause: {plan.findings[0]}. {plan.findings[0].remedy}"
    return ADVICE["int4" if narrow else "int8"]


ADVICE: Mapping[str, str] = {
    "int4": (
        "Rounding to 15 values costs many networks most of their accuracy until they are trained: train on the "
        "quantized model, keep 8 bits where it matters most (Rule(..., weight_bits=8)), or use the recipe int8."
    ),
    "int8": (
        "Calibrate on typical data, train on the quantized model, look where the error arises "
        "(jaxq.analyze.diff), or use the recipe int16x8."
    ),
    "transformer": (
        "A plain BERT lost 13.6 points of accuracy so. Bound the sums and train on the quantized model "
        "(jaxq.recipes.bert.bounded does the first), or run jaxq.ptq.improve."
    ),
}


# --- the float model beside the file ---------------------------------------------------------------------------------


def watched(
    forward: Callable[..., tuple[dict[str, np.ndarray], list[np.ndarray]]], frozen: Frozen, params: Sequence[Any]
) -> tuple[Callable[..., tuple[dict[str, np.ndarray], list[np.ndarray]]], Quality]:
    """A training forward that compares its outputs with the float model's as it goes, and the comparison.

    forward: `(arrays, others) -> (stored integers by site, file inputs)`, as the artifact's. Calls with `others` are
    not compared: there the results are of another's numbers. params: the leaves of the float model's.
    """
    quality, floats = Quality(), _float_outputs(frozen.plan, params)

    def compared(arrays: Sequence[Any], others: Mapping[str, np.ndarray] | None = None) -> Any:
        found, file_inputs = forward(arrays) if others is None else forward(arrays, others)
        if others is None:
            for name, real in floats(arrays).items():
                if name in found:
                    quality.add(name, np.asarray(real), _real(frozen, name, found[name]))
        return found, file_inputs

    return compared, quality


def _real(frozen: Frozen, site: str, stored: np.ndarray) -> np.ndarray:
    group = frozen.plan.group_of.get(site)
    if group is None or group not in frozen.parameters:
        return stored
    scale, zero_point = frozen.parameters[group]
    return (stored - zero_point) * scale


def _float_outputs(plan: Plan, params: Sequence[Any]) -> Callable[[Sequence[Any]], dict[str, np.ndarray]]:
    """The float reading's outputs by site, for arrays of the graph's shapes or with a batch for their leading 1."""
    graph = plan.graph
    wanted = {graph.site_names[v]: v for v in graph.outputs if v in graph.activations}
    reading = RealsOpByOp(plan, params, STEPS) if len(graph.ops) >= LONG else _whole(plan, params)

    def run(arrays: Sequence[Any]) -> dict[str, np.ndarray]:
        examples, batched = apart(graph, arrays)
        found = reading(examples, batched)
        real = {name: np.asarray(found[v]) for name, v in wanted.items()}
        floats = {name: a for name, a in real.items() if jnp.issubdtype(a.dtype, jnp.floating)}
        return {name: joined(a) if batched else a for name, a in floats.items()}

    return run


def _whole(plan: Plan, params: Sequence[Any]) -> Callable[[Sequence[Any], frozenset[int]], dict[int, jax.Array]]:
    """The float reading's outputs, compiled as a whole."""

    def outputs(params: Sequence[Any], arrays: Sequence[Any]) -> dict[int, jax.Array]:
        found = reals(plan, params, arrays, differentiable=False)
        return {v: found[v] for v in plan.graph.outputs if v in found}

    @functools.cache
    def compiled(batched: frozenset[int]) -> Callable[..., dict[int, jax.Array]]:
        axes = [0 if v in batched else None for v in plan.graph.inputs]
        many = jax.vmap(outputs, in_axes=(None, axes)) if batched else outputs
        return jax.jit(many, compiler_options=quickly())

    return lambda inputs, batched: compiled(batched)(params, list(inputs))
