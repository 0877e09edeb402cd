"""Arm Ethos-U55, U65 and U85: what the compiler Vela places on the NPU, by its own report of supported operators.

`vela --supported-ops-report` (ethos-u-vela 5.2.0) lists the operators and their constraints; those that an 8-bit file
can break are here. What does not fit runs on the CPU beside the NPU, and the operators behind it on the NPU again.
`jaxq check --compile` asks Vela itself.
"""

from __future__ import annotations

from jaxq.export.targets import vela_rules
from jaxq.export.targets.conditions import (
    constant,
    dtypes,
    reads,
    same_parameters,
    stride_at_most,
)
from jaxq.export.targets.device import MEASURED, VENDOR, Check, Device, Limit, table
from jaxq.plan.target import TARGETS

_REPORT = "ethos-u-vela 5.2.0, --supported-ops-report"
NPU, CPU = "NPU", "CPU"
NARROW = ("int8", "uint8", "int16")


def _known(law: str, check: Check, fix: str = "", evidence: str = VENDOR) -> Limit:
    return Limit(law, check, evidence, _REPORT, fix=fix)


_SHORT = _known("int8, uint8 or int16", dtypes(NARROW), evidence=MEASURED)
_ONE_STEP = "Use strides of at most 3, or no padding."
_CONTRACTION = (
    _known("weights of 8 bits", vela_rules.eight_bit_weights, "Write the weights as int8.", MEASURED),
    _known("a constant bias of int32 or int64", vela_rules.bias),
    _known(f"absolute weights of a channel that sum to at most {vela_rules.LARGEST_SUM:,}", vela_rules.sum_of_weights),
)
_CONSTANT_WEIGHTS = Limit("constant weights", constant(1), MEASURED, "ethos-u-vela 5.2.0 compiles no others")
_STRIDE_3 = _known("strides of at most 3", stride_at_most(3), _ONE_STEP)
_STRIDE_3_PADDED = _known("strides of at most 3 with padding", stride_at_most(3, unless_unpadded=True), _ONE_STEP)
_AVERAGE = _known("a window of at most 8 x 8 with padding, 256 x 256 without", vela_rules.average_window)
_WINDOW = _known("a window of at most 256 x 256", vela_rules.large_window)
_TIED = _known("equal scales at both ends", same_parameters, "Give inputs and output one scale.")
_MEAN = (
    _known("int8, uint8 or int16", dtypes(NARROW)),
    _known("constant axes", constant(1)),
    _known("one image, axes below 4096, channels alone only of a line", vela_rules.mean_axes, evidence=MEASURED),
)
_SIGNED = _known("int8", dtypes(("int8",)))
_SIGNED_WIDE = _known("int8 or int16", dtypes(("int8", "int16")))
_SOFTMAX = _known("height x width of at most 65536", vela_rules.rows, evidence=MEASURED)
_SLICED = (
    _known("constant parameters", constant(1, 2, 3)),
    _known("strides that are positive, of height and width alone", vela_rules.slice_strides, evidence=MEASURED),
)
_TRANSPOSED_SHAPE = _known("an output of the input's size times the stride", vela_rules.transposed_shape)

# Kinds with no other limit than the types.
_LISTED = ("ABS", "CONCATENATION", "EXP", "HARD_SWISH", "LEAKY_RELU", "LOGISTIC", "PACK", "PRELU", "REDUCE_MAX")
_LISTED += ("REDUCE_MIN", "RELU", "RELU6", "RELU_0_TO_1", "RELU_N1_TO_1", "SPLIT", "SPLIT_V")
_LISTED += ("SQUARED_DIFFERENCE", "TANH", "TILE", "UNIDIRECTIONAL_SEQUENCE_LSTM", "UNPACK")

U55_LIMITED = table(
    TARGETS["ethos-u55"],
    {
        **dict.fromkeys(_LISTED, (_SHORT,)),
        "ARG_MAX": (_known("along at most 127 channels", vela_rules.depth),),
        "AVERAGE_POOL_2D": (_SHORT, _AVERAGE, _STRIDE_3_PADDED),
        "BATCH_MATMUL": (_known("int8", reads(0, ("int8",))),),
        "CONV_2D": (_SHORT, _CONSTANT_WEIGHTS, *_CONTRACTION, _STRIDE_3_PADDED),
        "DEPTHWISE_CONV_2D": (_SHORT, _CONSTANT_WEIGHTS, *_CONTRACTION, _STRIDE_3),
        "ELU": (_SIGNED,),
        "FULLY_CONNECTED": _CONTRACTION,
        "GELU": (_known("int8 or uint8", dtypes(("int8", "uint8"))),),
        "LOG": (_SIGNED_WIDE,),
        **dict.fromkeys(("MAXIMUM", "MINIMUM"), (_SHORT, _TIED)),
        "MAX_POOL_2D": (_SHORT, _WINDOW, _STRIDE_3_PADDED),
        "MEAN": _MEAN,
        **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), (_known("constant padding", constant(1)),)),
        "QUANTIZE": (_SHORT,),
        **dict.fromkeys(
            ("RESIZE_BILINEAR", "RESIZE_NEAREST_NEIGHBOR"),
            (_SHORT, _known("a factor of 2, 4 or 8, with half-pixel centers 2", vela_rules.resize_u55)),
        ),
        "RSQRT": (_SIGNED_WIDE,),
        "SLICE": (_SHORT, _known("constant parameters", constant(1, 2))),
        "SOFTMAX": (_SHORT, _SOFTMAX),
        "STRIDED_SLICE": (_SHORT, *_SLICED),
        "SUM": (),
        "TRANSPOSE": (
            _known("a constant permutation", constant(1)),
            _known("axes whose product, but for two, is at most 65536", vela_rules.transposed),
        ),
        "TRANSPOSE_CONV": (
            _SHORT,
            *_CONTRACTION,
            _known("strides of 1 x 1 or 2 x 2", vela_rules.transposed_stride, "Use a stride of 2.", MEASURED),
            _TRANSPOSED_SHAPE,
        ),
    },
)

U85_LIMITED = table(
    TARGETS["ethos-u85"],
    {
        "AVERAGE_POOL_2D": (_AVERAGE,),
        **dict.fromkeys(("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"), _CONTRACTION),
        "ELU": (_SIGNED,),
        "GATHER": (_known("axis equal to batch_dims", vela_rules.gather, evidence=MEASURED),),
        "GELU": (_known("int8 or uint8", dtypes(("int8", "uint8"))),),
        "LOG": (_SIGNED_WIDE,),
        **dict.fromkeys(("MAXIMUM", "MINIMUM"), (_TIED,)),
        "MAX_POOL_2D": (_WINDOW,),
        "MEAN": _MEAN,
        **dict.fromkeys(("MIRROR_PAD", "PAD", "PADV2"), (_known("constant padding", constant(1)),)),
        "RESIZE_BILINEAR": (_known("factors that are powers of two", vela_rules.resize_u85, evidence=MEASURED),),
        "RESIZE_NEAREST_NEIGHBOR": (_known("factors of at most 1024", vela_rules.resize_u85),),
        "RSQRT": (_SIGNED_WIDE,),
        "SLICE": (_known("constant parameters", constant(1, 2)),),
        "SOFTMAX": (_SOFTMAX,),
        "STRIDED_SLICE": _SLICED,
        "TRANSPOSE": (_known("a constant permutation", constant(1)),),
        "TRANSPOSE_CONV": (*_CONTRACTION, _TRANSPOSED_SHAPE),
    },
)


def _device(name: str, integers: tuple[str, ...], operators: dict, compilers: tuple[str, ...]) -> Device:
    return Device(
        target=TARGETS[name],
        verdict="rule-based; the rules are compared with ethos-u-vela 5.2.0 in jaxq's tests; --compile asks Vela",
        operators=operators,
        everywhere=(
            _known("integers", dtypes(integers), "Quantize it; export int8 inputs and outputs.", MEASURED),
            _known("scales of what is computed", vela_rules.scaled),
            _known("one scale for what is computed", vela_rules.one_scale),
            _known("zero points within the type", vela_rules.zero_points_within),
        ),
        mapped=NPU,
        unlisted=CPU,
        limited=CPU,
        source=_REPORT,
        compilers=compilers,
    )


_INTEGERS = ("int8", "uint8", "int16", "int32", "int64")
U55 = _device("ethos-u55", _INTEGERS, U55_LIMITED, ("ethos-u55-256",))
U65 = _device("ethos-u65", _INTEGERS, U55_LIMITED, ("ethos-u65-512",))
U85 = _device("ethos-u85", (*_INTEGERS, "bool"), U85_LIMITED, ("ethos-u85-512",))
