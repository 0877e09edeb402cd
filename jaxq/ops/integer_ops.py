"""What each op computes in integers: the arithmetic of LiteRT's default CPU runtime (XNNPACK), differentiable.

A rule `(op, inputs, scale, zero_point) -> v` returns the output in units of its own step with the zero point removed,
before rounding and clipping (`simulate.forward` does both, ties to even); a rule whose kernel rounds otherwise returns
the rounded number. Inputs are carriers. Sources: XNNPACK `qs8-*` kernels and TFLite's builtin ones for the rest.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from jaxq.graph import CLIPS, Op
from jaxq.numerics.rounding import round_away, round_ste, straight_through, true_divide, unfused
from jaxq.ops import compute
from jaxq.ops.builtin_ops import REQUANTIZE
from jaxq.ops.contract import EXACT, REACH, Operands, Product, Products, Sums, sums_of_products, with_bias


class Carrier(NamedTuple):
    """An integer tensor in floating point: `real = scale * q`, `stored = q + zero_point`, |q| <= 255 for int8."""

    q: Float[Array, "..."]
    scale: Float[Array, "..."]
    zero_point: Float[Array, ""]

    @property
    def real(self) -> Array:
        """The real numbers."""
        return self.q * self.scale


Rule = Callable[..., Array]


def contraction(accumulate: Callable[..., Array]) -> Rule:
    """Rule of an op with weights: the kernel's int32 accumulator, brought to the output's scale.

    The accumulator is `sum q_x q_w + round(b / (s_x s_w))`: the bias is an int32 of scale `s_x s_w` (Jacob et al. 2018,
    section 2.4). `accumulate(op, x, w)` is the op's sum of products; `products` says how they are formed and what
    becomes of their sum.
    """

    def rule(
        op: Op, x: Carrier, w: Carrier, bias: Array, *, scale: Array, zero_point: Array, products: Products
    ) -> Any:
        q_bias = round_ste(true_divide(bias, x.scale * w.scale))
        operands = Operands(x.q, w.q, q_bias, (x.scale, w.scale, scale))
        return _in_output_steps(product_of(accumulate, op, w.q), products, operands)

    return rule


def _in_output_steps(product: Product, products: Products, operands: Operands) -> Any:
    """The accumulator in units of the output's step, with the gradient and the end that `products` gives it."""
    finish = products.finish or _as_it_is
    if products.gradient is not None:
        result = functools.partial(_requantized, product, products)
        return finish(lambda steps: steps, products.gradient(product, result, operands))
    sums = sums_of_products(product, products, operands.x, operands.w)
    steps = functools.partial(_steps_of_sums, REQUANTIZE[products.arithmetic.requantize])
    return finish(steps, sums, operands.bias, operands.scales)


def _as_it_is(steps: Callable[..., Array], *arrays: Any) -> Array:
    return steps(*arrays)


def _steps_of_sums(requantize: Callable[..., Array], sums: Sums, bias: Array, scales: tuple[Array, ...]) -> Array:
    return requantize(with_bias(sums, bias), *scales)


def _requantized(product: Product, products: Products, operands: Operands) -> tuple[Array, Array]:
    total = with_bias(sums_of_products(product, products, operands.x, operands.w), operands.bias)
    return REQUANTIZE[products.arithmetic.requantize](total, *operands.scales), total.real


def product_of(accumulate: Callable[..., Array], op: Op, w: Array) -> Product:
    """The product of an op with weights, whose output channels are the last axis of w."""
    return Product(functools.partial(accumulate, op), math.prod(w.shape[:-1]))


def mul(op: Op, a: Carrier, b: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """`q_a q_b * f32(f32(s_a s_b) / s_y)` (XNNPACK qs8-vmul)."""
    return a.q * b.q * true_divide(a.scale * b.scale, scale)


def batch_matmul(op: Op, a: Carrier, b: Carrier, *, scale: Array, zero_point: Array, products: Products) -> Any:
    """`sum q_a q_b * f32(f32(s_a s_b) / s_y)`, b with zero point 0 (XNNPACK batch-matrix-multiply-qs8)."""
    product = Product(functools.partial(compute.batch_matmul, op), a.q.shape[-1], of_activations=True)
    return _in_output_steps(product, products, Operands(a.q, b.q, jnp.zeros(()), (a.scale, b.scale, scale)))


def add(op: Op, a: Carrier, b: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """XNNPACK's qs8-vadd; see `shifted_sum`."""
    return shifted_sum(a.q, b.q, a.scale, b.scale, scale)


def sub(op: Op, a: Carrier, b: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """XNNPACK's qs8-vsub: `shifted_sum` with the second operand negated."""
    return shifted_sum(a.q, -b.q, a.scale, b.scale, scale)


@jax.custom_jvp
def shifted_sum(a: Array, b: Array, scale_a: Array, scale_b: Array, scale: Array) -> Array:
    """`(2^(n-1) + k_a q_a + k_b q_b) >> n`, in int32, with `k = round(f32(s / s_y) 2^n)` and the larger k in [2^20,
    2^21).

    The products pass 2^24, so this is integer arithmetic with the gradient of `(s_a q_a + s_b q_b) / s_y` around it.
    """
    ratio_a, ratio_b = true_divide(scale_a, scale), true_divide(scale_b, scale)
    _, exponent = jnp.frexp(jnp.maximum(ratio_a, ratio_b))  # in [0.5, 1): one more than floor(log2)
    shift = 21 - exponent
    k_a, k_b = (jnp.round(jnp.ldexp(r, shift)).astype(jnp.int32) for r in (ratio_a, ratio_b))
    total = (jnp.int32(1) << (shift - 1)) + k_a * a.astype(jnp.int32) + k_b * b.astype(jnp.int32)
    return (total >> shift).astype(jnp.float32)


@shifted_sum.defjvp
def _shifted_sum_jvp(primals: tuple[Array, ...], tangents: tuple[Array, ...]) -> tuple[Array, Array]:
    """Of `(s_a q_a + s_b q_b) / s_y`, with the scales' part gathered per operand: one reduction each, not three."""
    a, b, scale_a, scale_b, scale = primals
    da, db, dscale_a, dscale_b, dscale = tangents
    ratio_a, ratio_b = scale_a / scale, scale_b / scale
    dratio_a, dratio_b = ((ds - r * dscale) / scale for ds, r in ((dscale_a, ratio_a), (dscale_b, ratio_b)))
    return shifted_sum(*primals), a * dratio_a + b * dratio_b + da * ratio_a + db * ratio_b


def mean(op: Op, x: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """`round(f32(f32(sum) r) + f32(z_y - f32(f32(n z_x) r)))` of the *stored* integers (XNNPACK qs8-rsum), less z_y.

    `r = f32(f32(s_x / s_y) f32(1 / n))`. The two products are rounded before they are added.
    """
    n = math.prod(x.q.shape[axis] for axis in op.attrs["axes"])
    ratio = unfused(true_divide(x.scale, scale) * (np.float32(1) / np.float32(n)))  # else XLA cancels the n of `zeros`
    zeros = n * x.zero_point
    total = _sum_of_stored(op, x, n)
    return round_ste(unfused(total * ratio) + (zero_point - unfused(zeros * ratio))) - zero_point


def _sum_of_stored(op: Op, x: Carrier, n: int) -> Array:
    """The sum of n stored integers, rounded once to float32: in int32 where it can pass 2^24."""
    axes, keep = op.attrs["axes"], op.attrs["keepdims"]
    total = jnp.sum(x.q, axis=axes, keepdims=keep) + n * x.zero_point
    if n * REACH <= EXACT:
        return total
    stored = lax.stop_gradient(x.q + x.zero_point).astype(jnp.int32)
    return straight_through(jnp.sum(stored, axis=axes, keepdims=keep).astype(jnp.float32), total)


def average_pool_2d(op: Op, x: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """Mean of the *stored* integers, ties away from zero (TFLite's builtin kernel), with the zero point taken off
    again.
    """
    counts = compute.window_count(op, x.q)
    counted_zeros = op.attrs["count_padding"] and any(map(any, op.attrs["padding"]))
    inside = counts if counted_zeros else compute.window_sum(op, jnp.ones((1, *x.q.shape[1:3], 1), jnp.float32))
    stored = compute.window_sum(op, x.q) + inside * x.zero_point
    return _round_away_ste(true_divide(stored, jnp.asarray(counts, jnp.float32))) - x.zero_point


def clip(op: Op, x: Carrier, *, scale: Array, zero_point: Array) -> Array:
    """RELU and its like at the input's scale: bounds `round(v / s)`, ties away from zero (TFLite's builtin kernel)."""
    low, high = (_builtin_bound(v, x.scale) for v in (op.attrs["low"], op.attrs["high"]))
    return jnp.minimum(jnp.maximum(x.q, low), high)


def fused_bounds(
    bounds: tuple[float, float], scale: Array, zero_point: Array, builtin: bool = False
) -> tuple[Array, Array]:
    """The carriers that an activation fused into an op clips to; infinite bounds stay.

    RELU, RELU6 and RELU_N1_TO_1 are XNNPACK's, `round(f32(v / s) + z) - z` with ties to even; any other clip is a
    MAXIMUM and a MINIMUM with constants, which are rounded with ties away from zero, as in TFLite's `builtin` kernels.
    """
    if builtin or bounds not in CLIPS:
        low, high = (_builtin_bound(v, scale) for v in bounds)
        return low, high
    low, high = (
        jnp.float32(v) if math.isinf(v) else round_ste(_steps(v, scale) + zero_point) - zero_point for v in bounds
    )
    return low, high


def _builtin_bound(bound: float, scale: Array) -> Array:
    return jnp.float32(bound) if math.isinf(bound) else _round_away_ste(_steps(bound, scale))


def _steps(bound: float, scale: Array) -> Array:
    return true_divide(jnp.full_like(scale, bound), scale)


def _round_away_ste(x: Array) -> Array:
    return straight_through(round_away(x), x)


def identity(op: Op, x: Carrier, *_: Array, scale: Array, zero_point: Array) -> Array:
    """The same integers: a quantizer placed by hand, whose scale the plan has given to its input already."""
    return x.q


def multiply(op: Op, x: Array, w: Array) -> Array:
    """Products of carriers per channel, in float32: 255 * 127 is not exact in bfloat16."""
    return x.astype(jnp.float32) * w.astype(jnp.float32)


def table(function: Callable[..., Array]) -> Rule:
    """Rule of an op that a device looks up: the float function on the output's grid, within one step of the table.

    The quotient is rounded once, as in the table: the ends of a range are ties of it (a sign has 1 / (2 / 255)).
    """

    def rule(op: Op, x: Carrier, *numbers: Array, scale: Array, zero_point: Array) -> Array:
        return true_divide(function(op, x.real, *numbers), scale)

    return rule


def requantized(x: Carrier, scale: Array) -> Array:
    """int8 to int8: `(q k + 128) >> 8`, `k = round(256 f32(s_x / s_y))` (XNNPACK qs8-vcvt: eight fractional bits)."""
    k = round_ste(256.0 * true_divide(x.scale, scale))
    exact = (x.q * k + 128.0) * (1.0 / 256.0)
    return exact + lax.stop_gradient(jnp.floor(exact) - exact)
