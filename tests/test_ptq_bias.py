"""Bias correction against its own identity, a plain numpy reading, and across the three interfaces."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import InputError, RangeError
from tests.ptq_cases import NNX, W4, Linen, Quantized, function, grid, inputs, params, quantized, rounded


def corrected() -> tuple[Quantized, Any, jaxq.ptq.Report]:
    q = quantized()
    found, ranges, report = jaxq.ptq.correct_biases(q.q, inputs(), *q.state)
    return Quantized(q.q, found, ranges), q, report


def in_numpy(q: Any, p: Any) -> dict[str, np.ndarray]:
    """The biases that make up for the rounding of kernels and activations, op after op."""
    w1, b1, w2, b2 = (np.asarray(p[n][k], np.float64) for n in ("first", "second") for k in ("kernel", "bias"))
    ranges = {name: (r["scale"], np.rint(r["zero_point"])) for name, r in q.ranges.items()}
    x = inputs().astype(np.float64)
    hidden = x @ w1 + b1
    x_q = grid(*ranges["input"], x)
    c1 = b1 + np.mean(hidden - (x_q @ rounded(w1) + b1), 0)
    step = float(ranges["input"][0]) * np.abs(w1).max(0) / 7  # of the accumulator, in which the bias is an integer
    hidden_q = grid(*ranges["first/kernel:out"], np.maximum(x_q @ rounded(w1) + np.rint(c1 / step) * step, 0))
    y, y_q = np.maximum(hidden, 0) @ w2 + b2, hidden_q @ rounded(w2) + b2
    return {"first": c1, "second": b2 + np.mean(y - y_q, 0)}


def test_the_mean_error_of_each_op_is_gone() -> None:
    """The identity: after the pass E[y - y_q] is zero in every channel. Mutants: the sign of the correction turned; the
    mean over channels too; the prefix in floats in place of integers (checked by a second pass, which finds nothing).
    """
    after, before, report = corrected()
    assert all(change.before > 1e-3 and change.after < 1e-6 for change in report.changes)
    _, _, again = jaxq.ptq.correct_biases(after.q, inputs(), *after.state, reference=before.params)
    assert all(change.before < 1e-6 for change in again.changes)


def test_biases_are_those_of_plain_numpy() -> None:
    """Mutants: the float prefix in place of the integer one; the mean of |error|; the activation forgotten."""
    after, before, _ = corrected()
    for name, wanted in in_numpy(before, before.params).items():
        np.testing.assert_allclose(after.params[name]["bias"], wanted, rtol=0, atol=2e-5)
        np.testing.assert_array_equal(after.params[name]["kernel"], before.params[name]["kernel"])


def test_the_reference_of_a_function_keeps_the_structure_of_its_params() -> None:
    """Params that look like Linen's pair of variables and keys are a function's all the same."""
    params, x = (jnp.eye(6), {}), inputs()
    q = jaxq.quantize(lambda p, x: x @ p[0] + 1.0, "int8", params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x[:1]), progress=False)
    _, _, report = jaxq.ptq.gptq(q, x, params, ranges)
    assert jax.tree.structure(report.reference) == jax.tree.structure(params)


def test_the_reference_is_the_parameters_given() -> None:
    """Trap: after rounding the parameters are no float model. With the untouched parameters the same biases come out as
    without the rounding; with the rounded ones hardly anything moves, for they seem exact.
    """
    q = quantized()
    ruined = {n: {"kernel": jnp.asarray(rounded(np.asarray(a["kernel"])), jnp.float32), "bias": a["bias"]}
              for n, a in q.params.items()}  # fmt: skip
    right, _, report = jaxq.ptq.correct_biases(q.q, inputs(), ruined, q.ranges, reference=q.params)
    for name, wanted in in_numpy(q, q.params).items():
        np.testing.assert_allclose(right[name]["bias"], wanted, rtol=0, atol=2e-5)
    wrong, _, _ = jaxq.ptq.correct_biases(q.q, inputs(), ruined, q.ranges)
    assert np.abs(wrong["second"]["bias"] - right["second"]["bias"]).max() > 0.01
    assert report.reference is not None
    np.testing.assert_array_equal(report.reference["first"]["kernel"], q.params["first"]["kernel"])


def test_the_three_interfaces_give_the_same_numbers() -> None:
    x = inputs()
    after, _, _ = corrected()
    model = NNX()
    qmodel = jaxq.quantize(model, W4, x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    report = jaxq.ptq.correct_biases(qmodel, x, reference=nnx.clone(model))
    assert model.first.bias is not None
    np.testing.assert_array_equal(model.first.bias[...], after.params["first"]["bias"])
    assert isinstance(report, jaxq.ptq.Report)
    qmodule = jaxq.quantize(Linen(), W4, x[:1])
    variables = {"params": params(), "ranges": after.ranges}
    variables, report = jaxq.ptq.correct_biases(qmodule, [x[:40], x[40:]], variables, reference={"params": params()})
    np.testing.assert_array_equal(variables["params"]["second"]["bias"], after.params["second"]["bias"])
    assert "corrected" in str(report)


def test_a_layer_without_a_bias_is_left_alone_by_name() -> None:
    q = jaxq.quantize(lambda p, x: x @ p["w"], W4, {"w": params()["first"]["kernel"]}, inputs()[:1])
    p = {"w": params()["first"]["kernel"]}
    ranges = jaxq.calibrate(q, [inputs()], p, q.init(p, inputs()[:1]), progress=False)
    found, _, report = jaxq.ptq.correct_biases(q, inputs(), p, ranges)
    np.testing.assert_array_equal(found["w"], p["w"])
    assert "left alone. The bias of w" in report.changes[0].note
    assert report.changes[0].before == report.changes[0].after


def test_errors_say_what_is_wrong() -> None:
    q = quantized()
    with pytest.raises(InputError, match="There is no example to improve the model on"):
        jaxq.ptq.correct_biases(q.q, [], *q.state)
    with pytest.raises(InputError, match="The reference has 2 parameters and the model 4, or their shapes differ"):
        jaxq.ptq.correct_biases(q.q, inputs(), *q.state, reference={"first": q.params["first"]})
    fresh = jaxq.quantize(function, W4, params(), inputs()[:1])
    with pytest.raises(RangeError, match=r"Call jaxq.calibrate first"):
        jaxq.ptq.correct_biases(fresh, inputs(), params(), fresh.init(params(), inputs()[:1]))
