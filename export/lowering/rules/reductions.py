"""Reductions over axes."""

from __future__ import annotations

import numpy as np

from jaxq.export.lowering.writer import INT32, Writer
from jaxq.graph import Op


def reduction(w: Writer, op: Op) -> None:
    """MEAN, REDUCE_MAX, REDUCE_MIN, or SUM of int32."""
    axes = w.ints(f"{op.name}:axes", op.attrs["axes"])
    w.emit(op.kind, [w.tensor_of[op.inputs[0]], axes], [w.activation(op.outputs[0])], keep_dims=op.attrs["keepdims"])


def arg(w: Writer, op: Op) -> None:
    """ARG_MAX or ARG_MIN, int32."""
    axis = w.constant(f"{op.name}:axis", np.asarray(op.attrs["axis"], np.int32))
    w.emit(op.kind, [w.tensor_of[op.inputs[0]], axis], [w.activation(op.outputs[0])], output_type=INT32)


def cumsum(w: Writer, op: Op) -> None:
    """CUMSUM, of floats or of int32."""
    axis = w.constant(f"{op.name}:axis", np.asarray(op.attrs["axis"], np.int32))
    inputs = [w.tensor_of[op.inputs[0]], axis]
    w.emit("CUMSUM", inputs, [w.activation(op.outputs[0])], exclusive=False, reverse=op.attrs["reverse"])
