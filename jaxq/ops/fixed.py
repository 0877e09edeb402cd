"""Requantization as TFLite's builtin kernels do it, differentiable: int32 arithmetic, straight-through gradients.

XNNPACK leaves some contractions to them (weights of 4 bits in a convolution). `RESCALE` maps the name of an arithmetic
to a function `(accumulator, s_x, s_w, s_y) -> steps` of an accumulator that is exact in float32.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxq.fixedpoint import quantized_ratio, rescale_half_up


@jax.custom_jvp
def half_up(accumulator: Array, x_scale: Array, w_scale: Array, scale: Array) -> Array:
    """`acc s_x s_w / s_y` by a 31-bit multiplier, rounded in the multiplication and, half up, in the shift (ruy).

    The gradient is that of the real product.
    """
    q, shift = quantized_ratio(x_scale, w_scale, scale)
    return rescale_half_up(accumulator.astype(jnp.int32), q, shift).astype(jnp.float32)


@half_up.defjvp
def _half_up_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    accumulator, x_scale, w_scale, scale = primals
    ratio = x_scale * w_scale / scale
    dratio = (tangents[1] * w_scale + x_scale * tangents[2] - ratio * tangents[3]) / scale
    return half_up(*primals), tangents[0] * ratio + accumulator * dratio


RESCALE: dict[str, Callable[..., Array]] = {"half up": half_up}
