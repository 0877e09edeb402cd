"""What each op means on real numbers, as a JAX function of its inputs.

Ops that only move or select numbers mean the same on carriers (integers with the zero point removed), and a
contraction of carriers is the int32 accumulator: the simulation runs these same functions. Activations are NHWC,
weights HWIO or [in, out].
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.graph import Op
from jaxq.numerics.depthwise import Window, depthwise
from jaxq.numerics.rounding import clip_ste, fake_quant


def conv_2d(op: Op, x: jax.Array, w: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """x [N,H,W,C] by w [KH,KW,C/groups,O]; also depthwise, where groups = C. Accumulates in float32."""
    groups = x.shape[-1] if op.kind == "DEPTHWISE_CONV_2D" else op.attrs["groups"]
    y = lax.conv_general_dilated(
        x,
        w,
        op.attrs["stride"],
        op.attrs["padding"],
        rhs_dilation=op.attrs["dilation"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
        preferred_element_type=jnp.float32,
    )
    return y + bias


def depthwise_by_taps(op: Op, x: jax.Array, w: jax.Array) -> jax.Array:
    """`conv_2d` of a depthwise op as a sum over the window's taps, in float32. Of carriers: the same integers."""
    above, beside = op.attrs["padding"]
    window = Window(tuple(op.attrs["stride"]), tuple(op.attrs["dilation"]), (tuple(above), tuple(beside)))
    return depthwise(window, x.astype(jnp.float32), w.astype(jnp.float32))


def fully_connected(op: Op, x: jax.Array, w: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """x [..., in] by w [in, out]."""
    return jnp.matmul(x, w, preferred_element_type=jnp.float32) + bias


def transpose_conv(op: Op, x: jax.Array, w: jax.Array, bias: jax.Array | float = 0.0) -> jax.Array:
    """x [N,H,W,C], spread by the stride, by w [KH,KW,C,O]: `pads` are those of the spread image."""
    y = lax.conv_general_dilated(
        x,
        w,
        (1, 1),
        op.attrs["pads"],
        lhs_dilation=op.attrs["stride"],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        preferred_element_type=jnp.float32,
    )
    return y + bias


def batch_matmul(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """a [..., M, K] by b [..., K, N]. Accumulates in float32."""
    return jnp.matmul(a, b, preferred_element_type=jnp.float32)


def affine(op: Op, x: jax.Array, mul: jax.Array, add: jax.Array | float = 0.0) -> jax.Array:
    """x [..., C] times a vector plus a vector over channels."""
    return x * mul + add


def add(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """a + b, broadcasting."""
    return a + b


def sub(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """a - b, broadcasting."""
    return a - b


def mul(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """a * b, broadcasting."""
    return a * b


def maximum(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """The greater of a and b, broadcasting."""
    return jnp.maximum(a, b)


def minimum(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """The lesser of a and b, broadcasting."""
    return jnp.minimum(a, b)


def logical_and(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """Whether both masks hold, broadcasting."""
    return jnp.logical_and(a, b)


def logical_or(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """Whether one of two masks holds, broadcasting."""
    return jnp.logical_or(a, b)


def compare(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """Whether the relation (EQUAL, LESS ...) of integers or of masks holds, broadcasting."""
    return getattr(jnp, op.attrs["relation"].lower())(a, b)


def select(op: Op, condition: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
    """a where the condition holds, else b, broadcasting."""
    return jnp.where(condition, a, b)


def window_sum(op: Op, x: jax.Array) -> jax.Array:
    """Sums over the windows of a pooling op, padded with zeros."""
    return lax.reduce_window(x, np.zeros((), x.dtype), lax.add, *_window(op))


def average_pool_2d(op: Op, x: jax.Array) -> jax.Array:
    """Mean over each window; padding counts as zeros where `count_padding`, else not at all."""
    return window_sum(op, x) / window_count(op, x)


def window_count(op: Op, x: jax.Array) -> jax.Array | float:
    """How many numbers each window's mean is taken over."""
    if op.attrs["count_padding"] or not any(map(any, op.attrs["padding"])):
        return float(math.prod(op.attrs["window"]))
    return window_sum(op, jnp.ones((1, *x.shape[1:3], 1), x.dtype))


def max_pool_2d(op: Op, x: jax.Array) -> jax.Array:
    """Greatest number of each window; padding never wins."""
    return lax.reduce_window(x, -jnp.inf, lax.max, *_window(op))


def _window(op: Op) -> tuple[Sequence[int], Sequence[int], Sequence[tuple[int, int]]]:
    pads = ((0, 0), *op.attrs["padding"], (0, 0))
    return (1, *op.attrs["window"], 1), (1, *op.attrs["stride"], 1), pads


def mean(op: Op, x: jax.Array) -> jax.Array:
    """Mean over `axes`."""
    return jnp.mean(x, axis=op.attrs["axes"], keepdims=op.attrs["keepdims"])


def reduce_max(op: Op, x: jax.Array) -> jax.Array:
    """Greatest number over `axes`."""
    return jnp.max(x, axis=op.attrs["axes"], keepdims=op.attrs["keepdims"])


def reduce_min(op: Op, x: jax.Array) -> jax.Array:
    """Least number over `axes`."""
    return jnp.min(x, axis=op.attrs["axes"], keepdims=op.attrs["keepdims"])


def arg_max(op: Op, x: jax.Array) -> jax.Array:
    """Index of the first greatest number along `axis`, int32."""
    return jnp.argmax(x, axis=op.attrs["axis"]).astype(jnp.int32)


def arg_min(op: Op, x: jax.Array) -> jax.Array:
    """Index of the first least number along `axis`, int32."""
    return jnp.argmin(x, axis=op.attrs["axis"]).astype(jnp.int32)


def top_k(op: Op, x: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The k largest numbers of the last axis, descending, and their places; of equal ones the first comes first."""
    values, places = lax.top_k(x, op.attrs["k"])
    return values, places


def cumsum(op: Op, x: jax.Array) -> jax.Array:
    """Running sums along `axis`, from the end where `reverse`."""
    return lax.cumsum(x, axis=op.attrs["axis"], reverse=op.attrs["reverse"])


# By TFLite's operator; a quotient is rounded towards zero.
INTEGER: Mapping[str, Callable[..., jax.Array]] = {
    "ADD": jnp.add,
    "DIV": lax.div,
    "MAXIMUM": jnp.maximum,
    "MINIMUM": jnp.minimum,
    "MUL": jnp.multiply,
    "SUB": jnp.subtract,
}


def integer(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """Arithmetic of int32, such as indices: `operator` says which. It wraps around; broadcasting."""
    return INTEGER[op.attrs["operator"]](*jnp.broadcast_arrays(a, b))


def total(op: Op, x: jax.Array) -> jax.Array:
    """Sum of int32 over `axes`, wrapping."""
    return jnp.sum(x, axis=op.attrs["axes"], keepdims=op.attrs["keepdims"])


def floor_div(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """a / b of int32, rounded down, broadcasting."""
    return jnp.floor_divide(a, b)


def floor_mod(op: Op, a: jax.Array, b: jax.Array) -> jax.Array:
    """a - b floor(a / b) of int32, which has the sign of b, broadcasting."""
    return jnp.remainder(a, b)


def clip(op: Op, x: jax.Array) -> jax.Array:
    """RELU, RELU6 and their like: x inside [low, high]."""
    return clip_ste(x, jnp.float32(op.attrs["low"]), jnp.float32(op.attrs["high"]))


def reshape(op: Op, x: jax.Array) -> jax.Array:
    """The same numbers in another shape."""
    return jnp.reshape(x, op.attrs["shape"])


def transpose(op: Op, x: jax.Array) -> jax.Array:
    """Axes permuted."""
    return jnp.transpose(x, op.attrs["perm"])


def broadcast_to(op: Op, x: jax.Array) -> jax.Array:
    """Repeated along axes of size 1."""
    return jnp.broadcast_to(x, op.attrs["shape"])


def gather(op: Op, x: jax.Array, indices: jax.Array) -> jax.Array:
    """The slices of x along `axis` at constant indices."""
    return jnp.take(x, indices, axis=op.attrs["axis"])


def embedding(op: Op, indices: jax.Array, rows: jax.Array) -> jax.Array:
    """The rows of a table of weights at indices that are an input of the model."""
    return jnp.take(rows, indices, axis=0)


def pad(op: Op, x: jax.Array) -> jax.Array:
    """Zeros around."""
    return jnp.pad(x, op.attrs["pads"])


def concatenation(op: Op, *xs: jax.Array) -> jax.Array:
    """Inputs side by side along `axis`."""
    return jnp.concatenate(xs, op.attrs["axis"])


def split(op: Op, x: jax.Array) -> tuple[jax.Array, ...]:
    """Equal parts along `axis`."""
    return tuple(jnp.split(x, op.attrs["splits"], op.attrs["axis"]))


def slice_(op: Op, x: jax.Array) -> jax.Array:
    """The block of `size` at `begin`."""
    begin = op.attrs["begin"]
    return lax.slice(x, begin, [b + s for b, s in zip(begin, op.attrs["size"], strict=True)])


def strided_slice(op: Op, x: jax.Array) -> jax.Array:
    """Every `strides`-th number from `begin` to `end`."""
    return lax.slice(x, op.attrs["begin"], op.attrs["end"], op.attrs["strides"])


def logistic(op: Op, x: jax.Array) -> jax.Array:
    """1 / (1 + exp(-x))."""
    return jax.nn.sigmoid(x)


def tanh(op: Op, x: jax.Array) -> jax.Array:
    """Hyperbolic tangent."""
    return jnp.tanh(x)


def softmax(op: Op, x: jax.Array) -> jax.Array:
    """exp(x) over its sum along the last axis."""
    return jax.nn.softmax(x)


def gelu(op: Op, x: jax.Array) -> jax.Array:
    """x times the normal distribution's cumulative function, or its tanh form (Hendrycks and Gimpel 2016)."""
    return jax.nn.gelu(x, approximate=op.attrs["approximate"])


def leaky_relu(op: Op, x: jax.Array) -> jax.Array:
    """x where x >= 0, else alpha times x."""
    return jax.nn.leaky_relu(x, op.attrs["alpha"])


def prelu(op: Op, x: jax.Array, alpha: jax.Array) -> jax.Array:
    """x where x >= 0, else alpha times x; alpha broadcasts to x (He et al. 2015, equation 1)."""
    return jnp.where(x >= 0, x, alpha * x)


def reverse(op: Op, x: jax.Array) -> jax.Array:
    """Turned around along `axes`."""
    return jnp.flip(x, op.attrs["axes"])


def hard_swish(op: Op, x: jax.Array) -> jax.Array:
    """x * relu6(x + 3) / 6 (Howard et al. 2019, section 5.2)."""
    return jax.nn.hard_swish(x)


def table(op: Op, x: jax.Array, *numbers: jax.Array) -> jax.Array:
    """Any function of each number alone, such as sqrt, abs or the ELU."""
    assert op.call is not None
    return op.call(x, *numbers)[0].astype(jnp.float32)


def requantize(op: Op, x: jax.Array) -> jax.Array:
    """x, in integers of another width."""
    return x


def stop_gradient(op: Op, x: jax.Array) -> jax.Array:
    """x, as a constant for differentiation."""
    return lax.stop_gradient(x)


def dropout(op: Op, x: jax.Array, kept: jax.Array, rest: jax.Array | None = None) -> jax.Array:
    """(x - rest) / keep + rest where kept, else rest. Present only while the model is in training mode.

    rest: a vector over channels, what an affine behind the dropout adds; zero where there is none.
    """
    if rest is None:
        return jnp.where(kept, x / op.attrs["keep"], 0.0)
    return jnp.where(kept, (x - rest) / op.attrs["keep"] + rest, rest)


def fake_quantized(op: Op, x: jax.Array, scale: jax.Array, zero_point: jax.Array) -> jax.Array:
    """A quantizer that the model placed by hand."""
    return fake_quant(x, scale, zero_point)
