"""One operator as a shape rule sees it. A rule raises `Misfit` for what no kernel can compute."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

import numpy as np

from jaxq.export.program import Operator, Tensor

Shape = tuple[int, ...]
LARGEST_OPTION = 1 << 15  # of a window, a stride, a dilation: no kernel is compiled for larger ones
INDICES = ("int8", "int16", "int32", "int64", "uint8", "uint16", "uint32")


class Misfit(Exception):
    """What does not fit, as the end of a sentence that begins with the operator: `has axis 5 of a tensor of rank 4`."""


def ensure(holds: bool, fact: str) -> None:
    """Raise Misfit with this fact unless the condition holds."""
    if not holds:
        raise Misfit(fact)


@dataclasses.dataclass(frozen=True)
class View:
    """An operator with the tensors of its subgraph."""

    op: Operator
    tensors: tuple[Tensor, ...]

    def has(self, position: int) -> bool:
        """Whether the input at a position is there."""
        return position < len(self.op.inputs) and self.op.inputs[position] >= 0

    def input(self, position: int = 0) -> Tensor:
        """The tensor read at a position. Raises Misfit where there is none."""
        ensure(self.has(position), f"has no input {position}")
        return self.tensors[self.op.inputs[position]]

    def output(self, position: int = 0) -> Tensor:
        """The tensor written at a position."""
        ensure(position < len(self.op.outputs), f"has no output {position}")
        return self.tensors[self.op.outputs[position]]

    def shape(self, position: int = 0, *ranks: int) -> Shape:
        """The shape of an input, of one of these ranks where any are given."""
        found = self.input(position).shape
        ensure(not ranks or len(found) in ranks, f"reads shape {found} as input {position}, of rank {_either(ranks)}")
        return found

    def number(self, name: str, default: int) -> int:
        """An option that is an integer."""
        value = self.op.options.get(name)
        value = default if value is None else value
        ensure(isinstance(value, int), f"has {name} {value!r}, which is no integer")
        return int(value) if isinstance(value, int) else default

    def positive(self, name: str, default: int) -> int:
        """An option that is a size: 1 to `LARGEST_OPTION`."""
        value = self.number(name, default)
        ensure(1 <= value <= LARGEST_OPTION, f"has {name} {value}; it takes 1 to {LARGEST_OPTION:,}")
        return value

    def constant(self, position: int, rank: int = 1) -> list[int] | None:
        """The integers of an input of at most this rank, None where they are computed at run time."""
        tensor = self.input(position)
        ensure(len(tensor.shape) <= rank, f"reads shape {tensor.shape} as input {position}, of rank {rank}")
        ensure(tensor.dtype in INDICES, f"reads {tensor.dtype} as input {position}, where integers belong")
        return None if tensor.data is None else [int(n) for n in np.asarray(tensor.data).reshape(-1)]

    def axis(self, value: int, rank: int) -> int:
        """An axis as a number from 0 on."""
        ensure(-rank <= value < rank, f"has axis {value} of a tensor of rank {rank}")
        return value % rank


Rule = Callable[[View], Sequence[Shape] | None]  # the shapes of the outputs; None where they are known at run time


def broadcast(*shapes: Shape) -> Shape:
    """The common shape, as numpy's. Raises Misfit where there is none."""
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    for sizes in zip(*padded, strict=True):
        ensure(len({n for n in sizes if n != 1}) <= 1, f"broadcasts shapes {' and '.join(map(str, shapes))}")
    return tuple(next((n for n in sizes if n != 1), 1) for sizes in zip(*padded, strict=True))


def size(shape: Shape) -> int:
    """The number of elements."""
    return math.prod(shape)


def _either(ranks: Sequence[int]) -> str:
    return " or ".join(map(str, ranks))
