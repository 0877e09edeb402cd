"""Where the numbers of a training go: a file, `logging`, TensorBoard, Weights & Biases, or anything with one method."""

from __future__ import annotations

import dataclasses
import json
import logging
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
class WeightsAndBiases:
    """A Writer over a run of Weights & Biases: `WeightsAndBiases(wandb.init(project="..."))`."""

    run: Any

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one number of one step."""
        self.run.log({name: value}, step=step)


@dataclasses.dataclass(frozen=True)
class Logged:
    """A Writer to Python's logging, a line a number: `Logged(logging.getLogger("training"))`."""

    logger: logging.Logger
    level: int = logging.INFO

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one number of one step."""
        self.logger.log(self.level, "step %d: %s %.6g", step, name, value)


@dataclasses.dataclass(frozen=True)
class JsonLines:
    """A Writer to a file of one JSON object a line; after a resumed run the later line of a step counts."""

    path: pathlib.Path

    def scalar(self, name: str, value: float, step: int) -> None:
        """Record one number of one step."""
        with self.path.open("a") as file:
            file.write(json.dumps({"step": step, "name": name, "value": value}) + "\n")
