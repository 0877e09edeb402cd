"""What must hold of any bytes, and a program that asks it: `python -m tests.hostile FOLDER COUNT SEED [KIND]` of
mutants of the folder's files (KIND: "bytes" or "programs"), `python -m tests.hostile bombs` of the worst files known.

A program of its own, because under the type checks that pytest adds to every call of jaxq it takes ten times as long.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
import tracemalloc
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxq
from jaxq.cli.inspect import inspect
from jaxq.cli.lint import lint as lint_command
from jaxq.cli.output import Result, show, write_json
from jaxq.errors import FormatError, JaxqError
from jaxq.export.evaluate import variables
from jaxq.export.evaluate.kernels.operands import Kernel
from jaxq.export.evaluate.program import FAMILIES, kernels_of
from jaxq.export.flatbuffer.read import read
from jaxq.export.lint import lint
from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.targets import TARGETS, check
from tests.mutants import bombs, mutants, program_mutants

# Refused by the reader; read but refused by every family of kernels; loaded and traced.
OUTCOMES = ("refused", "shown", "loaded")
SECONDS = 5  # of CPU: a mutant takes a millisecond, but a machine may be busy
TRACED: set[int] = set()
TIMES, SLACK = 64, 2**20  # bytes of memory for each byte of a file, and besides


def opened(data: bytes) -> tuple[Program | None, int]:
    """What the reader makes of the bytes, None for a FormatError, and the most memory that it held."""
    tracemalloc.start()
    try:
        program = read(data)
    except FormatError:
        program = None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return program, peak


def used(program: Program, data: bytes, file: pathlib.Path, whole: bool) -> bool:
    """All that may be asked of a file that reads: whether a family loads it.

    Whatever but a JaxqError escapes is a bug.
    """
    lint(program)
    str(program)
    for result in (inspect(file), lint_command(file)):
        printed(result)
    for device in TARGETS.values():
        check(program, device)
    loaded = False
    for family in FAMILIES:
        with contextlib.suppress(JaxqError):
            traced(data, family, whole)
            loaded = True
    return loaded


def traced(data: bytes, family: str, whole: bool) -> None:
    """Load a file and trace it, each operator on what the file says of its tensors, or all as one function. Whatever
    but a JaxqError escapes is a bug, and so is a fault that only a kernel sees.
    """
    fn = jaxq.load(data, family=family)
    if whole:
        ends = [jax.ShapeDtypeStruct(port.shape, jnp.dtype(port.dtype)) for port in fn.inputs]
        found = jax.eval_shape(fn, *ends)
        assert [y.shape for y in found] == [port.shape for port in fn.outputs]
    kernels = kernels_of(fn.program, family)
    for op in fn.program.operators:
        if op.kind not in variables.KINDS:
            operator_traced(op, fn.program.tensors, kernels(op), family)


def operator_traced(op: Operator, tensors: tuple[Tensor, ...], kernel: Kernel, family: str) -> None:
    """One operator, unless one just like it was traced before."""
    read = [tensors[i] if i >= 0 else None for i in op.inputs]
    key = hash((family, op.kind, str(op.options), *(described(t) for t in (*read, *(tensors[i] for i in op.outputs)))))
    if key in TRACED:
        return
    values = [None if t is None else jax.ShapeDtypeStruct(t.shape, narrowed(t.dtype)) for t in read]
    with contextlib.suppress(JaxqError), np.errstate(all="ignore"):
        found = jax.eval_shape(lambda *given: kernel(op, tensors, list(given)), *values)
        assert [y.shape for y in found[: len(op.outputs)]] == [tensors[i].shape for i in op.outputs], (op, found)
    TRACED.add(key)


def narrowed(dtype: str) -> np.dtype:
    """JAX's dtype for a tensor's, without 64 bits."""
    return jnp.dtype({"int64": "int32", "float64": "float32"}.get(dtype, dtype))


def described(tensor: Tensor | None) -> object:
    """All that a kernel can see of a tensor."""
    if tensor is None:
        return None
    q = tensor.quantization
    return (
        (tensor.shape, tensor.dtype, None if q is None else (q.scale.tobytes(), q.zero_point.tobytes(), q.axis)),
        None if tensor.data is None else tensor.data.tobytes(),
    )


def printed(result: Result) -> None:
    """As text and as JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        show(result.blocks)
        write_json(result.data)


def hold(data: bytes, file: pathlib.Path, slack: int = SLACK, whole: bool = True) -> str:
    """What becomes of the bytes: one of `OUTCOMES`. Raises where a law is broken; the bytes are in `file` then."""
    file.write_bytes(data)
    started, most = time.process_time(), TIMES * len(data) + slack
    program, peak = opened(data)
    if peak > most:  # the first file with an operator fills caches of the schema
        _, peak = opened(data)
    outcome = OUTCOMES[0] if program is None else OUTCOMES[1 + used(program, data, file, whole)]
    assert peak <= most, f"{peak:,} bytes of memory for a file of {len(data):,}"
    assert time.process_time() - started < SECONDS
    return outcome


def main(folder: str, count: str = "0", seed: str = "0", kind: str = "bytes") -> None:
    """Prints what became of the mutants, or of the bombs."""
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place, "mutant.tflite")
        if folder == "bombs":
            found: dict[str, Any] = {name: hold(data, file, slack=0) for name, data in bombs().items()}
        else:
            seeds = [seed.read_bytes() for seed in sorted(pathlib.Path(folder).iterdir())]
            make = {"bytes": mutants, "programs": program_mutants}[kind]
            outcomes = [hold(data, file, whole=not i % 50) for i, data in enumerate(make(seeds, int(count), int(seed)))]
            found = {outcome: outcomes.count(outcome) for outcome in OUTCOMES}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
