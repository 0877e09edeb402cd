"""How far a gradient turns when it is rounded: `d = 1 - cos(g, Q(g; s))`, in [0, 2] (Zhu et al. 2020, section 3.3).

Rounding is to nearest here, however the gradient is rounded in the step. With `clip(g)` the gradient within
`s levels`, and `Q(g) = clip(g) + r`,

    cos = (<g, clip(g)> + <g, r>) / (|g| sqrt(|clip(g)|^2 + (|Q(g)|^2 - |clip(g)|^2)))

Few numbers are clipped and they are the largest: what clipping does is summed over the whole gradient. What rounding
does is nearly alike for all: it is summed over 4,096 numbers and scaled up.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
from jax import Array, lax

from jaxq.gradients.integers import SMALLEST, largest

SAMPLE = 4096  # numbers of a gradient on which rounding is measured


def deviations(g: Array, scales: Sequence[Array], top: int) -> Array:
    """d for each of several scales.

    Args:
      g: float32 array.
      scales: float32, each positive and of a shape that broadcasts against g.
      top: the largest integer, 127 or 7.

    Returns:
      float32 [len(scales)], in [0, 2]; 0 of a gradient of zeros.
    """
    most = jnp.maximum(largest(g, range(g.ndim)), SMALLEST)  # squares of small gradients vanish in float32
    a, units = g / most, [scale / most for scale in scales]
    along, squares, whole = _clipped(a, [unit * top for unit in units])
    turned = [_rounded(a, unit, top) for unit in units]
    along = along + jnp.stack([dot for dot, _ in turned])
    squares = squares + jnp.stack([square for _, square in turned])
    lengths = jnp.sqrt(whole * jnp.maximum(squares, 0.0))
    nothing_left = jnp.where(whole > 0, 0.0, 1.0)  # all of it was rounded to zero, or there was none
    cosines = jnp.where(lengths > 0, along / jnp.where(lengths > 0, lengths, 1.0), nothing_left)
    return 1.0 - jnp.clip(cosines, -1.0, 1.0)


def _clipped(a: Array, bounds: Sequence[Array]) -> tuple[Array, Array, Array]:
    """`<a, clip(a)>` and `|clip(a)|^2` for each bound, and `|a|^2`, in one pass over a."""
    magnitude = jnp.abs(a)
    kept = [jnp.minimum(magnitude, bound) for bound in bounds]
    sums = _sums([*(magnitude * k for k in kept), *(k * k for k in kept), a * a])
    return jnp.stack(sums[: len(kept)]), jnp.stack(sums[len(kept) : -1]), sums[-1]


def _sums(terms: Sequence[Array]) -> list[Array]:
    """The sum of each of several arrays of one shape. By examples first: a long float32 sum loses small numbers."""
    start = [jnp.float32(0)] * len(terms)
    each = lax.reduce(terms, start, lambda x, y: [p + q for p, q in zip(x, y, strict=True)], range(1, terms[0].ndim))
    return [jnp.sum(part) for part in each]


def _rounded(a: Array, unit: Array, top: int) -> tuple[Array, Array]:
    """What rounding adds to `<a, clip(a)>` and to `|clip(a)|^2`, from a sample."""
    numbers, unit = sample(a), sample(jnp.broadcast_to(unit, a.shape))
    steps = jnp.clip(numbers / unit, -top, top)
    along, square = jnp.round(steps) - steps, jnp.square(jnp.round(steps)) - jnp.square(steps)
    share = a.size / numbers.size
    return share * jnp.sum(numbers * along * unit), share * jnp.sum(square * unit * unit)


def sample(g: Array) -> Array:
    """At most `SAMPLE` numbers of g, evenly spaced."""
    stride = max(1, -(-g.size // SAMPLE))
    return lax.slice(g.reshape(-1), (0,), (g.size,), (stride,))
