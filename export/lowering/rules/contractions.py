"""Ops with kernels and biases, and products of activations."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxq.export.lowering.rules import clips, movement, windows
from jaxq.export.lowering.writer import INT32, Writer
from jaxq.export.program import Quantization, Tensor
from jaxq.graph import Op
from jaxq.plan.precision import pointwise
from jaxq.plan.target import target_named


def _weights(w: Writer, op: Op, data: np.ndarray, axis: int) -> list[int]:
    kernel = w.frozen.kernels[op.name]
    if w.frozen.plan.group(op.outputs[0]) is None:
        return _float_weights(w, op, data, axis)
    one = op.kind in target_named(w.frozen.plan.recipe.target).one_scale
    scale = kernel.scale[:1] if one else kernel.scale  # else a vector: `simulate.weights.weight_scale`
    bias_scale = w.frozen.of(op.inputs[0])[0] * scale
    name = op.name if op.name not in w.graph.site_names.values() else f"{op.name}:weight"
    return [
        w.constant(name, data, Quantization.of(scale, 0, axis), w.frozen.plan.storage[op.name]),
        w.constant(f"{op.name}:bias", kernel.bias.astype(_bias_dtype(w, op)), Quantization.of(bias_scale)),
    ]


def _bias_dtype(w: Writer, op: Op) -> str:
    """int32; of a depthwise convolution of 16 bits int64, which its kernel alone takes."""
    return "int64" if w.frozen.plan.arithmetic[op.name].requantize == "15 bits" else "int32"


def _float_weights(w: Writer, op: Op, data: np.ndarray, axis: int) -> list[int]:
    """Weights of an op on floats. Those stored in fewer bits pass a DEQUANTIZE, unless the operator quantizes its input
    at run time.
    """
    kernel = w.frozen.kernels[op.name]
    bias = w.constant(f"{op.name}:bias", kernel.bias)
    if data.dtype == np.float32:
        return [w.constant(op.name, data), bias]
    grid = Quantization.of(kernel.scale, 0, axis) if kernel.scale.size else None
    stored = w.constant(op.name, data, grid, w.frozen.plan.storage.get(op.name))
    if _hybrid(w, op):
        return [stored, bias]
    wide = w.tensor(Tensor(f"{op.name}:float32", tuple(data.shape), "float32"))
    w.emit("DEQUANTIZE", [stored], [wide])
    return [wide, bias]


def _hybrid(w: Writer, op: Op) -> bool:
    """Whether the op quantizes its input as it runs."""
    return w.frozen.plan.arithmetic[op.name].dynamic is not None


def _packed(w: Writer, op: Op) -> bool:
    """Whether the op's weights are stored two in a byte."""
    return w.frozen.plan.storage.get(op.name) == "int4"


def conv(w: Writer, op: Op) -> None:
    """CONV_2D or DEPTHWISE_CONV_2D, behind a PAD where its padding is neither SAME nor VALID."""
    if (
        _packed(w, op) and not w.frozen.plan.arithmetic[op.name].is_float and pointwise(op, w.graph)
    ):  # as such XNNPACK takes int4 weights, and not as a convolution
        _dense(w, op, w.frozen.kernels[op.name].q[0, 0])
    else:
        _windowed(w, op)


def _windowed(w: Writer, op: Op) -> None:
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    q = w.frozen.kernels[op.name].q  # HWIO
    padding, explicit = windows.padding_of(w, op, q.shape[:2])
    x = windows.padded(w, op) if explicit else w.tensor_of[op.inputs[0]]
    weights = _weights(
        w, op, q.reshape(1, *q.shape[:2], -1) if depthwise else q.transpose(3, 0, 1, 2), 3 if depthwise else 0
    )
    (stride_h, stride_w), (dilation_h, dilation_w) = op.attrs["stride"], op.attrs["dilation"]
    options: dict[str, Any] = {"padding": padding, "stride_h": stride_h, "stride_w": stride_w}
    options |= {"dilation_h_factor": dilation_h, "dilation_w_factor": dilation_w}
    if depthwise:
        options["depth_multiplier"] = op.attrs["multiplier"]
    fused, outs = clips.clipped(w, op)
    options |= {} if depthwise else _bias_type(w, op)
    w.emit(op.kind, [x, *weights], outs[:1], **options, fused_activation_function=fused)
    clips.clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def _bias_type(w: Writer, op: Op) -> dict[str, Any]:
    """Activations of 16 bits say that their bias, and with it the sum, is an int32 (it may be an int64)."""
    return {"quantized_bias_type": INT32} if w.frozen.plan.arithmetic[op.name].is_int16 else {}


def affine(w: Writer, op: Op) -> None:
    """A depthwise convolution of one tap; RESHAPEd to four axes around it where there are not four."""
    shape, (fused, outs) = w.graph.avals[op.outputs[0]].shape, clips.clipped(w, op)
    weights = _weights(w, op, w.frozen.kernels[op.name].q.reshape(1, 1, 1, -1), 3)
    options: dict[str, Any] = {"padding": "VALID", "stride_h": 1, "stride_w": 1, "depth_multiplier": 1}
    options |= {"dilation_h_factor": 1, "dilation_w_factor": 1, "fused_activation_function": fused}
    x = w.tensor_of[op.inputs[0]]
    if len(shape) == 4:
        w.emit("DEPTHWISE_CONV_2D", [x, *weights], outs[:1], **options)
    else:
        four = (1, 1, int(np.prod(shape[:-1])), (1, *shape)[-1])
        before = w.tensor(w.like(op.inputs[0], f"{op.name}:in4", four))
        after = w.tensor(w.like(op.outputs[0], f"{op.name}:out4", four))
        movement.emit_reshape(w, op.name + ":to4", x, before, four)
        w.emit("DEPTHWISE_CONV_2D", [before, *weights], [after], **options)
        movement.emit_reshape(w, op.name + ":from4", after, outs[0], shape)
    clips.clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def fully_connected(w: Writer, op: Op) -> None:
    """FULLY_CONNECTED."""
    _dense(w, op, w.frozen.kernels[op.name].q)


def _dense(w: Writer, op: Op, q: np.ndarray) -> None:
    """FULLY_CONNECTED with weights [in, out]."""
    weights = _weights(w, op, q.T, 0)
    keep = len(w.graph.avals[op.inputs[0]].shape) > 2
    fused, outs = clips.clipped(w, op)
    inputs = [w.tensor_of[op.inputs[0]], *weights]
    options = {"keep_num_dims": keep, "fused_activation_function": fused, **_bias_type(w, op)}
    if _hybrid(w, op):  # else the reference kernel, which XNNPACK has no part in, takes a symmetric range
        options["asymmetric_quantize_inputs"] = True
    w.emit("FULLY_CONNECTED", inputs, outs[:1], **options)
    clips.clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def transpose_conv(w: Writer, op: Op) -> None:
    """The kernel turned around; a crop other than TFLite's two paddings is a SLICE."""
    kernel = w.frozen.kernels[op.name].q  # HWIO
    n, *sizes, channels = w.graph.avals[op.outputs[0]].shape
    padding, before, made = _transposed_padding(w, op, kernel.shape[:2])
    weights = _weights(w, op, np.flip(kernel, (0, 1)).transpose(3, 0, 1, 2), 0)
    inputs = [w.ints(f"{op.name}:shape", (n, *made, channels)), weights[0], w.tensor_of[op.inputs[0]], weights[1]]
    fused, outs = clips.clipped(w, op)
    full = outs[0] if made == sizes else w.activation(op.outputs[0], ":whole", (n, *made, channels))
    stride_h, stride_w = op.attrs["stride"]
    options = {"padding": padding, "stride_h": stride_h, "stride_w": stride_w, "fused_activation_function": fused}
    w.emit("TRANSPOSE_CONV", inputs, [full], **options)
    if made != sizes:
        block = [w.ints(f"{op.name}:begin", (0, *before, 0)), w.ints(f"{op.name}:size", (n, *sizes, channels))]
        w.emit("SLICE", [full, *block], outs[:1])
    clips.clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def _transposed_padding(w: Writer, op: Op, window: tuple[int, ...]) -> tuple[str, list[int], list[int]]:
    """TFLite's padding; how much of the whole result lies before the op's own, by axis; the size that is made.

    SAME is TFLite's where the result has `ceil(size / stride)` inputs and its crop, halved, is the op's.
    """
    sizes, inputs = (w.graph.avals[v].shape[1:3] for v in (op.outputs[0], op.inputs[0]))
    whole = [(size - 1) * s + k for size, s, k in zip(inputs, op.attrs["stride"], window, strict=True)]
    before = [k - 1 - low for k, (low, _) in zip(window, op.attrs["pads"], strict=True)]
    halved = [max(full - size, 0) // 2 for full, size in zip(whole, sizes, strict=True)]
    fits = all(-(-size // s) == i for size, s, i in zip(sizes, op.attrs["stride"], inputs, strict=True))
    return ("SAME", before, list(sizes)) if fits and before == halved else ("VALID", before, whole)


def batch_matmul(w: Writer, op: Op) -> None:
    """BATCH_MATMUL, neither side transposed; it fuses no activation."""
    inputs = [w.read(op, 0), w.read(op, 1)]
    _, outs = clips.clipped(w, op, fused=("NONE",))
    w.emit("BATCH_MATMUL", inputs, outs[:1], adj_x=False, adj_y=False)
    clips.clip_after(w, outs, op, op.attrs.get("activation") or (0.0, 0.0))
