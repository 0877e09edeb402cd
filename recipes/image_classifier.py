"""An image classifier of one's own: a folder of images, ImageNet weights, an int8 file with its proof and report.

Data: FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg; any number of classes. The method is that of
`jaxq.recipes.finetune`: fine-tune in float, calibrate, fine-tune on integers, export. Commands:

    jaxq weights mobilenet_v2
    jaxq train recipes/image_classifier --data FOLDER --out build/photos
    jaxq train recipes/image_classifier --data FOLDER --network efficientnet_lite0 --epochs 5
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from typing import Any

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.recipes import cifar10_efficientnet_lite0, cifar10_mobilenet_v2
from jaxq.recipes.finetune import Finetune, ladder, pretrained
from jaxq.recipes.train import Training
from jaxq.recipes.weights import CHECKPOINTS

# What a smoke run takes in place of the network: a small one of its kind, with random weights.
SMOKE = {
    "efficientnet_lite0": cifar10_efficientnet_lite0.SMOKE,
    "mobilenet_v2": cifar10_mobilenet_v2.SMOKE,
}
DEFAULT = "mobilenet_v2"


def config(network: str = DEFAULT, epochs: float = 3.0, rate: float = 5e-4) -> Finetune:
    """The choices of a run.

    Args:
      network: whose ImageNet weights to begin with: "mobilenet_v2" or "efficientnet_lite0".
      epochs: passes over the images in float; half as many follow on integers.
      rate: the peak of the float learning rate; a fifth of it on integers.

    Raises: InputError for another network.
    """
    if network not in SMOKE:
        raise InputError(f"There is no network {network!r} for images. {did_you_mean(network, SMOKE)}")
    return Finetune(
        network=functools.partial(pretrained, network),
        mean=CHECKPOINTS[network].mean,
        std=CHECKPOINTS[network].std,
        first=Training(epochs=epochs, rate=rate),
        extra=Training(epochs=epochs / 2, rate=rate / 5),
    )


def run(
    out: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    network: str | None = None,
    epochs: float | None = None,
    seed: int = 0,
    smoke: bool = False,
    resume: bool = False,
    force: bool = False,
    workers: int = 0,
) -> dict[str, Any]:
    """Run the recipe on the images in `data`; returns the summary. With `smoke` a small random network, a few steps.

    workers: processes that decode the training images.
    """
    chosen = config(network or DEFAULT, **({} if epochs is None else {"epochs": epochs}))
    if smoke:
        chosen = dataclasses.replace(SMOKE[network or DEFAULT], four_bits=False)
    return ladder(chosen, out, data=data, smoke=smoke, seed=seed, resume=resume, force=force, workers=workers)
