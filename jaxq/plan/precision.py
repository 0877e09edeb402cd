"""What a tensor's width means on the device: how weights are stored, and which kernel's arithmetic an op gets."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Container, Mapping

import jax.numpy as jnp

from jaxq.graph import Draft, Graph, Op
from jaxq.ops import OPS
from jaxq.ops.arithmetic import Arithmetic, Dynamic, Requantization
from jaxq.plan.scheme import Scheme
from jaxq.plan.target import Target

COPY = "island_copy"  # attribute of the op that rounds it for the integers


def storage(op: Op, scheme: Scheme, target: Target) -> str:
    """The type of an op's weights in the file: "int8", or "int4", two in a byte, where the target reads that.

    A grouped convolution has no kernel of its own for int4 (decision 007).
    """
    packed = scheme.bits == 4 and op.kind in target.packed and op.attrs.get("groups", 1) == 1
    return "int4" if packed else "int8"


VECTOR_CHANNELS, VECTOR_PRODUCTS = 4, 8  # the least that TFLite multiplies by one vector without ruy


def arithmetic(op: Op, graph: Graph, stored: str, scheme: Scheme, machine: str, bits: int = 8) -> Arithmetic:
    """How the device computes an op with integer weights: as XNNPACK does, or in one of TFLite's builtin ways.

    XNNPACK takes int4 weights of a FULLY_CONNECTED with an even number of inputs, of no convolution, and no activations
    of 16 bits. `stored` is the type of the weights in the file, `bits` the width of the activations. What ruy
    multiplies is rounded once on the machine "aarch64", twice on "x86_64".
    """
    how = _requantization(op, graph, stored, bits)
    by_ruy = how == "half up" and not (bits == 8 and _is_vector(op, graph))
    return Arithmetic(bits, scheme.bits, "once" if by_ruy and machine == "aarch64" else how)


def _is_vector(op: Op, graph: Graph) -> bool:
    """Whether the file has one row of results, which TFLite multiplies by itself (cpu_backend_gemm_custom_gemv.h)."""
    rows, weights = graph.avals[op.outputs[0]].shape[:-1], graph.avals[op.inputs[1]].shape
    enough = weights[-1] >= VECTOR_CHANNELS and math.prod(weights[:-1]) >= VECTOR_PRODUCTS
    return math.prod(rows) == 1 and enough


def _requantization(op: Op, graph: Graph, stored: str, bits: int) -> Requantization:
    if bits == 16:
        if op.kind in ("DEPTHWISE_CONV_2D", "AFFINE"):
            return "15 bits"
        return "half away" if op.attrs.get("groups", 1) > 1 else "half up"
    dense = op.kind == "FULLY_CONNECTED" or pointwise(op, graph)
    return "float32" if stored == "int8" or (dense and _inputs(op, graph) % 2 == 0) else "half up"


def unweighted_arithmetic(op: Op, machine: str, bits: int) -> Arithmetic:
    """How the device computes an op on integers that has no weights: by XNNPACK, or of 16 bits by TFLite."""
    if bits == 16:
        return Arithmetic(bits, requantize="half away")
    return Arithmetic(bits, requantize="rndnu" if (op.kind, machine) == ("MUL", "aarch64") else "float32")


def dynamic_arithmetic(op: Op, graph: Graph) -> Arithmetic | None:
    """How an op quantizes float activations as it runs; None for one that does not.

    XNNPACK takes a FULLY_CONNECTED by row and a CONV_2D by example; a convolution of one tap it makes a FULLY_CONNECTED
    of. DEPTHWISE_CONV_2D is left to TFLite's vector kernel. TRANSPOSE_CONV has no such kernel in the reference family.
    """
    if op.kind == "CONV_2D" and not (pointwise(op, graph) and sum(graph.avals[op.inputs[1]].shape[-2:]) > 2):
        return Arithmetic(bits=32, dynamic="example")
    ways: dict[str, Dynamic] = {"CONV_2D": "row", "DEPTHWISE_CONV_2D": "vectors", "FULLY_CONNECTED": "row"}
    return Arithmetic(bits=32, dynamic=ways[op.kind]) if op.kind in ways else None


def pointwise(op: Op, graph: Graph) -> bool:
    """Whether a convolution is a FULLY_CONNECTED of each pixel, and may be written as one."""
    if op.kind != "CONV_2D" or op.attrs["groups"] != 1:
        return False
    moves = any(map(any, op.attrs["padding"])) or op.attrs["stride"] != (1, 1)
    return graph.avals[op.inputs[1]].shape[:2] == (1, 1) and not moves


def _inputs(op: Op, graph: Graph) -> int:
    return graph.avals[op.inputs[0]].shape[-1]


def separated(graph: Graph, islands: Container[str]) -> Graph:
    """The graph with a copy of what an island makes and both islands and integers read: integers read the copy, which
    is rounded, and islands go on with floats (a residual stream between LayerNorms). Returns `graph` where there is
    none.
    """
    draft, ops, copies = Draft(graph), [], {}
    read = [{v for op in graph.ops if (op.name in islands) is island for v in op.inputs} for island in (False, True)]
    for op in graph.ops:
        inputs = op.inputs if op.name in islands else tuple(copies.get(v, v) for v in op.inputs)
        ops.append(dataclasses.replace(op, inputs=inputs))
        for value in op.outputs if op.name in islands else ():
            if value in read[0] & read[1] and jnp.issubdtype(draft.avals[value].dtype, jnp.floating):
                ops.append(_copied(draft, value, op.source))
                copies[value] = ops[-1].outputs[0]
    return draft.graph(ops) if copies else graph


def _copied(draft: Draft, value: int, source: str) -> Op:
    new = draft.value(value, f"{draft.names[value]}:integers")
    return Op("RESHAPE", draft.names[new], (value,), (new,), {"shape": draft.avals[value].shape, COPY: True}, source)


def is_copy(op: Op) -> bool:
    """Whether an op hands integers what an island has made."""
    return COPY in op.attrs


def inserted(graph: Graph, bits: Mapping[int, int], islands: Container[str]) -> Graph:
    """The graph with a REQUANTIZE before each op that reads activations of another width than it computes.

    An op that shares one scale with its operands requantizes them itself. Returns `graph` where nothing is mixed.
    """
    draft, ops, made = Draft(graph), [], {}
    for op in graph.ops:
        outputs = [bits[v] for v in op.outputs if v in bits]
        if op.name in islands or OPS[op.kind].scales == "same":
            ops.append(op)
            continue
        wanted, inputs = (outputs or [8])[0], list(op.inputs)
        for i, value in enumerate(op.inputs):
            if bits.get(value, wanted) == wanted:
                continue
            if (value, wanted) not in made:
                new = made[value, wanted] = draft.value(value, f"{draft.names[value]}:int{wanted}")
                ops.append(Op("REQUANTIZE", draft.names[new], (value,), (new,), {"bits": wanted}, op.source))
            inputs[i] = made[value, wanted]
        ops.append(dataclasses.replace(op, inputs=tuple(inputs)))
    return draft.graph(ops) if made else graph
