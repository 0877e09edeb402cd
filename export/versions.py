"""The lowest version of an operator that takes tensors of a type other than int8; int8's are in the rules (`lower.py`).

Source: tflite/converter/tools/versioning/op_version.cc.
"""

from __future__ import annotations

# Operators whose lowest version for float32 is not 1.
FLOAT32 = {"BROADCAST_TO": 2, "DEQUANTIZE": 2}
# Of these the rule itself knows: by shape, by option, by the type of the weights.
BY_RULE = frozenset({"DEQUANTIZE", "TRANSPOSE_CONV", "ARG_MAX", "CAST", "SELECT_V2"})


def version_for(kind: str, dtype: str, int8: int) -> int:
    """The version of an operator that writes tensors of a type, given the one for int8."""
    if dtype != "float32" or kind in BY_RULE:
        return int8
    return FLOAT32.get(kind, 1)
