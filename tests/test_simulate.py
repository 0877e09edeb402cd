"""The training forward under JAX's transformations, its gradients, others' numbers, and resuming."""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxq
import jaxq.export
from jaxq.graph import Op
from jaxq.numerics.rounding import (
    clip_ste,
    fake_quant,
    fake_quant_min_max,
    round_ste,
    scale_and_zero_point,
    true_divide,
)
from jaxq.ops import integer_ops
from tests.promotion import promoting_updates
from tests.zoo import ZOO, proof_of

GOLDEN = Path(__file__).parent / "golden"
NETWORKS = ("separable", "squeeze_excite", "two_inputs")


def quantized(name: str, recipe: str | Mapping[str, Any] = "int8") -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
    """A calibrated network of the zoo, and arguments to call it with."""
    case = ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return qmodel, *case.first(8)


shared = functools.cache(quantized)  # for tests that change nothing


def assert_trees_equal(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


# --- transformations ----------------------------------------------------------------------------------------


def pure(qmodel: Any) -> tuple[Any, Any]:
    """The forward as a pure function `f(state, args, kwargs)`, and its state."""
    graphdef, state = nnx.split(qmodel)
    return lambda state, args, kwargs: nnx.merge(graphdef, state)(*args, **kwargs), state


TRANSFORMS = {
    "jit": lambda f: jax.jit(f),
    "checkpoint": lambda f: jax.checkpoint(f),
    "jit of checkpoint": lambda f: jax.jit(jax.checkpoint(f)),
    "vmap": lambda f: lambda args, kwargs: jax.vmap(lambda a, k: one(f, a, k))(args, kwargs),
}


def one(f: Any, args: Any, kwargs: Any) -> Any:
    """`f` on one example, without its batch axis."""
    with_batch = jax.tree.map(lambda a: a[None], (args, kwargs))
    return jax.tree.map(lambda y: y[0], f(*with_batch))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_transformed_forwards_agree_bitwise(name: str, transform: str) -> None:
    qmodel, args, kwargs = shared(name)
    f, state = pure(qmodel)
    transformed = TRANSFORMS[transform](functools.partial(f, state))
    assert_trees_equal(transformed(args, kwargs), qmodel(*args, **kwargs))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_quantized_module_is_closed_over_like_any_other(name: str, transform: str) -> None:
    """`jax.jit(lambda x: model(x))` works on a Flax module that keeps no state, and so on a quantized one."""
    qmodel, args, kwargs = shared(name)
    transformed = TRANSFORMS[transform](lambda args, kwargs: qmodel(*args, **kwargs))
    assert_trees_equal(transformed(args, kwargs), qmodel(*args, **kwargs))


@pytest.mark.parametrize("name", NETWORKS)
def test_an_nnx_jit_agrees_and_changes_no_state(name: str) -> None:
    qmodel, args, kwargs = quantized(name)
    plain, before = qmodel(*args, **kwargs), jax.tree.map(jnp.array, nnx.state(qmodel))
    assert_trees_equal(nnx.jit(lambda m, a, k: m(*a, **k))(qmodel, args, kwargs), plain)
    assert_trees_equal(nnx.state(qmodel), before)


def gradients(f: Any, state: Any, args: Any, kwargs: Any) -> Any:
    def loss(state: Any) -> jax.Array:
        outputs = jax.tree.leaves(f(state, args, kwargs))
        weights = [jnp.cos(jnp.arange(y.size, dtype=jnp.float32)).reshape(y.shape) for y in outputs]
        return sum((jnp.sum(y * w) for y, w in zip(outputs, weights, strict=True)), jnp.float32(0.0))

    return jax.grad(loss)(state)


@pytest.mark.parametrize("transform", ["jit", "checkpoint"])
def test_transformed_gradients_agree(transform: str) -> None:
    qmodel, args, kwargs = shared("separable")
    f, state = pure(qmodel)
    through = {
        "jit": lambda: jax.jit(functools.partial(gradients, f))(state, args, kwargs),
        "checkpoint": lambda: gradients(jax.checkpoint(f), state, args, kwargs),
    }
    for a, b in zip(
        jax.tree.leaves(through[transform]()), jax.tree.leaves(gradients(f, state, args, kwargs)), strict=True
    ):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.max(jnp.abs(b))))


@pytest.mark.parametrize(
    "recipe", ["int8", {"weights": {"ranges": "learned"}}, {"weights": {"per_channel": False}}], ids=str
)
@pytest.mark.parametrize("name", ["separable", "two_inputs"])
def test_gradients_reach_weights_biases_and_ranges(name: str, recipe: str | Mapping[str, Any]) -> None:
    qmodel, args, kwargs = shared(name) if recipe == "int8" else quantized(name, recipe)
    f, state = pure(qmodel)
    found = nnx.to_pure_dict(jax.jit(functools.partial(gradients, f))(state, args, kwargs))
    assert all(np.all(np.isfinite(g)) for g in jax.tree.leaves(found))
    parameters = nnx.to_pure_dict(nnx.state(qmodel.model, nnx.Param))
    for path, _ in jax.tree_util.tree_leaves_with_path(parameters):
        gradient = functools.reduce(lambda node, key: node[key.key], path, found["model"])
        assert np.any(gradient != 0.0), jax.tree_util.keystr(path)
    for site, gradient in found["ranges"].items():
        group = qmodel.plan.groups.get(site)
        learned = group is None or group.scheme.ranges == "learned"  # no group: a weight's range
        assert np.any(gradient["scale"] != 0.0) == learned, site
        free = group is not None and learned and not group.nonnegative
        assert free or gradient["zero_point"] == 0.0, site


def test_a_clipped_tensor_moves_its_zero_point() -> None:
    """Where numbers leave the range, LSQ+ moves the zero point (its gradient inside the range is none)."""
    qmodel, args, kwargs = quantized("series")
    ranges = qmodel.pure_ranges()
    groups = qmodel.plan.groups.items()
    free = [name for name, group in groups if group.scheme.ranges == "learned" and not group.nonnegative]
    assert free
    qmodel.set_ranges({name: {**ranges[name], "scale": ranges[name]["scale"] * 0.5} for name in free})
    f, state = pure(qmodel)
    found = nnx.to_pure_dict(gradients(f, state, args, kwargs))["ranges"]
    assert {name: bool(found[name]["zero_point"] != 0.0) for name in free} == dict.fromkeys(free, True)


def test_frozen_ranges_have_no_gradient() -> None:
    qmodel, args, kwargs = quantized("series", {"activations": {"ranges": "frozen"}})
    f, state = pure(qmodel)
    found = nnx.to_pure_dict(gradients(f, state, args, kwargs))["ranges"]
    assert all(np.all(g == 0.0) for g in jax.tree.leaves(found))


@pytest.mark.parametrize("name", ["grouped", "separable", "positions", "scaled_same"])
def test_bfloat16_carriers_give_the_same_integers(name: str) -> None:
    case = ZOO[name]()
    artifacts = [
        jaxq.export.to_tflite(quantized(name, {"carrier": carrier})[0], progress=False)
        for carrier in ("float32", "bfloat16")
    ]
    assert artifacts[0].data == artifacts[1].data
    wide, narrow = (proof_of(artifact).forward(case.arrays)[0] for artifact in artifacts)
    assert_trees_equal(wide, narrow)


class Stream(nnx.Module):
    """A residual stream, normalized again and again: each block reads it several times."""

    def __init__(self, depth: int) -> None:
        self.depth = depth

    def __call__(self, x: jax.Array) -> jax.Array:
        for _ in range(self.depth):
            centred = x - x.mean(-1, keepdims=True)
            x = centred + jnp.abs(centred).mean(-1, keepdims=True) * 0.5
        return x


def instructions(depth: int) -> int:
    """What XLA makes of a gradient through the stream."""
    x = jnp.linspace(-1, 1, 64)[None]
    qmodel = jaxq.quantize(Stream(depth), "int8", x)
    jaxq.calibrate(qmodel, [x], progress=False)
    text = jax.jit(jax.grad(lambda x: qmodel(x).sum())).lower(x).compile().as_text()
    assert text is not None
    return text.count(" = ")


def test_a_step_holds_operands_and_sums_between_the_passes() -> None:
    """Of a layer its operand, its sums and what tanh reads. Without decision 008 eight, and three masks."""
    x = jnp.ones((64, 32))
    params = [jnp.eye(32) * 0.5] * 4
    q = jaxq.quantize(lambda p, x: functools.reduce(lambda x, w: jnp.tanh(x @ w), p, x), "int8", params, x)
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x), progress=False)
    held = jax.eval_shape(lambda *args: jax.vjp(lambda p, r: q.apply(p, r, x), *args)[1], params, ranges)
    arrays = [a.dtype for a in jax.tree.leaves(held) if a.shape == x.shape]
    assert arrays == [jnp.float32] * (4 * 3)


def test_a_deep_stream_compiles_to_instructions_in_proportion() -> None:
    """Twice the depth was 2.6 times the instructions, and soon four times, when each reader computed the stream."""
    assert instructions(8) < 2.1 * instructions(4)


# --- the numbers of others ----------------------------------------------------------------------------------


def golden(library: str, *groups: str) -> list[Any]:
    """The named groups of one library's cases, each case an argument of a test."""
    stored = json.loads((GOLDEN / f"fake_quant_{library}.json").read_text("utf-8"))
    return [pytest.param(case, id=f"{library} {group} {case['name']}") for group in groups for case in stored[group]]


def f32(numbers: Any) -> jax.Array:
    return jnp.asarray(numbers, jnp.float32)


def along(case: Mapping[str, Any], numbers: Any) -> jax.Array:
    """A scale, zero point or bound as it broadcasts against the case's x."""
    rank = np.ndim(case["x"])
    if case["axis"] is None:
        return f32(numbers).reshape(())
    shape = [1] * rank
    shape[case["axis"]] = -1
    return f32(numbers).reshape(shape)


def torch_call(case: Mapping[str, Any]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`y` and the gradients of `sum(g * y)` for x, scale and zero point."""
    arguments = f32(case["x"]), along(case, case["scale"]), along(case, case["zero_point"])
    y, pull = jax.vjp(lambda x, s, z: fake_quant(x, s, z, case["qmin"], case["qmax"]), *arguments)
    return y, pull(f32(case["g"]))


@pytest.mark.parametrize("case", golden("torch", "plain", "learnable", "ties", "band"))
def test_values_and_input_gradients_are_pytorchs(case: Mapping[str, Any]) -> None:
    """The same numbers get a gradient: PyTorch's but for the last bit, as it is `g * s * (1 / s)`."""
    y, (dx, _, _) = torch_call(case)
    np.testing.assert_array_equal(y, f32(case["y"]))
    np.testing.assert_array_equal(dx != 0.0, f32(case["dx"]) != 0.0)
    np.testing.assert_allclose(dx, f32(case["dx"]), rtol=2.0**-22, atol=0.0)


@pytest.mark.parametrize("case", golden("torch", "learnable", "ties", "band"))
def test_range_gradients_are_pytorchs(case: Mapping[str, Any]) -> None:
    _, (_, ds, dz) = torch_call(case)
    factor = jnp.float32(case["grad_factor"])
    for ours, theirs in ((ds, f32(case["ds"])), (dz, f32(case["dz"]))):
        # Sums of the same numbers in another order: they differ by ulps of the largest, not of what is left of it.
        ulps = 4 * np.finfo(np.float32).eps * np.max(np.abs(theirs))
        np.testing.assert_allclose(ours.reshape(-1) * factor, theirs, rtol=2e-5, atol=ulps)


@pytest.mark.parametrize("run", golden("torch", "moving_average"))
def test_ranges_from_moving_extremes_are_pytorchs(run: Mapping[str, Any]) -> None:
    for step in run["steps"]:
        shaped = {**run, "x": step["x"]}
        scale, zero_point = along(shaped, step["scale"]), along(shaped, step["zero_point"])
        if not run["symmetric"]:
            ends = along(shaped, step["min"]), along(shaped, step["max"])
            found_scale, found_zero_point = scale_and_zero_point(*ends, run["qmin"], run["qmax"])
            np.testing.assert_allclose(found_scale, scale, rtol=1e-5)
            np.testing.assert_array_equal(found_zero_point, zero_point)
        y = fake_quant(f32(step["x"]), scale, zero_point, run["qmin"], run["qmax"])
        np.testing.assert_array_equal(y, f32(step["y"]))


def tf_call(case: Mapping[str, Any]) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """`y` and the gradients of `sum(g * y)` for x, min and max."""
    arguments = f32(case["x"]), along(case, case["min"]), along(case, case["max"])
    y, pull = jax.vjp(
        lambda x, low, high: fake_quant_min_max(x, low, high, case["num_bits"], case["narrow_range"]),
        *arguments,
    )
    return y, pull(f32(case["g"]))


@pytest.mark.parametrize("case", golden("tf", "per_tensor", "per_channel", "band"))
def test_values_are_tensorflows(case: Mapping[str, Any]) -> None:
    np.testing.assert_allclose(tf_call(case)[0], f32(case["y"]), rtol=0.0, atol=1e-6)


@pytest.mark.parametrize("case", golden("tf", "ties"))
def test_ties_are_within_a_level_of_tensorflows(case: Mapping[str, Any]) -> None:
    """TensorFlow rounds half up, jaxq half to even: they differ by one level at every other tie."""
    levels = np.abs(np.asarray(tf_call(case)[0]) - np.asarray(case["y"], np.float32)) / case["scale"]
    assert set(levels.tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("case", golden("tf", "per_tensor", "per_channel", "ties", "band"))
def test_gradients_are_tensorflows(case: Mapping[str, Any]) -> None:
    _, (dx, low, high) = tf_call(case)
    np.testing.assert_array_equal(dx, f32(case["dx"]))
    np.testing.assert_allclose(low.reshape(-1), f32(case["dmin"]).reshape(-1), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(high.reshape(-1), f32(case["dmax"]).reshape(-1), rtol=1e-5, atol=1e-5)


# --- properties of the arithmetic ---------------------------------------------------------------------------

SEEDS = st.integers(0, 2**32 - 1)
SCALES = st.floats(2.0**-20, 2.0**10, width=32)
ZERO_POINTS = st.integers(-128, 127)
quick = settings(max_examples=60, deadline=None)


def reals(seed: int, scale: float, n: int = 256) -> jax.Array:
    """Numbers within 400 steps of zero, some of them ties and grid points."""
    rng = np.random.default_rng(seed)
    steps = np.where(rng.random(n) < 0.25, rng.integers(-400, 400, n) / 2.0, rng.uniform(-400.0, 400.0, n))
    return f32(steps * scale)


@jax.jit
def on_grid(r: jax.Array, scale: jax.Array, zero_point: jax.Array) -> jax.Array:
    return fake_quant(r, scale, zero_point)


@quick
@given(SEEDS, SCALES, ZERO_POINTS)
def test_the_error_is_half_a_step_inside_the_range(seed: int, scale: float, zero_point: int) -> None:
    r = reals(seed, scale)
    y = on_grid(r, f32(scale), f32(zero_point))
    inside = (r >= (-128 - zero_point) * scale) & (r <= (127 - zero_point) * scale)
    error = np.abs(np.float64(y) - np.float64(r))
    assert np.all(error[np.asarray(inside)] <= scale * (0.5 + 2.0**-14))


@quick
@given(SEEDS, SCALES, ZERO_POINTS)
def test_quantizing_twice_is_quantizing_once(seed: int, scale: float, zero_point: int) -> None:
    once = on_grid(reals(seed, scale), f32(scale), f32(zero_point))
    np.testing.assert_array_equal(on_grid(once, f32(scale), f32(zero_point)), once)


@quick
@given(SEEDS, SCALES, ZERO_POINTS)
def test_quantization_keeps_order_bounds_and_zero(seed: int, scale: float, zero_point: int) -> None:
    r = jnp.sort(reals(seed, scale).at[0].set(0.0))
    y = np.asarray(on_grid(r, f32(scale), f32(zero_point)))
    assert np.all(np.diff(y) >= 0.0)
    assert np.all(y[np.asarray(r) == 0.0] == 0.0)
    low, high = (
        np.float32(-128 - zero_point) * np.float32(scale),
        np.float32(127 - zero_point) * np.float32(scale),
    )
    assert y.min() >= low and y.max() <= high


@quick
@given(SEEDS, SCALES, ZERO_POINTS)
def test_levels_are_whole_steps(seed: int, scale: float, zero_point: int) -> None:
    y = np.asarray(on_grid(reals(seed, scale), f32(scale), f32(zero_point)))
    levels = np.rint(np.float64(y) / scale)
    np.testing.assert_array_equal((levels * np.float64(np.float32(scale))).astype(np.float32), y)
    assert levels.min() >= -128 - zero_point and levels.max() <= 127 - zero_point


@quick
@given(st.floats(-1e6, 1e6, width=32), st.floats(-1e6, 1e6, width=32))
def test_a_range_holds_its_ends_and_zero(low: float, high: float) -> None:
    low, high = min(low, high), max(low, high)
    scale, zero_point = (np.asarray(a) for a in scale_and_zero_point(f32(low), f32(high)))
    assert scale > 0.0 and zero_point == np.rint(zero_point) and -128 <= zero_point <= 127
    step = float(scale) * (1.0 + 1e-5)
    assert (-128 - zero_point) * step <= min(low, 0.0) + 0.5 * step
    assert (127 - zero_point) * step >= max(high, 0.0) - 0.5 * step


@jax.jit
def divided(a: jax.Array, b: jax.Array) -> jax.Array:
    return true_divide(a, b)


divided_by_one = jax.jit(jax.vmap(true_divide, in_axes=(0, None)))


@quick
@given(SEEDS, st.floats(2.0**-60, 2.0**60, width=32))
def test_true_division_is_numpys(seed: int, divisor: float) -> None:
    rng = np.random.default_rng(seed)
    a = (rng.standard_normal(4096) * 10.0 ** rng.uniform(-6, 6, 4096)).astype(np.float32)
    b = (np.exp(rng.uniform(-6, 6, 4096))).astype(np.float32)
    np.testing.assert_array_equal(divided(a, np.float32(divisor)), a / np.float32(divisor))
    np.testing.assert_array_equal(divided(a, b), a / b)
    np.testing.assert_array_equal(true_divide(jnp.asarray(a), f32(divisor)), a / np.float32(divisor))
    np.testing.assert_array_equal(
        divided_by_one(a.reshape(64, 64), np.float32(divisor)), a.reshape(64, 64) / np.float32(divisor)
    )


@quick
@given(SEEDS)
def test_clipping_hands_its_gradient_to_x_inside_and_to_the_bound_outside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    x, low, high = f32(rng.integers(-9, 10, 64)), jnp.float32(-5.0), jnp.float32(6.0)
    g = f32(rng.integers(-8, 9, 64))
    y, pull = jax.vjp(clip_ste, x, low, high)
    dx, dlow, dhigh = pull(g)
    np.testing.assert_array_equal(y, jnp.clip(x, low, high))
    np.testing.assert_array_equal(dx, jnp.where((x >= low) & (x <= high), g, 0.0))
    assert dlow == jnp.sum(jnp.where(x < low, g, 0.0))
    assert dhigh == jnp.sum(jnp.where(x > high, g, 0.0))


def test_rounding_is_half_to_even_with_gradient_one() -> None:
    x = f32([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5, 0.49999997])
    y, pull = jax.vjp(round_ste, x)
    np.testing.assert_array_equal(y, [-2.0, -2.0, 0.0, 0.0, 2.0, 2.0, 0.0])
    np.testing.assert_array_equal(pull(x)[0], x)


# --- law 6: resuming ----------------------------------------------------------------------------------------


def optimizer_of(qmodel: Any) -> nnx.Optimizer:
    tx = promoting_updates(jaxq.optim.partition(optax.adamw(1e-3), freeze=7))
    return nnx.Optimizer(qmodel, tx, wrt=nnx.Param)


@nnx.jit
def train_step(qmodel: Any, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> None:
    optimizer.update(qmodel, nnx.grad(lambda m: jnp.mean(jnp.square(m(x) - y)))(qmodel))


def train(qmodel: Any, optimizer: nnx.Optimizer, first: int, last: int) -> None:
    x = jnp.asarray(ZOO["separable"]().args[0])
    target = jax.random.normal(jax.random.key(0), (64, 10))
    for i in range(first, last):
        rows = slice(8 * (i % 8), 8 * (i % 8) + 8)
        train_step(qmodel, optimizer, x[rows], target[rows])


def state_of(qmodel: Any, optimizer: nnx.Optimizer) -> dict[str, Any]:
    """What a training run saves."""
    return {"model": nnx.to_pure_dict(nnx.state(qmodel)), "optimizer": nnx.to_pure_dict(nnx.state(optimizer))}


def restore(qmodel: Any, optimizer: nnx.Optimizer, stored: Mapping[str, Any]) -> None:
    for node, values in ((qmodel, stored["model"]), (optimizer, stored["optimizer"])):
        state = nnx.state(node)
        nnx.replace_by_pure_dict(state, values)
        nnx.update(node, state)


def saved_and_loaded(path: Path, tree: Any, like: Any) -> Any:
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path, tree)
        checkpointer.wait_until_finished()
        return checkpointer.restore(path, jax.tree.map(ocp.utils.to_shape_dtype_struct, like))


def test_saving_and_loading_between_steps_changes_no_bit(tmp_path: Path) -> None:
    through, _, _ = quantized("separable")
    optimizer = optimizer_of(through)
    train(through, optimizer, 0, 5)
    middle = jax.tree.map(np.array, state_of(through, optimizer))
    train(through, optimizer, 5, 10)

    case = ZOO["separable"]()
    resumed = jaxq.quantize(case.model, "int8", case.args[0][:1])  # not calibrated: its ranges come from the checkpoint
    again = optimizer_of(resumed)
    restore(resumed, again, saved_and_loaded(tmp_path / "state", middle, state_of(resumed, again)))
    assert_trees_equal(state_of(resumed, again), middle)
    train(resumed, again, 5, 10)
    assert_trees_equal(state_of(resumed, again), state_of(through, optimizer))


def test_a_float_checkpoint_loads_into_the_quantized_model(tmp_path: Path) -> None:
    case = ZOO["separable"]()
    trained = jax.tree.map(lambda a: a * jnp.float32(1.01), nnx.state(case.model))
    fresh, x = ZOO["separable"]().model, case.args[0]
    qmodel = jaxq.quantize(fresh, "int8", x[:1])
    stored = saved_and_loaded(tmp_path / "float", trained, nnx.state(qmodel.model))
    nnx.update(qmodel.model, stored)
    nnx.update(case.model, trained)
    assert_trees_equal(nnx.state(qmodel.model), trained)
    np.testing.assert_array_equal(qmodel.model(x), case.model(x))  # pyright: ignore[reportCallIssue]
    jaxq.calibrate(qmodel, [x], progress=False)
    assert jaxq.export.to_tflite(qmodel, progress=False).data


def test_the_multiplier_of_a_mean_is_not_taken_apart() -> None:
    """A tie from MobileNetV3: XLA cancelled 49 against its reciprocal, and one integer of 576 came out a step off."""
    s_x, s_y, z_x, z_y = np.float32(0.053642019629478455), np.float32(0.014177359640598297), -121, -104
    q = np.zeros((1, 7, 7, 1), np.float32)
    q[0, :3, 0, 0] = 218  # the sum is 654
    op = Op("MEAN", "mean", (0,), (1,), {"axes": (1, 2), "keepdims": True})

    def steps_of(q: Any, s_x: Any, z_x: Any, s_y: Any, z_y: Any) -> jax.Array:
        return integer_ops.mean(op, integer_ops.Carrier(q, s_x, z_x), scale=s_y, zero_point=z_y)

    numbers = [jnp.float32(n) for n in (s_x, z_x, s_y, z_y)]
    ratio = (s_x / s_y) * (np.float32(1) / np.float32(49))
    zeros = np.float32(49 * z_x)
    exact = np.rint((np.float32(654) + zeros) * ratio + (np.float32(z_y) - zeros * ratio)) - z_y
    assert exact == 50
    assert float(steps_of(jnp.asarray(q), *numbers)[0, 0, 0, 0]) == exact
    assert float(jax.jit(steps_of)(jnp.asarray(q), *numbers)[0, 0, 0, 0]) == exact
