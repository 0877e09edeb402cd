"""Post-training passes beside TFLiteConverter on twenty photos that neither has seen, in one run, at full size.

    pip install 'jaxq[recipes,tensorflow]'
    python benchmarks/ptq_photos.py                        # fetches weights and photos once, about 32 MB
    python benchmarks/ptq_photos.py mobilenet_v2 --passes gptq,bias gptq,norm

Published weights of MobileNetV2-1.0 and EfficientNet-Lite0, int8, one weight scale a channel. Each writer is given ten
photos, and the file is measured on the other ten; then the halves change places. The table has the SQNR of the logits
of all twenty against the float network's, and how often the first class is the float network's.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.analyze.diff import decibels
from jaxq.export.compare_files import File
from jaxq.export.tflite_converter import convert
from jaxq.recipes import weights
from jaxq.recipes.photos import photos

NAMES = ("mobilenet_v2", "efficientnet_lite0")
PASSES = ("", "bias", "norm", "gptq,bias", "gptq,norm")
MISSING = "TensorFlow is not installed, and it is half of this benchmark. Run: pip install 'jaxq[recipes,tensorflow]'"
Writer = Callable[[Any, np.ndarray], bytes]


def by_jaxq(passes: str) -> Writer:
    """The recipe `int8`, then the passes."""

    def write(model: nnx.Module, images: np.ndarray) -> bytes:
        qmodel = jaxq.quantize(nnx.clone(model), "int8", images[:1])
        jaxq.calibrate(qmodel, images, progress=False)
        if passes:
            jaxq.ptq.improve(qmodel, images, passes=passes.split(","))
        return jaxq.export.to_tflite(qmodel, progress=False).data

    return write


def by_tensorflow(model: nnx.Module, images: np.ndarray) -> bytes:
    """jax2tf, then TFLiteConverter with its default optimization and the same images as representative data."""
    graph, state = nnx.split(model)

    def of_images(x: jax.Array) -> jax.Array:
        return nnx.merge(graph, state)(x)  # pyright: ignore[reportCallIssue]

    return convert(of_images, [images[:1]], "int8", [[images]])


def row(model: nnx.Module, x: np.ndarray, wanted: np.ndarray, by: str, write: Writer) -> str:
    """One line of the table."""
    start, half = time.process_time(), len(x) // 2
    files = [write(model, part) for part in (x[half:], x[:half])]
    seconds = (time.process_time() - start) / 2
    found = [File.of(by, data).results([[part]])[0] for data, part in zip(files, (x[:half], x[half:]), strict=True)]
    given = np.concatenate(found).reshape(wanted.shape)
    sqnr = decibels(float(np.sum(wanted**2)), float(np.sum((given - wanted) ** 2)))
    same = int(np.sum(given.argmax(-1) == wanted.argmax(-1)))
    return f"| {by} | {sqnr:.2f} | {same} of {len(x)} | {len(files[0]):,} | {seconds:.0f} |"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=NAMES)
    parser.add_argument("--passes", nargs="*", default=PASSES, help='such as gptq,bias; "" for none')
    given = parser.parse_args()
    if importlib.util.find_spec("tensorflow") is None:
        sys.exit(MISSING)
    warnings.simplefilter("ignore", jaxq.PrecisionWarning)
    print("| network, file by | SQNR, dB | same first class | bytes | CPU seconds |\n| --- | --- | --- | --- | --- |")
    for name in given.networks:
        weights.install(name)
        model, published = weights.pretrained(name), weights.checkpoint(name)
        x = published.preprocess(photos(interpolation=published.interpolation).images)
        wanted = np.asarray(nnx.jit(lambda model, x: model(x))(model, x))
        print(row(model, x, wanted, f"{name}, TFLiteConverter", by_tensorflow), flush=True)
        for passes in given.passes:
            print(row(model, x, wanted, f"{name}, jaxq, {passes or 'no pass'}", by_jaxq(passes)), flush=True)


if __name__ == "__main__":
    main()
