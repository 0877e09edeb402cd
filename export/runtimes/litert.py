"""The referees: LiteRT's interpreter, TensorFlow's own (`runtime="tf.lite"`), and TFLite Micro's beside them."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple, overload

import numpy as np

from jaxq.errors import ExportError, InputError
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Program
from jaxq.export.runtimes import child, tflm
from jaxq.export.runtimes.interpreters import INTERPRETERS, interpreter_named


class Timed(NamedTuple):
    """A file, one example in its shapes and types, and the threads that it runs on."""

    data: bytes
    example: Sequence[np.ndarray]
    threads: int


RESOLVERS: dict[str, str] = {"xnnpack": "AUTO", "reference": "BUILTIN_REF"}
FAMILIES = (*RESOLVERS, "tflm")


def runtime_version(families: Iterable[str] = RESOLVERS, runtime: str = "litert") -> str:
    """`ai-edge-litert 2.3.0 (x86_64)`: what "bit-exact" was measured against; every package that the families need."""
    packages = dict.fromkeys(_version(family, runtime) for family in families)
    return f"{', '.join(packages)} ({platform.machine()})"


def _version(family: str, runtime: str) -> str:
    if family in RESOLVERS:
        return interpreter_named(runtime).version
    try:
        return f"{tflm.PACKAGE} {importlib.metadata.version(tflm.PACKAGE)}"
    except importlib.metadata.PackageNotFoundError as error:
        raise tflm.missing() from error


@overload
def run(
    data: bytes,
    inputs: Sequence[np.ndarray],
    family: str,
    every_tensor: Literal[False] = False,
    threads: int = 1,
    runtime: str = "litert",
) -> tuple[np.ndarray, ...]: ...


@overload
def run(
    data: bytes,
    inputs: Sequence[np.ndarray],
    family: str,
    every_tensor: Literal[True],
    threads: int = 1,
    runtime: str = "litert",
) -> dict[int, np.ndarray]: ...


def run(
    data: bytes,
    inputs: Sequence[np.ndarray],
    family: str,
    every_tensor: bool = False,
    threads: int = 1,
    runtime: str = "litert",
) -> tuple[np.ndarray, ...] | dict[int, np.ndarray]:
    """Run a .tflite file on the family's runtime, one example at a time, and stack the results.

    `inputs`: in the file's shapes, or with a batch in place of their leading 1 (as `evaluate` takes them).
    Returns the outputs in the file's order, or with `every_tensor` a dict from tensor index to the value that
    the runtime computed. `threads` is for LiteRT. `runtime`: "litert", or "tf.lite" for the interpreter within
    TensorFlow; the family `tflm` runs on TFLite Micro alone.

    XNNPACK and TFLite Micro keep no intermediate values, so for `every_tensor` the file is rewritten with all of
    them as outputs.
    """
    program = read(data)
    wanted = _run_time_tensors(program) if every_tensor else program.outputs
    # An input can be no output of the same graph under every delegate: it is known without running.
    computed = tuple(index for index in wanted if index not in program.inputs)
    if every_tensor:
        data = write(dataclasses.replace(program, outputs=computed, input_names=(), output_names=()))
    results = _results(data, _examples(program, inputs), family, threads, runtime)
    stacked = _stacked(program, inputs, results)
    if not every_tensor:
        return tuple(stacked)
    return dict(zip(program.inputs, inputs, strict=True)) | dict(zip(computed, stacked, strict=True))


def run_apart(data: bytes, inputs: Sequence[np.ndarray], family: str) -> list[list[np.ndarray]]:
    """As `run`, and the outputs of each example apart, in the file's shapes."""
    return _results(data, _examples(read(data), inputs), family, 1)


def _results(
    data: bytes, examples: Sequence[Sequence[np.ndarray]], family: str, threads: int, runtime: str = "litert"
) -> list[list[np.ndarray]]:
    """The outputs of each example on the family's runtime, which runs in a process of its own, for kernels abort."""
    if family not in FAMILIES:
        raise ExportError(f"No runtime has a kernel family {family!r}. Families: {', '.join(FAMILIES)}.")
    interpreter = interpreter_named(runtime)
    if family not in RESOLVERS and runtime != "litert":
        raise ExportError(
            f"{interpreter.title} has no kernel family {family!r}, which is TFLite Micro's. Its families: "
            f"{', '.join(RESOLVERS)}."
        )
    _version(family, runtime)
    try:
        return _asked(data, examples, family, threads, runtime)
    except child.Died as death:
        raise ExportError(_death(data, examples, family, runtime, *death.args)) from death


def _asked(
    data: bytes, examples: Sequence[Sequence[np.ndarray]], family: str, threads: int, runtime: str
) -> list[list[np.ndarray]]:
    """The outputs of each example. Raises child.Died where the runtime's process ends."""
    if family in RESOLVERS:
        return child.run(data, examples, RESOLVERS[family], threads, runtime)
    return tflm.run(data, read(data), examples)


def _death(
    data: bytes, examples: Sequence[Sequence[np.ndarray]], family: str, runtime: str, how: str, said: str
) -> str:
    """What to say where the runtime's process ended: the operator, found by halving, with its scales."""
    program = read(data)
    low, high = 0, len(program.operators)  # the first `low` run, the first `high` do not
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _survives(program, middle, examples, family, runtime) else (low, middle)
    op = program.operators[high - 1]
    tensors = [program.tensors[i] for i in (*op.inputs, *op.outputs) if i >= 0]
    scales = ", ".join(
        f"{t.name} {t.quantization.scale[0]:.4g}" for t in tensors if t.quantization is not None and t.data is None
    )
    words = f" It said: {said}." if said else ""
    title = f"{INTERPRETERS[runtime].title} ({family})" if family in RESOLVERS else tflm.TITLE
    return (
        f"{title} ended its process ({how}) in {op.kind}, which makes "
        f"{tensors[-1].name}.{words} The scales there are: {scales or 'none'}. A scale that is very large or very "
        "small is the usual cause: look at what calibration found of these tensors, or run the operator in floats "
        "(Rule(..., float=True))."
    )


def _survives(
    program: Program, count: int, examples: Sequence[Sequence[np.ndarray]], family: str, runtime: str
) -> bool:
    """Whether the runtime runs the first so many operators of a program."""
    operators = program.operators[:count]
    part = dataclasses.replace(program, operators=operators, outputs=operators[-1].outputs, input_names=(),
                               output_names=())  # fmt: skip
    try:
        _asked(write(part), examples, family, 1, runtime)
    except child.Died:
        return False
    except (ExportError, InputError):
        return True
    return True


def _run_time_tensors(program: Program) -> tuple[int, ...]:
    written = [index for op in program.operators for index in op.outputs if index >= 0]
    numbers = [index for index in written if program.tensors[index].dtype != "resource"]
    return tuple(dict.fromkeys([*program.inputs, *numbers]))


def _as_in_file(program: Program, inputs: Sequence[np.ndarray]) -> bool:
    shapes = [program.tensors[index].shape for index in program.inputs]
    return all(value.shape == shape for value, shape in zip(inputs, shapes, strict=True))


def _examples(program: Program, inputs: Sequence[np.ndarray]) -> list[list[np.ndarray]]:
    if len(inputs) != len(program.inputs):
        raise InputError(f"{len(inputs)} inputs for a program that has {len(program.inputs)}.")
    if _as_in_file(program, inputs):
        return [list(inputs)]
    batched = [program.tensors[index].shape[:1] == (1,) for index in program.inputs]
    sizes = {len(value) for value, has_batch in zip(inputs, batched, strict=True) if has_batch}
    if len(sizes) != 1:
        raise InputError(f"Inputs with batches of different sizes: {sorted(sizes)}.")
    return [
        [value[i : i + 1] if has_batch else value for value, has_batch in zip(inputs, batched, strict=True)]
        for i in range(sizes.pop())
    ]


def timed(files: Sequence[Timed], rounds: int) -> list[np.ndarray]:
    """Seconds of each invocation of every file under XNNPACK, [rounds, invocations of a turn]; files take turns.

    Raises ExportError where LiteRT is missing, refuses a file or stops or dies at its example; InputError for an input.
    """
    for file in files:
        _results(file.data, [file.example], "xnnpack", file.threads)  # names the operator where the process ends
    asked = [child.File(f.data, [f.example], {"threads": f.threads}) for f in files]
    head = {"job": "time", "resolver": RESOLVERS["xnnpack"], "rounds": rounds}
    try:
        return child.ask("litert", head, asked, INTERPRETERS["litert"].title)
    except child.Died as death:
        how, words = death.args
        said = f" It said: {words}." if words else ""
        raise ExportError(f"LiteRT ended its process ({how}) while it was timed.{said}") from death


def _stacked(program: Program, inputs: Sequence[np.ndarray], results: list[list[np.ndarray]]) -> list[np.ndarray]:
    if _as_in_file(program, inputs):
        return results[0]
    return [_joined(np.stack(values)) for values in zip(*results, strict=True)]


def _joined(stacked: np.ndarray) -> np.ndarray:
    """(batch, 1, ...) to (batch, ...), as `evaluate` does."""
    return stacked.squeeze(1) if stacked.ndim > 1 and stacked.shape[1] == 1 else stacked


def load_check(data: bytes) -> None:
    """Load a file and allocate its tensors as a phone would. Raises ExportError with what LiteRT says."""
    _results(data, [], "xnnpack", 1)
