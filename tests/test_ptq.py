"""Laws of every post-training pass: the file stays equal to the training forward, in every integer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from tests.zoo import ZOO, Case

# Each pass as it is called on a calibrated model and data.
PASSES: Mapping[str, Callable[..., jaxq.ptq.Report]] = {
    "bias": jaxq.ptq.correct_biases,
    "equalize": jaxq.ptq.equalize,
    "gptq": jaxq.ptq.gptq,
    "improve": functools.partial(jaxq.ptq.improve, passes=["equalize", "round", "bias", "norm"], steps=2),
    "norm": jaxq.ptq.reestimate,
    "round": functools.partial(jaxq.ptq.round_weights, steps=20, examples=32),
    "smooth": jaxq.ptq.smooth,
}
QUICK = {("perceptron", "bias"), ("tied", "gptq")}
CASES = [
    pytest.param(network, name, marks=[pytest.mark.slow] * ((network, name) not in QUICK))
    for network in ZOO
    for name in PASSES
]


def quantized(case: Case, recipe: Any) -> Any:
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return qmodel


@functools.lru_cache(maxsize=1)
def calibrated(name: str) -> tuple[Case, Any, Any]:
    """A network, quantized and calibrated once for all passes, and its state before any."""
    case = ZOO[name]()
    qmodel = quantized(case, jaxq.Recipe(weights={"bits": 4, "per_channel": False}))  # pyright: ignore[reportArgumentType]
    return case, qmodel, jax.tree.map(np.array, nnx.state(qmodel))


@pytest.mark.filterwarnings("ignore::jaxq.PrecisionWarning")
@pytest.mark.parametrize(("name", "passed"), CASES)
def test_every_integer_is_equal_after_a_pass(name: str, passed: str) -> None:
    """Law 13: a pass changes parameters and ranges, never the lowering; and its own objective is no worse."""
    case, qmodel, before = calibrated(name)
    nnx.update(qmodel, jax.tree.map(jnp.asarray, before))
    report = PASSES[passed](qmodel, case.kwargs or case.args)
    assert all(change.after <= change.before for change in report.changes)
    args, kwargs = case.first(7)
    artifact = jaxq.export.to_tflite(qmodel, verify=kwargs or args, progress=False)
    assert artifact.certificate is not None and artifact.certificate.differing_integers == {
        "xnnpack": 0,
        "reference": 0,
    }
