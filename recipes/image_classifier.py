"""An image classifier of one's own: a folder of images, any shipped network, an int8 file with its proof and report.

Data: FOLDER/train/CLASS/*.jpg and FOLDER/test/CLASS/*.jpg; any number of classes. The method is that of
`jaxq.recipes.finetune`: fine-tune in float, calibrate, fine-tune on integers, export. Commands:

    jaxq weights mobilenet_v2
    jaxq train recipes/image_classifier --data FOLDER --out build/photos
    jaxq train recipes/image_classifier --data FOLDER --network mobilenet_v3_small --set weights=net.pth
    jaxq train recipes/image_classifier --data FOLDER --network efficientnet_lite0 --epochs 5 --set resolution=224
"""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from flax import nnx

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.recipes import networks, weights
from jaxq.recipes.efficientnet_lite import EfficientNetLite
from jaxq.recipes.finetune import Finetune, ladder, with_head
from jaxq.recipes.mobilenet_v1 import MobileNetV1
from jaxq.recipes.mobilenet_v2 import MobileNetV2
from jaxq.recipes.mobilenet_v3 import SMALL, MobileNetV3
from jaxq.recipes.settings import changed
from jaxq.recipes.train import Training

RANDOM = "random"

# What a smoke run takes in place of a network: a small one of its kind.
Build = Callable[[int, nnx.Rngs], Any]
SMOKE: dict[str, Build] = {
    **{
        f"efficientnet_lite{variant}": lambda n, rngs, variant=variant: EfficientNetLite(
            variant, n, width=0.25, depth=1.0, stages=((3, 1, 16, 6, 2),), rngs=rngs
        )
        for variant in range(5)
    },
    "mobilenet_v1": lambda n, rngs: MobileNetV1(0.25, n, blocks=((64, 2),), rngs=rngs),
    "mobilenet_v2": lambda n, rngs: MobileNetV2(0.25, n, stages=((6, 16, 1, 2),), rngs=rngs),
    "mobilenet_v3_large": lambda n, rngs: MobileNetV3("large", 0.25, n, blocks=SMALL[:1], rngs=rngs),
    "mobilenet_v3_small": lambda n, rngs: MobileNetV3("small", 0.25, n, blocks=SMALL[:1], rngs=rngs),
}


@dataclasses.dataclass(frozen=True)
class Config:
    """The choices of a run, each a setting (`--set`, `--config`).

    network: of `networks.NETWORKS`, one for images. weights: a file to begin with (`weights.read`); "" takes those that
    `jaxq weights` keeps, "random" none. epochs: passes over the images in float; half as many follow on integers. rate:
    the peak of the float learning rate; a fifth of it on integers. resolution: side of an image. train, test: how many
    images, None for all. calibrate, verify: how many calibrate, and prove the file. recipe: how to quantize, a shipped
    name or a .toml file. four_bits: besides, a file with weights of 4 bits in the pointwise convolutions.
    """

    network: str = "mobilenet_v2"
    weights: str = ""
    epochs: float = 3.0
    rate: float = 5e-4
    decay: float = 1e-4
    batch: int = 32
    resolution: int = 96
    train: int | None = None
    test: int | None = None
    calibrate: int = 256
    verify: int = 16
    recipe: str = "int8"
    four_bits: bool = False


SMALL_RUN: dict[str, Any] = {
    **{"weights": RANDOM, "epochs": 1.0, "batch": 8, "resolution": 32},
    **{"train": 24, "test": 20, "calibrate": 16, "verify": 2},
}


def finetune(config: Config, build: Build | None = None) -> Finetune:
    """The steps of a config.

    Args:
      config: the choices.
      build: the network to begin with, of so many classes; by default the config's, with its weights.

    Raises: InputError for another network, WeightsError where the weights are not here or of another network.
    """
    source, begin = (_first(config.network), build) if build else _begun(config)
    shared: dict[str, Any] = {"batch": config.batch, "resolution": config.resolution, "decay": config.decay}
    return Finetune(
        network=begin,
        mean=source.mean,
        std=source.std,
        first=Training(epochs=config.epochs, rate=config.rate, **shared),
        extra=Training(epochs=config.epochs / 2, rate=config.rate / 5, **shared),
        train=config.train,
        test=config.test,
        calibrate=config.calibrate,
        verify=config.verify,
        four_bits=config.four_bits,
        recipe=config.recipe,
        name=f"{config.network} {config.weights}".strip(),
    )


def run(
    out: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    network: str | None = None,
    epochs: float | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    smoke: bool = False,
    resume: bool = False,
    force: bool = False,
    workers: int = 0,
) -> dict[str, Any]:
    """Run the recipe on the images in `data`; returns the summary. With `smoke` a small random network, a few steps.

    workers: processes that decode the training images.
    """
    flags = {"network": network, "epochs": epochs}
    given = {**(settings or {}), **{name: value for name, value in flags.items() if value is not None}}
    config = changed(Config(**(SMALL_RUN if smoke else {})), given)
    _first(config.network)
    chosen = finetune(config, SMOKE[config.network] if smoke else None)
    return ladder(chosen, out, data=data, smoke=smoke, seed=seed, resume=resume, force=force, workers=workers)


def _first(network: str) -> networks.Source:
    """The source that a network without weights is built for."""
    if network not in SMOKE:
        raise InputError(
            f"There is no network {network!r} for images. {did_you_mean(network, SMOKE)} There are {', '.join(SMOKE)}."
        )
    return next(iter(networks.NETWORKS[network].values()))


def _begun(config: Config) -> tuple[networks.Source, Build]:
    """Whose weights a run begins with, and the network with them and a new head."""
    source = _first(config.network)
    if config.weights == RANDOM:
        return source, lambda classes, rngs: source.build(rngs=rngs, classes=classes)
    if config.weights:
        found = weights.place(config.network, config.weights)
        given = networks.NETWORKS[config.network][found.source]
        return given, lambda classes, rngs: with_head(
            networks.filled(given, found.sizes, found.match.arrays), classes, rngs
        )
    return weights.source_of(config.network), lambda classes, rngs: with_head(
        weights.pretrained(config.network), classes, rngs
    )
