"""Contractions of int8 weights and float activations, which the device quantizes by the range that it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxq.graph import Op
from jaxq.numerics.dynamic_range import ASYMMETRIC_IN_VECTORS, XNNPACK, Way
from jaxq.ops.contract import Operands, Product, Products, contract
from jaxq.ops.integer_ops import product_of

# By `Arithmetic.dynamic`: the kernel's way, and whether each row (pixel) has a range of its own.
WAYS: dict[str, tuple[Way, bool]] = {
    "example": (XNNPACK, False),
    "row": (XNNPACK, True),
    "vectors": (ASYMMETRIC_IN_VECTORS, False),
}


def contraction(
    accumulate: Callable[..., Array], products: Products, op: Op, x: Float[Array, "..."], w: Any, bias: Array
) -> Array:
    """`(sum q_x q_w) s_x s_w + bias`, x quantized as `products.arithmetic.dynamic` says. Straight-through gradients.

    `accumulate(op, x, w)` is the op's sum of products, `w` a carrier.
    """
    way, by_row = WAYS[products.arithmetic.dynamic or ""]
    axes = (x.ndim - 1,) if by_row else tuple(range(1, x.ndim))
    held = way.quantize(x, axes)
    sums = _sums(product_of(accumulate, op, w.q), products, held.q, w.q)
    return way.scale(sums, held.scale, w.scale) + bias


def _sums(product: Product, products: Products, x: Array, w: Array) -> Array:
    def result(operands: Operands) -> tuple[Array, Array]:
        total = contract(product, products, operands.x, operands.w).real
        return total, total

    operands = Operands(x, w, jnp.zeros(()))
    return result(operands)[0] if products.gradient is None else products.gradient(product, result, operands)
