"""Two files of one float model on the same data, as a table: bytes, latency, accuracy, agreement."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from jaxq.analyze.difference import sqnr_text
from jaxq.display.text import aligned


@dataclasses.dataclass(frozen=True)
class Output:
    """One output of both files, on all examples.

    Attributes:
      name: as in the manifest.
      sqnr: of each file against the float model in real numbers, dB; infinite where nothing differs, None of integers.
      between: of the other file against jaxq's.
      agree: of each file, the share of examples that agree with the float model: in the place of the largest number
        where the output is [examples, classes], in every number where it holds integers; else None.
      agree_between: the same of the two files.
    """

    name: str
    sqnr: tuple[float, float] | None
    between: float | None
    agree: tuple[float, float] | None
    agree_between: float | None


@dataclasses.dataclass(frozen=True)
class SideBySide:
    """jaxq's file and another of the same float model; prints as a table.

    Attributes:
      names: of the two that made the files.
      examples: how many examples were compared.
      runtime: the name and version of the runtime that ran both.
      bytes: of the files.
      seconds: the median latency of an invocation, on one thread.
      ratio: of the latencies, first to second: the median over rounds of the ratio of their turns.
      accuracy: the share of right classes of the float model and of both files; None without labels.
      outputs: an `Output` each.
    """

    names: tuple[str, str]
    examples: int
    runtime: str
    bytes: tuple[int, int]
    seconds: tuple[float, float]
    ratio: float
    accuracy: tuple[float, float, float] | None
    outputs: tuple[Output, ...]

    @property
    def title(self) -> str:
        """What the table holds."""
        return f"{self.names[0]} beside {self.names[1]}, {self.examples} examples, {self.runtime}"

    @property
    def columns(self) -> tuple[str, ...]:
        """The heads of the table; those of numbers begin with ">"."""
        return "", *(f">{name}" for name in self.names), ">ratio"

    def rows(self) -> list[list[str]]:
        """The cells of the table, under `columns`."""
        found = [
            ["bytes", *(f"{size:,}" for size in self.bytes), f"{self.bytes[0] / self.bytes[1]:.3f}"],
            ["latency, 1 thread, ms", *(f"{1e3 * s:.3f}" for s in self.seconds), f"{self.ratio:.3f}"],
        ]
        if self.accuracy is not None:
            floats, *files = (f"{100 * share:.2f} %" for share in self.accuracy)
            found.append([f"accuracy (float: {floats})", *files, ""])
        for output in self.outputs:
            found += _output_rows(output)
        return found

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an infinite SQNR is null."""
        return _finite(dataclasses.asdict(self))

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.as_dict(), indent=2, allow_nan=False)

    def __str__(self) -> str:
        """The table under its title."""
        return f"{self.title}\n{aligned(self.columns, self.rows())}"


def _output_rows(output: Output) -> list[list[str]]:
    rows = []
    if output.sqnr is not None and output.between is not None:
        rows.append([f"{output.name}: SQNR against the float model, dB", *map(sqnr_text, output.sqnr), ""])
        rows.append([f"{output.name}: SQNR between the files, dB", sqnr_text(output.between), "", ""])
    if output.agree is not None and output.agree_between is not None:
        what = "class" if output.sqnr is not None else "result"
        rows.append([f"{output.name}: the float model's {what}", *map(_percent, output.agree), ""])
        rows.append([f"{output.name}: the same {what} in both files", _percent(output.agree_between), "", ""])
    return rows


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _finite(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(v) for v in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
