"""A file for LiteRT's web runtime, whose inputs and outputs are float32, int32 or uint8 alone."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxq.errors import MismatchError
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.runtimes import litert

TAKEN = ("float32", "int32", "uint8")
QUANTIZE_VERSION = 1  # between int8 and uint8
SHIFT = 128  # from int8 to uint8 of the same scale


def bridged(data: bytes, program: Program, inputs: Sequence[np.ndarray]) -> tuple[bytes | None, dict[str, Any] | None]:
    """The file with QUANTIZE at int8 ends, so that they are uint8, and what the page must add; (None, None) where an
    end has a type that no QUANTIZE bridges.

    A QUANTIZE between int8 and uint8 of one scale adds 128 and rounds nothing; that the two files compute the same
    is proven here on LiteRT. Raises MismatchError.
    """
    dtypes = [program.tensors[i].dtype for i in (*program.inputs, *program.outputs)]
    if not set(dtypes) <= {*TAKEN, "int8"}:
        return None, None
    shifts = [[SHIFT * (program.tensors[i].dtype == "int8") for i in end] for end in (program.inputs, program.outputs)]
    ends = {"model": "browser.tflite", "input_shifts": shifts[0], "output_shifts": shifts[1]}
    if not any(map(any, shifts)):
        return data, ends
    found = write(_with_uint8_ends(program))
    given = [_shifted(a, shift) for a, shift in zip(inputs, shifts[0], strict=True)]
    own, theirs = (litert.run(file, x, "xnnpack") for file, x in ((data, inputs), (found, given)))
    wanted = [_shifted(y, shift) for y, shift in zip(own, shifts[1], strict=True)]
    if any((y != other).any() for y, other in zip(wanted, theirs, strict=True)):
        raise MismatchError("The file with uint8 ends computes other integers than the file itself.")
    return found, ends


def _shifted(array: np.ndarray, shift: int) -> np.ndarray:
    return (array.astype(np.int16) + shift).astype(np.uint8) if shift else array


def _with_uint8_ends(program: Program) -> Program:
    tensors, before, after = list(program.tensors), [], []

    def moved(index: int) -> int:
        tensor = program.tensors[index]
        if tensor.dtype != "int8":
            return index
        tensors.append(_uint8(tensor))
        return len(tensors) - 1

    inputs, outputs = ([moved(i) for i in end] for end in (program.inputs, program.outputs))
    for new, index in zip(inputs, program.inputs, strict=True):
        before += [Operator("QUANTIZE", (new,), (index,), {}, QUANTIZE_VERSION)] if new != index else []
    for new, index in zip(outputs, program.outputs, strict=True):
        after += [Operator("QUANTIZE", (index,), (new,), {}, QUANTIZE_VERSION)] if new != index else []
    operators = (*before, *program.operators, *after)
    return dataclasses.replace(
        program, tensors=tuple(tensors), operators=operators, inputs=tuple(inputs), outputs=tuple(outputs)
    )


def _uint8(tensor: Tensor) -> Tensor:
    q = tensor.quantization
    assert q is not None
    grid = Quantization.of(q.scale, int(q.zero_point[0]) + SHIFT)
    return dataclasses.replace(tensor, name=f"{tensor.name}:uint8", dtype="uint8", quantization=grid)
