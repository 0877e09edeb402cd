"""MobileNetV1 (Howard et al. 2017, https://arxiv.org/abs/1704.04861): depthwise-separable convolutions.

4.2 M parameters at width 1.0. `jaxq plan recipes/mobilenet_v1` shows what becomes of it in int8.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxq.recipes.layers import ConvBN, Convention, example, round_channels

# Output channels and stride of each separable convolution: table 1 of the paper.
BLOCKS = (
    (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
    (512, 1), (512, 1), (512, 1), (512, 1), (512, 1), (1024, 2), (1024, 1),
)  # fmt: skip
TENSORFLOW = Convention()


class Separable(nnx.Module):
    """Depthwise 3x3 and pointwise 1x1, each with BatchNorm and ReLU6."""

    def __init__(self, cin: int, cout: int, stride: int, convention: Convention, rngs: nnx.Rngs) -> None:
        self.depthwise = ConvBN(cin, cin, 3, stride, groups=cin, convention=convention, rngs=rngs)
        self.pointwise = ConvBN(cin, cout, 1, 1, convention=convention, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, cin] to [n, ceil(h / stride), ceil(w / stride), cout]."""
        return self.pointwise(self.depthwise(x))


class MobileNetV1(nnx.Module):
    """The network of table 1, its channels times `width`. Other `blocks` make another depth."""

    def __init__(
        self, width: float = 1.0, classes: int = 1000, *, blocks: Sequence[tuple[int, int]] = BLOCKS,
        convention: Convention = TENSORFLOW, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        channels = round_channels(32 * width)
        self.stem = ConvBN(3, channels, 3, 2, convention=convention, rngs=rngs)
        layers = []
        for out, stride in blocks:
            layers.append(Separable(channels, round_channels(out * width), stride, convention, rngs))
            channels = round_channels(out * width)
        self.blocks = nnx.List(layers)
        self.dropout = nnx.Dropout(1e-3, rngs=rngs)
        self.classifier = nnx.Linear(channels, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, resolution, resolution, 3] to logits [n, classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(x.mean((1, 2))))


def target(width: float = 1.0, resolution: int = 224) -> tuple[MobileNetV1, np.ndarray]:
    """The untrained network in evaluation mode and an example, for `jaxq plan`."""
    model = MobileNetV1(width, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(resolution)
