"""The ranges of a plan from those of another plan of the same model, without data.

Names of sites are stable under rules of a recipe: what a rule leaves alone keeps its range. A tensor of another width
or range method gets the range that covers the same real numbers; a weight's trained scale is calibrated anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.calibration import range_of, weight_range
from jaxq.errors import RangeError
from jaxq.plan.plan import Group, Plan
from jaxq.plan.precision import is_copy
from jaxq.range_methods import METHODS
from jaxq.simulate.norm_statistics import states_of
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.weights import weight_values


def transferred(old: Plan, ranges: Ranges, new: Plan, params: Sequence[Any]) -> dict[str, dict[str, jax.Array]]:
    """Ranges for every site of `new`.

    Args:
      old: a plan of the model, whose ranges `ranges` are.
      new: another plan of the same model.
      params: the leaves of its parameters, for the scales of weights.

    Raises: RangeError for a tensor that has no range in `old`: the recipe writes it as other ops do.
    """
    copies = {op.name: new.graph.site_names[op.inputs[0]] for op in new.graph.ops if is_copy(op)}
    found = {g.name: _of_group(old, ranges, g, copies) for g in new.groups.values() if g.has_range}
    norms = {**states_of(new.norms, params), **{site: dict(ranges[site]) for site in new.norms if site in ranges}}
    gradients = {site: dict(ranges.get(site, kept.new_state())) for site, kept in new.gradients.items()}
    return {**found, **norms, **gradients, **_of_weights(old, ranges, new, params)}


def _of_group(old: Plan, ranges: Ranges, group: Group, copies: Mapping[str, str]) -> dict[str, jax.Array]:
    """copies: of each tensor that is a float op's result in integers, that result's site."""
    names = [copies.get(member, member) for member in group.members]
    before = next((old.groups[old.group_of[name]] for name in names if name in old.group_of), None)
    if before is None or before.name not in ranges:
        raise RangeError(
            f"{group.name} has no range in the plan that was calibrated: the recipe writes its op as others. "
            "Quantize with that recipe and calibrate again."
        )
    state = ranges[before.name]
    if (before.scheme.ranges, before.grid) == (group.scheme.ranges, group.grid):
        return dict(state)
    return range_of(group, *covered(before, state))


def covered(group: Group, state: Mapping[str, jax.Array]) -> tuple[float, float]:
    """The real numbers (low, high) that a range covers: those that calibration saw, unless it was trained since."""
    method = METHODS[group.scheme.ranges]
    used = method.forward(state, group.grid)
    low, high = (float(x) for x in np.asarray(state["observed"]))
    if low < high:
        fresh = method.forward(range_of(group, low, high), group.grid)
        if all(np.array_equal(a, b) for a, b in zip(used, fresh, strict=True)):
            return low, high
    scale, zero = float(used.scale), float(used.zero_point)
    return scale * (group.grid.qmin - zero), scale * (group.grid.qmax - zero)


def _of_weights(old: Plan, ranges: Ranges, new: Plan, params: Sequence[Any]) -> dict[str, dict[str, jax.Array]]:
    found: dict[str, dict[str, jax.Array]] = {}
    sites = {site: op for op in new.graph.ops if (site := new.weight_site(op)) is not None}
    kept = {n for n, op in sites.items() if n in ranges and old.weights.get(op.name) == new.weights[op.name]}
    env = weight_values(new.graph, params) if sites.keys() - kept else {}
    for name, op in sites.items():
        w = None if name in kept else np.asarray(env[op.inputs[1]], np.float32)
        found[name] = dict(ranges[name]) if w is None else weight_range(w, new.weights[op.name])
    return found
