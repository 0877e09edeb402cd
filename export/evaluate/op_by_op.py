"""A Program evaluated operator by operator, on a batch: operators that compute alike are compiled once.

`evaluate` is one function for `jax.jit`, which compiles a file as a whole. A proof reads few examples, and compiling
takes longer than running them. Here the time to compile grows with the number of different operators.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import InputError
from jaxq.export.evaluate.kernels.machine import PHONE
from jaxq.export.evaluate.kernels.xnnpack import by_machine
from jaxq.export.evaluate.program import checked, folded_tensors, interpret, joined, kernels_of, run_time_tensors
from jaxq.export.program import Operator, Program, Tensor
from jaxq.graph.shared import prepared
from jaxq.simulate.effort import for_results


class Held(NamedTuple):
    """A tensor's value in the file's shape, behind a leading axis of examples where `batched`."""

    array: Any
    batched: bool


Step = tuple[Callable[..., list[jax.Array]], bool]  # the compiled kernel of an operator; whether it reads a batch
Steps = dict[Hashable, Step]


class OperatorByOperator:
    """A program's reading by a kernel family on a machine, for programs without variables. Raises ExportError.

    steps: the program's compiled operators, by what they compute. Readings that are given one dict share them: an
    operator that two families or machines compute alike is compiled once.
    """

    def __init__(
        self, program: Program, family: str = "xnnpack", machine: str = PHONE, steps: Steps | None = None
    ) -> None:
        self.program, self.kernels = program, kernels_of(program, family, machine)
        self.steps: Steps = {} if steps is None else steps

    def __call__(self, *inputs: jax.Array | np.ndarray) -> dict[int, jax.Array]:
        """Inputs as `evaluate` takes them -> every run-time tensor by its index."""
        values = checked(self.program, inputs)
        shapes = [self.program.tensors[i].shape for i in self.program.inputs]
        if all(v.shape == shape for v, shape in zip(values, shapes, strict=True)):
            return _arrays(self._run([Held(v, False) for v in values], {}), None)
        sizes = {len(v) for v, shape in zip(values, shapes, strict=True) if shape[:1] == (1,)}
        if len(sizes) != 1:
            raise InputError(f"Inputs with batches of different sizes: {sorted(sizes)}.")
        held = [
            Held(v[:, None], True) if shape[:1] == (1,) else Held(v, False)
            for v, shape in zip(values, shapes, strict=True)
        ]
        return _arrays(self._run(held, {}), sizes.pop())

    def on(self, given: Mapping[int, Any]) -> dict[int, jax.Array]:
        """Run-time tensors by their index, in the file's shapes or with a batch -> what each operator makes of them."""
        program, tensors = self.program, self.program.tensors
        wanted = [i for i in run_time_tensors(program) if i not in folded_tensors(program)]
        values = {i: jnp.asarray(given[i]) for i in wanted}
        if all(values[i].shape == tensors[i].shape for i in program.inputs):
            held = {i: Held(v, False) for i, v in values.items()}
            return _arrays(self._run([held[i] for i in program.inputs], held), None)
        count = next(len(values[i]) for i in program.inputs if tensors[i].shape[:1] == (1,))
        fixed = {i for i in program.inputs if tensors[i].shape[:1] != (1,)}
        held = {
            i: Held(v, False) if i in fixed else Held(v.reshape(count, *tensors[i].shape), True)
            for i, v in values.items()
        }
        return _arrays(self._run([held[i] for i in program.inputs], held), count)

    def on_each(self, given: Mapping[int, Any]) -> dict[int, jax.Array]:
        """As `on`, of tensors that all have an axis of examples before the file's shape; so have the results."""
        held = {i: Held(jnp.asarray(v), True) for i, v in given.items()}
        count = len(next(iter(held.values())).array)
        found = self._run([held[i] for i in self.program.inputs], held)
        return {i: _spread(value, count) for i, value in found.items()}

    def _run(self, inputs: Sequence[Held], given: Mapping[int, Held]) -> dict[int, Held]:
        """Every run-time tensor, each operator on the tensors given where they are, else on its predecessors'."""
        found: dict[int, Held] = dict(zip(self.program.inputs, inputs, strict=True))

        def apply(op: Operator, values: list[Any]) -> list[Any]:
            values = [given.get(i, value) for i, value in zip(op.inputs, values, strict=True)]
            made = self._step(op, values)
            found.update(zip(op.outputs, made, strict=True))
            return made

        interpret(self.program, inputs, apply, lambda tensor: tensor)
        return {i: found[i] for i in run_time_tensors(self.program)}

    def _step(self, op: Operator, values: Sequence[Held | Tensor | None]) -> list[Held]:
        held = [v for v in values if isinstance(v, Held)]
        options = for_results(self._results(op, held))
        key = (id(op), self._arithmetic(op), *(v.batched for v in held), *sorted(options.items()))
        if key not in self.steps:
            self.steps[key] = self._prepared(op, values, options)
        run, batched = self.steps[key]
        return [Held(array, batched) for array in run(*(v.array for v in held))]

    def _arithmetic(self, op: Operator) -> Hashable:
        """What an operator's kernel is, the same for families and machines that compute it alike."""
        kernel = self.kernels(op)
        if not isinstance(kernel, functools.partial):
            return kernel
        chosen = dict(kernel.keywords)
        machine, field = chosen.pop("machine", None), by_machine(op, self.program.tensors)
        own = None if machine is None or field is None else getattr(machine, field)
        return kernel.func, own, *sorted(chosen.items())

    def _results(self, op: Operator, held: Sequence[Held]) -> int:
        """How many numbers an operator computes."""
        examples = max((len(v.array) for v in held if v.batched), default=1)
        return examples * max((math.prod(self.program.tensors[i].shape) for i in op.outputs), default=0)

    def _prepared(self, op: Operator, values: Sequence[Held | Tensor | None], options: Mapping[str, Any]) -> Step:
        """The compiled kernel of an operator, constants taken from the program; whether it reads a batch."""
        kernel, tensors = self.kernels(op), self.program.tensors
        held = [v for v in values if isinstance(v, Held)]

        def one(*arrays: jax.Array) -> list[jax.Array]:
            own = iter(arrays)
            read = [next(own) if isinstance(v, Held) else None if v is None else jnp.asarray(v.data) for v in values]
            return kernel(op, tensors, read)

        batched = any(v.batched for v in held)
        axes = tuple(0 if v.batched else None for v in held) if batched else ()
        shapes = [jax.ShapeDtypeStruct(v.array.shape[v.batched :], v.array.dtype) for v in held]
        return prepared(one, shapes, options, axes), batched


def _arrays(found: Mapping[int, Held], count: int | None) -> dict[int, jax.Array]:
    """The values in the file's shapes, or with a batch of so many in the place of their leading 1."""
    return {i: v.array if count is None else joined(_spread(v, count)) for i, v in found.items()}


def _spread(held: Held, count: int) -> jax.Array:
    """The value of each example; of what does not depend on the inputs the same for all."""
    return held.array if held.batched else jnp.broadcast_to(held.array, (count, *held.array.shape))
