"""What a tensor's width means on the device: how weights are stored, and which kernel's arithmetic an op gets."""

from __future__ import annotations

from jaxq.graph import Graph, Op
from jaxq.scheme import Scheme
from jaxq.target import Target


def storage(op: Op, scheme: Scheme, target: Target) -> str:
    """The type of an op's weights in the file: "int8", or "int4", two in a byte, where the target reads that.

    A grouped convolution has no kernel of its own for int4 (decision 007).
    """
    packed = scheme.bits == 4 and op.kind in target.packed and op.attrs.get("groups", 1) == 1
    return "int4" if packed else "int8"


def arithmetic(op: Op, graph: Graph, stored: str) -> str:
    """How the device brings an op's sum to the output's scale: "float32" (XNNPACK) or "half up" (TFLite's builtin).

    XNNPACK takes int4 weights of a FULLY_CONNECTED with an even number of inputs, and of no convolution.
    """
    dense = op.kind == "FULLY_CONNECTED" or pointwise(op, graph)
    return "float32" if stored == "int8" or (dense and _inputs(op, graph) % 2 == 0) else "half up"


def pointwise(op: Op, graph: Graph) -> bool:
    """Whether a convolution is a FULLY_CONNECTED of each pixel, and may be written as one."""
    if op.kind != "CONV_2D" or op.attrs["groups"] != 1:
        return False
    moves = any(map(any, op.attrs["padding"])) or op.attrs["stride"] != (1, 1)
    return graph.avals[op.inputs[1]].shape[:2] == (1, 1) and not moves


def _inputs(op: Op, graph: Graph) -> int:
    return graph.avals[op.inputs[0]].shape[-1]
