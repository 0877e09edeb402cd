"""What a contraction is: `dot_general` and `conv_general_dilated` with all their parameters, and which axes meet.

A product may have a scale for each index of an axis that it does not sum over. For `y = contraction(x, w)` that is
decided by two maps: axes of x that stay axes of y, and axes of w that do.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

KINDS = ("conv_general_dilated", "dot_general")


class Geometry(NamedTuple):
    """One contraction, hashable.

    Attributes:
      kind: the primitive's name.
      params: its static parameters, sorted; without precision and element type.
      x_axes, w_axes: pairs (axis of x or w, axis of y) of the axes that are not summed over.
      dtypes: the element types of x, w and y.
      sum_lengths: how many products are added in one number of y, of dX and of dW.
      window: the number of taps of a convolution's window, 1 of a matrix product.
    """

    kind: str
    params: tuple[tuple[str, Any], ...]
    x_axes: tuple[tuple[int, int], ...]
    w_axes: tuple[tuple[int, int], ...]
    dtypes: tuple[str, str, str]
    sum_lengths: tuple[int, int, int]
    window: int = 1

    def __call__(self, x: Any, w: Any, dtype: Any = None) -> Array:
        """The contraction itself, with sums of `dtype`."""
        return getattr(lax, self.kind)(x, w, preferred_element_type=dtype, **dict(self.params))

    @property
    def example_axes(self) -> dict[int, int]:
        """Axes of y, and where they are in x: dX has a scale for each index of them."""
        return {y: x for x, y in self.x_axes}

    @property
    def channel_axes(self) -> dict[int, int]:
        """Axes of y, and where they are in w: dW has a scale for each index of them."""
        return {y: w for w, y in self.w_axes}

    @property
    def output_channels(self) -> tuple[int, ...]:
        """The axes of y that come from w alone."""
        return tuple(sorted(set(self.channel_axes) - set(self.example_axes)))

    def channels(self, w: Sequence[int]) -> tuple[int, ...]:
        """The sizes of `output_channels`, for w of this shape."""
        return tuple(w[self.channel_axes[axis]] for axis in self.output_channels)

    @property
    def groups(self) -> int:
        """Feature groups times batch groups of a convolution, else 1."""
        params = dict(self.params)
        return params.get("feature_group_count", 1) * params.get("batch_group_count", 1)

    @property
    def is_depthwise(self) -> bool:
        """Whether each channel of y is of one channel of x, by a convolution of several groups."""
        one = dict(self.params).get("batch_group_count", 1) == 1
        return one and self.groups > 1 and self.sum_lengths[0] == self.window


def geometry(kind: str, params: Mapping[str, Any], x: Any, w: Any) -> Geometry:
    """The geometry of a primitive's application to operands of these shapes and element types."""
    if kind == "dot_general":
        return _dot(params["dimension_numbers"], x, w, params.get("preferred_element_type"))
    return _convolution(params, x, w)


def _dot(numbers: Any, x: Any, w: Any, dtype: Any) -> Geometry:
    (cx, cw), (bx, bw) = ((tuple(map(int, a)), tuple(map(int, b))) for a, b in numbers)
    free_x = [a for a in range(len(x.shape)) if a not in (*cx, *bx)]
    free_w = [a for a in range(len(w.shape)) if a not in (*cw, *bw)]
    first = len(bx) + len(free_x)
    x_axes = (*zip(bx, range(len(bx)), strict=True), *zip(free_x, range(len(bx), first), strict=True))
    w_axes = (*zip(bw, range(len(bw)), strict=True), *((a, first + i) for i, a in enumerate(free_w)))
    lengths = _size(x, cx), _size(w, free_w), _size(x, free_x)
    kept = (("dimension_numbers", ((cx, cw), (bx, bw))),)
    return Geometry("dot_general", kept, x_axes, w_axes, _dtypes(x, w, dtype), lengths)


CONVOLUTION = (
    "batch_group_count",
    "dimension_numbers",
    "feature_group_count",
    "lhs_dilation",
    "padding",
    "rhs_dilation",
    "window_strides",
)


def _convolution(params: Mapping[str, Any], x: Any, w: Any) -> Geometry:
    spec = params["dimension_numbers"]
    kept = tuple((name, _static(params[name])) for name in CONVOLUTION)
    examples = ((spec.lhs_spec[0], spec.out_spec[0]),) if params["batch_group_count"] == 1 else ()
    y = jax.eval_shape(lambda a, b: lax.conv_general_dilated(a, b, **dict(kept)), x, w)
    window = _size(w, spec.rhs_spec[2:])
    lengths = (
        window * w.shape[spec.rhs_spec[1]],
        window * (w.shape[spec.rhs_spec[0]] // (params["feature_group_count"] * params["batch_group_count"])),
        _size(y, (spec.out_spec[0], *spec.out_spec[2:])),
    )
    channels = ((spec.rhs_spec[0], spec.out_spec[1]),)
    dtypes = _dtypes(x, w, params.get("preferred_element_type"))
    return Geometry("conv_general_dilated", kept, examples, channels, dtypes, lengths, window)


def _dtypes(x: Any, w: Any, y: Any) -> tuple[str, str, str]:
    return str(x.dtype), str(w.dtype), str(jnp.dtype(y or jnp.promote_types(x.dtype, w.dtype)))


def _static(value: Any) -> Any:
    """A parameter as a hashable value: lists become tuples."""
    if hasattr(value, "_fields"):
        return value
    return tuple(map(_static, value)) if isinstance(value, list | tuple) else value


def _size(x: Any, axes: Any) -> int:
    size = 1
    for axis in axes:
        size *= x.shape[axis]
    return size
