"""Calibration: ranges from data, in one streaming pass. Memory does not depend on the number of batches."""

from __future__ import annotations

import functools
import math
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.display.progress import bar
from jaxq.errors import CalibrationError, PrecisionWarning
from jaxq.frontends.batches import batch_arguments, batches_of
from jaxq.frontends.calibration_data import refuse_non_finite, refuse_soft_masks
from jaxq.frontends.call import is_key
from jaxq.frontends.captured import Captured
from jaxq.frontends.core import CACHED_SHAPES, Bound
from jaxq.frontends.gathered import gathered
from jaxq.frontends.ranges import check_range_names
from jaxq.gradients.statistics import is_gradient_state
from jaxq.graph import MASK, Op
from jaxq.graph.recent import Recent
from jaxq.observers import METHODS, WEIGHT_METHODS, Batch, Observer, Wanted
from jaxq.plan.findings import Extent, find, said
from jaxq.plan.make_plan import has_weights
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import Scheme
from jaxq.quantization import bind, given_back
from jaxq.range_methods import METHODS as RANGE_METHODS
from jaxq.simulate.norm_statistics import states_of
from jaxq.simulate.reals import reals
from jaxq.simulate.weights import bound_scale, floored, weight_values

Ranges = dict[str, dict[str, jax.Array]]


def calibrate(target: Any, batches: Any, *state: Any, overwrite: bool = False, progress: bool = True) -> Any:
    """Set every range of a quantized model from data.

    Args:
      target: what `jaxq.quantize` gave.
      batches: any iterable of inputs: an array, a tuple of positional inputs, a dict of keyword inputs, or a
        tuple that ends in such a dict. Read once. An array alone is examples, read 64 at a time.
      state: nothing for NNX (ranges are set in place), `variables` for Linen, `params, ranges` for a function.
      overwrite: replace ranges that have been set already, by calibration or by training.
      progress: show a progress bar.

    Returns:
      None (NNX), the variables (Linen) or the ranges (function), as new values.

    Raises:
      CalibrationError: empty or non-finite data, a tensor that is zero throughout, or ranges already set.

    Warns:
      PrecisionWarning: once for each kind of thing that the ranges cannot hold (`jaxq.plan.findings`). The plan lists
        them from then on, and so does the manifest of an exported file.

    Example:
      >>> jaxq.calibrate(qmodel, [images], overwrite=True, progress=False)
      >>> sorted(qmodel.pure_ranges()["input"])
      ['observed', 'scale', 'zero_point']
    """
    bound = bind(target, *state)
    if not overwrite:
        _refuse_overwriting(bound)
    ranges = calibrated(bound, batches, progress)
    for text in said(bound.core.findings):
        warnings.warn(text, PrecisionWarning, stacklevel=2)
    back = given_back(target, state, bound.params, ranges)
    return back[-1] if back else None


def _refuse_overwriting(bound: Bound) -> None:
    ranges = {name: r for name, r in bound.ranges.items() if not is_gradient_state(r)}
    done = [name for name, r in ranges.items() if all(np.all(np.isfinite(gathered(a))) for a in r.values())]
    if done:
        raise CalibrationError(
            f"{len(done)} of {len(ranges)} ranges are set already (the first is {done[0]}), by calibration or "
            "by training. To discard them: jaxq.calibrate(..., overwrite=True)."
        )


def calibrated(bound: Bound, batches: Any, progress: bool) -> Ranges:
    """The ranges of a bound model from batches, and its findings in the core."""
    seen = _Observed(bound)
    with bar(progress) as shown:
        for index, batch in enumerate(shown.track(batches_of(bound, batches), description="calibrating")):
            seen.add(index, *batch_arguments(bound, batch))
    if seen.captured is None:
        raise CalibrationError(
            "The calibration data is empty: the iterable gave no batch. (A generator can be read only once.)"
        )
    ranges = _ranges(bound, seen.captured, seen.finish(seen.captured.plan))
    bound.core.findings = find(seen.captured.plan, _steps(seen.captured.plan, ranges), seen.extents)
    bound.core.calibrated = fingerprint(bound.params)
    return ranges


def fingerprint(params: Any) -> int:
    """A number that tells parameters apart: CRC-32 of all their bytes."""
    found = 0
    for leaf in jax.tree.leaves(params):
        found = zlib.crc32(gathered(leaf).tobytes() if not is_key(leaf) else b"", found)
    return found


def _steps(plan: Plan, ranges: Ranges) -> dict[str, float]:
    """The scale of every range that is a plan's own."""
    owned = {name: group for name, group in plan.groups.items() if name in ranges}
    found = {name: RANGE_METHODS[g.scheme.ranges].forward(ranges[name], g.grid) for name, g in owned.items()}
    return {name: float(q.scale) for name, q in found.items()}


class _Observed:
    """What has been seen of each group so far: the state of its observer, by the group's name."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound
        self.captured: Captured | None = None
        self.states: dict[str, Any] = {}
        self.extents: dict[str, Extent] = {}
        self._jitted = Recent[Callable[..., Any]](CACHED_SHAPES)

    def add(self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        arrays = self.bound.core.arrays(args, kwargs)
        if any(array.size == 0 for array in arrays):
            raise CalibrationError(
                f"Calibration batch {index} holds no example (shapes {[tuple(a.shape) for a in arrays]})."
            )
        captured = self.captured = self.bound.captured(*args, **kwargs)
        check_range_names(captured.plan, self.bound.ranges, self.bound.core.plans)
        refuse_soft_masks(index, captured.plan.graph, arrays)
        found = self._observe(captured)(jax.tree.leaves(self.bound.params), arrays)
        extremes, values, channels = jax.tree.map(gathered, found)
        refuse_non_finite(index, arrays, extremes)
        for name, pair in extremes.items():
            observer = _observer(captured.plan.groups[name])
            batch = Batch(pair, values.get(name, []))
            self.states[name] = observer.update(self.states.get(name, observer.start()), batch)
        self._add_channels(captured, channels)

    def _add_channels(self, captured: Captured, channels: Mapping[str, np.ndarray]) -> None:
        values = {name: value for value, name in captured.plan.graph.site_names.items()}
        for site, pair in channels.items():
            low, high = pair
            shape = captured.plan.graph.avals[values[site]].shape
            extent = Extent(low, high, math.prod(shape) // max(len(low), 1))
            self.extents[site] = self.extents[site].merged(extent) if site in self.extents else extent

    def _observe(self, captured: Captured) -> Callable[..., Any]:
        # By the plan itself, for the number of one that the core has dropped may be another's.
        return self._jitted.get(captured, lambda: jax.jit(functools.partial(group_values, captured.plan)))

    def finish(self, plan: Plan) -> dict[str, tuple[float, float]]:
        """The range of each group, as its observer finds it."""
        groups = {name: plan.groups[name] for name in self.states}
        wanted = {name: Wanted(g.grid, g.scheme.percentile) for name, g in groups.items()}
        return {n: _observer(g).finish(self.states[n], wanted[n]) for n, g in groups.items()}


def _observer(group: Group) -> Observer:
    return METHODS[group.scheme.calibration]


def group_values(
    plan: Plan, params: Sequence[Any], arrays: Sequence[jax.Array]
) -> tuple[dict[str, jax.Array], dict[str, list[jax.Array]], dict[str, jax.Array]]:
    """Each group's [min, max] over its members, in the float reading; the numbers themselves of the groups whose
    observer reads them; and the least and greatest number of each channel of every tensor, float32 (2, channels).
    """
    channels: dict[str, jax.Array] = {}
    members: dict[str, list[jax.Array]] = {}
    masks = {g.name: m for op in plan.graph.ops if (m := _mask(op)) and (g := plan.group(op.outputs[0]))}
    for value, array in [*reals(plan, params, arrays).items(), *_tables_of_rows(plan, params)]:
        group = plan.group(value)
        if group is not None and group.fixed is None and group.derived is None:
            found = [array] if group.name not in masks else unmasked(array, masks[group.name])
            members.setdefault(group.name, []).extend(found)
        if group is not None and jnp.issubdtype(array.dtype, jnp.floating):
            found = array if group.name not in masks else unmasked(array, masks[group.name])[0]
            channels.setdefault(plan.graph.site_names[value], _channels(found))
    extremes = {name: jnp.stack([_over(jnp.min, m), _over(jnp.max, m)]) for name, m in members.items()}
    values = {name: m for name, m in members.items() if _observer(plan.groups[name]).reads_values}
    return extremes, values, channels


def _channels(array: jax.Array) -> jax.Array:
    """The least and greatest number of each channel, the last axis; a vector is one."""
    array = array.astype(jnp.float32).reshape(-1, array.shape[-1] if array.ndim > 1 else 1)
    return jnp.stack([jnp.min(array, 0), jnp.max(array, 0)])


def _tables_of_rows(plan: Plan, params: Sequence[Any]) -> list[tuple[int, jax.Array]]:
    """The weights of every EMBEDDING under its output: a range covers the rows that calibration does not happen to
    read. Rows of an activation have its range.
    """
    lookups = [op for op in plan.graph.ops if op.kind == "EMBEDDING" and op.inputs[1] not in plan.graph.activations]
    env = weight_values(plan.graph, params) if lookups else {}
    return [(op.outputs[0], jnp.asarray(env[op.inputs[1]])) for op in lookups]


# How far below the least number a masked one is put: exp(-12) is nothing beside int8's 1/256.
MASK_DEPTH = 12.0


def _mask(op: Op) -> float:
    """The constant that an op selects for "not this one", 0 for another op."""
    return op.attrs.get("masked", 0.0)


def unmasked(array: jax.Array, mask: float) -> list[jax.Array]:
    """Numbers of which some may be a mask, such as -1e9: it becomes the least number, less 12, which is in the range
    whether or not the data has a masked number.

    A softmax gives it nothing all the same, and the rest keeps its resolution.
    """
    kept, least = jnp.abs(array) < MASK, jnp.min if mask < 0 else jnp.max
    extreme = least(jnp.where(kept, array, math.copysign(jnp.inf, -mask))) + math.copysign(MASK_DEPTH, mask)
    return [jnp.where(kept, array, extreme), extreme]


def _over(reduce: Callable[[jax.Array], jax.Array], arrays: Sequence[jax.Array]) -> jax.Array:
    return reduce(jnp.stack([reduce(a.astype(jnp.float32)) for a in arrays]))


def _ranges(bound: Bound, captured: Captured, found: Mapping[str, tuple[float, float]]) -> Ranges:
    ranges: Ranges = {}
    found = widened(captured.plan, awakened(captured.plan, jax.tree.leaves(bound.params), found))
    for name, group in captured.plan.groups.items():
        if name in bound.ranges:
            ranges[name] = range_of(group, *found[name])
    norms = states_of(captured.plan.norms, jax.tree.leaves(bound.params))
    gradients = {site: dict(bound.ranges[site]) for site in captured.plan.gradients}
    return {**ranges, **norms, **gradients, **_weight_ranges(bound, captured, ranges)}


# The least share of a sum's scale that an operand's has: below a 2^10th TFLite's kernels abort.
LEAST_OPERAND = 2.0**-9


def widened(plan: Plan, found: Mapping[str, tuple[float, float]]) -> dict[str, tuple[float, float]]:
    """The extremes, with those of an operand of ADD or SUB that is next to nothing beside the sum (a mean that is
    almost zero) spread out until the kernels take it: a 512th of the sum's step is nothing all the same.
    """
    found = dict(found)
    for op in reversed(plan.graph.ops):
        if op.kind not in {"ADD", "SUB"} or op.name in plan.islands:
            continue
        result, *operands = (g.name for v in (*op.outputs, *op.inputs) if (g := plan.group(v)))
        for name in operands:
            if name != result and {name, result} <= found.keys() and (width := _width(found[name])):
                factor = max(1.0, LEAST_OPERAND * _width(found[result]) / width)
                found[name] = (found[name][0] * factor, found[name][1] * factor)
    return found


def awakened(
    plan: Plan, params: Sequence[Any], found: Mapping[str, tuple[float, float]]
) -> dict[str, tuple[float, float]]:
    """The extremes, with those of a tensor that is zero because its weights are still zero (a residual branch whose
    last scale starts there, a bias times a gate). What is added to a sum gets the greatest magnitude of that sum,
    either way.
    """
    found, ops = dict(found), [op for op in plan.graph.ops if has_weights(op) and plan.group(op.outputs[0])]
    names = {op.name: plan.group_of[plan.graph.site_names[op.outputs[0]]] for op in ops}
    silent = [op for op in ops if names[op.name] in found and not _width(found[names[op.name]])]
    env = weight_values(plan.graph, params) if silent else {}
    for op in reversed(silent):
        sums = [r for r in plan.graph.consumers(op.outputs[0]) if r.kind in {"ADD", "SUB"}]
        group = plan.group(sums[0].outputs[0]) if sums else None
        if group is not None and group.name in found and not any(np.any(gathered(env[v])) for v in op.inputs[1:]):
            bound = max(map(abs, found[group.name]))
            found[names[op.name]] = (-bound, bound)
    return found


def _width(pair: tuple[float, float]) -> float:
    return max(pair[1], 0.0) - min(pair[0], 0.0)


def range_of(group: Group, low: float, high: float) -> dict[str, jax.Array]:
    """The range of a group that covers [low, high] (and zero). Raises CalibrationError when that has no width."""
    low, high = min(low, 0.0), max(high, 0.0)
    if group.scheme.symmetric:
        low, high = -max(-low, high), max(-low, high)
    if low == high:
        raise CalibrationError(
            f"{group.name} is zero in all of the calibration data: a range of no width. Is the layer dead, or the "
            "data all zeros? Calibrate on typical inputs, or remove the layer."
        )
    return RANGE_METHODS[group.scheme.ranges].init(jnp.float32(low), jnp.float32(high), group.grid)


def _weight_ranges(bound: Bound, captured: Captured, ranges: Ranges) -> Ranges:
    """Trained weight scales start where the calibration of weights puts them, max|w| / 127 by default."""
    plan, found = captured.plan, {}
    trained = {site: op for op in plan.graph.ops if (site := plan.weight_site(op)) is not None}
    env = weight_values(plan.graph, jax.tree.leaves(bound.params)) if trained else {}  # seconds where there are many
    for site, op in trained.items():
        found[site] = weight_range(gathered(env[op.inputs[1]]).astype(np.float32), plan.weights[op.name])
    return found


def weight_range(w: np.ndarray, scheme: Scheme) -> dict[str, jax.Array]:
    """The state of a weight's trained scale, from the weight, float32 [..., channels]."""
    return RANGE_METHODS[scheme.ranges].scaled(_calibrated_scale(w, scheme), scheme.grid)


def _calibrated_scale(w: np.ndarray, scheme: Scheme) -> jax.Array:
    """The scale of each channel of the last axis, as the weight's calibration finds it; (channels,)."""
    rows = w if scheme.axis is not None else w.reshape(-1, 1)
    bound = np.broadcast_to(WEIGHT_METHODS[scheme.calibration](rows, scheme.qmax), w.shape[-1:])
    return floored(bound_scale(jnp.asarray(bound, jnp.float32), scheme.qmax), None, jnp.float32(1.0))
