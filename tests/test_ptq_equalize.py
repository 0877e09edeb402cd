"""Equalization: the same network in floats, ranges by the formula, ReLU6 left exact on the examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from tests.ptq_cases import function, inputs, params

TENSOR = jaxq.Recipe(weights={"per_channel": False})  # pyright: ignore[reportArgumentType]


def uneven(sigma: float = 1.5) -> dict[str, dict[str, Any]]:
    """The network's parameters after a factor exp(N(0, sigma)) has moved through the ReLU, channel by channel."""
    s = np.exp(np.random.default_rng(5).normal(0, sigma, 8)).astype(np.float32)
    p = params()
    first = {"kernel": p["first"]["kernel"] * s, "bias": p["first"]["bias"] * s}
    return {"first": first, "second": p["second"] | {"kernel": p["second"]["kernel"] / s[:, None]}}


def applied(
    fn: Callable[..., Any], p: Any, x: np.ndarray, run: Callable[..., Any] = jaxq.ptq.equalize, **options: Any
) -> tuple[Any, Any, jaxq.ptq.Report, Any]:
    q = jaxq.quantize(fn, TENSOR, p, x[:1])
    ranges = jaxq.calibrate(q, [x], p, q.init(p, x[:1]), progress=False)
    return *run(q, x, p, ranges, **options), q


def test_both_kernels_get_the_root_of_the_product_of_their_ranges() -> None:
    """Mutants: s in place of 1/s in the bias; ranges of the wrong axis; the root left out."""
    p, x = uneven(), inputs()
    found, ranges, report, q = applied(function, p, x)
    r1, r2 = np.abs(p["first"]["kernel"]).max(0), np.abs(p["second"]["kernel"]).max(1)
    s = np.sqrt(r1 * r2) / r2
    np.testing.assert_allclose(found["first"]["kernel"], p["first"]["kernel"] / s, rtol=1e-5)
    np.testing.assert_allclose(found["first"]["bias"], p["first"]["bias"] / s, rtol=1e-5)
    np.testing.assert_allclose(found["second"]["kernel"], p["second"]["kernel"] * s[:, None], rtol=1e-5)
    before, after = function(p, x), function(found, x)
    np.testing.assert_allclose(before, after, rtol=0, atol=1e-5 * np.abs(before).max())
    ((_, noisy, clean),) = report.sqnr
    assert clean > noisy + 10  # dB: one scale a tensor holds the channels now
    got = np.asarray(q.apply(found, ranges, x))
    assert 10 * np.log10(np.sum(before**2) / np.sum((got - before) ** 2)) == pytest.approx(clean, abs=0.01)


def test_a_network_that_is_even_already_is_left_as_it_is() -> None:
    p, x = uneven(), inputs()
    even, _, _, _ = applied(function, p, x)
    found, ranges, report, q = applied(function, even, x)
    ((_, before, after),) = report.sqnr
    assert before == after
    np.testing.assert_array_equal(found["first"]["kernel"], even["first"]["kernel"])
    assert "kept: the outputs would be no better" in report.changes[0].note


def six(p: Any, x: Any) -> Any:
    return jax.nn.relu6(x @ p["first"]["kernel"] + p["first"]["bias"]) @ p["second"]["kernel"] + p["second"]["bias"]


def test_behind_relu6_no_channel_is_taken_to_6() -> None:
    """Mutant: ReLU6 treated as ReLU: small channels grow past 6 and clip."""
    p, x = uneven(), inputs()
    most = np.maximum(x @ p["first"]["kernel"] + p["first"]["bias"], 0).max(0)
    p = {**p, "first": {k: v * (6 / np.median(most)) for k, v in p["first"].items()}}
    found, _, report, _ = applied(six, p, x)
    before, after = six(p, x), six(found, x)
    np.testing.assert_allclose(before, after, rtol=0, atol=1e-5 * np.abs(before).max())
    most = np.maximum(x @ p["first"]["kernel"] + p["first"]["bias"], 0).max(0)
    reached = most >= 6
    assert 0 < reached.sum() < 8 and f"{reached.sum()} of 8 channels reach 6 and stay" in report.changes[0].note
    np.testing.assert_array_equal(np.asarray(found["first"]["kernel"])[:, reached], p["first"]["kernel"][:, reached])
    assert np.any(np.asarray(found["first"]["kernel"])[:, ~reached] != p["first"]["kernel"][:, ~reached])


def image(p: Any, x: Any) -> Any:
    """Convolution, depthwise convolution, mean, dense: every way in which a channel is read."""
    dims = ("NHWC", "HWIO", "NHWC")
    y = jax.nn.relu(jax.lax.conv_general_dilated(x, p["a"], (1, 1), "SAME", dimension_numbers=dims) + p["ab"])
    y = jax.lax.conv_general_dilated(y, p["d"], (1, 1), "SAME", dimension_numbers=dims, feature_group_count=4)
    return jnp.mean(jax.nn.relu(y + p["db"]), (1, 2)) @ p["h"] + p["hb"]


def test_a_chain_through_depthwise_and_a_mean_is_the_same_in_floats() -> None:
    rng = np.random.default_rng(0)
    shapes = {"a": (3, 3, 3, 4), "ab": (4,), "d": (3, 3, 1, 4), "db": (4,), "h": (4, 3), "hb": (3,)}
    spread = {"a": np.array([0.05, 0.3, 1, 6]), "d": np.array([4, 1, 0.5, 0.1])}
    p = {k: jnp.asarray(rng.normal(0, 1, s) * spread.get(k, 1), jnp.float32) for k, s in shapes.items()}
    x = rng.normal(0.2, 1, (16, 5, 5, 3)).astype(np.float32)
    found, _, report, _ = applied(image, p, x)
    before, after = image(p, x), image(found, x)
    np.testing.assert_allclose(before, after, rtol=0, atol=1e-5 * np.abs(before).max())
    assert [change.op for change in report.changes] == ["a", "d"]
    r = [np.abs(found[k]).max((0, 1, 2)) for k in ("a", "d")] + [np.abs(found["h"]).max(1)]
    np.testing.assert_allclose(r[0], r[1], rtol=1e-2)  # converged along the chain
    np.testing.assert_allclose(r[1], r[2], rtol=1e-2)


def normed(p: Any, x: Any) -> Any:
    """LayerNorm, read by two dense layers."""
    x = (x - x.mean(-1, keepdims=True)) * jax.lax.rsqrt(x.var(-1, keepdims=True) + 1e-5) * p["gamma"] + p["beta"]
    return x @ p["q"] + p["qb"], x @ p["k"] + p["kb"]


@pytest.mark.filterwarnings("ignore::jaxq.PrecisionWarning")
def test_smoothing_takes_the_papers_factors() -> None:
    """Mutants: alpha on the weights; one reader's weights in place of all."""
    rng = np.random.default_rng(2)
    gamma = np.array([1, 1, 30, 1, 1, 0.5], np.float32)
    shapes = {"beta": (6,), "q": (6, 4), "qb": (4,), "k": (6, 3), "kb": (3,)}
    p = {"gamma": jnp.asarray(gamma)} | {k: jnp.asarray(rng.normal(0, 0.5, s), jnp.float32) for k, s in shapes.items()}
    x = inputs()
    found, _, report, _ = applied(normed, p, x, jaxq.ptq.smooth, alpha=0.75)
    standard = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    most = np.abs(standard * gamma + np.asarray(p["beta"])).max(0)
    w = np.maximum(np.abs(p["q"]).max(1), np.abs(p["k"]).max(1))
    s = most**0.75 / w**0.25
    np.testing.assert_allclose(found["gamma"], gamma / s, rtol=1e-4)
    np.testing.assert_allclose(found["k"], np.asarray(p["k"]) * s[:, None], rtol=1e-4)
    for before, after in zip(normed(p, x), normed(found, x), strict=True):
        np.testing.assert_allclose(before, after, rtol=0, atol=1e-5 * np.abs(before).max())
    assert sum(after for *_, after in report.sqnr) > sum(before for _, before, _ in report.sqnr)
