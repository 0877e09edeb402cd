"""What a target is: the operators that it has kernels for, and how it wants a file. One value, with two readings.

The plan asks, before training, whether an *op of the graph* can run there: whether the target has every operator that
the op is written as (`jaxq.ops.operators_of`). `jaxq.export.targets` asks of each *operator of a finished file* the
same table and, beyond it, its limits of shapes, types and scales.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Collection
from typing import Any

import numpy as np

from jaxq.display.text import did_you_mean, shortened
from jaxq.errors import RecipeError
from jaxq.ops import OPS, operators_of
from jaxq.plan.decompositions import FORMS


@dataclasses.dataclass(frozen=True)
class Target:
    """A device family.

    operators: the TFLite operators that it has kernels for; None where it runs every one. float_islands: whether it can
    run floats between integers. packed: op kinds whose weights of 4 bits it reads two in a byte; of others they are
    stored as int8. one_scale: those whose weights have one scale for all channels. rewritten: kinds that other ops
    stand for though it has the operator, which it takes in few sizes. int16: whether it takes activations of 16 bits
    with weights of 8. no_int32: kinds of op that it has a kernel for, but of no int32. machine: whose kernels of LiteRT
    the training forward computes, where they differ (MUL, and what ruy multiplies): "aarch64" rounds once, "x86_64"
    twice, as TFLite Micro does. evidence: "measured" on the runtime or compiler in the tests, by the "vendor" document
    that `source` names, or "inferred".
    """

    name: str
    title: str
    operators: frozenset[str] | None = None
    float_islands: bool = True
    packed: frozenset[str] = frozenset()
    one_scale: frozenset[str] = frozenset()
    rewritten: frozenset[str] = frozenset()
    int16: bool = False
    no_int32: frozenset[str] = frozenset()
    machine: str = "x86_64"
    source: str = ""
    evidence: str = "vendor"

    def has(self, operator: str) -> bool:
        """Whether it has a kernel for a TFLite operator."""
        return self.operators is None or operator in self.operators

    @functools.cached_property
    def lacking(self) -> frozenset[str]:
        """The kinds of op of which it lacks an operator."""
        return frozenset(kind for kind in OPS if not all(map(self.has, operators_of(kind))))

    @property
    def tables(self) -> frozenset[str]:
        """The kinds of op that are written as a table of 256 entries for want of a kernel."""
        return frozenset(k for k in self.lacking if OPS[k].table) if "TABLE" not in self.lacking else frozenset()

    @property
    def forbidden(self) -> frozenset[str]:
        """The kinds of op that it cannot run."""
        return self.lacking - self.tables

    @property
    def composed(self) -> frozenset[str]:
        """The kinds of op that other ops stand for where they can (`jaxq.plan.decompositions`)."""
        return self.rewritten | (self.forbidden & FORMS.keys())

    def refused(self, kind: str, reads: Collection[Any] = ()) -> str | None:
        """An op of this kind, which reads tensors of these types, in words where it cannot run there; else None."""
        if kind in self.forbidden or (kind == "FLOAT" and not self.float_islands):
            return kind
        return f"{kind} of int32" if kind in self.no_int32 and np.dtype(np.int32) in reads else None


EDGETPU_OPERATORS = frozenset(
    {
        "ADD", "AVERAGE_POOL_2D", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D", "EXPAND_DIMS", "FULLY_CONNECTED",
        "L2_NORMALIZATION", "LOGISTIC", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MUL", "PACK", "PAD", "PRELU",
        "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_N1_TO_1", "RESHAPE", "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPACE_TO_DEPTH", "SPLIT", "SQUARED_DIFFERENCE",
        "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TRANSPOSE", "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }
)  # fmt: skip
U55_OPERATORS = frozenset(
    {
        "ABS", "ADD", "ARG_MAX", "AVERAGE_POOL_2D", "BATCH_MATMUL", "CONCATENATION", "CONV_2D", "DEPTHWISE_CONV_2D",
        "ELU", "EXP", "EXPAND_DIMS", "FULLY_CONNECTED", "GELU", "HARD_SWISH", "LEAKY_RELU", "LOG", "LOGISTIC",
        "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM", "MIRROR_PAD", "MUL", "NEG", "PACK", "PAD", "PADV2", "PRELU",
        "QUANTIZE", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "RESHAPE",
        "RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR", "RSQRT", "SLICE", "SOFTMAX", "SPLIT", "SPLIT_V",
        "SQUARED_DIFFERENCE", "SQUEEZE", "STRIDED_SLICE", "SUB", "SUM", "TANH", "TILE", "TRANSPOSE", "TRANSPOSE_CONV",
        "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNPACK",
    }
)  # fmt: skip
U85_OPERATORS = U55_OPERATORS | frozenset(
    {
        "ASSIGN_VARIABLE", "CAST", "DIV", "EQUAL", "GATHER", "GREATER", "GREATER_EQUAL", "LESS", "LESS_EQUAL",
        "LOGICAL_AND", "LOGICAL_NOT", "LOGICAL_OR", "NOT_EQUAL", "READ_VARIABLE", "REDUCE_ALL", "REDUCE_ANY",
        "REVERSE_V2", "SCATTER_ND", "SELECT", "SELECT_V2",
    }
)  # fmt: skip
TFLM_OPERATORS = frozenset(
    {
        "ABS", "ADD", "ADD_N", "ARG_MAX", "ARG_MIN", "ASSIGN_VARIABLE", "AVERAGE_POOL_2D", "BATCH_MATMUL",
        "BATCH_TO_SPACE_ND", "BROADCAST_ARGS", "BROADCAST_TO", "CALL_ONCE", "CAST", "CEIL", "CONCATENATION",
        "CONV_2D", "COS", "CUMSUM", "CUSTOM:ethos-u", "DEPTHWISE_CONV_2D", "DEPTH_TO_SPACE", "DEQUANTIZE", "DIV",
        "DYNAMIC_UPDATE_SLICE", "ELU", "EMBEDDING_LOOKUP", "EQUAL", "EXP", "EXPAND_DIMS", "FILL", "FLOOR",
        "FLOOR_DIV", "FLOOR_MOD", "FULLY_CONNECTED", "GATHER", "GATHER_ND", "GREATER", "GREATER_EQUAL", "HARD_SWISH",
        "IF", "L2_NORMALIZATION", "L2_POOL_2D", "LEAKY_RELU", "LESS", "LESS_EQUAL", "LOG", "LOGICAL_AND",
        "LOGICAL_NOT", "LOGICAL_OR", "LOGISTIC", "LOG_SOFTMAX", "MAXIMUM", "MAX_POOL_2D", "MEAN", "MINIMUM",
        "MIRROR_PAD", "MUL", "NEG", "NOT_EQUAL", "PACK", "PAD", "PADV2", "PRELU", "QUANTIZE", "READ_VARIABLE",
        "REDUCE_ALL", "REDUCE_MAX", "REDUCE_MIN", "RELU", "RELU6", "RESHAPE", "RESIZE_BILINEAR",
        "RESIZE_NEAREST_NEIGHBOR", "REVERSE_V2", "ROUND", "RSQRT", "SELECT_V2", "SHAPE", "SIN", "SLICE", "SOFTMAX",
        "SPACE_TO_BATCH_ND", "SPACE_TO_DEPTH", "SPLIT", "SPLIT_V", "SQRT", "SQUARE", "SQUARED_DIFFERENCE", "SQUEEZE",
        "STRIDED_SLICE", "SUB", "SUM", "SVDF", "TANH", "TRANSPOSE", "TRANSPOSE_CONV", "UNIDIRECTIONAL_SEQUENCE_LSTM",
        "UNPACK", "VAR_HANDLE", "WHILE", "ZEROS_LIKE",
    }
)  # fmt: skip


# What TFLite Micro, on which an Ethos-U leaves the rest, computes of other types alone. The Edge TPU computes no int32.
MICRO_NO_INT32 = frozenset(
    {"ARG_MAX", "ARG_MIN", "CUMSUM", "FLOOR_DIV", "FLOOR_MOD", "REDUCE_MAX", "REDUCE_MIN", "SELECT", "SUM"}
)


def _ethos(name: str, title: str, operators: frozenset[str]) -> Target:
    return Target(
        name, title, operators, float_islands=False, rewritten=frozenset({"RESIZE_BILINEAR"}), int16=True,
        no_int32=MICRO_NO_INT32, source="ethos-u-vela 5.2.0, --supported-ops-report", evidence="measured",
    )  # fmt: skip


def _litert(name: str, title: str, machine: str) -> Target:
    return Target(
        name, title, packed=frozenset({"CONV_2D", "FULLY_CONNECTED"}), int16=True, machine=machine,
        source="google-ai-edge/LiteRT, tflite/kernels/register.cc", evidence="measured",
    )  # fmt: skip


TARGETS: dict[str, Target] = {
    "litert": _litert("litert", "LiteRT on a CPU (XNNPACK)", "aarch64"),
    "litert-x86": _litert("litert-x86", "LiteRT on a 64-bit x86 CPU (XNNPACK)", "x86_64"),
    "tflm": Target(
        "tflm",
        "TensorFlow Lite for Microcontrollers",
        TFLM_OPERATORS,
        float_islands=False,
        int16=True,
        no_int32=MICRO_NO_INT32,
        source="tensorflow/tflite-micro, python/tflite_micro/python_ops_resolver.cc",
        evidence="measured",
    ),
    "ethos-u": _ethos("ethos-u", "Arm Ethos-U, any of U55, U65, U85", U55_OPERATORS & U85_OPERATORS),
    "ethos-u55": _ethos("ethos-u55", "Arm Ethos-U55", U55_OPERATORS),
    "ethos-u65": _ethos("ethos-u65", "Arm Ethos-U65", U55_OPERATORS),
    "ethos-u85": _ethos("ethos-u85", "Arm Ethos-U85", U85_OPERATORS),
    "edgetpu": Target(
        "edgetpu",
        "Coral Edge TPU",
        EDGETPU_OPERATORS,
        float_islands=False,
        one_scale=frozenset({"FULLY_CONNECTED"}),
        no_int32=MICRO_NO_INT32,
        source="coral.ai, TensorFlow models on the Edge TPU, supported operations",
    ),
}


def target_named(name: str) -> Target:
    """The target of this name. Raises RecipeError with the nearest names."""
    if name in TARGETS:
        return TARGETS[name]
    raise RecipeError(f"There is no target {shortened(name)!r}. {did_you_mean(name, TARGETS)}")
