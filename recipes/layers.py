"""What the mobile networks share: convolution with BatchNorm, the inverted residual block, channels in eights."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx


@dataclasses.dataclass(frozen=True)
class Convention:
    """What a network's layers have in common, and what its published weights were trained with.

    activation: follows every convolution but a block's last. padding: "SAME", TensorFlow's, uneven at stride 2 (one
    convolution in TFLite); or "SYMMETRIC", k // 2 on each side, PyTorch's (at stride 2 a PAD before the convolution).
    epsilon, momentum: of BatchNorm.
    """

    activation: Callable[[jax.Array], jax.Array] = jax.nn.relu6
    padding: str = "SAME"
    epsilon: float = 1e-3
    momentum: float = 0.99


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is at least `divisor` and not below 90 % of `channels` (Howard et al.

    2019, in the authors' code).
    """
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded


def example(resolution: int) -> np.ndarray:
    """One black image, float32 [1, resolution, resolution, 3]: an input of the right shape."""
    return np.zeros((1, resolution, resolution, 3), np.float32)


class ConvBN(nnx.Module):
    """Convolution without a bias, BatchNorm, and the convention's activation if asked."""

    def __init__(
        self, cin: int, cout: int, kernel: int, stride: int, *, groups: int = 1, active: bool = True,
        convention: Convention, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        padding = "SAME" if convention.padding == "SAME" else kernel // 2
        self.conv = nnx.Conv(
            cin, cout, (kernel, kernel), strides=stride, padding=padding, feature_group_count=groups, use_bias=False,
            rngs=rngs,
        )  # fmt: skip
        self.bn = nnx.BatchNorm(cout, epsilon=convention.epsilon, momentum=convention.momentum, rngs=rngs)
        self.activation = convention.activation if active else None

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, cin] to [n, ceil(h / stride), ceil(w / stride), cout]."""
        y = self.bn(self.conv(x))
        return y if self.activation is None else self.activation(y)


class InvertedResidual(nnx.Module):
    """1x1 to `hidden` channels, depthwise, 1x1 to `cout` without activation; a shortcut where shapes allow one.

    Sandler et al. 2018, section 3. The first convolution is left out where it would not expand. `squeeze` acts after
    the depthwise convolution.
    """

    def __init__(
        self, cin: int, cout: int, *, hidden: int, kernel: int, stride: int, squeeze: nnx.Module | None = None,
        convention: Convention, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        shared: dict[str, Any] = {"convention": convention, "rngs": rngs}
        self.expand = ConvBN(cin, hidden, 1, 1, **shared) if hidden != cin else None
        self.depthwise = ConvBN(hidden, hidden, kernel, stride, groups=hidden, **shared)
        self.squeeze = squeeze
        self.project = ConvBN(hidden, cout, 1, 1, active=False, **shared)
        self.residual = stride == 1 and cin == cout

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, cin] to [n, ceil(h / stride), ceil(w / stride), cout]."""
        y = x if self.expand is None else self.expand(x)
        y = self.depthwise(y)
        y = y if self.squeeze is None else self.squeeze(y)  # type: ignore[operator]
        y = self.project(y)
        return x + y if self.residual else y
