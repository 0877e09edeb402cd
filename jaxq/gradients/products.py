"""The three products of a contraction on integers: y, the gradient of x, and the gradient of w.

Two ways compute the same integers. "int8" multiplies int8 numbers and adds int32 ones; "carriers" multiplies the same
integers in floats (float32 on a CPU, bfloat16 with float32 sums elsewhere), exact below 2^24. A convolution is one
operation of XLA's, or a sum over the taps of its window. `jaxq.gradients.choice` takes one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxq.gradients import taps
from jaxq.gradients.choice import carrier_dtype, way_for
from jaxq.gradients.geometry import KINDS, Geometry


def forward_product(shape: Geometry, x: Any, w: Any, compute: str) -> Array:
    """`y = contraction(x, w)` of int8 arrays, as float32."""
    way = way_for(shape, 0, compute)
    if way.endswith("taps"):
        return taps.forward(shape, _tapped(way, x), _tapped(way, w)).astype(jnp.float32)
    return _computed(way, lambda a, b: shape(a, b), x, w)


def input_product(shape: Geometry, g: Any, w: Any, x: Any, compute: str) -> Array:
    """`dX`, the transpose of the contraction in x, of int8 arrays g (like y) and w, as float32 of x's shape."""
    way = way_for(shape, 1, compute)
    if way.endswith("taps"):
        return taps.input_gradient(shape, _tapped(way, g), _tapped(way, w), x).astype(jnp.float32)
    return _computed(way, lambda a, b: transposed_in_x(shape, a, b, x), g, w)


def weight_product(shape: Geometry, x: Any, g: Any, w: Any, compute: str) -> Array:
    """`dW`, the transpose of the contraction in w, of int8 arrays x and g (like y), as float32 of w's shape."""
    way = way_for(shape, 2, compute)
    if way.endswith("taps"):
        return taps.weight_gradient(shape, _tapped(way, x), _tapped(way, g), w).astype(jnp.float32)
    return _computed(way, lambda a, b: transposed_in_w(shape, a, b, w), x, g)


def _tapped(way: str, a: Any) -> Any:
    """An operand as taps multiply it."""
    return a.astype(carrier_dtype()) if way.startswith("carriers") else a


def transposed_in_x(shape: Geometry, g: Any, w: Any, x: Any) -> Array:
    """The gradient of x for floats g and w of one element type."""
    (dx,) = jax.linear_transpose(lambda a: shape(a, w), jax.ShapeDtypeStruct(x.shape, w.dtype))(g)
    return dx


def transposed_in_w(shape: Geometry, x: Any, g: Any, w: Any) -> Array:
    """The gradient of w for floats x and g of one element type."""
    (dw,) = jax.linear_transpose(lambda b: shape(x, b), jax.ShapeDtypeStruct(w.shape, x.dtype))(g)
    return dw


def _computed(way: str, fn: Callable[[Array, Array], Array], a: Any, b: Any) -> Array:
    if way == "int8":
        return _on_integers(fn, jnp.int8, jnp.int32, a, b).astype(jnp.float32)
    carrier = carrier_dtype()
    return _on_integers(fn, carrier, jnp.float32, a, b)


def _on_integers(fn: Callable[[Array, Array], Array], dtype: Any, sums: Any, a: Any, b: Any) -> Array:
    """`fn`, written for float32, with operands of `dtype` and sums of `sums`.

    A transposed contraction is again one contraction, with reshapes and reversals before and after it: its trace for
    float32 is evaluated with other element types, so that JAX's own rules say how a convolution is transposed.
    """
    shapes = [jax.ShapeDtypeStruct(v.shape, jnp.float32) for v in (a, b)]
    closed = jax.make_jaxpr(fn)(*shapes)
    return _evaluate(closed.jaxpr, closed.consts, [a.astype(dtype), b.astype(dtype)], sums)[0]


def _evaluate(jaxpr: Any, consts: Sequence[Any], values: Sequence[Array], sums: Any) -> list[Array]:
    env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
    for eqn in jaxpr.eqns:
        inputs = [atom.val if hasattr(atom, "val") else env[atom] for atom in eqn.invars]
        if "jaxpr" in eqn.params:
            inner = eqn.params["jaxpr"]
            outputs = _evaluate(inner.jaxpr, inner.consts, inputs, sums)
        else:
            params = eqn.params | ({"preferred_element_type": jnp.dtype(sums)} if eqn.primitive.name in KINDS else {})
            outputs = [eqn.primitive.bind(*inputs, **params)]
        env.update(zip(eqn.outvars, outputs, strict=True))
    return [env[atom] for atom in jaxpr.outvars]
