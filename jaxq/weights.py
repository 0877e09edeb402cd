"""Weight arithmetic and weight quantization: from parameters to the integers that ship.

Training and export both run this file, and every number between a parameter and an integer passes an optimization
barrier, so that XLA cannot fuse, reassociate or contract (`a * b + c` into one rounding) in one of them and not in
the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.graph import Graph
from jaxq.numerics import SMALLEST_SCALE, clip_ste, positive, round_ste, true_divide, unfused
from jaxq.ops.steps import Carrier
from jaxq.scheme import Scheme

# A channel's scale is at least this part of its tensor's largest: a dead channel keeps a scale that kernels accept.
LEAST_RATIO = 2.0**-20
# Biases stay below this many steps, so that adding one to an accumulator is exact in float32.
LARGEST_BIAS = 2.0**22


def weight_values(graph: Graph, params: Sequence[Any]) -> dict[int, Any]:
    """Every weight value of the graph, computed from its parameters (in the graph's order)."""
    env: dict[int, Any] = dict(graph.constants)
    env.update(zip(graph.params, params, strict=True))
    for eq in graph.weights:
        outputs = eq.call(*(env[v] for v in eq.inputs))
        env.update(zip(eq.outputs, (_fixed(out) for out in outputs), strict=True))
    return env


def _fixed(array: jax.Array) -> jax.Array:
    return unfused(array) if array.dtype == jnp.float32 else array


def weight_scale(w: jax.Array, scheme: Scheme, bias: jax.Array | None, x_scale: jax.Array) -> jax.Array:
    """`max|w| / 127` per channel of the last axis (or of the tensor, as a vector all the same), shape (channels,).

    TFLite wants a vector even where all scales are equal: its ARM kernels compute a scalar one otherwise.
    """
    magnitude = jnp.max(jnp.abs(w), axis=tuple(range(w.ndim - 1)))
    if scheme.axis is None:
        magnitude = jnp.full_like(magnitude, jnp.max(magnitude))
    scale = true_divide(magnitude, jnp.full_like(magnitude, scheme.qmax))
    return floored(scale, bias, x_scale)


def floored(scale: jax.Array, bias: jax.Array | None, x_scale: jax.Array) -> jax.Array:
    """Channel scales, none so small that its bias passes 2^22 steps or that kernels refuse it."""
    floor = jnp.maximum(lax.stop_gradient(jnp.max(scale)) * LEAST_RATIO, SMALLEST_SCALE)
    if bias is not None:
        floor = jnp.maximum(floor, lax.stop_gradient(true_divide(jnp.abs(bias), x_scale * LARGEST_BIAS)))
    return jnp.maximum(scale, floor)


def quantized_weight(
    w: jax.Array, bias: jax.Array, scheme: Scheme, x_scale: jax.Array, trained: Mapping[str, jax.Array] | None
) -> Carrier:
    """A kernel as integers in [-127, 127] with one scale an output channel (the last axis).

    A scale that follows its weight is a constant for the gradient, as in Jacob et al. 2018: differentiating through max|w|
    would send all of a channel's rounding error to its largest weight.
    """
    w, bias = w.astype(jnp.float32), bias.astype(jnp.float32)
    if trained is None:
        scale = lax.stop_gradient(weight_scale(w, scheme, bias, x_scale))
    else:
        own = positive(trained["scale"] if scheme.ranges == "learned" else lax.stop_gradient(trained["scale"]))
        scale = floored(own, bias, x_scale)
    return quantized_constant(w, unfused(scale), scheme.qmax)


def quantized_constant(w: jax.Array, scale: jax.Array, qmax: int) -> Carrier:
    """`clip(round(w * (1 / s)), -qmax, qmax)`, ties to even; `1 / s` is rounded once, and so is the product."""
    inverse = true_divide(jnp.ones_like(scale), scale)
    q = clip_ste(round_ste(w * inverse), jnp.float32(-qmax), jnp.float32(qmax))
    return Carrier(q, scale, jnp.float32(0.0))
