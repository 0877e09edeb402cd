"""A TFLite file as a JAX function."""

from __future__ import annotations

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import FormatError, InputError
from jaxq.export import shapes
from jaxq.export.evaluate.gradient import evaluate_real, quantized
from jaxq.export.evaluate.kernels.floats import dequantized
from jaxq.export.evaluate.kernels.machine import PHONE
from jaxq.export.evaluate.kernels.operands import scale, zero_point
from jaxq.export.evaluate.program import checked, evaluate, initial_state, single_step
from jaxq.export.flatbuffer.read import read
from jaxq.export.program import Program, Tensor

LARGEST_FILE = 1 << 31  # bytes; a flatbuffer's offsets end there

Array = jax.Array | np.ndarray
Source = str | os.PathLike[str] | bytes | bytearray | memoryview  # a path, or the file's bytes


def load_program(source: Source) -> Program:
    """Read a .tflite file, as far as it can be shown. Raises FormatError, also for a file that cannot be read.

    Its shapes need not fit its operators: `evaluated_program` asks for that.
    """
    if isinstance(source, (bytes, bytearray, memoryview)):
        return read(bytes(source))
    if not isinstance(source, str | os.PathLike):
        raise InputError(f"jaxq.load takes the path of a .tflite file, or its bytes, not a {type(source).__name__}.")
    target = pathlib.Path(source)
    try:
        if target.stat().st_size >= LARGEST_FILE:
            raise FormatError(f"{target} has {target.stat().st_size:,} bytes; a TFLite file has less than 2 GiB.")
        return read(target.read_bytes())
    except (OSError, ValueError) as e:
        reason = e.strerror if isinstance(e, OSError) else e
        raise FormatError(f"Cannot read {str(target)!r}: {reason}.") from e
    except FormatError as e:
        raise FormatError(f"{target}: {e}") from e


def evaluated_program(source: Source) -> Program:
    """Read a .tflite file to run it: its shapes, types and constants fit its operators. Raises FormatError."""
    program = load_program(source)
    try:
        shapes.check(program)
    except FormatError as e:
        if isinstance(source, (bytes, bytearray, memoryview)):
            raise
        raise FormatError(f"{pathlib.Path(source)}: {e}") from e
    return program


@dataclasses.dataclass(frozen=True)
class Port:
    """One input or output: its name (the signature's, or the tensor's), and how real numbers become its integers.

    `scale` and `zero_point` are None where the file holds the numbers themselves: floats, indices.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded:
    """What `load` gives: the deployed numerics of a file as a pure function of its inputs.

    Call it with arrays of the file's dtypes; it returns the tuple of outputs in theirs. Shapes are the file's, or have
    a batch of any size in place of their leading 1. It can be jitted and vmapped: `jax.jit(fn)`,
    `jax.jit(functools.partial(fn, family="reference"))`. `family` and `machine` are those that `load` was given, unless
    named again.

    A file with variables (a streaming model) takes the leading axis for time, and begins with its initial state;
    `initial_state` and `step` run it piece by piece.
    """

    program: Program
    family: str = "xnnpack"
    machine: str = PHONE

    def __call__(self, *inputs: Array, family: str | None = None, machine: str | None = None) -> tuple[jax.Array, ...]:
        """The outputs, in the file's dtypes, for inputs in the file's dtypes. Raises InputError, ExportError."""
        found = evaluate(self.program, family or self.family, machine=machine or self.machine)(*inputs)
        assert isinstance(found, tuple)
        return found

    def real(self, *inputs: Array, family: str | None = None, machine: str | None = None) -> tuple[jax.Array, ...]:
        """Real numbers in and out, float32: `dequantize_outputs(*fn(*quantize_inputs(*inputs)))`, bit for bit.

        The gradient is straight-through: that of each operator's float meaning at the dequantized operands, and zero
        where an integer saturates. Inputs without a scale are as in the file. Raises InputError, ExportError.
        """
        return evaluate_real(self.program, family or self.family, machine or self.machine)(*inputs)

    @property
    def inputs(self) -> tuple[Port, ...]:
        """Name, shape, dtype, scale and zero point of each input."""
        return _ports(self.program, self.program.inputs, self.program.input_names)

    @property
    def outputs(self) -> tuple[Port, ...]:
        """Name, shape, dtype, scale and zero point of each output."""
        return _ports(self.program, self.program.outputs, self.program.output_names)

    def quantize_inputs(self, *inputs: Array) -> tuple[jax.Array, ...]:
        """Real numbers as the file's integers: `clip(rint(x * f32(1 / scale)) + zero_point)`, ties to even."""
        tensors = _tensors(self.program, self.program.inputs, inputs, "inputs")
        return tuple(quantized(jnp.asarray(x), tensor).exact for x, tensor in zip(inputs, tensors, strict=True))

    def dequantize_outputs(self, *outputs: Array) -> tuple[jax.Array, ...]:
        """The file's integers as real numbers, float32: `scale * (q - zero_point)`."""
        tensors = _tensors(self.program, self.program.outputs, outputs, "outputs")
        return tuple(dequantized(jnp.asarray(q), tensor) for q, tensor in zip(outputs, tensors, strict=True))

    def initial_state(self, family: str | None = None) -> dict[str, jax.Array]:
        """The file's variables before its first invocation, by name; {} where it has none."""
        found = initial_state(self.program, family or self.family, self.machine)
        return {name: jnp.asarray(value) for name, value in found.items()}

    def step(
        self, state: dict[str, Any], *inputs: Array, family: str | None = None, machine: str | None = None
    ) -> tuple[dict[str, jax.Array], tuple[jax.Array, ...]]:
        """One invocation, inputs in the file's shapes: (the state after it, the outputs). For `jax.lax.scan`."""
        values = checked(self.program, inputs)
        for value, index in zip(values, self.program.inputs, strict=True):
            tensor = self.program.tensors[index]
            if value.shape != tensor.shape:
                raise InputError(f"Input {tensor.name!r} of one step is {value.shape}; the file says {tensor.shape}.")
        single = single_step(self.program, family or self.family, self.program.outputs, machine or self.machine)
        after, found = single(state, *values)
        return after, tuple(found[index] for index in self.program.outputs)


def load(source: Source, *, family: str = "xnnpack", machine: str = PHONE) -> Loaded:
    """The deployed numerics of a .tflite file, whoever wrote it, as a jittable, vmappable JAX function of its inputs.

    Args:
      source: a path, or the bytes of a file (`bytes`, `bytearray`, `memoryview`), such as `artifact.data`.
      family: "xnnpack" (LiteRT's default on phones), "reference" or "tflm" (TFLite Micro); each call may name another.
      machine: "aarch64" (phones) or "x86_64". Of the family "xnnpack", SOFTMAX of 8 bits and the contractions that
        XNNPACK leaves to TFLite (4-bit weights of convolutions, 16-bit activations) differ by a step between the two.

    Returns:
      A `Loaded`: call it with arrays of the file's shapes and dtypes.

    Raises:
      FormatError: the file is broken, or its shapes do not fit its operators (`jaxq.export.shapes`).
      ExportError: the family has no exact kernel for an operator.

    Example:
      >>> fn = jaxq.load(artifact.data)
      >>> (logits,) = fn(*fn.quantize_inputs(images))
      >>> logits.shape, str(logits.dtype)
      ((8, 3), 'int8')
    """
    program = evaluated_program(source)
    evaluate(program, family, machine=machine)  # for its errors
    return Loaded(program, family, machine)


def _ports(program: Program, indices: Sequence[int], names: Sequence[str]) -> tuple[Port, ...]:
    tensors = [program.tensors[index] for index in indices]
    return tuple(_port(tensor, name) for tensor, name in zip(tensors, names or [t.name for t in tensors], strict=True))


def _port(tensor: Tensor, name: str) -> Port:
    if tensor.quantization is None:
        return Port(name, tensor.shape, tensor.dtype, None, None)
    return Port(name, tensor.shape, tensor.dtype, float(scale(tensor)), zero_point(tensor))


def _tensors(program: Program, indices: Sequence[int], values: Sequence[Array], what: str) -> list[Tensor]:
    if len(values) != len(indices):
        raise InputError(f"{len(values)} {what} for a program that has {len(indices)}.")
    return [program.tensors[index] for index in indices]
