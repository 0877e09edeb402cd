"""Recipe x graph -> Plan: which tensors are quantized and how, which share a scale and why, which stay float and why.

Solved before training and without data. Tensors that an op only copies share one range (a union-find over the op
catalogue's rules); a group may have a fixed scale (SOFTMAX: 1/256, -128). A group goes by the name of its first site,
and that name is its key among the ranges.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

from jaxq.errors import PlanError
from jaxq.graph import Graph, Op, weight_origins
from jaxq.ops import OPS
from jaxq.ops.dynamic_range import WAYS
from jaxq.plan.decompositions import FORMS, composed
from jaxq.plan.islands import is_real, islands_of, names_of
from jaxq.plan.mean_of_squares import SQUARES, as_products
from jaxq.plan.precision import WIDE, arithmetic, dynamic_arithmetic, inserted, separated, storage
from jaxq.plan.recipe import Recipe, check_rules, rule_for
from jaxq.plan.scheme import Scheme
from jaxq.plan.shared_scales import Ties
from jaxq.plan.target import target_named

# The scale and zero point of every op that has prescribed ones, in 16 bits.
FIXED_WIDE = (1 / 32768, 0)


@dataclasses.dataclass(frozen=True)
class Group:
    """Activations with one range. fixed: TFLite's scale and zero point, if it prescribes them. nonnegative: the zero
    point is the least integer, for every member comes out of a ReLU. fake_quant: the op whose own range it is. derived:
    the group whose integers these are in another width. ties: why shared.
    """

    name: str
    scheme: Scheme
    members: tuple[str, ...]
    fixed: tuple[float, int] | None = None
    nonnegative: bool = False
    fake_quant: str | None = None
    derived: str | None = None
    ties: tuple[str, ...] = ()

    @property
    def has_range(self) -> bool:
        """Whether the scale is this group's own to train."""
        return self.fixed is None and self.fake_quant is None and self.derived is None


@dataclasses.dataclass(frozen=True)
class Plan:
    """The decisions for one graph. `group_of` maps a site's name to its group, `weights` an op's name to its weight's
    scheme,
    `islands` an op's name to why it runs in floating point, `requantized` (op, operand) pairs that need a QUANTIZE
    before, `storage` an op's name to the type of its weights in the file, `arithmetic` an op's name to how its sum is
    brought to the output's scale.
    """

    recipe: Recipe
    graph: Graph
    groups: Mapping[str, Group]
    group_of: Mapping[str, str]
    weights: Mapping[str, Scheme]
    islands: Mapping[str, str]
    requantized: frozenset[tuple[str, int]]
    storage: Mapping[str, str]
    arithmetic: Mapping[str, str]

    def group(self, value: int) -> Group | None:
        """The group of a value of the graph; None for a float."""
        key = self.group_of.get(self.graph.site_names.get(value, ""))
        return None if key is None else self.groups[key]

    def weight_site(self, op: Op) -> str | None:
        """The name of the trained scale of an op's weight; None where the scale follows the weight."""
        if op.name not in self.weights or self.weights[op.name].ranges == "follow":
            return None
        return f"{op.name}:weight" if op.name in self.group_of else op.name

    def bits(self, op: Op) -> int:
        """The width of the activations that an op computes: 8 where they are no integers."""
        found = [g.scheme.bits for v in op.outputs if (g := self.group(v)) is not None]
        return found[0] if found else 8

    def __str__(self) -> str:
        """The whole plan as text."""
        return "\n".join(_lines(self))


def make_plan(graph: Graph, recipe: Recipe) -> Plan:
    """Solve the recipe for a graph. Raises UnmatchedRuleError, PlanError."""
    target, named = target_named(recipe.target), _rule_names(graph)
    graph = composed(graph, target.composed)
    if not target.refuses("BATCH_MATMUL"):
        graph = as_products(graph, *(functools.partial(f, graph, recipe) for f in (_is_int8, _is_symmetric)))
    check_rules(recipe, dict.fromkeys([*named, *_rule_names(graph)]))
    plan = _solved(graph, recipe)
    if not recipe.floats and (apart := separated(graph, plan.islands)) is not graph:
        plan = _solved(apart, recipe)
    mixed = inserted(plan.graph, {v: g.scheme.bits for v in graph.site_names if (g := plan.group(v))}, plan.islands)
    return plan if mixed is plan.graph else _solved(mixed, recipe)


def _solved(graph: Graph, recipe: Recipe) -> Plan:
    islands = islands_of(graph, recipe)
    sites = _sites(graph, islands)
    solver = Ties(graph, islands, sites)
    made = {v: op for op in graph.ops for v in op.outputs}
    groups = {g.name: g for g in (_group(graph, recipe, members, solver, made) for members in solver.groups())}
    weighted = [op for op in graph.ops if has_weights(op) and (op.name not in islands or _weight_only(op, recipe))]
    weights = {op.name: _weight_scheme(op, graph, recipe) for op in weighted}
    group_of = {member: g.name for g in groups.values() for member in g.members}
    requantized = frozenset(solver.requantized)
    stored = {op.name: storage(op, weights[op.name], target_named(recipe.target)) for op in weighted}
    plan = Plan(recipe, graph, groups, group_of, weights, islands, requantized, stored, {})
    how = {
        op.name: _dynamic(op, graph, recipe) or arithmetic(op, graph, stored[op.name], plan.bits(op)) for op in weighted
    }
    return Plan(recipe, graph, groups, group_of, weights, islands, requantized, stored, how)


def has_weights(op: Op) -> bool:
    """Whether the op has a kernel and a bias."""
    return op.kind in OPS and OPS[op.kind].weights


def _weight_only(op: Op, recipe: Recipe) -> bool:
    """Whether an op on floats has integer weights. An AFFINE's are a vector: not worth it."""
    return recipe.floats and recipe.weights.bits <= 8 and op.kind != "AFFINE"


def _dynamic(op: Op, graph: Graph, recipe: Recipe) -> str | None:
    """How the device quantizes what an op reads, by the range that it sees; None where it does not."""
    if not recipe.activations.dynamic or rule_for(recipe, [op.name]).float:
        return None
    return dynamic_arithmetic(op, graph)


def _rule_names(graph: Graph) -> list[str]:
    return list(dict.fromkeys([*graph.site_names.values(), *(op.name for op in graph.ops)]))


def _is_symmetric(graph: Graph, recipe: Recipe, value: int) -> bool:
    """Whether the recipe asks for zero point 0 of a value."""
    asked = rule_for(recipe, [graph.site_names[value]]).symmetric
    return recipe.activations.symmetric if asked is None else asked


def _is_int8(graph: Graph, recipe: Recipe, op: Op) -> bool:
    """Whether the recipe asks for 8 bits of what an op makes."""
    rule = rule_for(recipe, names_of(graph, op))
    return not rule.float and (rule.activation_bits or recipe.activations.bits) == 8


def _sites(graph: Graph, islands: Mapping[str, str]) -> list[int]:
    """The activations that are integers in place of real numbers: made or read by an op that is no island."""
    live = [op for op in graph.ops if op.name not in islands]
    touched = {v for op in live for v in (*op.inputs, *op.outputs)}
    numbers = {v for v in touched if is_real(graph, v)}
    for op in reversed(live):  # an image of uint8 is numbers if what is made of it is; an index and a mask are not
        if not numbers.isdisjoint(op.outputs):
            numbers.update(v for i, v in enumerate(op.inputs) if i not in OPS[op.kind].plain)
    ordered = [*graph.inputs, *(v for op in graph.ops for v in op.outputs)]
    return [v for v in ordered if v in touched and v in numbers]


def _group(graph: Graph, recipe: Recipe, members: Sequence[int], solver: Ties, made: Mapping[int, Op]) -> Group:
    names = tuple(graph.site_names[v] for v in members)
    root = solver.find(members[0])
    rule = rule_for(recipe, names)
    quantizers = [made[v] for v in members if v in made and made[v].kind == "FAKE_QUANT"]
    if len(quantizers) > 1:
        raise PlanError(
            f"{names[0]} and what shares its scale pass two FakeQuant modules, {quantizers[0].name} and "
            f"{quantizers[1].name} (at {quantizers[1].source}); a tensor has one range. Remove one."
        )
    if quantizers and solver.fixed.get(root) is not None:
        raise PlanError(
            f"{quantizers[0].name} (at {quantizers[0].source}) quantizes {names[0]}, whose scale TFLite prescribes "
            f"({solver.fixed[root][0]:.6g}). Remove the FakeQuant."
        )
    bits, derived = _bits(graph, recipe, members, solver, made)
    fixed = solver.fixed.get(root)
    scheme = Scheme(
        bits=bits,
        symmetric=bits == 16
        or derived is not None
        or root in solver.symmetric
        or (recipe.activations.symmetric if rule.symmetric is None else rule.symmetric),
        ranges=rule.ranges or ("frozen" if _enters(graph, members) else recipe.activations.ranges),
    )
    return Group(
        names[0],
        scheme,
        names,
        FIXED_WIDE if fixed is not None and bits == 16 else fixed,
        not scheme.symmetric and _nonnegative(made, members),
        quantizers[0].name if quantizers else None,
        derived,
        tuple(dict.fromkeys(solver.reasons.get(root, ()))),
    )


def _bits(
    graph: Graph, recipe: Recipe, members: Sequence[int], solver: Ties, made: Mapping[int, Op]
) -> tuple[int, str | None]:
    """The width of a group, and where it is another group's in another width, that group's first site."""
    ops = [made[v] for v in members if v in made]
    if ops and ops[0].kind == "REQUANTIZE":
        source = next(m for m in solver.groups() if ops[0].inputs[0] in m)
        return ops[0].attrs["bits"], graph.site_names[source[0]]
    names = [graph.site_names[v] for v in members]
    asked = rule_for(recipe, names).activation_bits
    narrow = [op for op in ops if op.kind not in WIDE]
    target = target_named(recipe.target)
    if (asked or recipe.activations.bits) == 8:
        return 8, None
    if not target.wide:
        raise PlanError(f"{target.title} takes no activations of 16 bits ({target.source}). Use 8, or another target.")
    if asked and narrow:
        raise PlanError(
            f"A rule gives {names[0]} 16 bits, and {narrow[0].name} ({narrow[0].kind}, {narrow[0].source}), which "
            "makes it, computes in 8. Leave it out of the rule: what reads it in 16 bits is widened, exactly."
        )
    return (8 if narrow else 16), None


def _enters(graph: Graph, members: Sequence[int]) -> bool:
    """Whether the group holds an input. Its range is the data's, known from calibration; learning it would cost a
    gradient
    with respect to the input, which float training does without."""
    return not set(graph.inputs).isdisjoint(members)


def _nonnegative(made: Mapping[int, Op], members: Sequence[int]) -> bool:
    """Whether everything that enters the group comes out of an op whose activation starts at zero."""
    sources = [made.get(v) for v in members if v not in made or not _copies(made[v], members)]
    return all(op is not None and (op.attrs.get("activation") or (-1.0,))[0] >= 0.0 for op in sources)


def _copies(op: Op, members: Sequence[int]) -> bool:
    """Whether an op only copies integers of the group: no operand comes from elsewhere (that one is requantized)."""
    if op.kind not in OPS or OPS[op.kind].scales != "same":
        return False
    return set(op.inputs if op.kind == "CONCATENATION" else op.inputs[:1]) <= set(members)


def _weight_scheme(op: Op, graph: Graph, recipe: Recipe) -> Scheme:
    rule = rule_for(recipe, [op.name])
    per_channel = recipe.weights.per_channel if rule.per_channel is None else rule.per_channel
    per_channel = per_channel and op.kind not in target_named(recipe.target).one_scale
    axis = len(graph.avals[op.inputs[1]].shape) - 1 if per_channel else None
    return Scheme(rule.weight_bits or recipe.weights.bits, True, axis, True, rule.ranges or recipe.weights.ranges)


# --- text -----------------------------------------------------------------------------------------------------------


def _lines(plan: Plan) -> list[str]:
    target = target_named(plan.recipe.target)
    lines = [
        f"plan: recipe {plan.recipe.name}, target {target.title}, input {plan.recipe.input}, output "
        f"{plan.recipe.output}",
        f"weights ({len(plan.weights)})",
        *(f"  {name}: {scheme}{_weight_note(plan, name)}" for name, scheme in plan.weights.items()),
        f"activations ({sum(len(g.members) for g in plan.groups.values())} tensors, {len(plan.groups)} ranges)",
        *(f"  {_group_text(g)}" for g in plan.groups.values()),
        f"float islands ({len(plan.islands)})",
        *(f"  {name}: {reason}" for name, reason in plan.islands.items()),
    ]
    lines += [f"  {op.name}: {_form_text(op.attrs['form'])}" for op in plan.graph.ops if "form" in op.attrs]
    lines += [f"  {name} operand {i}: requantized to the output's scale" for name, i in sorted(plan.requantized)]
    return [*lines, _verdict(plan)]


def _form_text(form: str) -> str:
    if form == SQUARES:
        return f"{form} as a product of two vectors, none of whose terms is rounded"
    return f"{form} as {FORMS[form].meaning}, which the target has kernels for"


def _weight_note(plan: Plan, name: str) -> str:
    """What the device does with weights of 4 bits, and with weights of 8 that meet floats."""
    if plan.weights[name].bits == 8:
        return "; input quantized as it runs" if plan.arithmetic[name] in WAYS else ""
    if plan.storage[name] == "int8":
        return "; stored as int8"
    return "" if plan.arithmetic[name] == "float32" else "; a slow kernel (not delegated)"


def _group_text(group: Group) -> str:
    text = f"{group.name}: {group.scheme}"
    if group.fixed is not None:
        text = f"{group.name}: int{group.scheme.bits} fixed scale {group.fixed[0]:.6g}, zero point {group.fixed[1]}"
    if group.fake_quant is not None:
        text += f"; range of {group.fake_quant}"
    if group.derived is not None:
        text += f"; of {group.derived}"
    if group.nonnegative:
        text += "; zero point at the least integer (ReLU)"
    if len(group.members) > 1:
        text += f"; shared with {', '.join(group.members[1:])} (tied by {', '.join(group.ties)})"
    return text


def _verdict(plan: Plan) -> str:
    target = target_named(plan.recipe.target)
    refused = sorted({op.kind for op in plan.graph.ops if target.refuses(op.kind)})
    if plan.islands and not target.float_islands:
        refused = sorted({*refused, *plan.islands})
    if refused:
        return f"verdict: {target.title} does not take {', '.join(refused)}"
    if plan.recipe.floats:
        as_it_runs = "; what meets them is quantized as it runs" if plan.recipe.activations.dynamic else ""
        return f"verdict: floats; weights are stored in {plan.recipe.weights.bits} bits{as_it_runs}"
    if plan.islands:
        unknown = sum(op.kind == "FLOAT" for op in plan.graph.ops)
        text = f"verdict: {len(plan.islands)} ops run in floating point, between DEQUANTIZE and QUANTIZE"
        return text + (f"; export will refuse {unknown} of them, which TFLite does not have" if unknown else "")
    return f"verdict: every tensor is an integer; {target.title} takes every op"


def weight_paths(graph: Graph, op: Op) -> tuple[str, ...]:
    """The parameters that an op's weights are computed from."""
    origins = weight_origins(graph)
    return tuple(sorted({name for v in op.inputs[1:] for name in origins.get(v, ())}))
