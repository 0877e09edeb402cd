"""`jaxq.optim.partition`: which leaves are ranges, how they move, when they stand still."""

from __future__ import annotations

import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxq
from jaxq.optim import PartitionState, partition, qat_schedule

WEIGHT = {"kernel": jnp.array([[1.0, -2.0], [0.5, 4.0]], jnp.float32)}
RANGE = {
    "scale": jnp.float32(0.5),
    "zero_point": jnp.float32(-3.0),
    "observed": jnp.array([-62.0, 65.5], jnp.float32),
}
CHANNELS = {
    "scale": jnp.array([0.5, 0.25], jnp.float32),
    "zero_point": jnp.float32(0.0),
    "observed": jnp.zeros(2, jnp.float32),
}
TREES: dict[str, Any] = {
    "nnx": nnx.State({"model": {"dense": WEIGHT}, "ranges": {"dense/kernel:out": RANGE}}),
    "linen": {"params": {"dense": WEIGHT}, "ranges": {"input": RANGE, "dense/kernel": CHANNELS}},
    "tuple": (WEIGHT, {"input": RANGE}),
    "range alone": RANGE,
    "weights alone": WEIGHT,
}


def updated(params: Any, updates: Any) -> Any:
    return optax.apply_updates(params, updates)


def first_update(tx: Any, gradients: Any, params: Any) -> Any:
    return tx.update(gradients, tx.init(params), params)[0]


def constant(tree: Any, number: float) -> Any:
    return jax.tree.map(lambda a: jnp.full_like(a, number), tree)


def moved(range_: dict[str, Any], seconds: list[tuple[float, float]], **options: Any) -> list[dict[str, np.ndarray]]:
    """A range after each step, when a batch's [min, max] are those given: its gradient is `observed - found`."""
    tx = partition(optax.sgd(0.0), optax.sgd(0.1), **options)
    state, found = tx.init(range_), []
    for pair in seconds:
        gradient = {**constant(range_, 1.0), "observed": range_["observed"] - jnp.array(pair, jnp.float32)}
        updates, state = tx.update(gradient, state, range_)
        range_ = updated(range_, updates)
        found.append(jax.tree.map(np.asarray, range_))
    return found


# --- which leaves ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TREES)
def test_any_tree_keeps_its_structure(name: str) -> None:
    params, tx = TREES[name], partition(optax.adamw(1e-2))
    state = tx.init(params)
    updates, state = tx.update(constant(params, 1.0), state, params)
    assert jax.tree.structure(updates) == jax.tree.structure(params)
    new = updated(params, updates)
    assert jax.tree.map(lambda a: (a.shape, a.dtype), new) == jax.tree.map(lambda a: (a.shape, a.dtype), params)
    assert not any(
        bool(jnp.array_equal(a, b)) for a, b in zip(jax.tree.leaves(new), jax.tree.leaves(params), strict=True)
    )


def test_weight_decay_reaches_weights_and_no_range() -> None:
    params, tx = TREES["linen"], partition(optax.adamw(0.1, weight_decay=0.5))
    updates = first_update(tx, constant(params, 0.0), params)
    np.testing.assert_allclose(updates["params"]["dense"]["kernel"], -0.05 * WEIGHT["kernel"], rtol=1e-6)
    assert all(not np.any(leaf) for leaf in jax.tree.leaves(updates["ranges"]))


def test_the_weights_optimizer_sees_no_range() -> None:
    """A gradient of a range does not count in a global norm."""
    params, tx = TREES["tuple"], partition(optax.chain(optax.clip_by_global_norm(1.0), optax.sgd(1.0)))
    gradients = (constant(WEIGHT, 0.25), constant({"input": RANGE}, 1e6))
    updates = first_update(tx, gradients, params)
    np.testing.assert_allclose(updates[0]["kernel"], -0.25, rtol=1e-6)


def test_params_are_needed() -> None:
    tx = partition(optax.sgd(0.1))
    with pytest.raises(ValueError, match=r"needs params: tx.update\(grads, state, params\)"):
        tx.update(RANGE, tx.init(RANGE))


# --- how ranges move ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("range_", [RANGE, CHANNELS], ids=["tensor", "channels"])
def test_scales_move_in_logarithms_and_zero_points_in_parts_of_the_range(range_: dict[str, Any]) -> None:
    gradient = {"scale": 2.0 * range_["scale"], "zero_point": jnp.float32(1e-3), "observed": jnp.zeros(2)}
    tx = partition(optax.sgd(0.0), optax.sgd(0.1))
    updates = first_update(tx, gradient, range_)
    scale = np.asarray(range_["scale"], np.float64)
    np.testing.assert_allclose(scale + updates["scale"], scale * np.exp(-0.1 * (2 * scale) * scale), rtol=1e-6)
    np.testing.assert_allclose(updates["zero_point"], -0.1 * 1e-3 * 255 * 255, rtol=1e-6)


def test_a_scale_stays_positive_and_moves_by_a_factor_of_e_at_most() -> None:
    tx = partition(optax.sgd(0.0), optax.sgd(1.0))
    for gradient, factor in ((1e9, np.exp(-1.0)), (-1e9, np.exp(1.0))):
        updates = first_update(tx, {**constant(RANGE, 0.0), "scale": jnp.float32(gradient)}, RANGE)
        np.testing.assert_allclose(RANGE["scale"] + updates["scale"], 0.5 * factor, rtol=1e-6)


# --- observing and freezing --------------------------------------------------------------------------------------

BATCHES = [(-60.0, 60.0), (-70.0, 50.0), (-10.0, 90.0), (-1.0, 1.0)]


def averages(pairs: list[tuple[float, float]], decay: float) -> list[np.ndarray]:
    """By hand: calibration counts as the first value, the batch of step t weighs max(1 - decay, 1 / (t + 2))."""
    average, found = np.array([-62.0, 65.5]), []
    for step, pair in enumerate(pairs):
        rate = max(1.0 - decay, 1.0 / (step + 2))
        average = (1.0 - rate) * average + rate * np.array(pair)
        found.append(average)
    return found


@pytest.mark.parametrize("decay", [0.99, 0.7])
def test_while_observing_a_range_is_the_moving_average(decay: float) -> None:
    history = moved(RANGE, BATCHES, observe=9, decay=decay)
    for found, (low, high) in zip(history, averages(BATCHES, decay), strict=True):
        np.testing.assert_allclose(found["observed"], [low, high], rtol=1e-5)
        scale = (high - low) / 255
        np.testing.assert_allclose(found["scale"], scale, rtol=1e-5)
        assert found["zero_point"] == np.rint(-128 - low / scale)


def test_at_first_the_average_is_the_plain_mean_of_calibration_and_batches() -> None:
    found = moved(RANGE, BATCHES, observe=9)[-1]["observed"]
    np.testing.assert_allclose(found, np.mean([(-62.0, 65.5), *BATCHES], axis=0), rtol=1e-6)


def test_after_observing_ranges_learn_from_where_they_stand() -> None:
    first, second, third, _ = moved(RANGE, BATCHES, observe=2)
    assert first["scale"] != second["scale"]
    np.testing.assert_allclose(third["scale"], second["scale"] * np.exp(-0.1 * second["scale"]), rtol=1e-6)
    assert not np.array_equal(third["observed"], second["observed"])


def test_a_weights_range_observes_nothing() -> None:
    (found,), scale = moved(CHANNELS, [(0.0, 0.0)], observe=9), np.asarray(CHANNELS["scale"])
    np.testing.assert_allclose(found["scale"], scale * np.exp(-0.1 * scale), rtol=1e-6)
    assert found["zero_point"].shape == ()


@pytest.mark.parametrize("freeze", [0, 2])
def test_from_freeze_on_ranges_stand_still(freeze: int) -> None:
    history = [jax.tree.map(np.asarray, RANGE), *moved(RANGE, BATCHES, freeze=freeze)]
    for before, after in itertools.pairwise(history[freeze:]):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    assert all(a["scale"] != b["scale"] for a, b in itertools.pairwise(history[: freeze + 1]))


def test_weights_go_on_after_freeze() -> None:
    params, tx = TREES["tuple"], partition(optax.sgd(0.1), freeze=0)
    updates = first_update(tx, constant(params, 1.0), params)
    np.testing.assert_allclose(updates[0]["kernel"], -0.1, rtol=1e-6)


# --- state and steps ---------------------------------------------------------------------------------------------


def test_the_state_is_a_pytree_of_arrays() -> None:
    state: Any = partition(optax.adam(1e-3)).init(TREES["linen"])
    leaves, structure = jax.tree.flatten(state)
    assert isinstance(jax.tree.unflatten(structure, leaves), PartitionState)
    assert all(isinstance(leaf, jax.Array) for leaf in leaves)
    assert state.step.dtype == jnp.int32


def test_observing_learning_and_freezing_are_one_compiled_step() -> None:
    params, tx, traced = TREES["linen"], partition(optax.adam(1e-2), observe=2, freeze=4), itertools.count()

    @jax.jit
    def step(params: Any, state: Any) -> Any:
        next(traced)
        updates, state = tx.update(constant(params, 0.1), state, params)
        return updated(params, updates), state

    state: Any = tx.init(params)
    for _ in range(6):
        params, state = step(params, state)
    assert (int(state.step), next(traced)) == (6, 1)


def test_a_quantized_model_in_nnx_and_its_function_take_the_same_step() -> None:
    rng = np.random.default_rng(0)
    w, x = (rng.normal(size=s).astype(np.float32) for s in ((6, 4), (8, 6)))
    model = nnx.Linear(6, 4, use_bias=False, rngs=nnx.Rngs(0))
    model.kernel[...] = jnp.asarray(w)
    recipe = {"activations": {"observe": True}}
    qmodel = jaxq.quantize(model, recipe, x)
    jaxq.calibrate(qmodel, [x / 2], progress=False)
    q = jaxq.quantize(lambda p, x: x @ p["kernel"], recipe, {"kernel": w}, x)
    ranges = jaxq.calibrate(q, [x / 2], {"kernel": w}, q.init({"kernel": w}, x), progress=False)

    optimizer = nnx.Optimizer(qmodel, partition(optax.adam(1e-2), observe=1), wrt=nnx.Param)
    tx, params = partition(optax.adam(1e-2), observe=1), ({"kernel": jnp.asarray(w)}, ranges)
    state = tx.init(params)
    for _ in range(3):
        optimizer.update(qmodel, nnx.grad(lambda m: jnp.sum(m(x) ** 2))(qmodel))
        updates, state = tx.update(jax.grad(lambda p: jnp.sum(q.apply(*p, x) ** 2))(params), state, params)
        params = updated(params, updates)
    np.testing.assert_array_equal(qmodel.model.kernel[...], params[0]["kernel"])
    jax.tree.map(np.testing.assert_array_equal, qmodel.pure_ranges(), params[1])


def test_the_schedule_of_fine_tuning() -> None:
    schedule: Any = qat_schedule(0.5, 100, share=0.02)
    np.testing.assert_allclose(
        [schedule(0), schedule(50), schedule(100), schedule(200)], [1e-2, 5.05e-3, 1e-4, 1e-4], rtol=1e-5
    )
