"""The `tflm` family: TFLite Micro's portable kernels, as the package tflite-micro compiles them.

They are the `reference` family's but for what stands in this file: mostly, multipliers are formed in float64 where
LiteRT rounds to float32 first, which moves integers that are next to a tie. Sources: tensorflow/tflite-micro,
tensorflow/lite/micro/kernels.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import builtin, gemmlowp, lut, movement, recurrent, reference, sums, wide
from jaxq.export.evaluate.kernels.fixedpoint import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from jaxq.export.evaluate.kernels.operands import (
    ACTIVATIONS,
    Kernel,
    Tensors,
    Values,
    builtin_bounds,
    centred,
    constant,
    limits,
    option_int,
    present,
    ratio64,
    saturate,
    scale,
    source,
    target,
    zero_point,
)
from jaxq.export.operators import OPERATORS
from jaxq.export.program import Operator
from jaxq.plan.target import TFLM_OPERATORS

INPUT_FRACTION_BITS = 27  # LOGISTIC and TANH read Q4.27


def fully_connected(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """FULLY_CONNECTED: MBQM, as CONV_2D; the `reference` family multiplies in float64 and rounds once."""
    w = source(op, tensors, 1)
    if w.dtype == "int4" and w.quantization is not None and w.quantization.per_channel:
        raise ExportError(
            f"TFLite Micro has no FULLY_CONNECTED with int4 weights of several scales. Let {w.name!r} be int8."
        )
    return [reference.requantized(op, tensors, sums.dense(op, tensors, values))]


def softmax16(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SOFTMAX of int16, its tables made in float32."""
    return wide.softmax(op, tensors, values, np.float32)


def sum_axes(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SUM: `MBQM(sum(x - z_x), f64(s_x) / f64(s_y)) + z_y`."""
    x, y = source(op, tensors), target(op, tensors)
    total, _ = sums.centred_sum(op, tensors, values)
    steps = multiply_by_quantized_multiplier(total, quantize_multiplier(ratio64(scale(y), scale(x))))
    return [saturate(steps + zero_point(y), y, *limits(y))]


def relu6(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """Standalone RELU6: integers clamped to `[z_x, z_x + round(6 / s_x)]` of the *input's* grid, and copied.

    Where the output's grid differs the result is another real number: TFLite Micro does not rescale.
    """
    low, high = builtin_bounds(source(op, tensors), ACTIVATIONS["RELU6"])
    return [jnp.clip(present(op, values), low, high)]


def logistic(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """LOGISTIC in fixed point, always to the grid (1/256, -128): `RDP(logistic(Q4.27), 23) - 128`."""
    return [_fixed_point(gemmlowp.logistic, 8, -128, op, tensors, values)]


def tanh(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TANH in fixed point, always to the grid (1/128, 0): `RDP(tanh(Q4.27), 24)`."""
    return [_fixed_point(gemmlowp.tanh, 7, 0, op, tensors, values)]


def _fixed_point(
    real: Callable[[jax.Array], jax.Array], bits: int, zero: int, op: Operator, tensors: Tensors, values: Values
) -> jax.Array:
    """`real` of x in Q4.27, rounded to `bits` bits; saturated where |x| >= 15 (CalculateInputRadius)."""
    x, y = source(op, tensors), target(op, tensors)
    q, shift = quantize_multiplier(float(scale(x)) * (1 << INPUT_FRACTION_BITS))
    radius = min(int(15 * 2.0 ** (INPUT_FRACTION_BITS - int(shift))), 256)
    low, high = limits(y)

    def entries() -> jax.Array:
        centre = centred(jnp.asarray(lut.codes(x)), x)
        inside = jnp.where(jnp.abs(centre) < radius, centre, 0)
        fine = real(multiply_by_quantized_multiplier(inside, (q, shift)))
        rounded = jnp.clip(rounding_divide_by_pot(fine, 31 - bits) + zero, low, high)
        return jnp.where(centre <= -radius, low, jnp.where(centre >= radius, high, rounded)).astype(y.dtype)

    with jax.ensure_compile_time_eval():  # 256 codes, once and not at every call
        table = np.asarray(jax.jit(entries)())
    return lut.look_up(table, present(op, values), x)


def elu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """ELU by table."""
    x, y = source(op, tensors), target(op, tensors)
    return [lut.look_up(lut.builtin_table(lut.elu, x, y), present(op, values), x)]


def quantize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """QUANTIZE: as the `reference` family, without float32 to uint8 and uint8 to uint8."""
    x, y = source(op, tensors), target(op, tensors)
    if y.dtype == "uint8" and x.dtype != "int8":
        raise ExportError(f"TFLite Micro has no QUANTIZE from {x.dtype} to uint8. Let {y.name!r} be int8.")
    return reference.quantize(op, tensors, values)


def cast(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CAST: as every family, without a uint8 operand."""
    if source(op, tensors).dtype == "uint8":
        raise ExportError(f"TFLite Micro has no CAST from uint8. Let {source(op, tensors).name!r} be int8.")
    return movement.cast(op, tensors, values)


def gather(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """GATHER: as every family, but not of booleans."""
    if source(op, tensors).dtype == "bool":
        raise ExportError(f"TFLite Micro has no GATHER of booleans. Let {source(op, tensors).name!r} be int8.")
    return movement.gather(op, tensors, values)


def cumsum(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CUMSUM of int8: `MBQM(2^19 (sum(q_x - z_x) - z_x), f64 2 s_x / (2^20 s_y)) + z_y`.

    The sum begins at -z_x and not at 0: so does the kernel (reference/cumsum.h), and its result is that of CUMSUM only
    where the input's zero point is 0.
    """
    x, y = source(op, tensors), target(op, tensors)
    if x.dtype != "int8":
        raise ExportError(f"TFLite Micro has no CUMSUM of {x.dtype}. Use int8 or float32.")
    centre = centred(present(op, values), x)
    axis, backwards = int(constant(op, tensors, 1).reshape(())) % centre.ndim, bool(option_int(op, "reverse", 0))
    total = jax.lax.cumsum(centre, axis=axis, reverse=backwards)
    total = total - centre if option_int(op, "exclusive", 0) else total
    twice = 2 * float(scale(x))
    multiplier = quantize_multiplier(twice / ((1 << 20) * float(scale(y))))
    steps = multiply_by_quantized_multiplier((total - zero_point(x)) << 19, multiplier)
    return [saturate(steps + zero_point(y), y, *limits(y))]


def not_of_int32(kernel: Kernel, position: int = 0) -> Kernel:
    """A kernel that LiteRT has for int32 in an operand too, and TFLite Micro has not."""

    def refusing(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        if source(op, tensors, position).dtype == "int32":
            raise ExportError(f"TFLite Micro has no {op.kind} of int32. Compute it outside the model, or use LiteRT.")
        return kernel(op, tensors, values)

    return refusing


def _lacks(kind: str) -> bool:
    """Whether TFLite Micro has no kernel of a kind, or one for floats alone."""
    return kind not in TFLM_OPERATORS or kind in OPERATORS and OPERATORS[kind].tflm == ("float32",)


KERNELS: dict[str, Kernel] = {
    **{kind: kernel for kind, kernel in reference.KERNELS.items() if not _lacks(kind)},
    **recurrent.KERNELS["tflm"],
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": functools.partial(reference.batch_matmul, ratio=ratio64),
    "MUL": movement.or_of_int32(jnp.multiply, functools.partial(reference.mul, ratio=ratio64)),
    "RELU": functools.partial(builtin.relu, ratio=ratio64),
    "LEAKY_RELU": functools.partial(builtin.leaky_relu, ratio=ratio64),
    "PRELU": functools.partial(builtin.prelu, ratio=ratio64),
    "HARD_SWISH": functools.partial(builtin.hard_swish, ratio=ratio64),
    "ABS": functools.partial(builtin.absolute, ratio=ratio64),
    "SUB": movement.or_of_int32(jnp.subtract, functools.partial(reference.sub, aborts=True)),
    "ARG_MAX": not_of_int32(movement.KERNELS["ARG_MAX"]),
    "ARG_MIN": not_of_int32(movement.KERNELS["ARG_MIN"]),
    "REDUCE_MAX": not_of_int32(movement.reduce_max),
    "REDUCE_MIN": not_of_int32(movement.reduce_min),
    "SELECT_V2": not_of_int32(movement.select, 1),
    "SUM": not_of_int32(sum_axes),
    "RELU6": relu6,
    "LOGISTIC": wide.by_width(logistic, wide.KERNELS["reference"]["LOGISTIC"]),
    "TANH": wide.by_width(tanh, wide.KERNELS["reference"]["TANH"]),
    "SOFTMAX": wide.by_width(reference.softmax_last_axis, softmax16),
    "ELU": elu,
    "QUANTIZE": quantize,
    "CAST": cast,
    "GATHER": gather,
    "CUMSUM": cumsum,
}
