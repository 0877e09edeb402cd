"""BatchNorm that follows: statistics of the quantized network by a moving average, and a forward that stays exact."""

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
from jaxq.errors import RangeError
from jaxq.plan.norms import MEAN, VAR

STEPS, DECAY = 3, 0.9
X = np.random.default_rng(0).normal(0.3, 1.0, (STEPS, 8, 6, 6, 2)).astype(np.float32)
MOMENTUM = optax.sgd(1e-2, momentum=0.9)
SITE = "conv/kernel:norm"


class Net(nnx.Module):
    """A convolution, BatchNorm, ReLU6, a dense layer."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv = nnx.Conv(2, 4, (3, 3), rngs=rngs)
        self.bn = nnx.BatchNorm(4, momentum=DECAY, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)
        rng = np.random.default_rng(1)
        variable: Any
        for variable, numbers in (
            (self.conv.bias, rng.normal(0.0, 0.5, 4)),
            (self.bn.mean, rng.normal(0.0, 0.3, 4)),
            (self.bn.var, rng.uniform(0.3, 2.0, 4)),
            (self.bn.scale, np.array([0.7, -1.1, 0.0, 1.3])),  # a channel that cannot tell its statistics
            (self.bn.bias, rng.normal(0.0, 0.3, 4)),
        ):
            variable[...] = jnp.asarray(numbers, jnp.float32)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jnp.mean(nnx.relu6(self.bn(self.conv(x))), (1, 2)))


def made() -> Any:
    """A new network, the same each time."""
    return Net()


class LinenNet(linen.Module):
    """The same."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = linen.Conv(4, (3, 3), name="conv")(x)
        x = linen.BatchNorm(use_running_average=not train, momentum=DECAY, name="bn")(x)
        return linen.Dense(3, name="head")(jnp.mean(jnp.clip(x, 0.0, 6.0), (1, 2)))


def net(params: Any, x: jax.Array) -> jax.Array:
    """The same, written by hand with another formula of BatchNorm."""
    y = jax.lax.conv_general_dilated(x, params["kernel"], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
    gain = params["gamma"] / jnp.sqrt(params["var"] + 1e-5)
    y = (y + params["c"]) * gain + (params["beta"] - params["mean"] * gain)
    return jnp.mean(jnp.clip(y, 0.0, 6.0), (1, 2)) @ params["w"]


def trained(recipe: dict[str, Any], **options: Any) -> Any:
    """The NNX network after a step on each batch, of which the weights' rate is 0."""
    q = jaxq.quantize(made(), {**recipe, "norm": "follow"}, X[0, :1])
    jaxq.calibrate(q, list(X), progress=False)
    tx = jaxq.optim.partition(optax.sgd(0.0), optax.sgd(0.0), norm_decay=DECAY, **options)
    optimizer = nnx.Optimizer(q, tx, wrt=nnx.Param)
    for x in X:
        optimizer.update(q, nnx.grad(lambda q, x=x: jnp.sum(q(x) ** 2))(q))
    return q


FLOATS = {"activations": {"bits": 32}, "weights": {"bits": 32}, "input": "float32", "output": "float32"}


@functools.cache
def floats() -> Any:
    return trained(FLOATS)


def test_in_floats_the_statistics_are_those_of_flax() -> None:
    """BatchNorm in training mode, on the same batches, with the momentum of the decay."""
    model, q = made(), floats()
    model.bn.use_running_average = False
    for x in X:
        model(x)
    found = q.pure_ranges()[SITE]
    alive = np.asarray(model.bn.scale[...]) != 0
    for ours, theirs in ((found[MEAN], model.bn.mean), (found[VAR], model.bn.var)):
        np.testing.assert_allclose(ours[alive], theirs[...][alive], rtol=2e-5, atol=2e-6)
    own = made().bn
    assert found[MEAN][2] == own.mean[...][2] and found[VAR][2] == own.var[...][2]  # gamma = 0 says nothing of y


def gain(params: dict[str, np.ndarray]) -> np.ndarray:
    return params["scale"] / np.sqrt(params["var"] + 1e-5)


@functools.cache
def integers() -> Any:
    return trained({}, norm_freeze=2)


def test_a_batch_that_is_first_seen_in_a_compiled_step_is_planned_with_numbers() -> None:
    q = jaxq.quantize(made(), {"norm": "follow"}, X[0, :1])
    jaxq.calibrate(q, [X[0, :1]], progress=False)
    compiled = nnx.jit(lambda q, x: q(x))(q, X[0, :7])
    np.testing.assert_array_equal(compiled, q(X[0, :7]))


@pytest.mark.slow
def test_on_integers_they_are_those_of_the_quantized_products_until_they_freeze() -> None:
    """Against numpy: the kernel on its grid times the image on its grid, with the statistics of each step."""
    q = jaxq.quantize(made(), {"norm": "follow"}, X[0, :1])
    jaxq.calibrate(q, list(X), progress=False)
    ranges, model = q.pure_ranges(), made()
    bn = {n: np.asarray(getattr(model.bn, n)[...], np.float64) for n in ("mean", "var", "scale", "bias")}
    scale, zero = (float(ranges["input"][k]) for k in ("scale", "zero_point"))
    kernel, c = np.asarray(model.conv.kernel[...], np.float64), np.asarray(model.conv.bias[...], np.float64)
    for x in X[:2]:
        image = (np.clip(np.rint(x / scale) + zero, -128, 127) - zero) * scale
        folded = kernel * gain(bn)
        step = np.maximum(np.max(np.abs(folded), (0, 1, 2)) / 127, 1e-30)
        y = jax.lax.conv_general_dilated(
            image.astype(np.float32), (np.rint(folded / step) * step).astype(np.float32), (1, 1), "SAME",
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
        alive = bn["scale"] != 0
        y = np.asarray(y, np.float64)[..., alive] / gain(bn)[alive] + c[alive]
        bn["mean"][alive] = DECAY * bn["mean"][alive] + (1 - DECAY) * y.mean((0, 1, 2))
        bn["var"][alive] = DECAY * bn["var"][alive] + (1 - DECAY) * y.var((0, 1, 2))
    found = integers().pure_ranges()[SITE]
    np.testing.assert_allclose(found[MEAN], bn["mean"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(found[VAR], bn["var"], rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_file_computes_the_training_forward_and_the_model_gets_its_statistics_back() -> None:
    q = integers()
    before = q(X[0])
    artifact = jaxq.export.to_tflite(q, verify=X[0], progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    jaxq.ptq.settle(q)
    state = q.pure_ranges()[SITE]
    np.testing.assert_array_equal(q.model.bn.mean[...], state[MEAN])
    np.testing.assert_array_equal(q.model.bn.var[...], state[VAR])
    np.testing.assert_array_equal(q(X[0]), before)
    frozen = jaxq.quantize(q.model, "int8", X[0, :1])
    frozen.set_ranges({n: r for n, r in q.pure_ranges().items() if n != SITE})
    np.testing.assert_array_equal(frozen(X[0]), before)


@pytest.mark.slow
def test_a_pass_moves_what_the_file_has() -> None:
    """A pass whose parameters are statistics moves those that the forward reads."""
    q = jaxq.quantize(made(), {"norm": "follow", "weights": {"bits": 4}}, X[0, :1])
    jaxq.calibrate(q, list(X), progress=False)
    report = jaxq.ptq.reestimate(q, X[0])
    assert report.changes[0].after < report.changes[0].before
    np.testing.assert_array_equal(q.pure_ranges()[SITE][MEAN], q.model.bn.mean[...])
    proof = jaxq.export.to_tflite(q, verify=X[0], progress=False).certificate
    assert proof is not None and proof.ok


def linen_of(model: Any) -> dict[str, Any]:
    """The NNX network's variables."""
    conv, bn, head = model.conv, model.bn, model.head
    params = {
        "conv": {"kernel": conv.kernel[...], "bias": conv.bias[...]},
        "bn": {"scale": bn.scale[...], "bias": bn.bias[...]},
        "head": {"kernel": head.kernel[...], "bias": head.bias[...]},
    }
    return {"params": params, "batch_stats": {"bn": {"mean": bn.mean[...], "var": bn.var[...]}}}


def function_of(model: Any) -> dict[str, Any]:
    """The NNX network's parameters."""
    bn = model.bn
    return {
        "kernel": model.conv.kernel[...], "c": model.conv.bias[...], "gamma": bn.scale[...], "beta": bn.bias[...],
        "mean": bn.mean[...], "var": bn.var[...], "w": model.head.kernel[...],
    }  # fmt: skip


def followed_linen() -> dict[str, jax.Array]:
    """The state after one step, in Linen: the gradient is taken of params and ranges."""
    variables = linen_of(made())
    q = jaxq.quantize(LinenNet(), {**FLOATS, "norm": "follow"}, X[0, :1])
    ranges = q.init(jax.random.key(0), X[0, :1])["ranges"]
    variables = jaxq.calibrate(q, list(X), {**variables, "ranges": ranges}, progress=False)
    tx: Any = jaxq.optim.partition(optax.sgd(0.0), optax.sgd(0.0), norm_decay=DECAY)
    learned: Any = {name: variables[name] for name in ("params", "ranges")}
    gradients = jax.grad(lambda v: jnp.sum(q.apply({**variables, **v}, X[0]) ** 2))(learned)
    updates, _ = tx.update(gradients, tx.init(learned), learned)
    moved: Any = optax.apply_updates(learned, updates)
    return moved["ranges"][SITE]


def followed_function() -> dict[str, jax.Array]:
    params = function_of(made())
    q = jaxq.quantize(net, {**FLOATS, "norm": "follow"}, params, X[0, :1])
    ranges = jaxq.calibrate(q, list(X), params, q.init(params, X[0, :1]), progress=False)
    tx: Any = jaxq.optim.partition(optax.sgd(0.0), optax.sgd(0.0), norm_decay=DECAY)
    gradients = jax.grad(lambda t: jnp.sum(q.apply(*t, X[0]) ** 2))((params, ranges))
    updates, _ = tx.update(gradients, tx.init((params, ranges)), (params, ranges))
    moved: Any = optax.apply_updates((params, ranges), updates)
    for name in ("mean", "var"):  # no gradient of the loss reaches what the ranges stand for
        np.testing.assert_array_equal(moved[0][name], params[name])
    return moved[1]["kernel:norm"]


@pytest.mark.parametrize("followed", [pytest.param(followed_linen, marks=pytest.mark.slow), followed_function])
def test_linen_and_functions_follow_alike(followed: Any) -> None:
    model = made()
    model.bn.use_running_average = False
    model(X[0])
    found, alive = followed(), np.asarray(model.bn.scale[...]) != 0
    np.testing.assert_allclose(found[MEAN][alive], model.bn.mean[...][alive], rtol=2e-5, atol=2e-6)
    np.testing.assert_allclose(found[VAR][alive], model.bn.var[...][alive], rtol=2e-5, atol=2e-6)


@pytest.mark.slow
def test_cut_off_and_resumed_it_is_the_same_bit_for_bit() -> None:
    """Optimizer, ranges and parameters go through numpy between the steps."""
    q = jaxq.quantize(made(), {"norm": "follow"}, X[0, :1])
    jaxq.calibrate(q, list(X), progress=False)
    optimizer = nnx.Optimizer(
        q, jaxq.optim.partition(MOMENTUM, MOMENTUM, norm_decay=DECAY, norm_freeze=2), wrt=nnx.Param
    )
    graph, start = nnx.split((q, optimizer))

    @jax.jit
    def step(state: Any, x: jax.Array) -> Any:
        q, optimizer = nnx.merge(graph, state)
        optimizer.update(q, nnx.grad(lambda q: jnp.mean(q(x) ** 2))(q))
        return nnx.state((q, optimizer))

    whole = cut = start
    for x in X:
        whole, cut = step(whole, x), step(jax.tree.map(lambda a: jnp.asarray(np.asarray(a)), cut), x)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(cut), strict=True))


def test_the_plan_names_them_and_statistics_are_needed() -> None:
    q = jaxq.quantize(made(), {"norm": "follow"}, X[0, :1])
    assert "BatchNorms that follow (1)\n  conv/kernel:norm\n" in str(q.plan)
    assert not jaxq.quantize(made(), "int8", X[0, :1]).plan.norms
    jaxq.calibrate(q, list(X), progress=False)
    ranges = q.pure_ranges()
    np.testing.assert_array_equal(ranges[SITE][VAR], made().bn.var[...])
    q.set_ranges({SITE: {MEAN: jnp.full(4, jnp.nan), VAR: ranges[SITE][VAR]}})
    with pytest.raises(RangeError, match=r"conv/kernel:norm has no range yet"):
        q(X[0])


def test_a_norm_that_two_convolutions_read_stands_still() -> None:
    """Its statistics would be of neither's output."""

    def twice(p: Any, x: jax.Array) -> jax.Array:
        a, b = (((x @ p[k] - p["mean"]) / jnp.sqrt(p["var"] + 1e-5)) * p["gamma"] + p["beta"] for k in ("a", "b"))
        return a + b

    one = {k: jnp.ones(3) for k in ("mean", "var", "gamma", "beta")}
    q = jaxq.quantize(twice, {"norm": "follow"}, {**one, "a": jnp.ones((2, 3)), "b": jnp.ones((2, 3))}, np.ones((1, 2)))
    assert not q.plan.norms
