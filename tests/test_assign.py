"""Parameters from weights: `assigned` makes the weights wanted, leaves the others, and refuses by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxq.assign import assigned, refusals
from jaxq.errors import AssignError
from jaxq.graph import Graph, capture
from jaxq.simulate.weights import weight_values

RNG = np.random.default_rng(0)
IN, OUT = 4, 3


def numbers(*shape: int) -> np.ndarray:
    return RNG.normal(1.0, 0.5, shape).astype(np.float32)


def conv(x: Any, w: Any, padding: str = "SAME") -> Any:
    return jax.lax.conv_general_dilated(x, w, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def normalized(y: Any, gamma: Any, beta: Any, mean: Any, var: Any) -> Any:
    return (y - mean) * jax.lax.rsqrt(var + 1e-5) * gamma + beta


ROW, IMAGE = (2, IN), (2, 5, 5, IN)
NORM = {"gamma": numbers(OUT), "beta": numbers(OUT), "mean": numbers(OUT), "var": np.abs(numbers(OUT)) + 0.1}

# A network as a function of its parameters and x, with these.
CASES: dict[str, tuple[Callable[..., Any], dict[str, np.ndarray], tuple[int, ...]]] = {
    "dense": (lambda w, b, x: x @ w + b, {"w": numbers(IN, OUT), "b": numbers(OUT)}, ROW),
    "transposed": (lambda w, b, x: x @ w.T + b, {"w": numbers(OUT, IN), "b": numbers(OUT)}, ROW),
    "reshaped": (lambda w, b, x: x @ w.reshape(IN, OUT) + b, {"w": numbers(2, 2, OUT), "b": numbers(OUT)}, ROW),
    "scaled": (lambda w, b, x: x @ (0.5 * w) + 2 * b, {"w": numbers(IN, OUT), "b": numbers(OUT)}, ROW),
    "normalized": (
        lambda w, gamma, beta, mean, var, x: normalized(conv(x, w), gamma, beta, mean, var),
        {"w": numbers(3, 3, IN, OUT), **NORM},
        IMAGE,
    ),
    "shifted": (  # the bias reads the kernel: b - sum w
        lambda w, b, x: conv(2 * x - 1, w, "VALID") + b,
        {"w": numbers(3, 3, IN, OUT), "b": numbers(OUT)},
        IMAGE,
    ),
}


def captured(fn: Callable[..., Any], params: dict[str, np.ndarray], shape: tuple[int, ...]) -> tuple[Graph, list[Any]]:
    leaves = [jnp.asarray(p) for p in params.values()]
    return capture(lambda *a: [fn(*a)], leaves, list(params), [jnp.zeros(shape)]), leaves


def weights(graph: Graph, leaves: list[Any], op: int = 0) -> list[np.ndarray]:
    env = weight_values(graph, leaves)
    return [np.asarray(env[v]) for v in graph.ops[op].inputs[1:]]


@pytest.mark.parametrize("name", CASES)
def test_the_weights_wanted_are_the_weights_got(name: str) -> None:
    """Mutants that this kills: no division by `vjp(jvp(1))`; one round in place of three ("shifted")."""
    graph, leaves = captured(*CASES[name])
    wanted = [w * RNG.uniform(0.5, 1.5, w.shape).astype(np.float32) for w in weights(graph, leaves)]
    pairs = list(zip(graph.ops[0].inputs[1:], wanted, strict=True))
    found = assigned(graph, leaves, dict(reversed(pairs)))  # the bias before the kernel, which it may read
    for got, w in zip(weights(graph, found.params), wanted, strict=True):
        np.testing.assert_allclose(got, w, rtol=0, atol=2e-6 * np.abs(w).max())
    assert found.unreached == {}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("position", [0, 1], ids=["kernel", "bias"])
def test_the_other_weight_stays(name: str, position: int) -> None:
    """Mutant: a kernel that its bias reads moves and the bias is not kept."""
    graph, leaves = captured(*CASES[name])
    before = weights(graph, leaves)
    found = assigned(graph, leaves, {graph.ops[0].inputs[1 + position]: 1.25 * before[position]})
    after = weights(graph, found.params)
    for i, factor in ((position, 1.25), (1 - position, 1.0)):
        np.testing.assert_allclose(after[i], factor * before[i], rtol=0, atol=4e-6 * np.abs(before[i]).max())


def test_weights_as_they_are_move_no_parameter_by_a_bit() -> None:
    graph, leaves = captured(*CASES["normalized"])
    found = assigned(graph, leaves, dict(zip(graph.ops[0].inputs[1:], weights(graph, leaves), strict=True)))
    for before, after in zip(leaves, found.params, strict=True):
        np.testing.assert_array_equal(before, after)


def moved(graph: Graph, leaves: list[Any], params: list[Any]) -> list[str]:
    pairs = zip(graph.params.values(), leaves, params, strict=True)
    return [name for name, a, b in pairs if not np.array_equal(a, b)]


def test_a_trained_parameter_moves_before_a_statistic() -> None:
    graph, leaves = captured(*CASES["normalized"])
    kernel, bias = graph.ops[0].inputs[1:]
    w, b = weights(graph, leaves)
    assert moved(graph, leaves, assigned(graph, leaves, {kernel: 2 * w}).params) == ["w"]
    assert moved(graph, leaves, assigned(graph, leaves, {bias: 2 * b}, statistics=["mean"]).params) == ["beta"]
    assert moved(graph, leaves, assigned(graph, leaves, {bias: 2 * b}, statistics=["beta"]).params) == ["mean"]


def test_a_channel_without_gamma_stays_and_is_counted() -> None:
    """Mutant: division by D = 0 without a guard gives NaN."""
    fn, params, shape = CASES["normalized"]
    graph, leaves = captured(fn, params | {"gamma": np.array([1, 0, 2], np.float32)}, shape)
    kernel = graph.ops[0].inputs[1]
    wanted = weights(graph, leaves)[0] + 1
    found = assigned(graph, leaves, {kernel: wanted})
    got = weights(graph, found.params)[0]
    np.testing.assert_allclose(got[..., [0, 2]], wanted[..., [0, 2]], rtol=1e-5)
    np.testing.assert_array_equal(got[..., 1], 0)
    assert found.unreached == {kernel: 9 * IN}


def tied(w: Any, b: Any, c: Any, x: Any) -> Any:
    return jax.nn.relu(x @ w + b) @ w.T + c


def standardized(w: Any, b: Any, x: Any) -> Any:
    return x @ ((w - w.mean(0)) / w.std(0)) + b


REFUSED: dict[str, tuple[Callable[..., Any], dict[str, np.ndarray], str]] = {
    "tied": (
        tied,
        {"w": numbers(IN, OUT), "b": numbers(OUT), "c": numbers(IN)},
        r"The kernel of w .*test_assign.py.*, computed from w, shares all of its parameters with w#2",
    ),
    "standardized": (
        standardized,
        {"w": numbers(IN, OUT), "b": numbers(OUT)},
        r"The kernel of w .*, computed from w, cannot be set through w: .* is off by .*weight standardization",
    ),
    "a kernel of two ops": (
        lambda w, b, x: jax.nn.relu(jax.nn.relu(x @ w + b) @ w + b),
        {"w": numbers(IN, IN), "b": numbers(IN)},
        r"is read by 2 ops \(w, w#2\): changed for one of them it would change the others",
    ),
    "constant": (
        lambda b, x: x @ jnp.ones((IN, OUT)) + b,
        {"b": numbers(OUT)},
        r"is computed from no parameter: it is a constant of the model's code",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_set_is_refused_by_name(name: str) -> None:
    """Mutant: a tied kernel is set for the one op and changes the other in silence."""
    fn, params, text = REFUSED[name]
    graph, leaves = captured(fn, params, ROW)
    kernel = graph.ops[0].inputs[1]
    with pytest.raises(AssignError, match=text):
        assigned(graph, leaves, {kernel: 1.5 * RNG.normal(1.0, 0.5, weights(graph, leaves)[0].shape)})
    assert list(refusals(graph, leaves, [kernel])) == [kernel]


def test_refusals_change_nothing_and_name_what_is_refused() -> None:
    graph, leaves = captured(tied, REFUSED["tied"][1], ROW)
    first, second = graph.ops
    found = refusals(graph, leaves, [*first.inputs[1:], *second.inputs[1:]])
    assert list(found) == [first.inputs[1], second.inputs[1]]
    assert "shares all of its parameters with w#2" in found[first.inputs[1]]
