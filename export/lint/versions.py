"""Rules of operator versions, and the least version of each operator that can compute on int8.

A runtime refuses a version that it does not know. So a version above the least shuts out old runtimes for nothing,
and one below it promises them an operator that they do not have. Source: `GetBuiltinOperatorVersion` in
`tflite/converter/tools/versioning/op_version.cc` (google-ai-edge/LiteRT).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import is_integer, of_kinds, read_at, scale_of, written
from jaxq.export.program import Operator, Program

DATA = {"SPLIT": 1, "TRANSPOSE_CONV": 2}  # the input whose type decides; 0 elsewhere


def too_low(program: Program) -> Iterator[Spot]:
    """The version can compute on int8."""
    for i, op, least in _versions(program):
        if op.version < least:
            yield Spot(f"has version {op.version}; on int8 it is {least}", i)


def too_high(program: Program) -> Iterator[Spot]:
    """The version is the least that can compute it."""
    for i, op, least in _versions(program):
        if op.version > least:
            yield Spot(f"has version {op.version}; {least} is enough", i)


def _versions(program: Program) -> Iterator[tuple[int, Operator, int]]:
    """Operators that read int8, with their least versions."""
    for i, op in of_kinds(program, *LEAST):
        if is_integer(read_at(program, op, DATA.get(op.kind, 0)), "int8"):
            least = LEAST[op.kind]
            yield i, op, least if isinstance(least, int) else least(program, op)


def _conv(program: Program, op: Operator) -> int:
    x, w = read_at(program, op), read_at(program, op, 1)
    if x is not None and w is not None and len(x.shape) == len(w.shape) == 4 and x.shape[3] != w.shape[3]:
        return 6
    return 7 if is_integer(w, "int4") else 3


def _depthwise(program: Program, op: Operator) -> int:
    return 7 if is_integer(read_at(program, op, 1), "int4") else 3


def _dense(program: Program, op: Operator) -> int:
    if is_integer(read_at(program, op, 1), "int4"):
        return 10
    if len(op.inputs) == 2:
        return 6
    return 5 if op.options.get("keep_num_dims") else 4


def _transpose_conv(program: Program, op: Operator) -> int:
    if op.options.get("fused_activation_function", "NONE") != "NONE":
        return 4
    return 3 if len(op.inputs) == 4 and op.inputs[3] >= 0 else 2


def _mul(program: Program, op: Operator) -> int:
    scales = [scale_of(t) for t in (read_at(program, op), read_at(program, op, 1), written(program, op))]
    a, b, y = (scale or 0.0 for scale in scales)
    return 3 if y and a * b / y >= 1 else 2


def _broadcast(program: Program, op: Operator) -> int:
    shapes = [t.shape for t in (read_at(program, op, k) for k in (0, 1)) if t is not None]
    return 3 if len(set(shapes)) > 1 and max(map(len, shapes)) > 4 else 2


def _rank(program: Program, op: Operator) -> int:
    x = read_at(program, op)
    return 0 if x is None else len(x.shape)


def _beyond_four(version: int) -> Callable[[Program, Operator], int]:
    return lambda program, op: version if _rank(program, op) > 4 else 2


def _transpose(program: Program, op: Operator) -> int:
    rank = _rank(program, op)
    return 8 if rank > 6 else {6: 6, 5: 4}.get(rank, 2)


def _strided_slice(program: Program, op: Operator) -> int:
    if op.options.get("offset"):
        return 8
    if op.options.get("ellipsis_mask") or op.options.get("new_axis_mask"):
        return 6
    return 4 if _rank(program, op) > 4 else 2


def _resize(program: Program, op: Operator) -> int:
    nearest = op.kind == "RESIZE_NEAREST_NEIGHBOR"
    return 3 if op.options.get("half_pixel_centers") or (nearest and op.options.get("align_corners")) else 2


def _gather(program: Program, op: Operator) -> int:
    if is_integer(read_at(program, op, 1), "int16"):
        return 6
    return 5 if op.options.get("batch_dims") else 2


def _batches(program: Program, op: Operator) -> int:
    return 3 if _rank(program, op) != 4 else 2


def _dequantize(program: Program, op: Operator) -> int:
    x = read_at(program, op)
    return 5 if x is not None and x.quantization and x.quantization.per_channel else 2


def _quantize(program: Program, op: Operator) -> int:
    y = written(program, op)
    if y is not None and y.quantization and y.quantization.per_channel:
        return 3
    return 4 if is_integer(y, "int4") else 2 if is_integer(y, "int16") else 1


Least = int | Callable[[Program, Operator], int]

LEAST: dict[str, Least] = {
    **dict.fromkeys(("ELU", "EXPAND_DIMS", "HARD_SWISH", "LEAKY_RELU", "PRELU", "RELU_N1_TO_1", "RESHAPE"), 1),
    **dict.fromkeys(("ABS", "ADD", "ARG_MAX", "ARG_MIN", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION"), 2),
    **dict.fromkeys(("DEPTH_TO_SPACE", "EXP", "GELU", "L2_NORMALIZATION", "LOG", "LOGISTIC", "LOG_SOFTMAX"), 2),
    **dict.fromkeys(("MAX_POOL_2D", "MEAN", "MIRROR_PAD", "PACK", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6"), 2),
    **dict.fromkeys(("RSQRT", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARED_DIFFERENCE"), 2),
    **dict.fromkeys(("SUM", "TANH", "TOPK_V2", "UNPACK"), 2),
    **dict.fromkeys(("BROADCAST_TO", "REVERSE_V2", "TILE"), 3),
    "BATCH_TO_SPACE_ND": _batches,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _depthwise,
    "DEQUANTIZE": _dequantize,
    "FULLY_CONNECTED": _dense,
    "GATHER": _gather,
    "MAXIMUM": _broadcast,
    "MINIMUM": _broadcast,
    "MUL": _mul,
    "PAD": _beyond_four(4),
    "PADV2": _beyond_four(4),
    "QUANTIZE": _quantize,
    "RESIZE_BILINEAR": _resize,
    "RESIZE_NEAREST_NEIGHBOR": _resize,
    "SLICE": _beyond_four(5),
    "SPACE_TO_BATCH_ND": _batches,
    "SQUEEZE": 1,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _broadcast,
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv,
}
