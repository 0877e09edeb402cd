"""MobileNetV3 small and large (Howard et al. 2019, https://arxiv.org/abs/1905.02244): squeeze-excite and hard-swish.

2,542,856 and 5,483,032 parameters at width 1.0. `jaxq plan recipes/mobilenet_v3` shows what becomes of the small one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxq.recipes.layers import ConvBN, Convention, InvertedResidual, example, round_channels

TENSORFLOW = Convention()
ACTIVATIONS = {"RE": jax.nn.relu, "HS": jax.nn.hard_swish}

# Kernel, hidden channels, output channels, squeeze-and-excitation, activation, stride: tables 1 and 2 of the paper.
LARGE = (
    (3, 16, 16, False, "RE", 1), (3, 64, 24, False, "RE", 2), (3, 72, 24, False, "RE", 1), (5, 72, 40, True, "RE", 2),
    (5, 120, 40, True, "RE", 1), (5, 120, 40, True, "RE", 1), (3, 240, 80, False, "HS", 2),
    (3, 200, 80, False, "HS", 1), (3, 184, 80, False, "HS", 1), (3, 184, 80, False, "HS", 1),
    (3, 480, 112, True, "HS", 1), (3, 672, 112, True, "HS", 1), (5, 672, 160, True, "HS", 2),
    (5, 960, 160, True, "HS", 1), (5, 960, 160, True, "HS", 1),
)  # fmt: skip
SMALL = (
    (3, 16, 16, True, "RE", 2), (3, 72, 24, False, "RE", 2), (3, 88, 24, False, "RE", 1), (5, 96, 40, True, "HS", 2),
    (5, 240, 40, True, "HS", 1), (5, 240, 40, True, "HS", 1), (5, 120, 48, True, "HS", 1),
    (5, 144, 48, True, "HS", 1), (5, 288, 96, True, "HS", 2), (5, 576, 96, True, "HS", 1), (5, 576, 96, True, "HS", 1),
)  # fmt: skip
Block = tuple[int, int, int, bool, str, int]
SIZES = {"small": (SMALL, 1024), "large": (LARGE, 1280)}


class SqueezeExcite(nnx.Module):
    """Each channel times a factor in [0, 1], computed from the means of all channels (section 5.3)."""

    def __init__(self, channels: int, rngs: nnx.Rngs) -> None:
        inner = round_channels(channels / 4)
        self.reduce = nnx.Conv(channels, inner, (1, 1), rngs=rngs)
        self.expand = nnx.Conv(inner, channels, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, channels] to the same shape."""
        factors = jax.nn.relu(self.reduce(x.mean((1, 2), keepdims=True)))
        return x * jax.nn.hard_sigmoid(self.expand(factors))


class MobileNetV3(nnx.Module):
    """The network of table 1 (`size` "large") or 2 ("small"), its channels times `width`.

    Other `blocks` make another depth. The activations are the table's, whatever the convention's.
    """

    def __init__(
        self, size: str = "small", width: float = 1.0, classes: int = 1000, *, blocks: Sequence[Block] | None = None,
        convention: Convention = TENSORFLOW, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        conventions = {name: dataclasses.replace(convention, activation=fn) for name, fn in ACTIVATIONS.items()}
        table, last = SIZES[size]
        channels = round_channels(16 * width)
        self.stem = ConvBN(3, channels, 3, 2, convention=conventions["HS"], rngs=rngs)
        layers = []
        for kernel, hidden, out, squeeze, activation, stride in table if blocks is None else blocks:
            hidden, out = round_channels(hidden * width), round_channels(out * width)
            excite = SqueezeExcite(hidden, rngs) if squeeze else None
            layers.append(InvertedResidual(
                channels, out, hidden=hidden, kernel=kernel, stride=stride, squeeze=excite,
                convention=conventions[activation], rngs=rngs,
            ))  # fmt: skip
            channels = out
        self.blocks = nnx.List(layers)
        last = round_channels(last * width)
        self.head = ConvBN(channels, 6 * channels, 1, 1, convention=conventions["HS"], rngs=rngs)
        self.hidden = nnx.Linear(6 * channels, last, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(last, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, resolution, resolution, 3] to logits [n, classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        x = jax.nn.hard_swish(self.hidden(self.head(x).mean((1, 2))))
        return self.classifier(self.dropout(x))


def target(size: str = "small", width: float = 1.0, resolution: int = 224) -> tuple[MobileNetV3, np.ndarray]:
    """The untrained network in evaluation mode and an example, for `jaxq plan`."""
    model = MobileNetV3(size, width, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(resolution)
