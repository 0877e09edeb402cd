"""Linen as flax's ImageNet example writes it: a ResNet of lists and partials, a `train` flag, a TrainState with batch
statistics. The float phase is the example's; quantization-aware training adds the ranges to what is trained.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen
from flax.training import train_state

import jaxq

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(0, 1, (16, 8, 8, 3)).astype(np.float32)
LABELS = RNG.integers(0, 3, 16)


class Block(linen.Module):
    """Two convolutions and a shortcut; the last scale starts at zero."""

    filters: int
    conv: Callable[..., Any]
    norm: Callable[..., Any]
    strides: tuple[int, int] = (1, 1)

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = linen.relu(self.norm()(self.conv(self.filters, (3, 3), self.strides)(x)))
        y = self.norm(scale_init=linen.initializers.zeros_init())(self.conv(self.filters, (3, 3))(y))
        if x.shape != y.shape:
            x = self.norm(name="norm_proj")(self.conv(self.filters, (1, 1), self.strides, name="conv_proj")(x))
        return linen.relu(x + y)


class ResNet(linen.Module):
    """Stages of blocks, with dropout before the classifier."""

    stage_sizes: list[int]
    filters: int = 4
    classes: int = 3

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        conv = functools.partial(linen.Conv, use_bias=False)
        norm = functools.partial(linen.BatchNorm, use_running_average=not train, momentum=0.9, epsilon=1e-5)
        x = linen.relu(norm(name="bn_init")(conv(self.filters, (3, 3), name="conv_init")(x)))
        for i, size in enumerate(self.stage_sizes):
            for j in range(size):
                strides = (2, 2) if i > 0 and j == 0 else (1, 1)
                x = Block(self.filters * 2**i, conv, norm, strides)(x)
        x = linen.Dropout(0.1, deterministic=not train)(jnp.mean(x, (1, 2)))
        return linen.Dense(self.classes)(x)


class TrainState(train_state.TrainState):
    """The example's: parameters, optimizer, and the statistics of BatchNorm."""

    batch_stats: Any


def train_step(state: TrainState, collections: Callable[[Any], Any], key: jax.Array) -> tuple[TrainState, jax.Array]:
    """One step of the example's loop; `collections` gives the variables of what is trained."""

    def loss_fn(params: Any) -> tuple[jax.Array, Any]:
        variables = {**collections(params), "batch_stats": state.batch_stats}
        logits, written = state.apply_fn(variables, IMAGES, mutable=["batch_stats"], rngs={"dropout": key})
        return optax.softmax_cross_entropy_with_integer_labels(logits, LABELS).mean(), written

    (loss, written), gradients = jax.value_and_grad(loss_fn, has_aux=True)(state.params)
    return state.apply_gradients(grads=gradients).replace(batch_stats=written["batch_stats"]), loss


def in_params(params: Any) -> Any:
    return {"params": params}


def test_the_example_trains_in_floats_then_quantized_and_is_exported() -> None:
    model = ResNet(stage_sizes=[1, 1])
    variables = model.init(jax.random.key(0), IMAGES[:1], train=False)
    state = TrainState.create(
        apply_fn=model.apply, params=variables["params"], tx=optax.sgd(0.1), batch_stats=variables["batch_stats"]
    )
    step = jax.jit(train_step, static_argnums=1)
    for i in range(3):
        state, _ = step(state, in_params, jax.random.key(i))
    moved = jax.tree.map(lambda a, b: bool(np.any(a != b)), state.batch_stats, variables["batch_stats"])
    assert all(jax.tree.leaves(moved))  # the float phase trains the statistics

    qmodel = jaxq.quantize(model, "int8", IMAGES[:1], train=False)
    variables = {"params": state.params, "batch_stats": state.batch_stats}
    ranges = qmodel.init(jax.random.key(0), IMAGES[:1], train=False)["ranges"]
    variables = jaxq.calibrate(qmodel, [IMAGES], {**variables, "ranges": ranges}, progress=False)
    state = TrainState.create(
        apply_fn=qmodel.apply,
        params={"params": variables["params"], "ranges": variables["ranges"]},
        tx=jaxq.optim.partition(optax.adamw(1e-3)),
        batch_stats=variables["batch_stats"],
    )
    before, losses = state.batch_stats, []
    for i in range(2):
        state, loss = step(state, dict, jax.random.key(i))
        losses.append(float(loss))
    assert jax.tree.all(jax.tree.map(np.array_equal, state.batch_stats, before))  # running statistics stay
    assert np.all(np.isfinite(losses))

    variables = {**state.params, "batch_stats": state.batch_stats}
    apply = functools.partial(qmodel.apply, variables, IMAGES)
    dropped = [np.asarray(apply(train=True, rngs={"dropout": jax.random.key(i)})) for i in range(2)]
    assert np.any(dropped[0] != dropped[1])  # dropout is on
    artifact = jaxq.export.to_tflite(qmodel, variables, verify=IMAGES[:4], progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    np.testing.assert_array_equal(artifact.run(IMAGES)[0], apply(train=False))


def test_a_residual_branch_that_starts_at_zero_is_no_dead_layer() -> None:
    model = ResNet(stage_sizes=[1])
    qmodel = jaxq.quantize(model, "int8", IMAGES[:1], train=False)
    variables = jaxq.calibrate(qmodel, [IMAGES], qmodel.init(jax.random.key(0), IMAGES[:1]), progress=False)
    branch, total = (variables["ranges"][name] for name in ("Block_0/Conv_1/kernel:out", "add"))
    assert np.isclose(branch["scale"], 2 * total["scale"], rtol=1e-2)  # either way what the sum, a ReLU, has one way


def test_a_kernel_of_zeros_is_in_the_file() -> None:
    """A last scale or a bias that is trained from zero: any scale stands for its zeros, and kernels take this one."""
    x, w = IMAGES[:, 0], np.zeros((3, 3), np.float32)
    q = jaxq.quantize(lambda p, x: jnp.tanh(x) + x @ p, "int8", w, x[:1])
    ranges = jaxq.calibrate(q, [x], w, q.init(w), progress=False)
    artifact = jaxq.export.to_tflite(q, w, ranges, verify=x, progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    np.testing.assert_array_equal(artifact.run(x)[0], q.apply(w, ranges, x))
    gradient = jax.grad(lambda p: q.apply(p, ranges, x).sum())(w)
    np.testing.assert_allclose(
        gradient, x.sum((0, 1))[:, None].repeat(3, 1), rtol=0.05, atol=1.0
    )  # 128 rounded numbers
