"""What the integers of a range cannot hold: members and channels that keep too few of its steps.

A range is divided into 255 steps of 8 bits, whatever its members and channels hold. A tensor of pixels beside
probabilities leaves the probabilities a single step: every integer of the file may be proven and its results still be
worthless. Here the extent of every member and channel, as seen in calibration, is set against the step.

* Members: tensors that share a range (or are requantized to it, as the operands of a concatenation), with fewer than
  `LEAST` steps between their least and greatest number, zero included.
* Channels of an input or an output of the model (the last axis), with fewer than `LEAST` steps between their least and
  greatest number, zero included; or with fewer than `FAR` without it, where at least `ENOUGH` numbers were seen.
* Channels of any other tensor where at least half of them have fewer than `LEAST` steps, zero included: a few
  channels much greater than the rest, as in the residual stream of transformers (Bondarenko et al. 2021, "Understanding
  and Overcoming the Challenges of Efficient Transformer Quantization", section 3). A few weak channels are usual.

* Summands: an operand of a sum that a SOFTMAX reads, with fewer than `LEAST` steps of the sum's, where a step is more
  than `COARSE`: scores beside an additive mask of -1e4, or beside a large position bias. A step of d in its input
  changes a ratio of a SOFTMAX's results by exp(d), and rounding by up to exp(d / 2): 28 per cent for 0.5.

16 steps are 4 bits, a rounding error of 2 per cent of the extent (1 / (16 sqrt 12)); 8 steps 4 per cent. What does not
vary at all loses nothing and is left out. Tensors whose scale TFLite prescribes (SOFTMAX) are left out too.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from jaxq.graph.builder import MOVES
from jaxq.plan.target import target_named

if TYPE_CHECKING:
    from jaxq.graph import Graph, Op
    from jaxq.plan.plan import Plan

SUMS = frozenset({"ADD", "AFFINE", "SUB"})
LEAST = 16.0  # steps of the range
FAR = 8.0  # steps, of numbers that lie far from zero
ENOUGH = 16  # numbers of a channel, from which on its extent is measured without zero too
COARSE = 0.5  # step of the input of a SOFTMAX
SHARE = 0.5  # of an inner tensor's channels
FEWEST = 4  # channels of an inner tensor
SHOWN = 6  # members or channels in a message


class Extent(NamedTuple):
    """The least and greatest number of each channel of one tensor, float32 (channels,), and how many of each were
    seen.
    """

    low: np.ndarray
    high: np.ndarray
    seen: int

    def merged(self, other: Extent) -> Extent:
        """The extent of what both have seen."""
        return Extent(np.minimum(self.low, other.low), np.maximum(self.high, other.high), self.seen + other.seen)

    def widths(self, with_zero: bool) -> np.ndarray:
        """From least to greatest of each channel; 0 where it does not vary."""
        low, high = (np.minimum(self.low, 0), np.maximum(self.high, 0)) if with_zero else (self.low, self.high)
        return np.where((self.low == self.high) & (self.seen > 1), 0.0, np.asarray(high - low, np.float64))


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something that a range is too coarse for.

    kind: "members", "channels" or "summands". site: the tensor. range: the range's name. step: its scale, in real
    units. bits: of its integers. kept: the members, channels or summands that keep too few steps, by name or number,
    with the steps of each. of: how many there are that vary. place: "input", "output" or "inner". wide: whether 16 bits
    are enough and the target has them. offset: whether the numbers are large but vary little, far from zero.
    """

    kind: str
    site: str
    range: str
    step: float
    bits: int
    kept: tuple[tuple[str, float], ...]
    of: int
    place: str
    wide: bool
    offset: bool = False

    @property
    def remedy(self) -> str:
        """What to do."""
        wide = f' Or give it 16 bits: Rule("{self.site}", activation_bits=16).' if self.wide else ""
        if self.kind == "members":
            text = "Scale them alike inside the model and undo it on the host, or return them as separate outputs."
        elif self.kind == "summands":
            text = (
                "Select where a mask says so, jnp.where(mask, scores, -1e9), with a boolean mask or one of zeros and "
            )
            text += "ones; bound any other summand, jnp.maximum(bias, -30): exp(-30) is nothing beside 8 bits."
        elif self.offset:
            text = "They lie far from zero and vary little: subtract their mean (in an input on the host, before the "
            text += "model; from an output inside the model, and add it on the host)."
        elif self.place == "input":
            text = "Normalise the channels on the host, before the model, or give these an input of their own."
        elif self.place == "output":
            text = (
                "Scale the channels alike inside the model and undo it on the host, or return these as another output."
            )
        else:
            text = (
                "A few large channels take the steps of the rest. A plain BERT lost 13.6 points of accuracy, with 16 "
            )
            text += "bits 0.5: bound them and train (jaxq.recipes.bert.bounded), or use the recipe int16x8."
        return text + wide

    def as_dict(self) -> dict[str, Any]:
        """The finding as JSON values."""
        return {**dataclasses.asdict(self), "kept": [list(pair) for pair in self.kept], "remedy": self.remedy}

    def __str__(self) -> str:
        """The fact with its numbers."""
        shared = " that share its range" if self.kind == "members" else ""
        what = f"{len(self.kept)} of {self.of} {self.kind}{shared}"
        shown = ", ".join(f"{name} ({steps:.3g})" for name, steps in self.kept[:SHOWN])
        more = ", ..." if len(self.kept) > SHOWN else ""
        return (
            f"{self.site}: {what} keep fewer than {LEAST:g} of its {2**self.bits - 1:,} steps of {self.step:.4g}: "
            f"{shown}{more}"
        )


def find(plan: Plan, steps: Mapping[str, float], extents: Mapping[str, Extent]) -> tuple[Finding, ...]:
    """What the ranges of a plan cannot hold.

    Args:
      plan: of the model.
      steps: the scale of each range, by its name, in real units.
      extents: of each tensor, by its site's name, as seen in calibration.

    Returns: findings, members before summands before channels, each in the order of computation.
    """
    return (*_members(plan, steps, extents), *_summands(plan, steps, extents), *_channels(plan, steps, extents))


def _members(plan: Plan, steps: Mapping[str, float], extents: Mapping[str, Extent]) -> Iterator[Finding]:
    for name, group in plan.groups.items():
        shared = [m for m in dict.fromkeys([*group.members, *_requantized(plan, name)]) if m in extents]
        if name not in steps or len(shared) < 2:
            continue
        widths = {m: float(np.max(extents[m].widths(True), initial=0.0)) for m in shared}
        kept = tuple((m, w / steps[name]) for m, w in widths.items() if 0 < w < LEAST * steps[name])
        if kept:
            varying = sum(w > 0 for w in widths.values())
            yield _finding(plan, "members", name, steps[name], kept, varying, _place(plan, group.members))


def _requantized(plan: Plan, group: str) -> list[str]:
    """The operands with a scale of their own that are brought to a range's."""
    names, by_name = plan.graph.site_names, {op.name: op for op in plan.graph.ops}
    found = [(by_name[op], operand) for op, operand in sorted(plan.requantized)]
    return [names[op.inputs[i]] for op, i in found if plan.group_of.get(names[op.outputs[0]]) == group]


def _summands(plan: Plan, steps: Mapping[str, float], extents: Mapping[str, Extent]) -> Iterator[Finding]:
    names = plan.graph.site_names
    for op in plan.graph.ops:
        name = plan.group_of.get(names[op.outputs[0]])
        if op.kind not in SUMS or name is None or steps.get(name, 0.0) <= COARSE:
            continue
        kept = tuple((s, w / steps[name]) for s, w in _operands(op, names, extents) if 0 < w < LEAST * steps[name])
        if kept and _enters_softmax(plan.graph, op.outputs[0]):
            yield _finding(plan, "summands", names[op.outputs[0]], steps[name], kept, 2, "inner")


def _operands(op: Op, names: Mapping[int, str], extents: Mapping[str, Extent]) -> list[tuple[str, float]]:
    """The operands of a sum that are not constants, with their extents; beside constants, what it varies by."""
    if op.kind == "AFFINE":
        found = extents.get(names[op.outputs[0]])
        return [] if found is None else [(names[op.inputs[0]], float(np.max(found.widths(False), initial=0.0)))]
    sites = [names[v] for v in op.inputs if names.get(v) in extents]
    return [(site, float(np.max(extents[site].widths(True), initial=0.0))) for site in sites]


def _enters_softmax(graph: Graph, value: int) -> bool:
    """Whether a SOFTMAX reads a value, moved or after further sums."""
    readers = graph.consumers(value)
    between = [op for op in readers if op.kind in MOVES or op.kind in SUMS]
    return any(op.kind == "SOFTMAX" for op in readers) or any(_enters_softmax(graph, op.outputs[0]) for op in between)


def _channels(plan: Plan, steps: Mapping[str, float], extents: Mapping[str, Extent]) -> Iterator[Finding]:
    for site, extent in extents.items():
        name = plan.group_of.get(site)
        if name is None or name not in steps:
            continue
        place = _place(plan, [site])
        kept, offset = _kept(extent, steps[name], place)
        varying = int(np.count_nonzero(kept))
        few = np.flatnonzero((kept > 0) & (kept < LEAST))
        enough = len(few) >= max(SHARE * varying, 1) and varying >= FEWEST if place == "inner" else len(few) > 0
        if enough:
            named = tuple((str(c), float(kept[c])) for c in few)
            yield _finding(plan, "channels", site, steps[name], named, varying, place, bool(np.all(offset[few])))


def _kept(extent: Extent, step: float, place: str) -> tuple[np.ndarray, np.ndarray]:
    """How many steps each channel keeps, and whether that is because it lies far from zero."""
    widest, own = extent.widths(True) / step, extent.widths(False) / step
    offset = (widest >= LEAST) & (own > 0) & (own < FAR) & (place != "inner") & (extent.seen >= ENOUGH)
    return np.where(offset, own, widest), offset


def _finding(
    plan: Plan,
    kind: str,
    site: str,
    step: float,
    kept: tuple[tuple[str, float], ...],
    of: int,
    place: str,
    offset: bool = False,
) -> Finding:
    name = plan.group_of[site]
    bits = plan.groups[name].scheme.bits
    wide = bits == 8 and target_named(plan.recipe.target).int16 and 256 * min(s for _, s in kept) >= LEAST
    return Finding(kind, site, name, step, bits, kept, of, place, wide, offset)


def _place(plan: Plan, sites: Sequence[str]) -> str:
    names = plan.graph.site_names
    if not {names[v] for v in plan.graph.inputs}.isdisjoint(sites):
        return "input"
    return "inner" if {names.get(v) for v in plan.graph.outputs}.isdisjoint(sites) else "output"


def said(findings: Sequence[Finding]) -> list[str]:
    """One message for each kind of finding."""
    kinds = dict.fromkeys(f.kind for f in findings)
    return [_message([f for f in findings if f.kind == kind]) for kind in kinds]


def _message(alike: Sequence[Finding]) -> str:
    worst = sorted(alike, key=lambda f: (f.place == "inner", min(steps for _, steps in f.kept)))[:3]
    tensors = "1 tensor has" if len(alike) == 1 else f"{len(alike)} tensors have"
    head = f"precision: {tensors} {alike[0].kind} that {worst[0].bits} bits cannot hold"
    more = [f"  ... and {len(alike) - len(worst)} more: see the plan"] if len(alike) > len(worst) else []
    return "\n".join([head, *(f"  {f}\n    {f.remedy}" for f in worst), *more])
