"""Rules of operator versions, by `jaxq.export.operators`.

A runtime refuses a version that it does not know. So a version above the lowest shuts out old runtimes for nothing,
and one below it promises them an operator that they do not have.
"""

from __future__ import annotations

from collections.abc import Iterator

from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import is_integer, of_kinds, read_at
from jaxq.export.operators import OPERATORS, call_of, lowest_version
from jaxq.export.program import Operator, Program


def too_low(program: Program) -> Iterator[Spot]:
    """The version can compute on int8."""
    for i, op, least in _versions(program):
        if op.version < least:
            yield Spot(f"has version {op.version}; on int8 it is {least}", i)


def too_high(program: Program) -> Iterator[Spot]:
    """The version is the least that can compute it."""
    for i, op, least in _versions(program):
        if op.version > least:
            yield Spot(f"has version {op.version}; {least} is enough", i)


def _versions(program: Program) -> Iterator[tuple[int, Operator, int]]:
    """Operators that read int8, with their lowest versions."""
    for i, op in of_kinds(program, *(kind for kind, facts in OPERATORS.items() if "int8" in facts.versions)):
        if is_integer(read_at(program, op, OPERATORS[op.kind].decides), "int8"):
            yield i, op, lowest_version(call_of(program, op))
