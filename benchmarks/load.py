"""What evaluating a .tflite file's integers in JAX costs beside LiteRT itself, in turns in one run.

    python benchmarks/load.py [FILE ...] [--rounds 5] [--batch 256]

The loaded function is compiled for the batch; LiteRT runs the file as it is, one example after another, with 1 and with
2 threads. Both give the same integers, which is asserted.
"""

from __future__ import annotations

import argparse
import pathlib
import platform
import time
from collections.abc import Callable

import jax
import numpy as np
from ai_edge_litert.interpreter import Interpreter
from rich.console import Console
from rich.table import Table

import jaxq

GOLDEN = pathlib.Path(__file__).parent.parent / "tests" / "golden"
FILES = [GOLDEN / "mobilenet_v2.tflite", GOLDEN / "small_ai_edge.tflite"]


def interpreted(path: pathlib.Path, x: np.ndarray, threads: int) -> Callable[[], np.ndarray]:
    """A run of the whole batch by LiteRT."""
    interpreter = Interpreter(model_path=str(path), num_threads=threads)
    interpreter.allocate_tensors()
    into, out = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        results = []
        for example in x[:, None]:
            interpreter.set_tensor(into, example)
            interpreter.invoke()
            results.append(interpreter.get_tensor(out)[0])
        return np.stack(results)

    return run


def contestants(path: pathlib.Path, batch: int) -> dict[str, Callable[[], np.ndarray]]:
    """Each way to evaluate the file on one random batch."""
    fn = jaxq.load(path, machine=platform.machine())  # LiteRT's kernels here, not a phone's
    port = fn.inputs[0]
    x = np.random.default_rng(0).integers(-128, 128, (batch, *port.shape[1:])).astype(port.dtype)
    compiled, placed = jax.jit(fn), jax.device_put(x)
    return {
        "jaxq": lambda: np.asarray(compiled(placed)[0]),
        "LiteRT, 1 thread": interpreted(path, x, 1),
        "LiteRT, 2 threads": interpreted(path, x, 2),
    }


def seconds(runners: dict[str, Callable[[], np.ndarray]], rounds: int) -> dict[str, list[float]]:
    """Seconds of every run of every contestant, taken in turns after one that is not counted."""
    results = [run() for run in runners.values()]
    assert all((result == results[0]).all() for result in results)
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds):
        for name, run in runners.items():
            start = time.perf_counter()
            run()
            times[name].append(time.perf_counter() - start)
    return times


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=pathlib.Path, default=FILES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batch", type=int, default=256)
    options = parser.parse_args()
    what = f"jax {jax.__version__}, {jax.default_backend()}, batch {options.batch}, median of {options.rounds}"
    table = Table(title=f"examples a second of the xnnpack integers, {what}")
    for column in ("file", "jaxq", "LiteRT, 1 thread", "LiteRT, 2 threads", "ratio to 1", "ratio to 2"):
        table.add_column(column)
    for path in options.files:
        taken = seconds(contestants(path, options.batch), options.rounds)
        rates = [f"{options.batch / np.median(times):,.0f}" for times in taken.values()]
        ours, *theirs = taken.values()
        ratios = [f"{np.median(np.divide(other, ours)):.2f}" for other in theirs]
        table.add_row(path.name, *rates, *ratios)
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
