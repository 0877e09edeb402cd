"""The contractions of the `xnnpack` family: XNNPACK's float32 requantization, and what it leaves to TFLite's kernels.

Sources: XNNPACK src/xnnpack/requantization.h; tflite/delegates/xnnpack/xnnpack_delegate.cc (which operators it takes);
tflite/kernels/cpu_backend_gemm_custom_gemv.h.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import reference, sums
from jaxq.export.evaluate.kernels.fixedpoint import (
    multiply_rounding_up,
    quantize_multiplier,
)
from jaxq.export.evaluate.kernels.machine import Machine
from jaxq.export.evaluate.kernels.operands import (
    Tensors,
    Values,
    activation,
    builtin_bounds,
    limits,
    saturate,
    scale,
    scales,
    source,
    target,
    zero_point,
)
from jaxq.export.program import Operator, Tensor

BUILTIN_CONTRACTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})
VECTORS = ("CONV_2D", "FULLY_CONNECTED")
VECTOR_CHANNELS, VECTOR_PRODUCTS = 4, 8  # the least that TFLite multiplies by a vector of its own
LARGEST_REQUANTIZATION = 256.0  # XNNPACK refuses operators at and above it


def conv(op: Operator, tensors: Tensors, values: Values, machine: Machine) -> list[jax.Array]:
    """CONV_2D: fp32 requantization of the exact accumulator. Weights OHWI, constant."""
    return [_contracted(op, tensors, sums.convolution(op, tensors, values), machine)]


def depthwise_conv(op: Operator, tensors: Tensors, values: Values, machine: Machine) -> list[jax.Array]:
    """DEPTHWISE_CONV_2D: as CONV_2D. Weights 1HWO, constant."""
    return [_contracted(op, tensors, sums.depthwise_convolution(op, tensors, values), machine)]


def transpose_conv(op: Operator, tensors: Tensors, values: Values, machine: Machine) -> list[jax.Array]:
    """TRANSPOSE_CONV: as CONV_2D. Inputs: output shape, weights OHWI, x, bias."""
    return [_contracted(op, tensors, sums.transposed_convolution(op, tensors, values), machine, x_at=2)]


def fully_connected(op: Operator, tensors: Tensors, values: Values, machine: Machine) -> list[jax.Array]:
    """FULLY_CONNECTED: as CONV_2D. Weights (O, I), constant."""
    return [_contracted(op, tensors, sums.dense(op, tensors, values), machine)]


def batch_matmul(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """BATCH_MATMUL: fp32 requantization. A zero point on the right is not delegated: the builtin kernel."""
    a, b, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    if zero_point(b):
        return reference.batch_matmul(op, tensors, values)
    ratio = _checked(op, scale(a) * scale(b) / scale(y))
    return [requantize_fp32(sums.matrix_product(op, tensors, values), ratio, y, limits(y))]


def requantize_fp32(acc: jax.Array, ratio: np.ndarray, y: Tensor, bounds: tuple[int, int]) -> jax.Array:
    """`rint(clip(f32(acc) * ratio, low - z, high - z)) + z`, half to even (XNNPACK qs8 fp32 requantization).

    `acc`: int32 (..., channels). `ratio`: float32, scalar or (channels,). One float32 multiplication, nothing
    fused.
    """
    low, high = (np.float32(bound - zero_point(y)) for bound in bounds)
    steps = jnp.clip(acc.astype(jnp.float32) * jnp.asarray(ratio), low, high)
    return (jnp.round(steps).astype(jnp.int32) + zero_point(y)).astype(y.dtype)


def bounds_of(y: Tensor, real: tuple[float | None, float | None]) -> tuple[int, int]:
    """Integer bounds of a fused activation: `rint(f32(v / s + z))`, half to even (xnn_qs8_quantize)."""
    low, high = limits(y)
    if real[0] is not None:
        low = _quantized_bound(real[0], y)
    if real[1] is not None:
        high = _quantized_bound(real[1], y)
    return low, high


def _quantized_bound(value: float, y: Tensor) -> int:
    low, high = limits(y)
    return int(np.rint(np.clip(np.float32(value) / scale(y) + np.float32(zero_point(y)), low, high)))


def _contracted(op: Operator, tensors: Tensors, acc: jax.Array, machine: Machine, x_at: int = 0) -> jax.Array:
    x, w, y = source(op, tensors, x_at), source(op, tensors, 1), target(op, tensors)
    if x.dtype == "int16":
        return builtin_contraction(op, tensors, acc, machine)
    if w.data is None:
        raise ExportError(f"{op.kind}: XNNPACK takes constant weights, and {w.name!r} is computed at run time.")
    unsigned = x.dtype == w.dtype == "uint8"
    if not unsigned and (w.dtype not in ("int8", "int4") or zero_point(w)):
        raise ExportError(
            f"{op.kind} of {x.dtype}: XNNPACK takes int8 or int4 weights of zero point 0, and of any beside uint8 "
            f"weights and activations; {w.name!r} is {w.dtype} with zero point {zero_point(w)}. "
            "Evaluate with family 'reference'."
        )
    if _is_builtin(op, tensors, x_at):
        return builtin_contraction(op, tensors, acc, machine)
    ratio = _checked(op, scale(x) * scales(w) / scale(y))
    return requantize_fp32(acc, ratio, y, bounds_of(y, activation(op)))


def _is_builtin(op: Operator, tensors: Tensors, x_at: int = 0) -> bool:
    """Whether XNNPACK leaves a contraction to TFLite's builtin kernels: int16, and int4 weights but for a
    FULLY_CONNECTED with an even number of inputs.
    """
    x, w = source(op, tensors, x_at), source(op, tensors, 1)
    packed = w.dtype == "int4" and not (op.kind == "FULLY_CONNECTED" and w.shape[-1] % 2 == 0)
    return x.dtype == "int16" or packed


def _is_reference(op: Operator, tensors: Tensors) -> bool:
    """Whether a builtin contraction is the reference one: with an int64 bias, and a grouped convolution."""
    grouped = op.kind == "CONV_2D" and source(op, tensors).shape[-1] != source(op, tensors, 1).shape[-1]
    return reference.long_bias(op, tensors) or grouped


def rounds_by_machine(op: Operator, tensors: Tensors) -> bool:
    """Whether a contraction is ruy's, which rounds as the machine does."""
    builtin = op.kind in BUILTIN_CONTRACTIONS and _is_builtin(op, tensors) and not _is_reference(op, tensors)
    return builtin and not _is_vector(op, tensors)


def _is_vector(op: Operator, tensors: Tensors) -> bool:
    """Whether a builtin contraction of 8 bits is a matrix by one vector, which is no matter of ruy's
    (cpu_backend_gemm_custom_gemv.h): one row of results, at least 4 channels and 8 products.
    """
    w, y = source(op, tensors, 1), target(op, tensors)
    enough = w.shape[0] >= VECTOR_CHANNELS and math.prod(w.shape[1:]) >= VECTOR_PRODUCTS
    return op.kind in VECTORS and source(op, tensors).dtype != "int16" and math.prod(y.shape[:-1]) == 1 and enough


def builtin_contraction(op: Operator, tensors: Tensors, acc: jax.Array, machine: Machine) -> jax.Array:
    """What XNNPACK leaves to TFLite's builtin kernels: ruy, which rounds as the machine does; of one row TFLite's own
    kernel, which rounds twice; or the reference one.
    """
    x, w, y = source(op, tensors), source(op, tensors, 1), target(op, tensors)
    if op.kind not in BUILTIN_CONTRACTIONS:
        raise ExportError(f"{op.kind} with {w.dtype} weights: LiteRT's builtin kernel is not modelled. Use int8.")
    if op.kind == "FULLY_CONNECTED" and reference.long_bias(op, tensors):
        return reference.dense16(op, tensors, acc)
    if _is_reference(op, tensors):
        return reference.requantized(op, tensors, acc)
    if op.kind != "FULLY_CONNECTED":  # ruy's takes the bias as it is
        reference.check_bias(op, tensors)
    multiplier = quantize_multiplier(float(scale(x)) * scales(w).astype(np.float64) / float(scale(y)))
    steps = (multiply_rounding_up if _is_vector(op, tensors) else machine.rescale)(acc, multiplier)
    return saturate(steps + zero_point(y), y, *builtin_bounds(y, activation(op)))


def _checked(op: Operator, ratio: np.ndarray | np.floating) -> np.ndarray:
    if np.max(ratio) >= LARGEST_REQUANTIZATION:
        raise ExportError(f"{op.kind}: s_x s_w / s_y = {np.max(ratio):.4g} >= 256, which XNNPACK refuses. Raise s_y.")
    return np.asarray(ratio, np.float32)
