"""Sixty-three networks of one op each, as users write them: which of them come out as full-integer files?

The list is that of a survey of Qwix 0.1.8 with litert-converter 0.5.0 (strict int8, static ranges): 31 came out in
integers alone, 25 with float islands, 7 not at all. `SIXTY_THREE` maps a name to the model, the shape that it is
exported for (batch first), that verdict, and the dtype of the input. Most are a 3x3 convolution, the op, and a 1x1
convolution. Nothing here is written with jaxq in mind.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.promotion import avg_pool
from tests.zoo import as_trained

Shape = tuple[int, ...]
Function = Callable[..., Any]

IMAGE, SEQUENCE, STEPS, ROW, IDS = (1, 12, 12, 4), (1, 8, 16), (1, 6, 8), (1, 16), (1, 8)
CHANNELS, WORDS = 8, 32


class Row(NamedTuple):
    """A network, its input, and what the peer made of it."""

    make: Callable[[nnx.Rngs], nnx.Module]
    shape: Shape
    peer: Literal["full", "float", "fails"]
    dtype: str = "float32"


class Case(NamedTuple):
    """A model in evaluation mode with numbers as after training, and examples for it."""

    model: nnx.Module
    examples: np.ndarray


def case(name: str, examples: int = 16) -> Case:
    """The network of a name with random weights, statistics and examples: the same ones each time."""
    row, seed = SIXTY_THREE[name], zlib.crc32(name.encode())
    model = nnx.clone(as_trained(row.make, seed))
    model.eval()
    rng, shape = np.random.default_rng(seed), (examples, *row.shape[1:])
    if row.dtype == "int32":
        return Case(model, rng.integers(0, WORDS, shape).astype(np.int32))
    return Case(model, rng.normal(0.0, 1.0, shape).astype(np.float32))


# --- frames -------------------------------------------------------------------------------------------------


class Between(nnx.Module):
    """3x3 convolution, an op (a function or a layer), 1x1 convolution."""

    def __init__(self, op: Function, rngs: nnx.Rngs, channels: int = CHANNELS) -> None:
        self.first = nnx.Conv(IMAGE[-1], CHANNELS, (3, 3), rngs=rngs)
        self.op = op
        self.last = nnx.Conv(channels, 4, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.op(self.first(x)))


class Head(nnx.Module):
    """3x3 convolution, then a function that the model ends with."""

    def __init__(self, op: Function, rngs: nnx.Rngs) -> None:
        self.first, self.op = nnx.Conv(IMAGE[-1], CHANNELS, (3, 3), rngs=rngs), op

    def __call__(self, x: jax.Array) -> Any:
        return self.op(self.first(x))


class Classifier(nnx.Module):
    """3x3 convolution, a function that gives rows, a dense layer."""

    def __init__(self, op: Function, features: int, rngs: nnx.Rngs) -> None:
        self.first, self.op = nnx.Conv(IMAGE[-1], CHANNELS, (3, 3), rngs=rngs), op
        self.head = nnx.Linear(features, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.op(self.first(x)))


class Tokens(nnx.Module):
    """A dense layer on each token, a layer, a dense layer."""

    def __init__(self, op: Function, rngs: nnx.Rngs) -> None:
        self.first, self.op = nnx.Linear(SEQUENCE[-1], SEQUENCE[-1], rngs=rngs), op
        self.last = nnx.Linear(SEQUENCE[-1], 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.op(self.first(x)))


class TwoBranches(nnx.Module):
    """Two convolutions of the image, a function of both, 1x1 convolution."""

    def __init__(self, op: Function, rngs: nnx.Rngs, channels: int = CHANNELS) -> None:
        self.left = nnx.Conv(IMAGE[-1], CHANNELS, (3, 3), rngs=rngs)
        self.right = nnx.Conv(IMAGE[-1], CHANNELS, (1, 1), rngs=rngs)
        self.op = op
        self.last = nnx.Conv(channels, 4, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(self.op(self.left(x), self.right(x)))


def between(op: Function, channels: int = CHANNELS) -> Callable[[nnx.Rngs], nnx.Module]:
    """`Between` around a function."""
    return lambda rngs: Between(op, rngs, channels)


def around(layer: Callable[[nnx.Rngs], Function], channels: int = CHANNELS) -> Callable[[nnx.Rngs], nnx.Module]:
    """`Between` around a layer with weights of its own."""
    return lambda rngs: Between(layer(rngs), rngs, channels)


def branches(op: Function, channels: int = CHANNELS) -> Callable[[nnx.Rngs], nnx.Module]:
    """`TwoBranches` around a function."""
    return lambda rngs: TwoBranches(op, rngs, channels)


# --- layers and functions that have no one name -------------------------------------------------------------


class Residual(nnx.Module):
    """x + f(x)."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(CHANNELS, CHANNELS, (3, 3), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return x + self.conv(x)


class ConvBNRelu(nnx.Module):
    """Convolution, BatchNorm, ReLU."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(CHANNELS, CHANNELS, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(CHANNELS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.conv(x)))


class LateBatchNorm(nnx.Module):
    """BatchNorm behind a pool, not behind a convolution."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.norm = nnx.BatchNorm(CHANNELS, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(nnx.max_pool(x, (2, 2), (2, 2)))


class SqueezeExcite(nnx.Module):
    """A gate for each channel, from the mean over the image (Hu et al. 2018)."""

    def __init__(self, gate: Function, rngs: nnx.Rngs) -> None:
        self.reduce, self.expand = nnx.Conv(CHANNELS, 4, (1, 1), rngs=rngs), nnx.Conv(4, CHANNELS, (1, 1), rngs=rngs)
        self.gate = gate

    def __call__(self, x: jax.Array) -> jax.Array:
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        return x * self.gate(self.expand(jax.nn.relu(self.reduce(mean))))


class PReLU(nnx.Module):
    """A trained slope for each channel below zero."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.slope = nnx.Param(jax.random.uniform(rngs.params(), (CHANNELS,), minval=0.05, maxval=0.4))

    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0.0, x, self.slope[...] * x)


class Words(nnx.Module):
    """An embedding and a dense layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed, self.head = nnx.Embed(WORDS, 16, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        return self.head(self.embed(ids))


class Recurrent(nnx.Module):
    """A recurrent layer, and a dense one on its last state."""

    def __init__(self, cell: Any, rngs: nnx.Rngs) -> None:
        self.rnn, self.head = nnx.RNN(cell), nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        states: Any = self.rnn(x)
        return self.head(states[:, -1])


class Series(nnx.Module):
    """Two convolutions over time."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Conv(16, 8, (3,), rngs=rngs), nnx.Conv(8, 4, (1,), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jax.nn.relu(self.first(x)))


class ProjectHeads(nnx.Module):
    """A dense layer to two axes, as a transformer's query projection, by einsum."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.project = nnx.Einsum("btd,dhk->bthk", (16, 2, 8), (2, 8), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.project(x)


class Scaled(nnx.Module):
    """An image in [0, 1] scaled to [-1, 1] by the model."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.last = nnx.Conv(IMAGE[-1], 8, (3, 3), rngs=rngs), nnx.Conv(8, 4, (1, 1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.last(jax.nn.relu(self.first(x * 2.0 - 1.0)))


def mean_and_max(x: jax.Array) -> jax.Array:
    """Mean and maximum over the image, side by side."""
    return jnp.concatenate([jnp.mean(x, axis=(1, 2)), jnp.max(x, axis=(1, 2))], axis=-1)


def resize(method: str) -> Function:
    """Twice the size."""
    return lambda x: jax.image.resize(x, (x.shape[0], 24, 24, x.shape[3]), method=method)


def transposed_slice(x: jax.Array) -> jax.Array:
    """Height and width exchanged, the border cut off."""
    return jnp.transpose(x, (0, 2, 1, 3))[:, 1:-1, 1:-1, :]


def depth_to_space(x: jax.Array) -> jax.Array:
    """[n, h, w, 8] to [n, 2h, 2w, 2]."""
    n, h, w, c = x.shape
    return x.reshape(n, h, w, 2, 2, c // 4).transpose(0, 1, 3, 2, 4, 5).reshape(n, 2 * h, 2 * w, c // 4)


def gated(x: jax.Array) -> jax.Array:
    """The product of both halves of the channels."""
    a, b = jnp.split(x, 2, axis=-1)
    return a * b


def l2_normalize(x: jax.Array) -> jax.Array:
    """Vectors of length one."""
    return x / jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True) + 1e-6)


def attention(rngs: nnx.Rngs) -> nnx.Module:
    """Self-attention with two heads."""
    return nnx.MultiHeadAttention(2, SEQUENCE[-1], decode=False, rngs=rngs)


def conv(rngs: nnx.Rngs, **options: Any) -> nnx.Conv:
    """3x3, as many channels out as in."""
    return nnx.Conv(CHANNELS, CHANNELS, (3, 3), rngs=rngs, **options)


# --- the table ----------------------------------------------------------------------------------------------

SIXTY_THREE: dict[str, Row] = {
    # the peer: full integer
    "conv": Row(around(conv), IMAGE, "full"),
    "depthwise conv": Row(around(lambda rngs: conv(rngs, feature_group_count=CHANNELS)), IMAGE, "full"),
    "grouped conv": Row(around(lambda rngs: conv(rngs, feature_group_count=2)), IMAGE, "full"),
    "dilated conv": Row(around(lambda rngs: conv(rngs, kernel_dilation=2)), IMAGE, "full"),
    "1-D conv": Row(Series, SEQUENCE, "full"),
    "stride VALID conv": Row(around(lambda rngs: conv(rngs, strides=2, padding="VALID")), IMAGE, "full"),
    "conv BN relu": Row(around(ConvBNRelu), IMAGE, "full"),
    "relu": Row(between(jax.nn.relu), IMAGE, "full"),
    "relu6": Row(between(jax.nn.relu6), IMAGE, "full"),
    "leaky_relu": Row(between(jax.nn.leaky_relu), IMAGE, "full"),
    "tanh": Row(between(jnp.tanh), IMAGE, "full"),
    "silu": Row(between(jax.nn.silu), IMAGE, "full"),
    "gelu tanh": Row(between(lambda x: jax.nn.gelu(x, approximate=True)), IMAGE, "full"),
    "softmax": Row(between(jax.nn.softmax), IMAGE, "full"),
    "maximum": Row(branches(jnp.maximum), IMAGE, "full"),
    "clip": Row(between(lambda x: jnp.clip(x, -0.5, 0.75)), IMAGE, "full"),
    "residual add": Row(around(Residual), IMAGE, "full"),
    "concat": Row(branches(lambda a, b: jnp.concatenate([a, b], axis=-1), 2 * CHANNELS), IMAGE, "full"),
    "avg_pool VALID": Row(between(lambda x: avg_pool(x, (2, 2), (2, 2))), IMAGE, "full"),
    "max_pool": Row(between(lambda x: nnx.max_pool(x, (2, 2), (2, 2))), IMAGE, "full"),
    "global mean max": Row(lambda rngs: Classifier(mean_and_max, 2 * CHANNELS, rngs), IMAGE, "full"),
    "flatten dense": Row(
        lambda rngs: Classifier(lambda x: x.reshape(x.shape[0], -1), 144 * CHANNELS, rngs), IMAGE, "full"
    ),
    "3-D dense": Row(lambda rngs: Tokens(jax.nn.relu, rngs), SEQUENCE, "full"),
    "dense_general": Row(
        lambda rngs: nnx.Sequential(
            nnx.LinearGeneral(16, (2, 8), rngs=rngs), nnx.LinearGeneral((2, 8), 4, axis=(-2, -1), rngs=rngs)
        ),
        SEQUENCE,
        "full",
    ),
    "pad": Row(between(lambda x: jnp.pad(x, ((0, 0), (1, 2), (2, 1), (0, 0)))), IMAGE, "full"),
    "resize nearest": Row(between(resize("nearest")), IMAGE, "full"),
    "transpose slice": Row(between(transposed_slice), IMAGE, "full"),
    "depth to space": Row(between(depth_to_space, CHANNELS // 4), IMAGE, "full"),
    "split mul": Row(between(gated, CHANNELS // 2), IMAGE, "full"),
    "attention": Row(lambda rngs: Tokens(attention(rngs), rngs), SEQUENCE, "full"),
    "two outputs": Row(lambda rngs: Head(lambda x: (jax.nn.relu(x), jnp.mean(x, axis=(1, 2))), rngs), IMAGE, "full"),
    # the peer: float islands
    "sigmoid": Row(between(jax.nn.sigmoid), IMAGE, "float"),
    "hard_swish": Row(between(jax.nn.hard_swish), IMAGE, "float"),
    "hard_sigmoid": Row(between(jax.nn.hard_sigmoid), IMAGE, "float"),
    "hard_tanh": Row(between(jax.nn.hard_tanh), IMAGE, "float"),
    "gelu exact": Row(between(lambda x: jax.nn.gelu(x, approximate=False)), IMAGE, "float"),
    "elu": Row(between(jax.nn.elu), IMAGE, "float"),
    "softplus": Row(between(jax.nn.softplus), IMAGE, "float"),
    "log_softmax": Row(between(jax.nn.log_softmax), IMAGE, "float"),
    "abs": Row(between(jnp.abs), IMAGE, "float"),
    "exp": Row(between(jnp.exp), IMAGE, "float"),
    "sqrt": Row(between(lambda x: jnp.sqrt(jax.nn.relu(x))), IMAGE, "float"),
    "rsqrt": Row(between(lambda x: jax.lax.rsqrt(jax.nn.relu(x) + 1.0)), IMAGE, "float"),
    "square": Row(between(jnp.square), IMAGE, "float"),
    "where": Row(between(lambda x: jnp.where(x > 0.25, x, 0.0)), IMAGE, "float"),
    "prelu": Row(around(PReLU), IMAGE, "float"),
    "BN after a pool": Row(around(LateBatchNorm), IMAGE, "float"),
    "sub div constant": Row(between(lambda x: (x - 0.5) / 3.0), IMAGE, "float"),
    "input x*2-1": Row(Scaled, IMAGE, "float"),
    "avg_pool SAME": Row(between(lambda x: avg_pool(x, (3, 3), (2, 2), "SAME")), IMAGE, "float"),
    "resize bilinear": Row(between(resize("bilinear")), IMAGE, "float"),
    "LayerNorm": Row(lambda rngs: Tokens(nnx.LayerNorm(SEQUENCE[-1], rngs=rngs), rngs), SEQUENCE, "float"),
    "GroupNorm": Row(around(lambda rngs: nnx.GroupNorm(CHANNELS, num_groups=2, rngs=rngs)), IMAGE, "float"),
    "RMSNorm": Row(lambda rngs: Tokens(nnx.RMSNorm(SEQUENCE[-1], rngs=rngs), rngs), SEQUENCE, "float"),
    "argmax": Row(lambda rngs: Head(lambda x: jnp.argmax(x, axis=-1), rngs), IMAGE, "float"),
    "l2norm": Row(between(l2_normalize), IMAGE, "float"),
    # the peer: fails
    "squeeze-excite sigmoid": Row(around(lambda rngs: SqueezeExcite(jax.nn.sigmoid, rngs)), IMAGE, "fails"),
    "squeeze-excite hard_sigmoid": Row(around(lambda rngs: SqueezeExcite(jax.nn.hard_sigmoid, rngs)), IMAGE, "fails"),
    "ConvTranspose": Row(
        around(lambda rngs: nnx.ConvTranspose(CHANNELS, CHANNELS, (3, 3), strides=(2, 2), rngs=rngs)), IMAGE, "fails"
    ),
    "embed dense": Row(Words, IDS, "fails", "int32"),
    "LSTM": Row(lambda rngs: Recurrent(nnx.LSTMCell(8, 8, rngs=rngs), rngs), STEPS, "fails"),
    "GRU": Row(lambda rngs: Recurrent(nnx.GRUCell(8, 8, rngs=rngs), rngs), STEPS, "fails"),
    "einsum to 2 axes": Row(ProjectHeads, SEQUENCE, "fails"),
}
