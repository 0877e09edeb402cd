"""The sixty-three networks of `tests/sixty_three.py` in Linen, with the same names, so that the same numbers fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
from flax import linen, nnx

from tests import sixty_three
from tests.sixty_three import CHANNELS, WORDS

Function = Callable[..., Any]


# --- frames: `op` is a function, which may make layers of its own -----------------------------------------------------


class Between(linen.Module):
    """3x3 convolution, an op, 1x1 convolution."""

    op: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Conv(4, (1, 1), name="last")(self.op(linen.Conv(CHANNELS, (3, 3), name="first")(x)))


class Head(linen.Module):
    """3x3 convolution, then an op that the model ends with."""

    op: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> Any:
        return self.op(linen.Conv(CHANNELS, (3, 3), name="first")(x))


class Classifier(linen.Module):
    """3x3 convolution, an op that gives rows, a dense layer."""

    op: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(10, name="head")(self.op(linen.Conv(CHANNELS, (3, 3), name="first")(x)))


class Tokens(linen.Module):
    """A dense layer on each token, an op, a dense layer."""

    op: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.Dense(4, name="last")(self.op(linen.Dense(x.shape[-1], name="first")(x)))


class TwoBranches(linen.Module):
    """Two convolutions of the image, an op of both, 1x1 convolution."""

    op: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        left, right = linen.Conv(CHANNELS, (3, 3), name="left")(x), linen.Conv(CHANNELS, (1, 1), name="right")(x)
        return linen.Conv(4, (1, 1), name="last")(self.op(left, right))


class Whole(linen.Module):
    """A model of its own."""

    op: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> Any:
        return self.op(x)


FRAMES: dict[type, type[linen.Module]] = {
    sixty_three.Between: Between,
    sixty_three.Classifier: Classifier,
    sixty_three.Head: Head,
    sixty_three.Tokens: Tokens,
    sixty_three.TwoBranches: TwoBranches,
}


# --- layers with weights of their own ---------------------------------------------------------------------------------


def conv(**options: Any) -> Function:
    """3x3, as many channels out as in."""
    return lambda x: linen.Conv(CHANNELS, (3, 3), name="op", **options)(x)


class ConvBNRelu(linen.Module):
    """Convolution, BatchNorm, ReLU."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = linen.Conv(CHANNELS, (3, 3), use_bias=False, name="conv")(x)
        return linen.relu(linen.BatchNorm(use_running_average=True, name="norm")(y))


class LateBatchNorm(linen.Module):
    """BatchNorm behind a pool."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.BatchNorm(use_running_average=True, name="norm")(linen.max_pool(x, (2, 2), (2, 2)))


class PReLU(linen.Module):
    """A trained slope for each channel below zero."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return jnp.where(x >= 0.0, x, self.param("slope", linen.initializers.ones_init(), x.shape[-1:]) * x)


class Residual(linen.Module):
    """x + f(x)."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return x + linen.Conv(CHANNELS, (3, 3), name="conv")(x)


class SqueezeExcite(linen.Module):
    """A gate for each channel, from the mean over the image."""

    gate: Function

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        mean = jnp.mean(x, axis=(1, 2), keepdims=True)
        reduced = linen.relu(linen.Conv(4, (1, 1), name="reduce")(mean))
        return x * self.gate(linen.Conv(CHANNELS, (1, 1), name="expand")(reduced))


def recurrent(cell: Function) -> Function:
    """A recurrent layer, and a dense one on its last state."""
    return lambda x: linen.Dense(4, name="head")(cast(jax.Array, linen.RNN(cell(8), name="rnn")(x))[:, -1])


def scaled(x: jax.Array) -> jax.Array:
    """An image in [0, 1] scaled to [-1, 1] by the model."""
    y = linen.relu(linen.Conv(8, (3, 3), name="first")(x * 2.0 - 1.0))
    return linen.Conv(4, (1, 1), name="last")(y)


def series(x: jax.Array) -> jax.Array:
    """Two convolutions over time."""
    return linen.Conv(4, (1,), name="last")(linen.relu(linen.Conv(8, (3,), name="first")(x)))


def two_axes(x: jax.Array) -> jax.Array:
    """Dense layers to two axes and back."""
    return linen.DenseGeneral(4, axis=(-2, -1), name="layers_1")(linen.DenseGeneral((2, 8), name="layers_0")(x))


def words(ids: jax.Array) -> jax.Array:
    """An embedding and a dense layer."""
    return linen.Dense(4, name="head")(linen.Embed(WORDS, 16, name="embed")(ids))


LAYERS: dict[str, Function] = {
    "1-D conv": series,
    "BN after a pool": lambda x: LateBatchNorm(name="op")(x),
    "ConvTranspose": lambda x: linen.ConvTranspose(CHANNELS, (3, 3), strides=(2, 2), name="op")(x),
    "GRU": recurrent(linen.GRUCell),
    "GroupNorm": lambda x: linen.GroupNorm(num_groups=2, name="op")(x),
    "LSTM": recurrent(linen.LSTMCell),
    "LayerNorm": lambda x: linen.LayerNorm(name="op")(x),
    "RMSNorm": lambda x: linen.RMSNorm(name="op")(x),
    "attention": lambda x: linen.MultiHeadDotProductAttention(2, name="op")(x),
    "conv": conv(),
    "conv BN relu": lambda x: ConvBNRelu(name="op")(x),
    "dense_general": two_axes,
    "depthwise conv": conv(feature_group_count=CHANNELS),
    "dilated conv": conv(kernel_dilation=2),
    "einsum to 2 axes": lambda x: linen.Einsum((16, 2, 8), "btd,dhk->bthk", name="project")(x),
    "embed dense": words,
    "grouped conv": conv(feature_group_count=2),
    "input x*2-1": scaled,
    "prelu": lambda x: PReLU(name="op")(x),
    "residual add": lambda x: Residual(name="op")(x),
    "squeeze-excite hard_sigmoid": lambda x: SqueezeExcite(jax.nn.hard_sigmoid, name="op")(x),
    "squeeze-excite sigmoid": lambda x: SqueezeExcite(jax.nn.sigmoid, name="op")(x),
    "stride VALID conv": conv(strides=2, padding="VALID"),
}


def form(name: str, model: nnx.Module) -> linen.Module:
    """The Linen form of one of the networks, whose op is the NNX model's own where it has no weights."""
    op = LAYERS.get(name) or cast(Any, model).op
    return FRAMES.get(type(model), Whole)(op)  # type: ignore[call-arg]


# --- numbers ----------------------------------------------------------------------------------------------------------

UNNAMED = {"GRUCell_0", "LSTMCell_0", "cell", "rnn"}  # on the way to the weights of a recurrent cell


def with_numbers_of(variables: Any, model: nnx.Module) -> Any:
    """The variables of a Linen form, with the numbers of the NNX model in `params` and `batch_stats`."""
    held = {_name(path): leaf for path, leaf in _leaves(nnx.to_pure_dict(nnx.state(model)))}
    user = {name: tree for name, tree in variables.items() if name != "ranges"}
    filled = jax.tree_util.tree_map_with_path(lambda path, _: jnp.asarray(held[_name(path[1:])]), user)
    return {**variables, **filled}


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree_util.tree_flatten_with_path(tree)[0]


def _name(path: Any) -> str:
    """`op_conv_kernel`, whatever the levels are called apart."""
    parts = [str(getattr(key, "key", key)).rstrip("_") for key in path]
    return "_".join(part for part in parts if part not in UNNAMED)
