"""What rules ask of a Program. Nothing here raises: a program from a file may lack any input, option or scale."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from jaxq.export.operator_facts import Layout
from jaxq.export.operators import CONTRACTIONS
from jaxq.export.program import Operator, Program, Tensor

FLOATS = frozenset({"float16", "float32", "float64"})
SMALLEST_NORMAL = float(np.finfo(np.float32).smallest_normal)


def of_kinds(program: Program, *kinds: str) -> Iterator[tuple[int, Operator]]:
    """The operators of these kinds with their indices."""
    return ((i, op) for i, op in enumerate(program.operators) if op.kind in kinds)


def contractions(program: Program) -> Iterator[tuple[int, Operator, Layout]]:
    """Convolutions and dense layers, with where their operands are."""
    return ((i, op, CONTRACTIONS[op.kind]) for i, op in of_kinds(program, *CONTRACTIONS))


def index_at(op: Operator, position: int) -> int | None:
    """The tensor that is read at a position; None where it is absent."""
    index = op.inputs[position] if position < len(op.inputs) else -1
    return None if index < 0 else index


def read_at(program: Program, op: Operator, position: int = 0) -> Tensor | None:
    """The tensor that is read at a position; None where it is absent."""
    index = index_at(op, position)
    return None if index is None else program.tensors[index]


def written(program: Program, op: Operator) -> Tensor | None:
    """The first output; None where there is none."""
    return program.tensors[op.outputs[0]] if op.outputs else None


def first_output(op: Operator) -> int | None:
    """The index of the first output."""
    return op.outputs[0] if op.outputs else None


def scale_of(tensor: Tensor | None) -> float | None:
    """The one scale of a tensor quantized per tensor, where it is finite and positive; else None."""
    q = None if tensor is None else tensor.quantization
    if q is None or q.scale.size != 1:
        return None
    scale = float(q.scale[0])
    return scale if 0 < scale < np.inf else None


def zero_point_of(tensor: Tensor | None) -> int | None:
    """The one zero point of a tensor; None where it has none or several."""
    q = None if tensor is None else tensor.quantization
    return int(q.zero_point[0]) if q is not None and q.zero_point.size == 1 else None


def zero_points(tensor: Tensor) -> np.ndarray:
    """All zero points, int64, none where there are no parameters."""
    return np.zeros(0, np.int64) if tensor.quantization is None else tensor.quantization.zero_point


def is_integer(tensor: Tensor | None, *dtypes: str) -> bool:
    """Whether the tensor is there and of one of the dtypes, by default int8, uint8 or int16."""
    return tensor is not None and tensor.dtype in (dtypes or ("int8", "uint8", "int16"))


def parameters_text(tensor: Tensor) -> str:
    """`scale 0.0235 zero point -128`."""
    q = tensor.quantization
    if q is None or not q.scale.size:
        return "no scale"
    if q.per_channel:
        return f"{q.scale.size} scales"
    return f"scale {q.scale[0]:.9g} zero point {int(q.zero_point[0])}"
