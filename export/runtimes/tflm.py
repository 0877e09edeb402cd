"""TFLite Micro's interpreter: the referee of the `tflm` family. It runs in a process of its own, for kernels abort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxq.errors import ExportError
from jaxq.export.program import Program
from jaxq.export.runtimes import child

PACKAGE, TITLE = "tflite-micro", "TFLite Micro"
SPARE = 1 << 20  # bytes of arena for what is not a tensor: a too small one may end the process


def run(data: bytes, program: Program, examples: Sequence[Sequence[np.ndarray]]) -> list[list[np.ndarray]]:
    """The outputs of each example, in the file's order and shapes.

    Args:
      data: a .tflite file.
      program: the same, read.
      examples: the inputs of each, in the file's order and shapes.

    Raises: ExportError with what TFLite Micro says where it refuses the file or stops, or where the package is missing;
      InputError for an input; child.Died where the process ends.
    """
    return child.by_example(_asked({"job": "run"}, data, program, examples), examples)


def arena_bytes(data: bytes, program: Program, part: str = "total") -> int:
    """The arena that TFLite Micro needs to run the file, in bytes, as its recording allocator counts on this machine.

    part: "head" is the tensors and the scratch memory of kernels, "tail" its own structures, those with pointers
    smaller on a microcontroller of 32 bits; "total" both. Raises ExportError as `run`, and where the process ends.
    """
    try:
        return int(_asked({"job": "arena", "part": part}, data, program, [])[0])
    except child.Died as death:
        how, said = death.args
        raise ExportError(f"{TITLE} ended its process ({how}) as it allocated the file. It said: {said}.") from death


def missing() -> ExportError:
    """The error where the package is not installed."""
    return ExportError(
        f"The package {PACKAGE} is not installed. Run: pip install --pre {PACKAGE} (it has wheels for Linux on x86-64)"
    )


def _asked(
    head: dict[str, str], data: bytes, program: Program, examples: Sequence[Sequence[np.ndarray]]
) -> list[np.ndarray]:
    said = {
        "arena": _arena_size(program),
        "names": [program.tensors[i].name for i in program.inputs],
        "outputs": len(program.outputs),
    }
    try:
        return child.ask(child.TFLM, head, [child.File(data, examples, said)], TITLE)
    except child.Missing as error:
        raise missing() from error


def _arena_size(program: Program) -> int:
    """Ample: tensors, int32 scratch of their sizes, and per-channel parameters."""
    return SPARE + 16 * sum(int(np.prod(tensor.shape)) * 4 for tensor in program.tensors)
