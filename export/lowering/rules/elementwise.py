"""Arithmetic, tables, and ops of one operator."""

from __future__ import annotations

from typing import Any

from jaxq.export.lowering.rules import clips
from jaxq.export.lowering.writer import INT8, INT32, Rule, Writer
from jaxq.export.program import Tensor
from jaxq.graph import Op


def binary(w: Writer, op: Op) -> None:
    """ADD, SUB, MUL, and the clip behind them."""
    inputs = [w.read(op, 0), w.read(op, 1)]
    fused, outs = clips.clipped(w, op)
    options = {"pot_scale_int16": False} if op.kind != "MUL" and w.frozen.plan.arithmetic[op.name].is_int16 else {}
    w.emit(op.kind, inputs, outs[:1], **options, fused_activation_function=fused)
    clips.clip_after(w, outs, op, op.attrs.get("activation") or (0.0, 0.0))


def plain(**options: Any) -> Rule:
    """One input, one output, the kind of the op."""

    def rule(w: Writer, op: Op) -> None:
        w.emit(op.kind, [w.tensor_of[op.inputs[0]]], [w.activation(op.outputs[0])], **options)

    return rule


def copying(**options: Any) -> Rule:
    """Of all its inputs, requantized where they have to be."""

    def rule(w: Writer, op: Op) -> None:
        inputs = [w.read(op, i) for i in range(len(op.inputs))]
        w.emit(op.kind, inputs, [w.activation(op.outputs[0])], **options)

    return rule


def compare(w: Writer, op: Op) -> None:
    """EQUAL, LESS and their like."""
    inputs = [w.read(op, i) for i in range(2)]
    w.emit(op.attrs["relation"], inputs, [w.activation(op.outputs[0])])


def integer(w: Writer, op: Op) -> None:
    """ADD, MAXIMUM and their like, of int32."""
    options = {} if op.attrs["operator"] in ("MAXIMUM", "MINIMUM") else {"fused_activation_function": "NONE"}
    w.emit(op.attrs["operator"], [w.read(op, 0), w.read(op, 1)], [w.activation(op.outputs[0])], **options)


def table(w: Writer, op: Op) -> None:
    """A look-up: the integers as int32, from 0 on, as indices of 256 constants. TFLite Micro runs this form too, but
    has no GATHER of booleans: it refuses a table of yes and no.
    """
    shape = w.graph.avals[op.outputs[0]].shape
    code = w.tensor(Tensor(f"{op.name}:code", shape, "int32"))
    index = w.tensor(Tensor(f"{op.name}:index", shape, "int32"))
    out = w.activation(op.outputs[0])
    entries = w.constant(f"{op.name}:table", w.frozen.tables[op.name], w.tensors[out].quantization)
    w.emit("CAST", [w.tensor_of[op.inputs[0]]], [code], in_data_type=INT8, out_data_type=INT32)
    w.emit("ADD", [code, w.ints(f"{op.name}:first", [128])], [index], fused_activation_function="NONE")
    w.emit("GATHER", [entries, index], [out], axis=0, batch_dims=0)


def requantize(w: Writer, op: Op) -> None:
    """QUANTIZE."""
    w.emit("QUANTIZE", [w.tensor_of[op.inputs[0]]], [w.activation(op.outputs[0])])


def leaky_relu(w: Writer, op: Op) -> None:
    """LEAKY_RELU."""
    inputs = [w.tensor_of[op.inputs[0]]]
    w.emit("LEAKY_RELU", inputs, [w.activation(op.outputs[0])], alpha=float(op.attrs["alpha"]))


def gelu(w: Writer, op: Op) -> None:
    """GELU."""
    inputs = [w.tensor_of[op.inputs[0]]]
    w.emit("GELU", inputs, [w.activation(op.outputs[0])], approximate=op.attrs["approximate"])


def nothing(w: Writer, op: Op) -> None:
    """The output is the input: an op that only training knows."""
    w.tensor_of[op.outputs[0]] = w.tensor_of[op.inputs[0]]


def relu_n1_to_1(w: Writer, op: Op) -> None:
    """LiteRT has no kernel of its own for int16."""
    (clips.clip if w.frozen.plan.arithmetic[op.name].is_int16 else plain())(w, op)
