"""CIFAR-10 at 96 pixels: EfficientNet-Lite0 from ImageNet weights to int8.

Paper: Tan and Le 2019, https://arxiv.org/abs/1905.11946; weights: TensorFlow's. Data: CIFAR-10 (Krizhevsky 2009)
as a folder of images, or any other folder of that form; here 800 images to train on and 1,000 to test on. Cost: 27
minutes on two CPU cores that others shared. Accuracies, seed 0: float 49.5 %, with the extra epoch 55.3 %, int8 55.0 %,
the file as its training (docs/results.md has the whole ladder). Commands:

    jaxq weights efficientnet_lite0
    jaxq train recipes/cifar10_efficientnet_lite0 --data FOLDER --out build/cifar10_efficientnet_lite0
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np
from flax import nnx

from jaxq.recipes.efficientnet_lite import EfficientNetLite
from jaxq.recipes.finetune import Finetune, ladder, pretrained
from jaxq.recipes.layers import example
from jaxq.recipes.train import Training
from jaxq.recipes.weights import CHECKPOINTS

NAME = "efficientnet_lite0"
CONFIG = Finetune(
    network=lambda classes, rngs: pretrained(NAME, classes, rngs),
    mean=CHECKPOINTS[NAME].mean,
    std=CHECKPOINTS[NAME].std,
    first=Training(epochs=2.0, rate=5e-4),
    extra=Training(epochs=1.0, rate=1e-4, look=0),
    train=800,
    test=1000,
)
_SHORT = Training(epochs=1.0, batch=8, resolution=32, save=1, look=0)
SMOKE = dataclasses.replace(
    CONFIG,
    network=lambda classes, rngs: EfficientNetLite(0, classes, width=0.25, stages=((3, 1, 16, 6, 2),), rngs=rngs),
    first=_SHORT,
    extra=_SHORT,
    train=24,
    test=20,
    calibrate=16,
    verify=2,
)


def target() -> tuple[EfficientNetLite, np.ndarray]:
    """The untrained network with ten classes and an example, for `jaxq plan` and `jaxq export`."""
    model = EfficientNetLite(0, classes=10, rngs=nnx.Rngs(0))
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
