"""All rules applied to a program."""

from __future__ import annotations

import numpy as np

from jaxq.display.text import shortened
from jaxq.export.lint.finding import Finding, Place, Spot
from jaxq.export.lint.rules import RULES
from jaxq.export.program import Program


def lint(program: Program) -> tuple[Finding, ...]:
    """One finding for each rule that is broken, in the order of RULES, with all its places.

    Raises nothing, whatever the program holds.
    """
    with np.errstate(all="ignore"):  # numbers that are not finite are what some rules look for
        found = [(rule, tuple(_place(program, spot) for spot in rule.check(program))) for rule in RULES]
    return tuple(Finding(rule, places) for rule, places in found if places)


def _place(program: Program, spot: Spot) -> Place:
    kind = None if spot.operator is None else program.operators[spot.operator].kind
    name = None if spot.tensor is None else shortened(program.tensors[spot.tensor].name)
    return Place(spot.message, spot.operator, kind, spot.tensor, name)
