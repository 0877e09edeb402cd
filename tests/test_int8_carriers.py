"""The integer gradients of an op of quantization-aware training: values kept, gradients against JAX's and numpy's."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxq.gradients.backward import Backward
from jaxq.gradients.carriers import Carriers, only_contraction, with_integer_gradients
from jaxq.gradients.statistics import GradientSite
from jaxq.graph import Op
from jaxq.numerics.rounding import saturate
from jaxq.ops import compute, dynamic_range, integer_ops
from jaxq.ops.arithmetic import Arithmetic
from jaxq.ops.contract import Products
from jaxq.ops.integer_ops import Carrier

RNG = np.random.default_rng(0)
FLOATS = Backward(input_gradient=False, weight_gradient=False)
NEAREST = Backward(scheme="row", stochastic=False)
HELD: dict[int, Carriers] = {8: "8 bits", 16: "16 bits"}
CONV = {"stride": (1, 1), "padding": ((1, 1), (1, 1)), "dilation": (1, 1), "groups": 1}
DENSE = Op("FULLY_CONNECTED", "dense", (), (), {})


def carriers(*shape: int, least: int = -100, most: int = 156) -> jax.Array:
    return jnp.asarray(RNG.integers(least, most, shape), jnp.float32)


def scales(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.uniform(0.01, 0.02, shape), jnp.float32)


def run(arithmetic: Arithmetic, gradient: Any, name: str, operands: Any) -> Any:
    """An op's steps and all gradients of its operands: (x, w, bias, s_x, s_w, s_y), of activations without a bias. What
    8 bits would clip has no gradient.
    """
    products = Products(arithmetic, gradient=gradient)

    def steps(x: Any, w: Any, bias: Any, s_x: Any, s_w: Any, s_y: Any) -> Any:
        left, right = Carrier(x, s_x, jnp.float32(0)), Carrier(w, s_w, jnp.float32(0))
        if name == "matmul":
            op = Op("BATCH_MATMUL", name, (), (), {})
            return integer_ops.batch_matmul(op, left, right, scale=s_y, zero_point=jnp.float32(0), products=products)
        accumulate, op = (compute.fully_connected, DENSE) if name == "dense" else (compute.conv_2d, CONVS[name])
        rule = integer_ops.contraction(accumulate)
        return rule(op, left, right, bias, scale=s_y, zero_point=jnp.float32(0), products=products)

    @jax.jit
    def both(operands: Any) -> Any:
        y, vjp = jax.vjp(steps, *operands)
        return y, vjp(jnp.where((jnp.abs(y) < 255) | arithmetic.is_int16, gradient_of(y.shape), 0.0))

    return both(operands)


def gradient_of(shape: tuple[int, ...]) -> jax.Array:
    return jnp.asarray(np.random.default_rng(1).normal(size=shape), jnp.float32)


CONVS = {
    "conv": Op("CONV_2D", "conv", (), (), CONV),
    "depthwise": Op("DEPTHWISE_CONV_2D", "depthwise", (), (), {**CONV, "groups": 3}),
}
# x, w, bias, and the scales of x, w and y.
OPERANDS: dict[str, tuple[Any, ...]] = {
    "conv": (carriers(2, 4, 4, 3), carriers(3, 3, 3, 4, most=101), scales(4), scales(), scales(4), 100 * scales()),
    "dense": (carriers(5, 7), carriers(7, 4, most=101), scales(4), scales(), scales(4), 20 * scales()),
    "depthwise": (carriers(2, 4, 4, 3), carriers(3, 3, 1, 3, most=101), scales(3), scales(), scales(3), 20 * scales()),
    "matmul": (carriers(2, 3, 5), carriers(2, 5, 4, most=101), scales(), scales(), scales(), 20 * scales()),
}


@pytest.mark.parametrize("name", OPERANDS)
@pytest.mark.parametrize("bits", [8, 16])
def test_with_products_in_floats_every_gradient_is_jaxs(name: str, bits: int) -> None:
    """Those of carriers, bias and all three scales, by formulas of their own; y is held in 128ths of a step."""
    arithmetic = Arithmetic() if bits == 8 else Arithmetic(bits=16, requantize="half up")
    operands = OPERANDS[name] if bits == 8 else (OPERANDS[name][0] * 113 + 5, *OPERANDS[name][1:])
    hook = functools.partial(with_integer_gradients, FLOATS, HELD[bits], {})
    (y, want), (same, got) = (run(arithmetic, gradient, name, operands) for gradient in (None, hook))
    np.testing.assert_array_equal(y, same)
    for a, b, tolerance in zip(want, got, (1e-5, 1e-5, 1e-5, 2e-5, 2e-5, 1e-2 if bits == 8 else 2e-5), strict=True):
        np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * float(jnp.max(jnp.abs(a))))


@pytest.mark.parametrize("bits", [8, 16])
def test_gradients_of_a_matrix_product_are_numpys_integers(bits: int) -> None:
    x, w, bias, s_x, s_w, s_y = (np.asarray(v, np.float64) for v in OPERANDS["dense"])
    x = x if bits == 8 else 97 * x - 3
    arithmetic = Arithmetic() if bits == 8 else Arithmetic(bits=16, requantize="half up")
    hook = functools.partial(with_integer_gradients, NEAREST, HELD[bits], {})
    operands = [jnp.asarray(v, jnp.float32) for v in (x, w, bias, s_x, s_w, s_y)]
    y, (dx, dw, dbias, *_) = run(arithmetic, hook, "dense", operands)
    g = np.where((np.abs(y) < 255) | (bits == 16), gradient_of((5, 4)), np.float32(0))
    scaled = g * (np.float32(s_x) * s_w.astype(np.float32) / np.float32(s_y))
    rows, columns = (np.abs(scaled).max(axis, keepdims=True) / 127 for axis in (1, 0))
    np.testing.assert_allclose(dx, np.rint(scaled / rows) @ w.T * rows, rtol=1e-5)
    np.testing.assert_allclose(dw, x.T @ np.rint(scaled / columns) * columns, rtol=1e-5)
    np.testing.assert_allclose(dbias, scaled.sum(0) / (s_x * s_w), rtol=1e-5)


def test_the_gradient_of_a_range_has_no_error_of_rounding_times_its_carriers() -> None:
    """LSQ's gradient `<x - v, dX>` is small beside `<x, dX>`. One rounded gradient, of 4 bits, stands in both sums."""
    v = jnp.asarray(RNG.uniform(-120, 120, (64, 7)), jnp.float32)
    _, w, _, _, s_w, s_y = OPERANDS["dense"]
    g = jnp.asarray(RNG.normal(size=(64, 4)), jnp.float32)
    hook = functools.partial(with_integer_gradients, Backward(scheme="tensor", bits=4), "8 bits", {})

    def loss(log_scale: Any, shift: Any) -> Any:
        scale, zero = jnp.exp(log_scale), jnp.float32(0)
        x = saturate(v / scale, zero, jnp.float32(-128), jnp.float32(127)) + shift
        rule, products = integer_ops.contraction(compute.fully_connected), Products(gradient=hook)
        left, right = Carrier(x, scale, zero), Carrier(w, s_w, zero)
        y = rule(DENSE, left, right, jnp.zeros(4), scale=s_y, zero_point=zero, products=products)
        return jnp.sum(y * g)

    found, dx = jax.jit(jax.grad(loss, (0, 1)))(jnp.float32(0), jnp.zeros_like(v))
    difference = (np.round(v) - np.asarray(v)) * np.asarray(dx)
    np.testing.assert_allclose(found, difference.sum(), atol=1e-4 * np.abs(difference).sum())
    exact = g * (s_w / s_y) @ w.T
    assert abs(np.sum(v * (dx - exact))) > np.abs(difference).sum()  # what one rounded and one exact sum would leave


def test_rows_with_zero_points_of_their_own_are_held_whole() -> None:
    """Carriers of a dynamic range span 511 integers: one row in [0, 255], another in [-255, 0]."""
    x = jnp.concatenate([jnp.linspace(0, 3, 6)[None], jnp.linspace(-3, 0, 6)[None]]).astype(jnp.float32)
    w = Carrier(carriers(6, 4, most=101), scales(4), jnp.float32(0))

    def gradients(backward: Any) -> Any:
        hook = None if backward is None else functools.partial(with_integer_gradients, backward, "dynamic", {})
        products = Products(Arithmetic(bits=32, dynamic="row"), gradient=hook)

        def y(x: Any, q: Any, s: Any) -> Any:
            held = Carrier(q, s, jnp.float32(0))
            return dynamic_range.contraction(compute.fully_connected, products, DENSE, x, held, jnp.zeros(4))

        value, vjp = jax.vjp(y, x, w.q, w.scale)
        return value, *vjp(jnp.ones((2, 4)))

    want_all, got_all = jax.jit(lambda: (gradients(None), gradients(FLOATS)))()
    for want, got in zip(want_all, got_all, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("scheme", ["unified", "adaptive"])
@pytest.mark.parametrize("bits", [8, 16])
def test_the_cotangent_of_a_state_is_state_less_found(scheme: Any, bits: int) -> None:
    """Of 16 bits, whose sums are formed twice, it is that of one gradient."""
    x, w, bias, *rest = OPERANDS["dense"]
    state = GradientSite(scheme, 4).new_state()
    g = jnp.asarray(RNG.normal(size=(5, 4)), jnp.float32)
    products = functools.partial(Products, Arithmetic(bits=bits, requantize="float32" if bits == 8 else "half up"))

    @jax.jit
    def change(state: Any) -> Any:
        def steps(state: Any) -> Any:
            hook = functools.partial(with_integer_gradients, Backward(scheme=scheme), HELD[bits], state)
            left, right = Carrier(x, rest[0], jnp.float32(0)), Carrier(w, rest[1], jnp.float32(0))
            rule, zero = integer_ops.contraction(compute.fully_connected), jnp.float32(0)
            return rule(DENSE, left, right, bias, scale=rest[2], zero_point=zero, products=products(gradient=hook))

        return jax.vjp(steps, state)[1](g)[0]

    found = jax.tree.map(jnp.subtract, state, change(state))
    scaled = g * (rest[0] * rest[1] / rest[2])
    if scheme == "adaptive":
        np.testing.assert_allclose(found["channel"], jnp.max(jnp.abs(scaled), 0), rtol=1e-5)
    else:
        most = jnp.max(jnp.abs(scaled)) / jnp.sqrt(jnp.mean(scaled**2))
        assert ((found["clip"] > 0) & (found["clip"] <= 1.00001 * most)).all()
    again = jax.tree.map(jnp.subtract, found, change(found))  # from there it moves by at most one candidate
    assert all(np.isfinite(v).all() for v in jax.tree.leaves(again)) and again["deviation"] < 0.01


def test_what_is_held_is_integers_and_a_mask() -> None:
    x, w, bias, *rest = (carriers(64, 32), carriers(32, 16, most=101), scales(16), scales(), scales(16), 100 * scales())

    def q(x: Any, w: Any, bias: Any, s_x: Any, s_w: Any, s_y: Any) -> Any:
        hook = functools.partial(with_integer_gradients, NEAREST, "8 bits", {})
        rule, zero = integer_ops.contraction(compute.fully_connected), jnp.float32(0)
        left, right = Carrier(x, s_x, zero), Carrier(w, s_w, zero)
        steps = rule(DENSE, left, right, bias, scale=s_y, zero_point=zero, products=Products(gradient=hook))
        return saturate(steps, zero, jnp.float32(-128), jnp.float32(127))

    held = jax.eval_shape(lambda *a: jax.vjp(q, *a)[1], x, w, bias, *rest)
    large = sorted((str(v.dtype), v.size) for v in jax.tree.leaves(held) if v.size > 16)
    assert large == [("bool", 64 * 16), ("int16", 64 * 16), ("int8", 32 * 16), ("uint8", 64 * 32)]


def test_only_a_plain_contraction_is_recognised() -> None:
    shape = only_contraction(lambda a, b: jnp.matmul(a, b) + 0.0, jnp.zeros((4, 3)), jnp.zeros((3, 2)))
    assert shape is not None and shape.kind == "dot_general"
    assert only_contraction(lambda a, b: jnp.matmul(a * 2, b), jnp.zeros((4, 3)), jnp.zeros((3, 2))) is None
