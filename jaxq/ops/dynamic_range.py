"""Contractions of int8 weights and float activations, which the device quantizes by the range that it sees."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxq.graph import Op
from jaxq.numerics.dynamic_range import ASYMMETRIC_IN_VECTORS, XNNPACK, Way

# By what `jaxq.plan.precision.dynamic_arithmetic` says: the kernel's way, and whether each row (pixel) has a range.
WAYS: dict[str, tuple[Way, bool]] = {
    "dynamic, builtin": (ASYMMETRIC_IN_VECTORS, False),
    "dynamic, by example": (XNNPACK, False),
    "dynamic, by row": (XNNPACK, True),
}


def contraction(
    compute: Callable[..., Array], how: str, op: Op, x: Float[Array, "..."], w: Any, bias: Array, dtype: str
) -> Array:
    """`(sum q_x q_w) s_x s_w + bias`, x quantized by a key of `WAYS`.

    `compute(op, x, w)` is the op's float meaning, `w` a carrier; integers ride in `dtype`. Straight-through gradients.
    """
    way, by_row = WAYS[how]
    axes = (x.ndim - 1,) if by_row else tuple(range(1, x.ndim))
    held = way.quantize(x, axes)
    total = compute(op, held.q.astype(dtype), w.q.astype(dtype)).astype(jnp.float32)
    return way.scale(total, held.scale, w.scale) + bias
