"""A model that keeps a state between calls is refused with what to do; what it only writes stays inside."""

from __future__ import annotations

from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import CaptureError

X = np.random.default_rng(0).normal(size=(7, 8)).astype(np.float32)
TEXT = r"The result depends on the variable (\S*)seen of shape \[1, 4\], .*\(ties = .* decode=False"


class Streaming(nnx.Module):
    """A result of the numbers of before; `read` tells whether."""

    def __init__(self, read: bool, rngs: nnx.Rngs) -> None:
        self.dense, self.read = nnx.Linear(8, 4, rngs=rngs), read
        self.seen = nnx.Variable(jnp.zeros((1, 4)))
        self.calls = nnx.Variable(jnp.zeros((), jnp.int32))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.dense(x)
        result = y + self.seen[...] if self.read else y
        self.seen[...] = y
        self.calls[...] += 1
        return result


class LinenStreaming(flax.linen.Module):
    read: bool

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        seen = self.variable("state", "seen", jnp.zeros, (1, 4))
        y = flax.linen.Dense(4)(x)
        result = y + seen.value if self.read else y
        self.sow("losses", "squares", (y**2).mean(-1))
        seen.value = y
        return result


def model(kind: str, read: bool) -> Any:
    return Streaming(read, nnx.Rngs(0)) if kind == "nnx" else LinenStreaming(read)


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_a_state_is_refused(kind: str) -> None:
    with pytest.raises(CaptureError, match=TEXT):
        jaxq.quantize(model(kind, True), "int8", X[:1])


@pytest.mark.parametrize("kind", ["nnx", "linen"])
def test_what_is_only_written_stays(kind: str) -> None:
    assert "kernel" in str(jaxq.quantize(model(kind, False), "int8", X[:1]).plan.graph)


@pytest.mark.parametrize("size", [1, 7])
def test_an_attention_layer_that_decodes(size: int) -> None:
    """It raised flax's ValueError at another batch, and gave a file of the first token at the same one."""
    layer = flax.linen.MultiHeadDotProductAttention(num_heads=2, qkv_features=8, decode=True)
    with pytest.raises(CaptureError, match=r"the variable cached_key of shape \[., 1, 2, 4\]"):
        jaxq.quantize(layer, "int8", X[:size, None])


class Sowing(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.dense(x)
        self.sow(nnx.Intermediate, "before", y)
        return jax.nn.relu(y)


@pytest.mark.filterwarnings("ignore:Using 'Module.sow")
def test_what_an_nnx_module_sows_stays_inside() -> None:
    q = jaxq.quantize(Sowing(nnx.Rngs(0)), "int8", X[:1])
    jaxq.calibrate(q, [X], progress=False)
    assert q(X).shape == (7, 4)
    assert jaxq.export.to_tflite(q, progress=False).program.output_names == ("output",)
