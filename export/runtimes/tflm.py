"""TFLite Micro's interpreter: the referee of the `tflm` family. Alone in importing tflite_micro.

Its interpreter says on standard error why it refuses a file, and nowhere else: the descriptor is read meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from jaxq.errors import ExportError, InputError
from jaxq.export.program import Program

PACKAGE = "tflite-micro"
SPARE = 1 << 20  # bytes of arena for what is not a tensor: a too small one may end the process

Invoke = Callable[[Sequence[np.ndarray]], list[np.ndarray]]


def opened(data: bytes, program: Program) -> Invoke:
    """A function that runs the file, one example in the file's shapes a call. `program`: what `data` holds.

    Raises ExportError with what TFLite Micro says where it refuses the file, or where the package is missing.
    """
    interpreter = _interpreter(data, program)

    def invoke(example: Sequence[np.ndarray]) -> list[np.ndarray]:
        _set_inputs(interpreter, program, example)
        with _explained("stopped while it ran the file"):
            interpreter.invoke()
        return [interpreter.get_output(i).copy() for i in range(len(program.outputs))]

    return invoke


def arena_bytes(data: bytes, program: Program, part: str = "total") -> int:
    """The arena that TFLite Micro needs to run the file, in bytes, as its recording allocator counts on this machine.

    part: "head" is the tensors and the scratch memory of kernels, "tail" its own structures, those with pointers
    smaller on a microcontroller of 32 bits; "total" both. Raises ExportError as `opened`.
    """
    interpreter = _interpreter(data, program)
    with _standard_error() as said:
        interpreter.print_allocations()
    found = re.search(rf"Arena allocation {part} (\d+) bytes", said())
    if found is None:
        raise ExportError(f"TFLite Micro reports no arena: {said()!r}. Use another version of {PACKAGE}.")
    return int(found[1])


def missing() -> ExportError:
    """The error where the package is not installed."""
    return ExportError(
        f"The package {PACKAGE} is not installed. Run: pip install --pre {PACKAGE} (it has wheels for Linux on x86-64)"
    )


def _interpreter(data: bytes, program: Program) -> Any:
    try:
        micro = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
    except ImportError as error:
        raise missing() from error
    with _explained("refuses the file"):
        return micro.Interpreter.from_bytes(data, arena_size=_arena_size(program))


def _arena_size(program: Program) -> int:
    """Ample: tensors, int32 scratch of their sizes, and per-channel parameters."""
    return SPARE + 16 * sum(int(np.prod(tensor.shape)) * 4 for tensor in program.tensors)


def _set_inputs(interpreter: Any, program: Program, example: Sequence[np.ndarray]) -> None:
    for position, (index, value) in enumerate(zip(program.inputs, example, strict=True)):
        try:
            interpreter.set_input(np.ascontiguousarray(value), position)
        except ValueError as error:
            raise InputError(f"TFLite Micro refuses the input {program.tensors[index].name!r}: {error}") from error


@contextlib.contextmanager
def _explained(did: str) -> Iterator[None]:
    """Turn TFLite Micro's exceptions into ExportError, with its words on standard error."""
    said = str
    try:
        with _standard_error() as said:
            yield
    except (RuntimeError, ValueError) as error:
        words = "; ".join(line.strip() for line in said().splitlines() if line.strip())
        raise ExportError(f"TFLite Micro {did}: {words or error}") from error


@contextlib.contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """What native code writes to the process's standard error meanwhile; call the result to read it."""
    with tempfile.TemporaryFile() as file:
        text: list[str] = []
        before = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield lambda: "".join(text)
        finally:
            os.dup2(before, 2)
            os.close(before)
            file.seek(0)
            text.append(file.read().decode(errors="replace"))
