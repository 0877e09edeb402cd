"""Arm Ethos-U55, U65 and U85: what the compiler Vela places on the NPU, by its own report of supported operators.

`vela --supported-ops-report` (ethos-u-vela 5.2.0) lists the operators and their constraints; those that an 8-bit file
can break are here. What does not fit runs on the CPU beside the NPU, and the operators behind it on the NPU again.
`jaxq check --compile` asks Vela itself.
"""

from __future__ import annotations

import math

import numpy as np

from jaxq.export.lint.view import read_at, written, zero_points
from jaxq.export.operators import CONTRACTIONS
from jaxq.export.program import LIMITS, Operator, Program, Tensor
from jaxq.export.targets.conditions import (
    axes,
    constant,
    dtypes,
    feature_maps,
    named,
    nhwc,
    number,
    numbers,
    per_tensor,
    quantized,
    reads,
    same_parameters,
    stride_at_most,
    strides,
    window,
)
from jaxq.export.targets.device import MEASURED, VENDOR, Check, Device, Limit, table
from jaxq.plan.target import TARGETS

_REPORT = "ethos-u-vela 5.2.0, --supported-ops-report"
NPU, CPU = "NPU", "CPU"
NARROW = ("int8", "uint8", "int16")
LARGEST_SUM = 127 * 2**16  # of the absolute weights of one channel, with 8-bit inputs
LARGEST_AXIS = 2**16
LARGE_FACTORS = tuple(2**k for k in range(11))


def _sum_of_weights(program: Program, op: Operator) -> str | None:
    at = CONTRACTIONS[op.kind]
    weights = read_at(program, op, at.weights)
    if weights is None or weights.data is None or weights.data.ndim <= at.axis:
        return None
    others = tuple(k for k in range(weights.data.ndim) if k != at.axis)
    largest = int(np.abs(weights.data.astype(np.int64)).sum(axis=others).max(initial=0))
    return None if largest <= LARGEST_SUM else f"has a channel whose absolute weights sum to {largest:,}"


def _bias(program: Program, op: Operator) -> str | None:
    bias = read_at(program, op, CONTRACTIONS[op.kind].bias)
    if bias is None or (bias.data is not None and bias.dtype in ("int32", "int64")):
        return None
    return f"has a bias of {bias.dtype}{', computed at run time' if bias.data is None else ''}"


def _eight_bit_weights(program: Program, op: Operator) -> str | None:
    weights = read_at(program, op, CONTRACTIONS[op.kind].weights)
    return None if weights is None or weights.dtype in ("int8", "uint8") else f"has weights of {weights.dtype}"


def _average_window(program: Program, op: Operator) -> str | None:
    rows, columns = window(program, op)
    if op.options.get("padding") == "VALID":
        return _large_window(program, op)
    return None if max(rows, columns) <= 8 else f"has a padded window of {rows} x {columns}"


def _large_window(program: Program, op: Operator) -> str | None:
    rows, columns = window(program, op)
    return None if rows <= 256 and rows * columns <= 256 * 256 else f"has a window of {rows} x {columns}"


def _image(tensor: Tensor, axis: int) -> int:
    """Where an axis of a tensor is in (batch, height, width, channels)."""
    return max(axis - len(tensor.shape) + 4, 0)


def _mean(program: Program, op: Operator) -> str | None:
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


def _depth(program: Program, op: Operator) -> str | None:
    x = read_at(program, op)
    if x is None or not x.shape:
        return None
    if axes(program, op) not in ((), (len(x.shape) - 1,)):
        return "is not along the channels"
    return None if x.shape[-1] <= 127 else f"is over {x.shape[-1]} channels"


def _rows(program: Program, op: Operator) -> str | None:
    x = read_at(program, op)
    count = 0 if x is None else math.prod(nhwc(x)[1:3])
    return None if count <= LARGEST_AXIS else f"has height x width = {count:,}"


def _slice_strides(program: Program, op: Operator) -> str | None:
    x, steps = read_at(program, op), numbers(program, op, 3) or []
    if any(n < 0 for n in steps):
        return f"has strides {steps}"
    places = {_image(x, axis) for axis, n in enumerate(steps) if n != 1} if x is not None else set()
    return None if places <= {1, 2} else f"has strides {steps}, not of height and width alone"


def _transposed_stride(program: Program, op: Operator) -> str | None:
    rows, columns = strides(op)
    x, (height, width) = read_at(program, op, 2), window(program, op)
    shape = (1, 1, 1, 1) if x is None else nhwc(x)
    thin = (rows, columns) == (1, 2) and shape[1] == height == 1
    thin |= (rows, columns) == (2, 1) and shape[2] == width == 1
    return None if rows == columns <= 2 or thin else f"has strides {(rows, columns)}"


def _transposed_shape(program: Program, op: Operator) -> str | None:
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


def _resize_u55(program: Program, op: Operator) -> str | None:
    rows, columns = _factors(program, op)
    half = op.kind == "RESIZE_BILINEAR" and op.options.get("half_pixel_centers")
    fits = rows == columns and rows in ((1, 2) if half else (1, 2, 4, 8))
    return None if fits else f"scales by {rows:g} x {columns:g}"


def _resize_u85(program: Program, op: Operator) -> str | None:
    found = _factors(program, op)
    powers = all(factor in LARGE_FACTORS for factor in found)
    fits = powers if op.kind == "RESIZE_BILINEAR" else min(found) > 0 and max(found) <= LARGE_FACTORS[-1]
    return None if fits else f"scales by {found[0]:g} x {found[1]:g}"


def _gather(program: Program, op: Operator) -> str | None:
    axis, batch = number(op, "axis", 0), number(op, "batch_dims", 0)
    return None if axis == batch else f"has axis {axis} and batch_dims {batch}"


def _transposed(program: Program, op: Operator) -> str | None:
    """The product of any rank - 2 axes, unless only the innermost three are longer than 1."""
    x = read_at(program, op)
    if x is None or len(x.shape) < 3:
        return None
    if math.prod(x.shape[:-3]) == 1:
        return None if max(x.shape) <= LARGEST_AXIS else f"has an axis of {max(x.shape):,}"
    product = math.prod(sorted(x.shape)[2:])
    return None if product <= LARGEST_AXIS else f"has axes {x.shape}"


def _known(law: str, check: Check, fix: str = "", evidence: str = VENDOR) -> Limit:
    return Limit(law, check, evidence, _REPORT, fix=fix)


_SHORT = _known("int8, uint8 or int16", dtypes(NARROW), evidence=MEASURED)
_ONE_STEP = "Use strides of at most 3, or no padding."
_CONTRACTION = (
    _known("weights of 8 bits", _eight_bit_weights, "Write the weights as int8.", MEASURED),
    _known("a constant bias of int32 or int64", _bias),
    _known(f"absolute weights of a channel that sum to at most {LARGEST_SUM:,}", _sum_of_weights),
)
_CONSTANT_WEIGHTS = Limit("constant weights", constant(1), MEASURED, "ethos-u-vela 5.2.0 compiles no others")
_STRIDE_3 = _known("strides of at most 3", stride_at_most(3), _ONE_STEP)
_STRIDE_3_PADDED = _known("strides of at most 3 with padding", stride_at_most(3, unless_unpadded=True), _ONE_STEP)
_AVERAGE = _known("a window of at most 8 x 8 with padding, 256 x 256 without", _average_window)
_WINDOW = _known("a window of at most 256 x 256", _large_window)
_TIED = _known("equal scales at both ends", same_parameters, "Give inputs and output one scale.")
_MEAN = (
    _known("int8, uint8 or int16", dtypes(NARROW)),
    _known("constant axes", constant(1)),
    _known("one image, axes below 4096, channels alone only of a line", _mean, evidence=MEASURED),
)
_SIGNED = _known("int8", dtypes(("int8",)))
_SIGNED_WIDE = _known("int8 or int16", dtypes(("int8", "int16")))
_SOFTMAX = _known("height x width of at most 65536", _rows, evidence=MEASURED)
_SLICED = (
    _known("constant parameters", constant(1, 2, 3)),
    _known("strides that are positive, of height and width alone", _slice_strides, evidence=MEASURED),
)
_TRANSPOSED_SHAPE = _known("an output of the input's size times the stride", _transposed_shape)

# Kinds with no other limit than the types.
_LISTED = ("ABS", "CONCATENATION", "EXP", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "PACK", "PRELU", "REDUCE_MAX")
_LISTED += ("REDUCE_MIN", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "SPLIT", "SPLIT_V")
_LISTED += ("SQUARED_DIFFERENCE", "TANH", "TILE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNPACK")

U55_LIMITED = table(
    TARGETS["ethos-u55"],
    {
        **dict.fromkeys(_LISTED, (_SHORT,)),
        "ARG_MAX": (_known("along at most 127 channels", _depth),),
        "AVERAGE_POOL_2D": (_SHORT, _AVERAGE, _STRIDE_3_PADDED),
        "BATCH_MATMUL": (_known("int8", reads(0, ("int8",))),),
        "CONV_2D": (_SHORT, _CONSTANT_WEIGHTS, *_CONTRACTION, _STRIDE_3_PADDED),
        "DEPTHWISE_CONV_2D": (_SHORT, _CONSTANT_WEIGHTS, *_CONTRACTION, _STRIDE_3),
        "ELU": (_SIGNED,),
        "FULLY_CONNECTED": _CONTRACTION,
        "GELU": (_known("int8 or uint8", dtypes(("int8", "uint8"))),),
        "LOG": (_SIGNED_WIDE,),
        **dict.fromkeys(("MAXIMUM", "MINIMUM"), (_SHORT, _TIED)),
        "MAX_POOL_2D": (_SHORT, _WINDOW, _STRIDE_3_PADDED),
        "MEAN": _MEAN,
        **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), (_known("constant padding", constant(1)),)),
        "QUANTIZE": (_SHORT,),
        **dict.fromkeys(
            ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
            (_SHORT, _known("a factor of 2, 4 or 8, with half-pixel centers 2", _resize_u55)),
        ),
        "RSQRT": (_SIGNED_WIDE,),
        "SLICE": (_SHORT, _known("constant parameters", constant(1, 2))),
        "SOFTMAX": (_SHORT, _SOFTMAX),
        "STRIDED_SLICE": (_SHORT, *_SLICED),
        "SUM": (),
        "TRANSPOSE": (
            _known("a constant permutation", constant(1)),
            _known("axes whose product, but for two, is at most 65536", _transposed),
        ),
        "TRANSPOSE_CONV": (
            _SHORT,
            *_CONTRACTION,
            _known("strides of 1 x 1 or 2 x 2", _transposed_stride, "Use a stride of 2.", MEASURED),
            _TRANSPOSED_SHAPE,
        ),
    },
)

U85_LIMITED = table(
    TARGETS["ethos-u85"],
    {
        "AVERAGE_POOL_2D": (_AVERAGE,),
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _CONTRACTION),
        "ELU": (_SIGNED,),
        "GATHER": (_known("axis equal to batch_dims", _gather, evidence=MEASURED),),
        "GELU": (_known("int8 or uint8", dtypes(("int8", "uint8"))),),
        "LOG": (_SIGNED_WIDE,),
        **dict.fromkeys(("MAXIMUM", "MINIMUM"), (_TIED,)),
        "MAX_POOL_2D": (_WINDOW,),
        "MEAN": _MEAN,
        **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), (_known("constant padding", constant(1)),)),
        "RESIZE_BILINEAR": (_known("factors that are powers of two", _resize_u85, evidence=MEASURED),),
        "RESIZE_NEAREST_NEIGHBOR": (_known("factors of at most 1024", _resize_u85),),
        "RSQRT": (_SIGNED_WIDE,),
        "SLICE": (_known("constant parameters", constant(1, 2)),),
        "SOFTMAX": (_SOFTMAX,),
        "STRIDED_SLICE": _SLICED,
        "TRANSPOSE": (_known("a constant permutation", constant(1)),),
        "TRANSPOSE_CONV": (*_CONTRACTION, _TRANSPOSED_SHAPE),
    },
)

_FREE_ZERO_POINTS = frozenset({"AVERAGE_POOL_2D", "DIV", "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"})
_UNSCALED = frozenset(
    {"ARG_MAX", "CAST", "EXPAND_DIMS", "GATHER", "MIRROR_PAD", "PAD", "PADV2", "QUANTIZE", "TRANSPOSE"}
)
_UNSCALED |= {"REDUCE_ALL", "REDUCE_ANY", "SELECT", "SELECT_V2", "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR"}


def _scaled(program: Program, op: Operator) -> str | None:
    return None if op.kind in _UNSCALED else quantized(program, op)


def _zero_points(program: Program, op: Operator) -> str | None:
    """Within the type; the kinds that divide or interpolate are excepted."""
    if op.kind in _FREE_ZERO_POINTS:
        return None
    for tensor in feature_maps(program, op):
        low, high = LIMITS.get(tensor.dtype, (0, 0))
        low, high = (0, 0) if tensor.dtype == "int16" else (low, high)
        wrong = [int(z) for z in zero_points(tensor) if not low <= z <= high]
        if wrong:
            return f"reads or writes {named(tensor)}, with zero point {wrong[0]}"
    return None


def _one_scale(program: Program, op: Operator) -> str | None:
    return None if op.kind in CONTRACTIONS and not list(feature_maps(program, op)) else per_tensor(program, op)


def _device(name: str, integers: tuple[str, ...], operators: dict, compilers: tuple[str, ...]) -> Device:
    return Device(
        target=TARGETS[name],
        verdict="rule-based; the rules are compared with ethos-u-vela 5.2.0 in jaxq's tests; --compile asks Vela",
        operators=operators,
        everywhere=(
            _known("integers", dtypes(integers), "Quantize it; export int8 inputs and outputs.", MEASURED),
            _known("scales of what is computed", _scaled),
            _known("one scale for what is computed", _one_scale),
            _known("zero points within the type", _zero_points),
        ),
        mapped=NPU,
        unlisted=CPU,
        limited=CPU,
        source=_REPORT,
        compilers=compilers,
    )


_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
U55 = _device("ethos-u55", _INTEGERS, U55_LIMITED, ("ethos-u55-256",))
U65 = _device("ethos-u65", _INTEGERS, U55_LIMITED, ("ethos-u65-512",))
U85 = _device("ethos-u85", (*_INTEGERS, "bool"), U85_LIMITED, ("ethos-u85-512",))
