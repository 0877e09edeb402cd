"""What TFLite's operators mean on real numbers: float32 operators, and the surrogates of the integer ones.

The same signature as the integer kernels, on float32 values. A float file is evaluated with these; so is, beside its
integers, a quantized one whose gradient is wanted (`jaxq.export.evaluate.gradient`). `KERNELS` leaves the fused
activation out, for there the integers' own bounds decide; `evaluate` puts it in. Not exact: a runtime sums in another
order.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import contraction, movement, pooling, resize
from jaxq.export.evaluate.kernels.operands import (
    ACTIVATIONS,
    Kernel,
    Tensors,
    Values,
    activation,
    constant,
    option_float,
    option_int,
    option_str,
    present,
    target,
)
from jaxq.export.program import Operator, Tensor
from jaxq.numerics.rounding import clip_ste

SMALLEST_NORM = 1e-6  # below it L2_NORMALIZATION divides by it (internal/reference/l2normalization.h)
CONVERSIONS = ("QUANTIZE", "DEQUANTIZE")  # between floats and integers: each family has its own


def is_float(op: Operator, tensors: Tensors) -> bool:
    """Whether an operator computes on float32: it reads or writes floats, and converts to or from no integers."""
    dtypes = {tensors[i].dtype for i in (*op.inputs, *op.outputs) if i >= 0}
    return "float32" in dtypes and op.kind not in CONVERSIONS


def kernel_of(op: Operator, tensors: Tensors) -> Kernel:
    """The kernel of a float32 operator. Raises ExportError for an unknown kind."""
    if op.kind not in KERNELS:
        raise ExportError(f"There is no float32 kernel for {op.kind}. Express it by other operators.")
    return evaluate


def evaluate(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """A float32 operator with its fused activation."""
    return [activated(op, y) for y in KERNELS[op.kind](op, tensors, values)]


def activated(op: Operator, y: jax.Array) -> jax.Array:
    """`y` after the operator's fused activation."""
    return _between(y, *activation(op))


def _between(x: jax.Array, low: float | None, high: float | None) -> jax.Array:
    """`x` inside the bounds that there are; the gradient passes inside, ends included."""
    if low is None and high is None:
        return x
    return clip_ste(x, jnp.float32(-jnp.inf if low is None else low), jnp.float32(jnp.inf if high is None else high))


def conv(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CONV_2D. x NHWC, weights OHWI, optional bias."""
    x, w = present(op, values), present(op, values, 1)
    return [_plus_bias(contraction.convolution(x.shape, w.shape, *windows(op))(x, w), values, 2)]


def depthwise_conv(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """DEPTHWISE_CONV_2D. Weights 1HWO."""
    x, w = present(op, values), present(op, values, 1).transpose(3, 1, 2, 0)
    return [_plus_bias(contraction.depthwise_convolution(x.shape, w.shape, *windows(op))(x, w), values, 2)]


def windows(op: Operator) -> tuple[tuple[int, int], tuple[int, int], str]:
    """Strides, dilations and padding of a convolution."""
    strides = option_int(op, "stride_h", 0), option_int(op, "stride_w", 0)
    dilations = option_int(op, "dilation_h_factor", 1), option_int(op, "dilation_w_factor", 1)
    return strides, dilations, option_str(op, "padding", "SAME")


def transpose_conv(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TRANSPOSE_CONV. Inputs: output shape, weights OHWI, x, optional bias."""
    x, w = present(op, values, 2), present(op, values, 1)
    height, width = (int(size) for size in constant(op, tensors, 0)[1:3])
    strides = option_int(op, "stride_h", 0), option_int(op, "stride_w", 0)
    padding = option_str(op, "padding", "SAME")
    transposed = contraction.transposed_convolution(x.shape, w.shape, strides, padding, (height, width))
    return [_plus_bias(transposed(x, w[:, ::-1, ::-1, :]), values, 3)]


def fully_connected(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """FULLY_CONNECTED. Weights (O, I), optional bias; the output's static shape."""
    x, w = present(op, values), present(op, values, 1)
    y = jnp.matmul(x.reshape(-1, w.shape[1]), w.T, precision=lax.Precision.HIGHEST)
    return [_plus_bias(y, values, 2).reshape(target(op, tensors).shape)]


def _plus_bias(y: jax.Array, values: Values, position: int) -> jax.Array:
    bias = values[position] if position < len(values) else None
    return y if bias is None else y + bias


def batch_matmul(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """BATCH_MATMUL; options `adj_x` and `adj_y` transpose the last two axes."""
    a, b = present(op, values), present(op, values, 1)
    a = a.swapaxes(-1, -2) if option_int(op, "adj_x", 0) else a
    b = b.swapaxes(-1, -2) if option_int(op, "adj_y", 0) else b
    return [jnp.matmul(a, b, precision=lax.Precision.HIGHEST)]


def average_pool(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """AVERAGE_POOL_2D over the valid taps."""
    x = present(op, values)
    return [pooling.windows(op, x, 0.0, lax.add) / pooling.tap_counts(op, x.shape)]


def max_pool(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MAX_POOL_2D; padding taps do not take part."""
    return [pooling.windows(op, present(op, values), -jnp.inf, lax.max)]


def mean(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MEAN over the constant axes of input 1."""
    return [present(op, values).mean(_axes(op, tensors), keepdims=bool(option_int(op, "keep_dims", 0)))]


def total(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SUM over the constant axes of input 1."""
    return [present(op, values).sum(_axes(op, tensors), keepdims=bool(option_int(op, "keep_dims", 0)))]


def _axes(op: Operator, tensors: Tensors) -> tuple[int, ...]:
    return tuple(int(axis) for axis in constant(op, tensors, 1).reshape(-1))


def softmax(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SOFTMAX of `beta x` over the last axis."""
    return [jax.nn.softmax(present(op, values) * option_float(op, "beta", 0.0))]


def l2_normalize(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """L2_NORMALIZATION over the last axis."""
    x = present(op, values)
    return [x / jnp.sqrt(jnp.maximum((x * x).sum(-1, keepdims=True), SMALLEST_NORM))]


def relu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """RELU, RELU6, RELU_N1_TO_1 of its own."""
    return [_between(present(op, values), *ACTIVATIONS[op.kind])]


def prelu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """PRELU: `x` where x >= 0, else `alpha x`."""
    x, alpha = present(op, values), present(op, values, 1)
    return [jnp.where(x >= 0, x, alpha * x)]


def leaky_relu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """LEAKY_RELU: `x` where x >= 0, else `alpha x`."""
    x = present(op, values)
    return [jnp.where(x >= 0, x, option_float(op, "alpha", 0.0) * x)]


def gelu(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """GELU, exact or by tanh as option `approximate` says."""
    return [jax.nn.gelu(present(op, values), approximate=bool(option_int(op, "approximate", 0)))]


def pad(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """PAD with zeros."""
    return [jnp.pad(present(op, values), [(int(low), int(high)) for low, high in constant(op, tensors, 1)])]


def same(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """QUANTIZE, DEQUANTIZE: the same real number."""
    return [present(op, values)]


def each(f: Callable[[jax.Array], jax.Array]) -> Kernel:
    """The kernel of a function of each number."""
    return lambda op, tensors, values: [f(present(op, values))]


def both(f: Callable[[jax.Array, jax.Array], jax.Array]) -> Kernel:
    """The kernel of a function of two numbers, broadcast."""
    return lambda op, tensors, values: [f(present(op, values), present(op, values, 1))]


def positive(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
    """`f`, with gradient 0 where x <= 0: LOG and RSQRT have none there, and an infinite one spoils all others."""
    return lambda x: jnp.where(x > 0, f(jnp.where(x > 0, x, 1.0)), lax.stop_gradient(f(lax.stop_gradient(x))))


def dequantized(value: jax.Array, tensor: Tensor) -> jax.Array:
    """`s (q - z)` in float32, per channel where the tensor has scales; what has no parameters stays as it is."""
    q = tensor.quantization
    if q is None or not q.scale.size:
        return value
    shape = [-1 if axis == q.axis and q.per_channel else 1 for axis in range(value.ndim)]
    steps = value.astype(jnp.int32) - q.zero_point.astype("int32").reshape(shape)
    return steps.astype(jnp.float32) * q.scale.reshape(shape)


KERNELS: dict[str, Kernel] = {
    **movement.KERNELS,
    "PAD": pad,
    "QUANTIZE": same,
    "DEQUANTIZE": same,
    "CONV_2D": conv,
    "DEPTHWISE_CONV_2D": depthwise_conv,
    "TRANSPOSE_CONV": transpose_conv,
    "FULLY_CONNECTED": fully_connected,
    "BATCH_MATMUL": batch_matmul,
    "ADD": both(jnp.add),
    "SUB": both(jnp.subtract),
    "MUL": both(jnp.multiply),
    "DIV": both(jnp.divide),
    "SQUARED_DIFFERENCE": both(lambda a, b: (a - b) ** 2),
    "AVERAGE_POOL_2D": average_pool,
    "RESIZE_BILINEAR": resize.bilinear_float,
    "MAX_POOL_2D": max_pool,
    "MEAN": mean,
    "SUM": total,
    "SOFTMAX": softmax,
    "LOG_SOFTMAX": each(jax.nn.log_softmax),
    "L2_NORMALIZATION": l2_normalize,
    "RELU": relu,
    "RELU6": relu,
    "RELU_N1_TO_1": relu,
    "PRELU": prelu,
    "LEAKY_RELU": leaky_relu,
    "HARD_SWISH": each(lambda x: x * clip_ste(x + 3.0, jnp.float32(0), jnp.float32(6)) / 6.0),
    "GELU": gelu,
    "ELU": each(jax.nn.elu),
    "LOGISTIC": each(jax.nn.sigmoid),
    "TANH": each(jnp.tanh),
    "ABS": each(jnp.abs),
    "NEG": each(jnp.negative),
    "SQUARE": each(jnp.square),
    "CEIL": each(jnp.ceil),
    "COS": each(jnp.cos),
    "EXP": each(jnp.exp),
    "FLOOR": each(jnp.floor),
    "FLOOR_DIV": both(lambda a, b: jnp.floor(a / b)),
    "FLOOR_MOD": both(jnp.remainder),
    "POW": both(jnp.power),
    "SIGN": each(jnp.sign),
    "SIN": each(jnp.sin),
    "LOG": each(positive(jnp.log)),
    "SQRT": each(positive(jnp.sqrt)),
    "RSQRT": each(positive(lax.rsqrt)),
}
