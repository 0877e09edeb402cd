"""MobileNetV2-1.0 in int8, by jaxq and by jax2tf with TFLiteConverter: time, size, latency, agreement, in one run.

pip install 'jaxq[recipes,tensorflow]'
python benchmarks/mobilenet.py             # fetches weights and photos once, about 32 MB
python benchmarks/mobilenet.py --write     # and puts the table into docs/results.md

Post-training on both sides: the published weights, calibrated by min and max on the same twenty photos, int8 at both
ends, weights per channel. Both are made three times in turns, and the median is taken; the files' latencies are
measured in turns too.
"""

from __future__ import annotations

import importlib.util
import pathlib
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.export.flatbuffer.read import read
from jaxq.export.io_formulas import dequantized, formula, quantized
from jaxq.export.runtimes import litert
from jaxq.export.runtimes.bench import Contestant, measure
from jaxq.export.tflite_converter import convert
from jaxq.recipes import weights
from jaxq.recipes.photos import photos

NAME, REPEATS, ROUNDS = "mobilenet_v2", 3, 200
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- benchmarks/mobilenet.py begins -->\n", "<!-- benchmarks/mobilenet.py ends -->\n"
MISSING = "TensorFlow is not installed, and it is half of this benchmark. Run: pip install 'jaxq[recipes,tensorflow]'"


class Made(NamedTuple):
    """A file, the seconds from the float network to it, and those of its export alone."""

    data: bytes
    whole: float
    export: float


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What a call gives, and the seconds it took."""
    start = time.perf_counter()
    found = call()
    return found, time.perf_counter() - start


def by_jaxq(model: nnx.Module, images: np.ndarray) -> Made:
    """quantize, calibrate on all images, to_tflite; and to_tflite alone."""
    qmodel, planned = timed(lambda: jaxq.quantize(model, "int8", images[:1]))
    batches = [images[i : i + 1] for i in range(len(images))]
    _, calibrated = timed(lambda: jaxq.calibrate(qmodel, batches, progress=False))
    artifact, written = timed(lambda: jaxq.export.to_tflite(qmodel, progress=False))
    return Made(artifact.data, planned + calibrated + written, written)


def by_tensorflow(model: nnx.Module, images: np.ndarray) -> Made:
    """jax2tf, then TFLiteConverter: calibrated on all images, and on one, which is nearly the export alone."""
    graph, state = nnx.split(model)

    def forward(x: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x)  # pyright: ignore[reportCallIssue]

    data, whole = timed(lambda: convert(forward, [images[:1]], "int8", [[images]]))
    _, alone = timed(lambda: convert(forward, [images[:1]], "int8", [[images[:1]]]))
    return Made(data, whole, alone)


def logits(data: bytes, x: np.ndarray) -> np.ndarray:
    """What a file gives on LiteRT for real numbers, as real numbers."""
    program = read(data)
    given, taken = (formula("", program.tensors[end[0]]) for end in (program.inputs, program.outputs))
    outputs = litert.run(data, [quantized(x, given)], "xnnpack")
    assert isinstance(outputs, tuple)
    return dequantized(outputs[0], taken)


def agreement(found: np.ndarray, wanted: np.ndarray) -> str:
    """Photos with the float network's first class; and the noise in the logits, in dB below them."""
    same = int(np.sum(found.argmax(-1) == wanted.argmax(-1)))
    noise = 10 * np.log10(np.mean(wanted**2) / np.mean((found - wanted) ** 2))
    return f"{same} of {len(found)}, {noise:.1f} dB"


def top(found: np.ndarray, labels: np.ndarray) -> str:
    """Photos whose label is the first class, and among the first five."""
    order = np.argsort(-found, axis=-1)
    return ", ".join(f"{int(np.sum(order[:, :k] == labels[:, None]))} of {len(labels)}" for k in (1, 5))


def import_seconds(statement: str) -> float:
    """Seconds of a fresh interpreter that runs a statement; the least of three."""
    return min(timed(lambda: subprocess.run([sys.executable, "-c", statement], check=True))[1] for _ in range(3))


def rows() -> list[tuple[str, ...]]:
    """The table's rows."""
    weights.install(NAME)
    model, data = weights.pretrained(NAME), photos()
    x = weights.checkpoint(NAME).preprocess(data.images)
    wanted = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))
    makers = (by_jaxq, by_tensorflow)
    made = [[make(model, x) for make in makers] for _ in range(REPEATS)]
    files = [each.data for each in made[-1]]
    seconds = {
        what: [float(np.median([getattr(m[i], what) for m in made])) for i in range(2)] for what in ("whole", "export")
    }
    imports = [
        import_seconds("import jaxq.export"),
        import_seconds("import tensorflow; from jax.experimental import jax2tf"),
    ]
    blank = [np.zeros((1, 224, 224, 3), np.int8)]
    turns = measure([Contestant(f"{i}", file, 1, blank) for i, file in enumerate(files)], ROUNDS)
    found = [logits(file, x) for file in files]
    return [
        compared("export, s", seconds["export"]),
        compared("float network to file, with calibration, s", seconds["whole"], "{:.1f}"),
        compared("import, s", imports, "{:.1f}"),
        compared("bytes", [len(file) for file in files], "{:,}", "{:.3f}"),
        ("latency, 1 thread, ms", *(f"{1e3 * each.median:.2f}" for each in turns), f"{turns[0].ratio(turns[1]):.3f}"),
        compared("its least, ms", [1e3 * each.least for each in turns], ratio="{:.3f}"),
        ("as the float network's logits", *(agreement(each, wanted) for each in found), ""),
        (f"top-1, top-5 (float: {top(wanted, data.labels)})", *(top(each, data.labels) for each in found), ""),
    ]  # fmt: skip


def compared(what: str, numbers: list[Any], shape: str = "{:.2f}", ratio: str = "{:.2f}") -> tuple[str, ...]:
    """A row of two numbers and their ratio."""
    return what, *(shape.format(number) for number in numbers), ratio.format(numbers[0] / numbers[1])


def write(table: str) -> None:
    """Put the table between its two marks in docs/results.md."""
    text = RESULTS.read_text()
    before, rest = text.split(BEGIN)
    RESULTS.write_text(f"{before}{BEGIN}{table}\n{rest[rest.index(END) :]}")


def main() -> None:
    """Print the table; with --write, into docs/results.md too."""
    if importlib.util.find_spec("tensorflow") is None:
        sys.exit(MISSING)
    found = rows()
    import tensorflow as tf

    head = ("", "jaxq", f"jax2tf, TFLiteConverter {tf.__version__}", "ratio")
    lines = [f"| {' | '.join(row)} |".replace("  ", " ") for row in (head, ("---",) * 4, *found)]
    print(f"jax {jax.__version__}, {litert.runtime_version(('xnnpack',))}\n\n" + "\n".join(lines))
    if "--write" in sys.argv[1:]:
        write("\n".join(lines))


if __name__ == "__main__":
    main()
