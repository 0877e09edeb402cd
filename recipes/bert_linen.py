"""BERT in Linen: the encoder of `jaxq.recipes.bert`, the same functions and names (`layers_0` for `layers/0`).

`jaxq plan recipes/bert_linen` shows what becomes of BERT-tiny in int8; its plan is the NNX model's.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from jaxq.recipes.bert import CONFIGS, MASKED, Config, clipped, example, mean_over


class LayerNorm(nn.Module):
    """`(x - mean) / sqrt(variance + epsilon) * scale + bias` over the last axis."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] to the same shape."""
        scale = self.param("scale", nn.initializers.ones, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * scale + bias


class Embeddings(nn.Module):
    """Word, position and type embeddings, added and normalized."""

    config: Config

    @nn.compact
    def __call__(self, ids: jax.Array) -> jax.Array:
        """Token ids int32 [n, length] to [n, length, width]."""
        c = self.config
        position = nn.Embed(c.positions, c.width, name="position").embedding
        kind = nn.Embed(c.types, c.width, name="type").embedding
        x = nn.Embed(c.vocabulary, c.width, name="word")(ids) + (position[: ids.shape[1]] + kind[0])
        return LayerNorm(c.epsilon, name="norm")(x)


class Attention(nn.Module):
    """Self-attention in `heads` heads."""

    heads: int

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[n, length, width] to the same shape; mask: bool [n, length]."""
        n, length, width = x.shape
        size = width // self.heads

        def split(x: jax.Array) -> jax.Array:
            return x.reshape(n, length, self.heads, size).swapaxes(1, 2)

        q = split(nn.Dense(width, name="query")(x) * (1.0 / math.sqrt(size)))
        k, v = split(nn.Dense(width, name="key")(x)), split(nn.Dense(width, name="value")(x))
        scores = jnp.where(mask[:, None, None, :], q @ k.swapaxes(2, 3), MASKED)
        mixed = (jax.nn.softmax(scores) @ v).swapaxes(1, 2).reshape(x.shape)
        return nn.Dense(width, name="output")(mixed)


class Layer(nn.Module):
    """Attention and a feed-forward part, each added to its input and normalized after."""

    config: Config

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[n, length, width] to the same shape."""
        c = self.config
        y = Attention(c.heads, name="attention")(x, mask)
        x = LayerNorm(c.epsilon, name="norm1")(clipped(x + clipped(y, c.clip), c.clip))
        y = nn.Dense(c.width, name="down")(jax.nn.gelu(nn.Dense(c.hidden, name="up")(x), approximate=False))
        return LayerNorm(c.epsilon, name="norm2")(clipped(x + clipped(y, c.clip), c.clip))


class Bert(nn.Module):
    """Embeddings and the layers: the encoder without a head. Dropout is left out."""

    config: Config

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Token ids int32 [n, length] and mask bool [n, length] to [n, length, width]."""
        x = Embeddings(self.config, name="embeddings")(ids)
        for i in range(self.config.layers):
            x = Layer(self.config, name=f"layers_{i}")(x, mask)
        return x


class SentenceModel(nn.Module):
    """A linear head on the mean of the tokens."""

    config: Config
    outputs: int

    @nn.compact
    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Token ids int32 and mask bool, [n, length], to [n, outputs]."""
        x = Bert(self.config, name="encoder")(ids, mask)
        return nn.Dense(self.outputs, name="head")(mean_over(x, mask))


def target(config: str = "bert-tiny", length: int = 64) -> tuple[Any, Any, Any]:
    """The untrained module, an example and its variables, for `jaxq plan`."""
    module, inputs = SentenceModel(CONFIGS[config], 2), example(length)
    return module, inputs, module.init(jax.random.key(0), *inputs)
