"""int8 contractions against numpy's integers: products in every way, quantizing, schemes, stochastic rounding."""

from __future__ import annotations

import json
import pathlib
import typing
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxq.gradients import choice, products, schemes, taps
from jaxq.gradients.backward import SHIPPED, Backward, SchemeName
from jaxq.gradients.contraction import contraction
from jaxq.gradients.deviation import deviations
from jaxq.gradients.geometry import Geometry, geometry
from jaxq.gradients.integers import quantized, scale_of
from jaxq.gradients.noise import noise

PEERS = pathlib.Path(__file__).parent / "golden" / "int8_peers.json"  # operands whose scales are all 1
NHWC = ("NHWC", "HWIO", "NHWC")


def conv(*, strides: Any = (1, 1), padding: Any = ((1, 1), (1, 1)), numbers: Any = NHWC, **params: Any) -> Any:
    return lambda x, w: lax.conv_general_dilated(x, w, strides, padding, dimension_numbers=numbers, **params)


def dot(contracting: Any, batch: Any = ((), ())) -> Any:
    return lambda x, w: lax.dot_general(x, w, (contracting, batch))


# A contraction, the shapes of x and w.
CASES: dict[str, tuple[Any, tuple[int, ...], tuple[int, ...]]] = {
    "batched": (dot(((3,), (3,)), ((0, 2), (0, 2))), (2, 5, 3, 4), (2, 6, 3, 4)),
    "conv": (conv(), (2, 6, 5, 4), (3, 3, 4, 6)),
    "conv, batch groups": (conv(batch_group_count=2), (4, 5, 5, 3), (3, 3, 3, 4)),
    "conv, crops": (conv(strides=(2, 1), padding=((2, -1), (0, 1)), rhs_dilation=(2, 1)), (2, 9, 7, 4), (3, 3, 4, 2)),
    "conv, depthwise": (conv(feature_group_count=4), (2, 5, 5, 4), (3, 3, 1, 8)),
    "conv, depthwise along one axis": (
        conv(strides=(2,), padding=((2, 1),), rhs_dilation=(2,), feature_group_count=3, numbers=("NCW", "OIW", "NWC")),
        (3, 3, 9),
        (3, 1, 3),
    ),
    "conv, depthwise, strides": (
        conv(
            strides=(2, 1), padding=((0, 2), (1, -1)), rhs_dilation=(1, 2), lhs_dilation=(1, 2), feature_group_count=2
        ),
        (2, 6, 5, 2),
        (3, 2, 1, 2),
    ),
    "conv, groups": (conv(feature_group_count=2), (2, 5, 5, 4), (3, 3, 2, 6)),
    "conv, NCHW": (conv(strides=(2, 2), numbers=("NCHW", "OIHW", "NHWC")), (2, 4, 7, 6), (6, 4, 3, 3)),
    "conv, one axis": (conv(strides=(2,), padding=((1, 1),), numbers=("NWC", "WIO", "NWC")), (3, 8, 4), (3, 4, 5)),
    "conv, spread": (conv(padding=((2, 2), (1, 0)), lhs_dilation=(2, 3)), (1, 4, 3, 2), (3, 3, 2, 3)),
    "matrix": (dot(((1,), (0,))), (5, 7), (7, 3)),
    "matrix, transposed": (dot(((0,), (1,))), (7, 5), (3, 7)),
    "two axes": (dot(((1, 2), (2, 0))), (5, 4, 3), (3, 2, 4)),
}


def shape_of(fn: Any, x: Any, w: Any) -> Geometry:
    eqn = jax.make_jaxpr(fn)(jnp.zeros(x.shape), jnp.zeros(w.shape)).eqns[0]
    return geometry(eqn.primitive.name, eqn.params, *(v.aval for v in eqn.invars))


def integers(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(-127, 128, shape).astype(np.int8)


def drawn(case: str, seed: int = 0) -> tuple[Any, Geometry, np.ndarray, np.ndarray, np.ndarray]:
    fn, xs, ws = CASES[case]
    rng = np.random.default_rng(seed)
    x, w = integers(rng, *xs), integers(rng, *ws)
    shape = shape_of(fn, x, w)
    y = jax.eval_shape(fn, jnp.zeros(xs), jnp.zeros(ws))
    return fn, shape, x, w, integers(rng, *y.shape)


def places(shape: Geometry, x: Any, w: Any, y: Any) -> tuple[Any, ...]:
    """Every multiplication of a contraction, as flat indices (of y, of x, of w), written down from its definition."""
    params = dict(shape.params)
    return (_dot_places if shape.kind == "dot_general" else _conv_places)(params, x, w, y)


def _dot_places(params: Any, x: Any, w: Any, y: Any) -> tuple[Any, ...]:
    (cx, cw), (bx, bw) = params["dimension_numbers"]
    free_x = [a for a in range(x.ndim) if a not in (*cx, *bx)]
    free_w = [a for a in range(w.ndim) if a not in (*cw, *bw)]
    grid = np.indices((*y.shape, *(x.shape[a] for a in cx))).reshape(y.ndim + len(cx), -1)
    batch, rows = grid[: len(bx)], grid[len(bx) : len(bx) + len(free_x)]
    columns, summed = grid[len(bx) + len(free_x) : y.ndim], grid[y.ndim :]
    at_x = {
        **dict(zip(bx, batch, strict=True)),
        **dict(zip(free_x, rows, strict=True)),
        **dict(zip(cx, summed, strict=True)),
    }
    at_w = {
        **dict(zip(bw, batch, strict=True)),
        **dict(zip(free_w, columns, strict=True)),
        **dict(zip(cw, summed, strict=True)),
    }
    return tuple(
        np.ravel_multi_index([at[a] for a in range(len(at))], v.shape)
        for at, v in ((dict(enumerate(grid[: y.ndim])), y), (at_x, x), (at_w, w))
    )


def _conv_places(params: Any, x: Any, w: Any, y: Any) -> tuple[Any, ...]:
    xs, ws, ys = params["dimension_numbers"]
    n = x.ndim - 2
    sizes = [y.shape[a] for a in (ys[0], ys[1], *ys[2:])], [w.shape[a] for a in (*ws[2:], ws[1])]
    grid = np.indices((*sizes[0], *sizes[1])).reshape(2 * n + 3, -1)
    example, channel, place, tap, inner = grid[0], grid[1], grid[2 : 2 + n], grid[2 + n : 2 + 2 * n], grid[-1]
    steps = zip(
        place,
        tap,
        params["window_strides"],
        params["rhs_dilation"],
        params["padding"],
        params["lhs_dilation"],
        strict=True,
    )
    at = [(p * s + t * d - low, spread) for p, t, s, d, (low, _), spread in steps]
    limits = [x.shape[a] for a in xs[2:]]
    inside = np.all(
        [(p >= 0) & (p % spread == 0) & (p // spread < m) for (p, spread), m in zip(at, limits, strict=True)], 0
    )
    features, batches = params["feature_group_count"], params["batch_group_count"]
    first = channel // (w.shape[ws[0]] // features) * w.shape[ws[1]] + inner
    who = channel // (w.shape[ws[0]] // batches) * (x.shape[xs[0]] // batches) + example
    columns = {
        "y": (dict(zip((ys[0], ys[1], *ys[2:]), grid[: 2 + n], strict=True)), y),
        "x": (dict(zip((xs[0], xs[1], *xs[2:]), (who, first, *(p // s for p, s in at)), strict=True)), x),
        "w": (dict(zip((ws[0], ws[1], *ws[2:]), (channel, inner, *tap), strict=True)), w),
    }
    return tuple(
        np.ravel_multi_index([held[a][inside] for a in range(v.ndim)], v.shape) for held, v in columns.values()
    )


def sums(shape: Geometry, x: np.ndarray, w: np.ndarray, g: np.ndarray) -> tuple[Any, ...]:
    """y, dX and dW in int64, one multiplication after another."""
    at_y, at_x, at_w = places(shape, x, w, g)
    flat_x, flat_w, flat_g = (v.reshape(-1).astype(np.int64) for v in (x, w, g))
    found = tuple(np.zeros(v.shape, np.int64) for v in (g, x, w))
    np.add.at(found[0].reshape(-1), at_y, flat_x[at_x] * flat_w[at_w])
    np.add.at(found[1].reshape(-1), at_x, flat_g[at_y] * flat_w[at_w])
    np.add.at(found[2].reshape(-1), at_w, flat_x[at_x] * flat_g[at_y])
    return found


@pytest.mark.parametrize("case", CASES)
def test_products_are_numpys_integer_sums(case: str):
    _, shape, x, w, g = drawn(case)
    want = sums(shape, x, w, g)
    ways = jax.jit(lambda x, w, g: _every_way(shape, x, w, g))(x, w, g)
    assert ("taps" in ways) == (case.startswith("conv") and "groups" not in case)
    for way, found in ways.items():
        for name, got, right in zip(("y", "dX", "dW"), found, want, strict=True):
            assert np.array_equal(np.asarray(got), right), f"{name} by {way}"


def _every_way(shape: Geometry, x: Any, w: Any, g: Any) -> dict[str, Any]:
    ways: dict[str, Any] = {
        way: (
            products.forward_product(shape, x, w, way),
            products.input_product(shape, g, w, x, way),
            products.weight_product(shape, x, g, w, way),
        )
        for way in ("int8", "carriers")
    }
    for way, dtype in {"taps": jnp.int8, "carriers by taps": jnp.float32}.items() if choice.taps_fit(shape) else ():
        a, b, c = (v.astype(dtype) for v in (x, w, g))
        gradients = taps.input_gradient(shape, c, b, a), taps.weight_gradient(shape, a, c, b)
        ways[way] = (taps.forward(shape, a, b), *gradients)
    return ways


def _vjp(shape: Geometry, how: Backward, x: Any, w: Any, g: Any, state: Any = None) -> Any:
    """y, dX and dW of a contraction, compiled once."""

    @jax.jit
    def run(x: Any, w: Any, g: Any) -> Any:
        y, vjp = jax.vjp(lambda a, b: contraction(shape, how, a, b, state or {}), x, w)
        return y, *vjp(g)

    return run(x, w, g)


def rounded(x: np.ndarray, axes: Any, top: int = 127) -> tuple[np.ndarray, np.ndarray]:
    """Symmetric integers by numpy, to nearest."""
    scale = np.abs(x).max(axes, keepdims=True) / np.float32(top)
    return np.clip(np.rint(x / scale), -top, top).astype(np.int64), scale


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("compute", ["int8", "carriers"])
def test_a_matrix_product_and_its_gradients_are_numpys(bits: Any, compute: Any):
    rng, top = np.random.default_rng(1), 2 ** (bits - 1) - 1
    x, w, g = (rng.normal(size=s).astype(np.float32) for s in ((6, 5), (5, 4), (6, 4)))
    how = Backward(bits=bits, scheme="row", stochastic=False, compute=compute)
    shape = shape_of(jnp.matmul, x, w)
    y, dx, dw = _vjp(shape, how, x, w, g)
    (q_x, s_x), (q_w, s_w) = rounded(x, (0, 1)), rounded(w, 0)
    (g_x, s_gx), (g_w, s_gw) = rounded(g * s_w, 1, top), rounded(g, 0, top)
    np.testing.assert_array_equal(y, (q_x @ q_w).astype(np.float32) * (s_x[0, 0] * s_w))
    np.testing.assert_array_equal(dx, (g_x @ q_w.T).astype(np.float32) * s_gx)
    np.testing.assert_array_equal(dw, (q_x.T @ g_w).astype(np.float32) * s_gw * s_x[0, 0])


@pytest.mark.parametrize("scheme", ["row", "tensor"])
@pytest.mark.parametrize("compute", ["int8", "carriers"])
@pytest.mark.parametrize("peer", ["aqt", "torchao"])
def test_products_and_gradients_are_those_of_peers(peer: str, compute: Any, scheme: Any):
    numbers = json.loads(PEERS.read_text())
    x, w, g = (np.array(numbers[name], np.float32) for name in "xwg")
    shape, how = shape_of(jnp.matmul, x, w), Backward(scheme=scheme, stochastic=False, compute=compute)
    for found, name in zip(_vjp(shape, how, x, w, g), ("y", "dx", "dw"), strict=True):
        np.testing.assert_array_equal(found, np.array(numbers[peer][name], np.float32))


def test_a_gradient_left_in_floats_is_of_what_was_not_rounded():
    rng = np.random.default_rng(2)
    x, w, g = (rng.normal(size=s).astype(np.float32) for s in ((6, 5), (5, 4), (6, 4)))
    how = Backward(input_gradient=False, weight_gradient=False)
    _, dx, dw = _vjp(shape_of(jnp.matmul, x, w), how, x, w, g)
    np.testing.assert_array_equal(dx, jnp.matmul(g, w.T))
    np.testing.assert_array_equal(dw, jnp.matmul(x.T, g))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_short_floats_keep_their_types(dtype: str):
    x, w = jnp.ones((3, 4), dtype), jnp.ones((4, 2), dtype)
    shape = shape_of(jnp.matmul, x, w)._replace(dtypes=(dtype,) * 3)
    y, *gradients = _vjp(shape, Backward(), x, w, jnp.ones((3, 2), dtype))
    assert {v.dtype for v in (y, *gradients)} == {jnp.dtype(dtype)}
    np.testing.assert_array_equal(y, 4 * np.ones((3, 2)))


def test_what_is_held_is_int8():
    x, w = jnp.ones((64, 32)), jnp.ones((32, 16))
    shape = shape_of(jnp.matmul, x, w)
    held = jax.eval_shape(lambda: jax.vjp(lambda a, b: contraction(shape, Backward(), a, b, {}), x, w)[1])
    large = [v for v in jax.tree.leaves(held) if v.size > 16]
    assert sorted((str(v.dtype), v.size) for v in large) == [("int8", 32 * 16), ("int8", 64 * 32)]


def test_nothing_finite_comes_of_what_is_not():
    x, w = jnp.ones((3, 4)).at[1, 1].set(jnp.nan), jnp.ones((4, 2))
    shape = shape_of(jnp.matmul, x, w)
    y, _, _ = _vjp(shape, Backward(), x, w, jnp.ones((3, 2)))
    assert np.isnan(y).all()
    _, dx, dw = _vjp(shape, Backward(), jnp.ones((3, 4)), w, jnp.ones((3, 2)).at[1, 0].set(jnp.inf))
    assert not np.isfinite(dx[1]).any() and np.isfinite(dx[0]).all()
    assert not np.isfinite(dw[:, 0]).any() and np.isfinite(dw[:, 1]).all()


def test_a_scheme_has_a_name_a_shipped_value_and_a_row_in_the_docs():
    page = (pathlib.Path(__file__).parent.parent / "docs" / "int8_training.md").read_text()
    assert set(typing.get_args(SchemeName)) == set(schemes.SCHEMES) <= set(SHIPPED)
    assert [scheme for scheme in schemes.SCHEMES if f"\n| `{scheme}` |" not in page] == []


def test_zeros_stay_zeros():
    shape = shape_of(jnp.matmul, jnp.zeros((3, 4)), jnp.zeros((4, 2)))
    for scheme in schemes.SCHEMES:
        state = schemes.SCHEMES[scheme].start((2,))
        how = Backward(scheme=scheme)  # type: ignore[arg-type]
        y, vjp = jax.vjp(
            lambda a, b, how=how, state=state: contraction(shape, how, a, b, state),
            jnp.zeros((3, 4)),
            jnp.zeros((4, 2)),
        )
        assert not any(np.any(v) for v in cast(Any, (y, *vjp(y))))


def test_a_processor_multiplies_bytes_where_it_says_so(tmp_path: pathlib.Path):
    for name, flags in {"new": "flags\t\t: fpu avx2 avx512_vnni", "old": "flags\t\t: fpu avx2\nbugs: avx_vnni"}.items():
        (tmp_path / name).write_text(f"model name\t: x\n{flags}\n")
    assert [choice.multiplies_bytes(tmp_path / name) for name in ("new", "old", "absent")] == [True, False, False]


def test_a_sum_longer_than_an_int32_holds_runs_on_floats():
    shape = shape_of(jnp.matmul, jnp.zeros((3, 4)), jnp.zeros((4, 2)))
    assert choice.way_for(shape, 0, "int8") == "int8"
    assert choice.way_for(shape._replace(sum_lengths=(choice.LONGEST_SUM + 1, 2, 3)), 0, "int8") == "carriers"
    assert 127**2 * choice.LONGEST_SUM < 2**31 <= 127**2 * (choice.LONGEST_SUM + 1)


@pytest.mark.parametrize("top", [127, 7])
def test_stochastic_rounding_is_unbiased(top: int):
    """The mean error over many numbers, in its standard errors; and for one value in many places."""
    for seed in range(3):
        g = jax.random.normal(jax.random.key(seed), (40_000,))
        scale = scale_of(g, (0,), top)
        error = np.asarray(quantized(g, scale, top, True).astype(jnp.float32) - g / scale, np.float64)
        assert abs(error.mean()) < 4 * error.std() / error.size**0.5
        assert np.abs(error).max() <= 1.0
    same = jnp.full((40_000,), 0.3)
    assert (
        abs(float(quantized(same, jnp.float32(1), top, True).astype(jnp.float32).mean()) - 0.3)
        < 4 * (0.21 / 4e4) ** 0.5
    )
    exact = jnp.arange(-7.0, 8.0)
    np.testing.assert_array_equal(quantized(exact, jnp.float32(1), 7, True), exact)


def test_noise_is_uniform_and_of_the_data_alone():
    g = jax.random.normal(jax.random.key(5), (40_000,))
    u = np.asarray(noise(g))
    assert u.min() >= 0 and u.max() < 1
    counts = np.histogram(u, 16, (0, 1))[0]
    assert ((counts - 2500) ** 2 / 2500).sum() < 50  # chi-square of 15 degrees: 1 in 10^5
    assert abs(np.corrcoef(u[:-1], u[1:])[0, 1]) < 0.02
    np.testing.assert_array_equal(u, noise(g))
    assert np.mean(np.asarray(noise(g * 1.0001)) == u) < 0.01


def cosine(a: Any, b: Any) -> float:
    a, b = np.asarray(a, np.float64).ravel(), np.asarray(b, np.float64).ravel()
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def heavy_tailed(shape: tuple[int, ...]) -> np.ndarray:
    """Numbers of which one, that no sample sees, is four times the largest other."""
    numbers = np.random.default_rng(0).standard_t(2.0, shape).astype(np.float32)
    numbers.ravel()[1] = 4 * np.abs(numbers).max()
    return numbers


def steps_of(g: np.ndarray, scale: float, top: int) -> np.ndarray:
    """`Q(g; s)` in steps, to nearest."""
    return np.clip(np.rint(g.astype(np.float64) / scale), -top, top)


@pytest.mark.parametrize("top", [127, 7])
def test_deviations_are_those_of_the_rounded_gradient(top: int):
    """The whole gradient's, of which 4,096 of 8,192 numbers are sampled: that the largest is clipped is seen though it
    is not among them.
    """
    g = heavy_tailed((64, 128))
    clips = [c * float(np.abs(g).max()) for c in (1.0, 0.6, 0.25, 0.02)]
    scales = [jnp.full((1, 1), c / top, jnp.float32) for c in clips]
    found = np.asarray(jax.jit(lambda g: deviations(g, scales, top))(g))
    wanted = [1 - cosine(g, steps_of(g, c / top, top)) for c in clips]
    np.testing.assert_allclose(found, wanted, rtol=0.1, atol=2e-5)
    assert wanted[1] > 1e-3  # clipping that one number alone


def test_deviations_of_what_rounds_to_nothing():
    """0 of a gradient of zeros, 1 where all of it is rounded to zero; small numbers do not vanish in squares."""
    search = jax.jit(lambda g, scale: deviations(g, [scale], 7)[0])
    g, one = np.array([[3.0, -2.0]], np.float32), np.ones((1, 1), np.float32)
    assert search(0 * g, one) == 0
    assert search(0.1 * g, one) == 1
    assert search(1e-30 * g, 1e-30 * one) < 1e-6


def test_unified_finds_the_clip_of_least_deviation():
    """Hill climbing over steps comes to the best clip of a grid, as numpy finds it on all numbers."""
    numbers = np.random.default_rng(0).standard_t(3.0, (64, 128)).astype(np.float32)
    g = jnp.asarray(numbers)
    rms, most = float(jnp.sqrt(jnp.mean(g * g))), float(jnp.max(jnp.abs(g)))
    for top in (127, 7):
        best = min(1 - cosine(g, steps_of(numbers, c * most / top, top)) for c in np.geomspace(0.005, 1, 100))
        search = jax.jit(lambda clip, top=top: schemes._searched(g, clip, top))
        clip = scale = found = jnp.zeros(())
        for _ in range(60):
            clip, scale, found = search(clip)
        assert float(found) < 1.1 * best + 1e-6
        assert 1 - cosine(g, steps_of(numbers, float(clip) * rms / top, top)) < 1.1 * best + 1e-6
        np.testing.assert_allclose(scale.reshape(()), clip * rms / top, rtol=1e-6)
    naive = 1 - cosine(g, steps_of(numbers, most / 7, 7))
    assert float(clip) * rms < 0.9 * most and float(found) < 0.8 * naive


def test_a_clip_rises_slowly_and_falls_fast():
    """A spike of one batch is clipped: the clip may rise by a tenth a step, and fall by half."""
    search = jax.jit(lambda g, clip: schemes._searched(g, clip, 7)[0])
    numbers = np.random.default_rng(0).normal(size=(64, 128)).astype(np.float32)
    spike = np.where(np.arange(128) + np.arange(64)[:, None] == 0, np.float32(100), numbers)
    assert float(search(spike, np.float32(4.0))) == pytest.approx(4.4)
    most = np.abs(numbers).max() / np.sqrt(np.mean(numbers**2))
    assert float(search(numbers, np.float32(1e3))) == pytest.approx(most / 2)


def test_adaptive_moves_an_average_where_the_tail_is_long_and_takes_the_maximum_of_a_gaussian():
    """Zhao et al. 2021: s = (1 - 0.8) s + 0.8 max|g|, or max|g| where P(|g| > sigma) > 0.3."""
    rng = np.random.default_rng(0)
    g = np.stack([rng.normal(size=4000), rng.standard_t(1.5, size=4000)], 1).astype(np.float32)
    share = (np.abs(g) > g.std(0)).mean(0)
    assert share[0] > 0.3 > share[1]
    shape = shape_of(jnp.matmul, np.zeros((4000, 3)), np.zeros((3, 2)))
    last = {"channel": jnp.array([5.0, 5.0]), "deviation": jnp.zeros(())}
    scales = schemes._adaptive(jnp.asarray(g), jnp.asarray(g), shape, 127, last)
    most = np.abs(g).max(0)
    want = [most[0], np.float32(0.2) * 5 + np.float32(0.8) * most[1]]
    np.testing.assert_allclose(scales.state["channel"], want, rtol=1e-6)
    np.testing.assert_allclose(scales.for_weight, [[w / 127 for w in want]], rtol=1e-6)
    np.testing.assert_allclose(scales.for_input, [[most.max() / 127]], rtol=1e-6)
    first = schemes._adaptive(jnp.asarray(g), jnp.asarray(g), shape, 127, schemes._adaptive_start((2,)))
    np.testing.assert_allclose(first.state["channel"], most, rtol=1e-6)


@pytest.mark.parametrize("case", ["batched", "conv, batch groups", "conv, NCHW", "two axes"])
def test_rows_scale_what_is_not_summed_over(case: str):
    """Scaling one example of g, or one output channel, changes no integer of the others."""
    fn, shape, x, w, g = drawn(case)
    real = jnp.asarray(g, jnp.float32)
    scales = schemes._per_row(real, real, shape, 127, {})
    for scale, axes in ((scales.for_input, shape.example_axes), (scales.for_weight, shape.channel_axes)):
        assert scale.shape == tuple(n if a in axes else 1 for a, n in enumerate(g.shape))
    how = Backward(stochastic=False)
    both = jax.jit(
        lambda a, b, g: [jax.vjp(f, a, b)[1](g) for f in (lambda a, b: contraction(shape, how, a, b, {}), fn)]
    )
    got, want = both(*map(_float, (x, w)), real)
    assert all(cosine(a, b) > 0.999 for a, b in zip(got, want, strict=True))


def _float(q: np.ndarray) -> jax.Array:
    return jnp.asarray(q, jnp.float32)
