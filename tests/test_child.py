"""Runtimes run in a process of their own: what ends it is an error with the operator's name, and Ctrl-C is Ctrl-C."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess
import sys
import threading
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from jaxq.errors import ExportError
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.runtimes import child, litert

CLASSES = 600


def file_of(fn: Any, x: np.ndarray) -> jaxq.export.Artifact:
    q = jaxq.quantize(fn, "int8-float-io", {}, x[:1])
    return jaxq.export.to_tflite(q, {}, jaxq.calibrate(q, [x], {}, q.init({}), progress=False))


@pytest.fixture(scope="module")
def aborting() -> jaxq.export.Artifact:
    """The reference SOFTMAX aborts where the exponentials sum to 512 or more; XNNPACK's does not."""
    x = np.random.default_rng(0).normal(size=(8, CLASSES)).astype(np.float32)
    return file_of(lambda p, x: jax.nn.softmax(jnp.maximum(x, -1.0) * 2.0), x)


def test_a_kernel_that_aborts_is_an_error_that_names_the_operator(aborting: jaxq.export.Artifact) -> None:
    equal = [np.zeros((1, CLASSES), np.float32)]
    with pytest.raises(ExportError, match=r"LiteRT \(reference\) ended its process \(SIGABRT\) in SOFTMAX") as error:
        litert.run(aborting.data, equal, "reference")
    assert "The scales there are: " in str(error.value) and "Rule(..., float=True)" in str(error.value)
    found = litert.run(aborting.data, equal, "xnnpack")  # served again
    assert isinstance(found, tuple) and found[0].shape == (1, CLASSES)


def test_the_process_is_kept_between_runs_and_started_again(aborting: jaxq.export.Artifact) -> None:
    x = [np.ones((1, CLASSES), np.float32) * np.arange(CLASSES, dtype=np.float32)]
    litert.run(aborting.data, x, "xnnpack")
    first = child._held["litert"].process
    litert.run(aborting.data, x, "xnnpack")
    assert first is not None and child._held["litert"].process is first
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    litert.run(aborting.data, x, "xnnpack")
    assert child._held["litert"].process is not first


def test_runs_of_several_threads_do_not_mix(aborting: jaxq.export.Artifact) -> None:
    inputs = [np.full((1, CLASSES), -5.0, np.float32) for _ in range(8)]
    for i, array in enumerate(inputs):
        array[0, 10 * i] = 5.0
    found: dict[int, Any] = {}

    def run(i: int) -> None:
        found[i] = litert.run(aborting.data, [inputs[i]], "xnnpack")[0]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [int(np.argmax(found[i])) for i in range(8)] == [10 * i for i in range(8)]


def added(scale: float) -> Program:
    """ADD of two inputs of scale 1, whose output has this scale."""
    grids = (Quantization.of(1.0), Quantization.of(1.0), Quantization.of(scale))
    tensors = tuple(Tensor(n, (1, 4), "int8", grid) for n, grid in zip("aby", grids, strict=True))
    return Program(tensors, (Operator("ADD", (0, 1), (2,), {}),), (0, 1), (2,))


def test_a_file_that_aborts_is_not_timed_but_refused() -> None:
    """ADD's multiplier is a number below 1, or TFLite ends the process."""
    x = [np.ones((1, 4), np.int8)] * 2
    timed = [litert.Timed(write(added(scale)), x, 1) for scale in (1.0, 1e-9)]
    with pytest.raises(ExportError, match=r"LiteRT \(xnnpack\) ended its process \(SIGABRT\) in ADD, which makes y"):
        litert.timed(timed, 1)
    (seconds,) = litert.timed(timed[:1], 2)
    assert seconds.shape[0] == 2 and (seconds > 0).all()


def test_a_process_that_ends_while_it_is_timed_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(process: Any, *_: Any) -> None:
        process.kill()
        raise EOFError

    good = litert.Timed(write(added(1.0)), [np.ones((1, 4), np.int8)] * 2, 1)
    monkeypatch.setattr(litert, "_results", lambda *_: [])
    monkeypatch.setattr(child, "_exchange", killed)
    with pytest.raises(ExportError, match=r"^LiteRT ended its process \(SIGKILL\) while it was timed\.$"):
        litert.timed([good], 1)


def test_scales_beyond_all_bounds_are_refused_by_name() -> None:
    x = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    q = jaxq.quantize(lambda p, x: jnp.maximum(x * np.float32(1e30), 0.0), "int8", {}, x[:1])
    ranges = jaxq.calibrate(q, [x], {}, q.init({}), progress=False)
    with pytest.raises(jaxq.errors.RangeError, match="has scale .*e\\+27: kernels take up to 1.8e\\+19"):
        jaxq.export.to_tflite(q, {}, ranges)


INTERRUPTED = """
import signal, sys, threading, os, time
from jaxq.cli import main
from jaxq.export.runtimes import child
exchange = child._exchange
def late(*arguments):
    threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
    time.sleep(0.1)
    for _ in range(10000):
        exchange(*arguments)
child._exchange = late
sys.argv = ["jaxq", "verify", sys.argv[1], "--random", "2"]
main()
"""


def test_an_interrupt_while_litert_runs_is_130(aborting: jaxq.export.Artifact, tmp_path: pathlib.Path) -> None:
    path = aborting.save(tmp_path / "m.tflite")
    command = [sys.executable, "-c", INTERRUPTED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (130, "interrupted; nothing was written\n")
