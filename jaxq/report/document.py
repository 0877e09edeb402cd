"""What a report says, as frozen values: nothing here knows HTML."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from jaxq.analyze.difference import Difference
from jaxq.export.lint import Finding as LintFinding
from jaxq.export.targets import Report as TargetReport


@dataclasses.dataclass(frozen=True)
class Histogram:
    """The numbers of one tensor on the examples, in real units.

    start: the left edge of the first bin. width: of a bin. counts: numbers in each. lowest, highest: the shares of all
    numbers that are the least and the greatest integer of the type; None of floats. seen: the least and the greatest
    number.
    """

    start: float
    width: float
    counts: tuple[int, ...]
    lowest: float | None
    highest: float | None
    seen: tuple[float, float]


@dataclasses.dataclass(frozen=True)
class Channels:
    """The weights of one operator by output channel, in real units.

    low, high: the least and greatest weight of each channel. limit: what 127 steps (of 8 bits) of the channel's scale
    are, the greatest magnitude that its integers can hold.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    limit: tuple[float, ...]


@dataclasses.dataclass(frozen=True)
class Node:
    """An operator of the file, or one of its inputs (kind INPUT).

    index: of the operator; inputs have none. name: its first output tensor. reads: the positions, in `Content.nodes`,
    of the nodes whose results it reads. tensor: dtype, shape and quantization of that output in words. range: the least
    and greatest number that the output's type can hold, None of floats. step: its scale. weight_bytes: constants that
    it is the first to read. macs: its multiplications. placed: by target, whether the target takes it and why not.
    difference: the error against the float model, where one was measured.
    """

    index: int | None
    kind: str
    name: str
    reads: tuple[int, ...]
    tensor: str
    step: float | None
    range: tuple[float, float] | None
    weight_bytes: int = 0
    macs: int = 0
    placed: Mapping[str, tuple[bool, str]] = dataclasses.field(default_factory=dict)
    difference: Difference | None = None
    histogram: Histogram | None = None
    channels: Channels | None = None


@dataclasses.dataclass(frozen=True)
class Accuracy:
    """One line of the ladder: what was measured, and the share of right answers (or another score) that it had."""

    stage: str
    value: float


@dataclasses.dataclass(frozen=True)
class Point:
    """One number of a training run: `curve` as "loss", `phase` as "float" or "int8 QAT"."""

    phase: str
    curve: str
    step: int
    value: float


@dataclasses.dataclass(frozen=True)
class Change:
    """What the loss of the whole model changes by when one op alone is quantized otherwise: `choice` as "w4"."""

    site: str
    choice: str
    change: float


@dataclasses.dataclass(frozen=True)
class Run:
    """What a run folder tells: the ladder, the curves, the sensitivity of each op, and the command that gave it.

    measure: what the loss of `changes` is, and on how many examples.
    """

    ladder: tuple[Accuracy, ...] = ()
    points: tuple[Point, ...] = ()
    changes: tuple[Change, ...] = ()
    measure: str = ""
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Content:
    """Everything that a report shows.

    manifest: the model.json beside the file, None where there is none. examples: how many examples the histograms and
    differences are of. lint: what is wrong in the file. targets: where its operators go, by target. recipe, plan: their
    texts, "" where the model is not known. commands: lines that repeat what is shown.
    """

    name: str
    size: int
    sha256: str
    nodes: tuple[Node, ...]
    manifest: Mapping[str, Any] | None
    examples: int
    lint: tuple[LintFinding, ...]
    targets: Mapping[str, TargetReport]
    bytes_by_kind: Mapping[str, int]
    run: Run = Run()
    recipe: str = ""
    plan: str = ""
    commands: tuple[str, ...] = ()
