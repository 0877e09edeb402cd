"""The table of rules; `apply.lint` applies it.

Sources are files of google-ai-edge/LiteRT (`tflite/...`) and google/XNNPACK (`src/...`), or issues in public trackers.
"""

from __future__ import annotations

from jaxq.export.lint import contractions, kernels, scales, structure, versions
from jaxq.export.lint.finding import ERROR, WARNING, Rule

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
        "A scale must be a normal float32, at least 2^-126.",
        "src/operators/unary-elementwise-nc.c (scale must be finite, normalized, and positive)",
        "Use a larger scale, or prune the channel: at this scale its values are almost zero.",
        scales.denormal,
    ),
    Rule(
        "scale-missing",
        ERROR,
        "Every tensor that an integer kernel reads or writes must have a scale.",
        _SPEC,
        "Write the tensor's QuantizationParameters.",
        scales.missing,
    ),
    Rule(
        "scale-per-channel",
        ERROR,
        "An activation must have one scale; only weights and biases may have one per channel.",
        _SPEC,
        "Give the activation one scale.",
        scales.per_channel,
    ),
    Rule(
        "zero-point-range",
        ERROR,
        "A zero point must be a value of its tensor's type; for int16 it must be 0.",
        _SPEC,
        "Compute it as clip(round(low - min / scale), low, high).",
        scales.zero_point,
    ),
    Rule(
        "output-fixed",
        ERROR,
        "SOFTMAX, LOGISTIC, TANH, L2_NORMALIZATION and LOG_SOFTMAX must have the output scale and zero point "
        "that their kernels assume.",
        _SPEC,
        "Use those parameters. Add a QUANTIZE after the operator if you need others.",
        scales.fixed,
    ),
    Rule(
        "scales-tied",
        ERROR,
        "The input and output of an operator that copies or selects integers must have equal scale and zero "
        "point. Most kernels do not check.",
        _SPEC,
        "Use the same scale and zero point for input and output, or add a QUANTIZE before the operator.",
        scales.tied,
    ),
    Rule(
        "bias-scale",
        ERROR,
        "The scale of a bias must be input_scale * weight_scale, for each channel.",
        _SPEC,
        "Quantize the bias with the product of the input's scale and the weights', and write that product.",
        contractions.bias_scale,
    ),
    Rule(
        "bias-zero-point",
        ERROR,
        "The zero point of a bias must be 0; the runtime refuses others.",
        "tflite/kernels/conv.cc (Prepare)",
        "Quantize the bias symmetrically.",
        contractions.bias_zero_point,
    ),
    Rule(
        "bias-type",
        ERROR,
        "A bias must be int32; with int16 activations int64 or int32.",
        "tflite/kernels/conv.cc, tflite/kernels/fully_connected.cc (Prepare)",
        "Write the bias as int32.",
        contractions.bias_type,
    ),
    Rule(
        "bias-missing",
        ERROR,
        "CONV_2D must have a bias; the runtime refuses one without.",
        "tflite/kernels/conv.cc (Prepare: has_bias)",
        "Write a bias of zeros.",
        contractions.bias_missing,
    ),
    Rule(
        "weight-zero-point",
        ERROR,
        "The zero point of a convolution's int8 weights must be 0; the runtime refuses others.",
        "tflite/kernels/conv.cc (Prepare: zero zero-points in per-channel quantization)",
        "Quantize the weights symmetrically.",
        contractions.weight_zero_point,
    ),
    Rule(
        "dense-zero-point",
        ERROR,
        "The zero point of FULLY_CONNECTED's int8 weights must be 0; XNNPACK in TensorFlow 2.21 ignores others.",
        f"{_SPEC}; tflite/kernels/fully_connected.cc allows others, the delegate of that release does not read them",
        "Quantize the weights symmetrically.",
        contractions.dense_zero_point,
    ),
    Rule(
        "weight-range",
        ERROR,
        "int8 weights must lie in [-127, 127]; fast kernels add two products in int16, which (-128)^2 overflows.",
        _SPEC,
        "Clip the weights to [-127, 127] with scale max abs(w) / 127.",
        contractions.weight_range,
    ),
    Rule(
        "weight-axis",
        ERROR,
        "Weight scales must be per output channel: axis 3 of DEPTHWISE_CONV_2D, axis 0 of other operators.",
        _SPEC,
        "Quantize along that axis, and write it as quantized_dimension.",
        contractions.weight_axis,
    ),
    Rule(
        "add-aborts",
        ERROR,
        "ADD requires 2 max(scale_1, scale_2) < 2^20 output_scale (2^15 for int16); otherwise the runtime "
        "aborts the process.",
        "tflite/kernels/add.cc with QuantizeMultiplierSmallerThanOneExp (kernels/internal/quantization_util.cc)",
        "Widen the output's range, or narrow the inputs'.",
        kernels.add_aborts,
    ),
    Rule(
        "squared-difference-aborts",
        ERROR,
        "SQUARED_DIFFERENCE requires (2 max(scale_1, scale_2))^2 < 2^14 output_scale; otherwise the runtime "
        "aborts the process.",
        "tflite/kernels/squared_difference.cc with QuantizeMultiplierSmallerThanOneExp",
        "Widen the output's range, or narrow the inputs'.",
        kernels.squared_difference_aborts,
    ),
    Rule(
        "hard-swish-refused",
        ERROR,
        "HARD_SWISH requires input_scale < 128 output_scale; otherwise the runtime refuses it.",
        "tflite/kernels/activations.cc (HardSwishPrepare), kernels/internal/reference/hard_swish.h",
        "Widen the output's range.",
        kernels.hard_swish_refused,
    ),
    Rule(
        "matmul-zero-point",
        ERROR,
        "The zero point of BATCH_MATMUL's right operand must be 0; XNNPACK in TensorFlow 2.21 ignores others.",
        f"{_WINDOWS} (later versions leave such an operator to TFLite's kernel)",
        "Quantize the right operand symmetrically.",
        kernels.matmul_zero_point,
    ),
    Rule(
        "shapes-misfit",
        ERROR,
        "Inputs, shapes, options and constants fit the operators, and every value is written once before it is read.",
        "google-ai-edge/LiteRT, tflite/kernels/ (the Prepare functions)",
        "Convert the model again: the file is corrupt, or its writer is wrong.",
        structure.shapes_misfit,
    ),
    Rule(
        "not-evaluated",
        WARNING,
        "Tensors have types and dense constants that jaxq can compute with. `jaxq.load` refuses the file otherwise.",
        f"{_SCHEMA} (TensorType, SparsityParameters, external_buffer)",
        "Inspect and lint show the rest of the file. To evaluate it, convert the model with dense constants of 8 to 32 "
        "bits.",
        structure.not_evaluated,
    ),
    Rule(
        "buffer-alignment",
        WARNING,
        "Constants begin at multiples of 16 bytes, as the schema asks. LiteRT and TFLite Micro compute the same "
        "without it; a microcontroller's vector kernels may be slower or fault.",
        f"{_SCHEMA} (Buffer.data, force_align: 16), which the generated Python code ignores",
        "Write the file with jaxq or the C++ library, or align each vector by Builder.StartVector(1, n, 16).",
        structure.misaligned,
    ),
    Rule(
        "xnnpack-window",
        WARNING,
        "input_scale / output_scale must lie in [2^-8, 2^7]; outside it XNNPACK silently falls back to a "
        "TFLite kernel that rounds differently.",
        f"{_WINDOWS}; src/operators/unary-elementwise-nc.c (scale ratio must be in [2**-8, 2**7] range)",
        "Bring the scales closer together. One of the ranges is much too wide or too narrow.",
        kernels.window,
    ),
    Rule(
        "sum-on-reference",
        WARNING,
        "The reference kernel of SUM reads int8 as uint8, which is wrong by up to 159 steps.",
        "tflite/kernels/reduce.cc (EvalSum, the reference branch)",
        "Use MEAN with the scale of the output divided by the count, which every kernel has right.",
        kernels.sum_on_reference,
    ),
    Rule(
        "softmax-classes",
        WARNING,
        "SOFTMAX should have fewer than 512 classes: the reference and microcontroller kernels abort the process when "
        "the exponentials of a row sum to 512, which 512 nearly equal classes do.",
        "tflite/kernels/internal/reference/softmax.h (the sum is Q12.19)",
        "Leave the softmax out and return the logits.",
        kernels.softmax_classes,
    ),
    Rule(
        "sqrt-truncates",
        WARNING,
        "SQRT on int8 truncates its results instead of rounding them.",
        "tflite/kernels/elementwise.cc (Sqrt)",
        "Expect results half a step too small, or compute the square root outside the model.",
        kernels.sqrt_truncates,
    ),
    Rule(
        "relu6-rescale",
        WARNING,
        "A separate RELU6 must have equal input and output parameters: the microcontroller kernel only clips.",
        "tensorflow/tflite-micro: tensorflow/lite/micro/kernels/activations_common.cc (Relu6Quantized)",
        "Fuse it into the operator before it, or use one scale for input and output.",
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
        "The operator's version is lower than the one that added its types. An old runtime accepts the file "
        "and then fails.",
        _VERSIONS,
        "Write the version that the message names.",
        versions.too_low,
    ),
    Rule(
        "version-too-high",
        WARNING,
        "The operator's version is higher than it needs. Old consumers refuse the file.",
        f"{_VERSIONS}; google-coral/edgetpu issue 879, google-coral/libedgetpu issue 71",
        "Write the version that the message names.",
        versions.too_high,
    ),
    Rule(
        "float-island",
        WARNING,
        "A float operator in an integer graph. Accelerators leave it, and what follows, to a CPU.",
        "google-coral/edgetpu issue 659",
        "Quantize the operator, or compute it outside the model.",
        structure.float_island,
    ),
    Rule(
        "stray-quantize",
        WARNING,
        "A QUANTIZE that repeats its input's parameters or undoes a DEQUANTIZE has no effect.",
        "tflite/kernels/quantize.cc: such an operator is computed all the same; google-coral/edgetpu issue 659",
        "Remove the operator, or the pair.",
        structure.stray_quantize,
    ),
    Rule(
        "signature-missing",
        WARNING,
        "A file should have a signature that names its inputs and outputs; quantizers, CompiledModel and "
        "signature runners need it.",
        f"{_SCHEMA} (SignatureDef)",
        "Write a SignatureDef with the key serving_default.",
        structure.signature_missing,
    ),
    Rule(
        "tensor-unread",
        WARNING,
        "Every tensor should be read by an operator or be an output.",
        f"{_SCHEMA} (SubGraph.tensors)",
        "Remove it. An unread constant costs bytes in the file, an unread result memory at run time.",
        structure.unread,
    ),
    Rule(
        "name-duplicate",
        WARNING,
        "Tensor names should be unique; tools find tensors by name.",
        f"{_SCHEMA} (Tensor.name)",
        "Give each tensor its own name.",
        structure.duplicate_names,
    ),
)
