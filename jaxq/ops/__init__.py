"""The op catalogue: for each op its float meaning, its integer arithmetic, and what it demands of its scales.

`OPS` is the one table. `scales` is "free" (the output has a scale of its own), "same" (all activations in and out
share one: the kernel copies integers; constants are put on that grid too), "none" (the output is no real number), or a
fixed `(scale, zero_point)` that TFLite prescribes for the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxq.ops import activations, builtin_ops, compute, integer_ops, resizing
from jaxq.ops.arithmetic import Arithmetic


@dataclasses.dataclass(frozen=True)
class Spec:
    """One row. `step` is None where the float meaning, run on carriers, is already the integer one.

    weights: the inputs after the first are a kernel and a bias. product: the step forms sums of products and takes
    `products`, a `jaxq.ops.contract.Products`. raw: they are numbers that reach the step as they are,
    not integers. plain: the positions of inputs that are integers or booleans by nature. symmetric: those of inputs
    that need zero point 0. table: within one step, not exact. int16: there is a form on activations of 16 bits, in
    TFLite and here; an op without it computes in 8. operators: the TFLite operators that it is written as, None where
    that is the one of its own name; facts about these are in `jaxq.export.operators`.
    """

    compute: Callable[..., Any]
    step: Callable[..., Any] | None = None
    scales: str | tuple[float, int] = "same"
    weights: bool = False
    product: bool = False
    raw: bool = False
    plain: tuple[int, ...] = ()
    symmetric: tuple[int, ...] = ()
    table: bool = False
    int16: bool = False
    operators: tuple[str, ...] | None = None


COMPARISONS = ("EQUAL", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL", "NOT_EQUAL")
FIXED_INT16 = (1 / 32768, 0)  # the scale and zero point of every prescribed output in 16 bits

_CONV, _DENSE = integer_ops.contraction(compute.conv_2d), integer_ops.contraction(compute.fully_connected)
_AFFINE, _TRANSPOSE_CONV = (
    integer_ops.contraction(integer_ops.multiply),
    integer_ops.contraction(compute.transpose_conv),
)

# Sorted.
OPS: dict[str, Spec] = {
    "ADD": Spec(compute.add, integer_ops.add, "free", int16=True),
    "AFFINE": Spec(
        compute.affine, _AFFINE, "free", weights=True, product=True, int16=True, operators=("DEPTHWISE_CONV_2D",)
    ),
    "ARG_MAX": Spec(compute.arg_max, scales="none"),
    "ARG_MIN": Spec(compute.arg_min, scales="none"),
    "AVERAGE_POOL_2D": Spec(compute.average_pool_2d, integer_ops.average_pool_2d, int16=True),
    "BATCH_MATMUL": Spec(compute.batch_matmul, integer_ops.batch_matmul, "free", product=True, symmetric=(1,)),
    "BROADCAST_TO": Spec(compute.broadcast_to),
    "CLIP": Spec(compute.clip, integer_ops.clip, int16=True, operators=("MAXIMUM", "MINIMUM")),
    "COMPARE": Spec(compute.compare, plain=(0, 1), scales="none", operators=COMPARISONS),
    "CONCATENATION": Spec(compute.concatenation, int16=True),
    "CONV_2D": Spec(compute.conv_2d, _CONV, "free", weights=True, product=True, int16=True),
    "CUMSUM": Spec(compute.cumsum, plain=(0,), scales="none"),
    "DEPTHWISE_CONV_2D": Spec(compute.conv_2d, _CONV, "free", weights=True, product=True, int16=True),
    "DROPOUT": Spec(compute.dropout, plain=(1,), int16=True, operators=()),
    "EMBEDDING": Spec(compute.embedding, plain=(0,), operators=("GATHER",)),
    "FAKE_QUANT": Spec(compute.fake_quantized, integer_ops.identity, raw=True, operators=()),
    "FLOOR_DIV": Spec(compute.floor_div, plain=(0, 1), scales="none"),
    "FLOOR_MOD": Spec(compute.floor_mod, plain=(0, 1), scales="none"),
    "FULLY_CONNECTED": Spec(compute.fully_connected, _DENSE, "free", weights=True, product=True, int16=True),
    "GATHER": Spec(compute.gather, plain=(1,)),
    "GELU": Spec(compute.gelu, integer_ops.table(compute.gelu), "free", table=True),
    "HARD_SWISH": Spec(compute.hard_swish, activations.hard_swish, "free"),
    "INTEGER": Spec(compute.integer, plain=(0, 1), scales="none", operators=tuple(compute.INTEGER)),
    "LEAKY_RELU": Spec(compute.leaky_relu, activations.leaky_relu, "free"),
    "LOGICAL_AND": Spec(compute.logical_and, plain=(0, 1), scales="none"),
    "LOGICAL_OR": Spec(compute.logical_or, plain=(0, 1), scales="none"),
    "LOGISTIC": Spec(compute.logistic, integer_ops.table(compute.logistic), (1 / 256, -128), table=True, int16=True),
    "MAXIMUM": Spec(compute.maximum),
    "MAX_POOL_2D": Spec(compute.max_pool_2d, int16=True),
    "MEAN": Spec(compute.mean, integer_ops.mean, "free", int16=True),
    "MINIMUM": Spec(compute.minimum),
    "MUL": Spec(compute.mul, integer_ops.mul, "free", int16=True),
    "PAD": Spec(compute.pad, int16=True),
    "PRELU": Spec(compute.prelu, activations.prelu, "free"),
    "REDUCE_MAX": Spec(compute.reduce_max),
    "REDUCE_MIN": Spec(compute.reduce_min),
    "RELU": Spec(compute.clip, integer_ops.clip, int16=True),
    "RELU6": Spec(compute.clip, integer_ops.clip, int16=True),
    "RELU_N1_TO_1": Spec(compute.clip, integer_ops.clip, int16=True),
    "REQUANTIZE": Spec(compute.requantize, builtin_ops.requantize, "free", int16=True, operators=("QUANTIZE",)),
    "RESHAPE": Spec(compute.reshape, int16=True),
    "RESIZE_BILINEAR": Spec(resizing.resize_bilinear, resizing.resize_steps),
    "REVERSE_V2": Spec(compute.reverse, int16=True),
    "SELECT": Spec(compute.select, plain=(0,), operators=("SELECT_V2",)),
    "SLICE": Spec(compute.slice_, int16=True),
    "SOFTMAX": Spec(compute.softmax, integer_ops.table(compute.softmax), (1 / 256, -128), table=True, int16=True),
    "SPLIT": Spec(compute.split, int16=True),
    "STOP_GRADIENT": Spec(compute.stop_gradient, int16=True, operators=()),
    "STRIDED_SLICE": Spec(compute.strided_slice, int16=True),
    "SUB": Spec(compute.sub, integer_ops.sub, "free", int16=True),
    "SUM": Spec(compute.total, plain=(0,), scales="none"),
    "TABLE": Spec(
        compute.table,
        integer_ops.table(compute.table),
        "free",
        raw=True,
        table=True,
        operators=("CAST", "ADD", "GATHER"),
    ),
    "TANH": Spec(compute.tanh, integer_ops.table(compute.tanh), (1 / 128, 0), table=True, int16=True),
    "TOPK_V2": Spec(compute.top_k, int16=True),
    "TRANSPOSE": Spec(compute.transpose, int16=True),
    "TRANSPOSE_CONV": Spec(compute.transpose_conv, _TRANSPOSE_CONV, "free", weights=True, product=True),
}


def operators_of(kind: str) -> tuple[str, ...]:
    """The TFLite operators that an op of the graph is written as."""
    own = OPS[kind].operators
    return (kind,) if own is None else own


def step_of(kind: str, how: Arithmetic) -> Callable[..., Any] | None:
    """The integer rule of a kind of op in an arithmetic; None where its float meaning is the integer one."""
    if how.is_int16 and kind in builtin_ops.STEPS:
        return builtin_ops.STEPS[kind]
    if how.requantize == "rndnu":
        return builtin_ops.mul_rndnu
    return OPS[kind].step
