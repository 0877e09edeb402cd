"""Accuracy of a digit classifier with weights of 4 bits, not trained, after each post-training pass.

    python benchmarks/ptq.py [--float build/demo/checkpoints/float] [--steps 400] [--examples 512]

The float network of `recipes/mnist.py`, seed 0, calibrated on 250 images; passes see the first training images, no
labels. Top-1 on 1,000 test images, and the SQNR of the logits against the float network's. `--float` takes a checkpoint
of an earlier `jaxq train recipes/mnist` in place of training one.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
import warnings
from typing import Any

import numpy as np
from flax import nnx

import jaxq
from jaxq.analyze.diff import decibels
from jaxq.recipes import mnist

CASES = ((), ("bias",), ("norm",), ("gptq",), ("round",), ("gptq", "bias", "norm"), ("round", "bias", "norm"))
EQUALIZED = (("equalize",), ("equalize", "round", "bias", "norm"))  # for weights with one scale a tensor


def trained(folder: pathlib.Path | None) -> tuple[Any, Any]:
    """The float network and its data."""
    config, data = mnist.Config(), mnist._data(mnist.Config(), 0)
    with tempfile.TemporaryDirectory() as fresh:
        model = mnist.train_float(config, data, 0, folder or pathlib.Path(fresh), resume=folder is not None)
    return model, data


def quantized(model: nnx.Module, data: Any, per_channel: bool) -> Any:
    """A copy of the float network with weights of 4 bits, calibrated."""
    weights: Any = {"bits": 4, "per_channel": per_channel}
    qmodel = jaxq.quantize(nnx.clone(model), jaxq.Recipe(weights=weights), data.test_images[:1])
    jaxq.calibrate(qmodel, [data.train_images[:250]], progress=False)
    return qmodel


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--float", type=pathlib.Path, default=None, dest="folder")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--examples", type=int, default=512)
    given = parser.parse_args()
    warnings.simplefilter("ignore", jaxq.PrecisionWarning)
    model, data = trained(given.folder)
    logits = np.asarray(model(data.test_images))
    print(f"float {100 * np.mean(logits.argmax(-1) == data.test_labels):.2f} %")
    print("| weights | passes | top-1 | SQNR of logits | CPU seconds |\n| --- | --- | --- | --- | --- |")
    for per_channel in (False, True):
        for passes in CASES if per_channel else (*CASES, *EQUALIZED):
            qmodel, start = quantized(model, data, per_channel), time.process_time()
            if passes:
                images = data.train_images[: given.examples]
                jaxq.ptq.improve(qmodel, images, passes=passes, steps=given.steps)
            seconds, found = time.process_time() - start, np.asarray(qmodel(data.test_images))
            sqnr = decibels(float(np.sum(logits**2)), float(np.sum((found - logits) ** 2)))
            top = 100 * np.mean(found.argmax(-1) == data.test_labels)
            kind = "per channel" if per_channel else "per tensor"
            row = (kind, ", ".join(passes) or "none", f"{top:.2f} %", f"{sqnr:.1f} dB", f"{seconds:.0f}")
            print("| " + " | ".join(row) + " |", flush=True)


if __name__ == "__main__":
    main()
