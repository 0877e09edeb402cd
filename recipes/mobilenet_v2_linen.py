"""MobileNetV2 in Flax Linen: the network of `mobilenet_v2.py`, with the same parameters under the same names.

Where NNX says `blocks/3/expand/conv/kernel`, Linen says `blocks_3/expand/conv/kernel`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from jaxq.recipes.layers import Convention, example, round_channels
from jaxq.recipes.mobilenet_v2 import STAGES, TENSORFLOW, Stage, block_sizes


class ConvBN(nn.Module):
    """Convolution without a bias, BatchNorm, and the convention's activation if `active`."""

    features: int
    kernel: int
    stride: int = 1
    groups: int = 1
    active: bool = True
    convention: Convention = TENSORFLOW

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        convention, size = self.convention, (self.kernel, self.kernel)
        padding = "SAME" if convention.padding == "SAME" else self.kernel // 2
        conv = nn.Conv(
            self.features, size, self.stride, padding, feature_group_count=self.groups, use_bias=False, name="conv"
        )
        norm = nn.BatchNorm(not train, momentum=convention.momentum, epsilon=convention.epsilon, name="bn")
        y = norm(conv(x))
        return convention.activation(y) if self.active else y


class InvertedResidual(nn.Module):
    """1x1 to `hidden` channels, depthwise 3x3, 1x1 to `features` without activation; a shortcut where shapes allow."""

    features: int
    hidden: int
    stride: int
    convention: Convention = TENSORFLOW

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """[n, h, w, c] to [n, ceil(h / stride), ceil(w / stride), features]."""
        hidden, convention, y = self.hidden, self.convention, x
        if hidden != x.shape[-1]:
            y = ConvBN(hidden, 1, convention=convention, name="expand")(y, train)
        y = ConvBN(hidden, 3, self.stride, hidden, convention=convention, name="depthwise")(y, train)
        y = ConvBN(self.features, 1, active=False, convention=convention, name="project")(y, train)
        return x + y if self.stride == 1 and x.shape[-1] == self.features else y


class MobileNetV2(nn.Module):
    """The network of table 2, its channels times `width`; the last layer never has fewer than 1280.

    Other `stages` make another depth.
    """

    width: float = 1.0
    classes: int = 1000
    stages: tuple[Stage, ...] = STAGES
    convention: Convention = TENSORFLOW

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Images [n, resolution, resolution, 3] to logits [n, classes]."""
        convention, sizes = self.convention, block_sizes(self.width, self.stages)
        x = ConvBN(sizes[0][0], 3, 2, convention=convention, name="stem")(x, train)
        for i, (_, hidden, out, stride) in enumerate(sizes):
            x = InvertedResidual(out, hidden, stride, convention, name=f"blocks_{i}")(x, train)
        last = round_channels(1280 * max(1.0, self.width))
        x = ConvBN(last, 1, convention=convention, name="head")(x, train).mean((1, 2))
        return nn.Dense(self.classes, name="classifier")(nn.Dropout(0.2)(x, deterministic=not train))


def target(width: float = 1.0, resolution: int = 224) -> tuple[MobileNetV2, np.ndarray, Any]:
    """The network, an example and its untrained variables, for `jaxq plan`."""
    module, x = MobileNetV2(width), example(resolution)
    return module, x, module.init(jax.random.key(0), jnp.asarray(x))
