"""Gradients formed of integers for an op of quantization-aware training, whose forward pass stays bit for bit as it is.

An op with a product computes `y = (x * w + bias) m` on carriers, `m = s_x s_w / s_y` the multiplier of its channel.
With `G` the gradient of y, that of the sums is `g = G m`, and

    dX = s_gx (Q(g) *^T w),   dW = s_gw (x *^T Q(g)),   dbias = sum g
    ds_x = (<x, dX> + <bias, dbias>) / s_x,   ds_w = (<w, dW> + bias dbias) / s_w by channel,   ds_y = -<G, y> / s_y

The gradients of scales are formed of those of the carriers, as the chain rule has them. The gradient of a range is the
difference of two such sums, `<x, dX>` of the ops that read a tensor and `<G, y>` of the op that makes it: with one
rounded gradient in both, what is left is LSQ's, of `x - y`, and not the error of rounding times x.

What is held for the backward pass: x as uint8 above its least number (carriers of 8 bits span 256 integers), w as int8,
and y, of 8 bits, in 128ths as int16. A number of y beyond 255.99 is clipped and has no gradient. Carriers of 16 bits,
and those that a device quantizes as it runs, whose rows have zero points of their own, are held as int16.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxq.gradients.backward import Backward
from jaxq.gradients.contraction import Quantized, input_gradient, quantized_gradient
from jaxq.gradients.geometry import KINDS, Geometry, geometry
from jaxq.gradients.integers import align
from jaxq.gradients.products import transposed_in_w, transposed_in_x, weight_product
from jaxq.gradients.schemes import State
from jaxq.numerics.rounding import true_divide

Of = Callable[[Array, Array], Array]
Carriers = Literal["8 bits", "16 bits", "dynamic"]

FRACTIONS = 128.0  # of a step, in which y is held
BYTE = 256


class How(NamedTuple):
    """What an op's product is, and how its gradients are formed. carriers: of activations. Hashable."""

    shape: Geometry
    backward: Backward
    carriers: Carriers


def with_integer_gradients(
    backward: Backward, carriers: Carriers, state: State, product: Any, result: Any, operands: Any
) -> Array:
    """`result(operands)[0]`, whose gradients are formed of integers: the hook `jaxq.ops.contract.Products.gradient`.

    A product that is not one contraction of x and w as they are, such as a matrix product that broadcasts one of them,
    keeps its gradients in floats.

    Args:
      backward: the scheme. Its rules are not read.
      carriers: those of the op's activations; "dynamic" where the device quantizes them as it runs.
      state: the scheme's, whose cotangent is `state - found`.
      product, result, operands: as `Products.gradient` has them.
    """
    shape = only_contraction(product.of, operands.x, operands.w)
    if shape is None:
        return result(operands)[0]
    value, sums = result(jax.tree.map(lax.stop_gradient, operands))
    return _attached(How(shape, backward, carriers), value, sums, tuple(operands), state)


def _multiplier(scales: tuple[Array, ...]) -> Array:
    """Of each channel; one where the sums are not brought to an output's scale."""
    return true_divide(scales[0] * scales[1], scales[2]) if scales else jnp.ones(())


def only_contraction(of: Of, x: Any, w: Any) -> Geometry | None:
    """The geometry of a function of two arrays that is one contraction of them and at most adds a zero; else None."""
    jaxpr = jax.make_jaxpr(of)(x, w).jaxpr
    eqn, *rest = jaxpr.eqns
    while "jaxpr" in eqn.params and len(eqn.invars) == 2:
        jaxpr = eqn.params["jaxpr"].jaxpr
        eqn, *rest = (*jaxpr.eqns, *rest)
    direct = eqn.primitive.name in KINDS and list(eqn.invars) == list(jaxpr.invars)
    return geometry(eqn.primitive.name, eqn.params, x, w) if direct and all(map(_adds_zero, rest)) else None


def _adds_zero(eqn: Any) -> bool:
    if eqn.primitive.name == "convert_element_type":
        return True
    return eqn.primitive.name == "add" and any(getattr(atom, "val", None) == 0.0 for atom in eqn.invars)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attached(how: How, value: Array, sums: Array, operands: Any, state: State) -> Array:
    """`value`, with the gradients of `sums = x * w + bias` times the multiplier."""
    return value


class _Held(NamedTuple):
    """What is kept for the backward pass. y: in 128ths where carriers have 8 bits; None where there are no scales."""

    x_above: Array
    x_least: Array
    w: Array
    bias: Array
    scales: tuple[Array, ...]
    y: Array | None
    state: State


def _forward(how: How, value: Array, sums: Array, operands: Any, state: State) -> tuple[Array, _Held]:
    x, w, bias, scales = operands
    y = sums * _multiplier(scales) if scales else None
    if how.carriers == "8 bits":
        least = jnp.min(x)
        above = (x - least).astype(jnp.uint8)
        y = None if y is None else _in_fractions(y)
    else:
        least, above = jnp.zeros(()), x.astype(jnp.int16)
    return value, _Held(above, least, w.astype(jnp.int8), bias, scales, y, state)


def _in_fractions(y: Array) -> Array:
    return jnp.round(jnp.clip(y * FRACTIONS, -32767.0, 32767.0)).astype(jnp.int16)


def _backward(how: How, held: _Held, cotangent: Array) -> tuple[Any, ...]:
    cotangent = cotangent.astype(jnp.float32)
    g = cotangent * _multiplier(held.scales)
    x = held.x_above.astype(jnp.float32) + held.x_least
    found = quantized_gradient(how.shape, how.backward, g, g, held.state)
    dx = _input_gradient(how, held, found, g)
    dw = _weight_gradient(how, held, found, g, x)
    dbias = _summed(g, held.bias.shape)
    dscales = _scale_gradients(how, held, cotangent, (x, dx), dw, dbias) if held.scales else ()
    update = jax.tree.map(jnp.subtract, held.state, found.state)
    types = how.shape.dtypes
    return None, None, (dx.astype(types[0]), dw.astype(types[1]), dbias, dscales), update


def _scale_gradients(
    how: How, held: _Held, cotangent: Array, x: tuple[Array, Array], dw: Array, dbias: Array
) -> tuple[Array, Array, Array]:
    """Of the scales of x, w and y. x: the carriers and their gradient."""
    assert held.y is not None
    y = held.y.astype(jnp.float32) * (1.0 / FRACTIONS) if how.carriers == "8 bits" else held.y
    of_bias = held.bias * dbias
    of_x = jnp.sum(x[0] * x[1]) + jnp.sum(of_bias)
    of_w = _summed(held.w.astype(jnp.float32) * dw, held.scales[1].shape) + _summed(of_bias, held.scales[1].shape)
    sums = of_x, of_w, -jnp.sum(cotangent * y)
    return tuple(true_divide(total, scale) for total, scale in zip(sums, held.scales, strict=True))


def _input_gradient(how: How, held: _Held, found: Quantized, g: Array) -> Array:
    x = jax.ShapeDtypeStruct(held.x_above.shape, jnp.float32)
    if how.backward.input_gradient:
        return input_gradient(how.shape, how.backward, found, x, held.w)
    return transposed_in_x(how.shape, g, held.w.astype(jnp.float32), x)


def _weight_gradient(how: How, held: _Held, found: Quantized, g: Array, x: Array) -> Array:
    """Carriers pass int8's bounds, so this product is one of floats."""
    if not how.backward.weight_gradient:
        return transposed_in_w(how.shape, x, g, held.w)
    sums = _byte_by_byte(how, x, lambda digit: weight_product(how.shape, digit, found.for_weight, held.w, "carriers"))
    return sums * align(found.weight_scale, how.shape.channel_axes, sums.ndim)


def _byte_by_byte(how: How, x: Array, product: Callable[[Array], Array]) -> Array:
    """A product linear in x; of 16 bits the sum of those of its two bytes, for bfloat16 holds no more."""
    if how.carriers != "16 bits":
        return product(x)
    high = jnp.round(x * (1.0 / BYTE))
    return product(high) * BYTE + product(x - high * BYTE)


def _summed(a: Array, shape: tuple[int, ...]) -> Array:
    """`a` summed over the axes along which `shape` broadcasts to it."""
    missing = a.ndim - len(shape)
    axes = [i for i in range(a.ndim) if i < missing or (shape[i - missing] == 1 and a.shape[i] != 1)]
    return jnp.sum(a, tuple(axes)).reshape(shape)


_attached.defvjp(_forward, _backward)
