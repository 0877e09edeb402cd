"""Memory of a program: what its constants take, and the arena that its activations share.

The arena is planned as TFLite Micro's GreedyMemoryPlanner does (tensorflow/lite/micro/memory_planner of
tensorflow/tflite-micro): from the largest tensor to the smallest, each at the lowest offset at which it overlaps none
that is alive with it. Scratch memory of kernels is not counted: it differs from one set of kernels to the next.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from jaxq.export.program import Program, Tensor

ALIGNMENT = 16  # bytes, of every tensor in the arena
BYTES = {
    **dict.fromkeys(("int4", "int8", "uint8", "bool"), 1),
    **dict.fromkeys(("float16", "int16", "uint16"), 2),
    **dict.fromkeys(("float32", "int32", "uint32"), 4),
    **dict.fromkeys(("float64", "int64"), 8),
}


@dataclasses.dataclass(frozen=True)
class Life:
    """A computed tensor: its index and bytes, and the operators between which it is alive, both included."""

    tensor: int
    size: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """Whether both are alive at once."""
        return self.first <= other.last and other.first <= self.last


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes. `activations`: the arena of all computed tensors. `largest`: the greatest sum of what is alive at one
    operator, a lower bound of every plan. `constants`: weights, biases and parameters.
    """

    activations: int
    largest: int
    constants: int


def memory(program: Program) -> Memory:
    """The memory of a program."""
    alive = lives(program)
    sums = np.zeros(max((life.last for life in alive), default=0) + 1, np.int64)
    for life in alive:
        sums[life.first : life.last + 1] += life.size
    top = max((at + life.size for life, at in planned(alive)), default=0)
    return Memory(top, int(sums.max()), sum(_bytes(t) for t in program.tensors if t.data is not None))


def lives(program: Program) -> list[Life]:
    """When each computed tensor is alive. Inputs are from the start, outputs to the end; what nothing reads is alive
    while it is written.
    """
    end = max(len(program.operators) - 1, 0)
    first: dict[int, int] = dict.fromkeys(program.inputs, 0)
    last: dict[int, int] = dict.fromkeys(program.inputs, 0)
    for at, op in enumerate(program.operators):
        for index in op.outputs:
            first.setdefault(index, at)
        for index in (*op.inputs, *op.outputs):
            last[index] = at
    last |= dict.fromkeys(program.outputs, end)
    computed = [i for i in sorted(first) if i >= 0 and program.tensors[i].data is None]
    return [Life(i, _aligned(_bytes(program.tensors[i])), first[i], last[i]) for i in computed]


def planned(alive: list[Life]) -> list[tuple[Life, int]]:
    """Each tensor with its offset in the arena, from the largest to the smallest, of equal ones the later first."""
    placed: list[tuple[Life, int]] = []
    for life in sorted(alive, key=lambda life: (-life.size, -life.tensor)):
        taken = sorted((at, at + other.size) for other, at in placed if life.meets(other))
        offset = 0
        for begin, end in taken:
            if offset + life.size <= begin:
                break
            offset = max(offset, end)
        placed.append((life, offset))
    return placed


def _bytes(tensor: Tensor) -> int:
    count = math.prod(tensor.shape)
    return (count + 1) // 2 if tensor.dtype == "int4" else count * BYTES.get(tensor.dtype, 1)


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
