"""MobileBERT (Sun et al. 2020, https://arxiv.org/abs/2004.02984): thin layers between wide ones, no LayerNorm, ReLU.

A layer's input of 512 numbers a token is narrowed to 128 (a bottleneck), goes through attention and four feed-forward
parts, and is widened again. NoNorm, a multiplication and a bias per channel, stands in LayerNorm's place: it is what
makes the network easy to quantize. 24,581,888 parameters.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxq.recipes.bert import Attention, example, mean_over


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes: of a token between layers (width), inside one (thin), of its embedding; feed-forward parts in a layer."""

    layers: int = 24
    width: int = 512
    thin: int = 128
    heads: int = 4
    hidden: int = 512
    embedding: int = 128
    parts: int = 4
    vocabulary: int = 30_522
    positions: int = 512
    types: int = 2


class NoNorm(nnx.Module):
    """`x * scale + bias` per channel: section 3.2."""

    def __init__(self, width: int) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] to the same shape."""
        return x * self.scale[...] + self.bias[...]


class Dense(nnx.Module):
    """A dense layer, what is added to it, and NoNorm."""

    def __init__(self, cin: int, cout: int, *, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(cin, cout, rngs=rngs)
        self.norm = NoNorm(cout)

    def __call__(self, x: jax.Array, added: jax.Array | None = None) -> jax.Array:
        """[..., cin] to [..., cout]."""
        y = self.dense(x)
        return self.norm(y if added is None else y + added)


class FeedForward(nnx.Module):
    """Dense, ReLU, dense, added to the input, NoNorm."""

    def __init__(self, width: int, hidden: int, *, rngs: nnx.Rngs) -> None:
        self.up = nnx.Linear(width, hidden, rngs=rngs)
        self.down = Dense(hidden, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] to the same shape."""
        return self.down(jax.nn.relu(self.up(x)), x)


class Embeddings(nnx.Module):
    """Each token's embedding beside its neighbours', made wide; position and type embeddings; NoNorm."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.word = nnx.Embed(config.vocabulary, config.embedding, rngs=rngs)
        self.position = nnx.Embed(config.positions, config.width, rngs=rngs)
        self.type = nnx.Embed(config.types, config.width, rngs=rngs)
        self.widen = nnx.Linear(3 * config.embedding, config.width, rngs=rngs)
        self.norm = NoNorm(config.width)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Token ids int32 [n, length] to [n, length, width]."""
        x = self.word(ids)
        after = jnp.pad(x[:, 1:], ((0, 0), (0, 1), (0, 0)))
        before = jnp.pad(x[:, :-1], ((0, 0), (1, 0), (0, 0)))
        place = self.position.embedding[...][: ids.shape[1]] + self.type.embedding[...][0]
        return self.norm(self.widen(jnp.concatenate([after, x, before], -1)) + place)


class Layer(nnx.Module):
    """Figure 1c of the paper: two bottlenecks in, attention, the feed-forward parts, one bottleneck out."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        width, thin = config.width, config.thin
        self.enter = Dense(width, thin, rngs=rngs)
        self.enter_attention = Dense(width, thin, rngs=rngs)
        self.attention = Attention(thin, config.heads, values=width, rngs=rngs)
        self.norm = NoNorm(thin)
        self.parts = nnx.List([FeedForward(thin, config.hidden, rngs=rngs) for _ in range(config.parts)])
        self.leave = Dense(thin, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[n, length, width] to the same shape."""
        y = self.norm(self.attention(self.enter_attention(x), mask, x) + self.enter(x))
        for part in self.parts:
            y = part(y)
        return self.leave(y, x)


class MobileBert(nnx.Module):
    """Embeddings and the layers: the encoder without a head."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Token ids int32 [n, length] and mask bool [n, length], true at tokens, to [n, length, width]."""
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class MobileSentenceModel(nnx.Module):
    """A linear head on the mean of the tokens."""

    def __init__(self, config: Config, outputs: int, *, rngs: nnx.Rngs) -> None:
        self.encoder = MobileBert(config, rngs=rngs)
        self.head = nnx.Linear(config.width, outputs, rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Token ids int32 and mask bool, [n, length], to [n, outputs]."""
        return self.head(mean_over(self.encoder(ids, mask), mask))


def target(layers: int = 24, length: int = 64) -> tuple[Any, Any]:
    """An untrained classifier in evaluation mode and an example, for `jaxq plan`."""
    model = MobileSentenceModel(Config(layers=layers), 2, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(length)
