"""Which places of an array the indices of a gather or a scatter name, in numbers.

JAX's `GatherDimensionNumbers` and `ScatterDimensionNumbers` say the same of what is read and of what is written: each
index is the corner of a window in the operand, and every axis of the result is one of the indices' or of the windows'.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jax import lax

from jaxq.graph.ir import Equation


@dataclasses.dataclass(frozen=True)
class Part:
    """An operand; kept: for each axis of the result that is one of its own, unchanged, which."""

    value: int
    shape: tuple[int, ...]
    kept: Mapping[int, int]

    @property
    def rest(self) -> tuple[int, ...]:
        """The axes that are not kept."""
        return tuple(axis for axis in range(len(self.shape)) if axis not in self.kept.values())

    @property
    def counted(self) -> int:
        """How many numbers the other axes hold."""
        return math.prod(self.shape[axis] for axis in self.rest)


@dataclasses.dataclass(frozen=True)
class Windows:
    """What a gather reads of an operand, or a scatter writes: a window for each of its indices.

    sizes: of a window. axes: for axes of the operand that windows have, which axis of what is read or written.
    starts: the axes that the numbers of an index are of. batches: axes that go with an axis of the indices. clip: what
    lies outside is moved inside.
    """

    sizes: Sequence[int]
    axes: Mapping[int, int]
    starts: Sequence[int]
    batches: Mapping[int, int]
    clip: bool

    def whole(self, axis: int, shape: Sequence[int]) -> bool:
        """Whether every window has all of an axis."""
        return axis in self.axes and axis not in self.starts and self.sizes[axis] == shape[axis]

    def places(self, operand: Part, starts: np.ndarray) -> np.ndarray | None:
        """Where what is read or written stands, counted along those axes of the operand that are not kept.

        Args:
          starts: the indices [..., number of `self.starts`].

        Returns: an array of the shape of what is read or written, but for ones where the axes are of whole windows.
          None where some of it lies outside, or where there is none.
        """
        if 0 in starts.shape or not operand.rest:
            return None
        rank = starts.ndim - 1 + len(self.axes)
        free = [axis for axis in range(rank) if axis not in self.axes.values()]
        found = []
        for axis in operand.rest:
            most = operand.shape[axis] - self.sizes[axis]
            at = self._starts(axis, starts, rank, free)
            at = np.clip(at, 0, most) if self.clip else at
            if at.min() < 0 or at.max() > most:
                return None
            found.append(at + (_along(self.sizes[axis], self.axes[axis], rank) if axis in self.axes else 0))
        places = np.ravel_multi_index(np.broadcast_arrays(*found), [operand.shape[axis] for axis in operand.rest])
        shape = [1] * rank
        for axis, size in zip(free, starts.shape[:-1], strict=True):
            shape[axis] = size
        return np.broadcast_to(places, np.broadcast_shapes(places.shape, shape))

    def _starts(self, axis: int, starts: np.ndarray, rank: int, free: Sequence[int]) -> np.ndarray:
        if axis in self.batches:
            own = self.batches[axis]
            return _along(starts.shape[own], free[own], rank)
        if axis not in self.starts:
            return np.zeros([1] * rank, np.int64)
        sizes = dict(zip(free, starts.shape[:-1], strict=True))
        return (
            starts[..., list(self.starts).index(axis)].reshape([sizes.get(a, 1) for a in range(rank)]).astype(np.int64)
        )


def read_by(eq: Equation, rank: int) -> Windows:
    """The windows of a gather of an operand of this rank."""
    numbers = eq.params["dimension_numbers"]
    batches = dict(zip(numbers.operand_batching_dims, numbers.start_indices_batching_dims, strict=True))
    axes = [a for a in range(rank) if a not in numbers.collapsed_slice_dims and a not in batches]
    at = dict(zip(axes, numbers.offset_dims, strict=True))
    return Windows(eq.params["slice_sizes"], at, numbers.start_index_map, batches, _clips(eq))


def written_by(eq: Equation, rank: int, updates: Sequence[int]) -> Windows:
    """The windows of a scatter of updates of this shape into an operand of this rank."""
    numbers = eq.params["dimension_numbers"]
    batches = dict(zip(numbers.operand_batching_dims, numbers.scatter_indices_batching_dims, strict=True))
    axes = [a for a in range(rank) if a not in numbers.inserted_window_dims and a not in batches]
    at = dict(zip(axes, numbers.update_window_dims, strict=True))
    sizes = [updates[at[a]] if a in at else 1 for a in range(rank)]
    return Windows(sizes, at, numbers.scatter_dims_to_operand_dims, batches, _clips(eq))


def _clips(eq: Equation) -> bool:
    return eq.params["mode"] == lax.GatherScatterMode.CLIP


def _along(size: int, axis: int, rank: int) -> np.ndarray:
    """0, 1, 2 ... along one of so many axes."""
    return np.arange(size).reshape([-1 if a == axis else 1 for a in range(rank)])
