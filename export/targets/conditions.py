"""Conditions on one operator, from which the tables of limits are put together.

A factory gives a function of a program and an operator that says what breaks the condition, or None. They are total:
a program of someone else's file may lack any input, option or constant, and what cannot be read breaks nothing.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping

import numpy as np

from jaxq.export.lint.view import index_at, read_at, written
from jaxq.export.operators import CONTRACTIONS, OPERATORS
from jaxq.export.program import Operator, Program, Tensor, describe
from jaxq.export.shapes import STATES
from jaxq.export.targets.device import Check

Shape4 = tuple[int, int, int, int]


def present(program: Program, op: Operator) -> Iterator[Tensor]:
    """The tensors that an operator reads and writes."""
    return (program.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0)


def feature_maps(program: Program, op: Operator) -> Iterator[Tensor]:
    """What an operator computes from and into: its data without weights and parameters."""
    known = {*OPERATORS[op.kind].parameters} if op.kind in OPERATORS else set()
    if op.kind in CONTRACTIONS:
        known |= {CONTRACTIONS[op.kind].weights, CONTRACTIONS[op.kind].bias}
    if op.kind in STATES:  # weights, biases and states stand behind the data
        known |= {*range(1, len(op.inputs))}
    for position in range(len(op.inputs)):
        tensor = read_at(program, op, position)
        if tensor is not None and position not in known:
            yield tensor
    yield from (program.tensors[i] for i in op.outputs if i >= 0)


def named(tensor: Tensor) -> str:
    """`'conv:out', int8[1,14,14,8]`."""
    return f"{tensor.name!r}, {describe(Tensor('', tensor.shape, tensor.dtype))}"


def nhwc(tensor: Tensor) -> Shape4:
    """The shape as image: batch, height, width, channels; what is missing in front is 1, further axes are batch."""
    batch, height, width, channels = (1, 1, 1, 1, *tensor.shape)[-4:]
    return (math.prod(tensor.shape[:-3]) if len(tensor.shape) > 4 else batch, height, width, channels)


def numbers(program: Program, op: Operator, position: int) -> list[int] | None:
    """The constant integers read at a position; None where they are absent, computed or no integers."""
    tensor = read_at(program, op, position)
    if tensor is None or tensor.data is None or not np.issubdtype(tensor.data.dtype, np.integer):
        return None
    return [int(n) for n in tensor.data.reshape(-1)]


def axes(program: Program, op: Operator, position: int = 1) -> tuple[int, ...]:
    """The constant axes of an operator from 0 on; () where they cannot be read, without those outside the rank."""
    x = read_at(program, op, 1 if op.kind == "SPLIT" else 0)
    rank = 0 if x is None else len(x.shape)
    found = numbers(program, op, position) or ()
    return tuple(n % rank for n in found if -rank <= n < rank)


def number(op: Operator, name: str, otherwise: int) -> int:
    """An option that is an integer."""
    value = op.options.get(name, otherwise)
    return value if isinstance(value, int) else otherwise


def strides(op: Operator) -> tuple[int, int]:
    """Rows and columns."""
    return number(op, "stride_h", 1), number(op, "stride_w", 1)


def window(program: Program, op: Operator) -> tuple[int, int]:
    """Rows and columns of a kernel or a pool."""
    if op.kind not in CONTRACTIONS:
        return number(op, "filter_height", 1), number(op, "filter_width", 1)
    weights = read_at(program, op, CONTRACTIONS[op.kind].weights)
    shape = () if weights is None else weights.shape
    return (shape[1], shape[2]) if len(shape) == 4 else (1, 1)


# --- factories ------------------------------------------------------------------------------------------------------


def dtypes(allowed: Container[str], all_tensors: bool = False) -> Check:
    """The tensors that are computed from and into have one of these types."""

    def check(program: Program, op: Operator) -> str | None:
        tensors = present(program, op) if all_tensors else feature_maps(program, op)
        wrong = next((t for t in tensors if t.dtype not in allowed), None)
        return None if wrong is None else f"reads or writes {named(wrong)}"

    return check


def reads(position: int, allowed: Container[str]) -> Check:
    """The tensor at a position, if it is there, has one of these types."""

    def check(program: Program, op: Operator) -> str | None:
        tensor = read_at(program, op, position)
        return None if tensor is None or tensor.dtype in allowed else f"reads {named(tensor)}"

    return check


def writes(allowed: Container[str]) -> Check:
    """The first output has one of these types."""

    def check(program: Program, op: Operator) -> str | None:
        tensor = written(program, op)
        return None if tensor is None or tensor.dtype in allowed else f"writes {named(tensor)}"

    return check


def pairs(allowed: Container[tuple[str, str]]) -> Check:
    """The types of first input and output are one of these pairs."""

    def check(program: Program, op: Operator) -> str | None:
        x, y = read_at(program, op), written(program, op)
        if x is None or y is None or (x.dtype, y.dtype) in allowed:
            return None
        return f"goes from {x.dtype} to {y.dtype}"

    return check


def constant(*positions: int) -> Check:
    """What is read at these positions is in the file, if need be as float16 behind a DEQUANTIZE."""

    def check(program: Program, op: Operator) -> str | None:
        indices = (index_at(op, position) for position in positions)
        found = [program.tensors[i] for i in indices if i is not None and not is_constant(program, i)]
        wrong = next(iter(found), None)
        return None if wrong is None else f"reads {named(wrong)}, which is computed at run time"

    return check


def is_constant(program: Program, index: int) -> bool:
    """Whether a tensor is in the file, or is what DEQUANTIZE makes of float16 that is."""
    if program.tensors[index].data is not None:
        return True
    makers = (op for op in program.operators if op.kind == "DEQUANTIZE" and index in op.outputs)
    return any(half_constant(program, op) for op in makers)


def half_constant(program: Program, op: Operator) -> bool:
    """Whether an operator reads a float16 constant."""
    x = read_at(program, op)
    return x is not None and x.dtype == "float16" and x.data is not None


def not_hybrid(program: Program, op: Operator) -> str | None:
    """Its weights are no integers beside float activations, which kernels would quantize as they run."""
    at = CONTRACTIONS[op.kind]
    x, weights = read_at(program, op, at.x), read_at(program, op, at.weights)
    mixed = x is not None and weights is not None and x.dtype == "float32" and weights.dtype in ("int4", "int8")
    return f"quantizes floats as it runs, for weights of {weights.dtype}" if mixed and weights is not None else None


def same_dilation(program: Program, op: Operator) -> str | None:
    """Rows and columns are dilated alike."""
    rows, columns = number(op, "dilation_h_factor", 1), number(op, "dilation_w_factor", 1)
    return None if rows == columns else f"is dilated by {rows} rows and {columns} columns"


def no_activation(program: Program, op: Operator) -> str | None:
    """No activation is fused."""
    name = op.options.get("fused_activation_function") or "NONE"
    return None if name == "NONE" else f"has {name} fused"


def three_dimensions(program: Program, op: Operator) -> str | None:
    """Only the innermost three axes are longer than 1."""
    wrong = next((t for t in feature_maps(program, op) if math.prod(t.shape[:-3]) > 1), None)
    return None if wrong is None else f"reads or writes {named(wrong)}"


def versions(highest: Mapping[str, int]) -> Check:
    """The operator's version is not above the one listed for its kind; a kind that is not listed has version 1."""

    def check(program: Program, op: Operator) -> str | None:
        most = highest.get(op.kind, 1)
        return None if op.version <= most else f"has version {op.version}; the highest known there is {most}"

    return check


def not_over_batch(position: int = 1, option: str | None = None) -> Check:
    """The axes at a position (or the option of that name) do not include axis 0."""

    def check(program: Program, op: Operator) -> str | None:
        over = axes(program, op, position) if option is None else (number(op, option, 1),)
        return "works along axis 0, the batch" if 0 in over else None

    return check


def stride_at_most(most: int, unless_unpadded: bool = False) -> Check:
    """Strides are in [1, most]; beyond only, if at all, where nothing is padded nor dilated."""

    def check(program: Program, op: Operator) -> str | None:
        free = unless_unpadded and _unpadded(program, op)
        return None if free or max(strides(op)) <= most else f"has strides {strides(op)}"

    return check


def _unpadded(program: Program, op: Operator) -> bool:
    """Whether an operator with a window pads nothing: VALID, or SAME where the strides fit."""
    x = read_at(program, op)
    if x is None or max(number(op, "dilation_h_factor", 1), number(op, "dilation_w_factor", 1)) > 1:
        return False
    sizes = zip(nhwc(x)[1:3], window(program, op), strides(op), strict=True)
    return op.options.get("padding") == "VALID" or all((-(-n // s) - 1) * s + k <= n for n, k, s in sizes if s > 0)


def option_is(name: str, value: object, otherwise: object) -> Check:
    """An option has this value."""

    def check(program: Program, op: Operator) -> str | None:
        found = op.options.get(name, otherwise)
        return None if found == value else f"has {name} {found}"

    return check


def same_parameters(program: Program, op: Operator) -> str | None:
    """Every input has the output's scale and zero point."""
    ends = {(t.quantization.scale.tobytes(), t.quantization.zero_point.tobytes())
            for t in feature_maps(program, op) if t.quantization is not None}  # fmt: skip
    return None if len(ends) <= 1 else "has inputs and output of different scales or zero points"


def per_tensor(program: Program, op: Operator) -> str | None:
    """What is computed has one scale."""
    wrong = next((t for t in feature_maps(program, op) if t.quantization and t.quantization.per_channel), None)
    return None if wrong is None else f"reads or writes {named(wrong)} with {wrong.quantization.scale.size} scales"  # pyright: ignore[reportOptionalMemberAccess]


def quantized(program: Program, op: Operator) -> str | None:
    """Every tensor of 8 or 16 bits has a scale."""
    eights = (t for t in feature_maps(program, op) if t.dtype in ("int8", "uint8", "int16"))
    wrong = next((t for t in eights if t.quantization is None or not t.quantization.scale.size), None)
    return None if wrong is None else f"reads or writes {named(wrong)} without a scale"
