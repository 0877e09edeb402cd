"""A plan with all its numbers: what `jaxq.export.lowering.freeze` makes and everything behind it reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from jaxq.export.lowering.constants import Operand
from jaxq.plan.plan import Plan


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """An op's integer weights.

    q: int8 in the op's canonical layout. scale: float32 (channels,). bias: int32 (channels,). Of an op on floats: q is
    float32, float16 or int8, the bias float32; floats have no scale, (0,).
    """

    q: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """A plan with all its numbers. parameters: (float32 scale, zero point) by group. tables: of each op that is written
    as one, the output integer of every input integer from -128 on, int8 (256,).
    """

    plan: Plan
    parameters: Mapping[str, tuple[np.float32, int]]
    kernels: Mapping[str, Kernel]
    operands: Mapping[tuple[str, int], Operand]
    tables: Mapping[str, np.ndarray]

    def of(self, value: int) -> tuple[np.float32, int]:
        """Scale and zero point of an activation."""
        group = self.plan.group(value)
        assert group is not None
        return self.parameters[group.name]
