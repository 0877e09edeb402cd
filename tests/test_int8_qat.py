"""`Recipe(backward=...)`: the training forward keeps its bits and the file its proof; gradients are of integers."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxq
from jaxq import Recipe
from jaxq.errors import RecipeError, UnmatchedRuleError
from jaxq.gradients.carriers import only_contraction
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


def test_a_scheme_with_a_state_is_refused():
    with pytest.raises(RecipeError, match="'unified' of backward keeps a state .* Use one of row, tensor, tensor-sr"):
        jaxq.quantize(Net(), Recipe(backward=Backward(scheme="unified")), X[:1])


def test_only_a_plain_contraction_is_recognised():
    shape = only_contraction(lambda a, b: jnp.matmul(a, b) + 0.0, jnp.zeros((4, 3)), jnp.zeros((3, 2)))
    assert shape is not None and shape.kind == "dot_general"
    assert only_contraction(lambda a, b: jnp.matmul(a * 2, b), jnp.zeros((4, 3)), jnp.zeros((3, 2))) is None
