"""`improve`: the recipe's passes in their one right order, with one reference; errors; the three interfaces."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import InputError, RecipeError
from jaxq.plan.recipe import read_recipe
from jaxq.ptq.improve import PASSES, in_order
from tests.ptq_cases import NNX, W4, Linen, function, inputs, params, quantized

PLAN: Any = {"weights": {"bits": 4}, "passes": ["bias", "gptq"]}


def test_passes_run_in_their_order_whatever_the_recipe_says() -> None:
    assert in_order(["norm", "bias", "smooth", "round", "equalize"]) == ("equalize", "smooth", "round", "bias", "norm")
    assert list(PASSES) == ["equalize", "smooth", "round", "gptq", "bias", "norm"]


def test_it_is_the_passes_one_after_the_other_with_the_first_reference() -> None:
    """Mutant: the parameters at hand as the reference of the second pass."""
    q, x = quantized(), inputs()
    both, ranges, report = jaxq.ptq.improve(q.q, x, *q.state, passes=["bias", "gptq"])
    first, ranges, one = jaxq.ptq.gptq(q.q, x, *q.state)
    second, _, _ = jaxq.ptq.correct_biases(q.q, x, first, ranges, reference=one.reference)
    jax.tree.map(np.testing.assert_array_equal, both, second)
    jax.tree.map(np.testing.assert_array_equal, report.reference, q.params)
    assert [part.name for part in report.parts] == ["gptq", "bias"]
    ((name, before, after),) = report.sqnr
    assert name == "second/kernel:out" and after > before + 1
    assert f"{name}: SQNR {before:.1f} dB before, {after:.1f} dB after" in str(report)
    assert report.as_dict()["parts"][0]["changes"][0]["op"] == "first/kernel"


def test_the_three_interfaces_give_the_same_numbers() -> None:
    x, q = inputs(), quantized()
    wanted, ranges, _ = jaxq.ptq.improve(q.q, x, *q.state, passes=["gptq", "bias"])
    model = NNX()
    qmodel = jaxq.quantize(model, PLAN, x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    report = jaxq.ptq.improve(qmodel, [x[:30], x[30:]], reference=nnx.clone(model))
    assert report.name == "improve: gptq, bias"  # as the recipe says
    qmodule = jaxq.quantize(Linen(), PLAN, x[:1])
    variables, _ = jaxq.ptq.improve(qmodule, x, {"params": params(), "ranges": ranges})
    for name in ("first", "second"):
        np.testing.assert_array_equal(getattr(model, name).kernel[...], wanted[name]["kernel"])
        np.testing.assert_array_equal(variables["params"][name]["bias"], wanted[name]["bias"])


def test_errors_say_what_is_wrong() -> None:
    q = quantized()
    with pytest.raises(InputError, match="There is no pass 'biases'. Did you mean 'bias'?"):
        jaxq.ptq.improve(q.q, inputs(), *q.state, passes=["biases"])
    with pytest.raises(InputError, match='"round" and "gptq" choose the same integers. Give one of them.'):
        in_order(["round", "gptq"])
    with pytest.raises(RecipeError, match='passes has "round" and "gptq", which choose the same integers'):
        read_recipe({"passes": ["gptq", "round"]})
    with pytest.raises(RecipeError, match="Invalid enum value 'biased'"):
        read_recipe({"passes": ["biased"]})


def test_analysis_compares_with_the_reference_given() -> None:
    """Trap: the float reading of rounded parameters is no float model."""
    q, x = quantized(), inputs()
    found, ranges, report = jaxq.ptq.gptq(q.q, x, *q.state)
    site = "second/kernel:out"
    flattering = jaxq.analyze.diff(q.q, x, found, ranges, progress=False)[site].total.sqnr
    honest = jaxq.analyze.diff(q.q, x, found, ranges, reference=report.reference, progress=False)[site].total.sqnr
    floats, ours = np.asarray(function(q.params, x)), np.asarray(q.q.apply(found, ranges, x))
    assert honest == pytest.approx(10 * np.log10(np.sum(floats**2) / np.sum((floats - ours) ** 2)), abs=0.01)
    assert flattering > honest + 3
    given = {"verify": x, "reference": report.reference, "progress": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", jaxq.PrecisionWarning)
        said = jaxq.export.to_tflite(q.q, found, ranges, **given).manifest["precision"]["outputs"][site]
    assert said["sqnr"] == pytest.approx(honest, abs=0.01)
    health = jaxq.analyze.health(q.q, x, found, ranges, reference=report.reference)
    assert health.clipped == jaxq.analyze.health(q.q, x, q.params, ranges).clipped
    assert W4.passes == ()
