"""Arrays of zeros and ones behind additive masks: `(1 - mask) * -1e9`, whatever dtype the mask has.

A mask that is an input has a dtype and no range, so that it is recognised by what is made of it: arithmetic with
numbers that gives zero for one of 0 and 1, and for the other a number beyond `MASK`.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Mapping
from typing import NamedTuple

import numpy as np

from jaxq.graph.ir import Equation
from jaxq.graph.unification import View

ARITHMETIC: Mapping[str, Callable[..., np.float32]] = {
    "add": np.add,
    "div": np.divide,
    "mul": np.multiply,
    "neg": np.negative,
    "sub": np.subtract,
}
SAME = frozenset({"convert_element_type", "copy", "copy_p", "stop_gradient"})
MOVING = frozenset({"broadcast_in_dim", "expand_dims", "reshape", "squeeze", "transpose"})
PRODUCTS = frozenset({"max", "min", "mul"})  # of zeros and ones: zeros and ones


class Indicator(NamedTuple):
    """root: an array of zeros and ones, or a boolean one. numbers: what is made of 1 and of 0. moves: equations that
    change its shape on the way, in order.
    """

    root: int
    numbers: tuple[float, float]
    moves: tuple[Equation, ...]


def behind(view: View, dynamic: Container[int], inputs: Container[int], value: int) -> Indicator | None:
    """The array of zeros and ones that a value is made of by arithmetic with numbers; None for any other value."""
    steps: list[Equation] = []
    while not _is_root(view, inputs, value):
        eq = view.producer.get(value)
        operands = [] if eq is None else [v for v in eq.inputs if v in dynamic]
        if eq is None or len(operands) != 1 or not _is_step(view, eq, operands[0]):
            return None
        steps.append(eq)
        value = operands[0]
    steps.reverse()
    moves = tuple(eq for eq in steps if eq.primitive in MOVING)
    return Indicator(value, (_computed(view, steps, 1.0), _computed(view, steps, 0.0)), moves)


def _is_root(view: View, inputs: Container[int], value: int) -> bool:
    eq = view.producer.get(value)
    if value in inputs or view.trace.avals[value].dtype == np.bool_:
        return True
    return eq is not None and eq.primitive in PRODUCTS and all(_zeros_and_ones(view, inputs, v) for v in eq.inputs)


def _zeros_and_ones(view: View, inputs: Container[int], value: int) -> bool:
    """Whether a value is a mask if the inputs that it is made of are: what is moved, or a product of two."""
    eq = view.producer.get(value)
    if eq is not None and eq.primitive in SAME | MOVING:
        return _zeros_and_ones(view, inputs, eq.inputs[0])
    return _is_root(view, inputs, value)


def _is_step(view: View, eq: Equation, operand: int) -> bool:
    if eq.primitive in SAME | MOVING:
        return True
    if eq.primitive == "select_n":
        cases = eq.inputs[1:]
        return operand == eq.inputs[0] and len(cases) == 2 and None not in map(view.scalar, cases)
    return eq.primitive in ARITHMETIC and all(v == operand or view.scalar(v) is not None for v in eq.inputs)


def _computed(view: View, steps: list[Equation], number: float) -> float:
    for eq in steps:
        if eq.primitive in ARITHMETIC:
            numbers = [np.float32(number if (c := view.scalar(v)) is None else c) for v in eq.inputs]
            with np.errstate(all="ignore"):
                number = float(ARITHMETIC[eq.primitive](*numbers))
        elif eq.primitive == "select_n":
            number = view.scalar(eq.inputs[1 + int(number)]) or 0.0
    return number
