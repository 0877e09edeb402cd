"""EfficientNet-Lite 0 to 4: EfficientNet (Tan and Le 2019, https://arxiv.org/abs/1905.11946) for integer hardware.

Without squeeze-and-excitation, with ReLU6, stem and head of one size for all. From 4.7 M (Lite0) to 13.0 M parameters.
ImageNet weights of Lite0: `jaxq weights efficientnet_lite0`, then `jaxq.recipes.weights.pretrained(...)`.
Source: https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxq.recipes.layers import ConvBN, Convention, InvertedResidual, example, round_channels

# Kernel, repeats, output channels, expansion, first stride: table 1 of the paper.
STAGES = (
    (3, 1, 16, 1, 1), (3, 2, 24, 6, 2), (5, 2, 40, 6, 2), (3, 3, 80, 6, 2), (5, 3, 112, 6, 1), (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)  # fmt: skip
Stage = tuple[int, int, int, int, int]
# Width, depth, resolution, share of dropout.
VARIANTS = {
    0: (1.0, 1.0, 224, 0.2),
    1: (1.0, 1.1, 240, 0.2),
    2: (1.1, 1.2, 260, 0.3),
    3: (1.2, 1.4, 280, 0.3),
    4: (1.4, 1.8, 300, 0.3),
}
TENSORFLOW = Convention()


def block_sizes(width: float, depth: float, stages: Sequence[Stage] = STAGES) -> list[tuple[int, int, int, int, int]]:
    """Kernel, input, hidden and output channels and stride of each block. First and last stage keep their depth."""
    sizes, channels = [], 32
    for stage, (kernel, repeats, out, expansion, stride) in enumerate(stages):
        fixed = stage in (0, len(stages) - 1)
        for repeat in range(repeats if fixed else math.ceil(repeats * depth)):
            wide = round_channels(out * width)
            sizes.append((kernel, channels, channels * expansion, wide, stride if repeat == 0 else 1))
            channels = wide
    return sizes


class EfficientNetLite(nnx.Module):
    """Variant 0 to 4; `width` and `depth`, where given, replace the variant's own, `stages` table 1's."""

    def __init__(
        self,
        variant: int = 0,
        classes: int = 1000,
        *,
        width: float | None = None,
        depth: float | None = None,
        stages: Sequence[Stage] = STAGES,
        convention: Convention = TENSORFLOW,
        rngs: nnx.Rngs,
    ) -> None:
        own_width, own_depth, _, rate = VARIANTS[variant]
        sizes = block_sizes(own_width if width is None else width, own_depth if depth is None else depth, stages)
        self.stem = ConvBN(3, 32, 3, 2, convention=convention, rngs=rngs)
        self.blocks = nnx.List([
            InvertedResidual(cin, cout, hidden=hidden, kernel=kernel, stride=stride, convention=convention, rngs=rngs)
            for kernel, cin, hidden, cout, stride in sizes
        ])  # fmt: skip
        self.head = ConvBN(sizes[-1][3], 1280, 1, 1, convention=convention, rngs=rngs)
        self.dropout = nnx.Dropout(rate, rngs=rngs)
        self.classifier = nnx.Linear(1280, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, resolution, resolution, 3] to logits [n, classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(self.head(x).mean((1, 2))))


def target(
    variant: int = 0, width: float | None = None, resolution: int | None = None
) -> tuple[EfficientNetLite, np.ndarray]:
    """The untrained network in evaluation mode and an example of its resolution, for `jaxq plan`."""
    model = EfficientNetLite(variant, width=width, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(VARIANTS[variant][2] if resolution is None else resolution)
