"""The training forward one op at a time: what ops, plans and models have in common is compiled once.

`simulate` compiles a plan as a whole, and again for every other plan. A search tries hundreds of plans that differ in
one op, and a proof reads a few examples, for which compiling takes longer than running. Here each op is compiled by
itself, under a key of all that its computation depends on. Weights and scales are arguments, never constants: XLA would
fold them. The integers are those of `simulate`, for it is the same code; there are no gradients.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jaxq.graph import Equation, Graph, Op
from jaxq.graph.recent import Recent
from jaxq.plan.plan import Plan
from jaxq.simulate.effort import for_results, small
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.reals import as_number, real_results
from jaxq.simulate.run import Record, Run
from jaxq.simulate.steps import Step, function_of, step_key, take
from jaxq.simulate.weights import traced, weight_values

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

    def entered(
        self,
        plan: Plan,
        ranges: Ranges,
        inputs: Sequence[Any],
        record: Record | None = None,
        given: Mapping[int, Any] | None = None,
    ) -> Run:
        """A run that has taken its inputs."""
        env = self.weights(plan.graph)
        parameters = {name: qparams(g, ranges, env, plan) for name, g in plan.groups.items()}
        run = Run(plan, env, parameters, ranges, record, given or {}, observing=False)
        for value, array in zip(plan.graph.inputs, inputs, strict=True):
            run.enter(value, jnp.asarray(array))
        return run

    def each(self, run: Run, batched: frozenset[int] = frozenset()) -> Iterator[Op]:
        """Each op once it is computed. Then `run.env` forgets what no other op reads."""
        plan, many = run.plan, set(batched)
        last = {v: op for op in plan.graph.ops for v in op.inputs}
        for op in plan.graph.ops:
            self._apply(plan, op, run, many)
            yield op
            for v in {v for v in op.inputs if last[v] is op} - set(plan.graph.outputs):
                del run.env[v]

    def _run(
        self,
        plan: Plan,
        ranges: Ranges,
        inputs: Sequence[Any],
        record: Record | None,
        given: Mapping[int, Any],
        batched: frozenset[int],
    ) -> Run:
        run = self.entered(plan, ranges, inputs, record, given)
        for _ in self.each(run, batched):
            pass
        return run

    def _apply(self, plan: Plan, op: Op, run: Run, many: set[int]) -> None:
        """Run one op, and take its results. many: the values with an axis of examples."""
        axes = tuple(0 if v in many else None for v in op.inputs)
        take(plan, op, run, self._step(plan, op, axes))
        if many.intersection(op.inputs):
            many.update(op.outputs)

    def weights(self, graph: Graph) -> dict[int, Any]:
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
            step = function_of(plan, op, differentiable=False)
            many = jax.vmap(step, (axes, None, None, None)) if any(axis == 0 for axis in axes) else step
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


# --- the float reading ----------------------------------------------------------------------------------------------


class RealsOpByOp:
    """The float reading of the folded graph (`jaxq.simulate.reals.reals`), one op at a time."""

    def __init__(self, plan: Plan, params: Sequence[Any], steps: Recent[Step] | None = None) -> None:
        self.plan, self.weights = plan, functools.cache(lambda: compiled_weight_values(plan.graph, params))
        self._steps = Recent[Step](MOST) if steps is None else steps

    def __call__(self, inputs: Sequence[Any], batched: frozenset[int]) -> dict[int, jax.Array]:
        """The graph's outputs. batched: as in `OpByOp.recorded`."""
        *_, (_, env) = self.each(inputs, batched)
        return {v: env[v] for v in self.plan.graph.outputs}

    def each(self, inputs: Sequence[Any], batched: frozenset[int]) -> Iterator[tuple[Op, Mapping[int, Any]]]:
        """Each op once it is computed, and the values by number: weights, and activations that are still to be read."""
        plan, env, many = self.plan, dict(self.weights()), set(batched)
        for value, array in zip(plan.graph.inputs, inputs, strict=True):
            env[value] = as_number(plan.graph, value, jnp.asarray(array))
        last = {v: op for op in plan.graph.ops for v in op.inputs}
        for op in plan.graph.ops:
            arguments = [jnp.asarray(env[v]) for v in op.inputs]
            axes = tuple(0 if v in many else None for v in op.inputs)
            env.update(zip(op.outputs, self._step(op, axes, arguments)(*arguments), strict=True))
            if many.intersection(op.inputs):
                many.update(op.outputs)
            yield op, env
            for v in {v for v in op.inputs if last[v] is op} - set(plan.graph.outputs):
                del env[v]

    def _step(self, op: Op, axes: tuple[int | None, ...], arguments: Sequence[jax.Array]) -> Step:
        return self._steps.get((step_key(self.plan, op), axes), lambda: _real_step(self.plan, op, axes, arguments))


def _real_step(plan: Plan, op: Op, axes: Sequence[int | None], arguments: Sequence[jax.Array]) -> Step:
    def step(*arrays: Any) -> Sequence[Any]:
        return real_results(plan, op, arrays, differentiable=False)

    many = jax.vmap(step, tuple(axes)) if any(axis == 0 for axis in axes) else step
    return jax.jit(many, compiler_options=for_results(max((a.size for a in arguments), default=0)))
