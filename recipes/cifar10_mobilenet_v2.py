"""CIFAR-10 at 96 pixels: MobileNetV2-1.0 from ImageNet weights to int8 and to 4-bit weights.

Paper: Sandler et al. 2018, https://arxiv.org/abs/1801.04381; weights: torchvision's. Data: CIFAR-10 (Krizhevsky 2009)
as a folder of images, or any other folder of that form; here 2,000 images to train on and 2,000 to test on. Cost: 76
minutes on two CPU cores that others shared. Accuracies, seed 0: float 70.3 %, with the extra epoch 71.1 %, int8 71.2 %,
4-bit weights 70.2 %, the files as their training (docs/results.md has the whole ladder). Commands:

    jaxq weights mobilenet_v2
    jaxq train recipes/cifar10_mobilenet_v2 --data FOLDER --out build/cifar10_mobilenet_v2
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
from flax import nnx

from jaxq.recipes.finetune import Finetune, ladder, pretrained
from jaxq.recipes.layers import example
from jaxq.recipes.mobilenet_v2 import MobileNetV2
from jaxq.recipes.train import Training
from jaxq.recipes.weights import CHECKPOINTS

NAME = "mobilenet_v2"
CONFIG = Finetune(
    network=lambda classes, rngs: pretrained(NAME, classes, rngs),
    mean=CHECKPOINTS[NAME].mean,
    std=CHECKPOINTS[NAME].std,
    first=Training(epochs=2.0, rate=5e-4),
    extra=Training(epochs=1.0, rate=1e-4),
    train=2000,
    test=2000,
    four_bits=True,
)
_SHORT = Training(epochs=1.0, batch=8, resolution=32, save=1, look=0)
SMOKE = dataclasses.replace(
    CONFIG,
    network=lambda classes, rngs: MobileNetV2(0.25, classes, stages=((6, 16, 1, 2),), rngs=rngs),
    first=_SHORT,
    extra=_SHORT,
    train=24,
    test=20,
    calibrate=16,
    verify=2,
)


def target() -> tuple[MobileNetV2, np.ndarray]:
    """The untrained network with ten classes and an example, for `jaxq plan` and `jaxq export`."""
    model = MobileNetV2(classes=10, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(CONFIG.first.resolution)


def run(
    out: pathlib.Path, *, data: pathlib.Path | None = None, seed: int = 0, smoke: bool = False, resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Run the recipe on the images in `data`; returns the summary. With `smoke` a small random network, a few steps."""
    return ladder(SMOKE if smoke else CONFIG, out, data=data, smoke=smoke, seed=seed, resume=resume, force=force)


def smoke(out: pathlib.Path) -> dict[str, Any]:
    """A run of seconds on made-up images, without downloads: that everything works, not how well."""
    return run(out, smoke=True)
