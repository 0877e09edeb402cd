"""Oscillations of weights: the five properties of one weight in one dimension, and that a frozen weight stays put.

One weight trains on `(w* - q(w))^2 / 2` with a straight-through gradient (Nagel et al. 2022, section 2.2). What it does
is known: see each test. Many weights with one w* each are one kernel here; its first row is the largest of each channel
and does not move, so that the scale is 1.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxq
from jaxq import losses, optim
from jaxq.errors import InputError

STEPS = 6000
WANTED = np.array([0.1, 0.3, 0.45, 0.7, 2.25], np.float32)


def net(params: Any, x: jax.Array) -> jax.Array:
    return x @ params["kernel"]


@functools.cache
def plan() -> Any:
    return jaxq.quantize(net, "int4", {"kernel": np.ones((2, 5), np.float32)}, np.zeros((1, 2), np.float32)).plan


def run(
    rate: float = 0.01, weight: float = 0.0, tx: Any = None, wanted: np.ndarray = WANTED, steps: int = STEPS
) -> tuple[np.ndarray, np.ndarray]:
    """The integers and the weights of each step, [steps, 5]."""
    tx = tx or optax.sgd(rate)
    params = {"kernel": jnp.stack([jnp.full(5, 7.0), jnp.full(5, 0.1)])}

    def gradient(params: Any) -> Any:
        q = jnp.round(params["kernel"]) - jnp.stack([jnp.full(5, 7.0), jnp.asarray(wanted)])
        pull = jax.grad(losses.dampening)(params, plan())["kernel"] * params["kernel"].size
        return {"kernel": q + weight * pull}

    def step(carry: Any, _: Any) -> Any:
        params: Any
        params, state = carry
        updates, state = tx.update(gradient(params), state, params)
        params = optax.apply_updates(params, updates)
        return (params, state), params["kernel"][1]

    _, weights = jax.lax.scan(step, (params, tx.init(params)), None, steps)
    return np.rint(np.asarray(weights)), np.asarray(weights)


def flips(integers: np.ndarray) -> np.ndarray:
    """How often each weight changes its integer in the second half, per step."""
    return np.mean(np.diff(integers[STEPS // 2 :], axis=0) != 0, axis=0)


def test_the_share_of_time_at_the_upper_integer_is_the_fraction_of_the_optimum() -> None:
    integers, weights = run()
    share = np.mean(integers[STEPS // 2 :] > np.floor(WANTED), axis=0)
    np.testing.assert_allclose(share, WANTED % 1, atol=0.01)
    np.testing.assert_allclose(weights[-1], np.floor(WANTED) + 0.5, atol=0.02)  # it sits at the threshold
    np.testing.assert_allclose(flips(integers), 2 * np.minimum(WANTED % 1, 1 - WANTED % 1), atol=0.01)


def test_a_smaller_rate_flips_as_often_and_less_far() -> None:
    (fast, wide), (slow, narrow) = run(0.02), run(0.005)
    np.testing.assert_allclose(flips(fast), flips(slow), atol=0.02)
    assert np.all(np.ptp(wide[STEPS // 2 :], axis=0) > 3 * np.ptp(narrow[STEPS // 2 :], axis=0))


def test_freezing_stops_it_at_the_nearest_integer() -> None:
    settled = optax.piecewise_constant_schedule(1.0, {STEPS // 4: 0.3})  # the average has settled
    tx = optim.freeze_oscillations(optax.sgd(0.01), plan(), threshold=settled)
    integers, weights = run(tx=tx)
    oscillates = 2 * np.minimum(WANTED % 1, 1 - WANTED % 1) > 0.3  # each flip is the other way than the last
    assert oscillates.tolist() == [False, True, True, True, True]
    assert np.all(np.ptp(integers[STEPS // 2 :, oscillates], axis=0) == 0)
    assert np.all(integers[-1, oscillates] == np.rint(WANTED[oscillates]))
    assert np.all(np.ptp(weights[STEPS // 2 :, oscillates], axis=0) == 0)
    assert flips(integers)[0] > 0.1  # w* = 0.1 flips too seldom to be frozen


def test_a_threshold_may_be_a_schedule_of_the_step() -> None:
    late = optax.piecewise_constant_schedule(1.0, {STEPS // 2: 0.02})
    integers, _ = run(tx=optim.freeze_oscillations(optax.sgd(0.01), plan(), threshold=late))
    first, second = integers[STEPS // 4 : STEPS // 2], integers[-STEPS // 4 :]
    assert np.all(np.ptp(first, axis=0) == 1) and np.all(np.ptp(second, axis=0) == 0)


@pytest.mark.parametrize(("weight", "stops"), [(0.1, False), (1.0, True)])
def test_dampening_stops_it_only_where_it_is_strong(weight: float, stops: bool) -> None:
    """`2 lambda / 2` at the threshold against a distance to the grid of 0.3: weak, it only moves the threshold."""
    integers, _ = run(weight=weight, wanted=np.full(5, 0.3, np.float32))
    assert bool(np.all(flips(integers) == 0.0)) is stops


def test_dampening_is_numpys() -> None:
    rng = np.random.default_rng(0)
    k = rng.normal(size=(2, 5)).astype(np.float32)
    steps = 7 * k / np.abs(k).max(0)
    wanted = np.mean((np.rint(steps) - steps) ** 2)
    np.testing.assert_allclose(losses.dampening({"kernel": jnp.asarray(k)}, plan()), wanted, rtol=1e-5)
    gradient = jax.grad(losses.dampening)({"kernel": jnp.asarray(k)}, plan())["kernel"]
    np.testing.assert_allclose(
        gradient, 2 * (steps - np.rint(steps)) * 7 / np.abs(k).max(0) / k.size, rtol=1e-3, atol=1e-5
    )


# --- in models ------------------------------------------------------------------------------------------------------


class Normed(nnx.Module):
    """A convolution whose BatchNorm is folded into it."""

    def __init__(self) -> None:
        self.conv = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=nnx.Rngs(0))
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=nnx.Rngs(1))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.norm(self.conv(x))


@pytest.mark.slow
def test_a_frozen_weight_keeps_its_integer_in_the_file_while_batchnorm_trains() -> None:
    model: Any = Normed()
    x = np.random.default_rng(0).normal(size=(4, 6, 6, 2)).astype(np.float32)
    qmodel = jaxq.quantize(model, "int4", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    tx = optim.freeze_oscillations(optim.partition(optax.adam(0.05)), qmodel.plan, threshold=-1.0)  # freezes at once
    optimizer = nnx.Optimizer(qmodel, tx, wrt=nnx.Param)

    def integers() -> np.ndarray:
        k = np.asarray(model.conv.kernel[...]) * np.asarray(model.norm.scale[...])  # up to a factor of the channel
        return np.rint(7 * k / np.abs(k).max((0, 1, 2)))

    before, gamma = integers(), np.array(model.norm.scale[...])
    for _ in range(3):
        gradients = nnx.grad(lambda m: jnp.mean(m(x) ** 2))(qmodel)
        optimizer.update(qmodel, gradients)
    np.testing.assert_array_equal(integers(), before)
    assert not np.array_equal(gamma, model.norm.scale[...])  # BatchNorm has trained


def test_linen_and_a_run_that_is_resumed() -> None:
    module, x = linen.Dense(3), np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    q = jaxq.quantize(module, "int4", x[:1])
    variables = q.init(jax.random.key(0), x[:1])
    tx = optim.freeze_oscillations(optax.sgd(0.5), q.plan, threshold=0.005)
    params: Any = {"params": variables["params"]}
    state: Any = tx.init(params)
    gradient = jax.tree.map(lambda a: jnp.sin(40 * a), params)
    for _ in range(2):
        updates, state = tx.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    leaves, structure = jax.tree.flatten(state)
    again = jax.tree.unflatten(structure, [np.array(leaf) for leaf in leaves])  # what a checkpoint holds
    for one, other in zip(*(jax.tree.leaves(tx.update(gradient, s, params)) for s in (state, again)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert state.kernels["kernel"].frozen.shape == (2, 3) and int(state.step) == 2


def test_misuse() -> None:
    params = {"kernel": np.ones((2, 5), np.float32)}
    whole = jaxq.quantize(net, {"weights": {"per_channel": False}}, params, np.zeros((1, 2), np.float32)).plan
    with pytest.raises(
        InputError, match="None of the 1 kernels of the plan is quantized per channel with a scale that"
    ):
        optim.freeze_oscillations(optax.sgd(0.1), whole)
    with pytest.raises(InputError, match="none of the plan's 1 kernels .the first is kernel."):
        losses.dampening({"other": jnp.ones((2, 5))}, plan())
    tx = optim.freeze_oscillations(optax.sgd(0.1), plan())
    with pytest.raises(ValueError, match="needs params"):
        tx.update(params, tx.init(params))


def test_the_shares_of_a_state_are_those_of_its_weights() -> None:
    kernel = nnx.Optimizer(Kernel(), optim.freeze_oscillations(optax.sgd(0.01), kernel_plan()), wrt=nnx.Param)
    assert optim.oscillations(kernel.opt_state) == {"oscillating_weights": 0.0, "frozen_weights": 0.0}
    params = {"kernel": jnp.ones((2, 5))}
    state: Any = optim.freeze_oscillations(optax.sgd(0.01), plan()).init(params)
    (site,) = state.kernels
    flips = (
        jnp.zeros((2, 5)).at[1].set(jnp.array([0.0, 0.02, 0.03, 0.5, 0.5]))
    )  # f > 0.02: three, of which one is frozen
    tracked = state.kernels[site]._replace(frequency=flips, frozen=tracked_like(state, site).at[1, 4].set(True))
    found = optim.oscillations({"a": state._replace(kernels={site: tracked})})
    assert found == {"oscillating_weights": pytest.approx(0.2), "frozen_weights": pytest.approx(0.1)}
    assert optim.oscillations({"a": state._replace(kernels={site: tracked})}, frequency=0.4)["oscillating_weights"] == (
        pytest.approx(0.1)
    )
    assert optim.oscillations(optax.adam(0.1).init(params)) == {}


def tracked_like(state: Any, site: str) -> Any:
    return jnp.zeros_like(state.kernels[site].frozen)


class Kernel(nnx.Module):
    def __init__(self) -> None:
        self.kernel = nnx.Param(jnp.ones((2, 5)))

    def __call__(self, x: jax.Array) -> jax.Array:
        return x @ self.kernel[...]


@functools.cache
def kernel_plan() -> Any:
    return jaxq.quantize(Kernel(), "int4", np.zeros((1, 2), np.float32)).plan
