"""Stochastic rounding whose random numbers are a hash of the numbers that are rounded, and so needs no key.

The same data gives the same step, whatever the order of the devices, and a resumed run is bitwise the run that was
not interrupted. Zhu et al. 2020 draw from a linear congruential generator instead.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

GOLDEN = np.uint32(0x9E3779B9)  # 2^32 divided by the golden ratio: neighbouring places get distant numbers
MULTIPLIERS = np.uint32(0x85EBCA6B), np.uint32(0xC2B2AE35)


def noise(x: Array) -> Array:
    """Numbers in [0, 1), multiples of 2^-24, that depend on each number's bits and place alone.

    They are `murmur3(bits(x_i) xor i * 0x9E3779B9) / 2^32` (Appleby's 32-bit finalizer).

    Args:
      x: float32 array of any shape.

    Returns:
      A float32 array of its shape.
    """
    place = lax.iota(jnp.uint32, x.size).reshape(x.shape)
    bits = lax.bitcast_convert_type(x, jnp.uint32) ^ (place * GOLDEN)
    bits = (bits ^ (bits >> 16)) * MULTIPLIERS[0]
    bits = (bits ^ (bits >> 13)) * MULTIPLIERS[1]
    return ((bits ^ (bits >> 16)) >> 8).astype(jnp.float32) * np.float32(2.0**-24)
