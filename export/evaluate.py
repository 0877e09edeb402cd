"""A Program as a jittable JAX function that computes every integer as a named kernel family does."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError, InputError
from jaxq.export.kernels import reference, tflm, xnnpack
from jaxq.export.kernels.operands import Kernel
from jaxq.export.program import Operator, Program, Tensor

FAMILIES: dict[str, dict[str, Kernel]] = {
    "xnnpack": xnnpack.KERNELS,
    "reference": reference.KERNELS,
    "tflm": tflm.KERNELS,
}

Environment = dict[int, jax.Array]


def evaluate(
    program: Program, family: str = "xnnpack", *, every_tensor: bool = False
) -> Callable[..., tuple[jax.Array, ...] | dict[int, jax.Array]]:
    """The program's inputs -> its outputs, or with `every_tensor` a dict from tensor index to value, inputs
    included.

    Inputs are arrays of the inputs' own dtypes. In the file's shapes they give the file's outputs. Where the
    file's shapes begin with 1, one leading batch of any size takes its place; the outputs then have that
    batch in place of their own leading 1, or in front where they have none. The function can be jitted and
    vmapped.
    """
    kernels = _family(family)
    for op in program.operators:
        _kernel(kernels, op, family)
    wanted = _run_time_tensors(program) if every_tensor else program.outputs

    def single(*inputs: jax.Array) -> Environment:
        return _run(program, kernels, inputs, wanted)

    def function(*inputs: jax.Array | np.ndarray) -> tuple[jax.Array, ...] | dict[int, jax.Array]:
        values = _checked(program, inputs)
        found = single(*values) if _as_in_file(program, values) else _over_batch(program, single, values)
        return found if every_tensor else tuple(found[index] for index in program.outputs)

    return function


def _family(family: str) -> dict[str, Kernel]:
    if family not in FAMILIES:
        raise ExportError(f"No kernel family {family!r}. Families: {', '.join(FAMILIES)}.")
    return FAMILIES[family]


def _kernel(kernels: dict[str, Kernel], op: Operator, family: str) -> Kernel:
    if op.kind not in kernels:
        others = [name for name, table in FAMILIES.items() if op.kind in table]
        advice = f"Evaluate with family {others[0]!r}" if others else "Express it by other operators"
        raise ExportError(f"The {family} family has no exact kernel for {op.kind}. {advice}.")
    return kernels[op.kind]


def _run(
    program: Program, kernels: dict[str, Kernel], inputs: tuple[jax.Array, ...], wanted: tuple[int, ...]
) -> Environment:
    """All operators in order, on values of the file's shapes."""
    environment: Environment = dict(zip(program.inputs, inputs, strict=True))
    for op in program.operators:
        values = [_value(program.tensors, environment, index) for index in op.inputs]
        results = kernels[op.kind](op, program.tensors, values)
        environment.update(zip(op.outputs, results, strict=True))
    return {index: _present(program.tensors, environment, index) for index in wanted}


def _value(tensors: tuple[Tensor, ...], environment: Environment, index: int) -> jax.Array | None:
    return None if index < 0 else _present(tensors, environment, index)


def _present(tensors: tuple[Tensor, ...], environment: Environment, index: int) -> jax.Array:
    if index in environment:
        return environment[index]
    data = tensors[index].data
    if data is None:
        raise ExportError(f"Tensor {index} {tensors[index].name!r} is read before any operator writes it.")
    return jnp.asarray(data)


def _run_time_tensors(program: Program) -> tuple[int, ...]:
    written = [index for op in program.operators for index in op.outputs if index >= 0]
    return tuple(dict.fromkeys([*program.inputs, *written]))


def _checked(program: Program, inputs: tuple[jax.Array | np.ndarray, ...]) -> list[jax.Array]:
    if len(inputs) != len(program.inputs):
        raise InputError(f"{len(inputs)} inputs for a program that has {len(program.inputs)}.")
    values = [jnp.asarray(value) for value in inputs]
    for value, index in zip(values, program.inputs, strict=True):
        tensor = program.tensors[index]
        if value.dtype != jnp.dtype(tensor.dtype):
            raise InputError(f"Input {tensor.name!r} is {value.dtype}; the file says {tensor.dtype}.")
        if value.shape != tensor.shape and (tensor.shape[:1] != (1,) or value.shape[1:] != tensor.shape[1:]):
            raise InputError(f"Input {tensor.name!r} is {value.shape}; the file says {tensor.shape}.")
    return values


def _as_in_file(program: Program, values: list[jax.Array]) -> bool:
    return all(v.shape == program.tensors[i].shape for v, i in zip(values, program.inputs, strict=True))


def _over_batch(program: Program, single: Callable[..., Environment], values: list[jax.Array]) -> Environment:
    """`single` on each example; inputs that have no leading 1 in the file go to every example."""
    batched = [program.tensors[index].shape[:1] == (1,) for index in program.inputs]
    sizes = {value.shape[0] for value, has_batch in zip(values, batched, strict=True) if has_batch}
    if len(sizes) != 1:
        raise InputError(f"Inputs with batches of different sizes: {sorted(sizes)}.")
    examples = [value[:, None] if has_batch else value for value, has_batch in zip(values, batched, strict=True)]
    found = jax.vmap(single, in_axes=tuple(0 if has_batch else None for has_batch in batched))(*examples)
    return {index: joined(value) for index, value in found.items()}


def joined(stacked: jax.Array) -> jax.Array:
    """(batch, 1, ...) to (batch, ...); an example's value that does not begin with 1 keeps its shape."""
    return stacked.squeeze(1) if stacked.ndim > 1 and stacked.shape[1] == 1 else stacked
