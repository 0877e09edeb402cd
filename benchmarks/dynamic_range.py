"""Dynamic range by jaxq and by jax2tf with TFLiteConverter, in one run: logits beside the float network's, and bytes.

pip install 'jaxq[recipes,tensorflow]'
python benchmarks/dynamic_range.py             # fetches weights and photos once, about 32 MB
python benchmarks/dynamic_range.py --write     # and puts the table into docs/results.md

Published weights of MobileNetV2-1.0 and EfficientNet-Lite0, weights in int8 per channel, float activations that the
kernels quantize as they run; no data is seen by either. Both files run on the same runtime, one photo at a time.
"""

from __future__ import annotations

import importlib.util
import pathlib
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.export.flatbuffer.read import read
from jaxq.export.runtimes import litert
from jaxq.export.tflite_converter import convert
from jaxq.recipes import weights
from jaxq.recipes.photos import photos

NAMES = {"mobilenet_v2": "MobileNetV2-1.0", "efficientnet_lite0": "EfficientNet-Lite0"}
FAMILIES = ("xnnpack", "reference")
WRITERS = ("jaxq", "TFLiteConverter")
RESULTS = pathlib.Path(__file__).resolve().parent.parent / "docs" / "results.md"
BEGIN, END = "<!-- benchmarks/dynamic_range.py begins -->\n", "<!-- benchmarks/dynamic_range.py ends -->\n"
MISSING = "TensorFlow is not installed, and it is half of this benchmark. Run: pip install 'jaxq[recipes,tensorflow]'"


def by_jaxq(model: nnx.Module, images: np.ndarray) -> bytes:
    """The recipe `dynamic-range-int8`."""
    return jaxq.export.to_tflite(jaxq.quantize(model, "dynamic-range-int8", images[:1]), progress=False).data


def by_tensorflow(model: nnx.Module, images: np.ndarray) -> bytes:
    """jax2tf, then TFLiteConverter with its default optimization and no representative data."""
    return convert(of_images(model), [images[:1]], "dynamic-range-int8")


def of_images(model: nnx.Module) -> Callable[[jax.Array], jax.Array]:
    """A model as a function of its images."""
    graph, state = nnx.split(model)
    return lambda x: nnx.merge(graph, state)(x)  # pyright: ignore[reportCallIssue]


def logits(data: bytes, x: np.ndarray, family: str) -> np.ndarray:
    """What a file gives on LiteRT, one photo at a time."""
    return np.concatenate([np.asarray(litert.run(data, [x[i : i + 1]], family)[0]) for i in range(len(x))])


def decibels(found: np.ndarray, wanted: np.ndarray) -> float:
    """The power of the float logits over that of the error."""
    return float(10 * np.log10(np.mean(wanted**2) / np.mean((found - wanted) ** 2)))


def integer_kernels(data: bytes) -> int:
    """Operators whose weights are integers."""
    program = read(data)
    positions = [op.inputs[1] for op in program.operators if op.kind.endswith(("CONV_2D", "FULLY_CONNECTED"))]
    return sum(program.tensors[i].dtype == "int8" for i in positions)


def rows(name: str) -> list[list[str]]:
    """A row for each writer of a network's file."""
    weights.install(name)
    model, published = weights.pretrained(name), weights.checkpoint(name)
    x = published.preprocess(photos(interpolation=published.interpolation).images)
    wanted = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))
    found = []
    for title, writer, make in zip((NAMES[name], ""), WRITERS, (by_jaxq, by_tensorflow), strict=True):
        data = make(model, x)
        given = {family: logits(data, x, family) for family in FAMILIES}
        same = int(np.sum(given["xnnpack"].argmax(-1) == wanted.argmax(-1)))
        noise = [f"{decibels(y, wanted):.2f}" for y in given.values()]
        found.append([title, writer, f"{len(data):,}", f"{integer_kernels(data)}", *noise, f"{same} of {len(x)}"])
    return found


def write(table: str) -> None:
    """Put the table between its two marks in docs/results.md."""
    before, rest = RESULTS.read_text().split(BEGIN)
    RESULTS.write_text(f"{before}{BEGIN}{table}\n{rest[rest.index(END) :]}")


def main() -> None:
    """Print the table; with --write, into docs/results.md too."""
    if importlib.util.find_spec("tensorflow") is None:
        sys.exit(MISSING)
    found: list[Any] = [row for name in NAMES for row in rows(name)]
    import tensorflow as tf

    head = ["network", "file by", "bytes", "int8 kernels", *(f"SQNR, {f}, dB" for f in FAMILIES), "same top-1"]
    lines = [f"| {' | '.join(row)} |".replace("  ", " ") for row in (head, ["---"] * len(head), *found)]
    said = f"jax {jax.__version__}, tensorflow {tf.__version__}, {litert.runtime_version(FAMILIES)}"
    print(said + "\n\n" + "\n".join(lines))
    if "--write" in sys.argv[1:]:
        write("\n".join(lines))


if __name__ == "__main__":
    main()
