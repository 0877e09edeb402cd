"""Reductions over axes, and what is made of them: SOFTMAX and variances."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxq.graph.builder import MOVES, Builder
from jaxq.graph.ir import Equation
from jaxq.graph.patterns import Match


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
    """REDUCE_MAX or REDUCE_MIN."""

    def rule(builder: Builder, eq: Equation) -> bool:
        attrs = {"axes": tuple(int(a) for a in eq.params["axes"]), "keepdims": False}
        builder.op(kind, eq.inputs, attrs, eq.source, outputs=eq.outputs)
        return True

    return rule


def arg(kind: str) -> Callable[[Builder, Equation], bool]:
    """ARG_MAX or ARG_MIN of activations, as int32."""

    def rule(builder: Builder, eq: Equation) -> bool:
        axes = tuple(eq.params["axes"])
        if len(axes) != 1 or builder.avals[eq.outputs[0]].dtype != np.int32:
            return False
        builder.op(kind, eq.inputs, {"axis": int(axes[0])}, eq.source, outputs=eq.outputs)
        return True

    return rule


def position_as_number(builder: Builder, eq: Equation) -> bool:
    """The position that an ARG_MAX or ARG_MIN finds, as a real number: a look-up of the numbers 0, 1, 2 ..."""
    found = builder.made.get(builder.resolve(eq.inputs[0]))
    while found is not None and found.kind in MOVES:
        found = builder.made.get(found.inputs[0])
    if found is None or found.kind not in ("ARG_MAX", "ARG_MIN"):
        return False
    if not jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.floating):
        return False
    count = builder.shape(found.inputs[0])[found.attrs["axis"]]
    numbers = builder.weight(lambda: np.arange(count, dtype=np.float32), (), (count,))
    builder.op("EMBEDDING", (eq.inputs[0], numbers), {}, eq.source, outputs=eq.outputs)
    return True


def running_sum(builder: Builder, eq: Equation) -> bool:
    """CUMSUM."""
    attrs = {"axis": int(eq.params["axis"]), "reverse": bool(eq.params["reverse"])}
    builder.op("CUMSUM", eq.inputs, attrs, eq.source, outputs=eq.outputs)
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
