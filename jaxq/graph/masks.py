"""Masks: booleans that select between numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxq.graph import arithmetic, indicators
from jaxq.graph.builder import MOVES, Builder
from jaxq.graph.ir import MASK, Equation, with_ones

Rule = Callable[[Builder, Equation], bool]

ARITHMETIC: Mapping[str, Callable[..., np.float32]] = {
    name.upper(): call for name, call in indicators.ARITHMETIC.items()
}


COMPARISONS: Mapping[str, Callable[..., Any]] = {
    "eq": jnp.equal,
    "ge": jnp.greater_equal,
    "gt": jnp.greater,
    "le": jnp.less_equal,
    "lt": jnp.less,
    "ne": jnp.not_equal,
}


INDICATOR = "indicator"  # attribute of an op that takes an array of zeros and ones for a mask


class Choice(NamedTuple):
    """A value that is one of two numbers: `then` where the mask holds, else `otherwise`."""

    mask: int
    then: float
    otherwise: float


def compare(relation: str) -> Rule:
    """COMPARE of integers or of masks. Real numbers are no matter of this rule: beside a constant they are a table."""

    def rule(builder: Builder, eq: Equation) -> bool:
        if any(jnp.issubdtype(builder.avals[v].dtype, jnp.floating) for v in eq.inputs):
            return False
        pair = arithmetic.unbroadcast_pair(builder, eq)
        builder.op("COMPARE", pair, {"relation": relation}, eq.source, outputs=eq.outputs)
        return True

    return rule


def logical_not(builder: Builder, eq: Equation) -> bool:
    """COMPARE of a mask with false."""
    if builder.avals[eq.inputs[0]].dtype != np.bool_:
        return False
    false = builder.weight(lambda: np.zeros((), np.bool_), (), (), dtype=np.dtype(np.bool_))
    builder.op("COMPARE", (eq.inputs[0], false), {"relation": "EQUAL"}, eq.source, outputs=eq.outputs)
    return True


def as_number(builder: Builder, eq: Equation) -> bool:
    """A mask in arithmetic: 1 where it holds, else 0; also one that was an int32 for a while."""
    held = builder.avals[eq.inputs[0]].dtype
    if builder.avals[eq.outputs[0]].dtype == np.bool_:
        return False
    if jnp.issubdtype(held, jnp.integer) and (choice := _chosen(builder, eq.inputs[0], eq.source)) is not None:
        _choose(builder, eq, choice)
        return True
    if held != np.bool_:
        return False
    _choose(builder, eq, Choice(builder.resolve(eq.inputs[0]), 1.0, 0.0))
    return True


def as_mask(builder: Builder, eq: Equation) -> bool:
    """A mask that was a number for a while."""
    choice = _chosen(builder, eq.inputs[0], eq.source)
    if builder.avals[eq.outputs[0]].dtype != np.bool_ or choice is None or not choice.then or choice.otherwise:
        return False
    builder.becomes(eq.outputs[0], choice.mask)
    return True


def _choose(builder: Builder, eq: Equation, choice: Choice) -> None:
    dtype = builder.avals[eq.outputs[0]].dtype
    dtype = dtype if jnp.issubdtype(dtype, jnp.integer) else np.dtype(np.float32)
    then, otherwise = (
        builder.weight(lambda number=number: np.full((), number, dtype), (), (), dtype=dtype) for number in choice[1:]
    )
    attrs = _masked(choice.then, choice.otherwise)
    made = builder.op("SELECT", (choice.mask, then, otherwise), attrs, eq.source, outputs=eq.outputs)
    builder.choices[made] = choice


def _masked(*numbers: float) -> dict[str, float]:
    """The number that stands for "not this one"."""
    found = [number for number in numbers if abs(number) >= MASK]
    return {"masked": found[0]} if found else {}


def _chosen(builder: Builder, value: int, source: str) -> Choice | None:
    """What a value chooses between, behind the moves that have made its shape."""
    value = builder.resolve(value)
    move = builder.made.get(value)
    if value in builder.choices or move is None or move.kind not in MOVES:
        return builder.choices.get(value)
    choice = _chosen(builder, move.inputs[0], source)
    if choice is None:
        return None
    return choice._replace(mask=builder.op(move.kind, (choice.mask,), move.attrs, source, shape=builder.shape(value)))


def around(kind: str, rule: Rule) -> Rule:
    """`rule`, but for a mask that takes part in arithmetic.

    `(1 - mask) * -1e9` is one SELECT; added to scores, a SELECT of them: an addition of -1e9 would leave no integers
    for the scores.
    """

    def with_choice(builder: Builder, eq: Equation) -> bool:
        folded = bool(builder.choices) and _fold(builder, eq, kind)
        return folded or _mask_out(builder, eq, kind) or rule(builder, eq)

    return with_choice


def _fold(builder: Builder, eq: Equation, kind: str) -> bool:
    """Arithmetic of a choice, beside a number or alone, done on both of its numbers."""
    numbers = [builder.view.scalar(v) for v in eq.inputs]
    if numbers.count(None) != 1:
        return False
    side = numbers.index(None)
    choice = _chosen(builder, eq.inputs[side], eq.source)
    if choice is None or builder.shape(eq.inputs[side]) != builder.shape(eq.outputs[0]):
        return False
    if jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.integer):
        results = _integer_results(kind, numbers, choice)
    else:
        with np.errstate(all="ignore"):
            results = [_computed(kind, numbers, c) for c in choice[1:]]
    if not np.all(np.isfinite(results)):
        return False
    _choose(builder, eq, Choice(choice.mask, *results))
    return True


def _integer_results(kind: str, numbers: Sequence[float | None], choice: Choice) -> list[float]:
    """Of int32 that stays inside; infinite for a division, which rounds, and for what wraps around."""
    call = ARITHMETIC[kind]
    found = [float(call(*(np.float64(c if n is None else n) for n in numbers))) for c in choice[1:]]
    inside = kind != "DIV" and all(abs(number) < 2.0**31 for number in found)
    return found if inside else [np.inf for _ in found]


def _computed(kind: str, numbers: Sequence[float | None], chosen: float) -> float:
    return float(ARITHMETIC[kind](*(np.float32(chosen if number is None else number) for number in numbers)))


def _mask_out(builder: Builder, eq: Equation, kind: str) -> bool:
    """What is added is zero or beyond MASK: a SELECT of the sum or of that number."""
    if kind not in {"ADD", "SUB"} or not builder.dynamic.issuperset(eq.inputs):
        return False
    for side in (1, 0) if kind == "ADD" else (1,):
        scores = eq.inputs[1 - side]
        if builder.shape(scores) != builder.shape(eq.outputs[0]):
            continue
        choice = _summand(builder, eq.inputs[side], eq.source, 1 if kind == "ADD" else -1)
        if choice is not None:
            signed = [c if kind == "ADD" else -c for c in choice[1:]]
            cases = [builder.full(number, ()) if number else scores for number in signed]
            builder.op("SELECT", (choice.mask, *cases), _masked(*signed), eq.source, outputs=eq.outputs)
            return True
    return False


def _summand(builder: Builder, value: int, source: str, sign: int) -> Choice | None:
    """What is added to scores as a choice between zero and a number beyond MASK; one that is made of an input that may
    be no mask only where it is far below zero.
    """
    choice = None
    if builder.choices:
        choice = _chosen(builder, arithmetic.unbroadcast(builder, value, source), source)
    if choice is not None:
        return choice if _masks(*choice[1:]) else None
    found = indicators.behind(builder.view, builder.dynamic, builder.graph_inputs, value)
    if found is None or not _masks(*found.numbers) or sign * sum(found.numbers) > 0:
        return None
    condition = _condition(builder, found, source)
    return None if condition is None else Choice(condition, *found.numbers)


def _masks(then: float, otherwise: float) -> bool:
    return sorted(map(bool, (then, otherwise))) == [False, True] and max(abs(then), abs(otherwise)) >= MASK


def _condition(builder: Builder, found: indicators.Indicator, source: str) -> int | None:
    """Where an array of zeros and ones holds one, in the shape of what is made of it; None where it was not kept."""
    dtype, shape = builder.avals[found.root].dtype, builder.shape(found.root)
    mask = builder.resolve(found.root)
    if jnp.issubdtype(dtype, jnp.floating):
        mask = builder.new(shape, np.dtype(np.bool_))
        attrs = {"of": ("gt",), INDICATOR: True}
        builder.op("TABLE", (found.root,), attrs, source, outputs=(mask,), call=lambda x: [x > 0.5])
    elif dtype != np.bool_:
        zero = builder.weight(lambda: np.zeros((), dtype), (), (), dtype=np.dtype(dtype))
        compared = builder.new(shape, np.dtype(np.bool_))
        builder.op("COMPARE", (mask, zero), {"relation": "NOT_EQUAL", INDICATOR: True}, source, outputs=(compared,))
        mask = compared
    elif mask not in builder.made and mask not in builder.graph_inputs:
        compared = _compared(builder, builder.view.producer[found.root])
        if compared is None:
            return None
        mask = compared
    for i, eq in enumerate(found.moves):
        mask = _moved(builder, eq, mask, spread=i < len(found.moves) - 1)
    return mask


def _compared(builder: Builder, eq: Equation) -> int | None:
    """A comparison of a real number with a constant, as a table of booleans."""
    numbers = [builder.view.scalar(v) for v in eq.inputs]
    if eq.primitive not in COMPARISONS or numbers.count(None) != 1:
        return None
    value = builder.resolve(eq.inputs[numbers.index(None)])
    if value not in builder.made and value not in builder.graph_inputs:
        return None

    def call(x: Any) -> list[Any]:
        return [COMPARISONS[eq.primitive](*(x if number is None else number for number in numbers))]

    mask = builder.new(builder.shape(eq.outputs[0]), np.dtype(np.bool_))
    return builder.op("TABLE", (value,), {"of": (eq.primitive,)}, eq.source, outputs=(mask,), call=call)


def _moved(builder: Builder, eq: Equation, mask: int, spread: bool) -> int:
    """A mask after a move; the last broadcast is left to the SELECT."""
    if eq.primitive == "transpose":
        return builder.transpose(mask, eq.params["permutation"], eq.source)
    shape = builder.shape(eq.outputs[0])
    if eq.primitive != "broadcast_in_dim":
        return builder.reshape(mask, shape, eq.source)
    mask = builder.reshape(mask, with_ones(eq.params, builder.shape(mask)), eq.source)
    if spread and builder.shape(mask) != shape:
        return builder.op("BROADCAST_TO", (mask,), {"shape": shape}, eq.source, shape=shape)
    return mask


def logical(kind: str, neutral: bool) -> Rule:
    """LOGICAL_AND or LOGICAL_OR of masks; with one that is `neutral` throughout, the other."""

    def rule(builder: Builder, eq: Equation) -> bool:
        if builder.avals[eq.outputs[0]].dtype != np.bool_:
            return False
        no_change = [builder.view.scalar(v) == float(neutral) for v in eq.inputs]
        if any(no_change):
            _spread_mask(builder, eq, eq.inputs[no_change.index(True) - 1])
        else:
            builder.op(kind, arithmetic.unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
        return True

    return rule


def _spread_mask(builder: Builder, eq: Equation, mask: int) -> None:
    """A mask as the result of an equation, in its shape."""
    mask, shape = builder.resolve(mask), builder.shape(eq.outputs[0])
    if builder.shape(mask) != shape:
        mask = builder.op("BROADCAST_TO", (mask,), {"shape": shape}, eq.source, shape=shape)
    builder.becomes(eq.outputs[0], mask)


def exclusive_or(builder: Builder, eq: Equation) -> bool:
    """COMPARE of two masks: where they differ."""
    if builder.avals[eq.outputs[0]].dtype != np.bool_:
        return False
    pair = arithmetic.unbroadcast_pair(builder, eq)
    builder.op("COMPARE", pair, {"relation": "NOT_EQUAL"}, eq.source, outputs=eq.outputs)
    return True


def reduced(kind: str) -> Rule:
    """Whether any or all of a mask hold: REDUCE_MAX or REDUCE_MIN of ones and zeros, compared with zero."""

    def rule(builder: Builder, eq: Equation) -> bool:
        mask = builder.resolve(eq.inputs[0])
        if builder.avals[mask].dtype != np.bool_:
            return False
        one, zero = (
            builder.weight(lambda n=n: np.full((), n, np.int32), (), (), dtype=np.dtype(np.int32)) for n in (1, 0)
        )
        numbers = builder.new(builder.shape(mask), np.dtype(np.int32))
        builder.op("SELECT", (mask, one, zero), {}, eq.source, outputs=(numbers,))
        found = builder.new(builder.shape(eq.outputs[0]), np.dtype(np.int32))
        attrs = {"axes": tuple(int(a) for a in eq.params["axes"]), "keepdims": False}
        builder.op(kind, (numbers,), attrs, eq.source, outputs=(found,))
        builder.op("COMPARE", (found, zero), {"relation": "NOT_EQUAL"}, eq.source, outputs=eq.outputs)
        return True

    return rule


def select(builder: Builder, eq: Equation) -> bool:
    """SELECT of real numbers or of int32 by a mask that is a constant, an input, or a table of booleans."""
    if len(eq.inputs) != 3 or builder.avals[eq.inputs[0]].dtype != np.bool_:
        return False
    dtype = builder.avals[eq.outputs[0]].dtype
    if dtype != np.int32 and not jnp.issubdtype(dtype, jnp.floating):
        return False
    condition, otherwise, then = eq.inputs
    numbers = [builder.view.scalar(v) for v in (then, otherwise)]
    if (always := builder.view.scalar(condition)) is not None:
        builder.becomes(eq.outputs[0], builder.resolve(then if always else otherwise))
        return True
    if condition in builder.dynamic:
        condition = builder.resolve(arithmetic.unbroadcast(builder, condition, eq.source))
        spread = builder.made.get(condition)
        condition = spread.inputs[0] if spread is not None and spread.kind == "BROADCAST_TO" else condition
    if None not in numbers and builder.shape(condition) == builder.shape(eq.outputs[0]):
        _choose(builder, eq, Choice(condition, *(float(number or 0.0) for number in numbers)))
        return True
    attrs = _masked(*(number or 0.0 for number in numbers))
    builder.op("SELECT", (condition, then, otherwise), attrs, eq.source, outputs=eq.outputs)
    return True


def choose(builder: Builder, inputs: Sequence[int], number: float, source: str) -> int:
    """SELECT by a constant mask. inputs: the mask, a constant of `number`, and x, whose shape the result has."""
    return builder.op("SELECT", inputs, _masked(number), source, shape=builder.shape(inputs[2]))
