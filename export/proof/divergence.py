"""Two readings of one program side by side: how many integers differ by tensor, and where they first do."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.proof.receptive_field import Block, read_block

Values = Mapping[int, Any]  # by tensor index: the values of a batch of examples


@dataclasses.dataclass(frozen=True, eq=False)
class Part:
    """A part of an operator's input. where: its slices in numpy's notation, in the file's shape."""

    tensor: str
    where: str
    values: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Divergence:
    """The first element of a tensor on which two readings differ, and what reproduces it.

    example: which of the examples given. index: of the element, in the file's own shape. left, right: the two values.
    operator: the line of the program that computes it. inputs: the parts of its inputs that the element is computed
    from, as the right-hand reading has them.
    """

    tensor: str
    example: int
    index: tuple[int, ...]
    left: int | float
    right: int | float
    operator: str
    inputs: tuple[Part, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON values; an input's part whole."""
        inputs = [{"tensor": p.tensor, "where": p.where, "values": p.values.tolist()} for p in self.inputs]
        return {**dataclasses.asdict(self), "index": list(self.index), "inputs": inputs}

    def __str__(self) -> str:
        """The element, the operator, and its input."""
        place = ",".join(map(str, self.index))
        lines = [f"{self.tensor}[{place}] of example {self.example}: {self.left} | {self.right}", self.operator]
        return "\n".join(lines + [_part_text(part) for part in self.inputs])


def _part_text(part: Part) -> str:
    text = np.array2string(part.values, max_line_width=100, threshold=256, separator=",")
    return f"{part.tensor}{part.where} =\n  {text.replace(chr(10), chr(10) + '  ')}"


@dataclasses.dataclass(frozen=True, eq=False)
class Count:
    """One tensor in two readings.

    largest: the greatest difference. allowed: the one that is none: 0, 1 for a table op's result in training, infinite
    for what depends on one. first: the first element that differs by more.
    """

    tensor: str
    compared: int
    differing: int
    largest: float
    allowed: float = 0.0
    first: Divergence | None = None

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        names = {"tensor": self.tensor, "differing": self.differing, "compared": self.compared}
        return names | {"largest_step": self.largest, "must_agree": self.must_agree, "diverges": self.diverges}

    @property
    def must_agree(self) -> bool:
        """Whether no difference at all is allowed."""
        return self.allowed == 0

    @property
    def diverges(self) -> bool:
        """Whether it differs where it must not."""
        return self.first is not None


@dataclasses.dataclass(frozen=True, eq=False)
class Link:
    """Two readings, `left | right`, of one kernel family, tensor by tensor in the order of the program."""

    left: str
    right: str
    family: str
    tensors: tuple[Count, ...]

    @property
    def name(self) -> str:
        """`training forward | model as read (xnnpack)`."""
        return f"{self.left} | {self.right} ({self.family})"

    @property
    def compared(self) -> int:
        """How many integers were compared."""
        return sum(count.compared for count in self.tensors)

    @property
    def diverging(self) -> tuple[Count, ...]:
        """The tensors that differ where they must not."""
        return tuple(count for count in self.tensors if count.diverges)

    @property
    def first(self) -> Divergence | None:
        """The first divergence in the order of the program."""
        return next((count.first for count in self.diverging), None)

    def __str__(self) -> str:
        """One line."""
        wrong = sum(count.differing for count in self.diverging)
        text = f"{self.name}: {wrong:,} of {self.compared:,} integers differ"
        if self.diverging:
            n = len(self.diverging)
            text += f", in {n} tensor{'s' if n > 1 else ''}, the first {self.diverging[0].tensor}"
        loose = [count for count in self.tensors if count.differing and not count.diverges]
        if loose:
            worst = max(count.largest for count in loose)
            text += f"; at and after table ops {sum(c.differing for c in loose):,}, by at most {worst:g}"
        return text

    def as_dict(self) -> dict[str, Any]:
        """JSON values; of tensors those that differ."""
        return {
            "left": self.left,
            "right": self.right,
            "family": self.family,
            "compared": self.compared,
            "differing": sum(count.differing for count in self.diverging),
            "tensors": [count.as_dict() for count in self.tensors if count.differing],
            "first_divergence": None if self.first is None else self.first.as_dict(),
        }


class Watch:
    """A link while batches go by. `program` is the one that the right-hand reading is of."""

    def __init__(
        self, left: str, right: str, family: str, program: Program, allowed: Mapping[str, float] | None = None
    ) -> None:
        self.left, self.right, self.family, self.program = left, right, family, program
        self.allowed = allowed or {}
        self.counts: dict[str, Count] = {}
        self._writers = {i: n for n, op in enumerate(program.operators) for i in op.outputs}

    def add(self, index: int, left: Any, values: Values, start: int, suffix: str = "") -> None:
        """Compare one tensor of a batch whose first example has the number `start`.

        `index`: of the tensor in the program. `values`: the right-hand reading of the batch, that tensor included.
        """
        tensor = self.program.tensors[index]
        name, right = tensor.name + suffix, np.asarray(values[index])
        left = np.asarray(left).reshape(right.shape)
        gap, allowed = np.abs(left.astype(np.float64) - right), self.allowed.get(tensor.name, 0.0)
        before = self.counts.get(name, Count(name, 0, 0, 0.0, allowed))
        first = before.first
        if first is None and np.any(wrong := ~(gap <= allowed)):
            first = self._divergence(name, index, np.argwhere(wrong)[0], left, values, start)
        self.counts[name] = Count(
            name,
            before.compared + gap.size,
            before.differing + int(np.count_nonzero(gap)),
            max(before.largest, float(np.max(gap, initial=0.0))),
            allowed,
            first,
        )

    def finish(self) -> Link:
        """The link as a value."""
        return Link(self.left, self.right, self.family, tuple(self.counts.values()))

    def _divergence(
        self, name: str, index: int, at: np.ndarray, left: np.ndarray, values: Values, start: int
    ) -> Divergence:
        right, place = np.asarray(values[index]), tuple(int(i) for i in at)
        example, element = located(self.program.tensors[index], right.shape, place)
        writer = self._writers.get(index)
        line = "an input of the file" if writer is None else str(self.program).splitlines()[1 + writer].strip()
        parts = () if writer is None else self._parts(self.program.operators[writer], index, element, example, values)
        return Divergence(name, start + example, element, left[place].item(), right[place].item(), line, parts)

    def _parts(
        self, op: Operator, index: int, element: tuple[int, ...], example: int, values: Values
    ) -> tuple[Part, ...]:
        tensors, found = self.program.tensors, []
        for position, i in enumerate(op.inputs):
            if i in values:
                whole = example_of(tensors[i], np.asarray(values[i]), example)
                block = read_block(op, tensors, element, position)
                found.append(Part(tensors[i].name, written(block), whole[block]))
        return tuple(part for part in found if part.values.size)


def located(tensor: Tensor, shape: tuple[int, ...], place: tuple[int, ...]) -> tuple[int, tuple[int, ...]]:
    """Which example an element of a batch belongs to, and its index in the file's own shape."""
    if shape == tensor.shape:
        return 0, place
    return place[0], ((0, *place[1:]) if tensor.shape[:1] == (1,) else place[1:])


def example_of(tensor: Tensor, batch: np.ndarray, example: int) -> np.ndarray:
    """One example of a batch, in the file's own shape."""
    if batch.shape == tensor.shape:
        return batch
    return batch[example : example + 1] if tensor.shape[:1] == (1,) else batch[example]


def written(block: Block) -> str:
    """Slices as numpy writes them: `[0,2:5,3:9:2,0:8]`."""
    return f"[{','.join(_slice_text(s) for s in block)}]"


def _slice_text(s: slice) -> str:
    if s.stop - s.start == 1:
        return f"{s.start}"
    return f"{s.start}:{s.stop}" + (f":{s.step}" if (s.step or 1) > 1 else "")


ANYTHING = math.inf  # allowed where an integer may differ by any number
