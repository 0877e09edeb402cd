"""Reductions over axes, and what is made of them: SOFTMAX and variances."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxq.graph.builder import Builder
from jaxq.graph.ir import Equation
from jaxq.graph.pieces import along, joined
from jaxq.graph.unification import Match


def total(builder: Builder, eq: Equation) -> bool:
    """A sum is a MEAN, times how many there are: LiteRT's reference SUM of int8 reads it as uint8."""
    axes, shape = tuple(int(a) for a in eq.params["axes"]), builder.shape(eq.inputs[0])
    attrs = {"axes": axes, "keepdims": False}
    mean = builder.op("MEAN", eq.inputs, attrs, eq.source, shape=builder.shape(eq.outputs[0]))
    channels = builder.shape(mean)[-1] if builder.shape(mean) else 1
    count = builder.full(float(math.prod(shape[a] for a in axes)), (channels,))
    builder.op("AFFINE", (mean,), {"mul": count, "add": None}, eq.source, outputs=eq.outputs)
    return True


def reduction(kind: str) -> Callable[[Builder, Equation], bool]:
    """REDUCE_MAX or REDUCE_MIN, of real numbers and of int32."""

    def rule(builder: Builder, eq: Equation) -> bool:
        if not is_number(builder, eq.inputs[0]):
            return False
        attrs = {"axes": tuple(int(a) for a in eq.params["axes"]), "keepdims": False}
        builder.op(kind, eq.inputs, attrs, eq.source, outputs=eq.outputs)
        return True

    return rule


def is_number(builder: Builder, value: int) -> bool:
    """Whether a value is a real number or an int32."""
    dtype = builder.avals[value].dtype
    return dtype == np.int32 or jnp.issubdtype(dtype, jnp.floating)


def arg(kind: str) -> Callable[[Builder, Equation], bool]:
    """ARG_MAX or ARG_MIN of activations, as int32."""

    def rule(builder: Builder, eq: Equation) -> bool:
        axes = tuple(eq.params["axes"])
        if len(axes) != 1 or builder.avals[eq.outputs[0]].dtype != np.int32:
            return False
        builder.op(kind, eq.inputs, {"axis": int(axes[0])}, eq.source, outputs=eq.outputs)
        return True

    return rule


def running_sum(builder: Builder, eq: Equation) -> bool:
    """CUMSUM."""
    attrs = {"axis": int(eq.params["axis"]), "reverse": bool(eq.params["reverse"])}
    builder.op("CUMSUM", eq.inputs, attrs, eq.source, outputs=eq.outputs)
    return True


def running(kind: str) -> Callable[[Builder, Equation], bool]:
    """A running product or extreme, of this op: log2(n) times each number with that 1, 2, 4 ... places before it (W.
    Daniel Hillis and Guy L. Steele Jr., "Data parallel algorithms", 1986).
    """

    def rule(builder: Builder, eq: Equation) -> bool:
        y, axis = builder.resolve(eq.inputs[0]), int(eq.params["axis"])
        count, reverse, stride = builder.shape(y)[axis], bool(eq.params["reverse"]), 1
        while stride < count:
            near, far = (along(builder, y, axis, i, count - stride, eq.source) for i in (0, stride))
            both = builder.op(kind, (near, far), {}, eq.source)
            alone = along(builder, y, axis, count - stride if reverse else 0, stride, eq.source)
            parts = (both, alone) if reverse else (alone, both)
            y = joined(builder, parts, axis, eq.source)
            stride *= 2
        builder.becomes(eq.outputs[0], y)
        return True

    return rule


def product(builder: Builder, eq: Equation) -> bool:
    """A product over axes: half of an axis times the other, until one number is left."""
    y = builder.resolve(eq.inputs[0])
    for axis in map(int, eq.params["axes"]):
        while (count := builder.shape(y)[axis]) > 1:
            halves = [along(builder, y, axis, i * (count // 2), count // 2, eq.source) for i in (0, 1)]
            both = builder.op("MUL", halves, {}, eq.source)
            if count % 2:
                both = joined(builder, (both, along(builder, y, axis, count - 1, 1, eq.source)), axis, eq.source)
            y = both
    builder.becomes(eq.outputs[0], builder.reshape(y, builder.shape(eq.outputs[0]), eq.source))
    return True


def softmax(builder: Builder, eq: Equation, match: Match) -> None:
    """SOFTMAX is over the last axis: another one is moved there and back."""
    x, rank = builder.resolve(match.inputs[0]), len(builder.shape(eq.outputs[0]))
    perm = list(range(rank))
    perm[match.attrs["axis"]], perm[-1] = perm[-1], perm[match.attrs["axis"]]
    if perm == list(range(rank)):
        builder.op("SOFTMAX", (x,), {}, eq.source, outputs=eq.outputs)
        return
    y = builder.op("SOFTMAX", (builder.transpose(x, perm, eq.source),), {}, eq.source)
    builder.becomes(eq.outputs[0], builder.transpose(y, perm, eq.source))


def variance(builder: Builder, eq: Equation, match: Match) -> None:
    """The mean of the squares of the deviations."""
    x, mean = match.inputs
    axes = match.attrs["axes"]
    ones = [1 if axis in axes else size for axis, size in enumerate(builder.shape(x))]
    mean = builder.reshape(builder.resolve(mean), ones, eq.source)
    deviation = builder.op("SUB", (x, mean), {}, eq.source, shape=builder.shape(x))
    square = builder.op("MUL", (deviation, deviation), {}, eq.source)
    builder.op("MEAN", (square,), match.attrs, eq.source, outputs=eq.outputs)
