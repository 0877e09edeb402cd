"""`jaxq.search`: knapsacks against brute force, what rollback gives up, ranges, and files that prove what was found."""

from __future__ import annotations

import functools
import itertools
import pathlib
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxq
import jaxq.export
from jaxq import Recipe, Rule, search
from jaxq.analyze.choices import options, with_options
from jaxq.analyze.trials import Trials
from jaxq.errors import InputError
from jaxq.plan.recipe import read_recipe
from jaxq.plan.toml_text import recipe_text
from jaxq.quantization import bind
from jaxq.search.knapsack import choose
from jaxq.search.sizes import OPERATOR_CODE, budget_bytes, kernel_bytes
from tests.zoo import ZOO


@functools.cache
def calibrated(name: str) -> tuple[Any, Any]:
    case = ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, "int8", *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return case, qmodel


def quantized(name: str, recipe: Recipe) -> tuple[Any, Any]:
    """The network with a recipe that was found, calibrated on the same data."""
    case, _ = calibrated(name)
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return case, qmodel


def noise(result: Any, wanted: Any) -> float:
    """Minus the power of the error over that of the output, in per mille."""
    error = np.asarray(result, np.float64) - np.asarray(wanted, np.float64)
    return -1000.0 * float(np.sum(error**2) / np.sum(np.asarray(wanted, np.float64) ** 2))


def differing(name: str, recipe: Recipe, examples: int = 4) -> int:
    """How many integers of the exported file differ from the training forward's."""
    case, qmodel = quantized(name, recipe)
    artifact = jaxq.export.to_tflite(qmodel, verify=case.args[0][:examples], progress=False)
    assert artifact.certificate is not None
    return sum(artifact.certificate.differing_integers.values())


# --- the knapsack ---------------------------------------------------------------------------------------------------


def brute_force(costs: Any, sizes: Any, budget: int) -> float | None:
    """The least cost over all choices."""
    found = [
        sum(c[i] for c, i in zip(costs, picked, strict=True))
        for picked in itertools.product(*(range(len(c)) for c in costs))
        if sum(s[i] for s, i in zip(sizes, picked, strict=True)) <= budget
    ]
    return min(found, default=None)


@given(st.integers(0, 2**32 - 1), st.integers(0, 700))
@settings(max_examples=12, deadline=None)
def test_the_knapsack_is_that_of_brute_force(seed: int, budget: int) -> None:
    """3^7 choices. Mutants: a partial choice dropped that is smaller; a budget that is not to be reached."""
    rng = np.random.default_rng(seed)
    costs, sizes = rng.integers(-5, 50, (7, 3)).astype(float).tolist(), rng.integers(0, 100, (7, 3)).tolist()
    picked, least = choose(costs, sizes, budget), brute_force(costs, sizes, budget)
    if picked is None:
        assert least is None
        return
    assert sum(s[i] for s, i in zip(sizes, picked, strict=True)) <= budget
    assert sum(c[i] for c, i in zip(costs, picked, strict=True)) == least


def test_of_equal_costs_the_smallest_and_a_budget_met_exactly() -> None:
    assert choose([[1.0, 1.0]], [[20, 10]], 100) == [1]
    assert choose([[0.0, 5.0], [0.0, 1.0]], [[10, 5], [10, 5]], 15) == [0, 1]
    assert choose([[0.0, 5.0], [0.0, 1.0]], [[10, 5], [10, 5]], 9) is None


def test_a_knapsack_of_two_hundred_items_is_quick() -> None:
    rng = np.random.default_rng(0)
    sizes = (rng.integers(1, 2000, (200, 1)) * np.array([16, 8, 4])).tolist()
    costs = (rng.random((200, 1)) * np.array([0.0, 1.0, 4.0])).tolist()
    picked = choose(costs, sizes, int(0.6 * sum(s[0] for s in sizes)))
    assert picked is not None and {0, 1} <= set(picked)


# --- bytes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "wanted"),
    [(700, 700), (0.5, 500), ("2.5MB", 2_500_000), ("1KiB", 1024), ("60%", 600), ("12", 12), ("1.5 kb", 1500)],
)
def test_budgets(budget: Any, wanted: int) -> None:
    assert budget_bytes(budget, 1000) == wanted


@pytest.mark.parametrize("budget", [0, -3, 1.5, 0.0, True, "2.5XB", "", "MB", "5KB%", None])
def test_a_budget_that_is_none(budget: Any) -> None:
    with pytest.raises(InputError, match=r"it is a number of bytes \(2_500_000\), a share"):
        budget_bytes(budget, 1000)


# --- mixed ----------------------------------------------------------------------------------------------------------


def test_mixed_is_the_best_of_all_choices_under_the_budget() -> None:
    case, qmodel = calibrated("separable")
    found = search.mixed(qmodel, case.batches, budget=0.75, progress=False)
    trials = Trials(bind(qmodel), case.batches)
    plan, base = trials.plan, trials.measured(None)
    costs, sizes = list[list[float]](), list[list[int]]()
    for option in options(plan, ["w4"]):
        under = with_options(trials.recipe, [option])
        sizes.append([kernel_bytes(plan, option.site), kernel_bytes(trials.planned(under), option.site)])
        costs.append([0.0, trials.measured(None, under) - base])
    whole = sum(s[0] for s in sizes)
    assert found.facts["sum_of_changes"] == brute_force(costs, sizes, int(0.75 * whole))
    assert found.facts["bytes"] <= 0.75 * whole == 0.75 * found.facts["bytes_before"]
    assert found.facts["loss"] == trials.measured(None, found.recipe)
    assert found.facts["choices"]["depthwise/kernel"] == "w8"  # 4 bits of it are stored as 8: nothing is saved


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:precision. .* weights have 4 bits")
def test_the_bytes_are_those_of_the_file_and_its_integers_are_proven() -> None:
    case, qmodel = calibrated("separable")
    found = search.mixed(qmodel, case.batches, budget=0.75, progress=False)
    before = len(jaxq.export.to_tflite(qmodel, progress=False).data)
    _, other = quantized("separable", found.recipe)
    artifact = jaxq.export.to_tflite(other, verify=case.args[0][:4], progress=False)
    assert artifact.certificate is not None and not sum(artifact.certificate.differing_integers.values())
    saved = found.facts["bytes_before"] - found.facts["bytes"]
    grown = saved - (before - len(artifact.data))
    assert saved > 0 and 0 <= grown <= 2 * OPERATOR_CODE  # CONV_2D and FULLY_CONNECTED in two versions each


@pytest.mark.filterwarnings("ignore:precision. .* weights have 4 bits")
@pytest.mark.parametrize("dims", [(20, 10, 7), pytest.param((33, 5, 3), marks=pytest.mark.slow)])
def test_the_size_of_a_kernel_is_that_of_the_file(dims: tuple[int, int, int]) -> None:
    """But for the version of an operator, which is a number more or less in a table."""

    def net(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    rng = np.random.default_rng(0)
    params = {k: rng.normal(size=dims[i : i + 2]).astype(np.float32) for i, k in enumerate("ab")}
    x, files, kernels = rng.normal(size=(4, dims[0])).astype(np.float32), list[int](), list[int]()
    for recipe in ("int8", "int4"):
        q = jaxq.quantize(net, recipe, params, x[:1])
        ranges = jaxq.calibrate(q, [x], params, q.init(params), progress=False)
        files.append(len(jaxq.export.to_tflite(q, params, ranges, progress=False).data))
        kernels.append(kernel_bytes(q.plan, "a") + kernel_bytes(q.plan, "b"))
    assert 0 <= (kernels[0] - kernels[1]) - (files[0] - files[1]) <= OPERATOR_CODE < kernels[0] - kernels[1]


def test_a_budget_that_nothing_fits_and_one_that_everything_does() -> None:
    case, qmodel = calibrated("perceptron")
    with pytest.raises(InputError, match="The weights do not fit 16 bytes: they take .* now and .* at least, with w4"):
        search.mixed(qmodel, case.batches, budget=16, progress=False)
    found = search.mixed(qmodel, case.batches, budget=1.0, progress=False)
    assert found.facts["loss"] <= found.facts["loss_before"]
    with pytest.raises(InputError, match='chooses among "w4" and "w8", not \'w2\''):
        search.mixed(qmodel, case.batches, budget=1.0, choices=("w2",), progress=False)


def test_ctrl_c_keeps_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    case, qmodel = calibrated("perceptron")
    calls, measured = [0], Trials.measured

    def interrupted(self: Trials, *args: Any, **kwargs: Any) -> float:
        calls[0] += 1
        if calls[0] == 3:  # the model, the first kernel alone, and then
            raise KeyboardInterrupt
        return measured(self, *args, **kwargs)

    monkeypatch.setattr(Trials, "measured", interrupted)
    found = search.mixed(qmodel, case.batches, budget=0.9, progress=False)
    assert not found.complete and list(found.facts["choices"].values()).count("w4") == 1
    assert "(interrupted; the best so far)" in str(found)
    calls[0] = 0
    found = search.rollback(qmodel, case.batches, max_drop=1e-9, metric=noise, progress=False)
    assert not found.complete and not found.facts["reached"]


# --- rollback -------------------------------------------------------------------------------------------------------


def test_rollback_gives_up_nothing_where_the_drop_is_kept() -> None:
    case, qmodel = calibrated("separable")
    found = search.rollback(qmodel, case.batches, max_drop=1000.0, metric=noise, progress=False)
    assert found.facts["reached"] and found.recipe == qmodel.core.recipe and found.table == ()


@pytest.mark.slow
def test_a_rollback_to_16_bits_is_proven() -> None:
    case, qmodel = calibrated("separable")
    found = search.rollback(qmodel, case.batches, max_drop=0.05, metric=noise, progress=False)
    assert found.facts["choices"] and differing("separable", found.recipe) == 0


def test_rollback_to_16_bits_has_no_tensor_too_many() -> None:
    case, qmodel = calibrated("separable")
    found = search.rollback(qmodel, case.batches, max_drop=0.05, metric=noise, progress=False)
    assert found.facts["reached"] and set(found.facts["choices"].values()) == {"a16"}
    trials = Trials(bind(qmodel), case.batches)
    assert trials.measured(noise, found.recipe) == found.facts["metric"] >= -0.05
    for rule in found.recipe.rules:  # the mutant that does not leave out what is not needed
        rest = Recipe(name="int8", rules=tuple(r for r in found.recipe.rules if r != rule))
        assert trials.measured(noise, rest) < -0.05


@pytest.mark.slow
def test_rollback_goes_on_to_floats_where_16_bits_are_not_enough() -> None:
    case, qmodel = calibrated("separable")
    found = search.rollback(qmodel, case.batches, max_drop=0.001, metric=noise, progress=False)
    assert found.facts["reached"] and "float" in found.facts["choices"].values()
    assert differing("separable", found.recipe) == 0


def test_rollback_says_when_the_drop_is_not_reached() -> None:
    case, qmodel = calibrated("perceptron")
    found = search.rollback(qmodel, case.batches, max_drop=1e-9, metric=noise, choices=("a16",), progress=False)
    assert not found.facts["reached"] and "a drop of 1e-09 is not reached" in str(found)
    assert found.facts["metric"] >= found.facts["metric_before"]


def test_rollback_by_labels_and_by_the_classes_of_the_float_model() -> None:
    case, qmodel = calibrated("perceptron")
    logits = np.asarray(case.model(*case.args))
    found = search.rollback(qmodel, case.batches, max_drop=100.0, progress=False)
    assert found.facts["reference"] == 100.0
    labels = (np.argmax(logits, -1) + (np.arange(64) % 4 == 0)) % logits.shape[-1]
    found = search.rollback(qmodel, case.batches, max_drop=100.0, labels=labels, progress=False)
    assert found.facts["reference"] == 75.0


# --- ranges ---------------------------------------------------------------------------------------------------------


def test_ranges_are_never_worse_than_the_best_method_for_all() -> None:
    case, _ = calibrated("perceptron")
    spoilt = np.array(case.args[0])
    spoilt[0] *= 8.0  # one outlier
    x = spoilt[:1]
    found = search.ranges(jaxq.quantize(case.model, "int8", x), spoilt, methods=("minmax", "mse"), progress=False)
    assert found.facts["loss"] <= min(found.facts["losses"].values())
    assert found.recipe.activations.calibration == found.facts["method"]
    qmodel = jaxq.quantize(case.model, found.recipe, x)
    jaxq.calibrate(qmodel, [spoilt], progress=False)
    trials = Trials(bind(qmodel), spoilt)
    assert trials.measured(None) == found.facts["loss"]  # the recipe is what was measured
    for method, loss in found.facts["losses"].items():
        other = jaxq.quantize(case.model, {"activations": {"calibration": method}}, x)
        jaxq.calibrate(other, [spoilt], progress=False)
        assert Trials(bind(other), spoilt).measured(None) == loss


def test_ranges_misused() -> None:
    case, qmodel = calibrated("perceptron")
    with pytest.raises(InputError, match="There is no calibration 'mean square'"):
        search.ranges(qmodel, case.batches, methods=("mean square",), progress=False)
    with pytest.raises(InputError, match="methods is empty"):
        search.ranges(qmodel, case.batches, methods=(), progress=False)


# --- the workflow ---------------------------------------------------------------------------------------------------


def test_tune_keeps_the_best_calibrator_and_goes_on_only_if_needed() -> None:
    case, qmodel = calibrated("separable")
    given: Any = {"metric": noise, "methods": ("entropy", "minmax"), "progress": False}
    found = search.tune(qmodel, case.batches, max_drop=1000.0, **given)
    assert found.facts["reached"] and found.facts["choices"] == {}
    assert found.facts["calibration"] == max(found.facts["metrics"], key=found.facts["metrics"].__getitem__)
    assert found.recipe.activations.calibration == found.facts["calibration"]
    found = search.tune(qmodel, case.batches, max_drop=0.05, **given)
    assert found.facts["reached"] and found.facts["choices"] and found.facts["metric"] >= -0.05
    _, other = quantized("separable", found.recipe)
    assert Trials(bind(other), case.batches).measured(noise) == found.facts["metric"]
    found = search.tune(qmodel, case.batches, max_drop=1e-9, choices=(), **given)
    assert not found.facts["reached"] and "not within 1e-09: train with this recipe" in str(found)


def test_functions_and_linen() -> None:
    def net(params: Any, x: jax.Array) -> jax.Array:
        return jax.nn.relu(x @ params["a"]) @ params["b"]

    rng = np.random.default_rng(0)
    params = {"a": rng.normal(size=(8, 16)).astype(np.float32), "b": rng.normal(size=(16, 4)).astype(np.float32)}
    x = rng.normal(size=(7, 8)).astype(np.float32)
    q = jaxq.quantize(net, "int8", params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params), progress=False)
    found = search.mixed(q, x, params, ranges, budget=0.7, progress=False)
    assert found.facts["bytes"] <= 0.7 * found.facts["bytes_before"] and "w4" in found.facts["choices"].values()
    found = search.ranges(q, x, params, q.init(params), methods=("minmax", "mean"), progress=False)
    assert found.facts["loss"] <= found.facts["losses"]["minmax"]


# --- the recipe's file ----------------------------------------------------------------------------------------------

RECIPES = [
    Recipe(),
    Recipe(name='a "quoted" \\ name', target="tflm", ties=(("a", "b"), ("c", "d"))),
    Recipe(rules=(Rule("head/*", float=True), Rule("[[]x]", weight_bits=4, percentile=99.5), Rule("add:out"))),
    read_recipe({"weights": {"bits": 4, "ranges": "frozen"}, "activations": {"percentile": 99.0}, "rules": []}),
    read_recipe("dynamic-range-int8"),
    read_recipe({"backward": {"scheme": "row", "rules": [{"match": "a", "scheme": "tensor"}]}}),
]


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_as_a_file_is_the_same_recipe(recipe: Recipe, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(recipe_text(recipe))
    assert read_recipe(path) == recipe


def test_a_found_recipe_reads_well() -> None:
    recipe = Recipe(name="int8", rules=(Rule("add", activation_bits=16),))
    assert recipe_text(recipe) == 'name = "int8"\n\n[[rules]]\nmatch = "add"\nactivation_bits = 16\n'


def test_the_model_and_its_ranges_are_left_alone() -> None:
    case, qmodel = calibrated("perceptron")
    before = jax.tree.map(np.array, (nnx.state(case.model), qmodel.pure_ranges()))
    search.ranges(qmodel, case.batches, methods=("minmax", "mse"), progress=False)
    search.rollback(qmodel, case.batches, max_drop=1e-9, metric=noise, progress=False)
    after = jax.tree.map(np.array, (nnx.state(case.model), qmodel.pure_ranges()))
    jax.tree.map(np.testing.assert_array_equal, before, after)
    assert qmodel.core.recipe == Recipe(name="int8")
