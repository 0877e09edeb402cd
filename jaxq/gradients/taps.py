"""Convolutions of integers as sums over the taps of the window, each a matrix product or, depthwise, a product by
channel.

XLA has no integer convolution on a GPU, and its matrix products of int8 run on tensor cores; on a CPU its grouped
convolution takes 10 to 30 times as long as the sum (jaxlib 0.10.2). A tap needs a strided slice of the padded image and
no copy of its windows. One feature group, or depthwise, and one batch group; any strides, padding and dilation. Sums
are int32 of int8 operands and float32 of carriers.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxq.gradients.geometry import Geometry
from jaxq.numerics.depthwise import summed_together


class _Window(NamedTuple):
    """Strides, padding and dilation of each spatial axis, and the orders of axes of x, w and y."""

    strides: tuple[int, ...]
    padding: tuple[tuple[int, int], ...]
    x_dilation: tuple[int, ...]
    w_dilation: tuple[int, ...]
    x_order: tuple[int, ...]
    w_order: tuple[int, ...]
    y_order: tuple[int, ...]

    def padded(self, x: Any) -> Array:
        """An image [n, ..., c] with its padding and dilation."""
        spatial = ((low, high, d - 1) for (low, high), d in zip(self.padding, self.x_dilation, strict=True))
        return lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])

    def starts(self, tap: tuple[int, ...]) -> list[int]:
        """Where the numbers that a tap multiplies begin in the padded image."""
        return [t * d for t, d in zip(tap, self.w_dilation, strict=True)]

    def slice(self, x: Any, tap: tuple[int, ...], size: tuple[int, ...]) -> Array:
        """What a tap multiplies, of spatial `size`, in a padded image."""
        starts = self.starts(tap)
        limits = [a + (n - 1) * s + 1 for a, n, s in zip(starts, size, self.strides, strict=True)]
        return lax.slice(x, [0, *starts, 0], [x.shape[0], *limits, x.shape[-1]], [1, *self.strides, 1])


def forward(shape: Geometry, x: Any, w: Any) -> Array:
    """`y` of arrays x and w."""
    window, size = _window(shape), _output_size(shape, x, w)
    image, kernel = window.padded(lax.transpose(x, window.x_order)), lax.transpose(w, window.w_order)
    y = sum(_product(shape, window.slice(image, tap, size), kernel[tap]) for tap in _taps(kernel))
    return lax.transpose(jnp.asarray(y), _inverse(window.y_order))


def input_gradient(shape: Geometry, g: Any, w: Any, x: Any) -> Array:
    """`dX` of arrays g and w."""
    window, sums = _window(shape), _sums(g)
    moved, kernel = lax.transpose(g, window.y_order), lax.transpose(w, window.w_order)
    like = jax.ShapeDtypeStruct([x.shape[a] for a in window.x_order], sums)
    padded = jax.eval_shape(window.padded, like)
    parts = ((tap, _product_by_transposed(shape, moved, kernel[tap], padded.shape[-1])) for tap in _taps(kernel))
    total = sum(_placed(window, part, tap, padded.shape) for tap, part in parts)
    (dx,) = jax.linear_transpose(window.padded, like)(jnp.asarray(total))
    return lax.transpose(dx, _inverse(window.x_order))


def weight_gradient(shape: Geometry, x: Any, g: Any, w: Any) -> Array:
    """`dW` of arrays x and g."""
    window = _window(shape)
    image, moved = window.padded(lax.transpose(x, window.x_order)), lax.transpose(g, window.y_order)
    kernel = tuple(w.shape[a] for a in window.w_order)
    taps = itertools.product(*map(range, kernel[:-2]))
    slices = [window.slice(image, tap, moved.shape[1:-1]) for tap in taps]
    parts = (_over_places_by_channel if shape.is_depthwise else _over_places)(slices, moved)
    return lax.transpose(jnp.stack(parts).reshape(kernel), _inverse(window.w_order))


def _placed(window: _Window, part: Array, tap: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """A tap's share of the gradient in its places of the padded image: the transpose of `slice`."""
    spatial = [
        (start, n - start - (size - 1) * stride - 1, stride - 1)
        for start, n, size, stride in zip(
            window.starts(tap), shape[1:-1], part.shape[1:-1], window.strides, strict=True
        )
    ]
    return lax.pad(part, jnp.zeros((), part.dtype), [(0, 0, 0), *spatial, (0, 0, 0)])


def _product(shape: Geometry, a: Any, kernel: Any) -> Array:
    """[..., channels in] by a tap's kernel [channels in of a group, channels out]."""
    if not shape.is_depthwise:
        return _dot(a, kernel, (a.ndim - 1,), (0,))
    return _repeated(a, kernel.shape[-1]) * _by_channel(kernel, a)


def _product_by_transposed(shape: Geometry, g: Any, kernel: Any, channels: int) -> Array:
    """[..., channels out] by the transpose of a tap's kernel, to [..., channels in]."""
    if not shape.is_depthwise:
        return _dot(g, kernel, (g.ndim - 1,), (1,))
    part = g.astype(_sums(g)) * _by_channel(kernel, g)
    return jnp.sum(part.reshape(*part.shape[:-1], channels, -1), -1)


def _over_places(slices: Sequence[Array], g: Any) -> list[Array]:
    """Each tap's gradient: its slice [..., channels in] by [..., channels out], summed over all axes but the last."""
    over = tuple(range(g.ndim - 1))
    return [_dot(a, g, over, over) for a in slices]


def _over_places_by_channel(slices: Sequence[Array], g: Any) -> list[Array]:
    return summed_together([_repeated(a, g.shape[-1]) * g.astype(_sums(g)) for a in slices])


def _dot(a: Any, b: Any, of_a: tuple[int, ...], of_b: tuple[int, ...]) -> Array:
    return lax.dot_general(a, b, ((of_a, of_b), ((), ())), preferred_element_type=jnp.dtype(_sums(a)))


def _repeated(a: Any, channels: int) -> Array:
    """Each channel as often as it has channels out."""
    return jnp.repeat(a.astype(_sums(a)), channels // a.shape[-1], axis=-1)


def _by_channel(kernel: Any, a: Any) -> Array:
    """A depthwise tap's kernel [1, channels], of the rank of `a`."""
    return kernel.astype(_sums(a)).reshape(*(1 for _ in a.shape[:-1]), -1)


def _sums(a: Any) -> Any:
    return jnp.int32 if a.dtype == jnp.int8 else jnp.float32


def _taps(kernel: Array) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*map(range, kernel.shape[:-2]))


def _window(shape: Geometry) -> _Window:
    p = dict(shape.params)
    x, w, y = p["dimension_numbers"]
    orders = (x[0], *x[2:], x[1]), (*w[2:], w[1], w[0]), (y[0], *y[2:], y[1])
    return _Window(p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"], *orders)


def _output_size(shape: Geometry, x: Any, w: Any) -> tuple[int, ...]:
    spec = dict(shape.params)["dimension_numbers"]
    y = jax.eval_shape(lambda a, b: shape(a, b, _sums(a)), x, w)
    return tuple(y.shape[a] for a in spec.out_spec[2:])


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(a) for a in range(len(order)))
