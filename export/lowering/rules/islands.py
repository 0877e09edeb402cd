"""Float islands: ops on floats between integers, with a DEQUANTIZE before and a QUANTIZE behind."""

from __future__ import annotations

import dataclasses

from jaxq.export.lowering.writer import Rule, Writer
from jaxq.export.program import Tensor
from jaxq.graph import Op


class Island:
    """Writes ops on floats into the program of a writer of integers: it has no groups, so every tensor is float32."""

    def __init__(self, integers: Writer) -> None:
        self.integers = integers
        frozen, plan = integers.frozen, integers.frozen.plan
        names = {v: f"{n}:float32" if plan.group(v) else n for v, n in plan.graph.site_names.items()}
        graph = dataclasses.replace(plan.graph, site_names=names)
        none = {"groups": {}, "group_of": {}, "weights": {}, "storage": {}, "requantized": frozenset()}
        self.floats = Writer(dataclasses.replace(frozen, plan=dataclasses.replace(plan, graph=graph, **none)))
        self.floats.tensors, self.floats.operators = integers.tensors, integers.operators

    def write(self, op: Op, rule: Rule) -> None:
        """One op: its rule, on floats; what integers read of its outputs is quantized, and read so by islands too."""
        for value in op.inputs:
            if value in self.integers.tensor_of and value not in self.floats.tensor_of:
                self._enter(value)
        rule(self.floats, op)
        for value in op.outputs:
            made = self.floats.tensor_of[value]
            if self.integers.frozen.plan.group(value) is None:
                self.integers.tensor_of[value] = made
            else:
                del self.floats.tensor_of[value]
                self.integers.emit("QUANTIZE", [made], [self.integers.activation(value)])

    def _enter(self, value: int) -> None:
        held = self.integers.tensor_of[value]
        if self.integers.frozen.plan.group(value) is not None:
            shape, name = self.integers.graph.avals[value].shape, self.floats.graph.site_names[value]
            wide = self.integers.tensor(Tensor(f"{name}:again", tuple(shape), "float32"))
            self.integers.emit("DEQUANTIZE", [held], [wide])
            held = wide
        self.floats.tensor_of[value] = held
