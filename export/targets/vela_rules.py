"""Rules of the compiler Vela: each function says what of an operator breaks one, and gives None where it holds."""

from __future__ import annotations

import math

import numpy as np

from jaxq.export.lint.view import read_at, written, zero_points
from jaxq.export.operators import CONTRACTIONS
from jaxq.export.program import LIMITS, Operator, Program, Tensor
from jaxq.export.targets.conditions import (
    axes,
    feature_maps,
    named,
    nhwc,
    number,
    numbers,
    per_tensor,
    quantized,
    strides,
    window,
)

LARGEST_SUM = 127 * 2**16  # of the absolute weights of one channel, with 8-bit inputs
LARGEST_AXIS = 2**16
LARGE_FACTORS = tuple(2**k for k in range(11))
FREE_ZERO_POINTS = frozenset({"AVERAGE_POOL_2D", "DIV", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"})
UNSCALED = frozenset(
    {"ARG_MAX", "CAST", "EXPAND_DIMS", "GATHER", "MIRROR_PAD", "PAD", "PADV2", "QUANTIZE", "TRANSPOSE"}
)
UNSCALED |= {"REDUCE_ALL", "REDUCE_ANY", "SELECT", "SELECT_V2", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"}


def sum_of_weights(program: Program, op: Operator) -> str | None:
    """The absolute weights of a channel sum to at most `LARGEST_SUM`."""
    at = CONTRACTIONS[op.kind]
    weights = read_at(program, op, at.weights)
    if weights is None or weights.data is None or weights.data.ndim <= at.axis:
        return None
    others = tuple(k for k in range(weights.data.ndim) if k != at.axis)
    largest = int(np.abs(weights.data.astype(np.int64)).sum(axis=others).max(initial=0))
    return None if largest <= LARGEST_SUM else f"has a channel whose absolute weights sum to {largest:,}"


def bias(program: Program, op: Operator) -> str | None:
    """A bias is a constant of int32 or int64."""
    bias = read_at(program, op, CONTRACTIONS[op.kind].bias)
    if bias is None or (bias.data is not None and bias.dtype in ("int32", "int64")):
        return None
    return f"has a bias of {bias.dtype}{', computed at run time' if bias.data is None else ''}"


def eight_bit_weights(program: Program, op: Operator) -> str | None:
    """Weights have 8 bits."""
    weights = read_at(program, op, CONTRACTIONS[op.kind].weights)
    return None if weights is None or weights.dtype in ("int8", "uint8") else f"has weights of {weights.dtype}"


def average_window(program: Program, op: Operator) -> str | None:
    """A padded window is at most 8 x 8; one without padding is as `large_window` says."""
    rows, columns = window(program, op)
    if op.options.get("padding") == "VALID":
        return large_window(program, op)
    return None if max(rows, columns) <= 8 else f"has a padded window of {rows} x {columns}"


def large_window(program: Program, op: Operator) -> str | None:
    """A window has at most 256 rows and 65,536 elements."""
    rows, columns = window(program, op)
    return None if rows <= 256 and rows * columns <= 256 * 256 else f"has a window of {rows} x {columns}"


def _image(tensor: Tensor, axis: int) -> int:
    """Where an axis of a tensor is in (batch, height, width, channels)."""
    return max(axis - len(tensor.shape) + 4, 0)


def mean_axes(program: Program, op: Operator) -> str | None:
    """A mean is of one image, over axes below 4096; over channels where all else is a line."""
    x = read_at(program, op)
    if x is None:
        return None
    over, shape = axes(program, op), nhwc(x)
    places = {_image(x, axis) for axis in over}
    if shape[0] > 1:
        return f"has a batch of {shape[0]:,}"
    if 3 in places and min(shape[1:]) > 1:
        return f"averages over channels, and height, width and channels are {shape[1:]}"
    longest = max((x.shape[a] for a in over if a < len(x.shape)), default=1)
    count = math.prod(x.shape[a] for a in over if a < len(x.shape))
    most = {"int8": 2**24, "uint8": 2**23}.get(x.dtype, 2**16)
    if longest >= 4096 or count > most:
        return f"averages over {count:,} elements, {longest:,} along one axis"
    return None


def depth(program: Program, op: Operator) -> str | None:
    """It is along the last axis, of at most 127 channels."""
    x = read_at(program, op)
    if x is None or not x.shape:
        return None
    if axes(program, op) not in ((), (len(x.shape) - 1,)):
        return "is not along the channels"
    return None if x.shape[-1] <= 127 else f"is over {x.shape[-1]} channels"


def rows(program: Program, op: Operator) -> str | None:
    """Height times width is at most `LARGEST_AXIS`."""
    x = read_at(program, op)
    count = 0 if x is None else math.prod(nhwc(x)[1:3])
    return None if count <= LARGEST_AXIS else f"has height x width = {count:,}"


def slice_strides(program: Program, op: Operator) -> str | None:
    """Strides are positive, and other than 1 for height and width alone."""
    x, steps = read_at(program, op), numbers(program, op, 3) or []
    if any(n < 0 for n in steps):
        return f"has strides {steps}"
    places = {_image(x, axis) for axis, n in enumerate(steps) if n != 1} if x is not None else set()
    return None if places <= {1, 2} else f"has strides {steps}, not of height and width alone"


def transposed_stride(program: Program, op: Operator) -> str | None:
    """Strides of a transposed convolution are 1 x 1, 2 x 2, or 2 along the one axis that is longer than 1."""
    rows, columns = strides(op)
    x, (height, width) = read_at(program, op, 2), window(program, op)
    shape = (1, 1, 1, 1) if x is None else nhwc(x)
    thin = (rows, columns) == (1, 2) and shape[1] == height == 1
    thin |= (rows, columns) == (2, 1) and shape[2] == width == 1
    return None if rows == columns <= 2 or thin else f"has strides {(rows, columns)}"


def transposed_shape(program: Program, op: Operator) -> str | None:
    """A transposed convolution writes the size of its input times its stride."""
    x, y = read_at(program, op, 2), written(program, op)
    if x is None or y is None:
        return None
    same = op.options.get("padding") == "SAME"
    wanted = tuple(
        size * step + (0 if same else max(reach - step, 0))
        for size, step, reach in zip(nhwc(x)[1:3], strides(op), window(program, op), strict=True)
    )
    return None if nhwc(y)[1:3] == wanted else f"writes {nhwc(y)[1:3]} rows and columns where {wanted} are due"


def _factors(program: Program, op: Operator) -> tuple[float, float]:
    """Of rows and columns; (1, 1) where they do not matter."""
    x, y = read_at(program, op), written(program, op)
    if x is None or y is None or nhwc(x)[1:3] in ((1, 1), nhwc(y)[1:3]):
        return 1.0, 1.0
    less = 1 if op.options.get("align_corners") else 0
    rows, columns = ((b - less) / max(a - less, 1) for a, b in zip(nhwc(x)[1:3], nhwc(y)[1:3], strict=True))
    return rows, columns


def resize_u55(program: Program, op: Operator) -> str | None:
    """Both factors are the same: 1, 2, 4 or 8; of bilinear resizing with half-pixel centers 1 or 2."""
    rows, columns = _factors(program, op)
    half = op.kind == "RESIZE_BILINEAR" and op.options.get("half_pixel_centers")
    fits = rows == columns and rows in ((1, 2) if half else (1, 2, 4, 8))
    return None if fits else f"scales by {rows:g} x {columns:g}"


def resize_u85(program: Program, op: Operator) -> str | None:
    """Factors of bilinear resizing are powers of two; of nearest neighbours at most 1024."""
    found = _factors(program, op)
    powers = all(factor in LARGE_FACTORS for factor in found)
    fits = powers if op.kind == "RESIZE_BILINEAR" else min(found) > 0 and max(found) <= LARGE_FACTORS[-1]
    return None if fits else f"scales by {found[0]:g} x {found[1]:g}"


def gather(program: Program, op: Operator) -> str | None:
    """The axis is that of the batch."""
    axis, batch = number(op, "axis", 0), number(op, "batch_dims", 0)
    return None if axis == batch else f"has axis {axis} and batch_dims {batch}"


def transposed(program: Program, op: Operator) -> str | None:
    """The product of any rank - 2 axes, unless only the innermost three are longer than 1."""
    x = read_at(program, op)
    if x is None or len(x.shape) < 3:
        return None
    if math.prod(x.shape[:-3]) == 1:
        return None if max(x.shape) <= LARGEST_AXIS else f"has an axis of {max(x.shape):,}"
    product = math.prod(sorted(x.shape)[2:])
    return None if product <= LARGEST_AXIS else f"has axes {x.shape}"


def scaled(program: Program, op: Operator) -> str | None:
    """What is computed has a scale, except where `UNSCALED` names the kind."""
    return None if op.kind in UNSCALED else quantized(program, op)


def zero_points_within(program: Program, op: Operator) -> str | None:
    """Within the type; the kinds that divide or interpolate are excepted."""
    if op.kind in FREE_ZERO_POINTS:
        return None
    for tensor in feature_maps(program, op):
        low, high = LIMITS.get(tensor.dtype, (0, 0))
        low, high = (0, 0) if tensor.dtype == "int16" else (low, high)
        wrong = [int(z) for z in zero_points(tensor) if not low <= z <= high]
        if wrong:
            return f"reads or writes {named(tensor)}, with zero point {wrong[0]}"
    return None


def one_scale(program: Program, op: Operator) -> str | None:
    """What is computed has one scale; weights and biases may have one per channel."""
    return None if op.kind in CONTRACTIONS and not list(feature_maps(program, op)) else per_tensor(program, op)
