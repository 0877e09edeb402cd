"""`Recipe(backward=...)`: the training forward keeps its bits and the file its proof; gradients are of integers."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxq
from jaxq import Recipe
from jaxq.errors import RangeError, UnmatchedRuleError
from jaxq.frontends.ranges import check_ranges
from jaxq.int8 import Backward, BackwardRule


class Net(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.depthwise(jax.nn.relu(self.conv(x))))
        return self.head(x.mean((1, 2)))


X = np.random.default_rng(0).normal(size=(6, 6, 6, 3)).astype(np.float32)
Y = np.arange(6) % 5


def made(backward: Backward | None) -> Any:
    model = jaxq.quantize(Net(), Recipe(backward=backward), X[:1])
    jaxq.calibrate(model, [X])
    return model


@nnx.jit
def loss_and_gradients(model: Any) -> Any:
    return nnx.value_and_grad(lambda m: optax.softmax_cross_entropy_with_integer_labels(m(X), Y).mean())(model)


def flat(gradients: Any) -> np.ndarray:
    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(gradients["model"])])


def test_the_forward_keeps_its_bits_and_the_gradient_its_direction():
    floats, ints = made(None), made(Backward(stochastic=False))
    np.testing.assert_array_equal(floats(X), ints(X))
    (loss_a, a), (loss_b, b) = loss_and_gradients(floats), loss_and_gradients(ints)
    assert loss_a == loss_b
    u, v = flat(a), flat(b)
    assert 0.999 < u @ v / np.sqrt(u @ u * (v @ v)) < 1 - 1e-9
    assert jaxq.export.to_tflite(ints, verify=X).certificate is not None


def test_a_rule_leaves_an_op_in_floats():
    rules = tuple(BackwardRule(name, float=True) for name in ("conv/*", "depthwise/*", "head/*"))
    a, b = loss_and_gradients(made(None))[1], loss_and_gradients(made(Backward(rules=rules)))[1]
    jax.tree.map(np.testing.assert_array_equal, a, b)
    with pytest.raises(UnmatchedRuleError, match="'haed/\\*' of the backward pass matches none of .*head/kernel"):
        made(Backward(rules=(BackwardRule("haed/*", float=True),)))


class LinenNet(linen.Module):
    """The same."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(linen.Conv(8, (3, 3), name="conv")(x))
        x = jax.nn.relu(linen.Conv(8, (3, 3), feature_group_count=8, name="depthwise")(x))
        return linen.Dense(5, name="head")(x.mean((1, 2)))


def net(params: Any, x: jax.Array) -> jax.Array:
    """The same as a function."""
    return cast(jax.Array, LinenNet().apply({"params": params}, x))


RULES = BackwardRule("head/*", scheme="adaptive", bits=4), BackwardRule("d*", scheme="row")
MIXED = Backward(scheme="unified", rules=RULES)
SITES = {
    "conv/kernel:gradient": {"clip": (2,), "deviation": ()},
    "head/kernel:gradient": {"channel": (5,), "deviation": ()},
}


def states(ranges: Any) -> dict[str, Any]:
    return {name: dict(state) for name, state in ranges.items() if name.endswith(":gradient")}


def test_schemes_with_a_state_hold_it_among_the_ranges_and_keep_the_forward() -> None:
    """By rules: one unified, one adaptive, one without a state. What a step finds is the state's next value."""
    floats, ints = made(None), made(MIXED)
    assert jax.tree.map(np.shape, states(ints.pure_ranges())) == SITES
    assert "gradients with a state (2)\n  conv/kernel:gradient: unified" in str(ints.plan)
    (loss, wanted), (same, found) = loss_and_gradients(floats), loss_and_gradients(ints)
    assert loss == same
    u, v = flat(wanted), flat(found)
    assert u @ v / np.sqrt(u @ u * (v @ v)) > 0.98
    tx = jaxq.optim.partition(optax.sgd(0.0))
    nnx.Optimizer(ints, tx, wrt=nnx.Param).update(ints, found)
    moved = states(ints.pure_ranges())
    changes = states({n: {k: x[...] for k, x in r.items()} for n, r in found["ranges"].items()})
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, -b), moved, changes)
    assert (moved["conv/kernel:gradient"]["clip"] > 1).all() and (moved["head/kernel:gradient"]["channel"] > 0).all()


def three() -> dict[str, Any]:
    """Value and gradients of the ranges in the three interfaces."""
    model = made(MIXED)
    params = {n: {k: getattr(getattr(model.model, n), k)[...] for k in ("kernel", "bias")} for n in SHARED}
    ranges = model.pure_ranges()

    def loss(logits: Any) -> Any:
        return optax.softmax_cross_entropy_with_integer_labels(logits, Y).mean()

    module = jaxq.quantize(LinenNet(), Recipe(backward=MIXED), X[:1])
    function = jaxq.quantize(net, Recipe(backward=MIXED), params, X[:1])
    assert states(function.init(params, X)).keys() == states(ranges).keys()
    found = loss_and_gradients(model)
    return {
        "nnx": (found[0], {n: {k: x[...] for k, x in r.items()} for n, r in found[1]["ranges"].items()}),
        "linen": jax.jit(jax.value_and_grad(lambda r: loss(module.apply({"params": params, "ranges": r}, X))))(ranges),
        "function": jax.jit(jax.value_and_grad(lambda r: loss(function.apply(params, r, X))))(ranges),
    }


SHARED = ("conv", "depthwise", "head")


def test_nnx_linen_and_functions_find_the_same_states() -> None:
    found = three()
    for kind in ("linen", "function"):
        jax.tree.map(np.testing.assert_array_equal, found["nnx"], found[kind])


def started() -> tuple[Any, nnx.Optimizer]:
    model = made(MIXED)
    tx = optax.chain(jaxq.optim.partition(optax.adamw(1e-2)), jaxq.optim.scale_by_deviation(alpha=1.0))
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


@nnx.jit
def step(model: Any, optimizer: nnx.Optimizer, x: Any) -> Any:
    loss, gradients = nnx.value_and_grad(lambda m: optax.softmax_cross_entropy_with_integer_labels(m(x), Y).mean())(
        model
    )
    optimizer.update(model, gradients)
    return loss


def test_a_resumed_run_is_bitwise_the_run_that_was_not_interrupted() -> None:
    a, b, resumed = started(), started(), started()
    whole = [float(step(*a, X * (1 + 0.1 * i))) for i in range(4)]
    half = [float(step(*b, X * (1 + 0.1 * i))) for i in range(2)]
    saved = [np.asarray(v) for v in jax.tree.leaves(nnx.state(b))]
    nnx.update(resumed, jax.tree.unflatten(jax.tree.structure(nnx.state(resumed)), saved))
    assert half + [float(step(*resumed, X * (1 + 0.1 * i))) for i in range(2, 4)] == whole
    jax.tree.map(np.testing.assert_array_equal, a[0].pure_ranges(), resumed[0].pure_ranges())
    assert a[0].pure_ranges()["conv/kernel:gradient"]["deviation"] > 0


def test_accumulation_takes_the_maximum_of_states_and_the_deviation_scales_the_rate() -> None:
    model = made(MIXED)
    found = [loss_and_gradients(model)[1], jax.tree.map(lambda g: 0.5 * g, loss_and_gradients(model)[1])]
    params, tx = nnx.state(model, nnx.Param), jaxq.optim.accumulate(jaxq.optim.partition(optax.sgd(1.0)), 2)
    state, updates = tx.init(params), None
    for gradients in found:
        updates, state = tx.update(gradients, state, params)
    name = "conv/kernel:gradient"
    for key in SITES[name]:
        change = cast(Any, updates)["ranges"][name][key][...]
        np.testing.assert_array_equal(change, np.maximum(*(-g["ranges"][name][key][...] for g in found)))
    moved = cast(Any, updates)["model"]["conv"]["kernel"][...]
    np.testing.assert_allclose(moved, -0.75 * found[0]["model"]["conv"]["kernel"][...], rtol=1e-5)
    scaled: Any = jaxq.optim.scale_by_deviation(alpha=1.0).update(cast(Any, updates), optax.EmptyState(), params)[0]
    d = cast(Any, updates)["ranges"][name]["deviation"][...]
    np.testing.assert_allclose(scaled["model"]["conv"]["kernel"][...], moved * np.exp(-d), rtol=1e-6)


def test_calibration_keeps_states_and_a_plan_without_them_refuses_none() -> None:
    model = made(MIXED)
    model.set_ranges({"head/kernel:gradient": {"channel": jnp.arange(1.0, 6.0)}})
    jaxq.calibrate(model, [X], overwrite=True, progress=False)
    np.testing.assert_array_equal(model.pure_ranges()["head/kernel:gradient"]["channel"], np.arange(1.0, 6.0))
    state = {n: r for n, r in model.pure_ranges().items() if n != "head/kernel:gradient"}
    with pytest.raises(RangeError, match=r"1 \(head/kernel:gradient\) have no range here"):
        check_ranges(model.plan, state)
