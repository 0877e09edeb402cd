"""A process that runs LiteRT, TensorFlow's tf.lite or TFLite Micro for another process.

`python worker.py` takes requests on standard input and gives answers on standard output. It is run by its path and
imports nothing of jaxq, so that it starts in a fraction of a second. A kernel that aborts or crashes ends this process
and not the user's (`jaxq.export.runtimes.child`).

A request is a line of JSON {"job", "runtime", "files", ...}. `files` is a list of {"bytes", "examples", "inputs"}, and
behind the line come the bytes of each file and the arrays of every example (`write_array`). An answer is a line
{"arrays": n} and n arrays, or {"error", "text"}. The jobs:

* "run": the outputs of each example of one file, in the file's order.
* "time": seconds of each invocation of every file, [rounds, invocations of a turn], in turns.
* "arena": bytes of TFLite Micro's arena for one file.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import math
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import numpy as np

TURN_SECONDS = 0.03  # a turn of "time" lasts about this long, and has between these many invocations
FEWEST, MOST = 2, 30

Example = Sequence[np.ndarray]
Head = Mapping[str, Any]
File = tuple[Head, bytes, list[list[np.ndarray]]]
Outputs = Sequence[Any]


class Refused(Exception):
    """What a runtime says of a file ("refused"), of an input, or of a run ("stopped"). `args`: an answer's fields."""


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while line := requests.readline():
        head = json.loads(line)
        files = [_read_file(requests, said) for said in head["files"]]
        try:
            arrays = JOBS[head["job"]](head, files)
        except Refused as refusal:
            answers.write(json.dumps(refusal.args[0]).encode() + b"\n")
        else:
            answers.write(json.dumps({"arrays": len(arrays)}).encode() + b"\n")
            for array in arrays:
                write_array(answers, array)
        answers.flush()


def _read_file(stream: BinaryIO, said: Head) -> File:
    data = stream.read(said["bytes"])
    return said, data, [[read_array(stream) for _ in range(said["inputs"])] for _ in range(said["examples"])]


def read_array(stream: BinaryIO) -> np.ndarray:
    """One array. Raises EOFError where the stream ends before it does."""
    line = stream.readline()
    if not line:
        raise EOFError
    dtype, shape = json.loads(line)
    size = np.dtype(dtype).itemsize * int(np.prod(shape, dtype=np.int64))
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return np.frombuffer(bytearray(data), dtype).reshape(shape)


def write_array(stream: BinaryIO, array: np.ndarray) -> None:
    """One array: a line of JSON, [type, shape], and its bytes in C order."""
    array = np.asarray(array)
    stream.write(json.dumps([array.dtype.str, list(array.shape)]).encode() + b"\n" + array.tobytes())


# --- LiteRT and tf.lite ----------------------------------------------------------------------------------------------


def _library(runtime: str) -> tuple[Any, Any]:
    """The class of a runtime's interpreter, and its enumeration of op resolvers."""
    if runtime == "tf.lite":
        from tensorflow import lite

        return lite.Interpreter, lite.experimental.OpResolverType
    from ai_edge_litert import interpreter as litert

    return litert.Interpreter, litert.OpResolverType


def _interpreter(runtime: str, resolver: str, threads: int, data: bytes) -> Any:
    made, resolvers = _library(runtime)
    try:
        interpreter = made(model_content=data, experimental_op_resolver_type=resolvers[resolver], num_threads=threads)
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        raise Refused({"error": "refused", "text": str(error)}) from error
    return interpreter


def _invoked(interpreter: Any, example: Example) -> list[np.ndarray]:
    for detail, value in zip(interpreter.get_input_details(), example, strict=True):
        try:
            interpreter.set_tensor(detail["index"], value)
        except ValueError as error:
            raise Refused({"error": "input", "name": detail["name"], "text": str(error)}) from error
    try:
        interpreter.invoke()
    except RuntimeError as error:
        raise Refused({"error": "stopped", "text": str(error)}) from error
    return [interpreter.get_tensor(detail["index"]).copy() for detail in interpreter.get_output_details()]


# --- TFLite Micro ----------------------------------------------------------------------------------------------------


def _micro(said: Head, data: bytes) -> Any:
    try:
        library = importlib.import_module("tflite_micro.python.tflite_micro.runtime")
    except ImportError as error:
        raise Refused({"error": "missing", "text": str(error)}) from error
    with _explained("refused"):
        return library.Interpreter.from_bytes(data, arena_size=said["arena"])


def _invoked_micro(interpreter: Any, said: Head, example: Example) -> list[np.ndarray]:
    for position, value in enumerate(example):
        try:
            interpreter.set_input(np.ascontiguousarray(value), position)
        except ValueError as error:
            raise Refused({"error": "input", "name": said["names"][position], "text": str(error)}) from error
    with _explained("stopped"):
        interpreter.invoke()
    return [interpreter.get_output(i).copy() for i in range(said["outputs"])]


@contextlib.contextmanager
def _explained(error: str) -> Iterator[None]:
    """TFLite Micro's exceptions with its words, which stand on standard error and nowhere else."""
    said = str
    try:
        with _standard_error() as said:
            yield
    except (RuntimeError, ValueError) as exception:
        words = "; ".join(line.strip() for line in said().splitlines() if line.strip())
        raise Refused({"error": error, "text": words or str(exception)}) from exception


@contextlib.contextmanager
def _standard_error() -> Iterator[Callable[[], str]]:
    """What native code writes to standard error meanwhile; call the result to read it. It is kept there too, for the
    parent reads it where the process ends.
    """
    start = os.lseek(2, 0, os.SEEK_END)
    text: list[str] = []
    try:
        yield lambda: "".join(text)
    finally:
        text.append(os.pread(2, os.lseek(2, 0, os.SEEK_END) - start, start).decode(errors="replace"))


# --- jobs ------------------------------------------------------------------------------------------------------------


def _run(head: Head, files: Sequence[File]) -> Outputs:
    ((said, data, examples),) = files
    if head["runtime"] == "tflm":
        micro = _micro(said, data)
        found = [_invoked_micro(micro, said, example) for example in examples]
    else:
        interpreter = _interpreter(head["runtime"], head["resolver"], head["threads"], data)
        found = [_invoked(interpreter, example) for example in examples]
    return [array for outputs in found for array in outputs]


def _time(head: Head, files: Sequence[File]) -> Outputs:
    """The first invocation of a turn is not counted: it finds the caches as another file left them."""
    interpreters = [_interpreter(head["runtime"], head["resolver"], said["threads"], data) for said, data, _ in files]
    for interpreter, (_, _, (example,)) in zip(interpreters, files, strict=True):
        _invoked(interpreter, example)
    invokes = [interpreter.invoke for interpreter in interpreters]
    counts = [_invocations(invoke) for invoke in invokes]
    found: list[list[list[float]]] = [[] for _ in files]
    for i in range(head["rounds"]):
        for j in range(len(files)):
            k = (i + j) % len(files)
            found[k].append(_turn(invokes[k], counts[k]))
    return [np.array(seconds) for seconds in found]


def _turn(invoke: Callable[[], None], count: int) -> list[float]:
    invoke()
    seconds = []
    for _ in range(count):
        start = time.perf_counter()
        invoke()
        seconds.append(time.perf_counter() - start)
    return seconds


def _invocations(invoke: Callable[[], None]) -> int:
    """How many invocations make a turn, after two that warm up."""
    once = min(_turn(invoke, 2))
    return min(MOST, max(FEWEST, math.ceil(TURN_SECONDS / once)))


def _arena(head: Head, files: Sequence[File]) -> Outputs:
    ((said, data, _),) = files
    interpreter = _micro(said, data)
    with _standard_error() as words:
        interpreter.print_allocations()
    found = re.search(rf"Arena allocation {head['part']} (\d+) bytes", words())
    if found is None:
        raise Refused({"error": "no arena", "text": words()})
    return [np.array(int(found[1]))]


JOBS: dict[str, Callable[[Head, Sequence[File]], Outputs]] = {"arena": _arena, "run": _run, "time": _time}

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer
    serve(sys.stdin.buffer, answers)
