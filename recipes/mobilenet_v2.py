"""MobileNetV2 (Sandler et al. 2018, https://arxiv.org/abs/1801.04381): inverted residuals with linear bottlenecks.

3,504,872 parameters at width 1.0. ImageNet weights: `jaxq weights mobilenet_v2`, then
`jaxq.recipes.weights.pretrained("mobilenet_v2")`. `jaxq plan recipes/mobilenet_v2` shows what becomes of it in int8.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxq.recipes.layers import ConvBN, Convention, InvertedResidual, example, round_channels

# Expansion, output channels, repeats, first stride: table 2 of the paper.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
Stage = tuple[int, int, int, int]
TENSORFLOW = Convention()
TORCHVISION = Convention(padding="SYMMETRIC", epsilon=1e-5, momentum=0.9)


def block_sizes(width: float, stages: Sequence[Stage] = STAGES) -> list[tuple[int, int, int, int]]:
    """Input, hidden and output channels and stride of each block, 17 for the stages of the paper."""
    sizes, channels = [], round_channels(32 * width)
    for expansion, out, repeats, stride in stages:
        for repeat in range(repeats):
            wide = round_channels(out * width)
            sizes.append((channels, channels * expansion, wide, stride if repeat == 0 else 1))
            channels = wide
    return sizes


class MobileNetV2(nnx.Module):
    """The network of table 2, its channels times `width`; the last layer never has fewer than 1280.

    Other `stages` make another depth.
    """

    def __init__(
        self, width: float = 1.0, classes: int = 1000, *, stages: Sequence[Stage] = STAGES,
        convention: Convention = TENSORFLOW, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        sizes, last = block_sizes(width, stages), round_channels(1280 * max(1.0, width))
        self.stem = ConvBN(3, sizes[0][0], 3, 2, convention=convention, rngs=rngs)
        self.blocks = nnx.List([
            InvertedResidual(cin, cout, hidden=hidden, kernel=3, stride=stride, convention=convention, rngs=rngs)
            for cin, hidden, cout, stride in sizes
        ])  # fmt: skip
        self.head = ConvBN(sizes[-1][2], last, 1, 1, convention=convention, rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(last, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, resolution, resolution, 3] to logits [n, classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(self.head(x).mean((1, 2))))


def target(width: float = 1.0, resolution: int = 224) -> tuple[MobileNetV2, np.ndarray]:
    """The untrained network in evaluation mode and an example, for `jaxq plan`."""
    model = MobileNetV2(width, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(resolution)
