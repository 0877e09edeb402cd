"""Convolutions of int8 numbers as sums of int8 matrix products, one for each tap of the window.

XLA has no integer convolution on a GPU, and its matrix products of int8 run on tensor cores. A tap needs a strided
slice of the padded image and no copy of its windows. One feature group and one batch group; any strides, padding and
dilation. Sums are int32.
"""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

from jaxq.gradients.geometry import Geometry


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
    """`y`, int32, of int8 arrays x and w."""
    window, size = _window(shape), _output_size(shape, x, w)
    image, kernel = window.padded(lax.transpose(x, window.x_order)), lax.transpose(w, window.w_order)
    y = sum(_product(window.slice(image, tap, size), kernel[tap]) for tap in _taps(kernel))
    return lax.transpose(jnp.asarray(y), _inverse(window.y_order))


def input_gradient(shape: Geometry, g: Any, w: Any, x: Any) -> Array:
    """`dX`, int32, of int8 arrays g and w."""
    window = _window(shape)
    moved, kernel = lax.transpose(g, window.y_order), lax.transpose(w, window.w_order)
    like = jax.ShapeDtypeStruct([x.shape[a] for a in window.x_order], jnp.int32)
    padded = jax.eval_shape(window.padded, like)
    total = sum(_placed(window, _product(moved, kernel[tap].T), tap, padded.shape) for tap in _taps(kernel))
    (dx,) = jax.linear_transpose(window.padded, like)(jnp.asarray(total))
    return lax.transpose(dx, _inverse(window.x_order))


def weight_gradient(shape: Geometry, x: Any, g: Any, w: Any) -> Array:
    """`dW`, int32, of int8 arrays x and g."""
    window = _window(shape)
    image, moved = window.padded(lax.transpose(x, window.x_order)), lax.transpose(g, window.y_order)
    kernel = tuple(w.shape[a] for a in window.w_order)
    over = tuple(range(moved.ndim - 1))
    parts = [
        lax.dot_general(
            window.slice(image, tap, moved.shape[1:-1]), moved, ((over, over), ((), ())), None, jnp.dtype(jnp.int32)
        )
        for tap in itertools.product(*map(range, kernel[:-2]))
    ]
    return lax.transpose(jnp.stack(parts).reshape(kernel), _inverse(window.w_order))


def _placed(window: _Window, part: Array, tap: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """A tap's share of the gradient in its places of the padded image: the transpose of `slice`."""
    spatial = [
        (start, n - start - (size - 1) * stride - 1, stride - 1)
        for start, n, size, stride in zip(
            window.starts(tap), shape[1:-1], part.shape[1:-1], window.strides, strict=True
        )
    ]
    return lax.pad(part, jnp.int32(0), [(0, 0, 0), *spatial, (0, 0, 0)])


def _product(a: Any, b: Any) -> Array:
    return lax.dot_general(a, b, (((a.ndim - 1,), (0,)), ((), ())), preferred_element_type=jnp.int32)


def _taps(kernel: Array) -> itertools.product[tuple[int, ...]]:
    return itertools.product(*map(range, kernel.shape[:-2]))


def _window(shape: Geometry) -> _Window:
    p = dict(shape.params)
    x, w, y = p["dimension_numbers"]
    orders = (x[0], *x[2:], x[1]), (*w[2:], w[1], w[0]), (y[0], *y[2:], y[1])
    return _Window(p["window_strides"], p["padding"], p["lhs_dilation"], p["rhs_dilation"], *orders)


def _output_size(shape: Geometry, x: Any, w: Any) -> tuple[int, ...]:
    spec = dict(shape.params)["dimension_numbers"]
    y = jax.eval_shape(lambda a, b: shape(a, b, jnp.int32), x, w)
    return tuple(y.shape[a] for a in spec.out_spec[2:])


def _inverse(order: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(order.index(a) for a in range(len(order)))
