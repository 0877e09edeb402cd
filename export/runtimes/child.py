"""LiteRT, tf.lite or TFLite Micro in a process of its own: a kernel that aborts is an error, Ctrl-C ends nothing in
the middle.

One process serves all runs of a runtime, started by the first (about 0.3 s; some seconds for TensorFlow) and again
after a death.
"""

from __future__ import annotations

import atexit
import dataclasses
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from jaxq.errors import ExportError, InputError
from jaxq.export.runtimes.interpreters import INTERPRETERS
from jaxq.export.runtimes.worker import read_array, write_array

WORKER = pathlib.Path(__file__).with_name("worker.py")
SAID = 2000  # characters of what the process said last


class Died(Exception):
    """The process ended. `args`: how, and what it said last."""


class Missing(Exception):
    """The runtime is not installed."""


@dataclasses.dataclass
class _Held:
    """The process that serves, and whose child it is: after a fork the other's is not ours."""

    process: subprocess.Popen[bytes] | None = None
    said: Any = None
    owner: int = 0


TFLM = "tflm"
_held, _lock = {runtime: _Held() for runtime in (*INTERPRETERS, TFLM)}, threading.Lock()


class File(NamedTuple):
    """A .tflite file, the inputs of each example in the file's order and shapes, and what the job needs to know."""

    data: bytes
    examples: Sequence[Sequence[np.ndarray]]
    said: Mapping[str, Any] = {}


def run(
    data: bytes, examples: Sequence[Sequence[np.ndarray]], resolver: str, threads: int, runtime: str = "litert"
) -> list[list[np.ndarray]]:
    """The outputs of each example, in the file's order.

    Args:
      data: a .tflite file.
      examples: the inputs of each, in the file's order and shapes.
      resolver: the name of the runtime's op resolver, "AUTO" (XNNPACK) or "BUILTIN_REF".
      threads: of the runtime.
      runtime: "litert" or "tf.lite".

    Raises: as `ask`.
    """
    title = INTERPRETERS[runtime].title
    refuses = f"{title} ({'xnnpack' if resolver == 'AUTO' else 'reference'})"
    head = {"job": "run", "resolver": resolver, "threads": threads}
    return by_example(ask(runtime, head, [File(data, examples)], title, refuses), examples)


def by_example(arrays: list[np.ndarray], examples: Sequence[Any]) -> list[list[np.ndarray]]:
    """The outputs of a run, apart."""
    count = len(arrays) // max(len(examples), 1)
    return [arrays[i : i + count] for i in range(0, len(arrays), max(count, 1))] if count else [[] for _ in examples]


def ask(
    runtime: str, head: Mapping[str, Any], files: Sequence[File], title: str, refuses: str | None = None
) -> list[np.ndarray]:
    """What a runtime's process answers (`jaxq.export.runtimes.worker`).

    Args:
      runtime: "litert", "tf.lite" or "tflm".
      head: the job and what it needs.
      files: what it works on.
      title: the runtime's name in texts.
      refuses: the same where it refuses a file.

    Raises: ExportError where the runtime refuses a file or stops; InputError for an input; Missing where it is not
      installed; Died where the process ends.
    """
    with _lock:
        try:
            found = _exchange(_process(runtime), {**head, "runtime": runtime}, files)
        except (BrokenPipeError, EOFError, ConnectionError) as e:
            raise Died(*_end(_held[runtime])) from e
        except BaseException:  # Ctrl-C in the middle of an answer: the next run starts afresh
            _end(_held[runtime], kill=True)
            raise
    return found if isinstance(found, list) else _refuse(found, title, refuses or title)


def _refuse(found: dict[str, Any], title: str, refuses: str) -> list[np.ndarray]:
    text = found["text"]
    if found["error"] == "missing":
        raise Missing(text)
    if found["error"] == "input":
        raise InputError(f"{title} refuses the input {found['name']!r}: {text}")
    if found["error"] == "refused":
        raise ExportError(f"{refuses} refuses the file: {text}")
    if found["error"] == "no arena":
        raise ExportError(f"{title} reports no arena: {text!r}. Use another version of its package.")
    raise ExportError(f"{title} stopped while it ran the file: {text}")


def _process(runtime: str) -> subprocess.Popen[bytes]:
    """The process that serves a runtime, started if there is none."""
    held = _held[runtime]
    if held.process is not None and held.owner == os.getpid() and held.process.poll() is not None:
        _end(held)
    if held.process is None or held.owner != os.getpid():
        held.said = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        held.process = subprocess.Popen(
            [sys.executable, str(WORKER)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=held.said, start_new_session=True,
        )  # fmt: skip
        held.owner = os.getpid()
    return held.process


def _exchange(
    process: subprocess.Popen[bytes], head: Mapping[str, Any], files: Sequence[File]
) -> list[np.ndarray] | dict[str, Any]:
    """Send a request and read its answer."""
    assert process.stdin is not None and process.stdout is not None
    requests: BinaryIO = process.stdin  # type: ignore[assignment]
    sizes = [{"bytes": len(f.data), "examples": len(f.examples), "inputs": len(f.examples[0]) if f.examples else 0}
             for f in files]  # fmt: skip
    said = [{**f.said, **size} for f, size in zip(files, sizes, strict=True)]
    requests.write(json.dumps({**head, "files": said}).encode() + b"\n")
    for file in files:
        requests.write(file.data)
        for array in (array for example in file.examples for array in example):
            write_array(requests, array)
    requests.flush()
    line = process.stdout.readline()
    if not line:
        raise EOFError
    answer = json.loads(line)
    if "error" in answer:
        return answer
    return [read_array(process.stdout) for _ in range(answer["arrays"])]  # type: ignore[arg-type]


@atexit.register
def _at_exit() -> None:
    for held in _held.values():
        if held.process is not None and held.owner == os.getpid():
            _end(held, kill=True)


def _end(held: _Held, kill: bool = False) -> tuple[str, str]:
    """Wait for the process to end: how it did, and what it said last."""
    process, held.process = held.process, None
    if process is None:
        return "ended", ""
    if kill:
        process.kill()
    for pipe in (process.stdin, process.stdout):
        try:
            assert pipe is not None
            pipe.close()
        except OSError:  # what was not yet sent
            pass
    code = process.wait()
    with held.said as said:
        said.seek(0)
        words = said.read().decode(errors="replace")[-SAID:]
    how = signal.Signals(-code).name if code < 0 else f"exit code {code}"
    return how, "; ".join(line for line in words.splitlines() if line.strip() and "XNNPACK delegate" not in line)
