"""The one table of facts about TFLite's operators: `OPERATORS`, a row a kind.

The writer's versions, the linter's, the positions of data and parameters that targets judge, the operators that copy
integers, those whose output scale the kernel prescribes, those that fuse an activation, and the part of an input that
one output element reads are all derived from it. What training must know of an *op of the graph* (whether it has a form
of 16 bits, its fixed scale, which operators it is written as) is in `jaxq.ops.OPS`, which may not import this module;
prescribed scales are taken from there. A target's own facts (which kinds it has kernels for, its limits) are in
`jaxq.plan.target` and `jaxq.export.targets`.

Source of versions: `GetBuiltinOperatorVersion` in google-ai-edge/LiteRT,
tflite/converter/tools/versioning/op_version.cc; `tests/golden/op_versions.json` holds its answers.
"""

from __future__ import annotations

from collections.abc import Sequence

from jaxq.export.operator_facts import (
    Call,
    Facts,
    Layout,
    Positions,
    broadcast_above_four,
    dynamic_range,
    grouped,
    not_four_axes,
    option,
    per_channel,
    rank_above,
    reads,
    rescales_up,
    with_bias,
    without_bias,
    writes,
)
from jaxq.export.program import Operator, Program
from jaxq.ops import FIXED_INT16, OPS

# --- the table ------------------------------------------------------------------------------------------------------

F, F8, F816 = ("float32",), ("float32", "int8"), ("float32", "int8", "int16")
F81632 = (*F816, "int32")
FIVE, ALL_TYPES = (*F81632, "bool"), ("float32", "int8", "uint8", "int16", "int32", "int64", "bool")
BOOL = ("bool",)
_CONV, _DENSE = Layout(0, 1, 2, 0), Layout(0, 1, 2, 0)


def _v(float32: int = 1, int8: int | None = None, int16: int | None = None, **others: int) -> dict[str, int]:
    """Lowest versions by type; None where no kernel is known that takes it."""
    known = {"float32": float32, "int8": int8, "int16": int16, **others}
    return {dtype: version for dtype, version in known.items() if version is not None}


def _prescribed(kind: str) -> tuple[float, int]:
    """The output's scale and zero point, which training knows as well."""
    found = OPS[kind].scales
    assert not isinstance(found, str)
    return found


# Sorted.
OPERATORS: dict[str, Facts] = {
    "ABS": Facts(_v(1, 2, 3, int32=5), scaled=(0,), tflm=F816),
    "ADD": Facts(_v(1, 2, 3, int64=4), scaled=(0, 1), fuses=True, reads="same", tflm=F81632),
    "ARG_MAX": Facts(_v(1, 2, bool=3), parameters=(1,)),
    "ARG_MIN": Facts(_v(1, 2, bool=3), parameters=(1,)),
    "AVERAGE_POOL_2D": Facts(_v(1, 2, 3), copies=(0,), fuses=True, reads="window", tflm=F816),
    "BATCH_MATMUL": Facts(_v(1, 2, 3), scaled=(0, 1), tflm=F816),
    "BATCH_TO_SPACE_ND": Facts(_v(1, 2, 4), (not_four_axes(3),), parameters=(1, 2), copies=(0,), tflm=F8),
    "BROADCAST_TO": Facts(_v(2, 3, 3, bool=2, int32=2, int64=2), parameters=(1,), copies=(0,)),
    "CAST": Facts(_v(1, float16=5, float64=5, uint16=4, uint32=2, int4=6)),
    "CEIL": Facts(_v(1), tflm=F),
    "CONCATENATION": Facts(
        _v(1, 2, 3, uint32=4, int4=5), copies="all", fuses=True, reads="joined", tflm=(*F81632, "int64", "bool")
    ),
    "CONV_2D": Facts(
        _v(1, 3, 3),
        (grouped, reads(1, int4=7), dynamic_range(2, 5), option("quantized_bias_type", 8)),
        scaled=(0, 1), fuses=True, reads="window", layout=_CONV, tflm=F816,
    ),
    "COS": Facts(_v(1), tflm=F),
    "CUMSUM": Facts(_v(1), parameters=(1,), tflm=F8),
    "DEPTHWISE_CONV_2D": Facts(
        _v(1, 3, 3),
        (reads(1, int4=7), dynamic_range(4, 6), option("dilation_h_factor", 2, (None, 0, 1)),
         option("dilation_w_factor", 2, (None, 0, 1))),
        scaled=(0, 1), fuses=True, reads="window", layout=Layout(0, 1, 2, 3), tflm=F816,
    ),
    "DEPTH_TO_SPACE": Facts(_v(1, 2), copies=(0,), tflm=F8),
    "DEQUANTIZE": Facts(_v(1, 2, 3, float16=3, int4=6), (per_channel(5),), scaled=(0,), reads="same"),
    "DIV": Facts(_v(1), (broadcast_above_four(2),), scaled=(0, 1), fuses=True, tflm=("float32", "int8", "int32")),
    "ELU": Facts(_v(1, 1), scaled=(0,), tflm=F8),
    "EMBEDDING_LOOKUP": Facts(_v(1, 1, int4=4), (per_channel(4, of=1),), decides=1, copies=(1,)),
    "EQUAL": Facts(_v(1, 2, 5)),
    "EXP": Facts(_v(1, 2, 2), scaled=(0,), tflm=F),
    "EXPAND_DIMS": Facts(_v(1, 1, 1), parameters=(1,), copies=(0,), tflm=F81632),
    "FLOOR": Facts(_v(1), tflm=F),
    "FLOOR_DIV": Facts(_v(2, 3, 3, int32=1), tflm=F),
    "FLOOR_MOD": Facts(_v(1, 2, 2), tflm=F),
    "FULLY_CONNECTED": Facts(
        _v(1, 4, 4),
        (without_bias, reads(1, int4=10), dynamic_range(9, 12), option("keep_num_dims", 5),
         option("quantized_bias_type", 11)),
        scaled=(0, 1), fuses=True, reads="dense", layout=_DENSE, tflm=F816,
    ),
    "GATHER": Facts(_v(1, 2, 4, bool=3), (reads(1, int16=6), option("batch_dims", 5)), copies=(0,)),
    "GATHER_ND": Facts(_v(1, 1, 3, bool=5), copies=(0,)),
    "GELU": Facts(_v(1, 2), scaled=(0,), reads="same"),
    "GREATER": Facts(_v(1, 2)),
    "GREATER_EQUAL": Facts(_v(1, 2, 3)),
    "HARD_SWISH": Facts(_v(1, 1), scaled=(0,), reads="same", tflm=F8),
    "L2_NORMALIZATION": Facts(_v(1, 2), scaled=(0,), scale=(1 / 128, 0), tolerance=1e-3, fuses=True, tflm=F8),
    "L2_POOL_2D": Facts(_v(1), fuses=True, tflm=F),
    "LEAKY_RELU": Facts(_v(1, 1, 2), scaled=(0,), reads="same", tflm=F816),
    "LESS": Facts(_v(1, 2, 3)),
    "LESS_EQUAL": Facts(_v(1, 2)),
    "LOG": Facts(_v(1, 2, 2), scaled=(0,), tflm=F),
    "LOGICAL_AND": Facts(_v(), tflm=BOOL),
    "LOGICAL_NOT": Facts(_v(), tflm=BOOL),
    "LOGICAL_OR": Facts(_v(), tflm=BOOL),
    "LOGISTIC": Facts(_v(1, 2, 3), scaled=(0,), scale=_prescribed("LOGISTIC"), reads="same", tflm=F816),
    "LOG_SOFTMAX": Facts(_v(1, 2), scaled=(0,), scale=(16 / 256, 127), tolerance=1e-3, tflm=F8),
    "MAXIMUM": Facts(_v(1, 2, 4), (broadcast_above_four(3),), copies=(0, 1), reads="same", tflm=F81632),
    "MAX_POOL_2D": Facts(_v(1, 2, 3), copies=(0,), fuses=True, reads="window", tflm=F816),
    "MEAN": Facts(_v(1, 2, 3), parameters=(1,), scaled=(0,), reads="reduced", tflm=F816),
    "MINIMUM": Facts(_v(1, 2, 4), (broadcast_above_four(3),), copies=(0, 1), reads="same", tflm=F81632),
    "MIRROR_PAD": Facts(_v(1, 2, 3), parameters=(1,), copies=(0,), tflm=F8),
    "MUL": Facts(_v(1, 2, 4, int64=5, uint32=7), (rescales_up,), scaled=(0, 1), fuses=True, reads="same", tflm=F81632),
    "NEG": Facts(_v(1), tflm=F8),
    "NOT_EQUAL": Facts(_v(1, 2, 4)),
    "PACK": Facts(_v(1, 2, 3, uint32=4), copies="all", tflm=F81632),
    "PAD": Facts(
        _v(1, 2, 3, bool=5), (rank_above((4, 4)),), parameters=(1,), copies=(0,), reads="padded", tflm=F81632
    ),
    "PADV2": Facts(
        _v(1, 2, 3, bool=5), (rank_above((4, 4)),), parameters=(1,), copies=(0, 2), reads="padded", tflm=F81632
    ),
    "PRELU": Facts(_v(1, 1), scaled=(0, 1), reads="same", tflm=F816),
    "QUANTIZE": Facts(
        _v(1, 1, 2), (writes(int16=2, int4=4), per_channel(3, output=True)), scaled=(0,), reads="same"
    ),
    "REDUCE_ALL": Facts(_v(), parameters=(1,), tflm=BOOL),
    "REDUCE_ANY": Facts(_v(), parameters=(1,)),
    "REDUCE_MAX": Facts(_v(1, 2, 3), parameters=(1,), copies=(0,), tflm=F8),
    "REDUCE_MIN": Facts(_v(1, 2, 3), parameters=(1,), copies=(0,), tflm=F8),
    "REDUCE_PROD": Facts(_v(1, 2, 2), parameters=(1,)),
    "RELU": Facts(_v(1, 2, 3), scaled=(0,), reads="same", tflm=F816),
    "RELU6": Facts(_v(1, 2, 3), scaled=(0,), reads="same", tflm=F816),
    "RELU_N1_TO_1": Facts(_v(1, 1), scaled=(0,), reads="same"),
    "RESHAPE": Facts(_v(1, 1, 1), parameters=(1,), copies=(0,), reads="flat"),
    "RESIZE_BILINEAR": Facts(
        _v(1, 2, 4), (option("half_pixel_centers", 3),), parameters=(1,), copies=(0,), tflm=F8
    ),
    "RESIZE_NEAREST_NEIGHBOR": Facts(
        _v(1, 2, 4), (option("half_pixel_centers", 3), option("align_corners", 3)), parameters=(1,), copies=(0,),
        tflm=F81632,
    ),
    "REVERSE_V2": Facts(_v(1, 3, 1, bool=2), parameters=(1,), copies=(0,), tflm=ALL_TYPES),
    "ROUND": Facts(_v(1), tflm=F),
    "RSQRT": Facts(_v(1, 2, 3), scaled=(0,), tflm=F8),
    "SELECT": Facts(_v(), (rank_above((4, 3)),), copies=(1, 2)),
    "SELECT_V2": Facts(_v(), copies=(1, 2), reads="same"),
    "SIN": Facts(_v(1), tflm=F),
    "SLICE": Facts(
        _v(1, 2, 4, uint32=6, int4=7), (rank_above((4, 5)),), parameters=(1, 2), copies=(0,), reads="begun", tflm=FIVE
    ),
    "SOFTMAX": Facts(
        _v(1, 2, 3), scaled=(0,), scale=_prescribed("SOFTMAX"), tolerance=1e-3, reads="row", tflm=F816
    ),
    "SPACE_TO_BATCH_ND": Facts(_v(1, 2, 4), (not_four_axes(3),), parameters=(1, 2), copies=(0,), tflm=F8),
    "SPACE_TO_DEPTH": Facts(_v(1, 2), copies=(0,), tflm=F8),
    "SPLIT": Facts(_v(1, 2, 4, int32=3), decides=1, parameters=(0,), copies=(1,), tflm=F81632),
    "SPLIT_V": Facts(_v(1, 2), parameters=(1, 2), copies=(0,), tflm=F81632),
    "SQRT": Facts(_v(1, 2, 2), scaled=(0,), tflm=F),
    "SQUARE": Facts(_v(1), tflm=F),
    "SQUARED_DIFFERENCE": Facts(_v(1, 2), scaled=(0, 1), tflm=F81632),
    "SQUEEZE": Facts(_v(1, 1, 1), copies=(0,)),
    "STRIDED_SLICE": Facts(
        _v(1, 2, 4, bool=3, uint32=7),
        (rank_above((4, 4)), option("ellipsis_mask", 6), option("new_axis_mask", 6), option("offset", 8)),
        parameters=(1, 2, 3), copies=(0,), tflm=FIVE,
    ),
    "SUB": Facts(
        _v(1, 2, 5, int64=4), (broadcast_above_four(3),), scaled=(0, 1), fuses=True, reads="same", tflm=F81632
    ),
    "SUM": Facts(_v(1, 2), parameters=(1,), scaled=(0,), reads="reduced", tflm=F816),
    "TANH": Facts(_v(1, 2, 3), scaled=(0,), scale=_prescribed("TANH"), reads="same", tflm=F816),
    "TILE": Facts(_v(1, 3), parameters=(1,), copies=(0,)),
    "TOPK_V2": Facts(_v(1, 2, 3), parameters=(1,), copies=(0,)),
    "TRANSPOSE": Facts(
        _v(1, 2, 5, bool=3, int4=7), (rank_above((4, 4), (5, 6), (6, 8)),), parameters=(1,), copies=(0,),
        reads="permuted", tflm=F816,
    ),
    "TRANSPOSE_CONV": Facts(
        _v(1, 2, 2), (with_bias, option("fused_activation_function", 4)), decides=2, parameters=(0,), scaled=(1, 2),
        fuses=True, layout=Layout(2, 1, 3, 0), tflm=F816,
    ),
    "UNPACK": Facts(_v(1, 2, 4, uint8=2, bool=3), copies=(0,), tflm=F81632),
}  # fmt: skip


# Bits that the kernels of ADD and SUB keep behind the point of their operands, by type.
ADD_SHIFT = {"int8": 20, "uint8": 20, "int16": 15}

# --- what is derived ------------------------------------------------------------------------------------------------

CONTRACTIONS: dict[str, Layout] = {k: facts.layout for k, facts in OPERATORS.items() if facts.layout is not None}


def lowest_version(call: Call) -> int:
    """The lowest version of an operator that takes these tensors and options; 1 for a kind that is not in the table."""
    facts = OPERATORS.get(call.kind)
    if facts is None:
        return 1
    decisive = call.read(facts.decides)
    own = 1 if decisive is None else facts.versions.get(decisive.dtype, 1)
    return max([own, *(need(call) for need in facts.needs)])


def call_of(program: Program, op: Operator) -> Call:
    """The use of an operator in a program, its absent inputs as None."""
    inputs = [program.tensors[i] if i >= 0 else None for i in op.inputs]
    return Call(op.kind, inputs, [program.tensors[i] for i in op.outputs if i >= 0], op.options)


def prescribed_scale(kind: str, dtype: str) -> tuple[float, int, float] | None:
    """The scale, zero point and relative tolerance of the scale that a kernel has built in for its output.

    Of uint8 the integers are int8's and 128; of int16 the scale is 1/32768 where there is a kernel.
    """
    facts = OPERATORS.get(kind)
    if facts is None or facts.scale is None:
        return None
    scale, zero_point = facts.scale
    if dtype == "int16" and "int16" in facts.versions:
        return (*FIXED_INT16, facts.tolerance)
    shift = {"int8": 0, "uint8": 128}.get(dtype)
    return None if shift is None else (scale, zero_point + shift, facts.tolerance)


def positions(positions: Positions, inputs: Sequence[int]) -> list[int]:
    """Positions that an operator with these inputs has."""
    return list(range(len(inputs))) if positions == "all" else [p for p in positions if p < len(inputs)]
