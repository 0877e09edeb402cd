"""The ranges that a plan reads: new ones, and the refusal of another plan's or of numbers that are not finite."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.core
import numpy as np

from jaxq.errors import RangeError
from jaxq.frontends.gathered import gathered
from jaxq.plan.plan import Plan
from jaxq.plan.scheme import Grid
from jaxq.range_methods import METHODS, RangeMethod, new_state
from jaxq.simulate.qparams import Ranges


def initial_ranges(plan: Plan) -> dict[str, dict[str, jax.Array]]:
    """A range for each group that has one, not yet calibrated (NaN), and for each weight with a trained scale; the
    statistics of BatchNorms that follow and of quantized gradients.
    """
    ranges = {g.name: new_state(METHODS[g.scheme.ranges], g.grid) for g in plan.groups.values() if g.has_range}
    for op in plan.graph.ops:
        if (site := plan.weight_site(op)) is not None:
            scheme, channels = plan.weights[op.name], plan.graph.avals[op.inputs[1]].shape[-1]
            ranges[site] = new_state(METHODS[scheme.ranges], scheme.grid, (channels,))
    return ranges | {site: found.new_state() for site, found in plan.statistics.items()}


def check_ranges(plan: Plan, ranges: Ranges, plans: Iterable[Plan] = ()) -> None:
    """Raise RangeError for ranges of another plan, and for one that, where its value is known, is not finite.

    plans: those of the same quantized model, as in `check_range_names`.
    """
    check_range_names(plan, ranges, plans)
    for name, group in plan.groups.items():
        if group.has_range:
            _check_finite(name, ranges[name], METHODS[group.scheme.ranges].needs)
    for site in plan.norms:
        for key in ranges[site]:
            _check_finite(site, ranges[site], key)


def check_range_names(plan: Plan, ranges: Ranges, plans: Iterable[Plan] = ()) -> None:
    """Raise RangeError for ranges of another plan: other sites, states of other methods, other numbers of channels.

    plans: those of the same quantized model, called with other flags; ranges of their sites are not of another model.
    """
    wanted = range_states(plan)
    if wanted and not ranges:
        raise RangeError(
            f"There are no ranges here, and the model has {len(wanted)}. They come from `init` of what jaxq.quantize "
            'gave and from jaxq.calibrate; in Linen they are the collection "ranges", which a float model\'s variables '
            'lack: {**variables, "ranges": qmodule.init(key, x)["ranges"]}.'
        )
    names = (*wanted, *plan.statistics)
    missing, extra = ([n for n in a if n not in b] for a, b in ((names, ranges), (ranges, names)))
    if extra:
        own = {name for other in plans for name in (*range_states(other), *other.statistics)}
        extra = [name for name in extra if name not in own]
    other = [n for n, (method, shape) in wanted.items() if n in ranges and not _is_state(ranges[n], method, shape)]
    other += [n for n, found in plan.statistics.items() if n in ranges and not found.holds(ranges[n])]
    if missing or extra or other:
        raise RangeError(
            "The ranges are of another plan (another model or recipe, or a model whose graph depends on the batch "
            f"size): {_listed(missing)} have no range here, {_listed(extra)} are no sites of this plan, and "
            f"{_listed(other)} have a range of another kind or shape. Take the ranges from this quantized model "
            f"({len(names)} of them), or calibrate again."
        )


def range_states(plan: Plan) -> dict[str, tuple[RangeMethod, tuple[int, ...]]]:
    """The sites whose ranges a plan reads: the method of each and the shape of its scale."""
    wanted: dict[str, tuple[RangeMethod, tuple[int, ...]]] = {
        name: (METHODS[g.scheme.ranges], ()) for name, g in plan.groups.items() if g.has_range
    }
    for op in plan.graph.ops:
        if (site := plan.weight_site(op)) is not None:
            channels = plan.graph.avals[op.inputs[1]].shape[-1:]
            wanted[site] = (METHODS[plan.weights[op.name].ranges], channels)
    return wanted


def _is_state(state: Any, method: RangeMethod, shape: tuple[int, ...]) -> bool:
    """Whether a range is of this method, with arrays of this shape beside the [min, max] that it observes."""
    if not method.holds(state):
        return False
    scale = method.forward(state, Grid(-127, 127, symmetric=True)).scale  # a weight's zero point is one number
    return np.shape(scale) == shape


def _listed(names: Sequence[str], shown: int = 4) -> str:
    more = f" and {len(names) - shown} more" if len(names) > shown else ""
    return f"{len(names)} ({', '.join(names[:shown])}{more})" if names else "0"


def _check_finite(name: str, held: Mapping[str, Any], key: str) -> None:
    if any(isinstance(leaf, jax.core.Tracer) for leaf in held.values()) or np.all(np.isfinite(gathered(held[key]))):
        return
    if not np.all(np.isfinite(gathered(held.get("observed", held[key])))):
        raise RangeError(f"{name} has no range yet ({key} {gathered(held[key])}). Call jaxq.calibrate first.")
    raise RangeError(
        f"{name} has {key} {gathered(held[key])}: not finite. Did training diverge? Restore the last good "
        "checkpoint, or lower the ranges' rate."
    )
