"""Masks: booleans that select between numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from jaxq.graph import arithmetic
from jaxq.graph.builder import MOVES, Builder
from jaxq.graph.ir import MASK, Equation

Rule = Callable[[Builder, Equation], bool]

ARITHMETIC: Mapping[str, Callable[..., np.float32]] = {
    "ADD": np.add,
    "DIV": np.divide,
    "MUL": np.multiply,
    "NEG": np.negative,
    "SUB": np.subtract,
}


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
    """A mask in arithmetic: 1 where it holds, else 0."""
    if builder.avals[eq.inputs[0]].dtype != np.bool_:
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
    then, otherwise = (builder.full(number, ()) for number in choice[1:])
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
        chosen = bool(builder.choices) and (_fold(builder, eq, kind) or _mask_out(builder, eq, kind))
        return chosen or rule(builder, eq)

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
    with np.errstate(all="ignore"):
        results = [_computed(kind, numbers, c) for c in choice[1:]]
    if not np.all(np.isfinite(results)):
        return False
    _choose(builder, eq, Choice(choice.mask, *results))
    return True


def _computed(kind: str, numbers: Sequence[float | None], chosen: float) -> float:
    return float(ARITHMETIC[kind](*(np.float32(chosen if number is None else number) for number in numbers)))


def _mask_out(builder: Builder, eq: Equation, kind: str) -> bool:
    """What is added is zero or beyond MASK: a SELECT of the sum or of that number."""
    if kind not in {"ADD", "SUB"} or not builder.dynamic.issuperset(eq.inputs):
        return False
    for side in (1, 0) if kind == "ADD" else (1,):
        choice = _chosen(builder, arithmetic.unbroadcast(builder, eq.inputs[side], eq.source), eq.source)
        scores = eq.inputs[1 - side]
        if choice is None or builder.shape(scores) != builder.shape(eq.outputs[0]):
            continue
        signed = [c if kind == "ADD" else -c for c in choice[1:]]
        if sorted(map(bool, signed)) == [False, True] and max(map(abs, signed)) >= MASK:
            cases = [builder.full(number, ()) if number else scores for number in signed]
            builder.op("SELECT", (choice.mask, *cases), _masked(*signed), eq.source, outputs=eq.outputs)
            return True
    return False


def logical_and(builder: Builder, eq: Equation) -> bool:
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
    builder.op("LOGICAL_AND", arithmetic.unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
    return True


def select(builder: Builder, eq: Equation) -> bool:
    """SELECT by a mask that is a constant, an input, or a table of booleans."""
    if len(eq.inputs) != 3 or builder.avals[eq.inputs[0]].dtype != np.bool_:
        return False
    if not jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.floating):
        return False
    condition, otherwise, then = eq.inputs
    numbers = [builder.view.scalar(v) for v in (then, otherwise)]
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
