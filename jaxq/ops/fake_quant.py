"""The function behind `FakeQuant`, by whose name the capture recognises a quantizer that a model places by hand."""

from __future__ import annotations

import jax

from jaxq.numerics.rounding import fake_quant


@jax.jit
def jaxq_fake_quant(x: jax.Array, scale: jax.Array, zero_point: jax.Array) -> jax.Array:
    """`fake_quant` to int8 as one named call; `jaxq.graph.capture.FAKE_QUANT` is this name."""
    return fake_quant(x, scale, zero_point)
