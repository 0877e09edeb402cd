"""TensorFlow Lite for Microcontrollers: the operators that its resolver of all kernels has, and their types.

Source: tensorflow/tflite-micro of August 2026, python/tflite_micro/python_ops_resolver.cc (the kinds) and
tensorflow/lite/micro/kernels (the types). Kernels of a vendor, such as CMSIS-NN, take no other types.
"""

from __future__ import annotations

from collections.abc import Iterable

from jaxq.export.lint.view import read_at
from jaxq.export.operators import CONTRACTIONS, OPERATORS
from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.targets.conditions import constant, dtypes, feature_maps, not_hybrid, pairs, reads, writes
from jaxq.export.targets.device import MEASURED, VENDOR, Check, Device, Limit, table
from jaxq.ops import COMPARISONS
from jaxq.plan.target import TARGETS

_KERNELS = "tensorflow/tflite-micro, tensorflow/lite/micro/kernels"
_RESOLVER = "tensorflow/tflite-micro, python/tflite_micro/python_ops_resolver.cc"
NO_KERNEL = "no kernel"


_QUANTIZES = frozenset(
    {("float32", "int8"), ("float32", "int16"), ("int8", "int8"), ("int8", "uint8"), ("int8", "int16")}
    | {("int8", "int32"), ("uint8", "int8"), ("int16", "int8"), ("int16", "int16"), ("int16", "int32")}
    | {("int32", "int8"), ("int32", "int16")}
)
_CASTS = ("int8", "int16", "int32", "uint32", "float32")


def _weights(program: Program, op: Operator) -> str | None:
    """int8, int4 beside int8 inputs, or float."""
    if op.kind not in CONTRACTIONS:
        return None
    weights = read_at(program, op, CONTRACTIONS[op.kind].weights)
    if weights is None:
        return None
    if op.kind == "FULLY_CONNECTED" and weights.dtype == "int4" and weights.quantization is not None:
        return f"has weights of int4 with {weights.quantization.scale.size} scales" if _per_channel(weights) else None
    allowed = ("int8", "float32") if op.kind == "TRANSPOSE_CONV" else ("int8", "int4", "float32")
    return None if weights.dtype in allowed else f"has weights of {weights.dtype}"


def _per_channel(weights: Tensor) -> bool:
    """Whether there is more than one scale."""
    return weights.quantization is not None and weights.quantization.per_channel


def _few_axes(program: Program, op: Operator) -> str | None:
    longest = max((len(t.shape) for t in feature_maps(program, op)), default=0)
    return None if longest <= 5 else f"has a tensor of {longest} axes"


def _from_code(law: str, check: Check, fix: str = "", evidence: str = VENDOR) -> Limit:
    return Limit(law, check, evidence, _KERNELS, "kernel without this type", fix)


def _typed(names: Iterable[str]) -> Limit:
    return _from_code(", ".join(names), dtypes(tuple(names)), "Quantize it as int8.", MEASURED)


_COMPARABLE = tuple(
    _from_code("bool, float32, int8, int16, int32 or int64",
               reads(k, ("bool", "float32", "int8", "int16", "int32", "int64"))) for k in (0, 1)
)  # fmt: skip
_WEIGHTS = _from_code("weights of int8 or int4, dense ones of int4 with one scale", _weights, "Write int8.", MEASURED)
_ONE_ARITHMETIC = _from_code("no dynamic range", not_hybrid, "Quantize activations, or write float weights.", MEASURED)
_CONSTANT = _from_code("constant parameters", constant(1))

LIMITED = table(
    TARGETS["tflm"],
    {
        **{kind: (_typed(facts.tflm),) for kind, facts in OPERATORS.items() if facts.tflm},
        **dict.fromkeys(COMPARISONS, _COMPARABLE),
        **{kind: (_typed(OPERATORS[kind].tflm), _WEIGHTS, _ONE_ARITHMETIC) for kind in CONTRACTIONS},
        **dict.fromkeys(("ARG_MAX", "ARG_MIN"),
                        (_from_code("int8 or float32", reads(0, ("int8", "float32"))),
                         _from_code("an int32 output", writes(("int32",))))),
        "BROADCAST_TO": (_from_code("at most 5 axes", _few_axes), _CONSTANT),
        "CAST": (
            _from_code(
                "int8, int16, int32, uint32, float32 or bool",
                reads(0, (*_CASTS, "bool")),
                "Cast from int8 and add 128, in place of a QUANTIZE to uint8.",
                MEASURED,
            ),
            _from_code("int8, int16, int32, uint32 or float32 behind it", writes(_CASTS)),
        ),
        "DEQUANTIZE": (
            _from_code("int8, uint8 or int16", reads(0, ("int8", "uint8", "int16")), evidence=MEASURED),
            _from_code("float32 behind it", writes(("float32",))),
        ),
        "GATHER": (
            _from_code("int8 or float32", reads(0, ("int8", "float32")), "Select by arithmetic.", MEASURED),
            _from_code("indices of int32", reads(1, ("int32",))),
        ),
        "QUANTIZE": (
            _from_code(
                "float32, int8, int16 and int32, and from int8 to uint8 and back",
                pairs(_QUANTIZES),
                "Export int8 inputs and outputs.",
                MEASURED,
            ),
        ),
        "SELECT_V2": (
            _from_code("a condition of bool", reads(0, ("bool",))),
            _from_code("float32, int8 or int16", reads(1, ("float32", "int8", "int16"))),
        ),
    },
)  # fmt: skip

TFLM = Device(
    target=TARGETS["tflm"],
    verdict="rule-based; the rules are compared with tflite-micro 0.dev20261023182759 in jaxq's tests",
    operators=LIMITED,
    everywhere=(),
    mapped="kernel",
    unlisted=NO_KERNEL,
    limited="kernel without this type",
    source=_RESOLVER,
)
