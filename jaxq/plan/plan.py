"""The plan: which tensors are quantized and how, which share a scale and why, which stay float and why.

`jaxq.plan.make_plan` makes one of a recipe and a graph, before training and without data.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping

from jaxq.gradients.backward import Backward, backward_for
from jaxq.gradients.statistics import GradientSite
from jaxq.graph import Graph, Op
from jaxq.ops.arithmetic import Arithmetic
from jaxq.plan.findings import Finding
from jaxq.plan.groups import Group as Group
from jaxq.plan.norms import Norm
from jaxq.plan.recipe import (
    Recipe,
)
from jaxq.plan.scheme import Scheme
from jaxq.plan.text import plan_text


@dataclasses.dataclass(frozen=True)
class Plan:
    """The decisions for one graph.

    groups: activations with one range, by name. group_of: the group of a site, by the site's name. weights: by an op's
    name, how its kernel is quantized. islands: by an op's name, why it runs in floating point. requantized: the (op,
    operand) pairs that need a QUANTIZE before. embeddings: by an op's name, how the table of an EMBEDDING on floats is
    quantized. storage: by an op's name, the type of its kernel or table in the file, where it is not float32.
    arithmetic: by an op's name, how the device computes it. norms: by site, the BatchNorms that follow. gradients: by
    site, the ops whose quantized gradients keep a state. findings: what calibrated ranges cannot hold; none before
    calibration.
    """

    recipe: Recipe
    graph: Graph
    groups: Mapping[str, Group] = dataclasses.field(default_factory=dict)
    group_of: Mapping[str, str] = dataclasses.field(default_factory=dict)
    weights: Mapping[str, Scheme] = dataclasses.field(default_factory=dict)
    islands: Mapping[str, str] = dataclasses.field(default_factory=dict)
    requantized: frozenset[tuple[str, int]] = frozenset()
    embeddings: Mapping[str, Scheme] = dataclasses.field(default_factory=dict)
    storage: Mapping[str, str] = dataclasses.field(default_factory=dict)
    arithmetic: Mapping[str, Arithmetic] = dataclasses.field(default_factory=dict)
    norms: Mapping[str, Norm] = dataclasses.field(default_factory=dict)
    gradients: Mapping[str, GradientSite] = dataclasses.field(default_factory=dict)
    findings: tuple[Finding, ...] = ()

    def group(self, value: int) -> Group | None:
        """The group of a value of the graph; None for a float."""
        key = self.group_of.get(self.graph.site_names.get(value, ""))
        return None if key is None else self.groups[key]

    def weight_site(self, op: Op) -> str | None:
        """The name of the trained scale of an op's weight; None where the scale follows the weight."""
        if op.name not in self.weights or self.weights[op.name].ranges == "follow":
            return None
        return f"{op.name}:weight" if op.name in self.group_of else op.name

    @property
    def statistics(self) -> dict[str, Norm | GradientSite]:
        """What is held among the ranges and is no range, by site."""
        return {**self.norms, **self.gradients}

    @property
    def facts(self) -> dict[str, str]:
        """What ranges are of, by name: the integers of each range and its members, those of each weight, and islands.
        How a range is calibrated and trained is no part of it.
        """
        ranges = {
            g.name: f"{g.scheme.integers}, of {', '.join(g.members)}{_prescribed(g)}" for g in self.groups.values()
        }
        weights = {f"{name} (weight)": scheme.integers for name, scheme in self.weights.items()}
        return {**ranges, **weights, **{f"{name} (op)": "float island" for name in sorted(self.islands)}}

    @property
    def fingerprint(self) -> str:
        """A hash of `facts`, 16 digits."""
        return hashlib.sha256(repr(self.facts).encode()).hexdigest()[:16]

    def backward(self, op: Op) -> Backward | None:
        """How the gradients of an op's product are formed of integers; None for floats."""
        how = self.recipe.backward
        return None if how is None else backward_for(how, contraction_names(op))

    def __str__(self) -> str:
        """The whole plan as text."""
        return plan_text(self)


def _prescribed(group: Group) -> str:
    fixed = "" if group.fixed is None else f"; scale and zero point {group.fixed}"
    return fixed if group.derived is None else f"{fixed}; derived from {group.derived}"


def contraction_names(op: Op) -> tuple[str, str]:
    """What rules of the backward pass call an op: its name and the user's line, `model.py:29`."""
    return op.name, op.source.partition(" ")[0]
