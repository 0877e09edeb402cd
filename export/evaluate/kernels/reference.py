"""The `reference` family: LiteRT with OpResolverType.BUILTIN_REF.

Integer requantization is gemmlowp's, rounded twice (MBQM), except in FULLY_CONNECTED, which multiplies in
float64.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import (
    builtin,
    lut,
    movement,
    pooling,
    recurrent,
    resize,
    softmax,
    sums,
    wide,
)
from jaxq.export.evaluate.kernels.fixedpoint import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    requantize_double,
)
from jaxq.export.evaluate.kernels.operands import (
    Kernel,
    Ratio,
    Tensors,
    Values,
    activation,
    builtin_bounds,
    centred,
    limits,
    option_float,
    option_int,
    present,
    ratio32,
    ratio32_64,
    saturate,
    scale,
    scales,
    source,
    target,
    zero_point,
)
from jaxq.export.operators import ADD_SHIFT
from jaxq.export.program import Operator
from jaxq.numerics.fixed_point import rescale_by_15_bits

INT32 = 2  # TensorType, as the option quantized_bias_type holds it
Align = Callable[[jax.Array, tuple[np.ndarray, np.ndarray], int], jax.Array]


def conv(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CONV_2D: `MBQM(acc + bias, f64 s_x s_w[c] / s_y) + z_y`, clamped. Weights OHWI."""
    return [requantized(op, tensors, sums.convolution(op, tensors, values))]


def depthwise_conv(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """DEPTHWISE_CONV_2D: as CONV_2D. Weights 1HWO."""
    return [requantized(op, tensors, sums.depthwise_convolution(op, tensors, values))]


def transpose_conv(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TRANSPOSE_CONV: as CONV_2D. Inputs: output shape, weights OHWI, x, bias."""
    return [requantized(op, tensors, sums.transposed_convolution(op, tensors, values), x_at=2)]


def fully_connected(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """FULLY_CONNECTED: `round_half_away(f64(acc) * m) + z_y` with m in float64
    (integer_ops/fully_connected.h).
    """
    x, w, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    acc = sums.dense(op, tensors, values)
    low, high = builtin_bounds(y, activation(op))
    if x.dtype == "int16":
        check_bias(op, tensors)
        return [dense16(op, tensors, acc)]
    m = np.broadcast_to(scales(w).astype(np.float64) * float(scale(x)) / float(scale(y)), acc.shape[-1:])
    steps = requantize_double(acc, m, low - zero_point(y), high - zero_point(y))
    return [(steps + zero_point(y)).astype(y.dtype)]


def dense16(op: Operator, tensors: Tensors, acc: jax.Array) -> jax.Array:
    """FULLY_CONNECTED of int16 with an int32 or an int64 bias: float64 as well."""
    x, w, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    m = np.broadcast_to(scales(w).astype(np.float64) * float(scale(x)) / float(scale(y)), acc.shape[-1:])
    return saturate(wide.round_double(acc, m), y, *builtin_bounds(y, activation(op)))


def batch_matmul(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32_64) -> list[jax.Array]:
    """BATCH_MATMUL: MBQM with `m = f64(f32(s_1 s_2)) / f64(s_y)`: the product of scales is rounded to
    float32.
    """
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    multiplier = quantize_multiplier(ratio(scale(y), scale(a), scale(b)))
    steps = multiply_by_quantized_multiplier(sums.matrix_product(op, tensors, values), multiplier)
    return [saturate(steps + zero_point(y), y, *limits(y))]


def add(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """ADD: both inputs to the grid `2 max(s_1, s_2) / 2^20`, then MBQM to the output's."""
    return [added(op, tensors, values, 1, aborts=True)]


def sub(op: Operator, tensors: Tensors, values: Values, aborts: bool = False) -> list[jax.Array]:
    """SUB: as ADD, with a minus. `aborts`: whether the runtime aborts where ADD does."""
    return [added(op, tensors, values, -1, aborts=aborts)]


def _twice(x: jax.Array, multiplier: tuple[np.ndarray, np.ndarray], extra: int) -> jax.Array:
    return multiply_by_quantized_multiplier(x << extra, multiplier)


def added(
    op: Operator, tensors: Tensors, values: Values, sign: int, align: Align = _twice, aborts: bool = True
) -> jax.Array:
    """The sum on the output's grid. `align(x, multiplier, bits)` brings an operand to the common one."""
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    if y.dtype == "int16" and option_int(op, "pot_scale_int16", 1):
        raise ExportError(
            f"{op.kind} of int16 with pot_scale_int16: that kernel is not modelled. Set the option false."
        )
    extra = ADD_SHIFT[y.dtype]
    twice = float(np.float32(2) * max(scale(a), scale(b)))
    out = twice / float(np.float32(1 << extra) * scale(y))
    if aborts and out >= 1:
        raise ExportError(f"{op.kind}: 2 max(s1, s2) / (2^{extra} s_y) = {out:.3g} >= 1 aborts TFLite. Raise s_y.")
    sides = [
        align(centred(present(op, values, i), t), quantize_multiplier(float(scale(t)) / twice), extra)
        for i, t in enumerate((a, b))
    ]
    steps = multiply_by_quantized_multiplier(sides[0] + sign * sides[1], quantize_multiplier(out))
    return saturate(steps + zero_point(y), y, *builtin_bounds(y, activation(op)))


def mul(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32) -> list[jax.Array]:
    """MUL: `MBQM((x1 - z1)(x2 - z2), s_1 s_2 / s_y) + z_y`."""
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    product = centred(present(op, values), a) * centred(present(op, values, 1), b)
    multiplier = quantize_multiplier(ratio(scale(y), scale(a), scale(b)))
    steps = multiply_by_quantized_multiplier(product, multiplier)
    return [saturate(steps + zero_point(y), y, *builtin_bounds(y, activation(op)))]


def max_pool(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MAX_POOL_2D of the raw integers, clamped."""
    y = target(op, tensors)
    return [saturate(pooling.maximum(op, present(op, values)), y, *builtin_bounds(y, activation(op)))]


def mean(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MEAN: MBQM of `sum - n z_x` with 1/n folded into the multiplier by integer division (reduce.cc)."""
    x, y = source(op, tensors), target(op, tensors)
    total, count = sums.centred_sum(op, tensors, values)
    q, shift = quantize_multiplier(float(scale(x)) / float(scale(y)))
    bits = min(count.bit_length() - 1, 32, 31 + int(shift))
    folded = (np.int32((int(q) << bits) // count), np.int32(int(shift) - bits))
    steps = multiply_by_quantized_multiplier(total, (np.asarray(folded[0]), np.asarray(folded[1])))
    return [saturate(steps + zero_point(y), y, *limits(y))]


def sum_axes(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SUM: `MBQM(sum - n z_x, f64 s_x / s_y) + z_y`.

    The released kernel takes the bytes of int8 tensors for uint8, when it reads and when it clips and writes
    (kernels/reduce.cc); so does this one, for it says what that runtime computes.
    """
    x, y = source(op, tensors), target(op, tensors)
    if x.dtype == "int16":
        raise ExportError("SUM of int16: the kernel of this family reads its bytes as uint8. Evaluate with 'xnnpack'.")
    value = present(op, values)
    total, count = sums.centred_sum(op, tensors, [value.view(jnp.uint8) if x.dtype == "int8" else value, *values[1:]])
    multiplier = quantize_multiplier(float(scale(x)) / float(scale(y)))
    steps = multiply_by_quantized_multiplier(total, multiplier) + zero_point(y)
    return [jnp.clip(steps, 0, 255).astype(jnp.uint8).view(y.dtype)]


def logistic(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """LOGISTIC by table."""
    return _table(lut.logistic, op, tensors, values)


def tanh(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TANH by table."""
    return _table(lut.tanh, op, tensors, values)


def softmax_last_axis(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SOFTMAX in gemmlowp fixed point."""
    beta = option_float(op, "beta", 0.0)
    return [softmax.fixed_point(present(op, values), source(op, tensors), target(op, tensors), beta)]


def quantize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """QUANTIZE: from float32 `round_half_away(x / s) + z`, a true division; from integers MBQM."""
    x, y = source(op, tensors), target(op, tensors)
    if x.dtype != "float32":
        return builtin.requantize(op, tensors, values)
    value = present(op, values)
    # XLA would turn division by a constant into multiplication by its reciprocal, one ulp off, barrier or not: so the
    # divisor depends on the value.
    steps = value / jnp.where(jnp.isnan(value), value, scale(y))
    low, high = (limit - zero_point(y) for limit in limits(y))
    whole = jnp.trunc(steps)
    rounded = whole + jnp.where(jnp.abs(steps - whole) >= 0.5, jnp.sign(steps), 0.0)
    return [(jnp.clip(rounded, low, high).astype(jnp.int32) + zero_point(y)).astype(y.dtype)]


def requantized(op: Operator, tensors: Tensors, acc: jax.Array, x_at: int = 0) -> jax.Array:
    """An accumulator, int32 (..., channels), as the output: `MBQM(acc, f64 s_x s_w[c] / s_y) + z_y`, clamped."""
    x, w, y = source(op, tensors, x_at), source(op, tensors, 1), target(op, tensors)
    check_bias(op, tensors, 3 if x_at else 2)
    multiplier = quantize_multiplier(float(scale(x)) * scales(w).astype(np.float64) / float(scale(y)))
    if long_bias(op, tensors, 3 if x_at else 2):
        steps = rescale_by_15_bits(acc, *map(jnp.asarray, multiplier))
    else:
        steps = multiply_by_quantized_multiplier(acc, multiplier)
    return saturate(steps + zero_point(y), y, *builtin_bounds(y, activation(op)))


def long_bias(op: Operator, tensors: Tensors, position: int = 2) -> bool:
    """Whether an op has int64 sums and a multiplier of 15 bits: with an int64 bias, and a TRANSPOSE_CONV of int16
    without a bias.
    """
    if len(op.inputs) > position and op.inputs[position] >= 0:
        return source(op, tensors, position).dtype == "int64"
    wide16 = op.kind == "TRANSPOSE_CONV" and target(op, tensors).dtype == "int16"
    return wide16 and option_int(op, "quantized_bias_type", 0) != INT32


def check_bias(op: Operator, tensors: Tensors, position: int = 2) -> None:
    """Raise ExportError for a bias of an op of int16 that its kernel reads as another type, or that exceeds int32."""
    if target(op, tensors).dtype != "int16" or len(op.inputs) <= position or op.inputs[position] < 0:
        return
    bias, said = source(op, tensors, position), option_int(op, "quantized_bias_type", 0)
    if bias.dtype == "int32" and said != INT32:
        raise ExportError(
            f"{op.kind} of int16 has an int32 bias, and its option quantized_bias_type is {said}: kernels then read "
            f"the bias as int64. Set the option to {INT32}, or write an int64 bias."
        )
    largest = 0 if bias.data is None else int(np.max(np.abs(bias.data.astype(np.float64)), initial=0))
    if largest >= 2**31:
        raise ExportError(
            f"{op.kind} has a bias of {largest:.4g}: sums beyond int32 are not modelled. Lower the bias, or "
            "raise the scales of input and weights."
        )


def _table(real: lut.Real, op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    x, y = source(op, tensors), target(op, tensors)
    return [lut.look_up(lut.builtin_table(real, x, y), present(op, values), x)]


KERNELS: dict[str, Kernel] = {
    **movement.KERNELS,
    **builtin.KERNELS,
    **recurrent.KERNELS["reference"],
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise_conv,
    "TRANSPOSE_CONV": transpose_conv,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
    "ADD": movement.or_of_int32(jnp.add, add),
    "SUB": movement.or_of_int32(jnp.subtract, sub),
    "MUL": movement.or_of_int32(jnp.multiply, mul),
    "MAX_POOL_2D": max_pool,
    "MEAN": mean,
    "SUM": movement.sum_of_int32_or(sum_axes),
    "LOGISTIC": wide.by_width(logistic, wide.KERNELS["reference"]["LOGISTIC"]),
    "TANH": wide.by_width(tanh, wide.KERNELS["reference"]["TANH"]),
    "SOFTMAX": wide.by_width(softmax_last_axis, wide.softmax),
    "QUANTIZE": quantize,
    "LEAKY_RELU": builtin.leaky_relu,
    "RESIZE_BILINEAR": resize.bilinear_builtin,
}
