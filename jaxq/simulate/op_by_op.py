"""The training forward one op at a time, for many plans of one model: what plans have in common is compiled once.

`simulate` compiles a plan as a whole, and again for every other plan. A search tries hundreds of plans that differ in
one op. Here each op is compiled by itself, under a key of all that its computation depends on, so that a plan with one
rule more compiles one op more. Weights and scales are arguments, never constants: XLA would fold them. The integers are
those of `simulate`, for it is the same code; there are no gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.graph import Equation, Op
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.simulate.forward import Run
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.weights import traced, weight_values

Step = Callable[..., tuple[Any, ...]]


class OpByOp:
    """Evaluates plans of one captured function on one set of parameters.

    params: the leaves of the parameters, in the order of the graph's. Plans may differ in everything that a recipe
    says; their weight arithmetic is computed once.
    """

    def __init__(self, params: Sequence[Any]) -> None:
        self.params = params
        self._steps: dict[Hashable, Step] = {}
        self._weights: dict[Equation, Sequence[Any]] = {}

    @property
    def compiled(self) -> int:
        """How many different ops have been compiled so far."""
        return len(self._steps)

    def outputs(self, plan: Plan, ranges: Ranges, inputs: Sequence[Any]) -> list[jax.Array]:
        """What `simulate(plan, params, ranges, inputs)` gives."""
        env = weight_values(plan.graph, self.params, self._weight)
        parameters = {name: qparams(g, ranges, env, plan) for name, g in plan.groups.items()}
        run = Run(plan, env, parameters, ranges, observing=False)
        for value, array in zip(plan.graph.inputs, inputs, strict=True):
            run.enter(value, jnp.asarray(array))
        for op in plan.graph.ops:
            held = tuple(run.env[v] for v in op.inputs)
            around = tuple(_parameters(plan, v, parameters) for v in (*op.inputs, *op.outputs))
            site = plan.weight_site(op)
            made = self._step(plan, op)(held, around, None if site is None else dict(ranges[site]))
            run.env.update(zip(op.outputs, made, strict=True))
        return [run.output(v) for v in plan.graph.outputs]

    def _weight(self, eq: Equation, arguments: Sequence[Any]) -> Sequence[Any]:
        if eq not in self._weights:
            self._weights[eq] = traced(eq, arguments)
        return self._weights[eq]

    def _step(self, plan: Plan, op: Op) -> Step:
        key = step_key(plan, op)
        if key not in self._steps:
            self._steps[key] = jax.jit(_step_of(plan, op))
        return self._steps[key]


def _parameters(plan: Plan, value: int, parameters: Mapping[str, QParams]) -> QParams | None:
    group = plan.group(value)
    return None if group is None else parameters[group.name]


def _step_of(plan: Plan, op: Op) -> Step:
    """One op as a function of its operands, of the scales of its tensors, and of its weight's trained scale."""
    values, site = (*op.inputs, *op.outputs), plan.weight_site(op)

    def step(held: tuple[Any, ...], around: tuple[QParams | None, ...], trained: Any) -> tuple[Any, ...]:
        named = ((plan.group(v), p) for v, p in zip(values, around, strict=True))
        parameters = {group.name: p for group, p in named if group is not None and p is not None}
        ranges = {} if site is None else {site: trained}
        run = Run(plan, dict(zip(op.inputs, held, strict=True)), parameters, ranges, observing=False)
        run.island(op) if op.name in plan.islands else run.step(op)
        return tuple(run.env[v] for v in op.outputs)

    return step


def step_key(plan: Plan, op: Op) -> Hashable:
    """All that the computation of an op depends on but for the numbers: two ops of one key are one function."""
    site, recipe = plan.weight_site(op), plan.recipe
    around = tuple((plan.graph.avals[v], _grid(plan.group(v))) for v in op.outputs)
    read = tuple((plan.graph.avals[v], v in plan.graph.activations, _width(plan.group(v))) for v in op.inputs)
    same = tuple((op.name, i) in plan.requantized for i in range(len(op.inputs)))
    positions = tuple(op.inputs.index(v) for v in op.inputs)
    scheme = plan.weights.get(op.name) or plan.embeddings.get(op.name)
    how = (plan.arithmetic[op.name], scheme, plan.storage.get(op.name), op.name in plan.islands)
    facts = (op.kind, tuple(sorted(op.attrs.items(), key=lambda pair: pair[0])), op.call, site is None)
    return (*facts, around, read, same, positions, how, recipe.floats, recipe.carrier)


def _grid(group: Group | None) -> Hashable:
    return None if group is None else (group.scheme, group.nonnegative, group.has_range, group.fixed)


def _width(group: Group | None) -> int | None:
    return None if group is None else group.scheme.bits
