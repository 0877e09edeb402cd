"""Ranges that train by LSQ, LSQ+, TQT and PACT: gradients against torch and brevitas, exact files, old checkpoints."""

from __future__ import annotations

import json
import pathlib
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxq
from jaxq.numerics.rounding import quantize
from jaxq.optim import partition
from jaxq.plan import recipe
from jaxq.plan.scheme import RANGES, Grid
from jaxq.range_methods import METHODS, is_range, method_of

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "range_methods_torch.json").read_text())


def f32(numbers: Any) -> jax.Array:
    return jnp.asarray(numbers, jnp.float32)


def fake_quant(method: str, state: dict[str, jax.Array], x: jax.Array, grid: Grid) -> jax.Array:
    """`x` on the grid of a range, as `simulate` rounds what enters the integers."""
    scale, zero_point = METHODS[method].forward(state, grid)
    q = quantize(x, scale, grid.qmin - zero_point, grid.qmax - zero_point)
    gradient = METHODS[method].gradient
    return scale * (q if gradient is None else gradient(q, x / scale, scale))


def outcome(method: str, state: dict[str, jax.Array], case: dict[str, Any], grid: Grid) -> Any:
    """The result, and the gradients by the state and by x."""
    run = lambda state, x: fake_quant(method, state, x, grid)  # noqa: E731
    y, pull = jax.vjp(run, state, f32(case["x"]))
    return y, *pull(f32(case["g"]))


def signed(bits: int, **kind: bool) -> Grid:
    return Grid(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1, **kind)


@pytest.mark.parametrize("case", GOLDEN["tqt"], ids=lambda c: f"{c['bits']} bits {c['log2_threshold']:.2f}")
def test_tqt_is_that_of_brevitas(case: dict[str, Any]) -> None:
    state = {"log2_threshold": f32(case["log2_threshold"]), "observed": jnp.zeros(2)}
    y, by_state, by_x = outcome("tqt", state, case, signed(case["bits"], symmetric=True))
    np.testing.assert_allclose(y, case["y"], atol=1e-6)
    np.testing.assert_allclose(by_x, case["dx"], atol=1e-6)
    np.testing.assert_allclose(by_state["log2_threshold"], case["gradient"], rtol=1e-5)


@pytest.mark.parametrize("case", GOLDEN["pact"], ids=lambda c: f"{c['bits']} bits [{c['low']}, {c['high']}]")
def test_pact_is_that_of_autograd(case: dict[str, Any]) -> None:
    state = {"low": f32(case["low"]), "high": f32(case["high"]), "observed": jnp.zeros(2)}
    y, by_state, by_x = outcome("clip", state, case, signed(case["bits"], nonnegative=case["low"] == 0.0))
    np.testing.assert_allclose(y, case["y"], atol=1e-5)
    np.testing.assert_allclose(by_x, case["dx"], atol=1e-6)
    np.testing.assert_allclose(by_state["high"], case["dhigh"], rtol=2e-5)
    if case["low"]:
        np.testing.assert_allclose(by_state["low"], case["dlow"], rtol=2e-5)
    learned = METHODS["learned"].init(state["low"], state["high"], signed(case["bits"]))
    other = outcome("learned", learned, case, signed(case["bits"], nonnegative=case["low"] == 0.0))[1]["scale"]
    steps = 2 ** case["bits"] - 1
    assert abs(float(other) / steps - case["dhigh"]) > 1e-4 * abs(case["dhigh"])  # LSQ's rounding term is gone


def test_lsq_trains_the_scale_alone_and_lsq_plus_the_zero_point_too() -> None:
    case = GOLDEN["pact"][3]
    state = METHODS["lsq"].init(f32(-1.0), f32(5.375), signed(8))
    lsq, plus = (outcome(name, state, case, signed(8))[1] for name in ("lsq", "lsq+"))
    assert float(lsq["zero_point"]) == 0.0 != float(plus["zero_point"])
    assert float(lsq["scale"]) == float(plus["scale"]) != 0.0


def test_tqt_scales_are_powers_of_two_at_every_threshold() -> None:
    thresholds = jnp.log2(f32(np.geomspace(1e-3, 1e3, 101)))
    scales = jax.jit(jax.vmap(lambda t: METHODS["tqt"].forward({"log2_threshold": t}, signed(8)).scale))(thresholds)
    mantissas = np.frexp(np.asarray(scales))[0]
    np.testing.assert_array_equal(mantissas, 0.5)
    assert np.isnan(METHODS["tqt"].forward({"log2_threshold": f32(np.nan)}, signed(8)).scale)


def test_every_method_has_a_name_in_recipes_and_in_plans() -> None:
    assert sorted(get_args(recipe.Ranges)) == list(METHODS) == list(RANGES)
    assert set(get_args(recipe.TrainedRanges)) == METHODS.keys() - {"ema"}


# --- states in any pytree --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", METHODS)
def test_a_range_of_any_method_is_found_and_moves_by_its_own_rate(method: str) -> None:
    state = METHODS[method].init(f32(-1.0), f32(3.0), signed(8))
    assert is_range(state) and method_of(state) is not None
    params = {"w": jnp.ones((2, 2)), "deep": ({"x": state},)}
    tx = partition(optax.sgd(0.0), optax.sgd(0.1))
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = tx.update(gradients, tx.init(params), params)
    moved: Any = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(moved["w"], params["w"])
    (key, *_) = sorted(METHODS[method].keys - {"observed", "zero_point"})
    assert 0.0 < abs(float(moved["deep"][0]["x"][key] - state[key])) < 2.0


KINDS = {
    "asymmetric": signed(8),
    "nonnegative": signed(8, nonnegative=True),
    "symmetric": signed(8, symmetric=True),
    "16 bits": signed(16, symmetric=True),
}


def numpy_parameters(method: str, low: float, high: float, grid: Grid) -> tuple[float, float]:
    """Scale and zero point of a grid that covers [low, high] and zero."""
    bound = max(-low, high)
    if method == "tqt":
        return 2.0 ** np.ceil(np.log2(bound)) / ((grid.qmax + 1) * (1 + grid.nonnegative)), -128.0 * grid.nonnegative
    if grid.symmetric:
        return bound / grid.qmax, 0.0
    scale = (high - low) / 255
    return scale, float(np.rint(-128 - low / scale))


@pytest.mark.parametrize("first", [(-4.0, 4.0), (-9.0, 2.0)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["clip", "ema", "learned", "tqt"])
def test_while_observing_a_range_of_any_method_follows_on_its_grid(
    method: str, kind: str, first: tuple[float, float]
) -> None:
    grid, pairs = KINDS[kind], [first, (-5.0, 7.0), (-0.5, 20.0)]
    if grid.nonnegative:
        pairs = [(0.0, high) for _, high in pairs]
    seen = [(-max(-a, b), max(-a, b)) if grid.symmetric else (a, b) for a, b in pairs]  # as the simulation reports it
    low, high = map(f32, first if not grid.nonnegative else pairs[0])
    state: Any = METHODS[method].init(low, high, grid)
    tx = partition(optax.sgd(0.0), optax.sgd(0.1), observe=5)
    moments: Any = tx.init(state)
    for step, pair in enumerate(seen[1:], 2):
        gradient: Any = {**jax.tree.map(jnp.zeros_like, state), "observed": state["observed"] - f32(pair)}
        updates, moments = tx.update(gradient, moments, state)
        state = optax.apply_updates(state, updates)
        scale, zero_point = METHODS[method].forward(state, grid)
        least, greatest = np.mean(seen[:step], axis=0)
        wanted = numpy_parameters(method, least, greatest, grid)
        if method == "tqt" and not (grid.symmetric or grid.nonnegative):
            wanted = wanted[0], 0.0
        np.testing.assert_allclose(scale, wanted[0], rtol=2e-6)
        assert float(zero_point) == wanted[1]


# --- whole models ----------------------------------------------------------------------------------------------------

X = np.random.default_rng(3).normal(size=(16, 6)).astype(np.float32)
RULES = [
    {"match": "layers/0/*", "ranges": "tqt"},
    {"match": "layers/2/*", "ranges": "clip"},
    {"match": "layers/4/*", "ranges": "lsq"},
]


def quantized(**fields: Any) -> Any:
    rngs = nnx.Rngs(0)
    layers = [nnx.Linear(6, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 8, rngs=rngs), nnx.relu, nnx.Linear(8, 3, rngs=rngs)]
    q = jaxq.quantize(nnx.Sequential(*layers, nnx.Linear(3, 2, rngs=rngs)), fields, X[:1])
    jaxq.calibrate(q, [X], progress=False)
    return q


def test_methods_by_rule_train_and_the_file_is_exact() -> None:
    q = quantized(rules=RULES)
    states = {name: sorted(r) for name, r in q.pure_ranges().items()}
    assert states["layers/0/kernel:out"] == ["log2_threshold", "observed"]
    assert states["layers/2/kernel:out"] == ["high", "low", "observed"]
    assert "learned power of two (TQT)" in str(q.plan) and "learned ends (PACT)" in str(q.plan)
    before = q.pure_ranges()
    optimizer = nnx.Optimizer(q, partition(optax.adam(1e-3), optax.adam(5e-2)), wrt=nnx.Param)
    for _ in range(2):
        optimizer.update(q, nnx.grad(lambda m: jnp.mean((m(X) - 1.0) ** 2))(q))
    after = q.pure_ranges()
    for site, key in (("0", "log2_threshold"), ("2", "high"), ("4", "scale")):
        assert float(before[f"layers/{site}/kernel:out"][key]) != float(after[f"layers/{site}/kernel:out"][key])
    artifact = jaxq.export.to_tflite(q, verify=X)
    assert artifact.certificate is not None and artifact.certificate.ok
    scale = artifact.manifest["ranges"]["layers/0/kernel:out"]["scale"]
    assert np.frexp(scale)[0] == 0.5


@pytest.mark.parametrize(("activations", "qmax"), [({"bits": 16}, 32767), ({"symmetric": True}, 127)], ids=str)
def test_an_observing_step_keeps_the_grid_of_a_symmetric_model(activations: dict[str, Any], qmax: int) -> None:
    kernel = np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32)
    q = jaxq.quantize(lambda p, x: x @ p, {"activations": {**activations, "observe": True}}, kernel, X[:1])
    before: Any = jaxq.calibrate(q, [X], kernel, q.init(kernel), progress=False)
    gradient = jax.grad(lambda ranges: jnp.mean(q.apply(kernel, ranges, 0.5 * X) ** 2))(before)
    tx = partition(optax.sgd(0.0), optax.sgd(0.0), observe=2)
    after: Any = optax.apply_updates(before, tx.update(gradient, tx.init(before), before)[0])
    state, scale = after["fully_connected"], float(before["fully_connected"]["scale"])
    np.testing.assert_allclose(state["scale"], 0.75 * scale, rtol=0.02)  # the mean of calibration and half of it
    np.testing.assert_allclose(state["scale"], np.abs(state["observed"]).max() / qmax, rtol=1e-6)
    assert float(state["zero_point"]) == 0.0


def test_a_checkpoint_of_three_keys_loads() -> None:
    """The form of jaxq before methods declared their states: scale, zero_point and observed for every range."""
    q = quantized()
    old = {n: {k: r[k] for k in ("scale", "zero_point", "observed")} for n, r in q.pure_ranges().items()}
    fresh = jaxq.quantize(q.model, {}, X[:1])
    fresh.set_ranges(old)
    np.testing.assert_array_equal(fresh(X), q(X))
