"""A program on real numbers: the forward is the device's integers, the gradient that of the float operators.

Every tensor is a pair: what the kernel family computes, and the real number that stands for, whose gradient is the one
of the operator's float meaning (`kernels.floats`) at the dequantized operands. A gradient passes where the rounded
integer lies inside the tensor's bounds, ends included, and is zero where it saturates (Bengio et al. 2013; the
convention of `jaxq.numerics.rounding`). Weights are constants.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate import variables
from jaxq.export.evaluate.kernels import floats, hybrid
from jaxq.export.evaluate.kernels.machine import PHONE
from jaxq.export.evaluate.kernels.operands import activation, builtin_bounds, limits, scale, scales, zero_point
from jaxq.export.evaluate.program import Environment, checked, initial_state, interpret, kernels_of, over_batch
from jaxq.export.evaluate.variables import State
from jaxq.export.operators import CONTRACTIONS
from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.shapes import STATES
from jaxq.numerics.rounding import straight_through

Tensors = tuple[Tensor, ...]


class Pair(NamedTuple):
    """A tensor's value in the file's dtype, and as a real number. Of floats and of indices they are the same."""

    exact: Any
    real: Any


def evaluate_real(program: Program, family: str, machine: str = PHONE) -> Callable[..., tuple[jax.Array, ...]]:
    """The program's real-valued inputs -> its real-valued outputs, differentiable, in the batches of `evaluate`.

    Quantized inputs are float32, others as in the file. Raises ExportError for an operator without a float meaning.
    """
    recurrent = next((op.kind for op in program.operators if op.kind in STATES), None)
    if recurrent is not None:
        raise ExportError(f"{recurrent} has no float meaning, so no gradient. Call the function on integers instead.")
    kernels, before = kernels_of(program, family, machine), initial_state(program, family, machine)
    initial = {name: _lifted(value, _variable(program, name)) for name, value in before.items()}

    def single(state: State, *inputs: jax.Array) -> tuple[State, Environment]:
        after = dict(state)

        def apply(op: Operator, values: list[Any]) -> list[Any]:
            if op.kind in variables.KINDS:
                return variables.apply(op, program.tensors, values, after)
            return _applied(op, program.tensors, values, kernels)

        entered = [quantized(x, program.tensors[i]) for x, i in zip(inputs, program.inputs, strict=True)]
        environment = interpret(program, entered, apply, lambda tensor: _lifted(tensor.data, tensor))
        return after, {index: environment[index].real for index in program.outputs}

    def function(*inputs: jax.Array | np.ndarray) -> tuple[jax.Array, ...]:
        found = over_batch(program, single, initial, checked(program, inputs, real=True))
        return tuple(found[index] for index in program.outputs)

    return function


def quantized(real: jax.Array, tensor: Tensor) -> Pair:
    """An input: `clip(rint(x * f32(1 / s)) + z)`, half to even, where the tensor is quantized."""
    if tensor.quantization is None:
        return Pair(real, real)
    low, high = (np.float32(limit - zero_point(tensor)) for limit in limits(tensor))
    steps = jnp.clip(jnp.round(jax.lax.stop_gradient(real) * (np.float32(1) / scale(tensor))), low, high)
    return _paired((steps.astype(jnp.int32) + zero_point(tensor)).astype(tensor.dtype), real, tensor, limits(tensor))


def _lifted(value: Any, tensor: Tensor) -> Pair:
    """A constant."""
    return Pair(jnp.asarray(value), floats.dequantized(jnp.asarray(value), tensor))


def _variable(program: Program, name: str) -> Tensor:
    """A tensor that reads the variable: it has its scale."""
    handles = {op.outputs[0]: variables.apply(op, program.tensors, [], {})[0]
               for op in program.operators if op.kind == "VAR_HANDLE"}  # fmt: skip
    reads = [op for op in program.operators if op.kind == "READ_VARIABLE" and handles[op.inputs[0]] == name]
    return program.tensors[reads[0].outputs[0]] if reads else Tensor(name, (), "float32")


def _applied(op: Operator, tensors: Tensors, values: list[Any], kernels: Callable[[Operator], Any]) -> list[Pair]:
    reals = [None if value is None else value.real for value in values]
    if hybrid.is_hybrid(op, tensors):
        return [Pair(y, y) for y in kernels(op)(op, tensors, reals)]
    if floats.is_float(op, tensors):
        return [Pair(y, y) for y in floats.evaluate(op, tensors, reals)]
    if op.kind not in floats.KERNELS:
        raise ExportError(f"{op.kind} has no float meaning, so no gradient. Call the function on integers instead.")
    outputs = [tensors[index] for index in op.outputs]
    integers = [None if value is None else jax.lax.stop_gradient(value.exact) for value in values]
    exact = kernels(op)(op, tensors, integers)
    if op.kind == "CAST":
        return [_index(exact[0], values[0], tensors[op.inputs[0]])]
    if op.kind == "GATHER":
        return [_gathered(op, exact[0], values, tensors)]
    surrogates = floats.KERNELS[op.kind](op, tensors, _with_bias(op, tensors, reals))
    return [_result(op, *each) for each in zip(exact, surrogates, outputs, strict=True)]


def _index(exact: jax.Array, value: Pair, tensor: Tensor) -> Pair:
    """The integers of a quantized tensor as indices: its real number in steps, so that a table of them has a slope."""
    if tensor.quantization is None:
        return Pair(exact, exact)
    steps = value.real / scale(tensor) + zero_point(tensor)
    return Pair(exact, straight_through(exact.astype(jnp.float32), steps))


def _gathered(op: Operator, exact: jax.Array, values: list[Any], tensors: Tensors) -> Pair:
    """A look-up. The gradient of a table that is indexed by a tensor's integers is its central difference."""
    table, index = values[:2]
    y = tensors[op.outputs[0]]
    if not jnp.issubdtype(index.real.dtype, jnp.floating) or table.real.ndim != 1 or y.quantization is None:
        return _result(op, exact, floats.KERNELS["GATHER"](op, tensors, [table.real, index.exact])[0], y)
    slope = jnp.gradient(jax.lax.stop_gradient(table.real))[index.exact]
    step = index.real - jax.lax.stop_gradient(index.real)
    return _paired(exact, floats.dequantized(exact, y) + slope * step, y, limits(y))


def _with_bias(op: Operator, tensors: Tensors, reals: list[Any]) -> list[Any]:
    """A contraction's bias as a real number also where the file gives it no scale: it is that of x by the weights'."""
    position = CONTRACTIONS[op.kind].bias if op.kind in CONTRACTIONS else len(reals)
    if position >= len(reals) or reals[position] is None or tensors[op.inputs[position]].quantization is not None:
        return reals
    x, w = (tensors[op.inputs[at]] for at in CONTRACTIONS[op.kind][:2])
    return [*reals[:position], reals[position] * (scale(x) * scales(w)), *reals[position + 1 :]]


def _result(op: Operator, exact: jax.Array, surrogate: jax.Array, tensor: Tensor) -> Pair:
    if tensor.dtype == "float32":  # DEQUANTIZE
        real = straight_through(exact, surrogate)
        return Pair(real, real)
    if tensor.quantization is None:  # positions, as of ARG_MAX; what comes of a quantized tensor's integers has a slope
        sloped = jnp.issubdtype(surrogate.dtype, jnp.floating)
        return Pair(exact, straight_through(exact.astype(jnp.float32), surrogate) if sloped else exact)
    return _paired(exact, surrogate, tensor, builtin_bounds(tensor, activation(op)))


def _paired(exact: jax.Array, surrogate: jax.Array, tensor: Tensor, bounds: tuple[int, int]) -> Pair:
    low, high = (np.float32(bound - zero_point(tensor)) for bound in bounds)
    steps = jnp.round(surrogate / scale(tensor))
    passing = jnp.where((low <= steps) & (steps <= high), surrogate, jax.lax.stop_gradient(surrogate))
    return Pair(exact, straight_through(floats.dequantized(exact, tensor), passing))
