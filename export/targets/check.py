"""Whether a target takes a program: the status of every operator, what that means for its work, and what to change."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxq.export.program import Operator, Program
from jaxq.export.targets.device import VENDOR, Device, Limit
from jaxq.export.targets.edgetpu import SECOND_SUBGRAPH
from jaxq.export.targets.macs import macs
from jaxq.export.targets.memory import Memory, memory

# The operators that compilers put in place of what they took: the compiler, and how its targets' names begin.
COMPILED: Mapping[str, tuple[str, str]] = {
    "CUSTOM:edgetpu-custom-op": ("the Edge TPU compiler", "edgetpu"),
    "CUSTOM:ethos-u": ("Vela", "ethos-u"),
}
_BEFORE = Limit(
    "a file that no compiler has been through",
    lambda program, op: None,
    VENDOR,
    "google-coral/edgetpu; Arm, ethos-u-vela",
    fix="Check the file that went into the compiler.",
)


@dataclasses.dataclass(frozen=True)
class Placement:
    """Where one operator goes.

    `status`: the target's word. `reason`: the fact behind it, "" where it is mapped. `limit`: the limit that is broken;
    None where the kind is not listed, or where another operator is the reason. `after`: the unmapped operator that this
    one depends on, where that is why. `macs`: its multiplications.
    """

    index: int
    kind: str
    output: str
    mapped: bool
    status: str
    reason: str
    macs: int
    limit: Limit | None = None
    after: int | None = None


@dataclasses.dataclass(frozen=True)
class Gain:
    """What becomes mapped if one operator alone is changed so that the target takes it: operators, and MACs."""

    index: int
    operators: int
    macs: int


@dataclasses.dataclass(frozen=True)
class Report:
    """The answer for one program on one target. `gains`: the greatest first."""

    device: Device
    placements: tuple[Placement, ...]
    gains: tuple[Gain, ...]
    memory: Memory

    @property
    def ok(self) -> bool:
        """Whether the target runs every operator: all are mapped, or it runs the rest as well."""
        return all(p.mapped or (self.device.runs_rest and runs_on_cpu(p.kind)) for p in self.placements)

    @property
    def macs(self) -> int:
        """Of all operators."""
        return sum(p.macs for p in self.placements)

    @property
    def mapped_macs(self) -> int:
        """Of those that are mapped."""
        return sum(p.macs for p in self.placements if p.mapped)

    @property
    def mapped(self) -> int:
        """How many operators are."""
        return sum(p.mapped for p in self.placements)


def check(program: Program, device: Device) -> Report:
    """Where every operator of the program goes. Raises nothing for a program that was read."""
    own = [_own(program, device, i, op) for i, op in enumerate(program.operators)]
    placements = _spread(program, device, own)
    gains = [_gain(program, device, own, placements, p) for p in own if not p.mapped]
    ranked = sorted((g for g in gains if g.operators), key=lambda g: (-g.macs, -g.operators, g.index))
    return Report(device, tuple(placements), tuple(ranked), memory(program))


def runs_on_cpu(kind: str) -> bool:
    """Whether LiteRT has a kernel of its own: for all operators but custom ones, which come with their own runtime."""
    return not kind.startswith("CUSTOM")


def _own(program: Program, device: Device, index: int, op: Operator) -> Placement:
    """The placement by the operator itself, whatever comes before it."""
    output = program.tensors[op.outputs[0]].name if op.outputs and op.outputs[0] >= 0 else ""
    work = macs(program, op)
    limits = device.operators.get(op.kind)
    if op.kind in COMPILED:
        compiler, families = COMPILED[op.kind]
        reason, mapped = f"the file is already compiled by {compiler}", device.name.startswith(families)
        status = device.mapped if mapped else device.unlisted
        return Placement(index, op.kind, output, mapped, status, reason, work, None if mapped else _BEFORE)
    if limits is None:
        return Placement(index, op.kind, output, False, device.unlisted, f"{op.kind} is not in its table", work)
    for limit in (*device.everywhere, *limits):
        fact = limit.check(program, op)
        if fact is not None:
            status = limit.status or device.limited
            return Placement(index, op.kind, output, False, status, f"{fact}; it takes {limit.law}", work, limit)
    return Placement(index, op.kind, output, True, device.mapped, "", work)


def _spread(program: Program, device: Device, own: list[Placement]) -> list[Placement]:
    """The placements after the rule of one subgraph: what depends on an unmapped operator is not mapped either."""
    if not device.one_subgraph:
        return own
    spoiled: dict[int, int] = {}  # tensor -> the unmapped operator that it depends on
    placements = []
    for placement, op in zip(own, program.operators, strict=True):
        cause = next((spoiled[i] for i in op.inputs if i in spoiled), None)
        if placement.mapped and cause is not None:
            kind = own[cause].kind
            reason = f"it depends on operator {cause} ({kind}), which is not mapped"
            placement = dataclasses.replace(placement, mapped=False, status=SECOND_SUBGRAPH, reason=reason, after=cause)
        if not placement.mapped and not _at_start(program, device, op):
            first = cause if cause is not None else placement.index
            spoiled |= dict.fromkeys(op.outputs, first)
        placements.append(placement)
    return placements


def _at_start(program: Program, device: Device, op: Operator) -> bool:
    """Whether it converts an input of the program, which the compiler leaves to the CPU without more ado."""
    return op.kind in device.at_ends and all(i in program.inputs for i in op.inputs)


def _gain(program: Program, device: Device, own: list[Placement], now: list[Placement], fixed: Placement) -> Gain:
    """What is mapped more if that operator were."""
    if not device.one_subgraph:
        return Gain(fixed.index, 1, fixed.macs)
    better = [dataclasses.replace(p, mapped=True) if p.index == fixed.index else p for p in own]
    then = _spread(program, device, better)
    won = [b for a, b in zip(now, then, strict=True) if b.mapped and not a.mapped]
    return Gain(fixed.index, len(won), sum(p.macs for p in won))
