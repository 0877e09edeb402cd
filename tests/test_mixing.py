"""The law of examples: what a device computes for one does not depend on the others of a training batch.

A function that breaks it is refused when it is quantized: its file would be exact for one example and its training
would not be that of the file. What keeps examples apart, in whatever layout, is taken, and gives the same integers for
a batch and for each example of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import BatchStatisticsError
from jaxq.graph.mixing import RULES
from jaxq.ops import OPS

Function = Callable[[Any, Any], Any]
RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 4, 4)).astype(np.float32)
W, STACK = RNG.normal(size=(4, 4)).astype(np.float32), RNG.normal(size=(3, 4, 4)).astype(np.float32)


def mixed(x: jax.Array) -> jax.Array:
    """Rows of all examples, in another order."""
    return x.reshape(4, -1, 4).transpose(1, 0, 2)


MIXING: dict[str, tuple[Function, str]] = {
    "argmax": (lambda p, x: jnp.argmax(x @ p, 0), "`ARG_MAX` at .* reduces over axis 0, the batch"),
    "cumsum": (lambda p, x: jnp.cumsum(x @ p, 0), "`CUMSUM` at .* runs along axis 0"),
    "first": (lambda p, x: (x @ p)[0], "`SLICE` at .* takes a part of axis 0"),
    "flipped": (lambda p, x: (x @ p)[::-1], "`REVERSE_V2` at .* runs along axis 0"),
    "gathered": (lambda p, x: (x @ p)[np.array([1, 0, 1])], "`GATHER` at .* picks from axis 0"),
    "gram": (lambda p, x: jnp.einsum("nti,mti->nm", x @ p, x), "multiplies each example by others"),
    "in another order": (lambda p, x: mixed(x @ p), "from .* to .4, 11, 4."),
    "less the first": (lambda p, x: x @ p - (x @ p)[:1], "`SLICE` at .* takes a part of axis 0"),
    "mean": (lambda p, x: x @ p - jnp.mean(x @ p, 0), "`MEAN` at .* reduces over axis 0, the batch"),
    "mean of all": (lambda p, x: x @ p - jnp.mean(x @ p), "reduces over axis 0, the batch"),
    "moved mean": (lambda p, x: jnp.mean((x @ p).T, 2), "`MEAN` at .* reduces over axis 2, the batch"),
    "norm of all": (lambda p, x: x @ p / jnp.linalg.norm(x @ p), "reduces over axis 0, the batch"),
    "padded": (lambda p, x: jnp.pad(x @ p, ((1, 0), (0, 0), (0, 0)))[:-1], "`PAD` at .* pads axis 0"),
    "pairs": (lambda p, x: (x @ p)[:, None, 0] - (x @ p)[None, :, 0], "`SUB` at .* combines each example with others"),
    "product": (  # halves are multiplied
        lambda p, x: jnp.prod(x @ p, 0), "as `x.:n.`, `jnp.prod.x, 0.` and a loop over examples .* use `jax.vmap`"
    ),
    "rolled": (lambda p, x: jnp.roll(x @ p, 1, 0), "`SLICE` at .* takes a part of axis 0"),
    "softmax": (lambda p, x: jax.nn.softmax(x @ p, axis=0), "`SOFTMAX` at .* sums over axis 2, the batch"),
    "rows of others": (
        lambda p, x: (x @ p)[jnp.argmax(x[:, 0], -1)], "`EMBEDDING` at .* reads rows of axis 0, the batch"
    ),
    "sum of squares": (lambda p, x: jnp.einsum("nti,nsj->tsij", x @ p, x), "sums over the batch"),
    "window": (
        lambda p, x: jax.lax.conv_general_dilated((x @ p).transpose(1, 0, 2), jnp.asarray(STACK), (1,), "SAME",
                                                  dimension_numbers=("NWC", "WIO", "NWC")).transpose(1, 0, 2),
        "`CONV_2D` at .* reads a window of axis 2, the batch",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(MIXING))
def test_what_mixes_the_examples_of_a_batch_is_refused(name: str) -> None:
    function, text = MIXING[name]
    with pytest.raises(BatchStatisticsError, match=text) as refused:
        jaxq.quantize(function, "int8", W, X[:1])
    assert "the output for one example would depend on the others" in str(refused.value)
    assert "test_mixing.py:" in str(refused.value)


def two_views(p: Any, x: jax.Array) -> jax.Array:
    """Two batches in one, and apart again."""
    both = jnp.tanh(jnp.concatenate([x, x[:, ::-1]]) @ p)
    first, second = jnp.split(both, 2)
    return first - second


def time_first(p: Any, x: jax.Array) -> jax.Array:
    """A recurrence over the rows, which `scan` has first."""

    def step(h: jax.Array, y: jax.Array) -> tuple[jax.Array, jax.Array]:
        h = jnp.tanh(h + y)
        return h, h

    return jax.lax.scan(step, x[:, 0], (x @ p).swapaxes(0, 1))[1]


def windows(p: Any, x: jax.Array) -> jax.Array:
    """Pairs of rows in the place of the batch, as window attention has them."""
    y = (x @ p).reshape(-1, 2, 4)
    return (jax.nn.softmax(y @ y.swapaxes(1, 2)) @ y).reshape(x.shape)


def learned(p: Any, x: jax.Array) -> jax.Array:
    """Learned queries, repeated, normalised and projected for every example, in heads: a Perceiver's, a DETR's."""
    queries = jnp.broadcast_to(p, (x.shape[0], *p.shape))
    queries = (queries - queries.mean(-1, keepdims=True)) * jax.lax.rsqrt(queries.var(-1, keepdims=True) + 1e-3)
    queries, keys = (y.reshape(*y.shape[:2], 2, 2) for y in (queries @ p, x @ p))
    return jnp.einsum("nqhd,nkhd->nhqk", queries, keys)


APART: dict[str, Function] = {
    "columns first": lambda p, x: jnp.tanh((x @ p).transpose(2, 1, 0)).max(0).T,
    "learned queries in heads": learned,
    "members": lambda p, x: jax.vmap(lambda w: jnp.tanh(x @ w))(STACK).mean(0),
    "queries of every example": lambda p, x: jnp.broadcast_to(p, (x.shape[0], *p.shape)) @ x.swapaxes(1, 2),
    "rows in the batch": lambda p, x: jax.nn.relu(x.reshape(-1, 4) @ p).reshape(-1, 16),
    "scores of examples": lambda p, x: jnp.einsum("nti,nsi->nts", x @ p, x),
    "time first": time_first,
    "two views": two_views,
    "windows": windows,
}


@pytest.mark.parametrize("name", sorted(APART))
def test_what_keeps_examples_apart_gives_the_same_integers_for_each(name: str) -> None:
    function = APART[name]
    q = jaxq.quantize(function, "int8", W, X[:1])
    ranges = jaxq.calibrate(q, [X], W, q.init(W, X[:1]), progress=False)
    together = np.asarray(q.apply(W, ranges, X))
    axis = next(a for a, size in enumerate(together.shape) if size == len(X))
    each = np.concatenate([np.asarray(q.apply(W, ranges, X[i : i + 1])) for i in range(len(X))], axis)
    np.testing.assert_array_equal(together, each)


class Norm(flax.linen.Module):
    """A norm on the statistics of the batch, written by hand."""

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = flax.linen.Dense(4)(x)
        return y - jnp.mean(y, (0, 1))


def test_modules_that_mix_examples_are_refused_too() -> None:
    with pytest.raises(BatchStatisticsError, match="reduces over axis 0, the batch"):
        jaxq.quantize(Norm(), "int8", X[:2])

    class First(nnx.Module):
        def __call__(self, x: jax.Array) -> jax.Array:
            return x * x[:1]

    with pytest.raises(BatchStatisticsError, match="takes a part of axis 0"):
        jaxq.quantize(First(), "int8", X)


def test_a_function_of_one_batch_alone_may_do_what_it_likes() -> None:
    def whole(p: Any, x: jax.Array) -> jax.Array:
        return jnp.mean((x @ p).reshape(6, 16)) * 2.0

    q = jaxq.quantize(whole, "int8", W, X)
    ranges = jaxq.calibrate(q, [X], W, q.init(W, X), progress=False)
    artifact = jaxq.export.to_tflite(q, W, ranges, verify=X, progress=False)
    np.testing.assert_array_equal(artifact.run(X)[0], q.apply(W, ranges, X))


def test_every_kind_of_op_has_a_rule() -> None:
    assert {*RULES} == {*OPS, "FLOAT"}
