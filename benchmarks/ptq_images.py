"""Accuracy of a fine-tuned image classifier's file after post-training passes, without labels and without training.

    jaxq train recipes/cifar10_efficientnet_lite0 --data FOLDER --out build/cifar10_efficientnet_lite0
    python benchmarks/ptq_images.py cifar10_efficientnet_lite0 build/cifar10_efficientnet_lite0 --data FOLDER
    python benchmarks/ptq_images.py ... --weights int8 --calibrations      # no passes, each way to find the ranges

The float network of that run, calibrated on 256 of its training images; passes see the same images. Top-1 of the file
on LiteRT over the recipe's test images, with its standard error, and the SQNR of its logits against the float
network's. Weights: "int8, tensor" has one scale a tensor, "int8" one a channel, "int4" is the recipe's own choice.
"""

from __future__ import annotations

import argparse
import importlib
import math
import pathlib
import time
import warnings
from typing import Any, NamedTuple

import msgspec
import numpy as np
import optax
from flax import nnx

import jaxq
import jaxq.export
import jaxq.optim
from jaxq.analyze.diff import decibels
from jaxq.recipes import checkpoint, images, train
from jaxq.recipes.finetune import FOUR_BITS, PER_TENSOR, Finetune

RECIPES = {"int8": jaxq.Recipe(name="int8"), "int8, tensor": PER_TENSOR, "int4": FOUR_BITS}
CASES = {
    "int8": ((), ("bias",), ("norm",)),
    "int8, tensor": ((), ("equalize",), ("equalize", "bias"), ("equalize", "norm")),
    "int4": ((), ("bias",), ("gptq", "bias"), ("gptq", "norm"), ("round", "bias")),
}
CALIBRATIONS: dict[str, dict[str, Any]] = {  # Wu et al. 2020, table 5, and jaxq's other methods
    **{name: {"calibration": name} for name in ("minmax", "entropy", "mse", "mean")},
    **{f"{p} %": {"calibration": "percentile", "percentile": p} for p in (99.9, 99.99, 99.999, 99.9999)},
}


class Setting(NamedTuple):
    """The float network, its calibration and test inputs, the test labels, and its logits."""

    model: Any
    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray
    logits: np.ndarray


def setting(config: Finetune, run: pathlib.Path, data: pathlib.Path, seed: int) -> Setting:
    """The float network of a run, with the images that the run read."""
    side, size = config.first.resolution + config.first.resolution // 8, config.extra.resolution
    training, test = images.read_splits(data, side, config.train, config.test, seed, held=False)
    model = config.network(len(training.classes), nnx.Rngs(seed))
    optimizer = nnx.Optimizer(model, jaxq.optim.partition(optax.adamw(lambda step: 0.0), freeze=0), wrt=nnx.Param)
    with checkpoint.manager(run / "checkpoints" / "float", every=1) as checkpoints:
        checkpoint.restore(checkpoints, model, optimizer)
    model.eval()
    pick = np.random.default_rng((seed, 2)).permutation(len(training.labels))[: config.calibrate]
    chosen = config.preprocess(train.middle(training.images[pick], size))
    inputs = config.preprocess(train.middle(test.images[:], size))
    forward = nnx.jit(lambda model, x: model(x))
    logits = np.concatenate([np.asarray(forward(model, inputs[i : i + 250])) for i in range(0, len(inputs), 250)])
    return Setting(model, chosen, inputs, test.labels, logits)


def row(found: Setting, kind: str, recipe: jaxq.Recipe, passes: tuple[str, ...], steps: int) -> str:
    """One line of the table."""
    start = time.process_time()
    qmodel = jaxq.quantize(nnx.clone(found.model), recipe, found.test[:1])
    jaxq.calibrate(qmodel, found.calibration, progress=False)
    if passes:
        jaxq.ptq.improve(qmodel, found.calibration, passes=passes, steps=steps)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    seconds = time.process_time() - start
    ours = np.concatenate([artifact.run(found.test[i : i + 250])[0] for i in range(0, len(found.test), 250)])
    sqnr = decibels(float(np.sum(found.logits**2)), float(np.sum((ours - found.logits) ** 2)))
    cells = (kind, ", ".join(passes) or "none", top(ours, found.labels), f"{sqnr:.1f} dB", f"{seconds:.0f}")
    return "| " + " | ".join(cells) + " |"


def top(logits: np.ndarray, labels: np.ndarray) -> str:
    """Top-1 with its standard error."""
    share = float(np.mean(logits.argmax(-1) == labels))
    return f"{100 * share:.2f} ± {100 * math.sqrt(share * (1 - share) / len(labels)):.1f} %"


def main() -> None:
    """Print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", help="the name of a recipe that fine-tunes on a folder of images")
    parser.add_argument("run", type=pathlib.Path, help="what it was given as --out")
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--weights", choices=RECIPES, nargs="+", default=list(RECIPES))
    parser.add_argument(
        "--calibrations", action="store_true", help="compare calibration methods in the place of passes"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400, help="of each op of the pass `round`")
    given = parser.parse_args()
    warnings.simplefilter("ignore", jaxq.PrecisionWarning)
    config = importlib.import_module(f"jaxq.recipes.{given.recipe}").CONFIG
    found = setting(config, given.run, given.data, given.seed)
    print(f"float {top(found.logits, found.labels)}")
    print("| weights | passes | top-1 | SQNR of logits | CPU seconds |\n| --- | --- | --- | --- | --- |")
    for kind in given.weights:
        if given.calibrations:
            for name, chosen in CALIBRATIONS.items():
                activations = msgspec.structs.replace(RECIPES[kind].activations, **chosen)
                recipe = msgspec.structs.replace(RECIPES[kind], activations=activations)
                print(row(found, f"{kind}, {name}", recipe, (), given.steps), flush=True)
            continue
        for passes in CASES[kind]:
            print(row(found, kind, RECIPES[kind], passes, given.steps), flush=True)


if __name__ == "__main__":
    main()
