"""The training forward one op at a time: what ops, plans and models have in common is compiled once.

`simulate` compiles a plan as a whole, and again for every other plan. A search tries hundreds of plans that differ in
one op, and a proof reads a few examples, for which compiling takes longer than running. Here each op is compiled by
itself, under a key of all that its computation depends on. Weights and scales are arguments, never constants: XLA would
fold them. The integers are those of `simulate`, for it is the same code; there are no gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.graph import Equation, Graph, Op
from jaxq.graph.recent import Recent
from jaxq.graph.shared import prepared
from jaxq.ops import OPS
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.simulate.effort import for_results, small
from jaxq.simulate.forward import Record, Run
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.reals import as_number, real_results
from jaxq.simulate.weights import traced, weight_values

Step = Callable[..., tuple[Any, ...]]
MOST = 4096  # compiled ops that are kept


class OpByOp:
    """Evaluates plans of one captured function on one set of parameters.

    params: the leaves of the parameters, in the order of the graph's. Plans may differ in everything that a recipe
    says; their weight arithmetic is computed once. steps: what is compiled, where several evaluators share it.
    """

    def __init__(self, params: Sequence[Any], steps: Recent[Step] | None = None) -> None:
        self.params = params
        self._steps = Recent[Step](MOST) if steps is None else steps
        self._weights: dict[Equation, Sequence[Any]] = {}

    @property
    def compiled(self) -> int:
        """How many different ops have been compiled so far."""
        return len(self._steps)

    def outputs(self, plan: Plan, ranges: Ranges, inputs: Sequence[Any]) -> list[jax.Array]:
        """What `simulate(plan, params, ranges, inputs)` gives."""
        run = self._run(plan, ranges, inputs, None, {}, frozenset())
        return [run.output(v) for v in plan.graph.outputs]

    def recorded(
        self,
        plan: Plan,
        ranges: Ranges,
        inputs: Sequence[Any],
        record: Record,
        given: Mapping[int, Any],
        batched: frozenset[int] = frozenset(),
    ) -> None:
        """Call `record` with every result, as `simulate` does. A value is forgotten once its last reader has run.

        batched: which of the graph's inputs have a leading axis of examples; all that depends on them has it too, and
        so have the arrays of `given`.
        """
        self._run(plan, ranges, inputs, record, given, batched)

    def _run(
        self,
        plan: Plan,
        ranges: Ranges,
        inputs: Sequence[Any],
        record: Record | None,
        given: Mapping[int, Any],
        batched: frozenset[int],
    ) -> Run:
        env = self._weight_values(plan.graph)
        parameters = {name: qparams(g, ranges, env, plan) for name, g in plan.groups.items()}
        run, many = Run(plan, env, parameters, ranges, record, given, observing=False), set(batched)
        for value, array in zip(plan.graph.inputs, inputs, strict=True):
            run.enter(value, jnp.asarray(array))
        last = {v: op for op in plan.graph.ops for v in op.inputs}
        for op in plan.graph.ops:
            self._apply(plan, op, run, many)
            for v in {v for v in op.inputs if last[v] is op} - set(plan.graph.outputs):
                del run.env[v]
        return run

    def _apply(self, plan: Plan, op: Op, run: Run, many: set[int]) -> None:
        """Run one op, and take its results. many: the values with an axis of examples."""
        held = tuple(_array(run.env[v]) for v in op.inputs)
        axes = tuple(0 if v in many else None for v in op.inputs)
        around = tuple(_parameters(plan, v, run.parameters) for v in (*op.inputs, *op.outputs))
        site = plan.weight_site(op)
        trained = None if site is None else dict(run.ranges[site])
        for value, out in zip(op.outputs, self._step(plan, op, axes)(held, around, trained), strict=True):
            group = plan.group(value)
            if group is not None:
                run.keep(value, Carrier(out, *run.parameters[group.name]))
            elif op.kind in OPS and OPS[op.kind].scales == "none":
                run.env[value] = out
            else:
                run.keep_real(value, out)
        if many.intersection(op.inputs):
            many.update(op.outputs)

    def _weight_values(self, graph: Graph) -> dict[int, Any]:
        """The weight values. Those of the first plan are compiled as one function; another plan adds few."""
        if not self._weights:
            made = compiled_weight_values(graph, self.params)
            self._weights.update((eq, [made[v] for v in eq.outputs]) for eq in graph.weights)
        return weight_values(graph, self.params, self._weight)

    def _weight(self, eq: Equation, arguments: Sequence[Any]) -> Sequence[Any]:
        if eq not in self._weights:
            self._weights[eq] = traced(eq, arguments)
        return self._weights[eq]

    def _step(self, plan: Plan, op: Op, axes: tuple[int | None, ...]) -> Step:
        def compiled() -> Step:
            step = _step_of(plan, op)
            many = jax.vmap(step, (axes, None, None)) if any(axis == 0 for axis in axes) else step
            return jax.jit(many, compiler_options=small())

        return self._steps.get((step_key(plan, op), axes), compiled)


def compiled_weight_values(graph: Graph, params: Sequence[Any]) -> dict[int, Any]:
    """What `weight_values` gives, from one compiled function. A call for each equation would compile each."""
    made = [v for eq in graph.weights for v in eq.outputs]

    def compute(params: Sequence[Any]) -> list[Any]:
        env = weight_values(graph, params)
        return [env[v] for v in made]

    computed = jax.jit(compute, compiler_options=small())(list(params)) if made else []
    return {**graph.constants, **dict(zip((*graph.params, *made), (*params, *computed), strict=True))}


def _array(held: Any) -> Any:
    return held.q if isinstance(held, Carrier) else held


def _parameters(plan: Plan, value: int, parameters: Mapping[str, QParams]) -> QParams | None:
    group = plan.group(value)
    return None if group is None else parameters[group.name]


def _step_of(plan: Plan, op: Op) -> Step:
    """One op as a function of its operands (of carriers their integers), of the scales of its tensors, and of its
    weight's trained scale.
    """
    values, site = (*op.inputs, *op.outputs), plan.weight_site(op)

    def step(held: tuple[Any, ...], around: tuple[QParams | None, ...], trained: Any) -> tuple[Any, ...]:
        named = ((plan.group(v), p) for v, p in zip(values, around, strict=True))
        parameters = {group.name: p for group, p in named if group is not None and p is not None}
        env: dict[int, Any] = {}
        for v, array in zip(op.inputs, held, strict=True):
            group = plan.group(v)
            env[v] = array if group is None else Carrier(array, *parameters[group.name])
        run = Run(plan, env, parameters, {} if site is None else {site: trained}, differentiable=False)
        run.island(op) if op.name in plan.islands else run.step(op)
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
    how = (plan.arithmetic[op.name], scheme, plan.storage.get(op.name), op.name in plan.islands)
    facts = (op.kind, tuple(sorted(op.attrs.items(), key=lambda pair: pair[0])), op.call, site is None)
    return (*facts, around, read, same, positions, how, recipe.floats, recipe.carrier)


def _grid(group: Group | None) -> Hashable:
    return None if group is None else (group.scheme, group.nonnegative, group.has_range, group.fixed)


def _width(group: Group | None) -> int | None:
    return None if group is None else group.scheme.bits


# --- the float reading ----------------------------------------------------------------------------------------------


class RealsOpByOp:
    """The float reading of the folded graph (`jaxq.simulate.reals.reals`), one op at a time."""

    def __init__(self, plan: Plan, params: Sequence[Any]) -> None:
        self.plan, self.weights = plan, functools.cache(lambda: compiled_weight_values(plan.graph, params))
        self._steps: dict[Hashable, Step] = {}

    def __call__(self, inputs: Sequence[Any], batched: frozenset[int]) -> dict[int, jax.Array]:
        """The graph's outputs. batched: as in `OpByOp.recorded`."""
        plan, env, many = self.plan, dict(self.weights()), set(batched)
        for value, array in zip(plan.graph.inputs, inputs, strict=True):
            env[value] = as_number(plan.graph, value, jnp.asarray(array))
        last = {v: op for op in plan.graph.ops for v in op.inputs}
        for op in plan.graph.ops:
            arguments = [jnp.asarray(env[v]) for v in op.inputs]
            axes = tuple(0 if v in many else None for v in op.inputs)
            key = (op.name, axes)
            if key not in self._steps:
                self._steps[key] = _real_step(plan, op, axes, arguments)
            env.update(zip(op.outputs, self._steps[key](*arguments), strict=True))
            if many.intersection(op.inputs):
                many.update(op.outputs)
            for v in {v for v in op.inputs if last[v] is op} - set(plan.graph.outputs):
                del env[v]
        return {v: env[v] for v in plan.graph.outputs}


def _real_step(plan: Plan, op: Op, axes: Sequence[int | None], arguments: Sequence[jax.Array]) -> Callable[..., Any]:
    def step(*arrays: Any) -> Sequence[Any]:
        return real_results(plan, op, arrays, differentiable=False)

    many = any(axis == 0 for axis in axes)
    shapes = [
        jax.ShapeDtypeStruct(a.shape if axis is None else a.shape[1:], a.dtype)
        for a, axis in zip(arguments, axes, strict=True)
    ]
    options = for_results(max((a.size for a in arguments), default=0))
    return prepared(step, shapes, options, tuple(axes) if many else ())
