"""Coral Edge TPU: what its compiler maps, by public documents. The compiler itself cannot be had for today's systems.

It maps operators up to the first that it does not take; what depends on that one runs on the CPU. Requirements and
limits: coral.ai, "TensorFlow models on the Edge TPU", model requirements and supported operations (runtime 13 or
newer; Transpose, Rsqrt, SquaredDifference, ReduceMax, ReduceMin and LSTM: 14). Its arithmetic is not documented.
"""

from __future__ import annotations

import math

from jaxq.export.lint.view import read_at, written
from jaxq.export.program import Operator, Program
from jaxq.export.targets.conditions import (
    axes,
    constant,
    dtypes,
    no_activation,
    not_over_batch,
    numbers,
    option_is,
    same_dilation,
    three_dimensions,
    versions,
)
from jaxq.export.targets.device import INFERRED, VENDOR, Check, Device, Limit, table
from jaxq.plan.target import TARGETS

_PAGE = "coral.ai, TensorFlow models on the Edge TPU, supported operations"
_CHANGES = "google-coral/edgetpu, CHANGES.md"

# The compiler's own words.
MAPPED = "Mapped to Edge TPU"
NOT_SUPPORTED = "Operation not supported"
VERSION = "Operation version not supported"
DTYPE = "Operation is working on an unsupported data type"
NOT_CONSTANT = "Filter, bias, or other param is not constant at compile-time"
RANK = "Tensor has unsupported rank (up to 3 innermost dimensions mapped)"
SECOND_SUBGRAPH = "More than one subgraph is not supported"
UNSPECIFIED = "Operation is otherwise supported, but not mapped due to some unspecified limitation"

MOST_CLASSES = 16_000
CACHE_BYTES = int(7.7 * 2**20)  # of 8 MiB on the chip

# The highest operator versions known there. The last compiler, 16.0, is of the time of TensorFlow 2.5; QUANTIZE and
# RESIZE_NEAREST_NEIGHBOR are known by its own refusals, the others are those of that release's kernels.
CEILING = {
    **dict.fromkeys(("EXPAND_DIMS", "PRELU", "RELU_N1_TO_1", "RESHAPE"), 1),
    **dict.fromkeys(("L2_NORMALIZATION", "QUANTIZE", "RELU", "RELU6", "RESIZE_NEAREST_NEIGHBOR"), 2),
    **dict.fromkeys(("RSQRT", "SPACE_TO_DEPTH", "SQUARED_DIFFERENCE", "SQUEEZE", "SUM"), 2),
    **dict.fromkeys(("AVERAGE_POOL_2D", "CONCATENATION", "LOGISTIC", "MAX_POOL_2D", "MEAN", "PACK", "PAD"), 3),
    **dict.fromkeys(("REDUCE_MAX", "REDUCE_MIN", "RESIZE_BILINEAR", "SOFTMAX", "TANH", "TRANSPOSE_CONV"), 3),
    **dict.fromkeys(("ADD", "MAXIMUM", "MINIMUM", "MUL", "SPLIT", "STRIDED_SLICE"), 4),
    **dict.fromkeys(("CONV_2D", "SLICE", "SUB", "TRANSPOSE"), 5),
    "DEPTHWISE_CONV_2D": 6,
    "FULLY_CONNECTED": 9,
    "UNIDIRECTIONAL_SEQUENCE_LSTM": 3,
}


def _depth_of_four(program: Program, op: Operator) -> str | None:
    x = read_at(program, op)
    over_depth = x is not None and len(x.shape) - 1 in axes(program, op)
    return f"averages over {x.shape[-1]} channels" if over_depth and x.shape[-1] % 4 else None  # pyright: ignore[reportOptionalMemberAccess]


def _pad(program: Program, op: Operator) -> str | None:
    pads = (numbers(program, op, 1) or [0, 0])[:2]
    return f"pads the batch by {pads[0]} and {pads[1]}" if any(pads) else None


def _row(program: Program, op: Operator) -> str | None:
    y = written(program, op)
    return None if y is None or math.prod(y.shape[:-1]) <= 1 else f"writes {math.prod(y.shape[:-1]):,} rows"


def _scales(program: Program, op: Operator) -> str | None:
    w = read_at(program, op, 1)
    grid = None if w is None else w.quantization
    return f"has weights with {grid.scale.size} scales" if grid is not None and grid.per_channel else None


def _classes(program: Program, op: Operator) -> str | None:
    x = read_at(program, op)
    return None if x is None or math.prod(x.shape) <= MOST_CLASSES else f"has {math.prod(x.shape):,} elements"


def _zeros(program: Program, op: Operator) -> str | None:
    """A constant among the inputs: two inputs in all, and the constant stands for zeros."""
    tensors = [t for t in (read_at(program, op, k) for k in range(len(op.inputs))) if t is not None]
    constants = [t for t in tensors if t.data is not None]
    if not constants:
        return None
    if len(tensors) != 2:
        return f"has {len(tensors)} inputs with constants among them"
    data, q = constants[0].data, constants[0].quantization
    zero = int(q.zero_point[0]) if q is not None and q.zero_point.size else 0
    return None if data is None or (data == zero).all() else "concatenates a constant that is not all zeros"


def _alpha(program: Program, op: Operator) -> str | None:
    alpha = read_at(program, op, 1)
    return None if alpha is None or math.prod(alpha.shape[:-1]) <= 1 else f"has slopes of shape {alpha.shape}"


def _strides(program: Program, op: Operator) -> str | None:
    found = numbers(program, op, 3) or []
    return None if all(n == 1 for n in found) else f"has strides {found}"


def _known(law: str, check: Check, fix: str = "", status: str = "", evidence: str = VENDOR) -> Limit:
    return Limit(law, check, evidence, _PAGE, status, fix)


_PLAIN = _known("no fused activation", no_activation, "Write the activation as an operator of its own.")
_UNDILATED = _known("equal dilation of rows and columns", same_dilation)
_WEIGHTS = _known("constant weights and bias", constant(1, 2), status=NOT_CONSTANT)
_PARAMETERS = _known("constant parameters", constant(1), status=NOT_CONSTANT)
_SPEC = "tensorflow/tensorflow v2.5, tensorflow/lite/g3doc/performance/quantization_spec.md: FULLY_CONNECTED per-tensor"
_ONE_SCALE = 'Export with the target "edgetpu"; with TFLiteConverter switch scales per channel off for dense layers.'
_FLAT = "Export with a batch of 1."

LIMITED = table(
    TARGETS["edgetpu"],
    {
        **dict.fromkeys(("AVERAGE_POOL_2D", "MAX_POOL_2D"), (_PLAIN,)),
        "CONCATENATION": (_PLAIN, _known("a constant input is all zeros, and one of two", _zeros)),
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D"), (_WEIGHTS, _UNDILATED)),
        "FULLY_CONNECTED": (
            _WEIGHTS,
            _known("weights in the default format", option_is("weights_format", 0, 0)),
            _known("one row of output", _row, _FLAT),
            Limit("one scale for all weights", _scales, INFERRED, _SPEC, fix=_ONE_SCALE),
        ),
        "TRANSPOSE_CONV": (Limit("constant weights and bias", constant(1, 3), VENDOR, _CHANGES, NOT_CONSTANT),),
        "MEAN": (
            _PARAMETERS,
            _known("not over the batch", not_over_batch()),
            _known("over a number of channels that is a multiple of 4", _depth_of_four, "Add channels of zeros."),
        ),
        **dict.fromkeys(
            ("REDUCE_MAX", "REDUCE_MIN", "SUM"), (_PARAMETERS, _known("not over the batch", not_over_batch()))
        ),
        "PACK": (_known("not along the batch", not_over_batch(option="axis")),),
        "SPLIT": (_known("not along the batch", not_over_batch(0)),),
        "PAD": (_PARAMETERS, _known("not the batch", _pad)),
        "PRELU": (_known("one slope for each channel", _alpha, "Share the slopes of rows and columns."),),
        **dict.fromkeys(("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"), (_PARAMETERS,)),
        "SOFTMAX": (
            _known("one row", _row, _FLAT),
            _known(f"at most {MOST_CLASSES:,} elements", _classes, "Return the logits."),
        ),
        "STRIDED_SLICE": (
            _known("strides of 1", _strides),
            _known("no ellipsis", option_is("ellipsis_mask", 0, 0)),
            _known("no new axis", option_is("new_axis_mask", 0, 0)),
        ),
        **dict.fromkeys(("SLICE",), (Limit("constant parameters", constant(1, 2), VENDOR, _PAGE, NOT_CONSTANT),)),
        **dict.fromkeys(("RESHAPE", "TRANSPOSE"), (_PARAMETERS,)),
    },
)

EDGETPU = Device(
    target=TARGETS["edgetpu"],
    verdict="rule-based: by public documents, not by the compiler",
    operators=LIMITED,
    everywhere=(
        Limit(
            "operator versions of TensorFlow 2.5",
            versions(CEILING),
            INFERRED,
            "google-coral/edgetpu issue 879; tensorflow/tensorflow v2.5, tensorflow/lite/kernels/register.cc",
            VERSION,
            "Write the lowest version that expresses the operator, as jaxq does.",
        ),
        Limit(
            "int8 or uint8",
            dtypes(("int8", "uint8")),
            VENDOR,
            "coral.ai, TensorFlow models on the Edge TPU, model requirements",
            DTYPE,
            "Quantize it; export int8 or uint8 inputs and outputs.",
        ),
        Limit(
            "only the innermost three axes longer than 1",
            three_dimensions,
            VENDOR,
            "coral.ai, TensorFlow models on the Edge TPU, model requirements",
            RANK,
            "Export with a batch of 1.",
        ),
    ),
    mapped=MAPPED,
    unlisted=NOT_SUPPORTED,
    limited=UNSPECIFIED,
    source=_PAGE,
    one_subgraph=True,
    at_ends=frozenset({"QUANTIZE", "DEQUANTIZE"}),
    cache_bytes=CACHE_BYTES,
)
