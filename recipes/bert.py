"""BERT (Devlin et al. 2019, https://arxiv.org/abs/1810.04805): a post-LayerNorm encoder, in sizes from tiny to base.

Weights of all-MiniLM-L6-v2: `jaxq weights all-MiniLM-L6-v2`, then
`jaxq.recipes.weights.pretrained("all-MiniLM-L6-v2")`.
`jaxq plan recipes/bert` shows what becomes of BERT-tiny in int8.

What int8 asks of the spelling: a mask that selects (`where`) with a bounded constant in place of -inf; the factor of
the scores on the queries, where it folds into their weights; LayerNorm by the deviations from the mean, not by the
difference of two large means, its scale and bias last, where they are one multiplication per channel; position and type
embeddings as one constant of the sentence's length.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxq.errors import InputError

PADDING = 0  # the id of what fills a sentence up to its length
MASKED = -1e4  # a score that says "not this one": exp(-1e4) is nothing


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes of an encoder. width: numbers a token has; hidden: inside the feed-forward part; heads: of attention.

    clip: bounds what each layer adds to a token, and the sum, to [-clip, clip]; None, as published: no bound. Trained
    encoders let one channel of one token, [CLS] in MiniLM, grow a hundred times as large as the others (Bondarenko et
    al. 2021), and in int8 one scale serves them all. The bound costs the device next to nothing: it is the tensor's
    range, or, where training has moved that, a MINIMUM and a MAXIMUM.
    """

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 30_522
    positions: int = 512
    types: int = 2
    epsilon: float = 1e-12
    dropout: float = 0.1
    clip: float | None = None


# Turc et al. 2019 (tiny to small), Devlin et al. 2019 (base), Wang et al. 2020 (MiniLM, six layers of 384).
CONFIGS = {
    "bert-tiny": Config(2, 128, 2, 512),
    "bert-mini": Config(4, 256, 4, 1024),
    "bert-small": Config(4, 512, 8, 2048),
    "bert-base": Config(12, 768, 12, 3072),
    "minilm-l6": Config(6, 384, 12, 1536),
}


def clipped(x: jax.Array, bound: float | None) -> jax.Array:
    """`x`, of any shape, within [-bound, bound]; as it is with None. Raises InputError for a bound that is not > 0."""
    if bound is None:
        return x
    if not bound > 0:
        raise InputError(f"clip is {bound}. Give a positive number, or None.")
    return jnp.clip(x, -bound, bound)


class LayerNorm(nnx.Module):
    """Ba et al. 2016: `(x - mean) / sqrt(variance + epsilon) * scale + bias` over the last axis."""

    def __init__(self, width: int, epsilon: float) -> None:
        self.scale = nnx.Param(jnp.ones(width))
        self.bias = nnx.Param(jnp.zeros(width))
        self.epsilon = epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., width] to the same shape."""
        centred = x - x.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        return centred * jax.lax.rsqrt(variance + self.epsilon) * self.scale[...] + self.bias[...]


class Embeddings(nnx.Module):
    """Word, position and type embeddings, added and normalized. Types are all 0: one sentence."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.word = nnx.Embed(config.vocabulary, config.width, rngs=rngs)
        self.position = nnx.Embed(config.positions, config.width, rngs=rngs)
        self.type = nnx.Embed(config.types, config.width, rngs=rngs)
        self.norm = LayerNorm(config.width, config.epsilon)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)

    def __call__(self, ids: jax.Array) -> jax.Array:
        """Token ids int32 [n, length] to [n, length, width]."""
        place = self.position.embedding[...][: ids.shape[1]] + self.type.embedding[...][0]
        return self.dropout(self.norm(self.word(ids) + place))


class Attention(nnx.Module):
    """Self-attention (Vaswani et al. 2017): `softmax(q k^T / sqrt(d)) v` in each head, then a dense layer.

    cin: numbers of a token in the queries' and keys' input, the values' is `values`; both are `width` in BERT.
    """

    def __init__(self, width: int, heads: int, *, values: int | None = None, rngs: nnx.Rngs) -> None:
        self.heads = heads
        self.query = nnx.Linear(width, width, rngs=rngs)
        self.key = nnx.Linear(width, width, rngs=rngs)
        self.value = nnx.Linear(values or width, width, rngs=rngs)
        self.output = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array, values: jax.Array | None = None) -> jax.Array:
        """[n, length, width] to the same shape; mask: bool [n, length], true at tokens, false at padding."""
        factor = 1.0 / math.sqrt(x.shape[-1] // self.heads)
        q, k = self._split(self.query(x) * factor), self._split(self.key(x))
        v = self._split(self.value(x if values is None else values))
        scores = jnp.where(mask[:, None, None, :], q @ k.swapaxes(2, 3), MASKED)
        mixed = jax.nn.softmax(scores) @ v
        return self.output(mixed.swapaxes(1, 2).reshape(x.shape))

    def _split(self, x: jax.Array) -> jax.Array:
        """[n, length, width] to [n, heads, length, width / heads]."""
        n, length, width = x.shape
        return x.reshape(n, length, self.heads, width // self.heads).swapaxes(1, 2)


class Layer(nnx.Module):
    """Attention and a feed-forward part, each added to its input and normalized after."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.attention = Attention(config.width, config.heads, rngs=rngs)
        self.norm1 = LayerNorm(config.width, config.epsilon)
        self.up = nnx.Linear(config.width, config.hidden, rngs=rngs)
        self.down = nnx.Linear(config.hidden, config.width, rngs=rngs)
        self.norm2 = LayerNorm(config.width, config.epsilon)
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.clip = config.clip

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[n, length, width] to the same shape."""
        x = self.norm1(self._sum(x, self.attention(x, mask)))
        y = self.down(jax.nn.gelu(self.up(x), approximate=False))
        return self.norm2(self._sum(x, y))

    def _sum(self, x: jax.Array, y: jax.Array) -> jax.Array:
        return clipped(x + self.dropout(clipped(y, self.clip)), self.clip)


class Bert(nnx.Module):
    """Embeddings and the layers: the encoder without a head."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        self.embeddings = Embeddings(config, rngs=rngs)
        self.layers = nnx.List([Layer(config, rngs=rngs) for _ in range(config.layers)])

    def __call__(self, ids: jax.Array, mask: jax.Array) -> jax.Array:
        """Token ids int32 [n, length] and mask bool [n, length], true at tokens, to [n, length, width]."""
        x = self.embeddings(ids)
        for layer in self.layers:
            x = layer(x, mask)
        return x


class Pooler(nnx.Module):
    """BERT's own: a dense layer and tanh on the first token."""

    def __init__(self, width: int, *, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(width, width, rngs=rngs)

    def __call__(self, x: jax.Array, mask: jax.Array) -> jax.Array:
        """[n, length, width] to [n, width]; the mask is not read."""
        return jnp.tanh(self.dense(x[:, 0]))


def mean_over(x: jax.Array, mask: jax.Array) -> jax.Array:
    """[n, length, width] to [n, width]: the mean over the tokens where mask is true.

    Written as attention with equal scores: in int8 a softmax and a product, no count to divide by.
    """
    scores = jnp.where(mask[:, None, :], jnp.zeros((1, 1, x.shape[1]), x.dtype), MASKED)
    return (jax.nn.softmax(scores) @ x)[:, 0]


class SentenceEncoder(nnx.Module):
    """Sentence embeddings: the mean of the encoder's tokens (Reimers and Gurevych 2019), not normalized."""

    def __init__(self, config: Config, *, rngs: nnx.Rngs) -> None:
        self.encoder = Bert(config, rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Token ids int32 and mask bool, [n, length], to [n, width]. Without a mask, id 0 is padding."""
        mask = ids != PADDING if mask is None else mask
        return mean_over(self.encoder(ids, mask), mask)


class SentenceModel(nnx.Module):
    """A linear head on the encoder: logits of `outputs` classes, or as many real numbers.

    pooling: "mean" over the tokens, or "first", BERT's pooler on the first one.
    """

    def __init__(self, config: Config, outputs: int, *, pooling: str = "mean", rngs: nnx.Rngs) -> None:
        self.encoder = Bert(config, rngs=rngs)
        self.pooler = Pooler(config.width, rngs=rngs) if pooling == "first" else None
        self.dropout = nnx.Dropout(config.dropout, rngs=rngs)
        self.head = nnx.Linear(config.width, outputs, rngs=rngs)

    def __call__(self, ids: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Token ids int32 and mask bool, [n, length], to [n, outputs]. Without a mask, id 0 is padding."""
        mask = ids != PADDING if mask is None else mask
        pool = mean_over if self.pooler is None else self.pooler
        return self.head(self.dropout(pool(self.encoder(ids, mask), mask)))


def bounded(model: Any, clip: float | None) -> Any:
    """The same model, changed in place: its layers' sums are bounded to [-clip, clip], None for no bound (`Config`).

    Raises InputError for a model without a `Layer`: it has other sums.
    """
    layers = [module for _, module in nnx.iter_modules(model) if isinstance(module, Layer)]
    if not layers:
        raise InputError(
            f"{type(model).__name__} has no jaxq.recipes.bert.Layer whose sums could be bounded. "
            "Clip them where the model adds: jaxq.recipes.bert.clipped(x + y, clip)."
        )
    for layer in layers:
        layer.clip = clip
    return model


def example(length: int) -> tuple[np.ndarray, np.ndarray]:
    """One sentence of padding, ids int32 and mask bool, [1, length]: inputs of the right shape."""
    return np.zeros((1, length), np.int32), np.ones((1, length), bool)


def target(config: str = "bert-tiny", length: int = 64) -> tuple[Any, Any]:
    """An untrained classifier in evaluation mode and an example, for `jaxq plan`."""
    model = SentenceModel(CONFIGS[config], 2, rngs=nnx.Rngs(0))
    model.eval()
    return model, example(length)
