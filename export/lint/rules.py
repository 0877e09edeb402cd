"""The table of rules, and the one function that applies it.

Sources are files of google-ai-edge/LiteRT (`tflite/...`) and google/XNNPACK (`src/...`), or issues in public trackers.
"""

from __future__ import annotations

import numpy as np

from jaxq.display.text import shortened
from jaxq.export.lint import contractions, kernels, scales, structure, versions
from jaxq.export.lint.finding import ERROR, WARNING, Finding, Rule, Spot
from jaxq.export.program import Program

_SPEC = "LiteRT 8-bit quantization specification (tflite/g3doc/performance/quantization_spec.md)"
_WINDOWS = "tflite/delegates/xnnpack/xnnpack_delegate.cc"
_VERSIONS = "tflite/converter/tools/versioning/op_version.cc"
_SCHEMA = "tflite/converter/schema/schema.fbs"

RULES: tuple[Rule, ...] = (
    Rule(
        "scale-invalid",
        ERROR,
        "A scale is finite and above zero.",
        _SPEC,
        "Calibrate again; look for NaN, for dead channels and for constant tensors in training.",
        scales.invalid,
    ),
    Rule(
        "scale-denormal",
        ERROR,
        "A scale is a normal float32, at least 2^-126.",
        "src/operators/unary-elementwise-nc.c (scale must be finite, normalized, and positive)",
        "Give it a greater scale: at this one the tensor or the channel is all but zero. Or prune the channel.",
        scales.denormal,
    ),
    Rule(
        "scale-missing",
        ERROR,
        "What an integer kernel computes with has a scale.",
        _SPEC,
        "Write the tensor's QuantizationParameters.",
        scales.missing,
    ),
    Rule(
        "scale-per-channel",
        ERROR,
        "What is computed at run time has one scale; only weights and biases have one for each channel.",
        _SPEC,
        "Give the activation one scale.",
        scales.per_channel,
    ),
    Rule(
        "zero-point-range",
        ERROR,
        "A zero point is a value of its tensor's type; int16 tensors have 0.",
        _SPEC,
        "Compute it as clip(round(low - min / scale), low, high).",
        scales.zero_point,
    ),
    Rule(
        "output-fixed",
        ERROR,
        "SOFTMAX, LOGISTIC, TANH, L2_NORMALIZATION and LOG_SOFTMAX have the output parameters of their kernels.",
        _SPEC,
        "Write those parameters, and a QUANTIZE behind the operator where others are wanted.",
        scales.fixed,
    ),
    Rule(
        "scales-tied",
        ERROR,
        "Operators that copy or select integers have equal parameters at both ends. Most kernels do not check.",
        _SPEC,
        "Give both ends one scale and zero point, or put a QUANTIZE before the operator.",
        scales.tied,
    ),
    Rule(
        "bias-scale",
        ERROR,
        "A bias has scale s_x s_w, for each channel.",
        _SPEC,
        "Quantize the bias with the product of the input's scale and the weights', and write that product.",
        contractions.bias_scale,
    ),
    Rule(
        "bias-zero-point",
        ERROR,
        "A bias has zero point 0: the runtime refuses others.",
        "tflite/kernels/conv.cc (Prepare)",
        "Quantize the bias symmetrically.",
        contractions.bias_zero_point,
    ),
    Rule(
        "bias-type",
        ERROR,
        "A bias is int32; beside int16 activations int64 or int32.",
        "tflite/kernels/conv.cc, tflite/kernels/fully_connected.cc (Prepare)",
        "Write the bias as int32.",
        contractions.bias_type,
    ),
    Rule(
        "bias-missing",
        ERROR,
        "CONV_2D has a bias: the runtime refuses one without.",
        "tflite/kernels/conv.cc (Prepare: has_bias)",
        "Write a bias of zeros.",
        contractions.bias_missing,
    ),
    Rule(
        "weight-zero-point",
        ERROR,
        "The int8 weights of a convolution have zero point 0: the runtime refuses others.",
        "tflite/kernels/conv.cc (Prepare: zero zero-points in per-channel quantization)",
        "Quantize the weights symmetrically.",
        contractions.weight_zero_point,
    ),
    Rule(
        "dense-zero-point",
        ERROR,
        "The int8 weights of FULLY_CONNECTED have zero point 0: XNNPACK in TensorFlow 2.21 computes as if they had.",
        f"{_SPEC}; tflite/kernels/fully_connected.cc allows others, the delegate of that release does not read them",
        "Quantize the weights symmetrically.",
        contractions.dense_zero_point,
    ),
    Rule(
        "weight-range",
        ERROR,
        "int8 weights are in [-127, 127]: fast kernels add two products in int16, where (-128)^2 has no room.",
        _SPEC,
        "Clip the weights to [-127, 127] with scale max abs(w) / 127.",
        contractions.weight_range,
    ),
    Rule(
        "weight-axis",
        ERROR,
        "Scales of weights run along the output channels: axis 3 of DEPTHWISE_CONV_2D, axis 0 of the others.",
        _SPEC,
        "Quantize along that axis, and write it as quantized_dimension.",
        contractions.weight_axis,
    ),
    Rule(
        "add-aborts",
        ERROR,
        "ADD has 2 max(s_1, s_2) < 2^20 s_y (2^15 for int16): beyond, the runtime ends the process.",
        "tflite/kernels/add.cc with QuantizeMultiplierSmallerThanOneExp (kernels/internal/quantization_util.cc)",
        "Widen the output's range, or narrow the inputs'.",
        kernels.add_aborts,
    ),
    Rule(
        "squared-difference-aborts",
        ERROR,
        "SQUARED_DIFFERENCE has (2 max(s_1, s_2))^2 < 2^14 s_y: beyond, the runtime ends the process.",
        "tflite/kernels/squared_difference.cc with QuantizeMultiplierSmallerThanOneExp",
        "Widen the output's range, or narrow the inputs'.",
        kernels.squared_difference_aborts,
    ),
    Rule(
        "hard-swish-refused",
        ERROR,
        "HARD_SWISH has s_x < 128 s_y: beyond, the runtime refuses it.",
        "tflite/kernels/activations.cc (HardSwishPrepare), kernels/internal/reference/hard_swish.h",
        "Widen the output's range.",
        kernels.hard_swish_refused,
    ),
    Rule(
        "matmul-zero-point",
        ERROR,
        "The right operand of BATCH_MATMUL has zero point 0: XNNPACK in TensorFlow 2.21 computes as if it had.",
        f"{_WINDOWS} (later versions leave such an operator to TFLite's kernel)",
        "Quantize the right operand symmetrically.",
        kernels.matmul_zero_point,
    ),
    Rule(
        "buffer-alignment",
        ERROR,
        "Constants begin at multiples of 16 bytes. Kernels for microcontrollers and ARM read them in wide words.",
        f"{_SCHEMA} (Buffer.data, force_align: 16), which the generated Python code ignores",
        "Write the file with jaxq or the C++ library, or align each vector by Builder.StartVector(1, n, 16).",
        structure.misaligned,
    ),
    Rule(
        "xnnpack-window",
        WARNING,
        "Ratios of scales are such that XNNPACK takes the operator. Else, unsaid, a kernel runs that rounds otherwise.",
        f"{_WINDOWS}; src/operators/unary-elementwise-nc.c (scale ratio must be in [2**-8, 2**7] range)",
        "Bring the scales closer together: one of the ranges is far too wide or too narrow.",
        kernels.window,
    ),
    Rule(
        "sum-on-reference",
        WARNING,
        "SUM on int8 reads its bytes as uint8 in the reference kernels, and is off by up to 159 steps there.",
        "tflite/kernels/reduce.cc (EvalSum, the reference branch)",
        "Use MEAN with the scale of the output divided by the count, which every kernel has right.",
        kernels.sum_on_reference,
    ),
    Rule(
        "softmax-classes",
        WARNING,
        "SOFTMAX has fewer than 512 classes: the reference and the microcontroller kernel end the process where the "
        "exponentials of a row sum to 512, as 512 near-equal classes do.",
        "tflite/kernels/internal/reference/softmax.h (the sum is Q12.19)",
        "Leave the softmax out and return the logits.",
        kernels.softmax_classes,
    ),
    Rule(
        "sqrt-truncates",
        WARNING,
        "SQRT on int8 cuts its results towards zero and does not round them.",
        "tflite/kernels/elementwise.cc (Sqrt)",
        "Expect half a step too little, or compute the root outside the model.",
        kernels.sqrt_truncates,
    ),
    Rule(
        "relu6-rescale",
        WARNING,
        "RELU6 of its own has equal parameters at both ends: the microcontroller kernel only clips.",
        "tensorflow/tflite-micro: tensorflow/lite/micro/kernels/activations_common.cc (Relu6Quantized)",
        "Fuse it into the operator before it, or give both ends one scale.",
        kernels.relu6_rescales,
    ),
    Rule(
        "bilinear-differs",
        WARNING,
        "RESIZE_BILINEAR on int8 differs by up to 3 steps between XNNPACK and TFLite's kernels.",
        "tflite/kernels/internal/reference/resize_bilinear.h, src/operators/resize-bilinear-nhwc.c (one more bit)",
        "Use RESIZE_NEAREST_NEIGHBOR, or accept the difference.",
        kernels.bilinear_differs,
    ),
    Rule(
        "version-too-low",
        WARNING,
        "An operator has the version that int8 came with. Runtimes that know less promise to run this one, and cannot.",
        _VERSIONS,
        "Write the version that the message names.",
        versions.too_low,
    ),
    Rule(
        "version-too-high",
        WARNING,
        "An operator has the least version that expresses it. Old consumers refuse higher ones.",
        f"{_VERSIONS}; google-coral/edgetpu issue 879, google-coral/libedgetpu issue 71",
        "Write the version that the message names.",
        versions.too_high,
    ),
    Rule(
        "float-island",
        WARNING,
        "All operators of an integer graph are on integers. Accelerators leave the others, and what follows, to a CPU.",
        "google-coral/edgetpu issue 659",
        "Quantize the operator, or move it before or behind the model.",
        structure.float_island,
    ),
    Rule(
        "stray-quantize",
        WARNING,
        "No QUANTIZE repeats its input's parameters or undoes a DEQUANTIZE.",
        "tflite/kernels/quantize.cc: such an operator is computed all the same; google-coral/edgetpu issue 659",
        "Remove the pair, or the one operator.",
        structure.stray_quantize,
    ),
    Rule(
        "signature-missing",
        WARNING,
        "A signature names inputs and outputs: quantizers, CompiledModel and signature runners ask for it.",
        f"{_SCHEMA} (SignatureDef)",
        "Write a SignatureDef with the key serving_default.",
        structure.signature_missing,
    ),
    Rule(
        "tensor-unread",
        WARNING,
        "Every tensor is read by an operator or is an output.",
        f"{_SCHEMA} (SubGraph.tensors)",
        "Remove it: a constant costs its bytes in the file, a computed one its memory at run time.",
        structure.unread,
    ),
    Rule(
        "name-duplicate",
        WARNING,
        "Every tensor has a name of its own: tools find tensors by name.",
        f"{_SCHEMA} (Tensor.name)",
        "Name the tensors apart.",
        structure.duplicate_names,
    ),
)


def lint(program: Program) -> tuple[Finding, ...]:
    """All findings, in the order of RULES and then of the program. Raises nothing, whatever the program holds."""
    with np.errstate(all="ignore"):  # numbers that are not finite are what some rules look for
        return tuple(_finding(rule, program, spot) for rule in RULES for spot in rule.check(program))


def _finding(rule: Rule, program: Program, spot: Spot) -> Finding:
    kind = None if spot.operator is None else program.operators[spot.operator].kind
    name = None if spot.tensor is None else shortened(program.tensors[spot.tensor].name)
    return Finding(rule, spot.message, spot.operator, kind, spot.tensor, name)
