"""From JAX primitives to ops of TFLite's size: `RAISE`, one rule a primitive.

A rule `(builder, equation) -> bool` appends ops and says whether it could. What no rule takes becomes a FLOAT op,
executed as
recorded: a float island. Equations that touch no activation are weight arithmetic and pass unchanged.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import BatchStatisticsError, ControlFlowError
from jaxq.graph import movement, patterns
from jaxq.graph.builder import Builder
from jaxq.graph.capture import FAKE_QUANT
from jaxq.graph.contractions import conv_general_dilated, dot_general
from jaxq.graph.ir import MASK, Equation
from jaxq.graph.patterns import Match
from jaxq.graph.tables import Regions

CONTROL_FLOW = frozenset({"scan", "while", "cond"})
REDUCTIONS = frozenset({"reduce_sum", "reduce_max", "reduce_min", "argmax", "argmin", "reduce_prod"})


def raise_equations(builder: Builder, outputs: Sequence[int]) -> None:
    """Append to `builder` the ops that compute `outputs`; what nothing needs is left out."""
    matches = _needed(builder, Regions(builder.view, builder.dynamic), outputs)
    for eq in builder.view.trace.equations:
        read = not builder.dynamic.isdisjoint(eq.inputs)
        if read and builder.zeros.issuperset(eq.outputs):
            builder.weights.append(_zeros(builder, eq))
        elif not read:
            builder.weights.append(eq)
        elif eq.outputs[0] in matches:
            _emit(builder, eq, matches[eq.outputs[0]])


def _zeros(builder: Builder, eq: Equation) -> Equation:
    shapes = [builder.shape(v) for v in eq.outputs]

    def call() -> Any:
        return [np.zeros(shape, np.float32) for shape in shapes]

    return Equation("weight", (), eq.outputs, {}, call, eq.source)


def _needed(builder: Builder, regions: Regions, outputs: Sequence[int]) -> dict[int, Match | None]:
    """The activations to compute, from the last back: each with the pattern or the region that makes it, or None."""
    needed, matches = set(outputs), {}
    for eq in reversed(builder.view.trace.equations):
        if needed.isdisjoint(eq.outputs) or builder.dynamic.isdisjoint(eq.inputs):
            continue
        match = patterns.find(builder.view, eq) or _table(regions, eq) or _quotient(builder, regions, eq)
        needed.update(match.inputs if match else eq.inputs)
        needed.update(_unbroadcast_sources(builder, match.inputs if match else eq.inputs))
        matches[eq.outputs[0]] = match
    return matches


def _table(regions: Regions, eq: Equation) -> Match | None:
    region = regions.of(eq.outputs[0])
    return None if region is None else Match("TABLE", region.inputs, {"of": region.primitives}, region.call)


def _quotient(builder: Builder, regions: Regions, eq: Equation) -> Match | None:
    """One activation over another: the first times a table of reciprocals of the second."""
    if eq.primitive != "div" or not builder.dynamic.issuperset(eq.inputs):
        return None
    divisor = _before_broadcast(builder, eq.inputs[1])
    region = regions.between(regions.source.get(divisor, divisor), divisor)

    def reciprocal(*arguments: jax.Array) -> Sequence[jax.Array]:
        return [1.0 / x for x in region.call(*arguments)]

    attrs = {"of": (*region.primitives, "reciprocal")}
    return Match("DIV", (eq.inputs[0], *region.inputs), attrs, reciprocal)


def _times_reciprocal(builder: Builder, eq: Equation, match: Match) -> None:
    shape = builder.shape(_before_broadcast(builder, eq.inputs[1]))
    one_over = builder.op("TABLE", match.inputs[1:], match.attrs, eq.source, shape=shape, call=match.call)
    one_over = _with_ones(builder, one_over, eq.inputs[1], eq.source)
    builder.op("MUL", (match.inputs[0], one_over), {}, eq.source, outputs=eq.outputs)


def _softmax(builder: Builder, eq: Equation, match: Match) -> None:
    """SOFTMAX is over the last axis: another one is moved there and back."""
    x, rank = builder.resolve(match.inputs[0]), len(builder.shape(eq.outputs[0]))
    perm = list(range(rank))
    perm[match.attrs["axis"]], perm[-1] = perm[-1], perm[match.attrs["axis"]]
    if perm == list(range(rank)):
        builder.op("SOFTMAX", (x,), {}, eq.source, outputs=eq.outputs)
        return
    y = builder.op("SOFTMAX", (builder.transpose(x, perm, eq.source),), {}, eq.source)
    builder.becomes(eq.outputs[0], builder.transpose(y, perm, eq.source))


def _variance(builder: Builder, eq: Equation, match: Match) -> None:
    """The mean of the squares of the deviations."""
    x, mean = match.inputs
    axes = match.attrs["axes"]
    ones = [1 if axis in axes else size for axis, size in enumerate(builder.shape(x))]
    mean = builder.reshape(builder.resolve(mean), ones, eq.source)
    deviation = builder.op("SUB", (x, mean), {}, eq.source, shape=builder.shape(x))
    square = builder.op("MUL", (deviation, deviation), {}, eq.source)
    builder.op("MEAN", (square,), match.attrs, eq.source, outputs=eq.outputs)


# Matches that are more than one op.
COMPOSED = {"DIV": _times_reciprocal, "SOFTMAX": _softmax, "VARIANCE": _variance}


def _before_broadcast(builder: Builder, value: int) -> int:
    eq = builder.view.producer.get(value)
    return eq.inputs[0] if eq is not None and eq.primitive == "broadcast_in_dim" else value


def _with_ones(builder: Builder, operand: int, broadcast: int, source: str) -> int:
    """`operand`, which takes the place of what `broadcast` is a broadcast of, with ones for the axes that it lacks."""
    eq = builder.view.producer.get(broadcast)
    if eq is None or eq.primitive != "broadcast_in_dim":
        return operand
    ones = [1] * len(eq.params["shape"])
    for axis, size in zip(eq.params["broadcast_dimensions"], builder.shape(operand), strict=True):
        ones[axis] = size
    return builder.reshape(operand, ones, source)


def _unbroadcast_sources(builder: Builder, values: Sequence[int]) -> list[int]:
    producers = [builder.view.producer.get(v) for v in values]
    return [eq.inputs[0] for eq in producers if eq is not None and eq.primitive == "broadcast_in_dim"]


def _emit(builder: Builder, eq: Equation, match: Match | None) -> None:
    if match is not None:
        _refuse_batch_reduction(builder, eq, match.kind, match.inputs[0], match.attrs.get("axes", ()))
        if match.kind in COMPOSED:
            COMPOSED[match.kind](builder, eq, match)
        else:
            builder.op(match.kind, match.inputs, match.attrs, eq.source, outputs=eq.outputs, call=match.call)
        return
    if eq.primitive in CONTROL_FLOW:
        raise ControlFlowError(
            f"`{eq.primitive}` at {eq.source} runs over activations; an integer graph for a device is static and "
            "has no control flow. Unroll it (a Python loop over layers), or move it out of the model."
        )
    if eq.primitive in REDUCTIONS:
        _refuse_batch_reduction(builder, eq, eq.primitive, eq.inputs[0], eq.params.get("axes", ()))
    rule = RAISE.get(eq.primitive)
    if rule is None or not rule(builder, eq):
        _island(builder, eq)


def _refuse_batch_reduction(builder: Builder, eq: Equation, name: str, operand: int, axes: Sequence[int]) -> None:
    if 0 in axes and len(builder.shape(operand)) > 1 and operand in builder.dynamic:
        raise BatchStatisticsError(
            f"`{name}` at {eq.source} reduces over axis 0, the batch: the output for one example would "
            "depend on the others, and a device runs one. A BatchNorm in training mode does this: call "
            "`model.eval()` (NNX), or pass `use_running_average=True` (Linen), before `jaxq.quantize`; training "
            "then runs on the folded running statistics."
        )


def _island(builder: Builder, eq: Equation) -> None:
    attrs = {"primitive": str(eq.params.get("name", eq.primitive))}
    builder.op("FLOAT", eq.inputs, attrs, eq.source, outputs=eq.outputs, call=eq.call)


# --- elementwise ----------------------------------------------------------------------------------------------------


def _unary(kind: str) -> Callable[[Builder, Equation], bool]:
    def rule(builder: Builder, eq: Equation) -> bool:
        builder.op(kind, eq.inputs[:1], {}, eq.source, outputs=eq.outputs)
        return True

    return rule


def _alias(builder: Builder, eq: Equation) -> bool:
    for old, new in zip(eq.outputs, eq.inputs, strict=True):
        builder.becomes(old, builder.resolve(new))
    return True


def _convert(builder: Builder, eq: Equation) -> bool:
    source, target = (builder.avals[v].dtype for v in (eq.inputs[0], eq.outputs[0]))
    real = jnp.issubdtype(source, jnp.floating) or builder.resolve(eq.inputs[0]) in builder.graph_inputs
    return bool(jnp.issubdtype(target, jnp.floating) and real) and _alias(builder, eq)


def _clip(side: str) -> Callable[[Builder, Equation], bool]:
    def rule(builder: Builder, eq: Equation) -> bool:
        numbers = [(v, builder.view.scalar(v)) for v in eq.inputs]
        operand = next((v for v, number in numbers if number is None), None)
        bound = next((number for _, number in numbers if number is not None), None)
        if operand is None or bound is None:
            kind = "MAXIMUM" if side == "low" else "MINIMUM"
            builder.op(kind, _unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
            return True
        if math.isinf(bound):
            builder.becomes(eq.outputs[0], builder.resolve(operand))
            return True
        attrs = {"low": bound if side == "low" else -math.inf, "high": bound if side == "high" else math.inf}
        builder.op("CLIP", (operand,), attrs, eq.source, outputs=eq.outputs)
        return True

    return rule


def _clamp(builder: Builder, eq: Equation) -> bool:
    low, high = (builder.view.scalar(v) for v in (eq.inputs[0], eq.inputs[2]))
    if low is None or high is None or eq.inputs[1] not in builder.dynamic:
        return False
    builder.op("CLIP", eq.inputs[1:2], {"low": low, "high": high}, eq.source, outputs=eq.outputs)
    return True


def _binary(kind: str) -> Callable[[Builder, Equation], bool]:
    def rule(builder: Builder, eq: Equation) -> bool:
        left, right = eq.inputs
        if kind in {"ADD", "SUB"} and builder.is_zero(right) and builder.shape(left) == builder.shape(eq.outputs[0]):
            builder.becomes(eq.outputs[0], builder.resolve(left))
            return True
        if kind == "ADD" and builder.is_zero(left) and builder.shape(right) == builder.shape(eq.outputs[0]):
            builder.becomes(eq.outputs[0], builder.resolve(right))
            return True
        if {left, right} <= builder.dynamic:
            builder.op(kind, _unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
            return True
        return _with_weight(builder, eq, kind)

    return rule


def _unbroadcast_pair(builder: Builder, eq: Equation) -> list[int]:
    """Both operands before their broadcasts, but for one that the two share: that is not the op's to do."""
    shape = builder.shape(eq.outputs[0])
    pair = [_unbroadcast(builder, v, eq.source) if v in builder.dynamic else v for v in eq.inputs]
    if np.broadcast_shapes(*(builder.shape(v) for v in pair)) == shape:
        return pair
    return [eq.inputs[0], pair[1]]


def _unbroadcast(builder: Builder, value: int, source: str) -> int:
    """The operand before an explicit broadcast, with ones in its place: TFLite's binary ops broadcast by themselves."""
    return _with_ones(builder, builder.resolve(_before_broadcast(builder, value)), value, source)


def _with_weight(builder: Builder, eq: Equation, kind: str) -> bool:
    """An activation with a weight: per-channel affine arithmetic when the weight is a vector over channels."""
    weight_first = eq.inputs[0] not in builder.dynamic
    weight, x = eq.inputs if weight_first else eq.inputs[::-1]
    vector = channel_vector(builder, weight, builder.shape(eq.outputs[0]), eq.source)
    if vector is not None and builder.shape(x) == builder.shape(eq.outputs[0]):
        mul, add = _affine_parts(builder, kind, vector, weight_first)
        attrs = {"mul": mul, "add": add}
        if add is None and builder.view.scalar(weight) is not None:
            attrs["uniform"] = mul
        builder.op("AFFINE", (x,), attrs, eq.source, outputs=eq.outputs)
        return True
    if _over_heads(builder, eq, kind, weight, x, weight_first):
        return True
    if kind == "DIV":
        return False
    pair = [_unbroadcast(builder, v, eq.source) if v in builder.dynamic else v for v in eq.inputs]
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


def channel_vector(builder: Builder, weight: int, shape: Sequence[int], source: str) -> int | None:
    """The vector over the last axis of `shape` that a weight amounts to when broadcast to it, else None."""
    eq = builder.view.producer.get(weight)
    if eq is not None and eq.primitive == "broadcast_in_dim":
        axes, inner = eq.params["broadcast_dimensions"], builder.shape(eq.inputs[0])
        if all(size == 1 or axis == len(shape) - 1 for axis, size in zip(axes, inner, strict=True)):
            weight = eq.inputs[0]
    own, channels = builder.shape(weight), shape[-1] if shape else 1
    if math.prod(own) == 1:
        return builder.weight(lambda c: c.reshape(1).repeat(channels), (weight,), (channels,))
    if own[-1] != channels or math.prod(own) != channels:
        return None
    return builder.weight(lambda c: c.reshape(channels), (weight,), (channels,))


def _div(builder: Builder, eq: Equation) -> bool:
    return eq.inputs[1] not in builder.dynamic and _with_weight(builder, eq, "DIV")


def _neg(builder: Builder, eq: Equation) -> bool:
    shape = builder.shape(eq.inputs[0])
    minus = builder.full(-1.0, (shape[-1] if shape else 1,))
    builder.op("AFFINE", eq.inputs, {"mul": minus, "add": None}, eq.source, outputs=eq.outputs)
    return True


def _sum(builder: Builder, eq: Equation) -> bool:
    """A sum is a MEAN, times how many there are: LiteRT's reference SUM of int8 reads it as uint8."""
    axes, shape = tuple(int(a) for a in eq.params["axes"]), builder.shape(eq.inputs[0])
    attrs = {"axes": axes, "keepdims": False}
    mean = builder.op("MEAN", eq.inputs, attrs, eq.source, shape=builder.shape(eq.outputs[0]))
    channels = builder.shape(mean)[-1] if builder.shape(mean) else 1
    count = builder.full(float(math.prod(shape[a] for a in axes)), (channels,))
    builder.op("AFFINE", (mean,), {"mul": count, "add": None}, eq.source, outputs=eq.outputs)
    return True


def _reduction(kind: str) -> Callable[[Builder, Equation], bool]:
    def rule(builder: Builder, eq: Equation) -> bool:
        attrs = {"axes": tuple(int(a) for a in eq.params["axes"]), "keepdims": False}
        builder.op(kind, eq.inputs, attrs, eq.source, outputs=eq.outputs)
        return True

    return rule


def _arg_max(builder: Builder, eq: Equation) -> bool:
    """ARG_MAX of activations, as int32."""
    axes = tuple(eq.params["axes"])
    if len(axes) != 1 or builder.avals[eq.outputs[0]].dtype != np.int32:
        return False
    builder.op("ARG_MAX", eq.inputs, {"axis": int(axes[0])}, eq.source, outputs=eq.outputs)
    return True


def _and(builder: Builder, eq: Equation) -> bool:
    """LOGICAL_AND of masks; with one that is true throughout, the other."""
    true = [builder.view.scalar(v) == 1.0 for v in eq.inputs]
    if builder.avals[eq.outputs[0]].dtype != np.bool_:
        return False
    if any(true):
        other, shape = builder.resolve(eq.inputs[true.index(True) - 1]), builder.shape(eq.outputs[0])
        if builder.shape(other) != shape:
            other = builder.op("BROADCAST_TO", (other,), {"shape": shape}, eq.source, shape=shape)
        builder.becomes(eq.outputs[0], other)
        return True
    builder.op("LOGICAL_AND", _unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
    return True


def _select(builder: Builder, eq: Equation) -> bool:
    """SELECT by a mask that is a constant, an input, or a table of booleans."""
    if len(eq.inputs) != 3 or builder.avals[eq.inputs[0]].dtype != np.bool_:
        return False
    if not jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.floating):
        return False
    condition, otherwise, then = eq.inputs
    masked = any(abs(builder.view.scalar(v) or 0.0) >= MASK for v in (otherwise, then))
    if condition in builder.dynamic:
        condition = builder.resolve(_unbroadcast(builder, condition, eq.source))
        spread = builder.made.get(condition)
        condition = spread.inputs[0] if spread is not None and spread.kind == "BROADCAST_TO" else condition
    attrs = {"masked": True} if masked else {}
    builder.op("SELECT", (condition, then, otherwise), attrs, eq.source, outputs=eq.outputs)
    return True


def _square(builder: Builder, eq: Equation) -> bool:
    if eq.params.get("y", 2) != 2:
        return False
    builder.op("MUL", (eq.inputs[0], eq.inputs[0]), {}, eq.source, outputs=eq.outputs)
    return True


def _fake_quant(builder: Builder, eq: Equation) -> bool:
    if not builder.dynamic.isdisjoint(eq.inputs[1:]):
        return False
    builder.op("FAKE_QUANT", eq.inputs, {}, eq.source, outputs=eq.outputs)
    return True


# Sorted; what is not here becomes a float island.
RAISE: dict[str, Callable[[Builder, Equation], bool]] = {
    FAKE_QUANT: _fake_quant,
    "add": _binary("ADD"),
    "and": _and,
    "argmax": _arg_max,
    "broadcast_in_dim": movement.broadcast,
    "clamp": _clamp,
    "concatenate": movement.concatenate,
    "conv_general_dilated": conv_general_dilated,
    "convert_element_type": _convert,
    "copy": _alias,
    "copy_p": _alias,
    "div": _div,
    "dot_general": dot_general,
    "dynamic_slice": movement.dynamic_slice,
    "expand_dims": movement.reshape,
    "gather": movement.gather,
    "integer_pow": _square,
    "logistic": _unary("LOGISTIC"),
    "max": _clip("low"),
    "min": _clip("high"),
    "mul": _binary("MUL"),
    "name": _alias,
    "neg": _neg,
    "optimization_barrier": _alias,
    "pad": movement.pad,
    "reduce_max": _reduction("REDUCE_MAX"),
    "reduce_min": _reduction("REDUCE_MIN"),
    "reduce_sum": _sum,
    "reduce_window_max": movement.max_pool,
    "reshape": movement.reshape,
    "select_n": _select,
    "slice": movement.slice,
    "split": movement.split,
    "square": _square,
    "squeeze": movement.reshape,
    "stack": movement.stack,
    "stop_gradient": _unary("STOP_GRADIENT"),
    "sub": _binary("SUB"),
    "tanh": _unary("TANH"),
    "tile": movement.tile,
    "transpose": movement.transpose,
}
