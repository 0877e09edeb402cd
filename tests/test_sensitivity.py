"""`jaxq.analyze.sensitivity`: each op alone, against the same network quantized anew with one rule more."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import numpy as np
import optax
import pytest
from flax import linen, nnx

import jaxq
from jaxq import Recipe, Rule
from jaxq.analyze.choices import options, with_options
from jaxq.analyze.transfer import covered, transferred
from jaxq.analyze.trials import Trials, accuracy, batch_size, cross_entropy
from jaxq.errors import InputError, RangeError
from jaxq.quantization import bind
from jaxq.simulate.steps import step_key
from tests.zoo import ZOO

RULES: dict[str, dict[str, Any]] = {
    "w4": {"weight_bits": 4},
    "a16": {"activation_bits": 16},
    "float": {"float": True},
}


@functools.cache
def calibrated(name: str) -> tuple[Any, Any]:
    case = ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, "int8", *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return case, qmodel


@functools.cache
def trials(name: str) -> Trials:
    case, qmodel = calibrated(name)
    return Trials(bind(qmodel), case.batches)


def anew(name: str, site: str, choice: str) -> list[np.ndarray]:
    """The results of the network quantized with one rule, its ranges those of the network without it."""
    case, qmodel = calibrated(name)
    args, kwargs = case.first(1)
    other = jaxq.quantize(case.model, Recipe(rules=(Rule(site, **RULES[choice]),)), *args, **kwargs)
    leaves = jax.tree.leaves(nnx.state(case.model))
    other.set_ranges(transferred(qmodel.plan, qmodel.pure_ranges(), other.plan, leaves))
    return [np.asarray(leaf) for leaf in jax.tree.leaves(other(*case.args, **case.kwargs))]


def results(found: Trials, recipe: Recipe | None = None) -> list[np.ndarray]:
    (result,) = found.results(recipe)  # 64 examples are one batch
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def assert_equal(found: list[np.ndarray], wanted: list[np.ndarray]) -> None:
    for a, b in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(a, b)


# --- one op at a time is the training forward -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["separable", *(pytest.param(n, marks=pytest.mark.slow) for n in ZOO)])
def test_op_by_op_gives_the_integers_of_the_training_forward(name: str) -> None:
    case, qmodel = calibrated(name)
    wanted = [np.asarray(leaf) for leaf in jax.tree.leaves(qmodel(*case.args, **case.kwargs))]
    assert_equal(results(trials(name)), wanted)


@pytest.mark.parametrize(
    ("site", "choice"),
    [
        ("depthwise/kernel", "w4"),
        ("add", "a16"),
        ("project/kernel", "float"),
        *(pytest.param(s, "w4", marks=pytest.mark.slow) for s in ("stem/kernel", "project/kernel", "head/kernel")),
        *(pytest.param(s, "a16", marks=pytest.mark.slow) for s in ("stem/kernel:out", "head/kernel:out")),
        *(pytest.param(s, "float", marks=pytest.mark.slow) for s in ("add", "average_pool_2d", "stem/kernel")),
    ],
)
def test_each_alone_is_the_network_quantized_with_that_rule(site: str, choice: str) -> None:
    (option,) = [o for o in options(trials("separable").plan, [choice]) if o.site == site]
    recipe = with_options(trials("separable").recipe, [option])
    assert_equal(results(trials("separable"), recipe), anew("separable", site, choice))


def test_one_op_otherwise_compiles_one_op() -> None:
    case, qmodel = calibrated("perceptron")
    found = Trials(bind(qmodel), case.batches)
    found.measured(None)
    before = found.compiled
    found.measured(None)
    assert found.compiled == before  # the mutant that forgets what is compiled
    (first, *_) = options(found.plan, ["w4"])
    found.measured(None, with_options(found.recipe, [first]))
    assert found.compiled == before + 1


def test_a_key_holds_what_an_op_computes_with() -> None:
    """A key without the bits of weights gives the int8 kernel under every rule: the mutant of this test."""
    plan = trials("separable").plan
    other = trials("separable").plan.recipe
    ops = {op.name: op for op in plan.graph.ops}
    _, qmodel = calibrated("separable")
    wide = qmodel.captured().under(with_options(other, options(plan, ["w4"]))).plan
    differing = [n for n, op in ops.items() if step_key(plan, op) != step_key(wide, op)]
    assert set(differing) >= set(plan.weights)


# --- the scores -------------------------------------------------------------------------------------------------------


def test_the_scores_are_differences_of_losses() -> None:
    case, qmodel = calibrated("perceptron")
    found = jaxq.analyze.sensitivity(qmodel, case.batches, choices=("w4",), progress=False)
    wanted = np.asarray(case.model(*case.args), np.float64)
    for score in found.scores:
        (result,) = anew("perceptron", score.site, "w4")
        loss = float(np.sum((result - wanted) ** 2) / np.sum(wanted**2))
        assert math.isclose(score.loss, loss, rel_tol=1e-5)  # sums of float32
        assert score.change == score.loss - found.loss
    assert [s.change for s in found.scores] == sorted((s.change for s in found.scores), reverse=True)
    assert found[found.scores[0].site, "w4"] is found.scores[0]


def test_labels_and_a_loss_of_ones_own() -> None:
    case, qmodel = calibrated("perceptron")
    labels = np.arange(64) % 3
    found = jaxq.analyze.sensitivity(qmodel, case.batches, labels=labels, choices=("w4",), progress=False)
    logits = qmodel(*case.args)
    wanted = float(np.mean(optax.softmax_cross_entropy_with_integer_labels(logits, labels)))
    assert found.measure == "cross entropy" and math.isclose(found.loss, wanted, rel_tol=1e-6)

    def wrong(result: Any, labels: Any) -> Any:
        return 100.0 - accuracy(result, labels)

    found = jaxq.analyze.sensitivity(qmodel, case.batches, labels=labels, loss=wrong, choices=("w4",), progress=False)
    assert found.measure == "wrong"
    assert math.isclose(found.loss, 100.0 * float(np.mean(np.argmax(logits, -1) != labels)), rel_tol=1e-6)


def test_the_table() -> None:
    case, qmodel = calibrated("perceptron")
    text = str(jaxq.analyze.sensitivity(qmodel, case.batches, choices=("w4",), progress=False))
    assert text.startswith("each alone under another choice, 64 examples; noise / signal of the output as it is: ")
    worst = text.splitlines()[2]
    assert worst.endswith("#" * 20) and " w4 " in worst


def test_a_network_of_a_second_batch_size_and_the_function_interface() -> None:
    def net(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(4, 8)).astype(np.float32), "b": rng.normal(size=(8, 3)).astype(np.float32)}
    x = rng.normal(size=(7, 4)).astype(np.float32)
    q = jaxq.quantize(net, "int8", params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params), progress=False)
    found = jaxq.analyze.sensitivity(q, x, params, ranges, choices=("w4", "w8"), progress=False)
    assert {s.site for s in found.scores} == {"a", "b"} and {s.choice for s in found.scores} == {"w4"}
    assert all(s.change > 0 for s in found.scores)


def test_linen() -> None:
    module = linen.Dense(3)
    x = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    q = jaxq.quantize(module, "int8", x[:1])
    variables = jaxq.calibrate(q, [x], q.init(jax.random.key(0), x[:1]), progress=False)
    (score,) = jaxq.analyze.sensitivity(q, x, variables, choices=("w4",), progress=False).scores
    assert score.kind == "FULLY_CONNECTED" and score.change > 0


# --- options --------------------------------------------------------------------------------------------------------


def test_ops_that_share_a_parameter_choose_together() -> None:
    def twice(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["w"]) @ params["w"]

    params = {"w": np.eye(4, dtype=np.float32)}
    plan = jaxq.quantize(twice, "int8", params, np.zeros((1, 4), np.float32)).plan
    (option,) = options(plan, ["w4"])
    assert len(option.rules) == len(option.ops) == 2


def test_a_target_without_floats_or_16_bits_has_no_such_option() -> None:
    case, _ = calibrated("perceptron")
    plan = jaxq.quantize(case.model, Recipe(target="edgetpu"), *case.first(1)[0]).plan
    assert options(plan, ["a16", "float"]) == []


def test_what_a_site_is_already_is_no_option() -> None:
    plan = trials("perceptron").plan
    assert options(plan, ["w8"]) == []
    assert {o.site for o in options(plan, ["w4"])} == set(plan.weights)


# --- ranges of another plan -----------------------------------------------------------------------------------------


def test_a_trained_range_keeps_the_numbers_that_it_covers() -> None:
    _, qmodel = calibrated("perceptron")
    name, group = next((n, g) for n, g in qmodel.plan.groups.items() if g.has_range and not g.nonnegative)
    state = qmodel.pure_ranges()[name]
    assert covered(group, state) == tuple(float(x) for x in state["observed"])
    trained = {**state, "scale": state["scale"] * 2.0}
    low, high = covered(group, trained)
    assert math.isclose(high - low, 255 * float(trained["scale"]), rel_tol=1e-6)


def test_a_frozen_scale_of_weights_is_calibrated_for_the_bits() -> None:
    case, _ = calibrated("perceptron")
    recipe = {"weights": {"ranges": "frozen"}}
    qmodel = jaxq.quantize(case.model, recipe, *case.first(1)[0])
    jaxq.calibrate(qmodel, case.batches, progress=False)
    plan, ranges = qmodel.plan, qmodel.pure_ranges()
    new = qmodel.captured().under(with_options(qmodel.core.recipe, options(plan, ["w4"])[:1])).plan
    found = transferred(plan, ranges, new, jax.tree.leaves(nnx.state(case.model)))
    (changed,) = [name for name, scheme in new.weights.items() if scheme.bits == 4]
    assert found.keys() == ranges.keys()
    for name in plan.weights:
        ratio = 127.0 / 7.0 if name == changed else 1.0
        np.testing.assert_allclose(found[name]["scale"], ranges[name]["scale"] * ratio, rtol=1e-6)


# --- misuse ---------------------------------------------------------------------------------------------------------


def test_misuse() -> None:
    case, qmodel = calibrated("perceptron")
    with pytest.raises(InputError, match="There is no choice 'w5'. Did you mean 'w8' or 'w4'"):
        jaxq.analyze.sensitivity(qmodel, case.batches, choices=("w5",), progress=False)
    with pytest.raises(InputError, match="There are 3 labels for 64 examples; there must be one for each."):
        jaxq.analyze.sensitivity(qmodel, case.batches, labels=np.zeros(3, int), progress=False)
    with pytest.raises(InputError, match="There is no example to measure on: the iterable is empty."):
        jaxq.analyze.sensitivity(qmodel, [], progress=False)
    with pytest.raises(RangeError, match="has no range yet"):
        jaxq.analyze.sensitivity(jaxq.quantize(case.model, "int8", *case.first(1)[0]), case.batches, progress=False)
    with pytest.raises(InputError, match=r"The measure <lambda> gives \[nan\]: not finite."):
        jaxq.analyze.sensitivity(qmodel, case.batches, loss=lambda r, w: np.nan, progress=False)
    with pytest.raises(InputError, match=r"one output of logits, \[examples, classes\]; the model gives \(2, 2, 2\)"):
        cross_entropy(np.zeros((2, 2, 2)), np.zeros(2, int))


def test_batches_are_equal_where_they_can_be() -> None:
    assert [batch_size(n) for n in (1, 128, 512, 500, 1000, 997)] == [1, 128, 128, 125, 125, 64]
