"""Which ops compute in floats, and why: what a recipe asks for, and what has no integer kernel."""

from __future__ import annotations

from collections.abc import Container

import jax.numpy as jnp

from jaxq.graph import MOVES, Graph, Op
from jaxq.ops import OPS
from jaxq.plan.precision import is_copy
from jaxq.plan.recipe import Recipe, rule_for


def islands_of(graph: Graph, recipe: Recipe) -> dict[str, str]:
    """The names of the ops that compute in floats, each with its reason."""
    reasons = {}
    for op in graph.ops:
        if op.kind == "FLOAT":
            reasons[op.name] = f"`{op.attrs['primitive']}` ({op.source}) has no export rule in jaxq"
        elif not (all(is_real(graph, v) for v in op.outputs) or _takes_plain(op)):
            reasons[op.name] = "its result is not a real number"
        elif is_copy(op):
            reasons[op.name] = "it converts the result of a float op to integers"
        elif recipe.floats:
            reasons[op.name] = "activations.bits = 32 in the recipe"
        elif rule_for(recipe, names_of(graph, op)).float:
            reasons[op.name] = "a rule of the recipe sets float = true"
    return reasons | dict.fromkeys(_between(graph, reasons), "it only moves values between float ops")


def _between(graph: Graph, islands: Container[str]) -> set[str]:
    """Moves of what islands make that only islands read: to round there would serve nobody.

    Which shapes a move stands between depends on the batch; what is rounded must not.
    """
    made, moves = {v for op in graph.ops if op.name in islands for v in op.outputs}, []
    for op in graph.ops:
        if op.name not in islands and op.kind in MOVES and op.inputs[0] in made:
            made.update(op.outputs)
            moves.append(op)
    names = {op.name for op in moves}
    rounded = {v for op in graph.ops if op.name not in islands and op.name not in names for v in op.inputs}
    rounded.update(graph.outputs)
    for op in reversed(moves):
        if rounded.intersection(op.outputs):
            rounded.update(op.inputs)
            names.remove(op.name)
    return names


def _takes_plain(op: Op) -> bool:
    """Whether an op may make integers or booleans that are no real numbers: indices, masks, and what moves them."""
    spec = OPS[op.kind]
    return spec.scales == "none" or op.kind == "TABLE" or (spec.scales == "same" and spec.step is None)


def names_of(graph: Graph, op: Op) -> list[str]:
    """What rules may call an op: its name and its sites'."""
    return [op.name, *(graph.site_names[v] for v in op.outputs)]


def is_real(graph: Graph, value: int) -> bool:
    """Whether a value holds real numbers: no index, no mask."""
    return jnp.issubdtype(graph.avals[value].dtype, jnp.floating)
