"""Dropout beside what folds into a layer: training has the sites of evaluation, and computes flax's function."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxq
from jaxq.frontends.ranges import initial_ranges

X = np.random.default_rng(0).normal(size=(7, 5, 6)).astype(np.float32)


class Net(nnx.Module):
    """A layer, what `order` says, and a layer."""

    def __init__(self, order: str, rngs: nnx.Rngs) -> None:
        self.order = order
        self.first, self.last = nnx.Linear(6, 4, rngs=rngs), nnx.Linear(4, 3, rngs=rngs)
        self.norm, self.dropout = nnx.BatchNorm(4, rngs=rngs), nnx.Dropout(0.4, rngs=rngs)
        numbers = np.random.default_rng(1).uniform(0.5, 2, (3, 4)).astype(np.float32)
        assert self.norm.bias is not None
        self.norm.mean[...], self.norm.var[...], self.norm.bias[...] = numbers

    def __call__(self, x: jax.Array) -> jax.Array:
        steps = {"d": self.dropout, "n": self.norm, "r": nnx.relu, "g": jax.nn.gelu, "s": lambda y: y * 2.0 + 1.0}
        steps |= {"l": nnx.leaky_relu, "m": lambda y: y * jnp.tanh(jax.nn.softplus(y))}
        y = self.first(x)
        for letter in self.order:
            y = steps[letter](y)
        return self.last(y)


# n: BatchNorm, s: an affine by hand. In front of the dropout it folds into the last layer, behind it into the first.
ORDERS = ["dn", "ds", "dnr", "dnd", "rnd", "rsd", "gnd", "rdnd", "ndn", "gds", "lds", "mds", "gsds"]


@pytest.mark.parametrize("order", ORDERS)
def test_training_has_the_sites_of_evaluation(order: str) -> None:
    model = Net(order, nnx.Rngs(0))
    model.eval()
    q = jaxq.quantize(model, "int8", X[:1])
    jaxq.calibrate(q, [X], progress=False)
    q.train()
    captured, state = q.captured(X), nnx.state(q.model)
    assert {*initial_ranges(captured.plan)} == {*q.pure_ranges()}
    graph = captured.plan.graph
    found = q.core.reals(captured, state, (X,), {})[graph.site_names[graph.outputs[0]]]
    np.testing.assert_allclose(found, nnx.clone(q.model)(X), rtol=1e-4, atol=1e-5)
    assert np.isfinite(q(X)).all()


def test_the_integers_of_training_with_dropout_are_near_its_floats() -> None:
    """What is dropped is what the norm gives for zero, on the grid of the layer in front of it."""
    model = Net("dn", nnx.Rngs(0))
    model.eval()
    q = jaxq.quantize(model, "int8", X[:1])
    jaxq.calibrate(q, [X], progress=False)
    q.train()
    wanted, found = np.asarray(nnx.clone(q.model)(X)), np.asarray(q(X))
    assert np.corrcoef(wanted.ravel(), found.ravel())[0, 1] > 0.99


class LinenNet(linen.Module):
    """`Net` in Linen."""

    order: str

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        steps: dict[str, Callable[[jax.Array], jax.Array]] = {
            "d": linen.Dropout(0.4, deterministic=not train),
            "g": jax.nn.gelu,
            "n": linen.BatchNorm(use_running_average=True),
            "s": lambda y: y * 2.0 + 1.0,
        }
        y = linen.Dense(4)(x)
        for letter in self.order:
            y = steps[letter](y)
        return linen.Dense(3)(y)


@pytest.mark.parametrize("order", ["gds", *(pytest.param(order, marks=pytest.mark.slow) for order in ("dn", "gnd"))])
def test_training_in_linen_has_the_sites_of_evaluation(order: str) -> None:
    """Ranges of other sites are refused; the module's keys are folded by flax, so the floats drop other numbers."""
    q = jaxq.quantize(LinenNet(order), "int8", X[:1])
    variables = jaxq.calibrate(q, [X], q.init(jax.random.key(0), X[:1]), progress=False)
    dropped = [
        np.asarray(q.apply(variables, X, train=True, rngs={"dropout": jax.random.key(seed)})) for seed in range(2)
    ]
    assert np.isfinite(dropped).all() and not np.array_equal(dropped[0], dropped[1])
    assert not np.array_equal(dropped[0], q.apply(variables, X))
