"""Recipe x graph -> Plan, by the named passes of `REWRITES` and `DECISIONS`, before training and without data.

Tensors that an op only copies share one range (a union-find over the op catalogue's rules); a group may have a fixed
scale (SOFTMAX: 1/256, -128). A group goes by the name of its first site, and that name is its key among the ranges.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
from collections.abc import Callable, Mapping
from typing import get_args

from jaxq.errors import RecipeError
from jaxq.gradients.backward import check_backward_rules
from jaxq.graph import Graph, Op, verify
from jaxq.ops import OPS
from jaxq.ops.arithmetic import FLOAT32, Arithmetic
from jaxq.plan.decompositions import composed
from jaxq.plan.gradients import gradient_sites
from jaxq.plan.groups import Group as Group
from jaxq.plan.groups import solve_groups
from jaxq.plan.islands import is_real, islands_of, names_of
from jaxq.plan.mean_of_squares import as_products
from jaxq.plan.norms import norms_of
from jaxq.plan.plan import Plan, contraction_names
from jaxq.plan.precision import (
    arithmetic,
    dynamic_arithmetic,
    inserted,
    separated,
    storage,
    unweighted_arithmetic,
)
from jaxq.plan.recipe import (
    Calibration,
    Recipe,
    Rule,
    WeightCalibration,
    calibration_for,
    check_rules,
    rule_for,
)
from jaxq.plan.scheme import Scheme
from jaxq.plan.target import target_named

Pass = Callable[[Plan], Plan]

# Every kind of op that a graph may hold: the catalogue's, and FLOAT, which has no export rule.
KINDS = OPS.keys() | {"FLOAT"}


def make_plan(graph: Graph, recipe: Recipe) -> Plan:
    """Solve the recipe for a graph.

    Args:
      graph: a captured graph.
      recipe: how to quantize it.

    Returns:
      The plan, whose graph may hold other ops than `graph` does (`REWRITES`, `DECISIONS`).

    Raises:
      UnmatchedRuleError: a rule of the recipe matches no op and no site.
      PlanError: recipe, graph and target contradict one another.
      GraphError: a pass made a graph that is not legal, a fault of jaxq.
    """
    plan = _run(REWRITES, Plan(recipe, graph))
    check_rules(recipe, dict.fromkeys([*_rule_names(graph), *_rule_names(plan.graph)]))
    if recipe.backward is not None:
        check_backward_rules(recipe.backward, dict.fromkeys(n for op in plan.graph.ops for n in contraction_names(op)))
    return _run(DECISIONS, plan)


def as_in_file(plan: Plan, example: Plan) -> Plan:
    """A plan for other shapes than the file's, whose ops compute as the file's do.

    How the device computes an op can depend on its shape (of one row by a kernel of its own), and the file's shapes are
    those of the example.
    """

    def of_file(name: str, own: Arithmetic) -> Arithmetic:
        known = example.arithmetic.get(name, own)
        return known if (known.bits, known.weight_bits) == (own.bits, own.weight_bits) else own

    return dataclasses.replace(plan, arithmetic={name: of_file(name, own) for name, own in plan.arithmetic.items()})


def _run(passes: Mapping[str, Pass], plan: Plan) -> Plan:
    for name, run in passes.items():
        plan = run(plan)
        verify(plan.graph, after=name, kinds=KINDS)
    return plan


# --- passes over the graph ------------------------------------------------------------------------------------------


def _decompositions(plan: Plan) -> Plan:
    """Ops that the target has no kernel for, in other ops."""
    kinds = target_named(plan.recipe.target).composed
    return dataclasses.replace(plan, graph=composed(plan.graph, kinds, lambda op: _is_quantized(plan, op)))


def _products_of_squares(plan: Plan) -> Plan:
    """Means of squares in int8 as products of two vectors, where the target has BATCH_MATMUL."""
    if target_named(plan.recipe.target).refused("BATCH_MATMUL"):
        return plan
    graph = as_products(plan.graph, lambda op: _is_int8(plan, op), lambda value: _is_symmetric(plan, value))
    return dataclasses.replace(plan, graph=graph)


def _separation_of_islands(plan: Plan) -> Plan:
    """A rounded copy of what an island makes and both islands and integers read."""
    if (apart := separated(plan.graph, plan.islands)) is plan.graph:
        return plan
    return _islands(dataclasses.replace(plan, graph=apart))


def _requantizations(plan: Plan) -> Plan:
    """A REQUANTIZE before each op that reads activations of another width than it computes."""
    bits = {v: group.scheme.bits for v in plan.graph.site_names if (group := plan.group(v))}
    if (mixed := inserted(plan.graph, bits, plan.islands)) is plan.graph:
        return plan
    return _shared_scales(_islands(dataclasses.replace(plan, graph=mixed)))


# --- passes that decide ---------------------------------------------------------------------------------------------


def _islands(plan: Plan) -> Plan:
    """The ops that compute in floating point, each with its reason."""
    return dataclasses.replace(plan, islands=islands_of(plan.graph, plan.recipe))


def _shared_scales(plan: Plan) -> Plan:
    """Groups of activations with one range, and the operands that could not be joined to one."""
    groups, requantized = solve_groups(plan.graph, plan.recipe, plan.islands)
    group_of = {member: group.name for group in groups.values() for member in group.members}
    return dataclasses.replace(plan, groups=groups, group_of=group_of, requantized=requantized)


def _weight_schemes(plan: Plan) -> Plan:
    """How each kernel is quantized."""
    weights = {op.name: _weight_scheme(op, plan.graph, plan.recipe) for op in _weighted(plan)}
    return dataclasses.replace(plan, weights=weights)


def _embeddings(plan: Plan) -> Plan:
    """How the tables of EMBEDDINGs on floats are quantized: as TFLiteConverter does, by one scale each."""
    schemes = {op.name: _table_scheme(op, plan.recipe) for op in _tables(plan)}
    return dataclasses.replace(plan, embeddings=schemes)


def _calibrations(plan: Plan) -> Plan:
    """No change: refuses a rule whose calibration suits nothing that it matches."""
    for rule in plan.recipe.rules:
        if rule.calibration is not None and not _calibrates(plan, rule):
            raise RecipeError(
                f'The rule {rule.match!r} asks for calibration "{rule.calibration}", and it matches nothing that takes '
                f"it. Activations take {', '.join(get_args(Calibration))}; weights whose ranges are learned or frozen "
                f"take {', '.join(get_args(WeightCalibration))}."
            )
    return plan


def _calibrates(plan: Plan, rule: Rule) -> bool:
    """Whether a group of activations or a weight that the rule matches takes its calibration."""
    activations = [name for g in plan.groups.values() if g.fixed is None for name in g.members]
    weights = [name for name, scheme in plan.weights.items() if scheme.ranges != "follow"]
    names = [*(activations if rule.calibration in get_args(Calibration) else [])]
    names += weights if rule.calibration in get_args(WeightCalibration) else []
    return any(fnmatch.fnmatchcase(name, rule.match) for name in names)


def _storage(plan: Plan) -> Plan:
    """The type of each kernel in the file."""
    target = target_named(plan.recipe.target)
    stored = {op.name: storage(op, plan.weights[op.name], target) for op in _weighted(plan)}
    stored |= dict.fromkeys(plan.embeddings, "int8")
    if plan.recipe.weights.bits == 16:
        stored |= {op.name: "float16" for op in plan.graph.ops if has_weights(op) or _has_table(plan, op)}
    return dataclasses.replace(plan, storage=stored)


def _arithmetic(plan: Plan) -> Plan:
    """How the device computes each op."""
    how = {op.name: _arithmetic_of(plan, op) for op in plan.graph.ops}
    return dataclasses.replace(plan, arithmetic=how)


def _norms(plan: Plan) -> Plan:
    """The BatchNorms whose statistics follow, where the recipe says so."""
    return dataclasses.replace(plan, norms=norms_of(plan.graph)) if plan.recipe.norm == "follow" else plan


def _gradients(plan: Plan) -> Plan:
    """The ops whose quantized gradients keep a state."""
    return plan if plan.recipe.backward is None else dataclasses.replace(plan, gradients=gradient_sites(plan))


# In order. After each pass the graph is verified (`jaxq.graph.verify`). Rules may name what REWRITES make.
REWRITES: Mapping[str, Pass] = {
    "decompositions": _decompositions,
    "products of squares": _products_of_squares,
}
DECISIONS: Mapping[str, Pass] = {
    "islands": _islands,
    "separation of islands": _separation_of_islands,
    "shared scales": _shared_scales,
    "requantizations": _requantizations,
    "weight schemes": _weight_schemes,
    "embeddings": _embeddings,
    "calibrations": _calibrations,
    "storage": _storage,
    "arithmetic": _arithmetic,
    "norms": _norms,
    "gradients": _gradients,
}


# --- what passes ask ------------------------------------------------------------------------------------------------


def has_weights(op: Op) -> bool:
    """Whether the op has a kernel and a bias."""
    return op.kind in OPS and OPS[op.kind].weights


# TFLiteConverter's `weights_min_num_elements` of dynamic range: the kernels below it are few bytes, and their rounding
# costs as much as that of large ones.
FEWEST_ELEMENTS = 1024


def _weighted(plan: Plan) -> list[Op]:
    """The ops whose kernels are integers in the file. Of ops on floats not an AFFINE's, a vector: not worth it."""
    ops = [op for op in plan.graph.ops if has_weights(op)]
    return [op for op in ops if op.name not in plan.islands or (op.kind != "AFFINE" and _stored(plan, op))]


def _tables(plan: Plan) -> list[Op]:
    """The EMBEDDINGs on floats whose tables are integers in the file."""
    return [op for op in plan.graph.ops if op.name in plan.islands and _has_table(plan, op) and _stored(plan, op)]


def _has_table(plan: Plan, op: Op) -> bool:
    """Whether the op looks up rows of weights."""
    return op.kind == "EMBEDDING" and op.inputs[1] not in plan.graph.activations


def _stored(plan: Plan, op: Op) -> bool:
    """Whether an op on floats stores its kernel or table as integers: by its rule, else of dynamic range by its size.

    Recipes whose activations are integers keep the weights of an island in float32.
    """
    if not plan.recipe.floats or plan.recipe.weights.bits > 8:
        return False
    asked = rule_for(plan.recipe, [op.name]).weight_bits
    if asked is not None:
        return asked <= 8
    elements = math.prod(plan.graph.avals[op.inputs[1]].shape)
    return not plan.recipe.activations.dynamic or elements >= FEWEST_ELEMENTS


def _arithmetic_of(plan: Plan, op: Op) -> Arithmetic:
    if op.name in plan.islands:
        dynamic = plan.recipe.activations.dynamic and op.name in plan.weights
        dynamic = dynamic and not rule_for(plan.recipe, [op.name]).float
        return (dynamic_arithmetic(op, plan.graph) if dynamic else None) or FLOAT32
    bits = next((group.scheme.bits for v in op.outputs if (group := plan.group(v)) is not None), 8)
    machine = target_named(plan.recipe.target).machine
    if op.name in plan.weights:
        return arithmetic(op, plan.graph, plan.storage[op.name], plan.weights[op.name], machine, bits)
    return unweighted_arithmetic(op, machine, bits)


def _rule_names(graph: Graph) -> list[str]:
    return list(dict.fromkeys([*graph.site_names.values(), *(op.name for op in graph.ops)]))


def _is_symmetric(plan: Plan, value: int) -> bool:
    """Whether the recipe asks for zero point 0 of a value."""
    asked = rule_for(plan.recipe, [plan.graph.site_names[value]]).symmetric
    return plan.recipe.activations.symmetric if asked is None else asked


def _is_quantized(plan: Plan, op: Op) -> bool:
    """Whether an op makes real numbers that the recipe wants as integers."""
    real = all(is_real(plan.graph, v) for v in op.outputs)
    return real and not plan.recipe.floats and not rule_for(plan.recipe, names_of(plan.graph, op)).float


def _is_int8(plan: Plan, op: Op) -> bool:
    """Whether the recipe asks for 8 bits of what an op makes."""
    rule = rule_for(plan.recipe, names_of(plan.graph, op))
    return not rule.float and (rule.activation_bits or plan.recipe.activations.bits) == 8


def _weight_scheme(op: Op, graph: Graph, recipe: Recipe) -> Scheme:
    rule = rule_for(recipe, [op.name])
    per_channel = recipe.weights.per_channel if rule.per_channel is None else rule.per_channel
    per_channel = per_channel and op.kind not in target_named(recipe.target).one_scale
    axis = len(graph.avals[op.inputs[1]].shape) - 1 if per_channel else None
    bits = rule.weight_bits or recipe.weights.bits
    ranges: str = rule.ranges if rule.ranges in ("frozen", "learned") else recipe.weights.ranges
    calibration = calibration_for(recipe, [op.name], WeightCalibration, recipe.weights.calibration)
    return Scheme(bits, True, axis, True, ranges, "max" if ranges == "follow" else calibration)


def _table_scheme(op: Op, recipe: Recipe) -> Scheme:
    bits = rule_for(recipe, [op.name]).weight_bits or 8  # GATHER reads no narrower type: fewer bits save nothing
    return Scheme(bits, symmetric=True, narrow=True, ranges="follow", calibration="max")
