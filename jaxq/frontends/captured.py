"""A function captured for one set of shapes, planned and compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax

from jaxq.graph import Graph
from jaxq.graph.mixing import Held, Place
from jaxq.plan.make_plan import as_in_file, make_plan
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe
from jaxq.simulate.forward import simulate


@dataclasses.dataclass(frozen=True, eq=False)
class Captured:
    """A plan for one set of shapes, the structure of the function's result, and the compiled simulation.

    graph: what the plan was made of, before its rewrites. held: by the number of a result of the graph that depends on
    the examples, where it holds them, if that is known.
    """

    plan: Plan
    graph: Graph
    structure: Any
    simulate: Callable[..., list[Any]]
    result: Callable[[Any], Any]
    held: Mapping[int, Place]

    def result_of(self, outputs: Sequence[Any]) -> Any:
        """The function's result from the graph's outputs that are activations, None in the place of any other."""
        graph, found = self.plan.graph, iter(outputs)
        leaves = [next(found) if v in graph.activations else None for v in graph.outputs]
        return self.result(jax.tree.unflatten(self.structure, leaves))

    @property
    def places(self) -> list[Held | Literal["unknown", "none"]]:
        """Where each output that is an activation holds the examples; "none" where it is the same for all."""
        outputs = [i for i, v in enumerate(self.plan.graph.outputs) if v in self.plan.graph.activations]
        return [(self.held[i] or "unknown") if i in self.held else "none" for i in outputs]

    def under(self, recipe: Recipe, in_file: Plan | None = None) -> Captured:
        """The same function quantized by another recipe. in_file: that recipe's plan at the file's shapes."""
        return captured_by(planned(self.graph, recipe, in_file), self.graph, self.structure, self.result, self.held)


def planned(graph: Graph, recipe: Recipe, in_file: Plan | None) -> Plan:
    """The plan. It holds numbers, also where a function is captured while JAX traces a training step."""
    with jax.ensure_compile_time_eval():
        plan = make_plan(graph, recipe)
        return plan if in_file is None else as_in_file(plan, in_file)


def captured_by(
    plan: Plan, graph: Graph, structure: Any, result: Callable[[Any], Any], held: Mapping[int, Place]
) -> Captured:
    """A plan with its compiled simulation. graph, structure, result, held: as of `Captured`."""
    return Captured(plan, graph, structure, jax.jit(functools.partial(simulate, plan)), result, held)
