"""The float reading of the folded graph: what the model computes in real numbers, beside `simulate`'s integers."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.graph import Graph, Op
from jaxq.numerics.rounding import clip_ste
from jaxq.ops import OPS, compute
from jaxq.ops.contract import Product
from jaxq.plan.groups import numbers
from jaxq.plan.plan import Plan
from jaxq.simulate.weights import weight_values

MOST_TAPS = 64  # of a depthwise window: each is code to compile


def reals(
    plan: Plan, params: Sequence[Any], inputs: Sequence[Any], differentiable: bool = True
) -> dict[int, jax.Array]:
    """Every activation of the folded graph in real numbers, unquantized; `differentiable` as in `simulate`."""
    env = weight_values(plan.graph, params)
    for value, array in zip(plan.graph.inputs, inputs, strict=True):
        env[value] = as_number(plan.graph, value, jnp.asarray(array))
    for op in plan.graph.ops:
        env.update(zip(op.outputs, real_results(plan, op, [env[v] for v in op.inputs], differentiable), strict=True))
    return {v: env[v] for v in plan.graph.activations}


def real_results(plan: Plan, op: Op, arguments: Sequence[Any], differentiable: bool) -> Sequence[jax.Array]:
    """One op of the float reading."""
    arrays = [jnp.asarray(a) for a in arguments]
    if op.call is not None:
        return op.call(*(a.astype(plan.graph.avals[v].dtype) for a, v in zip(arrays, op.inputs, strict=True)))
    if not differentiable and op.kind == "DEPTHWISE_CONV_2D":
        x, w, bias = (wide(a) for a in arrays)
        return (activated(op, by_taps(op, Product(functools.partial(compute.conv_2d, op), 0), x, w) + bias),)
    return as_tuple(activated(op, OPS[op.kind].compute(op, *(wide(a) for a in arrays))))


def as_number(graph: Graph, value: int, array: jax.Array) -> jax.Array:
    """An input of the graph as float32 where it stands for real numbers, such as an image of uint8; else as it is."""
    return array.astype(jnp.float32) if value in numbers(graph) else array


def wide(array: jax.Array) -> jax.Array:
    """Floats as float32; other types as they are."""
    return array.astype(jnp.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def activated(op: Op, y: Any) -> Any:
    """`y` after the op's fused activation."""
    bounds = op.attrs.get("activation")
    return y if bounds is None else clip_ste(y, jnp.float32(bounds[0]), jnp.float32(bounds[1]))


def as_tuple(y: Any) -> tuple[jax.Array, ...]:
    """A tuple of outputs, from a rule of one or of several."""
    return y if isinstance(y, tuple) else (y,)


def by_taps(op: Op, product: Product, x: jax.Array, w: jax.Array) -> jax.Array:
    """A depthwise product of carriers, tap by tap where the window is small."""
    return compute.depthwise_by_taps(op, x, w) if math.prod(w.shape[:2]) <= MOST_TAPS else product.of(x, w)
