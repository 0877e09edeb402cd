"""What one op or tensor of a model may be instead of what its recipe makes it: each choice is rules of a recipe."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.graph import MOVES, weight_origins
from jaxq.ops import OPS
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe, Rule
from jaxq.plan.target import target_named


class Option(NamedTuple):
    """A site that can be chosen about, its kind of op, one choice for it, and the rules that make the choice.

    ops: the names of the ops whose weights the choice changes; empty for a choice about activations.
    """

    site: str
    kind: str
    choice: str
    rules: tuple[Rule, ...]
    ops: tuple[str, ...] = ()


def options(plan: Plan, choices: Iterable[str]) -> list[Option]:
    """Every option of a plan, choice after choice, each in the order of the graph. Raises InputError for another word.

    "w4", "w8": weights of so many bits; ops that share a parameter choose together. "a16": activations of 16 bits, of
    all tensors of one range together, where every op that makes them has such a kernel. "float": an op in floating
    point, where the target runs floats. What a site is already is no option.
    """
    found: list[Option] = []
    for choice in choices:
        if choice not in CHOICES:
            raise InputError(f"There is no choice {choice!r}. {did_you_mean(choice, CHOICES)}")
        found += CHOICES[choice](plan)
    return found


def with_options(recipe: Recipe, chosen: Sequence[Option]) -> Recipe:
    """The recipe with the rules of options after its own, so that they win."""
    rules = (*recipe.rules, *(rule for option in chosen for rule in option.rules))
    return msgspec.structs.replace(recipe, rules=rules)


def exactly(name: str) -> str:
    """The glob that matches this name alone."""
    return glob.escape(name)


def _weights(bits: Literal[4, 8]) -> Callable[[Plan], Iterator[Option]]:
    def found(plan: Plan) -> Iterator[Option]:
        kinds = {op.name: op.kind for op in plan.graph.ops}
        for names in _sharing(plan):
            if all(plan.weights[name].bits != bits for name in names):
                rules = tuple(Rule(exactly(name), weight_bits=bits) for name in names)
                yield Option(names[0], kinds[names[0]], f"w{bits}", rules, names)

    return found


def _sharing(plan: Plan) -> list[tuple[str, ...]]:
    """The ops with integer weights, those together whose kernels are made of one parameter."""
    origins, groups = weight_origins(plan.graph), list[tuple[frozenset[str], tuple[str, ...]]]()
    for op in plan.graph.ops:
        if op.name in plan.weights:
            joined = frozenset(origins.get(op.inputs[1], ())), (op.name,)
            for group in [g for g in groups if g[0] & joined[0]]:
                groups.remove(group)
                joined = group[0] | joined[0], (*group[1], *joined[1])
            groups.append(joined)
    return [names for _, names in groups]


def _wide(plan: Plan) -> Iterator[Option]:
    if not target_named(plan.recipe.target).int16 or plan.recipe.floats:
        return
    made = {plan.graph.site_names[v]: op for op in plan.graph.ops for v in op.outputs}
    for group in plan.groups.values():
        makers = [made.get(member) for member in group.members]
        own = group.scheme.bits == 8 and group.derived is None and group.fake_quant is None
        if own and all(op is not None and op.kind in OPS and OPS[op.kind].int16 for op in makers):
            kind = next(op.kind for op in makers if op is not None)
            yield Option(group.name, kind, "a16", (Rule(exactly(group.name), activation_bits=16),))


def _floats(plan: Plan) -> Iterator[Option]:
    if not target_named(plan.recipe.target).float_islands or plan.recipe.floats:
        return
    for op in plan.graph.ops:
        computes = op.kind in OPS and op.kind not in MOVES and OPS[op.kind].scales != "none"
        if computes and op.name not in plan.islands and op.kind not in ("REQUANTIZE", "FAKE_QUANT"):
            yield Option(op.name, op.kind, "float", (Rule(exactly(op.name), float=True),))


CHOICES: Mapping[str, Callable[[Plan], Iterator[Option]]] = {
    "a16": _wide,
    "float": _floats,
    "w4": _weights(4),
    "w8": _weights(8),
}
