"""Accuracy of a digit classifier quantized without training, by each calibration method, where calibration data has
outliers.

    python benchmarks/calibrators.py [--share 0.001] [--factor 20] [--float build/demo/checkpoints/float]
    python benchmarks/calibrators.py --numbers      # of random numbers alone: what each range keeps

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
from jaxq.calibration import group_values, range_of
from jaxq.observers import METHODS, Batch, Wanted
from jaxq.plan.scheme import Grid
from jaxq.quantization import bind
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


def kept(noise: tuple[float, float]) -> Table:
    """What each method's range does to a million half-normal numbers of which a share are outliers, on 256 levels."""
    rng, grid = np.random.default_rng(0), Grid(-128, 127, symmetric=False, nonnegative=True)
    clean = np.abs(rng.normal(size=1_000_000)).astype(np.float32)
    spoilt = with_outliers(clean, rng, *noise)
    table = Table("range", "upper end", "mean squared error", "of it clipping", "SQNR of the rest, dB")
    ends = {f"{m} {p or ''}": _end(m, p, spoilt, grid) for m, p in CASES if m != "mean"}
    tried = np.linspace(1.0, float(spoilt.max()), 400)
    ends["least error, by trying 400"] = float(tried[np.argmin([np.mean(_error(spoilt, h) ** 2) for h in tried])])
    for name, high in ends.items():
        error, rest = _error(spoilt, high) ** 2, _error(clean, high) ** 2
        clipped = float(np.sum(error[spoilt > high]) / error.size)
        sqnr = 10 * np.log10(np.mean(clean**2) / np.mean(rest))
        table.add_row(name, f"{high:.1f}", f"{np.mean(error):.4f}", f"{clipped:.4f}", f"{sqnr:.1f}")
    return table


def _end(method: str, percentile: float, x: np.ndarray, grid: Grid) -> float:
    observer = METHODS[method]
    state = observer.update(observer.start(), Batch(np.array([x.min(), x.max()]), [x]))
    return observer.finish(state, Wanted(grid, percentile))[1]


def _error(x: np.ndarray, high: float) -> np.ndarray:
    return np.clip(np.rint(x / (high / 255)), 0, 255) * (high / 255) - x


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--share", type=float, default=0.001)
    parser.add_argument("--factor", type=float, default=20.0)
    parser.add_argument("--float", type=pathlib.Path, default=None, dest="folder")
    parser.add_argument("--numbers", action="store_true")
    given = parser.parse_args()
    if given.numbers:
        Console().print(kept((given.share, given.factor)))
        return
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
