"""A process that runs LiteRT, or TensorFlow's tf.lite, for another process.

`python worker.py` takes requests on standard input and gives answers on standard output. It is run by its path and
imports nothing of jaxq, so that it starts in a fraction of a second. A kernel that aborts or crashes ends this process
and not the user's (`jaxq.export.runtimes.child`).

A request is a line of JSON {"runtime", "bytes", "resolver", "threads", "examples", "inputs"}, the file's bytes, and the
arrays of every example (`write_array`). An answer is a line {"outputs": n} with n arrays for each example, or {"error",
"text"}.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any, BinaryIO

import numpy as np


def serve(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answer requests until there are no more."""
    while line := requests.readline():
        head = json.loads(line)
        data = requests.read(head["bytes"])
        examples = [[read_array(requests) for _ in range(head["inputs"])] for _ in range(head["examples"])]
        found = _answer(data, head["runtime"], head["resolver"], head["threads"], examples)
        if isinstance(found, dict):
            answers.write(json.dumps(found).encode() + b"\n")
        else:
            answers.write(json.dumps({"outputs": len(found[0]) if found else 0}).encode() + b"\n")
            for array in (array for outputs in found for array in outputs):
                write_array(answers, array)
        answers.flush()


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


def _library(runtime: str) -> tuple[Any, Any]:
    """The class of a runtime's interpreter, and its enumeration of op resolvers."""
    if runtime == "tf.lite":
        from tensorflow import lite

        return lite.Interpreter, lite.experimental.OpResolverType
    from ai_edge_litert import interpreter as litert

    return litert.Interpreter, litert.OpResolverType


def _answer(data: bytes, runtime: str, resolver: str, threads: int, examples: list[list[np.ndarray]]) -> Any:
    """The outputs of each example, or what went wrong: the file ("refused"), an input, or the run ("stopped")."""
    made, resolvers = _library(runtime)
    try:
        interpreter = made(
            model_content=data,
            experimental_op_resolver_type=resolvers[resolver],
            num_threads=threads,
        )
        interpreter.allocate_tensors()
    except (RuntimeError, ValueError) as error:
        return {"error": "refused", "text": str(error)}
    found = []
    for example in examples:
        for detail, value in zip(interpreter.get_input_details(), example, strict=True):
            try:
                interpreter.set_tensor(detail["index"], value)
            except ValueError as error:
                return {"error": "input", "name": detail["name"], "text": str(error)}
        try:
            interpreter.invoke()
        except RuntimeError as error:
            return {"error": "stopped", "text": str(error)}
        found.append([interpreter.get_tensor(detail["index"]).copy() for detail in interpreter.get_output_details()])
    return found


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what native code prints is no answer
    serve(sys.stdin.buffer, answers)
