"""A product of carriers whose gradients are formed of integers: the backward pass of quantization-aware training.

The forward sums are those of the product itself, bit for bit. Carriers of activations lie in [-255, 255] and span at
most 256 integers, so that they are held for the backward pass as uint8 above their least; weights are held as int8.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxq.gradients.backward import Backward
from jaxq.gradients.contraction import input_gradient, quantized_gradient
from jaxq.gradients.geometry import KINDS, Geometry, geometry
from jaxq.gradients.integers import align
from jaxq.gradients.products import transposed_in_w, transposed_in_x, weight_product

Of = Callable[[Array, Array], Array]


def with_integer_gradients(how: Backward, held: str, product: Any, x: Array, w: Array) -> Array:
    """`product.of(x, w)`, whose gradients are formed of integers by `how`: the hook of `jaxq.ops.contract.Products`.

    `held` is the element type in which x is kept, above its least number: "uint8", of activations of 16 bits "uint16".

    A product that is not one contraction of x and w as they are, such as a matrix product that broadcasts one of them,
    keeps its gradients in floats.
    """
    shape = only_contraction(product.of, x, w)
    return product.of(x, w) if shape is None else _product(product.of, shape, how, held, x, w)


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


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2, 3))
def _product(of: Of, shape: Geometry, how: Backward, kept: str, x: Array, w: Array) -> Array:
    return of(x, w)


def _forward(of: Of, shape: Geometry, how: Backward, kept: str, x: Array, w: Array) -> tuple[Array, Any]:
    least = jnp.min(x)
    return of(x, w), ((x - least).astype(kept), least, w.astype(jnp.int8))


def _backward(of: Of, shape: Geometry, how: Backward, kept: str, held: Any, g: Array) -> tuple[Array, Array]:
    above, least, w = held
    x = above.astype(jnp.float32) + least.astype(jnp.float32)
    g = g.astype(jnp.float32)
    found = quantized_gradient(shape, how, g, g, {})
    if how.input_gradient:
        dx = input_gradient(shape, how, found, x, w)
    else:
        dx = transposed_in_x(shape, g, w.astype(jnp.float32), x)
    if how.weight_gradient:  # carriers pass int8's bounds, so this product is one of floats
        sums = weight_product(shape, x, found.for_weight, w, "carriers")
        dw = sums * align(found.weight_scale, shape.channel_axes, sums.ndim)
    else:
        dw = transposed_in_w(shape, x, g, w)
    return dx.astype(shape.dtypes[0]), dw.astype(shape.dtypes[1])


_product.defvjp(_forward, _backward)
