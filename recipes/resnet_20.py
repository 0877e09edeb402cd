"""ResNet-20 for images of 32 pixels (He et al. 2016, https://arxiv.org/abs/1512.03385, section 4.2).

Three stages of three blocks of two 3x3 convolutions, 16, 32 and 64 channels wide, then the mean and a dense layer. The
shortcut is a 1x1 convolution where the size changes (option B of the paper, which has option A here: no weights).
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import numpy as np
from flax import nnx

from jaxq.recipes.layers import ConvBN, Convention, example

CONVENTION = Convention(activation=jax.nn.relu, epsilon=1e-5, momentum=0.9)


class Block(nnx.Module):
    """Two 3x3 convolutions, and a shortcut around them."""

    def __init__(self, cin: int, cout: int, stride: int, *, rngs: nnx.Rngs) -> None:
        self.first = ConvBN(cin, cout, 3, stride, convention=CONVENTION, rngs=rngs)
        self.second = ConvBN(cout, cout, 3, 1, active=False, convention=CONVENTION, rngs=rngs)
        changes = cin != cout or stride != 1
        shortcut = ConvBN(cin, cout, 1, stride, active=False, convention=CONVENTION, rngs=rngs) if changes else None
        self.shortcut = shortcut

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, cin] to [n, ceil(h / stride), ceil(w / stride), cout]."""
        kept = x if self.shortcut is None else self.shortcut(x)
        return jax.nn.relu(kept + self.second(self.first(x)))


class ResNet20(nnx.Module):
    """The network of table 6 with n = 3. Other `channels` and `repeats` make another width and depth."""

    def __init__(
        self, classes: int = 10, *, channels: Sequence[int] = (16, 32, 64), repeats: int = 3, rngs: nnx.Rngs
    ) -> None:
        self.stem = ConvBN(3, channels[0], 3, 1, convention=CONVENTION, rngs=rngs)
        sizes = [(c, c, 1) for c in channels for _ in range(repeats)]
        for stage, (before, after) in enumerate(zip(channels, channels[1:], strict=False), start=1):
            sizes[stage * repeats] = (before, after, 2)
        self.blocks = nnx.List([Block(cin, cout, stride, rngs=rngs) for cin, cout, stride in sizes])
        self.classifier = nnx.Linear(channels[-1], classes, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """Images [n, resolution, resolution, 3] to logits [n, classes]."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.classifier(x.mean((1, 2)))


def target() -> tuple[ResNet20, np.ndarray]:
    """The untrained network in evaluation mode and an example, for `jaxq plan`."""
    model = ResNet20(rngs=nnx.Rngs(0))
    model.eval()
    return model, example(32)
