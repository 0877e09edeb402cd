"""Activations with one range: which are integers, which share a scale, and how each group is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxq.errors import PlanError
from jaxq.graph import Graph, Op
from jaxq.ops import FIXED_INT16, OPS
from jaxq.plan.islands import is_real
from jaxq.plan.recipe import Calibration, Recipe, calibration_for, rule_for
from jaxq.plan.scheme import Grid, Scheme
from jaxq.plan.shared_scales import Ties
from jaxq.plan.target import target_named


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

    @property
    def grid(self) -> Grid:
        """The integers of its tensors."""
        return self.scheme.grid._replace(nonnegative=self.nonnegative)


def solve_groups(
    graph: Graph, recipe: Recipe, islands: Mapping[str, str]
) -> tuple[dict[str, Group], frozenset[tuple[str, int]]]:
    """The groups by name, and the (op, operand) pairs that need a QUANTIZE before. Raises PlanError."""
    solver = Ties(graph, islands, _sites(graph, islands), recipe.ties)
    made = {v: op for op in graph.ops for v in op.outputs}
    groups = [_group(graph, recipe, members, solver, made) for members in solver.groups()]
    return {group.name: group for group in groups}, frozenset(solver.requantized)


def numbers(graph: Graph) -> frozenset[int]:
    """The activations that stand for real numbers, whatever their dtype: no index and no mask."""
    return frozenset(_sites(graph, {}))


def _sites(graph: Graph, islands: Mapping[str, str]) -> list[int]:
    """The activations that are integers in place of real numbers: made or read by an op that is no island."""
    live = [op for op in graph.ops if op.name not in islands]
    touched = {v for op in live for v in (*op.inputs, *op.outputs)}
    real = {v for v in touched if is_real(graph, v)}
    for op in reversed(live):  # an image of uint8 is numbers if what is made of it is; an index and a mask are not
        if not real.isdisjoint(op.outputs):
            real.update(v for i, v in enumerate(op.inputs) if op.kind in OPS and i not in OPS[op.kind].plain)
    _refuse_both(graph, live, real)
    ordered = [*graph.inputs, *(v for op in graph.ops for v in op.outputs)]
    return [v for v in ordered if v in touched and v in real]


def _refuse_both(graph: Graph, live: Sequence[Op], real: set[int]) -> None:
    """Raise PlanError for an integer input that is read as numbers and, as it is, as indices."""
    for op in live:
        plain = OPS[op.kind].plain if op.kind in OPS else ()
        both = [v for i, v in enumerate(op.inputs) if i in plain and v in real and v in graph.inputs]
        if both and not is_real(graph, both[0]):
            raise PlanError(
                f"{graph.site_names[both[0]]} is read as integers by {op.name} ({op.kind}, {op.source}) and as real "
                "numbers elsewhere, and a tensor of the file is one of them. Give the model two inputs."
            )


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
        calibration=calibration_for(recipe, names, Calibration, recipe.activations.calibration),
        percentile=rule.percentile or recipe.activations.percentile,
    )
    return Group(
        names[0],
        scheme,
        names,
        FIXED_INT16 if fixed is not None and bits == 16 else fixed,
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
    narrow = [op for op in ops if not (op.kind in OPS and OPS[op.kind].int16)]
    target = target_named(recipe.target)
    if (asked or recipe.activations.bits) == 8:
        return 8, None
    if not target.int16:
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
