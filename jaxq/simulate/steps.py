"""An op of a plan as a function of its numbers alone: ops that compute alike are traced, or compiled, once."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

from jaxq.gradients.statistics import gradient_site
from jaxq.graph import Op
from jaxq.ops import OPS
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.simulate.run import Run

Step = Callable[..., tuple[Any, ...]]


def take(plan: Plan, op: Op, run: Run, step: Step) -> None:
    """Compute an op of `run` by `step`, a form of `function_of`, and take its results."""
    held = tuple(_array(run.env[v]) for v in op.inputs)
    around = tuple(_parameters(plan, v, run.parameters) for v in (*op.inputs, *op.outputs))
    site = plan.weight_site(op)
    trained = None if site is None else dict(run.ranges[site])
    state = dict(run.ranges.get(gradient_site(op.name), {}))
    for value, out in zip(op.outputs, step(held, around, trained, state), strict=True):
        group = plan.group(value)
        if group is not None:
            run.keep(value, Carrier(out, *run.parameters[group.name]))
        elif op.kind in OPS and OPS[op.kind].scales == "none":
            run.env[value] = out
        else:
            run.keep_real(value, out)


def function_of(plan: Plan, op: Op, differentiable: bool) -> Step:
    """One op as a function of its operands (of carriers their integers), of the scale and zero point of each operand
    and result, of its weight's trained scale and of its gradient's state. `differentiable` as in `Run`.
    """
    values, site = (*op.inputs, *op.outputs), plan.weight_site(op)

    def step(
        held: tuple[Any, ...], around: tuple[QParams | None, ...], trained: Any, state: Mapping[str, Any]
    ) -> tuple[Any, ...]:
        named = ((plan.group(v), p) for v, p in zip(values, around, strict=True))
        parameters = {group.name: p for group, p in named if group is not None and p is not None}
        env: dict[int, Any] = {}
        for v, array in zip(op.inputs, held, strict=True):
            group = plan.group(v)
            env[v] = array if group is None else Carrier(array, *parameters[group.name])
        ranges = {gradient_site(op.name): state, **({} if site is None else {site: trained})}
        run = Run(plan, env, parameters, ranges, differentiable=differentiable)
        run.apply(op)
        return tuple(_array(run.env[v]) for v in op.outputs)

    return step


def step_key(plan: Plan, op: Op) -> Hashable:
    """All that the computation of an op depends on but for the numbers: two ops of one key are one function."""
    site, recipe = plan.weight_site(op), plan.recipe
    around = tuple((plan.graph.avals[v], _grid(plan.group(v))) for v in op.outputs)
    read = tuple((plan.graph.avals[v], v in plan.graph.activations, _width(plan.group(v))) for v in op.inputs)
    same = tuple((op.name, i) in plan.requantized for i in range(len(op.inputs)))
    positions = tuple(op.inputs.index(v) for v in op.inputs)
    scheme = plan.weights.get(op.name) or plan.embeddings.get(op.name)
    how = (plan.arithmetic[op.name], scheme, plan.storage.get(op.name), op.name in plan.islands, plan.backward(op))
    facts = (op.kind, tuple(sorted(op.attrs.items(), key=lambda pair: pair[0])), op.call, site is None)
    return (*facts, around, read, same, positions, _sharing(plan, op), how, recipe.floats, recipe.carrier)


def grid_key(plan: Plan, value: int) -> Hashable:
    """All that rounding real numbers onto a value's grid depends on but for the numbers; None for floats."""
    group = plan.group(value)
    return None if group is None else (plan.graph.avals[value], _grid(group))


def _sharing(plan: Plan, op: Op) -> tuple[int | None, ...]:
    """For each operand and result the first that has the same scale."""
    names = [None if group is None else group.name for group in map(plan.group, (*op.inputs, *op.outputs))]
    return tuple(None if name is None else names.index(name) for name in names)


def _array(held: Any) -> Any:
    return held.q if isinstance(held, Carrier) else held


def _parameters(plan: Plan, value: int, parameters: Mapping[str, QParams]) -> QParams | None:
    group = plan.group(value)
    return None if group is None else parameters[group.name]


def _grid(group: Group | None) -> Hashable:
    return None if group is None else (group.scheme, group.nonnegative, group.has_range, group.fixed)


def _width(group: Group | None) -> int | None:
    return None if group is None else group.scheme.bits
