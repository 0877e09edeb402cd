"""GPTQ against the paper's loop in plain numpy, for dense layers and every kind of convolution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from jaxq.ptq.gptq import column_by_column
from tests.ptq_cases import W4, grid, inputs, quantized


def plain(x: np.ndarray, w: np.ndarray, scale: np.ndarray, fixed: np.ndarray, qmax: int = 7) -> np.ndarray:
    """Frantar et al. 2023, algorithm 1, for x [rows, n] and w [n, outputs], column after column by falling E[x_i^2]."""
    w, q, n = w.astype(np.float64).copy(), np.zeros(w.shape), len(w)
    h = x.T @ x
    order = np.argsort(-np.diag(h), kind="stable")
    inverse = np.linalg.inv(h + 0.01 * np.mean(np.diag(h)) * np.eye(n))[np.ix_(order, order)]
    u = np.linalg.cholesky(inverse).T
    for a in range(n):
        i = order[a]
        for o in range(w.shape[1]):
            q[i, o] = np.clip(np.rint(w[i, o] / scale[o]), -qmax, qmax)
            if fixed[i, o]:
                q[i, o] = np.sign(w[i, o]) * qmax
            error = (w[i, o] - q[i, o] * scale[o]) / u[a, a]
            for b in range(a + 1, n):
                w[order[b], o] -= u[a, b] * error
    return q


def correlated(seed: int, n: int = 32, outputs: int = 16, rows: int = 256) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    mix = rng.normal(size=(n, n)) * np.exp(rng.normal(size=n))[:, None] * 0.3 + np.eye(n)
    return rng.normal(size=(rows, n)) @ mix, rng.normal(size=(n, outputs))


def test_the_output_error_is_below_three_tenths_of_nearest() -> None:
    """Mutants: the whole inverse in place of its Cholesky factor (0.65 of nearest); no division by U_ii."""
    ratios = []
    for seed in range(8):
        x, w = correlated(seed)
        scale = np.broadcast_to(np.abs(w).max(0) / 7, w.shape)
        nearest = np.clip(np.rint(w / scale), -7, 7)
        one = (w[None], (x.T @ x)[None], scale[None], np.full((1, *w.shape), 7.0), nearest[None])
        q = column_by_column(*one, np.zeros((1, *w.shape), bool))[0]
        errors = [np.mean((x @ (a * scale - w)) ** 2) for a in (q, nearest)]
        ratios.append(errors[0] / errors[1])
    assert np.median(ratios) < 0.3


def test_a_dense_layer_has_the_levels_of_plain_numpy() -> None:
    q = quantized()
    found, _, report = jaxq.ptq.gptq(q.q, inputs(), *q.state)
    w = np.asarray(q.params["first"]["kernel"], np.float64)
    scale = np.abs(w).max(0) / 7
    x = grid(q.ranges["input"]["scale"], np.rint(q.ranges["input"]["zero_point"]), inputs().astype(np.float64))
    fixed = np.abs(w) == np.abs(w).max(0)
    got = np.asarray(found["first"]["kernel"], np.float64)
    np.testing.assert_array_equal(np.rint(got / scale), plain(x, w, scale, fixed))
    np.testing.assert_array_equal(got[fixed], w[fixed])  # the largest weight sets the scale: it stays to the bit
    assert report.changes[0].after < report.changes[0].before


CONVS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "conv": ((2, 3, 4, 5), {"window_strides": (2, 1), "padding": "SAME"}),
    "depthwise": ((3, 3, 1, 4), {"window_strides": (1, 1), "padding": "SAME", "feature_group_count": 4}),
    "dilated": ((2, 2, 4, 3), {"window_strides": (1, 1), "padding": "VALID", "rhs_dilation": (2, 1)}),
    "grouped": ((3, 2, 2, 6), {"window_strides": (1, 2), "padding": ((1, 0), (0, 2)), "feature_group_count": 2}),
}


@pytest.mark.parametrize("name", CONVS)
def test_convolutions_have_the_levels_of_plain_numpy(name: str) -> None:
    """Patches by slices of the padded image here. Mutants: taps and channels in another order; groups mixed up."""
    shape, options = CONVS[name]
    rng = np.random.default_rng(3)
    p = {"w": jnp.asarray(rng.normal(size=shape), jnp.float32), "b": jnp.zeros(shape[-1])}
    x = np.cumsum(rng.normal(0.1, 1, (8, 6, 6, 4)), 1).astype(np.float32)

    def network(p: Any, x: Any) -> Any:
        y = jax.lax.conv_general_dilated(x, p["w"], dimension_numbers=("NHWC", "HWIO", "NHWC"), **options)
        return y + p["b"]

    q = jaxq.quantize(network, W4, p, x[:1])
    ranges = jaxq.calibrate(q, [x], p, q.init(p, x[:1]), progress=False)
    found, _, _ = jaxq.ptq.gptq(q, x, p, ranges)
    x_q = grid(ranges["input"]["scale"], np.rint(ranges["input"]["zero_point"]), x.astype(np.float64))
    w, groups = np.asarray(p["w"], np.float64), options.get("feature_group_count", 1)
    scale, out = np.abs(w).max((0, 1, 2)) / 7, shape[-1] // groups
    got = np.rint(np.asarray(found["w"]) / scale)
    for group in range(groups):
        part, own = x_q[..., group * shape[2] : (group + 1) * shape[2]], slice(group * out, (group + 1) * out)
        kernel = w[..., own].reshape(-1, out)
        fixed = np.abs(kernel) == np.abs(w).max((0, 1, 2))[own]
        wanted = plain(patches(part, shape[:2], options), kernel, scale[own], fixed)
        np.testing.assert_array_equal(got[..., own].reshape(-1, out), wanted)


def patches(x: np.ndarray, taps: tuple[int, ...], options: dict[str, Any]) -> np.ndarray:
    """Each output position's inputs, [positions, taps * channels], channels innermost."""
    (sh, sw), (dh, dw) = options["window_strides"], options.get("rhs_dilation", (1, 1))
    reach = [dh * (taps[0] - 1) + 1, dw * (taps[1] - 1) + 1]
    pads = options["padding"]
    if isinstance(pads, str):
        pads = jax.lax.padtype_to_pads(x.shape[1:3], reach, (sh, sw), pads)
    x = np.pad(x, ((0, 0), *pads, (0, 0)))
    high, wide = ((x.shape[i + 1] - d * (taps[i] - 1) - 1) // s + 1 for i, (s, d) in enumerate(((sh, dh), (sw, dw))))
    found = [
        x[:, i * dh : i * dh + sh * (high - 1) + 1 : sh, j * dw : j * dw + sw * (wide - 1) + 1 : sw]
        for i in range(taps[0])
        for j in range(taps[1])
    ]
    return np.stack(found, 3).reshape(-1, len(found) * x.shape[-1])
