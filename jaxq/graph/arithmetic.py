"""Arithmetic of activations, with each other and with weights: one rule a primitive, `(builder, equation) -> bool`."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation, with_ones


def clip(side: str) -> Callable[[Builder, Equation], bool]:
    """CLIP by a constant bound on one side, `max` or `min`; MAXIMUM or MINIMUM of two activations."""

    def rule(builder: Builder, eq: Equation) -> bool:
        numbers = [(v, builder.view.scalar(v)) for v in eq.inputs]
        operand = next((v for v, number in numbers if number is None), None)
        bound = next((number for _, number in numbers if number is not None), None)
        if operand is None or bound is None:
            kind = "MAXIMUM" if side == "low" else "MINIMUM"
            builder.op(kind, unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
            return True
        if math.isinf(bound):
            builder.becomes(eq.outputs[0], builder.resolve(operand))
            return True
        attrs = {"low": bound if side == "low" else -math.inf, "high": bound if side == "high" else math.inf}
        builder.op("CLIP", (operand,), attrs, eq.source, outputs=eq.outputs)
        return True

    return rule


# The rules of the ops that are clips beside a constant.
CLIPS: Mapping[str, Callable[[Builder, Equation], bool]] = {"MAXIMUM": clip("low"), "MINIMUM": clip("high")}


def clamp(builder: Builder, eq: Equation) -> bool:
    """CLIP between two constants."""
    low, high = (builder.view.scalar(v) for v in (eq.inputs[0], eq.inputs[2]))
    if low is None or high is None or eq.inputs[1] not in builder.dynamic:
        return False
    builder.op("CLIP", eq.inputs[1:2], {"low": low, "high": high}, eq.source, outputs=eq.outputs)
    return True


def binary(kind: str) -> Callable[[Builder, Equation], bool]:
    """ADD, SUB or MUL of activations; AFFINE where one side is a weight over channels."""

    def rule(builder: Builder, eq: Equation) -> bool:
        left, right = eq.inputs
        if kind in {"ADD", "SUB"} and builder.is_zero(right) and builder.shape(left) == builder.shape(eq.outputs[0]):
            builder.becomes(eq.outputs[0], builder.resolve(left))
            return True
        if kind == "ADD" and builder.is_zero(left) and builder.shape(right) == builder.shape(eq.outputs[0]):
            builder.becomes(eq.outputs[0], builder.resolve(right))
            return True
        if {left, right} <= builder.dynamic:
            builder.op(kind, unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
            return True
        return _with_weight(builder, eq, kind)

    return rule


def unbroadcast_pair(builder: Builder, eq: Equation) -> list[int]:
    """Both operands before their broadcasts, but for one that the two share: that is not the op's to do."""
    shape = builder.shape(eq.outputs[0])
    pair = [unbroadcast(builder, v, eq.source) if v in builder.dynamic else v for v in eq.inputs]
    if np.broadcast_shapes(*(builder.shape(v) for v in pair)) == shape:
        return pair
    return [eq.inputs[0], pair[1]]


def unbroadcast(builder: Builder, value: int, source: str) -> int:
    """The operand before an explicit broadcast, with ones in its place: TFLite's binary ops broadcast by themselves."""
    return in_place_of(builder, builder.resolve(before_broadcast(builder, value)), value, source)


def before_broadcast(builder: Builder, value: int) -> int:
    """What a value is a broadcast of; the value itself if it is none."""
    eq = builder.view.producer.get(value)
    return eq.inputs[0] if eq is not None and eq.primitive == "broadcast_in_dim" else value


def in_place_of(builder: Builder, operand: int, broadcast: int, source: str) -> int:
    """`operand`, which takes the place of what `broadcast` is a broadcast of, with ones for the axes that it lacks."""
    eq = builder.view.producer.get(broadcast)
    if eq is None or eq.primitive != "broadcast_in_dim":
        return operand
    return builder.reshape(operand, with_ones(eq.params, builder.shape(operand)), source)


def _with_weight(builder: Builder, eq: Equation, kind: str) -> bool:
    """An activation with a weight: per-channel affine arithmetic when the weight is a vector over channels."""
    weight_first = eq.inputs[0] not in builder.dynamic
    weight, x = eq.inputs if weight_first else eq.inputs[::-1]
    vector = channel_vector(builder, weight, builder.shape(eq.outputs[0]))
    if vector is not None and builder.shape(x) == builder.shape(eq.outputs[0]):
        mul, add = _affine_parts(builder, kind, vector, weight_first)
        attrs: dict[str, int | bool | None] = {"mul": mul, "add": add}
        if builder.view.scalar(weight) is not None:
            attrs |= {"one_number": True} if add is not None else {"one_number": True, "uniform": mul}
        builder.op("AFFINE", (x,), attrs, eq.source, outputs=eq.outputs)
        return True
    if _over_heads(builder, eq, kind, weight, x, weight_first):
        return True
    inputs = eq.inputs
    if kind == "DIV":
        inverse = builder.weight(lambda c: 1.0 / c, (weight,), builder.shape(weight))
        kind, inputs = "MUL", (x, inverse)
    pair = [unbroadcast(builder, v, eq.source) if v in builder.dynamic else v for v in inputs]
    builder.op(kind, pair, {}, eq.source, outputs=eq.outputs)
    return True


def _over_heads(builder: Builder, eq: Equation, kind: str, weight: int, x: int, weight_first: bool) -> bool:
    """A weight over the two axes that a RESHAPE has made of channels (heads and their widths): a vector before it."""
    move, shape = builder.made.get(builder.resolve(x)), builder.shape(eq.outputs[0])
    if move is None or move.kind != "RESHAPE" or builder.shape(x) != shape or len(shape) < 3:
        return False
    before = builder.shape(move.inputs[0])
    own = (*(1 for _ in range(len(shape) - len(builder.shape(weight)))), *builder.shape(weight))
    if before != (*shape[:-2], shape[-2] * shape[-1]) or own != (*(1 for _ in shape[:-2]), *shape[-2:]):
        return False
    channels = before[-1]
    vector = builder.weight(lambda w: w.reshape(channels), (weight,), (channels,))
    mul, add = _affine_parts(builder, kind, vector, weight_first)
    y = builder.op("AFFINE", move.inputs, {"mul": mul, "add": add}, eq.source)
    builder.becomes(eq.outputs[0], builder.reshape(y, shape, eq.source))
    return True


def _affine_parts(builder: Builder, kind: str, vector: int, weight_first: bool) -> tuple[int | None, int | None]:
    shape = builder.shape(vector)
    if kind == "ADD":
        return None, vector
    if kind == "MUL":
        return vector, None
    if kind == "DIV":
        return builder.weight(lambda c: 1.0 / c, (vector,), shape), None
    if weight_first:  # c - x
        return builder.full(-1.0, shape), vector
    return None, builder.weight(operator.neg, (vector,), shape)


def channel_vector(builder: Builder, weight: int, shape: Sequence[int]) -> int | None:
    """The vector over the last axis of `shape` that a weight amounts to when broadcast to it, else None."""
    eq = builder.view.producer.get(weight)
    if eq is not None and eq.primitive == "broadcast_in_dim":
        axes, inner = eq.params["broadcast_dimensions"], builder.shape(eq.inputs[0])
        if all(size == 1 or axis == len(shape) - 1 for axis, size in zip(axes, inner, strict=True)):
            weight = eq.inputs[0]
    own, channels = builder.shape(weight), shape[-1] if shape else 1
    varying = builder.varying.axes(weight) if weight in builder.view.trace.avals else frozenset(range(len(own)))
    if math.prod(own) == 1 or (not varying and 0 not in own):
        return builder.weight(lambda c: c.reshape(-1)[:1].repeat(channels), (weight,), (channels,))
    last = all(own[axis] == 1 or axis == len(own) - 1 for axis in varying)
    if own[-1] != channels or not last or 0 in own:
        return None
    return builder.weight(lambda c: c.reshape(-1, channels)[0], (weight,), (channels,))


def divide(builder: Builder, eq: Equation) -> bool:
    """AFFINE: division by a weight. Two activations are a table of reciprocals and a MUL."""
    return eq.inputs[1] not in builder.dynamic and _with_weight(builder, eq, "DIV")


def negate(builder: Builder, eq: Equation) -> bool:
    """AFFINE by -1."""
    shape = builder.shape(eq.inputs[0])
    minus = builder.full(-1.0, (shape[-1] if shape else 1,))
    builder.op("AFFINE", eq.inputs, {"mul": minus, "add": None}, eq.source, outputs=eq.outputs)
    return True


def square(builder: Builder, eq: Equation) -> bool:
    """MUL of an activation by itself."""
    if eq.params.get("y", 2) != 2:
        return False
    builder.op("MUL", (eq.inputs[0], eq.inputs[0]), {}, eq.source, outputs=eq.outputs)
    return True
