"""DS-CNN (Zhang et al. 2017, "Hello Edge", https://arxiv.org/abs/1711.07128): depthwise-separable, for keywords.

The small one: a convolution of 10 x 4 with stride 2 to 64 channels, four separable blocks of 3 x 3, the mean, a dense
head; 23,756 parameters for 12 classes, 2.7 million multiplications for 49 x 10 coefficients. Strides are (2, 2) as in
MLPerf Tiny (Banbury et al. 2021), whose keyword model this is.
"""

from __future__ import annotations

import jax
from flax import nnx

from jaxq.recipes.layers import Convention
from jaxq.recipes.mobilenet_v1 import Separable

CONVENTION = Convention(activation=jax.nn.relu, momentum=0.9)


class DSCNN(nnx.Module):
    """The small network of table 7; `width` channels, `blocks` separable blocks."""

    def __init__(self, classes: int, *, width: int = 64, blocks: int = 4, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, width, (10, 4), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(width, epsilon=CONVENTION.epsilon, momentum=CONVENTION.momentum, rngs=rngs)
        self.blocks = nnx.List([Separable(width, width, 1, CONVENTION, rngs) for _ in range(blocks)])
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.classifier = nnx.Linear(width, classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Coefficients [n, frames, coefficients, 1], each normalized, to logits [n, classes]."""
        x = jax.nn.relu(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.classifier(self.dropout(x.mean((1, 2))))
