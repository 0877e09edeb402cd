"""Where the numbers of a training go: a file, TensorBoard, or anything with one method."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Writer(Protocol):
    """Where numbers go: anything with this method. TensorBoard's is `TensorBoard(SummaryWriter(folder))`."""

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one number of one step."""
        ...


@dataclasses.dataclass(frozen=True)
class TensorBoard:
    """A Writer over a SummaryWriter: tensorboardX's, torch's, or any with `add_scalar(name, value, step)`."""

    summary: Any

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one number of one step."""
        self.summary.add_scalar(name, value, step)


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A Writer to a file of one JSON object a line; after a resumed run the later line of a step counts."""

    path: pathlib.Path

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one number of one step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "name": name, "value": value}) + "\n")
