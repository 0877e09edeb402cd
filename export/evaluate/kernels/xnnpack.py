"""The `xnnpack` family: LiteRT's default resolver, which is what phones run.

XNNPACK where LiteRT delegates to it, TFLite's builtin kernels elsewhere. A parameter outside XNNPACK's window
makes LiteRT fall back in silence: here to the same builtin kernel where its arithmetic is known, else an
ExportError. Some of these kernels are other code on another machine: `kernels(machine)` is the family's table.
Sources: XNNPACK src/microparams-init.c, src/xnnpack/requantization.h; tflite/delegates/xnnpack/xnnpack_delegate.cc.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import builtin, lut, movement, pooling, reference, resize, sums, wide
from jaxq.export.evaluate.kernels import xnnpack_contraction as contraction
from jaxq.export.evaluate.kernels.fixedpoint import (
    corrected,
    monotone_thresholds,
    multiply_rounding_once,
    quantize_multiplier,
)
from jaxq.export.evaluate.kernels.machine import Machine
from jaxq.export.evaluate.kernels.operands import (
    Kernel,
    Tensors,
    Values,
    activation,
    centred,
    limits,
    option_float,
    present,
    saturate,
    scale,
    source,
    target,
    zero_point,
)
from jaxq.export.program import Operator, Tensor
from jaxq.numerics.fixed_point import rescale_half_away, srdhm

VECTOR = 16  # numbers that TFLite's vector kernel of ADD takes at a time
MULTIPLIER_BITS = 20  # of the larger of ADD's two integer multipliers


def add(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """ADD: `(k_1 d_1 + k_2 d_2 + 2^(sh-1)) >> sh`, int32, with 21-bit multipliers that share one shift."""
    if target(op, tensors).dtype == "int16":
        return _add16(op, tensors, values)
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    for ratio in (scale(a) / scale(y), scale(b) / scale(y)):
        if not _adds(ratio):
            raise ExportError(
                f"ADD: s_in / s_y = {ratio:.4g} is outside XNNPACK's [2^-10, 2^8), and the "
                "builtin vector kernel, to which LiteRT falls back, is not modelled. "
                "Bring the scales closer together."
            )
    return [_sum(op, tensors, values, 1)]


def _add16(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """ADD of int16 by TFLite's builtin kernel: without broadcasting a vector kernel, sixteen numbers at a time."""
    a, b = source(op, tensors), source(op, tensors, 1)
    size = int(np.prod(a.shape))
    body = (np.arange(size) < size // VECTOR * VECTOR).reshape(a.shape)

    def align(x: jax.Array, multiplier: tuple[np.ndarray, np.ndarray], extra: int) -> jax.Array:
        q, shift = (jnp.asarray(part) for part in multiplier)
        return jnp.where(body, srdhm(x << (extra + shift), q), rescale_half_away(x << extra, q, shift))

    if a.shape != b.shape:
        return reference.add(op, tensors, values)
    if min(scale(a) / scale(b), scale(b) / scale(a)) < 2.0**-13:
        raise ExportError(f"ADD of int16: scales {scale(a):.3g} and {scale(b):.3g} lie more than 2^13 apart.")
    return [reference.added(op, tensors, values, 1, align)]


def sub(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SUB: as ADD with a minus; outside the window TFLite's builtin kernel, which is the reference one."""
    if target(op, tensors).dtype == "int16":
        return reference.sub(op, tensors, values)
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    if not (_adds(scale(a) / scale(y)) and _adds(scale(b) / scale(y))):
        return reference.sub(op, tensors, values)
    return [_sum(op, tensors, values, -1)]


def _adds(ratio: np.float32) -> bool:
    return bool(2.0**-10 <= ratio < 2.0**8)


def _sum(op: Operator, tensors: Tensors, values: Values, sign: int) -> jax.Array:
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    ratios = np.array([scale(a) / scale(y), scale(b) / scale(y)], np.float32)
    shift = MULTIPLIER_BITS - (int(np.frexp(ratios.max())[1]) - 1)
    k1, k2 = (int(k) for k in np.rint(np.ldexp(ratios, shift)))
    d1, d2 = centred(present(op, values), a), centred(present(op, values, 1), b)
    steps = (k1 * d1 + sign * k2 * d2 + (1 << (shift - 1))) >> shift
    return saturate(steps + zero_point(y), y, *contraction.bounds_of(y, activation(op)))


def mul(op: Operator, tensors: Tensors, values: Values, machine: Machine) -> list[jax.Array]:
    """MUL: fp32 requantization of the product, or on Arm its rounding in integers (`rndnu`), half up; below 2^-16
    TFLite's builtin kernel, which is the reference one.
    """
    if target(op, tensors).dtype == "int16":
        return reference.mul(op, tensors, values)
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    ratio = scale(a) * scale(b) / scale(y)
    if ratio < 2.0**-16:
        return reference.mul(op, tensors, values)
    if ratio >= 2.0**8:
        raise ExportError(
            f"MUL: s_1 s_2 / s_y = {ratio:.4g} is at or above XNNPACK's 2^8, and the builtin "
            "vector kernel, to which LiteRT falls back, is not modelled there. Raise s_y."
        )
    product = centred(present(op, values), a) * centred(present(op, values, 1), b)
    if machine.exact_products:
        steps = multiply_rounding_once(product, quantize_multiplier(ratio))
        return [saturate(steps + zero_point(y), y, *contraction.bounds_of(y, activation(op)))]
    return [contraction.requantize_fp32(product, np.asarray(ratio), y, contraction.bounds_of(y, activation(op)))]


def max_pool(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MAX_POOL_2D of the raw integers, clamped."""
    if target(op, tensors).dtype == "int16":
        return reference.max_pool(op, tensors, values)
    y = target(op, tensors)
    return [saturate(pooling.maximum(op, present(op, values)), y, *contraction.bounds_of(y, activation(op)))]


def mean(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MEAN: see `_reduced`, with the multiplier `f32(f32(s_x / s_y) * f32(1 / n))`."""
    if target(op, tensors).dtype == "int16":
        return reference.mean(op, tensors, values)
    x, y = source(op, tensors), target(op, tensors)
    total, count = sums.centred_sum(op, tensors, values)
    ratio = (scale(x) / scale(y)) * (np.float32(1) / np.float32(count))
    return [_reduced(total, count, ratio, x, y)]


def sum_axes(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SUM: as MEAN without the 1 / n."""
    x, y = source(op, tensors), target(op, tensors)
    total, count = sums.centred_sum(op, tensors, values)
    return [_reduced(total, count, scale(x) / scale(y), x, y)]


def _reduced(centred_total: jax.Array, count: int, ratio: np.float32, x: Tensor, y: Tensor) -> jax.Array:
    """`rint(f32(f32(sum) * r) + f32(z_y - f32(n z_x) * r))` of the raw sum (XNNPACK operators/reduce-nd.c).

    Rounding the zero point's product apart moves results near a tie, and a fused multiply-add would move others:
    the steps are fixed on the host as thresholds of the sum.
    """
    shift = np.float32(zero_point(y)) - np.float32(count * zero_point(x)) * ratio

    def reading(total: np.ndarray) -> np.ndarray:
        return np.rint(total.astype(np.float32) * ratio + shift)

    low, high = limits(y)
    total = centred_total + count * zero_point(x)
    estimate = jnp.round(total.astype(jnp.float32) * ratio + shift)
    return corrected(total, estimate, monotone_thresholds(reading, low, high), low, high).astype(y.dtype)


def logistic(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """LOGISTIC by XNNPACK's table."""
    return _table(lut.logistic_double, op, tensors, values)


def tanh(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TANH by XNNPACK's table."""
    return _table(lut.tanh, op, tensors, values)


def elu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """ELU by XNNPACK's table."""
    return _table(lut.elu, op, tensors, values)


def softmax_last_axis(op: Operator, tensors: Tensors, values: Values, machine: Machine) -> list[jax.Array]:
    """SOFTMAX is not delegated: TFLite's table, of floats or of 16-bit integers as the machine has it."""
    if source(op, tensors).dtype == "int16":
        return wide.softmax(op, tensors, values)
    beta = option_float(op, "beta", 0.0)
    return [machine.softmax(present(op, values), source(op, tensors), target(op, tensors), beta)]


def leaky_relu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """LEAKY_RELU: `(d k + 128) >> 8 + z_y` with an 8-bit fractional multiplier for each sign; of int16 TFLite's
    builtin kernel.
    """
    x, y = source(op, tensors), target(op, tensors)
    if x.dtype == "int16":
        return builtin.leaky_relu(op, tensors, values)
    positive = scale(x) / scale(y)
    negative = positive * option_float(op, "alpha", 0.0)
    if not (_converts(positive) and _converts(abs(negative)) and negative >= -127.99609375):
        return builtin.leaky_relu(op, tensors, values)
    k_up, k_down = (int(np.rint(np.float32(256) * ratio)) for ratio in (positive, negative))
    d = centred(present(op, values), x)
    return [_shifted_by_8(d * jnp.where(d >= 0, k_up, k_down), y)]


def quantize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """QUANTIZE: from float32 `rint(x * f32(1 / s))`; in one type an 8-bit multiplier in [2^-8, 2^7]; else
    builtin.
    """
    x, y = source(op, tensors), target(op, tensors)
    value = present(op, values)
    if x.dtype == "float32":
        low, high = (np.float32(limit - zero_point(y)) for limit in limits(y))
        steps = jnp.clip(value * (np.float32(1) / scale(y)), low, high)
        return [(jnp.round(steps).astype(jnp.int32) + zero_point(y)).astype(y.dtype)]
    if "int16" in (x.dtype, y.dtype):
        return builtin.requantize(op, tensors, values)
    if x.dtype != y.dtype or not _converts(scale(x) / scale(y)):
        return builtin.requantize_by_16(op, tensors, values)
    multiplier = int(np.rint(np.float32(256) * (scale(x) / scale(y))))
    return [_shifted_by_8(centred(value, x) * multiplier, y)]


def _converts(ratio: np.float32) -> bool:
    return bool(2.0**-8 <= ratio <= 2.0**7)


def _shifted_by_8(product: jax.Array, y: Tensor) -> jax.Array:
    return saturate(((product + 128) >> 8) + zero_point(y), y, *limits(y))


def _table(real: lut.Real, op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    x, y = source(op, tensors), target(op, tensors)
    return [lut.look_up(lut.xnnpack_table(real, x, y), present(op, values), x)]


EVERYWHERE: dict[str, Kernel] = {
    **movement.KERNELS,
    **builtin.KERNELS,
    "BATCH_MATMUL": contraction.batch_matmul,
    "ADD": movement.or_of_int32(jnp.add, add),
    "SUB": movement.or_of_int32(jnp.subtract, sub),
    "MAX_POOL_2D": max_pool,
    "MEAN": mean,
    "SUM": movement.sum_of_int32_or(sum_axes),
    "LOGISTIC": wide.by_width(logistic, wide.KERNELS["xnnpack"]["LOGISTIC"]),
    "TANH": wide.by_width(tanh, wide.KERNELS["xnnpack"]["TANH"]),
    "ELU": elu,
    "LEAKY_RELU": leaky_relu,
    "QUANTIZE": quantize,
    "RESIZE_BILINEAR": resize.bilinear_xnnpack,
}

BY_MACHINE = {
    "CONV_2D": contraction.conv,
    "DEPTHWISE_CONV_2D": contraction.depthwise_conv,
    "FULLY_CONNECTED": contraction.fully_connected,
    "MUL": movement.or_of_int32(jnp.multiply, mul),
    "SOFTMAX": softmax_last_axis,
    "TRANSPOSE_CONV": contraction.transpose_conv,
}


def kernels(machine: Machine) -> dict[str, Kernel]:
    """The family's kernels on a machine."""
    return {**EVERYWHERE, **{kind: functools.partial(kernel, machine=machine) for kind, kernel in BY_MACHINE.items()}}


def by_machine(op: Operator, tensors: Tensors) -> str | None:
    """The field of `Machine` that an operator of integers is computed by; None where all machines have one kernel."""
    if op.kind in ("MUL", "SOFTMAX"):
        field = "exact_products" if op.kind == "MUL" else "softmax"
        return field if source(op, tensors).dtype in ("int8", "uint8") else None
    return "rescale" if contraction.rounds_by_machine(op, tensors) else None


def differs(op: Operator, tensors: Tensors, a: Machine, b: Machine) -> bool:
    """Whether two machines have different arithmetic for an operator."""
    field = by_machine(op, tensors)
    return field is not None and getattr(a, field) != getattr(b, field)
