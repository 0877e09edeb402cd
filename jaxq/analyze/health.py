"""The health of ranges while a model trains: what they clip, and which channels have died."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.analyze.diff import refuse_floats
from jaxq.display.text import aligned
from jaxq.errors import InputError
from jaxq.frontends.batches import chunks
from jaxq.frontends.captured import Captured
from jaxq.frontends.ranges import check_ranges
from jaxq.numerics.rounding import carrier_bounds, true_divide
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.findings import Finding
from jaxq.quantization import bind, reference_leaves
from jaxq.simulate.forward import simulate
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.reals import reals


@dataclasses.dataclass(frozen=True)
class SiteHealth:
    """One integer tensor.

    Attributes:
      site: its name.
      elements: how many numbers were seen.
      clipped: the share of them that lies more than half a step outside the range, in the float reading.
      dead: how many of its channels (the last axis) are zero for every example in the training forward.
      channels: how many there are in the output of an op with weights; 0 elsewhere, where nothing is counted.
    """

    site: str
    elements: int
    clipped: float
    dead: int
    channels: int


@dataclasses.dataclass(frozen=True)
class Health:
    """What ranges clip and which channels are dead; prints as a table.

    Attributes:
      examples: how many examples were seen.
      sites: a `SiteHealth` of every integer tensor, in the order of computation.
      findings: what the ranges of the last calibration cannot hold.
    """

    examples: int
    sites: tuple[SiteHealth, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def clipped(self) -> float:
        """The share of all numbers of all tensors that is clipped."""
        return sum(s.clipped * s.elements for s in self.sites) / sum(s.elements for s in self.sites)

    @property
    def dead(self) -> int:
        """How many channels are dead, over all ops with weights."""
        return sum(s.dead for s in self.sites)

    @property
    def channels(self) -> int:
        """How many channels ops with weights have."""
        return sum(s.channels for s in self.sites)

    @property
    def worst(self) -> SiteHealth:
        """The tensor that clips the greatest share."""
        return max(self.sites, key=lambda s: s.clipped)

    def __str__(self) -> str:
        """A table, and the sum over all tensors."""
        rows = [(s.site, f"{100 * s.clipped:.3f} %", _dead(s)) for s in self.sites]
        end = f"{100 * self.clipped:.3f} % clipped, {self.dead} of {self.channels} channels dead"
        table = aligned(("tensor", ">clipped", ">dead channels"), rows)
        return "\n".join([table, f"{end}; {self.examples} examples", *(f"{f}. {f.remedy}" for f in self.findings)])


def health(target: Any, batches: Any, *state: Any, reference: Any = None) -> Health:
    """Say of every integer tensor what share its range clips and how many channels are dead.

    Args:
      target: what `jaxq.quantize` gave, calibrated.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the parameters of the float reading, by default those at hand; see `jaxq.analyze.diff`.

    It costs a float and an integer forward, compiled once for each size of a batch.

    Returns:
      Health: for each tensor its clipped share and its dead channels. It prints as a table.

    Raises:
      InputError: empty data, NaN, or a recipe of floats.
      RangeError: a model without ranges.

    Example:
      >>> found = jaxq.analyze.health(qmodel, images)
      >>> found.examples, found.channels
      (8, 3)
    """
    bound, examples = bind(target, *state), 0
    refuse_floats(bound)
    sums: dict[str, tuple[Any, ...]] = {}
    order: list[str] = []
    ranges, floats = {n: dict(r) for n, r in bound.ranges.items()}, reference_leaves(target, bound, reference)
    for arrays in chunks(bound, batches, "look at"):
        args, kwargs = bound.core.with_arrays(arrays)
        captured = bound.captured(*args, **kwargs)
        check_ranges(captured.plan, bound.ranges, bound.core.plans)
        found = _compiled(captured)(jax.tree.leaves(bound.params), ranges, list(arrays), floats)
        sums = {name: _merged(sums.get(name), now) for name, now in found.items()}
        examples += bound.core.examples(arrays)
        graph = captured.plan.graph
        order = [graph.site_names[v] for v in (*graph.inputs, *(v for op in graph.ops for v in op.outputs))]
    if not examples:
        raise InputError("There is no example to look at: the iterable is empty.")
    sites = tuple(_site(name, sums[name]) for name in order if name in sums)
    return Health(examples, sites, bound.core.findings)


@functools.lru_cache(maxsize=4)  # a training run asks again and again, of the same shapes
def _compiled(captured: Captured) -> Any:
    return jax.jit(functools.partial(_looked_at, captured))


def _looked_at(
    captured: Captured, params: Sequence[Any], ranges: Ranges, arrays: Sequence[Any], reference: Sequence[Any]
) -> dict[str, tuple[Any, ...]]:
    """By site: how many numbers there are and how many are clipped, and which channels are zero throughout."""
    plan, found = captured.plan, {}
    carried: dict[int, Carrier] = {}
    simulate(plan, params, ranges, arrays, carried.__setitem__)
    weighted = {v for op in plan.graph.ops if op.name in plan.weights for v in op.outputs}
    for value, real in reals(plan, reference, arrays).items():
        if (group := plan.group(value)) is None:
            continue
        q, outside = carried[value].q, _outside(real, carried[value], group.scheme.bits)
        zero = jnp.all(q == 0, tuple(range(q.ndim - 1))) if value in weighted else jnp.zeros(0, bool)
        found[plan.graph.site_names[value]] = (jnp.int32(real.size), jnp.sum(outside), zero)
    return found


def _outside(real: jax.Array, carrier: Carrier, bits: int) -> jax.Array:
    """Whether each number lies more than half a step outside its tensor's range."""
    low, high = carrier_bounds(carrier.zero_point, bits)
    steps = true_divide(real.astype(jnp.float32), carrier.scale)
    return (steps < low - 0.5) | (steps > high + 0.5)


def _merged(before: tuple[Any, ...] | None, now: tuple[Any, ...]) -> tuple[Any, ...]:
    elements, clipped, zero = (np.asarray(a) for a in now)
    if before is None:
        return int(elements), int(clipped), zero
    return before[0] + int(elements), before[1] + int(clipped), before[2] & zero


def _site(name: str, found: tuple[Any, ...]) -> SiteHealth:
    elements, clipped, zero = found
    return SiteHealth(name, elements, clipped / elements, int(np.sum(zero)), len(zero))


def _dead(site: SiteHealth) -> str:
    return f"{site.dead} of {site.channels}" if site.channels else ""
