"""LiteRT on a CPU: which operators of an int8 file XNNPACK takes. All others run on TFLite's own kernels.

Both are right; but the kernels round otherwise in part, and are slower on phones. TensorFlow 2.21 differs from this
table in weights of int4, which it leaves to its own kernels for every operator.
"""

from __future__ import annotations

import itertools

from jaxq.export.lint.kernels import RATIOS
from jaxq.export.lint.view import read_at, zero_points
from jaxq.export.program import Operator, Program
from jaxq.export.targets.conditions import (
    axes,
    constant,
    dtypes,
    feature_maps,
    half_constant,
    not_hybrid,
    number,
    numbers,
    pairs,
    per_tensor,
    reads,
    same_parameters,
    strides,
    window,
)
from jaxq.export.targets.device import MEASURED, VENDOR, Check, Device, Limit, table
from jaxq.plan.target import TARGETS

_DELEGATE = "google-ai-edge/LiteRT, tflite/delegates/xnnpack/xnnpack_delegate.cc"
_REGISTER = "google-ai-edge/LiteRT, tflite/kernels/register.cc"
MOST_AXES = 6  # XNN_MAX_TENSOR_DIMS
FLOAT, EIGHT = ("float32", "float16"), ("int8", "uint8")


def _window(program: Program, op: Operator) -> str | None:
    """Ratios of scales, as the delegate computes them."""
    for what, ratio, low, high in RATIOS[op.kind](program, op):
        if not low <= ratio < high:
            return f"has {what} = {ratio:.4g}, outside [{low:.4g}, {high:g})"
    return None


def _axes(program: Program, op: Operator) -> str | None:
    longest = max((len(t.shape) for t in feature_maps(program, op)), default=0)
    return None if longest <= MOST_AXES else f"has a tensor of {longest} axes"


def _dequantized(program: Program, op: Operator) -> str | None:
    """A float16 constant is part of the operator that reads it: the delegate keeps its weights so."""
    return None if half_constant(program, op) else reads(0, EIGHT)(program, op)


def _one_type(program: Program, op: Operator) -> str | None:
    found = sorted({t.dtype for t in feature_maps(program, op)})
    return None if len(found) <= 1 else f"mixes {' and '.join(found)}"


def _right_symmetric(program: Program, op: Operator) -> str | None:
    right = read_at(program, op, 1)
    wrong = right is not None and right.dtype == "int8" and zero_points(right).any()
    return f"has zero point {int(zero_points(right)[0])} on the right" if wrong else None  # pyright: ignore[reportArgumentType]


def _weights_symmetric(program: Program, op: Operator) -> str | None:
    weights = read_at(program, op, 1)
    wrong = weights is not None and weights.dtype == "int8" and zero_points(weights).any()
    return "has weights with a zero point other than 0" if wrong else None


def _even_packed(program: Program, op: Operator) -> str | None:
    weights = read_at(program, op, 1)
    odd = weights is not None and weights.dtype == "int4" and weights.shape and weights.shape[-1] % 2
    return f"has weights of int4 of {weights.shape[-1]} inputs" if odd and weights is not None else None


def _pool(program: Program, op: Operator) -> str | None:
    size, step = window(program, op), strides(op)
    fits = step[0] <= size[0] and step[1] <= size[1] and not (size == (1, 1) and max(step) > 1)
    return None if fits else f"has strides {step} with a window of {size}"


def _inputs(least: int, most: int) -> Check:
    def check(program: Program, op: Operator) -> str | None:
        return None if least <= len(op.inputs) <= most else f"has {len(op.inputs)} inputs"

    return check


def _outputs(program: Program, op: Operator) -> str | None:
    return None if 2 <= len(op.outputs) <= 4 else f"has {len(op.outputs)} outputs"


def _slice(program: Program, op: Operator) -> str | None:
    begin, size = numbers(program, op, 1) or [], numbers(program, op, 2) or []
    if any(b < 0 for b in begin) or any(s <= 0 for s in size):
        return f"has begin {begin} and size {size}"
    return None


def _ones(program: Program, op: Operator) -> str | None:
    found = numbers(program, op, 3) or []
    return None if all(n == 1 for n in found) else f"has strides {found}"


def _no_masks(program: Program, op: Operator) -> str | None:
    for name in ("ellipsis_mask", "new_axis_mask", "shrink_axis_mask"):
        if number(op, name, 0):
            return f"has {name} {number(op, name, 0)}"
    return None


def _reduced(program: Program, op: Operator) -> str | None:
    return None if axes(program, op) else "names no axes"


def _from_code(law: str, check: Check, fix: str = "", evidence: str = MEASURED) -> Limit:
    return Limit(law, check, evidence, _DELEGATE, fix=fix)


_CLOSER = "Bring the scales closer together: one of the ranges is far too wide or too narrow."
_FLOATS = _from_code("floating point alone", dtypes(FLOAT))
_EIGHTS = _from_code("int8, uint8 or float", dtypes((*EIGHT, *FLOAT)))
_EIGHTS_READ = _from_code("int8, uint8 or float", dtypes((*EIGHT, *FLOAT)), evidence=VENDOR)
_SIGNED = _from_code("int8 or float", dtypes(("int8", *FLOAT)), evidence=VENDOR)
_RATIO = _from_code("ratios of scales within XNNPACK's windows", _window, _CLOSER)
_SAME = _from_code("one type throughout", _one_type, evidence=VENDOR)
_CONSTANTS = _from_code("constant parameters", constant(1), evidence=VENDOR)
_WEIGHTS = (
    _EIGHTS,
    _from_code("constant weights", constant(1), evidence=VENDOR),
    _from_code("weights with zero point 0", _weights_symmetric, "Quantize the weights symmetrically.", VENDOR),
    _RATIO,
)
_EIGHT_BIT_WEIGHTS = _from_code(
    "weights of 8 bits or float", reads(1, (*EIGHT, *FLOAT)), "Write the weights as int8.", VENDOR
)
_CONVERSIONS = frozenset(itertools.product(FLOAT, EIGHT)) | {("int8", "int8"), ("uint8", "uint8")}
_BINARY = (_EIGHTS, _SAME, _RATIO)
_REDUCTION = (_EIGHTS, _CONSTANTS, _from_code("at least one axis", _reduced, evidence=VENDOR))

LIMITED = table(
    TARGETS["litert"],
    {
        **dict.fromkeys(("ADD", "SUB", "MUL"), _BINARY),
        "CONV_2D": (*_WEIGHTS, _EIGHT_BIT_WEIGHTS),
        "DEPTHWISE_CONV_2D": (*_WEIGHTS, _EIGHT_BIT_WEIGHTS, _from_code("no dynamic range", not_hybrid)),
        "FULLY_CONNECTED": (
            *_WEIGHTS,
            _from_code("an even number of inputs with weights of int4", _even_packed, "Add an input of zeros."),
        ),
        "TRANSPOSE_CONV": (*_WEIGHTS, _EIGHT_BIT_WEIGHTS),
        "BATCH_MATMUL": (
            _EIGHTS,
            _SAME,
            _from_code("zero point 0 on the right", _right_symmetric, "Quantize the right operand symmetrically."),
        ),
        **dict.fromkeys(("MEAN", "SUM", "REDUCE_MAX", "REDUCE_MIN"), _REDUCTION),
        **dict.fromkeys(("LOGISTIC", "TANH"), (_EIGHTS, _SAME)),
        "ELU": (_SIGNED,),
        "LEAKY_RELU": (_EIGHTS, _SAME, _RATIO),
        "QUANTIZE": (
            _from_code("from float to 8 bits, or within one 8-bit type", pairs(_CONVERSIONS)),
            _RATIO,
        ),
        "DEQUANTIZE": (_from_code("from 8 bits, or of a float16 constant", _dequantized, evidence=VENDOR),),
        "MAX_POOL_2D": (_EIGHTS, _from_code("strides not above the window's size", _pool)),
        "CONCATENATION": (_EIGHTS, _from_code("2 to 5 inputs", _inputs(2, 5), "Concatenate in steps.", VENDOR)),
        "SPLIT": (_EIGHTS, _from_code("2 to 4 outputs", _outputs, "Split in steps.", VENDOR)),
        "SLICE": (
            _EIGHTS,
            _from_code("begin not below 0, sizes above 0", _slice, "Write sizes as numbers, not as -1."),
        ),
        "STRIDED_SLICE": (
            _EIGHTS,
            _from_code("strides of 1", _ones),
            _from_code("no ellipsis, new axis or shrunk axis", _no_masks, evidence=VENDOR),
        ),
        "PAD": (_EIGHTS, _CONSTANTS),
        "TRANSPOSE": (_EIGHTS, _CONSTANTS),
        "RESHAPE": (_EIGHTS, _from_code("equal scales at both ends", same_parameters, evidence=VENDOR)),
        "RESIZE_BILINEAR": (_EIGHTS_READ, _CONSTANTS),
        **dict.fromkeys(("DEPTH_TO_SPACE", "SPACE_TO_DEPTH"), (_EIGHTS_READ,)),
        "AVERAGE_POOL_2D": (_FLOATS, _from_code("strides not above the window's size", _pool, evidence=VENDOR)),
        **dict.fromkeys(("ABS", "CEIL", "COS", "DIV", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LOG"), (_FLOATS,)),
        **dict.fromkeys(("MAXIMUM", "MINIMUM", "NEG", "PRELU", "RELU", "RELU6", "RELU_N1_TO_1"), (_FLOATS,)),
        **dict.fromkeys(("ROUND", "RSQRT", "SIN", "SOFTMAX", "SQRT", "SQUARE", "SQUARED_DIFFERENCE"), (_FLOATS,)),
    },
)

LITERT = Device(
    target=TARGETS["litert"],
    verdict="rule-based; the rules are compared with ai-edge-litert 2.3.0 in jaxq's tests",
    operators=LIMITED,
    everywhere=(
        _from_code(f"at most {MOST_AXES} axes", _axes, evidence=VENDOR),
        _from_code("one scale for what is computed", per_tensor, evidence=VENDOR),
    ),
    mapped="XNNPACK",
    unlisted="TFLite kernel",
    limited="TFLite kernel",
    source=_DELEGATE,
    runs_rest=True,
)
