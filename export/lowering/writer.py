"""The program under construction: tensors and operators appended in order, scales looked up in the frozen plan."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.operator_facts import Call
from jaxq.export.operators import lowest_version
from jaxq.export.program import Operator, Quantization, Tensor
from jaxq.graph import Op
from jaxq.plan.groups import numbers

# Codes of the schema's TensorType, as the options of CAST, ARG_MAX and convolutions hold them.
FLOAT32, INT32, BOOL, INT8 = 0, 2, 6, 9


class Writer:
    """The program under construction. `tensor_of` maps a graph value to its tensor."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        self.graph = frozen.plan.graph
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []
        self.tensor_of: dict[int, int] = {}

    def tensor(self, tensor: Tensor) -> int:
        """Append a tensor."""
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def constant(
        self, name: str, data: np.ndarray, quantization: Quantization | None = None, dtype: str | None = None
    ) -> int:
        """Append a constant. dtype: of the tensor, where it is not the data's (int4 is held as int8)."""
        contiguous = np.asarray(data, order="C")
        return self.tensor(Tensor(name, tuple(data.shape), dtype or str(data.dtype), quantization, contiguous))

    def ints(self, name: str, numbers: Sequence[int]) -> int:
        """A constant vector of int32."""
        return self.constant(name, np.asarray(numbers, np.int32))

    def quantization(self, value: int) -> Quantization:
        """Scale and zero point of an activation."""
        return Quantization.of(*self.frozen.of(value))

    def activation(self, value: int, suffix: str = "", shape: Sequence[int] | None = None) -> int:
        """A new int8 tensor with the scale of a graph value, or in the dtype of one that is no real number; it stands
        for the value itself when there is no suffix.
        """
        shape = tuple(shape if shape is not None else self.graph.avals[value].shape)
        index = self.tensor(self.like(value, self.graph.site_names[value] + suffix, shape))
        if not suffix:
            self.tensor_of[value] = index
        return index

    def like(self, value: int, name: str, shape: Sequence[int]) -> Tensor:
        """A tensor of the type and on the grid of a graph value."""
        if self.frozen.plan.group(value) is None:
            return Tensor(name, tuple(shape), self._plain(value))
        return Tensor(name, tuple(shape), self.integer(value), self.quantization(value))

    def integer(self, value: int) -> str:
        """The integer type of an activation."""
        group = self.frozen.plan.group(value)
        assert group is not None
        return f"int{group.scheme.bits}"

    def _plain(self, value: int) -> str:
        """The type of a value that is not quantized; every real number is a float32."""
        dtype = self.graph.avals[value].dtype
        return "float32" if jnp.issubdtype(dtype, jnp.floating) or value in numbers(self.graph) else str(dtype)

    def emit(self, kind: str, inputs: Sequence[int], outputs: Sequence[int], **options: Any) -> None:
        """Append an operator, in the lowest version that takes its tensors and options."""
        read, written = ([self.tensors[i] for i in indices] for indices in (inputs, outputs))
        version = lowest_version(Call(kind, read, written, options))
        self.operators.append(Operator(kind, tuple(inputs), tuple(outputs), options, version))

    def input(self, value: int, index: int) -> int:
        """The program's input for a graph input, in the recipe's type, with a QUANTIZE behind it unless int8."""
        dtype = self.frozen.plan.recipe.input
        if not self.graph.consumers(value):
            raise ExportError(f"Input {index} is read by no integer op. Remove it from the model's arguments.")
        if dtype == "int8" or self.frozen.plan.group(value) is None:
            return self.activation(value)
        self._refuse_uint8(value, dtype)
        outer = self.tensor(self._outer(value, dtype, f"{self.graph.site_names[value]}:{dtype}"))
        self.emit("QUANTIZE", [outer], [self.activation(value)])
        return outer

    def output(self, value: int) -> int:
        """The program's output for a graph output, in the recipe's type."""
        dtype, inner = self.frozen.plan.recipe.output, self.tensor_of[value]
        if dtype == "int8" or self.frozen.plan.group(value) is None:
            return inner
        self._refuse_uint8(value, dtype)
        outer = self.tensor(self._outer(value, dtype, f"{self.graph.site_names[value]}:{dtype}"))
        self.emit("DEQUANTIZE" if dtype == "float32" else "QUANTIZE", [inner], [outer])
        return outer

    def _refuse_uint8(self, value: int, dtype: str) -> None:
        if dtype == "uint8" and self.integer(value) == "int16":
            raise ExportError(
                f"{self.graph.site_names[value]} has 16 bits, and the recipe's end of the file is uint8. Set it to "
                '"int8" (the tensor\'s own integers) or "float32", or give the site 8 bits.'
            )

    def _outer(self, value: int, dtype: str, name: str) -> Tensor:
        shape, (scale, zero_point) = self.graph.avals[value].shape, self.frozen.of(value)
        quantization = Quantization.of(scale, zero_point + 128) if dtype == "uint8" else None
        return Tensor(name, shape, dtype, quantization)

    def read(self, op: Op, index: int) -> int:
        """The tensor an op reads: an activation, requantized where the plan says so, or a constant operand."""
        value = op.inputs[index]
        if value not in self.tensor_of:
            operand = self.frozen.operands[op.name, index]
            grid = Quantization.of(operand.scale, operand.zero_point) if operand.scale else None
            return self.constant(f"{op.name}:operand{index}", operand.q, grid)
        if (op.name, index) not in self.frozen.plan.requantized:
            return self.tensor_of[value]
        out = self.quantization(op.outputs[0])
        name = f"{op.name}:operand{index}"
        shape = self.graph.avals[value].shape
        requantized = self.tensor(Tensor(name, shape, self.integer(op.outputs[0]), out))
        self.emit("QUANTIZE", [self.tensor_of[value]], [requantized])
        return requantized


# How one kind of op is written: it appends operators.
Rule = Callable[[Writer, Op], None]
