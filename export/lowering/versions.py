"""The lowest version of an operator that takes tensors of a type other than int8; int8's are in the rules (`lower.py`).

Source: tflite/converter/tools/versioning/op_version.cc.
"""

from __future__ import annotations

# Operators whose lowest version for float32 is not 1.
FLOAT32 = {"BROADCAST_TO": 2, "DEQUANTIZE": 2}
# Of these the rule itself knows: by shape, by option, by the type of the weights.
BY_RULE = frozenset({"DEQUANTIZE", "TRANSPOSE_CONV", "ARG_MAX", "CAST", "SELECT_V2"})


# Operators that take int16: by their lowest version.
INT16 = {
    "ADD": 3,
    "AVERAGE_POOL_2D": 3,
    "CONCATENATION": 3,
    "CONV_2D": 8,
    "DEPTHWISE_CONV_2D": 3,
    "DEQUANTIZE": 3,
    "FULLY_CONNECTED": 11,
    "LOGISTIC": 3,
    "MAXIMUM": 4,
    "MAX_POOL_2D": 3,
    "MEAN": 3,
    "MINIMUM": 4,
    "MUL": 4,
    "PAD": 3,
    "PADV2": 3,
    "QUANTIZE": 2,
    "RELU": 3,
    "RELU6": 3,
    "RESHAPE": 1,
    "SLICE": 4,
    "SOFTMAX": 3,
    "SPLIT": 4,
    "STRIDED_SLICE": 4,
    "SUB": 5,
    "TANH": 3,
    "TRANSPOSE": 5,
}


# Operators of int8 weights and float32 activations: by one scale of the weights, and by several.
HYBRID = {"CONV_2D": (2, 5), "DEPTHWISE_CONV_2D": (4, 6), "FULLY_CONNECTED": (9, 12)}


def hybrid_version(kind: str, scales: int, int8: int) -> int:
    """The version of an operator on floats with int8 weights that have so many scales; a grouped convolution's is its
    own.
    """
    return max(HYBRID[kind][scales > 1], int8 if kind == "CONV_2D" and int8 == 6 else 0)


def version_for(kind: str, dtype: str, int8: int) -> int:
    """The version of an operator that writes tensors of a type, given the one for int8."""
    if dtype == "int16":
        return max(INT16[kind], int8)
    if dtype != "float32" or kind in BY_RULE:
        return int8
    return FLOAT32.get(kind, 1)
