"""Which activations share a scale: those that an op copies integers between."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from jaxq.display.text import did_you_mean
from jaxq.errors import PlanError, UnmatchedRuleError
from jaxq.graph import Graph, Op
from jaxq.ops import OPS


def _named(graph: Graph, name: str) -> int:
    """The activation of a site's name, or of the name that an input or an output has in the file."""
    outputs = [v for v in graph.outputs if v in graph.activations]
    known = {v: k for k, v in graph.site_names.items()}
    for names, values in zip(graph.ends, (graph.inputs, outputs), strict=True):
        known.update(zip(names, values, strict=True))
    if name not in known:
        raise UnmatchedRuleError(
            f"The recipe ties {name!r}, which is none of the model's {len(known)} sites, inputs and outputs. "
            f"{did_you_mean(name, known)}"
        )
    return known[name]


class Ties:
    """Union-find over the activations that are integers. `islands`: by name, the ops that run in floating point.

    fixed: by a set's root, the scale and zero point that TFLite prescribes. reasons: by root, the ops that joined it.
    requantized: (op, operand) pairs that could not be joined. symmetric: the roots whose zero point has to be 0.
    """

    def __init__(
        self, graph: Graph, islands: Mapping[str, str], sites: Sequence[int], recipe: Sequence[Sequence[str]] = ()
    ) -> None:
        self.graph = graph
        self.parent = {v: v for v in sites}
        self.order = {v: i for i, v in enumerate(sites)}
        self.fixed: dict[int, tuple[float, int]] = {}
        self.reasons: dict[int, list[str]] = {}
        self.requantized: set[tuple[str, int]] = set()
        self.symmetric: set[int] = set()
        live = [op for op in graph.ops if op.name not in islands]
        for op in live:
            scales = OPS[op.kind].scales
            if isinstance(scales, tuple):
                self.fixed[op.outputs[0]] = scales
        for op in live:
            if OPS[op.kind].scales == "same":
                self._tie(op)
        for names in recipe:
            self._tie_named(names)
        for op in live:
            self.symmetric.update(self.find(op.inputs[i]) for i in OPS[op.kind].symmetric)

    def find(self, value: int) -> int:
        """The root of a value's set."""
        while self.parent[value] != value:
            self.parent[value] = self.parent[self.parent[value]]
            value = self.parent[value]
        return value

    def _tie(self, op: Op) -> None:
        if op.outputs[0] not in self.parent:
            return  # moves indices or a mask
        activations = [v for v in op.inputs if v in self.parent]
        for operand, value in enumerate(op.inputs):
            if value in activations and not self._union(op.outputs[0], value, op.name, len(activations)):
                self.requantized.add((op.name, operand))
        for value in (v for v in op.outputs[1:] if v in self.parent):  # what is not holds indices
            self._union(op.outputs[0], value, op.name, 1)

    def _tie_named(self, names: Sequence[str]) -> None:
        """Join the tensors of a tie of the recipe."""
        values = [_named(self.graph, name) for name in names]
        for name, value in zip(names, values, strict=True):
            if value not in self.parent or not self._union(values[0], value, "the recipe", 1):
                raise PlanError(
                    f"The recipe ties {names[0]} and {name}, and they cannot share a range: TFLite prescribes another "
                    "scale for each, or one is not quantized. Remove the tie, or convert one on the host."
                )

    def _union(self, a: int, b: int, reason: str, operands: int) -> bool:
        """Join two activations, unless that would force a prescribed scale on a tensor that has another use."""
        a, b = self.find(a), self.find(b)
        if a == b:
            return True
        fixed_a, fixed_b = self.fixed.get(a), self.fixed.get(b)
        if fixed_a != fixed_b and (operands > 1 or (fixed_a is not None and fixed_b is not None)):
            return False
        first, second = sorted((a, b), key=self.order.__getitem__)
        self.parent[second] = first
        if (fixed := fixed_a or fixed_b) is not None:
            self.fixed[first] = fixed
        self.reasons.setdefault(first, []).extend([reason, *self.reasons.pop(second, [])])
        return True

    def groups(self) -> list[list[int]]:
        """The sets, each in the order of the graph."""
        members: dict[int, list[int]] = {}
        for value in self.parent:
            members.setdefault(self.find(value), []).append(value)
        return list(members.values())
