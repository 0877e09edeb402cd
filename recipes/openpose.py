"""The OpenPose VGG network (Cao et al. 2017): body joints and limbs as maps of an eighth of the image's size.

The first ten convolutions of VGG-19 and two of convolutional pose machines (CPM) give features. Stage 1 predicts part
affinity fields (PAFs, two channels for each of 19 limbs) and heat maps (18 joints and the background), each in a branch
of its own; every later stage refines both from the features and the maps of the stage before.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx

PAFS, HEATMAPS = 38, 19
VGG = ((64, 64), (128, 128), (256, 256, 256, 256), (512, 512))  # max pooling stands between the groups
CPM = (256, 128)
FIRST = ((3, 128), (3, 128), (3, 128), (1, 512))  # stage 1: kernel size and channels of each convolution
LATER = ((7, 128), (7, 128), (7, 128), (7, 128), (7, 128), (1, 128))
LEAST = 8  # channels of a narrow network

Maps = tuple[jax.Array, jax.Array]


def _conv(fan_in: int, channels: int, size: int, rngs: nnx.Rngs) -> nnx.Conv:
    return nnx.Conv(fan_in, channels, (size, size), kernel_init=nnx.initializers.he_normal(), rngs=rngs)


def _narrow(channels: int, width: float) -> int:
    return max(LEAST, round(width * channels))


class Branch(nnx.Module):
    """Convolutions with ReLU, then a 1x1 convolution without: the maps of one kind in one stage."""

    def __init__(
        self, fan_in: int, layers: tuple[tuple[int, int], ...], out: int, width: float, rngs: nnx.Rngs
    ) -> None:
        self.layers = nnx.List()
        for size, channels in layers:
            self.layers.append(_conv(fan_in, _narrow(channels, width), size, rngs))
            fan_in = _narrow(channels, width)
        self.maps = nnx.Conv(fan_in, out, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, fan_in] to [n, h, w, out]."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return self.maps(x)


class Stage(nnx.Module):
    """The two branches of one stage, on the same input."""

    def __init__(self, fan_in: int, layers: tuple[tuple[int, int], ...], width: float, rngs: nnx.Rngs) -> None:
        self.paf = Branch(fan_in, layers, PAFS, width, rngs)
        self.heatmap = Branch(fan_in, layers, HEATMAPS, width, rngs)

    def __call__(self, x: jax.Array) -> Maps:
        """[n, h, w, fan_in] to PAFs [n, h, w, 38] and heat maps [n, h, w, 19]."""
        return self.paf(x), self.heatmap(x)


class OpenPose(nnx.Module):
    """The network.

    Args:
      width: a factor on the channels of every hidden layer; 1 is the published network, of 52,311,446 parameters.
      stages: at least 1; 6 in the published network.
      rngs: of the weights (He et al. 2015).
    """

    def __init__(self, rngs: nnx.Rngs, *, width: float = 1.0, stages: int = 6) -> None:
        self.groups, fan_in = nnx.List(), 3
        for group in (*VGG[:-1], (*VGG[-1], *CPM)):
            layers = nnx.List()
            for channels in group:
                layers.append(_conv(fan_in, _narrow(channels, width), 3, rngs))
                fan_in = _narrow(channels, width)
            self.groups.append(layers)
        self.stages = nnx.List([Stage(fan_in, FIRST, width, rngs)])
        for _ in range(stages - 1):
            self.stages.append(Stage(PAFS + HEATMAPS + fan_in, LATER, width, rngs))

    def features(self, x: jax.Array) -> jax.Array:
        """Images [n, 8 h, 8 w, 3] to [n, h, w, 128 width]."""
        for index, layers in enumerate(self.groups):
            x = nnx.max_pool(x, (2, 2), strides=(2, 2)) if index else x
            for layer in layers:
                x = jax.nn.relu(layer(x))
        return x

    def all_maps(self, x: jax.Array) -> list[Maps]:
        """The PAFs and heat maps of every stage, which training supervises."""
        features = self.features(x)
        found = [self.stages[0](features)]
        for stage in self.stages[1:]:
            found.append(stage(jnp.concatenate([*found[-1], features], axis=-1)))
        return found

    def __call__(self, x: jax.Array) -> Maps:
        """Images [n, 8 h, 8 w, 3], pixel / 256 - 0.5, to PAFs [n, h, w, 38] and heat maps [n, h, w, 19]."""
        return self.all_maps(x)[-1]
