"""Arithmetic of int32: indices, positions and lengths. One rule a primitive, `(builder, equation) -> bool`.

Such a tensor has no scale. TFLite's kernels of ADD, SUB and MUL of int32 wrap around, as XLA's operations do, so an
INTEGER op is exact at any operands. What TFLite has in some families alone is composed of what all have: `-x` is
`0 - x`, `abs(x)` is `max(x, 0 - x)`, the sign of x is `min(max(x, -1), 1)`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from jaxq.graph import arithmetic
from jaxq.graph.builder import Builder
from jaxq.graph.int_bounds import bounds
from jaxq.graph.ir import Equation

Rule = Callable[[Builder, Equation], bool]

INT32 = np.dtype(np.int32)
MOST_ENTRIES = 4096  # of a table that turns integers into real numbers
MOST_SHIFT = 30  # 2^31 is no int32


def binary(operator: str) -> Rule:
    """INTEGER by this operator, of two activations or of one and a constant."""

    def rule(builder: Builder, eq: Equation) -> bool:
        if not _all_int32(builder, eq):
            return False
        _write(builder, eq, operator, *arithmetic.unbroadcast_pair(builder, eq))
        return True

    return rule


def divide(builder: Builder, eq: Equation) -> bool:
    """DIV by a positive constant, rounded towards zero. Kernels refuse a divisor of 0, and abort at -2^31 / -1."""
    if not _all_int32(builder, eq) or not _positive(builder, eq.inputs[1]):
        return False
    _write(builder, eq, "DIV", *arithmetic.unbroadcast_pair(builder, eq))
    return True


def remainder(builder: Builder, eq: Equation) -> bool:
    """`x - (x / c) c`, which has the sign of x, for a positive constant c."""
    if not _all_int32(builder, eq) or not _positive(builder, eq.inputs[1]):
        return False
    x, c = arithmetic.unbroadcast_pair(builder, eq)
    whole = _made(builder, eq, "MUL", _made(builder, eq, "DIV", x, c), c)
    _write(builder, eq, "SUB", x, whole)
    return True


def negate(builder: Builder, eq: Equation) -> bool:
    """`0 - x`."""
    if not _all_int32(builder, eq):
        return False
    _write(builder, eq, "SUB", _number(builder, 0), eq.inputs[0])
    return True


def absolute(builder: Builder, eq: Equation) -> bool:
    """`max(x, 0 - x)`."""
    if not _all_int32(builder, eq):
        return False
    _write(builder, eq, "MAXIMUM", eq.inputs[0], _made(builder, eq, "SUB", _number(builder, 0), eq.inputs[0]))
    return True


def sign(builder: Builder, eq: Equation) -> bool:
    """`min(max(x, -1), 1)`."""
    return _all_int32(builder, eq) and _clamped(builder, eq, _number(builder, -1), eq.inputs[0], _number(builder, 1))


def clamp(builder: Builder, eq: Equation) -> bool:
    """`min(max(x, low), high)`."""
    low, x, high = eq.inputs
    return _all_int32(builder, eq) and _clamped(builder, eq, low, x, high)


def _clamped(builder: Builder, eq: Equation, low: int, x: int, high: int) -> bool:
    _write(builder, eq, "MINIMUM", _made(builder, eq, "MAXIMUM", x, low), high)
    return True


def power(builder: Builder, eq: Equation) -> bool:
    """x times x, as often as the exponent says."""
    exponent = int(eq.params.get("y", 2))
    if not _all_int32(builder, eq) or not 2 <= exponent <= 8:
        return False
    x = eq.inputs[0]
    y = functools.reduce(lambda y, _: _made(builder, eq, "MUL", y, x), range(exponent - 2), x)
    _write(builder, eq, "MUL", y, x)
    return True


def shift(operator: str) -> Rule:
    """A shift by a constant: to the left MUL, to the right FLOOR_DIV by a power of two."""

    def rule(builder: Builder, eq: Equation) -> bool:
        places = builder.view.scalar(eq.inputs[1])
        if not _all_int32(builder, eq) or places is None or not 0 <= places <= MOST_SHIFT:
            return False
        _write(builder, eq, operator, eq.inputs[0], _number(builder, 2 ** int(places)))
        return True

    return rule


def bitwise_and(builder: Builder, eq: Equation) -> bool:
    """The last bits: `x & (2^k - 1)` is FLOOR_MOD by 2^k."""
    numbers = [builder.view.scalar(v) for v in eq.inputs]
    if not _all_int32(builder, eq) or numbers.count(None) != 1:
        return False
    side = numbers.index(None)
    modulus = int(numbers[1 - side] or 0) + 1
    if modulus < 2 or modulus & (modulus - 1) or modulus > 2**MOST_SHIFT:
        return False
    _write(builder, eq, "FLOOR_MOD", eq.inputs[side], _number(builder, modulus))
    return True


def total(builder: Builder, eq: Equation) -> bool:
    """SUM, wrapping."""
    if not _all_int32(builder, eq):
        return False
    attrs = {"axes": tuple(int(a) for a in eq.params["axes"]), "keepdims": False}
    builder.op("SUM", eq.inputs, attrs, eq.source, outputs=eq.outputs)
    return True


def as_number(builder: Builder, eq: Equation) -> bool:
    """Integers between known bounds, as real numbers: a look-up of these. A length is one, and what an ARG_MAX finds.

    TFLite has a CAST to float32, behind which a file of integers would need a QUANTIZE.
    """
    if builder.avals[eq.inputs[0]].dtype != INT32 or not _is_real(builder, eq.outputs[0]):
        return False
    low, high = bounds(builder, eq.inputs[0])
    if not (math.isfinite(low) and math.isfinite(high) and high - low < MOST_ENTRIES):
        return False
    numbers = builder.weight(lambda: np.arange(low, high + 1, dtype=np.float32), (), (int(high - low) + 1,))
    x = eq.inputs[0] if low == 0 else _made(builder, eq, "SUB", eq.inputs[0], _number(builder, int(low)))
    builder.op("EMBEDDING", (x, numbers), {}, eq.source, outputs=eq.outputs)
    return True


def _is_real(builder: Builder, value: int) -> bool:
    return jnp.issubdtype(builder.avals[value].dtype, jnp.floating)


def _all_int32(builder: Builder, eq: Equation) -> bool:
    return all(builder.avals[v].dtype == INT32 for v in (*eq.inputs, *eq.outputs))


def _positive(builder: Builder, value: int) -> bool:
    number = None if value in builder.dynamic else builder.view.scalar(value)
    return number is not None and number > 0


def _number(builder: Builder, number: int) -> int:
    return builder.weight(lambda: np.full((), number, np.int32), (), (), dtype=INT32)


def _attrs(operator: str) -> tuple[str, dict[str, str]]:
    return (operator, {}) if operator.startswith("FLOOR") else ("INTEGER", {"operator": operator})


def _write(builder: Builder, eq: Equation, operator: str, *operands: int) -> None:
    kind, attrs = _attrs(operator)
    builder.op(kind, operands, attrs, eq.source, outputs=eq.outputs)


def _made(builder: Builder, eq: Equation, operator: str, *operands: int) -> int:
    """A step on the way to the result, in the shape that its operands broadcast to."""
    kind, attrs = _attrs(operator)
    value = builder.new(np.broadcast_shapes(*(builder.shape(v) for v in operands)), INT32)
    return builder.op(kind, operands, attrs, eq.source, outputs=(value,))
