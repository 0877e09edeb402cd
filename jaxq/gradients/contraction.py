"""A convolution or matrix product whose forward and backward passes multiply int8 integers.

    y  = s_x s_w (q_x * q_w)                                    s_x: one number; s_w: one for each output channel
    dX = s_gx (q_gx *^T q_w),   q_gx = Q(g s_w)                 the scales s_w lie inside the sum, so they go into g
    dW = s_x s_gw (q_x *^T q_gw),   q_gw = Q(g)

with Q of a scheme (`jaxq.gradients.schemes`). What is held for the backward pass is q_x and q_w, as int8.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxq.gradients.backward import Backward
from jaxq.gradients.geometry import Geometry
from jaxq.gradients.integers import align, levels, quantized, scale_of
from jaxq.gradients.products import forward_product, input_product, transposed_in_w, transposed_in_x, weight_product
from jaxq.gradients.schemes import SCHEMES, State

BITS = 8  # of activations and weights


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def contraction(shape: Geometry, how: Backward, x: Any, w: Any, state: State) -> Array:
    """`x` contracted with `w` in int8. The cotangent of `state` is `state - found`: a step of rate 1 takes it there.

    Args:
      shape: what is contracted with what.
      how: the backward pass. Its rules are not read.
      x, w: float arrays.
      state: of `how.scheme`.

    Returns:
      A float array of the shape and element type of the contraction in floats.
    """
    return _forward(shape, how, x, w, state)[0]


def _forward(shape: Geometry, how: Backward, x: Any, w: Any, state: State) -> tuple[Array, Any]:
    top = levels(BITS)
    summed = [a for a in range(w.ndim) if a not in shape.channel_axes.values()]
    wide_x, wide_w = jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32)
    scale_x, scale_w = scale_of(wide_x, range(x.ndim), top), scale_of(wide_w, summed, top)
    q_x, q_w = quantized(wide_x, scale_x, top, False), quantized(wide_w, scale_w, top, False)
    sums = forward_product(shape, q_x, q_w, how.compute)
    y = sums * (scale_x.reshape(()) * align(scale_w, dict(shape.w_axes), sums.ndim))
    held_x = q_x if how.weight_gradient else x
    held_w = q_w if how.input_gradient else w
    return y.astype(shape.dtypes[2]), (held_x, scale_x, held_w, scale_w, state)


def _backward(shape: Geometry, how: Backward, held: Any, g: Any) -> tuple[Array, Array, State]:
    x, scale_x, w, scale_w, state = held
    g = g.astype(jnp.float32)
    scaled = g * align(scale_w, dict(shape.w_axes), g.ndim)
    gradients = quantized_gradient(shape, how, scaled, g, state)
    if how.input_gradient:
        dx = input_gradient(shape, how, gradients, x, w)
    else:
        dx = transposed_in_x(shape, g, w.astype(jnp.float32), x)
    if how.weight_gradient:
        dw = weight_gradient(shape, how, gradients, x, w) * scale_x.reshape(())
    else:
        dw = transposed_in_w(shape, x.astype(jnp.float32), g, w)
    update = jax.tree.map(jnp.subtract, state, gradients.state)
    return dx.astype(shape.dtypes[0]), dw.astype(shape.dtypes[1]), update


contraction.defvjp(_forward, _backward)


class Quantized(NamedTuple):
    """A gradient as int8 for dX and for dW, its scales for them, and the scheme's new state."""

    for_input: Array
    for_weight: Array
    input_scale: Array
    weight_scale: Array
    state: State


def quantized_gradient(shape: Geometry, how: Backward, for_input: Array, for_weight: Array, state: State) -> Quantized:
    """The gradients of which dX and dW are formed, both of y's shape and float32, as integers by the scheme."""
    top, scheme = levels(how.bits), SCHEMES[how.scheme]
    stochastic = scheme.stochastic if how.stochastic is None else how.stochastic
    scales = scheme.find(for_input, for_weight, shape, top, state)
    q_x = quantized(for_input, scales.for_input, top, stochastic)
    q_w = quantized(for_weight, scales.for_weight, top, stochastic)
    return Quantized(q_x, q_w, scales.for_input, scales.for_weight, scales.state)


def input_gradient(shape: Geometry, how: Backward, g: Quantized, x: Any, w: Any) -> Array:
    """`s_gx (q_gx *^T q_w)` as float32 of x's shape, of int8 w."""
    sums = input_product(shape, g.for_input, w, x, how.compute)
    return sums * align(g.input_scale, shape.example_axes, sums.ndim)


def weight_gradient(shape: Geometry, how: Backward, g: Quantized, x: Any, w: Any) -> Array:
    """`s_gw (q_x *^T q_gw)` as float32 of w's shape, of int8 x."""
    sums = weight_product(shape, x, g.for_weight, w, how.compute)
    return sums * align(g.weight_scale, shape.channel_axes, sums.ndim)
