"""From JAX primitives to ops of TFLite's size: `RAISE`, one rule a primitive.

A rule `(builder, equation) -> bool` appends ops and says whether it could. What no rule takes becomes a FLOAT op,
executed as recorded: a float island. Equations that touch no activation are weight arithmetic and pass unchanged.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ControlFlowError
from jaxq.graph import arithmetic, indexing, integers, masks, matchers, movement, pools, reductions, sorting, updates
from jaxq.graph.builder import MOVES, Builder
from jaxq.graph.capture import FAKE_QUANT
from jaxq.graph.contractions import conv_general_dilated, dot_general
from jaxq.graph.ir import Equation
from jaxq.graph.tables import Regions
from jaxq.graph.unification import Match

Rule = Callable[[Builder, Equation], bool]

# Control flow, and what to write in its place.
REMEDIES = {
    "cond": "Choose the branch in Python, by a flag that is no array, or compute both and choose with jnp.where",
    "scan": "Unroll it (a Python loop over layers)",
    "while": "Unroll it (a Python loop over layers)",
}


def raise_equations(builder: Builder, outputs: Sequence[int]) -> None:
    """Append to `builder` the ops that compute `outputs`; what nothing needs is left out."""
    matches = _needed(builder, Regions(builder.view, builder.dynamic), outputs)
    for eq in builder.view.trace.equations:
        read = not builder.dynamic.isdisjoint(eq.inputs)
        if read and (zeros := tuple(v for v in eq.outputs if v in builder.zeros)):
            builder.weights.append(_zeros(builder, eq, zeros))
        if not read:
            builder.weights.append(eq)
        elif (found := next((v for v in eq.outputs if v in matches), None)) is not None:
            _emit(builder, eq, matches[found])


def _zeros(builder: Builder, eq: Equation, values: tuple[int, ...]) -> Equation:
    """What vanishes, as weights: real numbers in float32, indices and masks in their own type."""
    avals = [builder.avals[v] for v in values]

    def call() -> Any:
        return [np.zeros(a.shape, np.float32 if jnp.issubdtype(a.dtype, jnp.floating) else a.dtype) for a in avals]

    return Equation("weight", (), values, {}, call, eq.source)


def _needed(builder: Builder, regions: Regions, outputs: Sequence[int]) -> dict[int, Match | None]:
    """The activations to compute, from the last back: each with the pattern or the region that makes it, or None."""
    needed, matches = set(outputs), {}
    for eq in reversed(builder.view.trace.equations):
        if needed.isdisjoint(eq.outputs) or builder.dynamic.isdisjoint(eq.inputs):
            continue
        if builder.zeros.issuperset(eq.outputs):
            continue
        match = _match(builder, eq) or _table(regions, eq) or _quotient(builder, regions, eq)
        needed.update(match.inputs if match else eq.inputs)
        needed.update(_unbroadcast_sources(builder, match.inputs if match else eq.inputs))
        matches[eq.outputs[0]] = match
    return matches


def _match(builder: Builder, eq: Equation) -> Match | None:
    """The op that computes an equation's result; not a PRELU whose slopes are computed from the model's inputs."""
    match = matchers.find(builder.view, eq)
    return None if match is not None and match.kind == "PRELU" and match.inputs[1] in builder.dynamic else match


def _table(regions: Regions, eq: Equation) -> Match | None:
    region = regions.of(eq.outputs[0])
    return None if region is None else Match("TABLE", region.inputs, {"of": region.primitives}, region.call)


def _quotient(builder: Builder, regions: Regions, eq: Equation) -> Match | None:
    """One activation over another: the first times a table of reciprocals of the second."""
    if eq.primitive != "div" or not builder.dynamic.issuperset(eq.inputs):
        return None
    if not jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.floating):
        return None
    divisor = arithmetic.before_broadcast(builder, eq.inputs[1])
    region = regions.between(regions.source.get(divisor, divisor), divisor)

    def reciprocal(*arguments: jax.Array) -> Sequence[jax.Array]:
        return [1.0 / x for x in region.call(*arguments)]

    attrs = {"of": (*region.primitives, "reciprocal")}
    return Match("DIV", (eq.inputs[0], *region.inputs), attrs, reciprocal)


def _times_reciprocal(builder: Builder, eq: Equation, match: Match) -> None:
    shape = builder.shape(arithmetic.before_broadcast(builder, eq.inputs[1]))
    one_over = builder.op("TABLE", match.inputs[1:], match.attrs, eq.source, shape=shape, call=match.call)
    one_over = arithmetic.in_place_of(builder, one_over, eq.inputs[1], eq.source)
    builder.op("MUL", (match.inputs[0], one_over), {}, eq.source, outputs=eq.outputs)


# Matches that are more than one op.
COMPOSED = {
    "AVERAGE_POOL_1D": pools.average_pool_1d,
    "DIV": _times_reciprocal,
    "SOFTMAX": reductions.softmax,
    "VARIANCE": reductions.variance,
}


def _unbroadcast_sources(builder: Builder, values: Sequence[int]) -> list[int]:
    producers = [builder.view.producer.get(v) for v in values]
    return [eq.inputs[0] for eq in producers if eq is not None and eq.primitive == "broadcast_in_dim"]


def _emit(builder: Builder, eq: Equation, match: Match | None) -> None:
    if match is not None:
        if match.kind in COMPOSED:
            COMPOSED[match.kind](builder, eq, match)
        else:
            builder.op(match.kind, match.inputs, match.attrs, eq.source, outputs=eq.outputs, call=match.call)
        return
    if eq.primitive in REMEDIES:
        raise ControlFlowError(
            f"`{eq.primitive}` at {eq.source} runs over activations; an integer graph for a device is static and "
            f"has no control flow. {REMEDIES[eq.primitive]}, or move it out of the model."
        )
    rule = RAISE.get(eq.primitive)
    if rule is None or not rule(builder, eq):
        _island(builder, eq)


def _island(builder: Builder, eq: Equation) -> None:
    attrs = {"primitive": str(eq.params.get("name", eq.primitive))}
    builder.op("FLOAT", eq.inputs, attrs, eq.source, outputs=eq.outputs, call=eq.call)


# --- elementwise ----------------------------------------------------------------------------------------------------


def _unary(kind: str) -> Rule:
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
    if masks.as_mask(builder, eq) or masks.as_number(builder, eq) or integers.as_number(builder, eq):
        return True
    real = jnp.issubdtype(source, jnp.floating) or _moved_from(builder, eq.inputs[0]) in builder.graph_inputs
    return bool(jnp.issubdtype(target, jnp.floating) and real) and _alias(builder, eq)


PARTS = frozenset({"REVERSE_V2", "SLICE", "SPLIT", "STRIDED_SLICE"})


def _moved_from(builder: Builder, value: int) -> int:
    """The value that ops which only move numbers have made this one of."""
    made = builder.made.get(builder.resolve(value))
    while made is not None and made.kind in MOVES | PARTS:
        value = made.inputs[0]
        made = builder.made.get(builder.resolve(value))
    return builder.resolve(value)


def _fake_quant(builder: Builder, eq: Equation) -> bool:
    if not builder.dynamic.isdisjoint(eq.inputs[1:]):
        return False
    builder.op("FAKE_QUANT", eq.inputs, {}, eq.source, outputs=eq.outputs)
    return True


def _of_reals(rule: Rule, of_integers: Rule | None = None) -> Rule:
    """`rule`, but for integers `of_integers`: arithmetic of indices has no scale, so that its ops are others."""

    def by_dtype(builder: Builder, eq: Equation) -> bool:
        if jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.floating):
            return rule(builder, eq)
        return of_integers is not None and of_integers(builder, eq)

    return by_dtype


def _either(*rules: Rule) -> Rule:
    """The first rule that takes an equation."""
    return lambda builder, eq: any(rule(builder, eq) for rule in rules)


# Sorted; what is not here becomes a float island.
RAISE: dict[str, Rule] = {
    FAKE_QUANT: _fake_quant,
    "abs": integers.absolute,
    "add": masks.around("ADD", _of_reals(arithmetic.binary("ADD"), integers.binary("ADD"))),
    "and": _either(masks.logical("LOGICAL_AND", True), integers.bitwise_and),
    "argmax": reductions.arg("ARG_MAX"),
    "argmin": reductions.arg("ARG_MIN"),
    "broadcast_in_dim": movement.broadcast,
    "clamp": _of_reals(arithmetic.clamp, integers.clamp),
    "concatenate": movement.concatenate,
    "conv_general_dilated": conv_general_dilated,
    "convert_element_type": _convert,
    "copy": _alias,
    "copy_p": _alias,
    "cummax": _of_reals(reductions.running("MAXIMUM")),
    "cummin": _of_reals(reductions.running("MINIMUM")),
    "cumprod": _of_reals(reductions.running("MUL")),
    "cumsum": reductions.running_sum,
    "div": masks.around("DIV", _of_reals(arithmetic.divide, integers.divide)),
    "dot_general": dot_general,
    "dynamic_slice": movement.dynamic_slice,
    "dynamic_update_slice": updates.dynamic_update_slice,
    "eq": masks.compare("EQUAL"),
    "expand_dims": movement.reshape,
    "gather": indexing.gather,
    "ge": masks.compare("GREATER_EQUAL"),
    "gt": masks.compare("GREATER"),
    "integer_pow": _of_reals(arithmetic.square, integers.power),
    "le": masks.compare("LESS_EQUAL"),
    "logistic": _unary("LOGISTIC"),
    "lt": masks.compare("LESS"),
    "max": _of_reals(arithmetic.clip("low"), integers.binary("MAXIMUM")),
    "min": _of_reals(arithmetic.clip("high"), integers.binary("MINIMUM")),
    "mul": masks.around("MUL", _of_reals(arithmetic.binary("MUL"), integers.binary("MUL"))),
    "name": _alias,
    "ne": masks.compare("NOT_EQUAL"),
    "neg": masks.around("NEG", _of_reals(arithmetic.negate, integers.negate)),
    "not": masks.logical_not,
    "optimization_barrier": _alias,
    "or": masks.logical("LOGICAL_OR", False),
    "pad": updates.pad,
    "reduce_and": masks.reduced("REDUCE_MIN"),
    "reduce_max": reductions.reduction("REDUCE_MAX"),
    "reduce_min": reductions.reduction("REDUCE_MIN"),
    "reduce_or": masks.reduced("REDUCE_MAX"),
    "reduce_prod": _of_reals(reductions.product),
    "reduce_sum": _of_reals(reductions.total, integers.total),
    "reduce_window_max": pools.max_pool,
    "reduce_window_min": pools.min_pool,
    "reduce_window_sum": pools.sum_pool,
    "rem": integers.remainder,
    "reshape": movement.reshape,
    "rev": movement.reverse,
    "scatter": updates.scatter(None),
    "scatter-add": updates.scatter(0.0, "ADD"),
    "scatter-max": updates.scatter(None, "MAXIMUM"),
    "scatter-min": updates.scatter(None, "MINIMUM"),
    "scatter-mul": updates.scatter(1.0, "MUL"),
    "select_n": masks.select,
    "shift_left": integers.shift("MUL"),
    "shift_right_arithmetic": integers.shift("FLOOR_DIV"),
    "sign": integers.sign,
    "slice": movement.slice,
    "sort": sorting.sort,
    "split": movement.split,
    "square": _of_reals(arithmetic.square, integers.power),
    "squeeze": movement.reshape,
    "stack": movement.stack,
    "stop_gradient": _unary("STOP_GRADIENT"),
    "sub": masks.around("SUB", _of_reals(arithmetic.binary("SUB"), integers.binary("SUB"))),
    "tanh": _unary("TANH"),
    "tile": movement.tile,
    "top_k": sorting.top_k,
    "transpose": movement.transpose,
    "xor": masks.exclusive_or,
}
