"""Accuracy of a digit classifier quantized without training, by each calibration method, where calibration data has
outliers.

    python benchmarks/calibrators.py [--share 0.001] [--factor 20] [--float build/demo/checkpoints/float]

The float network of `recipes/mnist.py` is calibrated on 500 images. Of every activation that calibration sees, a
random share is multiplied by a factor; the test images are as they are. The range of each tensor is what the method
finds in that. `--float` takes a checkpoint of an earlier `jaxq train recipes/mnist` in place of training one.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.calibrate import group_values, range_of
from jaxq.observers import METHODS, Batch, Wanted
from jaxq.quantize import bind
from jaxq.recipes import loop, mnist

CASES = [("minmax", 0.0), ("mean", 0.0), ("mse", 0.0), ("entropy", 0.0)]
CASES += [("percentile", p) for p in (99.99, 99.9, 99.5)]
EXAMPLES, BATCH = 500, 100


def trained(folder: pathlib.Path | None) -> tuple[Any, Any]:
    """The float network and its data."""
    config, data = mnist.Config(), mnist._data(mnist.Config(), 0)
    with tempfile.TemporaryDirectory() as fresh:
        model = mnist.train_float(config, data, 0, folder or pathlib.Path(fresh), resume=folder is not None)
    return model, data


def accuracy(model: Any, images: np.ndarray, data: Any, case: tuple[str, float], noise: tuple[float, float]) -> float:
    """Of the network with ranges from data with outliers, in per cent."""
    method, percentile = case
    q = jaxq.quantize(model, {"activations": {"calibration": "mse"}}, images[:1])  # whose observer reads all numbers
    captured, states = q.captured(images[:BATCH]), {}
    read, rng = jax.jit(lambda p, x: group_values(captured.plan, p, x)), np.random.default_rng(1)
    observer, groups = METHODS[method], captured.plan.groups
    for start in range(0, len(images), BATCH):
        _, values = read(jax.tree.leaves(bind(q).params), (images[start : start + BATCH],))
        for name, arrays in values.items():
            spoilt = [with_outliers(np.asarray(a), rng, *noise) for a in arrays]
            ends = np.array([min(a.min() for a in spoilt), max(a.max() for a in spoilt)])
            states[name] = observer.update(states.get(name, observer.start()), Batch(ends, spoilt))
    found = {n: observer.finish(s, Wanted(groups[n].grid, percentile)) for n, s in states.items()}
    q.set_ranges({name: range_of(groups[name], *pair) for name, pair in found.items()})
    return 100 * loop.accuracy(q, data.test_images, data.test_labels)


def with_outliers(x: np.ndarray, rng: np.random.Generator, share: float, factor: float) -> np.ndarray:
    """`x` with a random share of its numbers multiplied by a factor."""
    return x * np.where(rng.random(x.shape) < share, np.float32(factor), np.float32(1.0))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.001)
    parser.add_argument("--factor", type=float, default=20.0)
    parser.add_argument("--float", type=pathlib.Path, default=None, dest="folder")
    given = parser.parse_args()
    model, data = trained(given.folder)
    whole = 100 * loop.accuracy(model, data.test_images, data.test_labels)
    noise = given.share, given.factor
    table = Table("calibration", "clean", "with outliers", title=f"float {whole:.2f} %")
    for case in CASES:
        clean, spoilt = (accuracy(model, data.train_images[:EXAMPLES], data, case, n) for n in ((0.0, 1.0), noise))
        table.add_row(f"{case[0]} {case[1] or ''}", f"{clean:.2f}", f"{spoilt:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
