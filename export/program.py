"""TFLite in memory: a `Program` is tensors with their quantization parameters, operators with their options, and
constants. The writer serializes it, the reader parses any `.tflite` into it, the evaluator runs it in JAX.

A Program is a frozen value. It knows nothing of bytes (`flatbuffer/`) nor of arithmetic (`kernels/`). Indices are
TFLite's own: an operator names its tensors by their position in `Program.tensors`, and -1 is an absent optional input.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

# Types whose constants are held as the bytes of their buffer, uint8 of shape (bytes,).
RAW = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "int2", "string", "uint4")
# The least and the greatest number of the types that activations and weights are quantized to.
LIMITS = {"int4": (-8, 7), "int8": (-128, 127), "uint8": (0, 255), "int16": (-32768, 32767)}
# TFLite's tensor types by the names used here. int4 data is held one value per int8 element, and packed by the writer.
DTYPES = (
    *("float32", "float16", "float64", "int4", "int8", "int16", "int32", "int64"),
    *("uint8", "uint16", "uint32", "uint64", "complex64", "complex128", "bool", "resource", "variant", *RAW),
)

Option = bool | int | float | str | tuple[int, ...] | tuple[float, ...] | None


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Quantization:
    """Affine parameters, `real = scale * (q - zero_point)` (Jacob et al. 2018, section 2.1).

    `scale`: float32, shape (1,) per tensor, (channels,) per channel along `axis`. `zero_point`: int64, same shape.
    """

    scale: np.ndarray
    zero_point: np.ndarray
    axis: int = 0

    @staticmethod
    def of(scale: np.ndarray | np.floating | float, zero_point: int = 0, axis: int = 0) -> Quantization:
        """Parameters with one zero point for every channel. `scale` is kept as float32 bit for bit."""
        scales = np.atleast_1d(np.asarray(scale, np.float32))
        return Quantization(scales, np.full(scales.shape, zero_point, np.int64), axis)

    @property
    def per_channel(self) -> bool:
        """Whether there is more than one scale."""
        return self.scale.size > 1


@dataclasses.dataclass(frozen=True, eq=False, slots=True)
class Tensor:
    """One TFLite tensor. `data` is None for a value computed at run time, else a constant of shape `shape`.

    `offset`: the byte at which a constant begins in the file that it was read from; None where there is no file.
    `unread`: what the file says of the tensor and a Program cannot hold, such as "sparse data"; "" where it holds all.
    `variable`: whether an operator keeps its state in the tensor from one call to the next.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: np.ndarray | None = None
    offset: int | None = None
    unread: str = ""
    variable: bool = False


@dataclasses.dataclass(frozen=True, slots=True)
class Operator:
    """One TFLite operator.

    `kind` is the BuiltinOperator name ("CONV_2D"). `options` holds the fields of its options table in snake_case
    (`stride_h`, `fused_activation_function`); paddings and activations are names ("SAME", "RELU6"), not numbers.
    `intermediates`: tensors with the parameters of what a recurrent operator computes inside.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Option] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    version: int = 1
    intermediates: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Program:
    """One TFLite subgraph with the names of its signature; prints as a list of operators.

    Attributes:
      tensors: with their quantization parameters and constants.
      operators: in the order of execution.
      inputs: indices of tensors.
      outputs: indices of tensors.
      input_names: the signature's, in the order of `inputs`.
      output_names: the signature's, in the order of `outputs`.
      description: the file's.
      metadata: named buffers of the file.
      subgraphs: the file's others, from number 1 on, which operators such as CALL_ONCE run.
    """

    tensors: tuple[Tensor, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()
    description: str = ""
    metadata: Mapping[str, bytes] = dataclasses.field(default_factory=lambda: MappingProxyType({}))
    subgraphs: tuple[Program, ...] = ()

    def __str__(self) -> str:
        """One line an operator: stable text, used by golden files and bug reports."""
        head = f"Program({_names(self, self.inputs)}) -> ({_names(self, self.outputs)})"
        lines = [f"  {_names(self, op.outputs)} = {_operator(self, op)}" for op in self.operators]
        return "\n".join([head, *lines])


def describe(tensor: Tensor) -> str:
    """`int8[1,28,28,16] scale=0.0235294 zp=-128`: dtype, shape and quantization of one tensor."""
    text = f"{tensor.dtype}[{','.join(map(str, tensor.shape))}]"
    q = tensor.quantization
    if q is None or not q.scale.size:
        return text
    if q.per_channel:
        return f"{text} scales={q.scale.size} axis={q.axis}"
    return f"{text} scale={q.scale[0]:.6g} zp={int(q.zero_point[0])}"


def _names(program: Program, indices: Sequence[int]) -> str:
    return ", ".join(f"{program.tensors[i].name}: {describe(program.tensors[i])}" for i in indices)


def _operator(program: Program, op: Operator) -> str:
    args = ", ".join("-" if i < 0 else _argument(program.tensors[i]) for i in op.inputs)
    options = "".join(f" {key}={value}" for key, value in sorted(op.options.items()) if _worth_printing(value))
    return f"{op.kind}.v{op.version}({args}){options}"


def _argument(tensor: Tensor) -> str:
    return tensor.name if tensor.data is None else f"{tensor.name}: {describe(tensor)}"


def _worth_printing(value: Option) -> bool:
    return value not in (None, False, 0, "NONE", ())
