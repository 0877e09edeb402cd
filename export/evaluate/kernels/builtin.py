"""TFLite's own integer kernels that both families run: those that XNNPACK never takes over.

Every function takes and returns what `operands.Kernel` says. MBQM is `multiply_by_quantized_multiplier`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import fixedpoint, floats, lut, pooling
from jaxq.export.evaluate.kernels.fixedpoint import (
    inverse_square_root,
    multiply_by_quantized_multiplier,
    multiply_by_variable,
    multiply_rounding_up,
    quantize_multiplier,
)
from jaxq.export.evaluate.kernels.operands import (
    ACTIVATIONS,
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
    saturate,
    scale,
    source,
    target,
    zero_point,
)
from jaxq.export.program import Operator, Tensor

Multiplier = tuple[np.ndarray, np.ndarray]
RSQRT_SHIFT = 20  # fractional bits that RSQRT keeps between its two multiplications


def average_pool(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """AVERAGE_POOL_2D: integer mean of the valid taps, half away from zero, clamped."""
    y = target(op, tensors)
    low, high = builtin_bounds(y, activation(op))
    return [saturate(pooling.average(op, present(op, values)), y, low, high)]


def relu(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32) -> list[jax.Array]:
    """Standalone RELU, RELU6, RELU_N1_TO_1: `MBQM(x - z_x, s_x / s_y) + z_y`, clamped."""
    x, y = source(op, tensors), target(op, tensors)
    multiplier = quantize_multiplier(ratio(scale(y), scale(x)))
    low, high = builtin_bounds(y, ACTIVATIONS[op.kind])
    rescaled = multiply_by_quantized_multiplier(centred(present(op, values), x), multiplier)
    return [saturate(rescaled + zero_point(y), y, low, high)]


def prelu(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32) -> list[jax.Array]:
    """PRELU: `MBQM(d, s_x / s_y)` where d >= 0, else `MBQM(d * (alpha - z_a), s_x s_a / s_y)`."""
    x, alpha, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    if x.dtype == "int16":
        raise ExportError("PRELU of int16: its kernel is modelled for 8 bits. Convert the model with 8 bits there.")
    positive = quantize_multiplier(ratio(scale(y), scale(x)))
    negative = quantize_multiplier(ratio(scale(y), scale(x), scale(alpha)))
    d, slope = centred(present(op, values), x), centred(present(op, values, 1), alpha)
    return [_two_slopes(d, d * slope, positive, negative, y)]


def leaky_relu(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32) -> list[jax.Array]:
    """LEAKY_RELU: MBQM with one multiplier for each sign, `s_x / s_y` and `s_x * alpha / s_y`."""
    x, y = source(op, tensors), target(op, tensors)
    slope = option_float(op, "alpha", 0.0)
    positive, negative = ratio(scale(y), scale(x)), ratio(scale(y), scale(x), slope)
    if slope < 0:
        raise ExportError(f"LEAKY_RELU with alpha = {slope}: TFLite has no multiplier below zero. Use alpha >= 0.")
    d = centred(present(op, values), x)
    return [_two_slopes(d, d, quantize_multiplier(positive), quantize_multiplier(negative), y)]


def _two_slopes(d: jax.Array, below: jax.Array, positive: Multiplier, negative: Multiplier, y: Tensor) -> jax.Array:
    up = multiply_by_quantized_multiplier(d, positive)
    down = multiply_by_quantized_multiplier(below, negative)
    return saturate(jnp.where(d >= 0, up, down) + zero_point(y), y, *limits(y))


def absolute(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32) -> list[jax.Array]:
    """ABS: `MBQM(|x - z_x|, s_x / s_y) + z_y`."""
    x, y = source(op, tensors), target(op, tensors)
    magnitude = jnp.abs(centred(present(op, values), x))
    rescaled = multiply_by_quantized_multiplier(magnitude, quantize_multiplier(ratio(scale(y), scale(x))))
    return [saturate(rescaled + zero_point(y), y, *limits(y))]


def squared_difference(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SQUARED_DIFFERENCE: both inputs to a common grid with 7 extra bits, difference squared, MBQM."""
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    twice = float(np.float32(2) * max(scale(a), scale(b)))
    out = twice * twice / float(np.float32(1 << 14) * scale(y))
    if out >= 1:
        raise ExportError(
            f"SQUARED_DIFFERENCE: (2 max(s1, s2))^2 / (2^14 s_y) = {out:.3g} >= 1 aborts TFLite. Raise s_y."
        )
    sides = [
        multiply_by_quantized_multiplier(
            centred(present(op, values, i), t) << 7, quantize_multiplier(float(scale(t)) / twice)
        )
        for i, t in enumerate((a, b))
    ]
    difference = sides[0] - sides[1]
    squared = multiply_by_quantized_multiplier(difference * difference, quantize_multiplier(out))
    return [saturate(squared + zero_point(y), y, *limits(y))]


def hard_swish(op: Operator, tensors: Tensors, values: Values, ratio: Ratio = ratio32) -> list[jax.Array]:
    """HARD_SWISH `x * relu6(x + 3) / 6` in 16-bit fixed point (internal/reference/hard_swish.h)."""
    x, y = source(op, tensors), target(op, tensors)
    fine = np.float32(np.float32(1 / 128) * scale(x))
    out, third = (quantize_multiplier(ratio(y_scale, fine)) for y_scale in (scale(y), np.float32(3.0 / 32768.0)))
    if out[1] > 0:
        raise ExportError(f"HARD_SWISH: s_x / (128 s_y) = {fine / scale(y):.3g} >= 1, which TFLite refuses. Raise s_y.")
    return [saturate(fixedpoint.hard_swish(centred(present(op, values), x), out, third) + zero_point(y), y, *limits(y))]


def requantize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """QUANTIZE between integer types: `MBQM(x - z_x, f64(s_x) / f64(s_y)) + z_y`."""
    x, y = source(op, tensors), target(op, tensors)
    multiplier = quantize_multiplier(float(scale(x)) / float(scale(y)))
    rescaled = multiply_by_quantized_multiplier(centred(present(op, values), x), multiplier)
    if y.dtype == "int32":
        return [rescaled + zero_point(y)]
    return [saturate(rescaled + zero_point(y), y, *limits(y))]


def requantize_by_16(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """QUANTIZE between integer types in TFLite's vector kernel: 16 values at a time round half up, the tail
    as MBQM.

    `optimized_ops::Requantize`, whose NEON code the x86 wheels compile too.
    """
    x, y = source(op, tensors), target(op, tensors)
    multiplier = quantize_multiplier(float(scale(x)) / float(scale(y)))
    flat = centred(present(op, values), x).reshape(-1)
    body = flat.size // 16 * 16
    rescaled = [
        multiply_rounding_up(flat[:body], multiplier),
        multiply_by_quantized_multiplier(flat[body:], multiplier),
    ]
    steps = jnp.concatenate(rescaled).reshape(y.shape)
    return [saturate(steps + zero_point(y), y, *limits(y))]


def dequantize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """DEQUANTIZE: float32 `s * (x - z)`, per channel where there are scales; a float16 input is widened."""
    x, value = source(op, tensors), present(op, values)
    if x.dtype == "float16":
        return [value.astype(jnp.float32)]
    return [floats.dequantized(value, x)]


def gelu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """GELU by table, exact or by tanh as option `approximate` says."""
    return _table(lut.gelu_tanh if option_int(op, "approximate", 0) else lut.gelu, op, tensors, values)


def exp(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """EXP by table."""
    return _table(lut.exp, op, tensors, values)


def log(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """LOG by table; the output's smallest real value where the input is not positive."""
    y = target(op, tensors)
    smallest = np.float32(limits(y)[0] - zero_point(y)) * scale(y)
    return _table(lambda v: lut.log(v, smallest), op, tensors, values)


def rsqrt(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """RSQRT: integer Newton iterations on the host, one for each code."""
    x, y = source(op, tensors), target(op, tensors)
    centre = centred(jnp.asarray(lut.codes(x)), x)
    inverse, shift = inverse_square_root(jnp.maximum(centre, 0))
    table = multiply_by_variable(jnp.ones_like(centre), inverse, shift + RSQRT_SHIFT)
    q, exponent = quantize_multiplier(1.0 / float(np.sqrt(scale(x)) * scale(y)))
    steps = multiply_by_quantized_multiplier(table, (q, np.asarray(exponent - RSQRT_SHIFT))) + zero_point(y)
    codes = saturate(jnp.where(centre == 0, limits(y)[1], steps), y, *limits(y))
    return [codes[present(op, values).astype(jnp.int32) - limits(x)[0]]]


def sqrt(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SQRT: `trunc(f32(sqrt(d)) / s_y) + z_y`: it truncates."""
    x, y = source(op, tensors), target(op, tensors)
    steps = np.trunc(np.sqrt(np.maximum(lut.dequantized(x), 0)) / scale(y)).astype(np.int64) + zero_point(y)
    return [lut.look_up(np.clip(steps, *limits(y)).astype(y.dtype), present(op, values), x)]


def l2_normalize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """L2_NORMALIZATION over the last axis, by an integer inverse square root.

    Of int8 to the grid (1/128, 0), of uint8 to (1/128, 128), whatever the file says; the factor of 128 is part of the
    shift in int8 (reference/integer_ops/l2normalization.h) and of the number in uint8 (reference/l2normalization.h).
    """
    x, y = source(op, tensors), target(op, tensors)
    d = centred(present(op, values), x)
    inverse, shift = inverse_square_root((d * d).sum(axis=-1, keepdims=True))
    if y.dtype == "uint8":
        return [saturate(multiply_by_variable(128 * d, inverse, shift) + 128, y, *limits(y))]
    return [saturate(multiply_by_variable(d, inverse, shift + 7), y, *limits(y))]


def _table(real: lut.Real, op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    x, y = source(op, tensors), target(op, tensors)
    return [lut.look_up(lut.builtin_table(real, x, y), present(op, values), x)]


KERNELS: dict[str, Kernel] = {
    "AVERAGE_POOL_2D": average_pool,
    "RELU": relu,
    "RELU6": relu,
    "RELU_N1_TO_1": relu,
    "PRELU": prelu,
    "ABS": absolute,
    "SQUARED_DIFFERENCE": squared_difference,
    "HARD_SWISH": hard_swish,
    "DEQUANTIZE": dequantize,
    "GELU": gelu,
    "EXP": exp,
    "LOG": log,
    "RSQRT": rsqrt,
    "SQRT": sqrt,
    "L2_NORMALIZATION": l2_normalize,
}
