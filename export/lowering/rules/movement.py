"""Ops that move or select numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxq.export.lowering.writer import Writer
from jaxq.export.program import Tensor
from jaxq.graph import Op


def emit_reshape(w: Writer, name: str, source: int, out: int, shape: Sequence[int]) -> None:
    """A RESHAPE of one tensor to another."""
    w.emit("RESHAPE", [source, w.ints(f"{name}:shape", shape)], [out], new_shape=tuple(int(d) for d in shape))


def reshape(w: Writer, op: Op) -> None:
    """RESHAPE."""
    emit_reshape(w, op.name, w.tensor_of[op.inputs[0]], w.activation(op.outputs[0]), op.attrs["shape"])


def transpose(w: Writer, op: Op) -> None:
    """TRANSPOSE."""
    perm = op.attrs["perm"]
    w.emit(
        "TRANSPOSE",
        [w.tensor_of[op.inputs[0]], w.ints(f"{op.name}:perm", perm)],
        [w.activation(op.outputs[0])],
    )


def pad(w: Writer, op: Op) -> None:
    """PAD with zeros."""
    pads = w.constant(f"{op.name}:pads", np.asarray(op.attrs["pads"], np.int32))
    w.emit("PAD", [w.tensor_of[op.inputs[0]], pads], [w.activation(op.outputs[0])])


def concatenation(w: Writer, op: Op) -> None:
    """CONCATENATION, of inputs that are requantized where they have to be."""
    inputs = [w.read(op, i) for i in range(len(op.inputs))]
    outs = [w.activation(op.outputs[0])]
    w.emit("CONCATENATION", inputs, outs, axis=op.attrs["axis"], fused_activation_function="NONE")


def split(w: Writer, op: Op) -> None:
    """SPLIT; its axis is the first operand."""
    axis = w.constant(f"{op.name}:axis", np.asarray(op.attrs["axis"], np.int32))
    outs = [w.activation(v) for v in op.outputs]
    w.emit("SPLIT", [axis, w.tensor_of[op.inputs[0]]], outs, num_splits=op.attrs["splits"])


def slice_(w: Writer, op: Op) -> None:
    """SLICE."""
    block = [w.ints(f"{op.name}:begin", op.attrs["begin"]), w.ints(f"{op.name}:size", op.attrs["size"])]
    w.emit("SLICE", [w.tensor_of[op.inputs[0]], *block], [w.activation(op.outputs[0])])


def strided_slice(w: Writer, op: Op) -> None:
    """STRIDED_SLICE."""
    block = [w.ints(f"{op.name}:{key}", op.attrs[key]) for key in ("begin", "end", "strides")]
    w.emit("STRIDED_SLICE", [w.tensor_of[op.inputs[0]], *block], [w.activation(op.outputs[0])])


def gather(w: Writer, op: Op) -> None:
    """GATHER at constant indices."""
    inputs = [w.read(op, 0), w.read(op, 1)]
    w.emit("GATHER", inputs, [w.activation(op.outputs[0])], axis=op.attrs["axis"], batch_dims=0)


def embedding(w: Writer, op: Op) -> None:
    """GATHER of rows. Rows of int8 that floats are made of are dequantized behind it, a table of float16 before."""
    table, indices, out = w.read(op, 1), w.read(op, 0), w.activation(op.outputs[0])
    stored, made = w.tensors[table], w.tensors[out]
    rows = out
    if stored.dtype == "float16":
        half, table = table, w.tensor(Tensor(f"{stored.name}:float32", stored.shape, "float32"))
        w.emit("DEQUANTIZE", [half], [table])
    elif stored.dtype != made.dtype:
        rows = w.tensor(Tensor(f"{made.name}:rows", made.shape, stored.dtype, stored.quantization))
    w.emit("GATHER", [table, indices], [rows], axis=0, batch_dims=0)
    if rows != out:
        w.emit("DEQUANTIZE", [rows], [out])


def broadcast_to(w: Writer, op: Op) -> None:
    """BROADCAST_TO."""
    shape = w.ints(f"{op.name}:shape", op.attrs["shape"])
    out = w.activation(op.outputs[0])
    w.emit("BROADCAST_TO", [w.tensor_of[op.inputs[0]], shape], [out])


def select(w: Writer, op: Op) -> None:
    """SELECT_V2."""
    inputs = [w.read(op, i) for i in range(3)]
    w.emit("SELECT_V2", inputs, [w.activation(op.outputs[0])])


def reverse(w: Writer, op: Op) -> None:
    """REVERSE_V2."""
    axes = w.ints(f"{op.name}:axes", op.attrs["axes"])
    w.emit("REVERSE_V2", [w.tensor_of[op.inputs[0]], axes], [w.activation(op.outputs[0])])


def top_k(w: Writer, op: Op) -> None:
    """TOPK_V2: numbers, and their places as int32."""
    count = w.constant(f"{op.name}:k", np.asarray(op.attrs["k"], np.int32))
    w.emit("TOPK_V2", [w.tensor_of[op.inputs[0]], count], [w.activation(v) for v in op.outputs])
