"""What a kernel reads of its operator: constants, scales, zero points, options, and the bounds of fused
activations.

All of it is host arithmetic in numpy, with the float32 and float64 steps of the runtimes' own Prepare
functions.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.program import LIMITS, Operator, Option, Tensor
from jaxq.numerics.rounding import round_away

Tensors = tuple[Tensor, ...]  # every tensor of the program
Values = list[jax.Array | None]  # of an operator's inputs, in the tensors' own dtypes; None is an absent optional one
# kernel(op, tensors, values) -> the values of op.outputs
Kernel = Callable[[Operator, Tensors, Values], list[jax.Array]]

# Fused activations as bounds on the real output; None is unbounded.
ACTIVATIONS: dict[str, tuple[float | None, float | None]] = {
    "NONE": (None, None),
    "RELU": (0.0, None),
    "RELU6": (0.0, 6.0),
    "RELU_N1_TO_1": (-1.0, 1.0),
}

# ratio(divisor, *factors): the real multiplier `product of factors / divisor`, as a runtime's Prepare rounds it.
Ratio = Callable[..., float]

INTEGERS = {dtype: LIMITS[dtype] for dtype in ("int8", "uint8", "int16")}


def source(op: Operator, tensors: tuple[Tensor, ...], position: int = 0) -> Tensor:
    """The tensor read at `position` of the operator's inputs."""
    return tensors[op.inputs[position]]


def target(op: Operator, tensors: tuple[Tensor, ...]) -> Tensor:
    """The operator's first output tensor."""
    return tensors[op.outputs[0]]


def present(op: Operator, values: list[jax.Array | None], position: int = 0) -> jax.Array:
    """The value of a mandatory input."""
    value = values[position] if position < len(values) else None
    if value is None:
        raise ExportError(f"{op.kind} has no input {position}. Give the operator all its mandatory inputs.")
    return value


def constant(op: Operator, tensors: tuple[Tensor, ...], position: int) -> np.ndarray:
    """The data of an input that must be a constant (axes, paddings, permutations, delegated weights)."""
    tensor = source(op, tensors, position)
    if tensor.data is None:
        raise ExportError(
            f"{op.kind} reads {tensor.name!r} (input {position}) at run time. Only a constant can be evaluated there."
        )
    return np.asarray(tensor.data)


def scales(tensor: Tensor) -> np.ndarray:
    """float32 scales, shape (1,) or (channels,)."""
    if tensor.quantization is None or not tensor.quantization.scale.size:
        raise ExportError(
            f"Tensor {tensor.name!r} ({tensor.dtype}) has no quantization parameters. Give it a scale and a zero point."
        )
    return np.asarray(tensor.quantization.scale, np.float32)


def scale(tensor: Tensor) -> np.float32:
    """The one float32 scale of a tensor quantized per tensor."""
    values = scales(tensor)
    if values.size != 1:
        raise ExportError(f"Tensor {tensor.name!r} has {values.size} scales where its operator wants one.")
    return np.float32(values[0])


def ratio32(divisor: np.float32, *factors: np.float32) -> float:
    """The product of `factors` over `divisor`, every step rounded to float32."""
    return float(functools.reduce(operator.mul, factors) / divisor)


def ratio32_64(divisor: np.float32, *factors: np.float32) -> float:
    """The product rounded to float32, the quotient in float64."""
    return float(functools.reduce(operator.mul, factors)) / float(divisor)


def ratio64(divisor: np.float32, *factors: np.float32) -> float:
    """Product and quotient in float64."""
    return math.prod(map(float, factors)) / float(divisor)


def zero_point(tensor: Tensor) -> int:
    """The one zero point of a tensor."""
    scales(tensor)
    assert tensor.quantization is not None
    return int(tensor.quantization.zero_point[0])


def limits(tensor: Tensor) -> tuple[int, int]:
    """Smallest and largest integer of the tensor's dtype."""
    if tensor.dtype not in INTEGERS:
        raise ExportError(f"Tensor {tensor.name!r} is {tensor.dtype}, which no integer kernel writes.")
    return INTEGERS[tensor.dtype]


def option_int(op: Operator, name: str, default: int) -> int:
    """An integer (or boolean) option; the schema's default where it is missing."""
    return int(_option(op, name, default))


def option_float(op: Operator, name: str, default: float) -> np.float32:
    """A float option, in the file's float32."""
    return np.float32(_option(op, name, default))


def option_str(op: Operator, name: str, default: str) -> str:
    """An enumeration option by its name."""
    return str(_option(op, name, default))


def _option(op: Operator, name: str, default: int | float | str) -> int | float | str:
    value: Option = op.options.get(name)
    if value is None:
        return default
    if isinstance(value, tuple):
        raise ExportError(f"{op.kind}: option {name} is a vector, {value}, where one value is expected.")
    return value


def activation(op: Operator) -> tuple[float | None, float | None]:
    """Real bounds of the fused activation."""
    name = option_str(op, "fused_activation_function", "NONE")
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise ExportError(f"{op.kind} with the fused activation {name}: integer kernels know {known}.")
    return ACTIVATIONS[name]


def builtin_bounds(tensor: Tensor, bounds: tuple[float | None, float | None]) -> tuple[int, int]:
    """Integer bounds `zp + round(v / scale)`, float32, half away (CalculateActivationRangeQuantized)."""
    low, high = limits(tensor)
    if bounds[0] is not None:
        low = max(low, zero_point(tensor) + int(round_away(np.float32(bounds[0]) / scale(tensor))))
    if bounds[1] is not None:
        high = min(high, zero_point(tensor) + int(round_away(np.float32(bounds[1]) / scale(tensor))))
    return low, high


def centred(value: jax.Array, tensor: Tensor) -> jax.Array:
    """`q - zero_point` in int32, any shape."""
    return value.astype(jnp.int32) - jnp.int32(zero_point(tensor))


def saturate(value: jax.Array, tensor: Tensor, low: int, high: int) -> jax.Array:
    """Clip int32 values to [low, high], then narrow to the tensor's dtype (never the other way round: a cast
    wraps).
    """
    return jnp.clip(value, low, high).astype(tensor.dtype)
