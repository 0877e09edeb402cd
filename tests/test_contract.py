"""Sums of products beyond 2^24: equal to numpy's int64 for all data, in training and on the device."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.graph import Op
from jaxq.ops import compute
from jaxq.ops.arithmetic import Arithmetic
from jaxq.ops.contract import Product, Products, contract
from tests.zoo import proof_of

RNG = np.random.default_rng(0)


def dense(terms: int) -> Product:
    return Product(functools.partial(compute.fully_connected, Op("FULLY_CONNECTED", "dense", (), (), {})), terms)


def convolution(kind: str, groups: int, terms: int) -> Product:
    attrs = {"stride": (1, 1), "padding": ((0, 0), (0, 0)), "dilation": (1, 1), "groups": groups}
    op = Op(kind, "conv", (), (), attrs)
    return Product(functools.partial(compute.conv_2d, op), terms)


def numpy_conv(x: np.ndarray, w: np.ndarray, groups: int) -> np.ndarray:
    """VALID, stride 1, [n, h, w, c] by [kh, kw, c / groups, o], in int64."""
    kh, kw, inner, outer = w.shape
    windows = np.lib.stride_tricks.sliding_window_view(x, (kh, kw), axis=(1, 2))  # n h w c kh kw
    windows = windows.reshape(*windows.shape[:3], groups, inner, kh, kw)
    split = w.reshape(kh, kw, inner, groups, outer // groups)
    return np.einsum("nhwgikl,kligo->nhwgo", windows, split).reshape(*windows.shape[:3], outer)


def signs(*shape: int) -> np.ndarray:
    """All of one sign down the reduced axes: the largest sums there are."""
    return np.broadcast_to(np.where(np.arange(shape[-1]) % 2, -1, 1), shape)


# name: (product, x, w, the int64 sums)
DENSE_X, DENSE_W = RNG.integers(200, 256, (3, 1500)), signs(1500, 4) * RNG.integers(100, 128, (1500, 4))
GROUPED_X, GROUPED_W = (
    RNG.integers(200, 256, (1, 4, 4, 1200)),
    signs(3, 3, 600, 6) * RNG.integers(90, 128, (3, 3, 600, 6)),
)
TAPS_X, TAPS_W = RNG.integers(200, 256, (1, 29, 29, 4)), signs(29, 29, 1, 4) * RNG.integers(90, 128, (29, 29, 1, 4))
LEFT, RIGHT = RNG.integers(200, 256, (2, 3, 1300)), signs(2, 1300, 5) * RNG.integers(100, 129, (2, 1300, 5))
CASES: dict[str, tuple[Product, np.ndarray, np.ndarray, np.ndarray]] = {
    "dense": (dense(1500), DENSE_X, DENSE_W, DENSE_X @ DENSE_W),
    "convolution": (
        convolution("CONV_2D", 1, 3 * 3 * 600),
        GROUPED_X[..., :600],
        GROUPED_W,
        numpy_conv(GROUPED_X[..., :600], GROUPED_W, 1),
    ),
    "grouped": (convolution("CONV_2D", 2, 3 * 3 * 600), GROUPED_X, GROUPED_W, numpy_conv(GROUPED_X, GROUPED_W, 2)),
    "large window": (
        convolution("DEPTHWISE_CONV_2D", 4, 841),
        TAPS_X,
        TAPS_W,
        numpy_conv(TAPS_X, TAPS_W, 4),
    ),
    "activations": (
        Product(functools.partial(compute.batch_matmul, Op("BATCH_MATMUL", "product", (), (), {})), 1300, True),
        LEFT,
        RIGHT,
        LEFT @ RIGHT,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", CASES)
def test_sums_beyond_2_24_are_exact(name: str, dtype: str) -> None:
    product, x, w, wanted = CASES[name]
    assert np.abs(wanted).max() > 2**24
    floats = [jnp.asarray(a, jnp.float32) for a in (x, w)]
    total = jax.jit(functools.partial(contract, product, Products(dtype=dtype)))(*floats, jnp.float32(12345))
    np.testing.assert_array_equal(total.integer, wanted + 12345)
    np.testing.assert_array_equal(total.real, (wanted + 12345).astype(np.float32))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_sums_of_16_bits_are_exact(dtype: str) -> None:
    x, w = RNG.integers(-32768, 32768, (3, 2500)), signs(2500, 4) * RNG.integers(0, 25, (2500, 4))
    how = Products(Arithmetic(bits=16, requantize="half up"), dtype)
    total = contract(dense(2500), how, jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
    np.testing.assert_array_equal(total.integer, x @ w)
    bright = np.full((3, 2500), 127)  # a low byte whose own sums pass 2^24
    total = contract(dense(2500), how, jnp.asarray(bright, jnp.float32), jnp.full((2500, 4), 127.0))
    np.testing.assert_array_equal(total.integer, bright @ np.full((2500, 4), 127))


@pytest.mark.parametrize("name", CASES)
def test_the_gradient_is_that_of_the_plain_product(name: str) -> None:
    product, x, w, _ = CASES[name]
    floats = [jnp.asarray(a, jnp.float32) for a in (x, w)]
    ours = jax.grad(lambda x, w: contract(product, Products(), x, w).real.sum(), (0, 1))(*floats)
    plain = jax.grad(lambda x, w: product.of(x, w).sum(), (0, 1))(*floats)
    for a, b in zip(ours, plain, strict=True):
        np.testing.assert_array_equal(a, b)


def test_other_sums_change_gradients_and_no_integer() -> None:
    @functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
    def halved(product: Product, x: jax.Array, w: jax.Array) -> jax.Array:
        return product.of(x, w)

    def forward(product: Product, x: jax.Array, w: jax.Array) -> Any:
        return product.of(x, w), (x, w)

    def backward(product: Product, held: Any, g: jax.Array) -> Any:
        return tuple(0.5 * c for c in jax.vjp(product.of, *held)[1](g))

    def total(x: jax.Array, w: jax.Array, how: Products) -> jax.Array:
        return contract(dense(len(w)), how, x, w).real.sum()

    halved.defvjp(forward, backward)
    for terms in (8, 1500):
        x, w = jnp.asarray(DENSE_X[:, :terms], jnp.float32), jnp.asarray(DENSE_W[:terms], jnp.float32)
        plain, hooked = (jax.value_and_grad(total)(x, w, Products(sums=cast(Any, hook))) for hook in (None, halved))
        assert plain[0] == hooked[0]
        np.testing.assert_array_equal(hooked[1], 0.5 * plain[1])


def test_small_sums_are_formed_once() -> None:
    """518 products stay below 2^24 whatever they are: no branch and no second product."""
    text = str(
        jax.make_jaxpr(lambda x, w: contract(dense(500), Products(), x, w).real)(jnp.ones((2, 500)), jnp.ones((500, 3)))
    )
    assert text.count("dot_general") == 1
    assert "cond" not in text


def rows(mean: float, n: int, width: int) -> np.ndarray:
    return np.clip(mean + 0.01 * RNG.normal(size=(n, width)), 0, 1).astype(np.float32)


def opposed(width: int, channels: int = 8) -> np.ndarray:
    """Halves of opposite signs: a sum that is small in the end and large on the way."""
    half = RNG.uniform(0.5, 1, (width // 2, channels))
    return np.concatenate([half, -half[::-1]]).astype(np.float32)


WEIGHTS = opposed(2048)
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "dense": lambda x: x @ WEIGHTS,
    "convolution": lambda x: jax.lax.conv_general_dilated(
        x.reshape(-1, 2, 2, 512), jnp.asarray(WEIGHTS.reshape(2, 2, 512, 8)), (1, 1), "VALID",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    ).reshape(-1, 8),
    "activations": lambda x: (x.reshape(-1, 1, 2048) @ (x[:, :, None] - 0.5)).reshape(-1, 1),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("dense", "int8"),
        ("convolution", "int8"),
        ("activations", "int8"),
        ("dense", {"carrier": "bfloat16"}),
        ("dense", "int16x8"),
    ],
)
def test_a_file_whose_sums_pass_2_24_equals_training(name: str, recipe: Any) -> None:
    entry = largest_accumulator(FUNCTIONS[name], recipe)
    assert entry["exceeds_float32"]
    assert entry["proven"] == (recipe != "int16x8")  # its bound passes int32 too; export refuses what is in reach


def test_as_many_products_with_weights_of_4_bits_stay_below_2_24() -> None:
    assert not largest_accumulator(FUNCTIONS["dense"], "int4")["exceeds_float32"]


def largest_accumulator(fn: Callable[[Any], Any], recipe: Any) -> dict[str, Any]:
    """The manifest's entry for the longest sum of a file that equals the training forward."""
    cal = np.concatenate([rows(0.9, 8, 2048), rows(0.1, 8, 2048)])
    cal[0, 0], cal[1, 0] = 1, 0
    q = jaxq.quantize(lambda params, x: fn(x), recipe, {}, cal[:1])
    ranges = jaxq.calibrate(q, [cal], {}, q.init({}, cal[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, {}, ranges, verify=rows(0.9, 32, 2048), progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    assert artifact.certificate.simulation_differing == 0
    entry = max(artifact.manifest["accumulators"].values(), key=lambda entry: entry["terms"])
    assert entry["terms"] == 2048
    return entry


def test_the_bound_is_reached_by_the_worst_input() -> None:
    """Carriers at their ends by the sign of a channel's weights: the accumulator is the bound, in no channel more."""
    w = RNG.normal(size=(700, 5)).astype(np.float32)
    x = np.concatenate([rows(0.9, 4, 700) - 0.3, np.full((1, 700), -0.5, np.float32)])
    q = jaxq.quantize(lambda params, x: x @ params["w"], "int8", {"w": w}, x[:1])
    ranges = jaxq.calibrate(q, [x], {"w": w}, q.init({"w": w}, x[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, {"w": w}, ranges, progress=False)
    zero_point = artifact.manifest["ranges"]["input"]["zero_point"]
    integers = proof_of(artifact).frozen.kernels["w"].q.astype(np.int64)
    low, high = -128 - zero_point, 127 - zero_point
    worst = max(max(np.where(c > 0, high, low) @ c, -(np.where(c > 0, low, high) @ c)) for c in integers.T)
    assert artifact.manifest["accumulators"]["w"]["bound"] == worst


def test_a_mean_of_more_numbers_than_float32_counts() -> None:
    """66,000 integers of 255 pass 2^24; their sum is the device's."""
    x = np.concatenate([np.full((3, 330, 200, 1), 0.998), np.zeros((1, 330, 200, 1))]).astype(np.float32)
    x[1, ::3] = 0.3
    x[2, ::7] = 0.11
    q = jaxq.quantize(lambda params, x: x.mean((1, 2)), "int8", {}, x[:1])
    ranges = jaxq.calibrate(q, [x], {}, q.init({}, x[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, {}, ranges, verify=x, progress=False)
    assert artifact.certificate is not None and artifact.certificate.simulation_differing == 0
