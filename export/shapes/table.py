"""Operator -> its shape rule: one sorted literal table. Sources: the Prepare functions of google-ai-edge/LiteRT,
tflite/kernels/.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxq.export.shapes import contractions, movement
from jaxq.export.shapes.view import Rule

MANY = 1 << 16


@dataclasses.dataclass(frozen=True)
class Row:
    """The rule of one kind of operator.

    `rule`: the shapes of the outputs. `least`, `most`: how many inputs it has. `alike`: the inputs whose dtype is that
    of every output. `optional`: inputs that may be absent (-1). `outputs`: the most outputs.
    """

    rule: Rule
    least: int = 1
    most: int = 1
    alike: tuple[int, ...] = ()
    optional: tuple[int, ...] = ()
    outputs: int = 1


UNARY = Row(movement.like, alike=(0,))
ANY_UNARY = Row(movement.like)
ON_ROWS = Row(movement.rows)
BINARY = Row(movement.together, 2, 2, (0, 1))
RELATION = Row(movement.together, 2, 2)
REDUCTION = Row(movement.reduction, 2, 2)
SELECTION = Row(movement.reduction, 2, 2, (0,))
POOL = Row(contractions.pool, alike=(0,))
RESIZE = Row(contractions.resize, 2, 2, (0,))
CONV = Row(contractions.conv, 2, 3, optional=(2,))

# Inputs that are variables of the operator itself, without data: its state between two calls.
STATES: Mapping[str, tuple[int, ...]] = {"SVDF": (4,), "UNIDIRECTIONAL_SEQUENCE_LSTM": (18, 19)}

SHAPES: Mapping[str, Row] = {
    "ABS": UNARY,
    "ADD": BINARY,
    "ARG_MAX": Row(movement.arg_reduction, 2, 2),
    "ARG_MIN": Row(movement.arg_reduction, 2, 2),
    "ASSIGN_VARIABLE": Row(movement.nothing, 2, 2, outputs=0),
    "AVERAGE_POOL_2D": POOL,
    "BATCH_MATMUL": Row(contractions.batch_matmul, 2, 2),
    "BROADCAST_TO": Row(movement.broadcast_to, 2, 2, (0,)),
    "CALL_ONCE": Row(movement.nothing, 0, 0, outputs=0),
    "CAST": ANY_UNARY,
    "CEIL": UNARY,
    "CONCATENATION": Row(movement.concatenation, 1, MANY),
    "CONV_2D": CONV,
    "COS": UNARY,
    "CUMSUM": Row(movement.along_axes, 2, 2, (0,)),
    "DEPTHWISE_CONV_2D": Row(contractions.depthwise, 2, 3, optional=(2,)),
    "DEPTH_TO_SPACE": Row(movement.depth_to_space, alike=(0,)),
    "DEQUANTIZE": ANY_UNARY,
    "DIV": BINARY,
    "ELU": UNARY,
    "EMBEDDING_LOOKUP": Row(movement.embedding_lookup, 2, 2),
    "EQUAL": RELATION,
    "EXP": UNARY,
    "EXPAND_DIMS": Row(movement.expand_dims, 2, 2, (0,)),
    "FLOOR": UNARY,
    "FLOOR_DIV": BINARY,
    "FLOOR_MOD": BINARY,
    "FULLY_CONNECTED": Row(contractions.fully_connected, 2, 3, optional=(2,)),
    "GATHER": Row(movement.gather, 2, 2, (0,)),
    "GELU": UNARY,
    "GREATER": RELATION,
    "GREATER_EQUAL": RELATION,
    "HARD_SWISH": UNARY,
    "L2_NORMALIZATION": ON_ROWS,
    "LEAKY_RELU": UNARY,
    "LESS": RELATION,
    "LESS_EQUAL": RELATION,
    "LOG": UNARY,
    "LOGICAL_AND": BINARY,
    "LOGICAL_NOT": UNARY,
    "LOGICAL_OR": BINARY,
    "LOGISTIC": UNARY,
    "LOG_SOFTMAX": ON_ROWS,
    "MAXIMUM": BINARY,
    "MAX_POOL_2D": POOL,
    "MEAN": REDUCTION,
    "MINIMUM": BINARY,
    "MIRROR_PAD": Row(movement.pad, 2, 2, (0,)),
    "MUL": BINARY,
    "NEG": UNARY,
    "NOT_EQUAL": RELATION,
    "PACK": Row(movement.pack, 1, MANY),
    "PAD": Row(movement.pad, 2, 2, (0,)),
    "PADV2": Row(movement.pad, 3, 3, (0, 2)),
    "POW": BINARY,
    "PRELU": Row(movement.prelu, 2, 2, (0,)),
    "QUANTIZE": ANY_UNARY,
    "READ_VARIABLE": Row(movement.nothing),
    "REDUCE_ALL": SELECTION,
    "REDUCE_ANY": SELECTION,
    "REDUCE_MAX": SELECTION,
    "REDUCE_MIN": SELECTION,
    "RELU": UNARY,
    "RELU6": UNARY,
    "RELU_N1_TO_1": UNARY,
    "RESHAPE": Row(movement.reshape, 1, 2, (0,), optional=(1,)),
    "RESIZE_BILINEAR": RESIZE,
    "RESIZE_NEAREST_NEIGHBOR": RESIZE,
    "REVERSE_V2": Row(movement.along_axes, 2, 2, (0,)),
    "ROUND": UNARY,
    "RSQRT": UNARY,
    "SELECT_V2": Row(movement.together, 3, 3, (1, 2)),
    "SIGN": UNARY,
    "SIN": UNARY,
    "SLICE": Row(movement.slice_box, 3, 3, (0,)),
    "SOFTMAX": ON_ROWS,
    "SPACE_TO_DEPTH": Row(movement.space_to_depth, alike=(0,)),
    "SPLIT": Row(movement.split, 2, 2, (1,), outputs=MANY),
    "SPLIT_V": Row(movement.split_v, 3, 3, (0,), outputs=MANY),
    "SQRT": UNARY,
    "SQUARE": UNARY,
    "SQUARED_DIFFERENCE": BINARY,
    "SQUEEZE": Row(movement.squeeze, alike=(0,)),
    "STRIDED_SLICE": Row(movement.strided_slice, 4, 4, (0,)),
    "SUB": BINARY,
    "SUM": REDUCTION,
    "SVDF": Row(contractions.svdf, 5, 5, optional=(3,)),
    "TANH": UNARY,
    "TILE": Row(movement.tile, 2, 2, (0,)),
    "TOPK_V2": Row(movement.top_k, 2, 2, outputs=2),
    "TRANSPOSE": Row(movement.transpose, 2, 2, (0,)),
    "TRANSPOSE_CONV": Row(contractions.transpose_conv, 3, 4, optional=(3,)),
    "UNIDIRECTIONAL_SEQUENCE_LSTM": Row(
        contractions.sequence_lstm, 20, 24, optional=(1, 5, 9, 10, 11, 12, 16, 17, 20, 21, 22, 23)
    ),
    "UNPACK": Row(movement.unpack, alike=(0,), outputs=MANY),
    "VAR_HANDLE": Row(movement.nothing, 0, 0),
}
