"""The last step of `jaxq.search.tune`: training on the float model's outputs, where nothing else suffices."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq import search
from jaxq.errors import InputError
from jaxq.quantization import bind
from jaxq.search.distillation import distance, taught
from tests.ptq_cases import NNX, W4, Linen, function, inputs, params, quantized

GIVEN: Any = {"max_drop": 0.0, "methods": ("minmax",), "choices": (), "rate": 3e-2, "progress": False}


def error(result: Any, wanted: Any) -> Any:
    """Minus the divergence from the float model's classes, of each example: a metric without labels."""
    return -jaxq.losses.distilled(result, wanted)


def test_it_trains_where_the_drop_is_missed_and_installs_what_it_measured() -> None:
    x = inputs()
    q = jaxq.quantize(function, W4, params(), x[:1])
    given = {**GIVEN, "metric": error}
    before = search.tune(q, x, params(), q.init(params(), x[:1]), **given)
    found = search.tune(q, x, params(), q.init(params(), x[:1]), steps=40, **given)
    assert [row[0] for row in found.table] == ["float", "calibrate", "training", "result"]
    assert found.table[2][1] == "40 steps" and found.table[2][4] == "kept"
    assert 0.0 > found.facts["metric"] > before.facts["metric"]
    tuned, ranges = found.install(q, params(), q.init(params(), x[:1]))
    ours = np.asarray(q.apply(tuned, ranges, x))
    wanted = np.mean(error(jnp.asarray(ours), function(params(), jnp.asarray(x))))
    assert float(wanted) == pytest.approx(found.facts["metric"], rel=1e-4)


@pytest.mark.slow
def test_nnx_and_linen_train_alike_and_the_file_is_exact() -> None:
    x = inputs()
    model = NNX()
    q = jaxq.quantize(model, W4, x[:1])
    found = search.tune(q, x, metric=error, steps=40, **GIVEN)
    np.testing.assert_array_equal(model.first.kernel[...], params()["first"]["kernel"])  # a search changes nothing
    assert found.install(q) is None
    proof = jaxq.export.to_tflite(q, verify=x, reference=NNX(), progress=False).certificate
    assert proof is not None and proof.ok
    module = jaxq.quantize(Linen(), W4, x[:1])
    variables = {"params": params(), "ranges": module.init(jax.random.key(0), x[:1])["ranges"]}
    also = search.tune(module, x, variables, metric=error, steps=40, **GIVEN)
    assert also.facts["metric"] == found.facts["metric"]
    np.testing.assert_array_equal(module.apply(also.install(module, variables), x), q(x))


@pytest.mark.slow
def test_an_input_without_a_batch_is_whole_in_every_step() -> None:
    """Forty examples in two batches, beside a row that all of them share."""
    x, row = (
        np.random.default_rng(0).normal(size=(40, 4)).astype(np.float32),
        np.array([0.5, 1.0, 2.0, 1.0], np.float32),
    )
    w = np.random.default_rng(1).normal(size=(4, 3)).astype(np.float32)
    q = jaxq.quantize(lambda w, x, row: (x * row) @ w, "int8", w, x[:1], row)
    bound = bind(q, w, jaxq.calibrate(q, [(x, row)], w, q.init(w), progress=False))
    learned = taught(bound, (x, row), steps=2, rate=1e-3, progress=False)
    assert np.isfinite(learned.params).all() and not np.array_equal(learned.params, w)


def test_a_search_without_parameters_installs_nothing() -> None:
    found = search.Found(W4, "", (), (), {})
    with pytest.raises(InputError, match="found a recipe alone"):
        found.install(jaxq.quantize(NNX(), W4, inputs()[:1]))


def test_the_loss_is_a_divergence_of_logits_and_else_an_error() -> None:
    plan = quantized().q.plan
    rng = np.random.default_rng(0)
    for shape in ((4, 5), (4, 3, 5), (4, 1)):
        a, b = (jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(2))
        relative = float(jnp.mean((a - b) ** 2) / jnp.mean(b**2))
        wanted = float(jnp.mean(jaxq.losses.distilled(a, b))) if shape == (4, 5) else relative
        assert float(distance(plan, [a], {plan.graph.outputs[0]: b})) == pytest.approx(wanted, rel=1e-5)
