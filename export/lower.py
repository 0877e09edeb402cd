"""How each op of the graph is written in TFLite: `RULES`, one a kind. A rule `(writer, op) -> None` adds operators.

What cannot be written is in `REFUSED`, with what to do instead. Versions are the lowest that express the op: old
consumers (the Edge TPU compiler, TFLite Micro) refuse higher ones.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.errors import ExportError, TargetError
from jaxq.export.freeze import Frozen
from jaxq.export.program import Program, Quantization, Tensor
from jaxq.export.writer import Writer
from jaxq.graph import Op, clip_name
from jaxq.precision import pointwise
from jaxq.target import target_named

INT8, INT32 = 9, 2  # TensorType codes, as CAST's options hold them
FUSED = frozenset({"NONE", "RELU", "RELU6", "RELU_N1_TO_1"})

# Kinds that no rule writes, and what to do instead.
REFUSED = {
    "FLOAT": "Move it before or after the model, or write it in ops of docs/ops.md.",
}

# Kinds that are written on integers alone.
NO_FLOATS = {
    "FAKE_QUANT": "It quantizes, and a file of floats does not: remove the FakeQuant, or quantize.",
    "TABLE": "It is exported as a table of integers only. Write it in ops of docs/ops.md, or quantize.",
}


def lower(frozen: Frozen) -> tuple[Program, Mapping[int, int]]:
    """The program, and for each activation of the graph the tensor that holds it. Raises ExportError, TargetError."""
    plan = frozen.plan
    _refuse(frozen)
    writer = Writer(frozen)
    inputs = [writer.input(v, i) for i, v in enumerate(plan.graph.inputs)]
    for op in plan.graph.ops:
        (_table if op.name in frozen.tables else RULES[op.kind])(writer, op)
    values = [v for v in plan.graph.outputs if v in plan.graph.activations]
    outputs = [writer.output(v) for v in values]
    names = tuple(plan.graph.site_names[v] for v in values)
    in_names = tuple(plan.graph.site_names[v] for v in plan.graph.inputs)
    program = Program(
        tuple(writer.tensors), tuple(writer.operators), tuple(inputs), tuple(outputs), in_names, names, "jaxq"
    )
    return program, dict(writer.tensor_of)


def _refuse(frozen: Frozen) -> None:
    target = target_named(frozen.plan.recipe.target)
    if frozen.plan.recipe.floats and not target.float_islands:
        raise TargetError(
            f"{target.title} computes integers only ({target.source}), and the recipe's activations are floats. Use "
            "another recipe, or another target."
        )
    for op in frozen.plan.graph.ops:
        if op.kind == "DROPOUT":
            raise ExportError(
                f"{op.name} ({op.source}) drops at random: the model is in training mode, and a device computes the "
                "same thing every time. Call `qmodel.eval()` (NNX), or quantize with `deterministic=True` (Linen)."
            )
        if target.refuses(op.kind):
            raise TargetError(
                f"{op.name} ({op.kind}, {op.source}): {target.title} does not take it ({target.source}). Use "
                "another op, or another target."
            )
        if op.name in frozen.plan.islands and not (frozen.plan.recipe.floats and op.kind in FLOATS):
            advice = (REFUSED | NO_FLOATS).get(
                op.kind, "Remove the rule that makes it float: jaxq writes integer graphs only."
            )
            raise ExportError(f"{op.name} runs in floating point: {frozen.plan.islands[op.name]}. {advice}")


# --- rules ----------------------------------------------------------------------------------------------------------

Rule = Callable[[Writer, Op], None]


def _clipped(w: Writer, op: Op) -> tuple[str, list[int]]:
    """The activation to fuse, and the tensors to write: two where a clip that TFLite cannot fuse has to follow."""
    name = clip_name(op.attrs.get("activation"))
    value = op.outputs[0]
    if name in FUSED or not _bites(w, value, op.attrs["activation"]):
        return (name if name in FUSED else "NONE"), [w.activation(value)]
    return "NONE", [w.activation(value, ":unclipped"), value]


def _bites(w: Writer, value: int, bounds: tuple[float, float]) -> bool:
    if w.frozen.plan.group(value) is None:
        return True
    return bool(_clip_steps(w, value, bounds))


def integer_bounds(
    bounds: tuple[float, float], scale: np.float32, zero_point: int, limits: tuple[int, int] = (-128, 127)
) -> tuple[int, int]:
    """Real bounds as stored integers: `z + round(bound / s)`, ties away from zero, inside `limits`."""

    def step(bound: float) -> float:
        if np.isinf(bound):
            return bound
        ratio = np.float32(bound) / scale
        return float(np.sign(ratio) * np.floor(np.abs(np.float64(ratio)) + 0.5)) + zero_point

    low, high = (float(np.clip(step(b), *limits)) for b in bounds)
    return int(low), int(high)


def _clip_after(w: Writer, tensors: list[int], op: Op, bounds: tuple[float, float]) -> None:
    """MAXIMUM and MINIMUM with constants, where the second entry of `tensors` is the graph value still to write."""
    if len(tensors) == 2:
        _emit_clip(w, op, tensors[0], tensors[1], bounds)


def _emit_clip(w: Writer, op: Op, source: int, value: int, bounds: tuple[float, float]) -> None:
    steps = _clip_steps(w, value, bounds)
    for i, (kind, q) in enumerate(steps):
        last = i == len(steps) - 1
        out = w.activation(value) if last else w.activation(value, ":floored")
        like = w.like(value, f"{op.name}:{kind.lower()}", (1,))
        constant = w.constant(like.name, np.full((1,), q, like.dtype), like.quantization)
        w.emit(kind, [source, constant], [out], 2)
        source = out
    if not steps:
        w.tensor_of[value] = source


def _clip_steps(w: Writer, value: int, bounds: tuple[float, float]) -> list[tuple[str, float]]:
    """MAXIMUM and MINIMUM with their constants, without those that change nothing."""
    if w.frozen.plan.group(value) is None:
        return [(k, v) for k, v in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True) if np.isfinite(v)]
    info = np.iinfo(w.integer(value))
    low, high = integer_bounds(bounds, *w.frozen.of(value), (info.min, info.max))
    return [(k, q) for k, q, bites in (("MAXIMUM", low, low > info.min), ("MINIMUM", high, high < info.max)) if bites]


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TFLite's SAME padding of one axis, before and after."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def _padding(w: Writer, op: Op, window: Sequence[int]) -> tuple[str, bool]:
    """ "SAME" or "VALID", and whether an explicit PAD must come first."""
    sizes = w.graph.avals[op.inputs[0]].shape[1:3]
    dilation = op.attrs.get("dilation", (1, 1))
    if not any(map(any, op.attrs["padding"])):
        return "VALID", False
    same = tuple(same_padding(*args) for args in zip(sizes, window, op.attrs["stride"], dilation, strict=True))
    return ("SAME", False) if same == tuple(map(tuple, op.attrs["padding"])) else ("VALID", True)


def _padded(w: Writer, op: Op, lowest: bool = False) -> int:
    """The op's input with explicit padding: of real zeros, or of the least integer (which never wins a maximum)."""
    value, pads = op.inputs[0], ((0, 0), *op.attrs["padding"], (0, 0))
    shape = [size + sum(pad) for size, pad in zip(w.graph.avals[value].shape, pads, strict=True)]
    out = w.tensor(w.like(value, f"{op.name}:padded", shape))
    table = w.constant(f"{op.name}:pads", np.asarray(pads, np.int32))
    if lowest:
        like = w.like(value, f"{op.name}:least", (1,))
        number = np.finfo(np.float32).min if like.dtype == "float32" else np.iinfo(like.dtype).min
        least = w.constant(like.name, np.full((1,), number, like.dtype), like.quantization)
        w.emit("PADV2", [w.tensor_of[value], table, least], [out], 2)
    else:
        w.emit("PAD", [w.tensor_of[value], table], [out], 2)
    return out


def _weights(w: Writer, op: Op, data: np.ndarray, axis: int) -> list[int]:
    kernel = w.frozen.kernels[op.name]
    if w.frozen.plan.recipe.floats:
        return _float_weights(w, op, data, axis)
    bias_scale = w.frozen.of(op.inputs[0])[0] * kernel.scale
    name = op.name if op.name not in w.graph.site_names.values() else f"{op.name}:weight"
    return [
        w.constant(name, data, Quantization.of(kernel.scale, 0, axis), w.frozen.plan.storage[op.name]),
        w.constant(f"{op.name}:bias", kernel.bias.astype(_bias_dtype(w, op)), Quantization.of(bias_scale)),
    ]


def _bias_dtype(w: Writer, op: Op) -> str:
    """int32; of a depthwise convolution of 16 bits int64, which its kernel alone takes."""
    return "int64" if w.frozen.plan.arithmetic[op.name] == "15 bits" else "int32"


def _float_weights(w: Writer, op: Op, data: np.ndarray, axis: int) -> list[int]:
    """Weights of an op on floats: what is stored in fewer bits is widened by a DEQUANTIZE."""
    kernel = w.frozen.kernels[op.name]
    bias = w.constant(f"{op.name}:bias", kernel.bias)
    if data.dtype == np.float32:
        return [w.constant(op.name, data), bias]
    grid = Quantization.of(kernel.scale, 0, axis) if kernel.scale.size else None
    stored = w.constant(op.name, data, grid, w.frozen.plan.storage.get(op.name))
    wide = w.tensor(Tensor(f"{op.name}:float32", tuple(data.shape), "float32"))
    version = {"float16": 3, "int8": 5, "int4": 6}[w.tensors[stored].dtype]
    w.emit("DEQUANTIZE", [stored], [wide], version)
    return [wide, bias]


def _packed(w: Writer, op: Op) -> bool:
    """Whether the op's weights are stored two in a byte."""
    return w.frozen.plan.storage.get(op.name) == "int4"


def _conv(w: Writer, op: Op) -> None:
    if (
        _packed(w, op) and not w.frozen.plan.recipe.floats and pointwise(op, w.graph)
    ):  # as such XNNPACK takes int4 weights, and not as a convolution
        _dense(w, op, w.frozen.kernels[op.name].q[0, 0])
    else:
        _windowed(w, op)


def _windowed(w: Writer, op: Op) -> None:
    depthwise = op.kind == "DEPTHWISE_CONV_2D"
    q = w.frozen.kernels[op.name].q  # HWIO
    padding, explicit = _padding(w, op, q.shape[:2])
    x = _padded(w, op) if explicit else w.tensor_of[op.inputs[0]]
    weights = _weights(
        w, op, q.reshape(1, *q.shape[:2], -1) if depthwise else q.transpose(3, 0, 1, 2), 3 if depthwise else 0
    )
    (stride_h, stride_w), (dilation_h, dilation_w) = op.attrs["stride"], op.attrs["dilation"]
    options: dict[str, Any] = {"padding": padding, "stride_h": stride_h, "stride_w": stride_w}
    options |= {"dilation_h_factor": dilation_h, "dilation_w_factor": dilation_w}
    if depthwise:
        options["depth_multiplier"] = op.attrs["multiplier"]
    version = 7 if _packed(w, op) else 6 if not depthwise and op.attrs["groups"] > 1 else 3
    fused, outs = _clipped(w, op)
    options |= {} if depthwise else _bias_type(w, op)
    w.emit(op.kind, [x, *weights], outs[:1], version, **options, fused_activation_function=fused)
    _clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def _bias_type(w: Writer, op: Op) -> dict[str, Any]:
    """Activations of 16 bits say that their bias, and with it the sum, is an int32 (it may be an int64)."""
    return {"quantized_bias_type": INT32} if w.frozen.plan.bits(op) == 16 else {}


def _affine(w: Writer, op: Op) -> None:
    """A depthwise convolution of one tap; RESHAPEd to four axes around it where there are not four."""
    shape, (fused, outs) = w.graph.avals[op.outputs[0]].shape, _clipped(w, op)
    weights = _weights(w, op, w.frozen.kernels[op.name].q.reshape(1, 1, 1, -1), 3)
    options: dict[str, Any] = {"padding": "VALID", "stride_h": 1, "stride_w": 1, "depth_multiplier": 1}
    options |= {"dilation_h_factor": 1, "dilation_w_factor": 1, "fused_activation_function": fused}
    x = w.tensor_of[op.inputs[0]]
    if len(shape) == 4:
        w.emit("DEPTHWISE_CONV_2D", [x, *weights], outs[:1], 3, **options)
    else:
        four = (1, 1, int(np.prod(shape[:-1])), shape[-1])
        before = w.tensor(w.like(op.inputs[0], f"{op.name}:in4", four))
        after = w.tensor(w.like(op.outputs[0], f"{op.name}:out4", four))
        _emit_reshape(w, op.name + ":to4", x, before, four)
        w.emit("DEPTHWISE_CONV_2D", [before, *weights], [after], 3, **options)
        _emit_reshape(w, op.name + ":from4", after, outs[0], shape)
    _clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def _fully_connected(w: Writer, op: Op) -> None:
    _dense(w, op, w.frozen.kernels[op.name].q)


def _dense(w: Writer, op: Op, q: np.ndarray) -> None:
    """FULLY_CONNECTED with weights [in, out]."""
    weights = _weights(w, op, q.T, 0)
    keep = len(w.graph.avals[op.inputs[0]].shape) > 2
    fused, outs = _clipped(w, op)
    inputs = [w.tensor_of[op.inputs[0]], *weights]
    version = 10 if _packed(w, op) else 5 if keep else 4
    options = {"keep_num_dims": keep, "fused_activation_function": fused, **_bias_type(w, op)}
    w.emit("FULLY_CONNECTED", inputs, outs[:1], version, **options)
    _clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def _binary(w: Writer, op: Op) -> None:
    inputs = [w.read(op, 0), w.read(op, 1)]
    fused, outs = _clipped(w, op)
    version = 3 if op.kind == "MUL" and _product(w, op, inputs) >= 1 else 2
    options = {"pot_scale_int16": False} if op.kind != "MUL" and w.frozen.plan.bits(op) == 16 else {}
    w.emit(op.kind, inputs, outs[:1], version, **options, fused_activation_function=fused)
    _clip_after(w, outs, op, op.attrs.get("activation") or (0.0, 0.0))


def _product(w: Writer, op: Op, inputs: Sequence[int]) -> float:
    """The product of the inputs' scales by the output's; 0 for floats."""
    scales = [w.tensors[i].quantization for i in inputs]
    if w.frozen.plan.group(op.outputs[0]) is None:
        return 0.0
    return float(np.prod([q.scale[0] for q in scales if q is not None])) / float(w.frozen.of(op.outputs[0])[0])


def _pool(w: Writer, op: Op) -> None:
    window, (stride_h, stride_w) = op.attrs["window"], op.attrs["stride"]
    padding, explicit = _padding(w, op, window)
    average = op.kind == "AVERAGE_POOL_2D"
    if average and padding != "VALID" and op.attrs["count_padding"]:
        padding, explicit = "VALID", True  # SAME leaves padding out of the mean: write the zeros
    if explicit and average and not op.attrs["count_padding"]:
        raise ExportError(
            f"{op.name} ({op.source}): an average pool over padding {op.attrs['padding']} that does not count it is "
            "not TFLite's SAME. Use padding='SAME', or count_include_pad=True."
        )
    x = _padded(w, op, lowest=not average) if explicit else w.tensor_of[op.inputs[0]]
    size = {"filter_height": window[0], "filter_width": window[1], "stride_h": stride_h, "stride_w": stride_w}
    w.emit(op.kind, [x], [w.activation(op.outputs[0])], 2, padding=padding, **size, fused_activation_function="NONE")


def _mean(w: Writer, op: Op) -> None:
    axes = w.ints(f"{op.name}:axes", op.attrs["axes"])
    w.emit("MEAN", [w.tensor_of[op.inputs[0]], axes], [w.activation(op.outputs[0])], 2, keep_dims=op.attrs["keepdims"])


def _emit_reshape(w: Writer, name: str, source: int, out: int, shape: Sequence[int]) -> None:
    w.emit("RESHAPE", [source, w.ints(f"{name}:shape", shape)], [out], 1, new_shape=tuple(int(d) for d in shape))


def _reshape(w: Writer, op: Op) -> None:
    _emit_reshape(w, op.name, w.tensor_of[op.inputs[0]], w.activation(op.outputs[0]), op.attrs["shape"])


def _transpose(w: Writer, op: Op) -> None:
    perm = op.attrs["perm"]
    version = {5: 4, 6: 6}.get(len(perm), 2)
    w.emit(
        "TRANSPOSE",
        [w.tensor_of[op.inputs[0]], w.ints(f"{op.name}:perm", perm)],
        [w.activation(op.outputs[0])],
        version,
    )


def _pad(w: Writer, op: Op) -> None:
    pads = w.constant(f"{op.name}:pads", np.asarray(op.attrs["pads"], np.int32))
    version = 4 if len(op.attrs["pads"]) > 4 else 2
    w.emit("PAD", [w.tensor_of[op.inputs[0]], pads], [w.activation(op.outputs[0])], version)


def _concatenation(w: Writer, op: Op) -> None:
    inputs = [w.read(op, i) for i in range(len(op.inputs))]
    outs = [w.activation(op.outputs[0])]
    w.emit("CONCATENATION", inputs, outs, 2, axis=op.attrs["axis"], fused_activation_function="NONE")


def _split(w: Writer, op: Op) -> None:
    axis = w.constant(f"{op.name}:axis", np.asarray(op.attrs["axis"], np.int32))
    outs = [w.activation(v) for v in op.outputs]
    w.emit("SPLIT", [axis, w.tensor_of[op.inputs[0]]], outs, 2, num_splits=op.attrs["splits"])


def _slice(w: Writer, op: Op) -> None:
    block = [w.ints(f"{op.name}:begin", op.attrs["begin"]), w.ints(f"{op.name}:size", op.attrs["size"])]
    w.emit("SLICE", [w.tensor_of[op.inputs[0]], *block], [w.activation(op.outputs[0])], 2)


def _strided_slice(w: Writer, op: Op) -> None:
    block = [w.ints(f"{op.name}:{key}", op.attrs[key]) for key in ("begin", "end", "strides")]
    w.emit("STRIDED_SLICE", [w.tensor_of[op.inputs[0]], *block], [w.activation(op.outputs[0])], 2)


def _plain(version: int, **options: Any) -> Rule:
    def rule(w: Writer, op: Op) -> None:
        w.emit(op.kind, [w.tensor_of[op.inputs[0]]], [w.activation(op.outputs[0])], version, **options)

    return rule


def _clip(w: Writer, op: Op) -> None:
    _emit_clip(w, op, w.tensor_of[op.inputs[0]], op.outputs[0], (op.attrs["low"], op.attrs["high"]))


def _relu_n1_to_1(w: Writer, op: Op) -> None:
    """LiteRT has no kernel of its own for int16."""
    (_clip if w.frozen.plan.bits(op) == 16 else _plain(1))(w, op)


def _table(w: Writer, op: Op) -> None:
    """A look-up: the integers as int32, from 0 on, as indices of 256 constants. TFLite Micro runs this form too, but
    has no GATHER of booleans: it refuses a table of yes and no.
    """
    shape = w.graph.avals[op.outputs[0]].shape
    code = w.tensor(Tensor(f"{op.name}:code", shape, "int32"))
    index = w.tensor(Tensor(f"{op.name}:index", shape, "int32"))
    out = w.activation(op.outputs[0])
    entries = w.constant(f"{op.name}:table", w.frozen.tables[op.name], w.tensors[out].quantization)
    w.emit("CAST", [w.tensor_of[op.inputs[0]]], [code], 1, in_data_type=INT8, out_data_type=INT32)
    w.emit("ADD", [code, w.ints(f"{op.name}:first", [128])], [index], 1, fused_activation_function="NONE")
    w.emit("GATHER", [entries, index], [out], 2 if w.tensors[out].dtype == "int8" else 3, axis=0, batch_dims=0)


def _copying(version: int, **options: Any) -> Rule:
    """Of all its inputs, requantized where they have to be."""

    def rule(w: Writer, op: Op) -> None:
        inputs = [w.read(op, i) for i in range(len(op.inputs))]
        w.emit(op.kind, inputs, [w.activation(op.outputs[0])], version, **options)

    return rule


def _batch_matmul(w: Writer, op: Op) -> None:
    inputs = [w.read(op, 0), w.read(op, 1)]
    w.emit("BATCH_MATMUL", inputs, [w.activation(op.outputs[0])], 2, adj_x=False, adj_y=False)


def _select(w: Writer, op: Op) -> None:
    inputs = [w.read(op, i) for i in range(3)]
    w.emit("SELECT_V2", inputs, [w.activation(op.outputs[0])], 1)


def _gather(w: Writer, op: Op) -> None:
    inputs = [w.read(op, 0), w.read(op, 1)]
    w.emit("GATHER", inputs, [w.activation(op.outputs[0])], 2, axis=op.attrs["axis"], batch_dims=0)


def _embedding(w: Writer, op: Op) -> None:
    inputs = [w.read(op, 1), w.read(op, 0)]
    w.emit("GATHER", inputs, [w.activation(op.outputs[0])], 2, axis=0, batch_dims=0)


def _broadcast_to(w: Writer, op: Op) -> None:
    shape = w.ints(f"{op.name}:shape", op.attrs["shape"])
    w.emit("BROADCAST_TO", [w.tensor_of[op.inputs[0]], shape], [w.activation(op.outputs[0])], 2)


def _reduction(w: Writer, op: Op) -> None:
    axes = w.ints(f"{op.name}:axes", op.attrs["axes"])
    w.emit(op.kind, [w.tensor_of[op.inputs[0]], axes], [w.activation(op.outputs[0])], 2, keep_dims=op.attrs["keepdims"])


def _arg_max(w: Writer, op: Op) -> None:
    axis = w.constant(f"{op.name}:axis", np.asarray(op.attrs["axis"], np.int32))
    w.emit("ARG_MAX", [w.tensor_of[op.inputs[0]], axis], [w.activation(op.outputs[0])], 2, output_type=INT32)


def _requantize(w: Writer, op: Op) -> None:
    w.emit("QUANTIZE", [w.tensor_of[op.inputs[0]]], [w.activation(op.outputs[0])], 2)


def _leaky_relu(w: Writer, op: Op) -> None:
    inputs = [w.tensor_of[op.inputs[0]]]
    w.emit("LEAKY_RELU", inputs, [w.activation(op.outputs[0])], 1, alpha=float(op.attrs["alpha"]))


def _gelu(w: Writer, op: Op) -> None:
    inputs = [w.tensor_of[op.inputs[0]]]
    w.emit("GELU", inputs, [w.activation(op.outputs[0])], 2, approximate=op.attrs["approximate"])


def _transpose_conv(w: Writer, op: Op) -> None:
    """The kernel turned around; a crop other than TFLite's two paddings is a SLICE."""
    kernel = w.frozen.kernels[op.name].q  # HWIO
    window, stride = kernel.shape[:2], op.attrs["stride"]
    n, *sizes, channels = w.graph.avals[op.outputs[0]].shape
    spread = [
        (size - 1) * s + k for size, s, k in zip(w.graph.avals[op.inputs[0]].shape[1:3], stride, window, strict=True)
    ]
    before = [k - 1 - low for k, (low, _) in zip(window, op.attrs["pads"], strict=True)]
    same = [max(full - size, 0) // 2 for full, size in zip(spread, sizes, strict=True)]
    fits = all(
        -(-size // s) == i for size, s, i in zip(sizes, stride, w.graph.avals[op.inputs[0]].shape[1:3], strict=True)
    )
    padding = "SAME" if fits and before == same else "VALID"
    weights = _weights(w, op, np.flip(kernel, (0, 1)).transpose(3, 0, 1, 2), 0)
    made = sizes if padding == "SAME" else spread
    shape = w.ints(f"{op.name}:shape", (n, *made, channels))
    fused, outs = _clipped(w, op)
    cropped = made != sizes
    full = w.activation(op.outputs[0], ":whole", (n, *made, channels)) if cropped else outs[0]
    options: dict[str, Any] = {"padding": padding, "stride_h": stride[0], "stride_w": stride[1]}
    options["fused_activation_function"] = fused
    w.emit(
        "TRANSPOSE_CONV",
        [shape, weights[0], w.tensor_of[op.inputs[0]], weights[1]],
        [full],
        3 if fused == "NONE" else 4,
        **options,
    )
    if cropped:
        block = [w.ints(f"{op.name}:begin", (0, *before, 0)), w.ints(f"{op.name}:size", (n, *sizes, channels))]
        w.emit("SLICE", [full, *block], outs[:1], 2)
    _clip_after(w, outs, op, op.attrs["activation"] or (0.0, 0.0))


def _nothing(w: Writer, op: Op) -> None:
    """The output is the input: an op that only training knows."""
    w.tensor_of[op.outputs[0]] = w.tensor_of[op.inputs[0]]


# Sorted; the keys are those of jaxq.ops.OPS.
RULES: dict[str, Rule] = {
    "ADD": _binary,
    "AFFINE": _affine,
    "ARG_MAX": _arg_max,
    "AVERAGE_POOL_2D": _pool,
    "BATCH_MATMUL": _batch_matmul,
    "BROADCAST_TO": _broadcast_to,
    "CLIP": _clip,
    "CONCATENATION": _concatenation,
    "CONV_2D": _conv,
    "DEPTHWISE_CONV_2D": _conv,
    "DROPOUT": _nothing,
    "EMBEDDING": _embedding,
    "FAKE_QUANT": _nothing,
    "FULLY_CONNECTED": _fully_connected,
    "GATHER": _gather,
    "GELU": _gelu,
    "HARD_SWISH": _plain(1),
    "LEAKY_RELU": _leaky_relu,
    "LOGICAL_AND": _copying(1),
    "LOGISTIC": _plain(2),
    "MAXIMUM": _copying(2),
    "MAX_POOL_2D": _pool,
    "MEAN": _mean,
    "MINIMUM": _copying(2),
    "MUL": _binary,
    "PAD": _pad,
    "REDUCE_MAX": _reduction,
    "REDUCE_MIN": _reduction,
    "RELU": _plain(2),
    "RELU6": _plain(2),
    "RELU_N1_TO_1": _relu_n1_to_1,
    "REQUANTIZE": _requantize,
    "RESHAPE": _reshape,
    "SELECT": _select,
    "SLICE": _slice,
    "SOFTMAX": _plain(2, beta=1.0),
    "SPLIT": _split,
    "STOP_GRADIENT": _nothing,
    "STRIDED_SLICE": _strided_slice,
    "SUB": _binary,
    "TABLE": _table,
    "TANH": _plain(2),
    "TRANSPOSE": _transpose,
    "TRANSPOSE_CONV": _transpose_conv,
}

# Ops that are written on floats as well.
FLOATS = RULES.keys() - NO_FLOATS.keys()
