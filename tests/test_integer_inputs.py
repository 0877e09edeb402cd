"""Inputs of integers that a model reads as real numbers, such as images of uint8: in the file they are real numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.errors import PlanError

RNG = np.random.default_rng(0)
X = RNG.integers(0, 255, (5, 6)).astype(np.uint8)
W = (RNG.normal(size=(6, 6)) / 100).astype(np.float32)

CASES: dict[str, Callable[[Any, Any], Any]] = {
    "cast": lambda p, x: x.astype(jnp.float32) @ p,
    "cast after a reshape": lambda p, x: jax.nn.relu(x.reshape(-1, 3, 2).astype(jnp.float32)).reshape(-1, 6) @ p,
    "cast of a part": lambda p, x: x[:, 2:].astype(jnp.float32) @ p[2:],
    "scaled": lambda p, x: (x.astype(jnp.float32) / 255 - 0.5) @ p,
}


@pytest.mark.parametrize("recipe", ["int8", "float16", "dynamic-range-int8"])
@pytest.mark.parametrize("name", sorted(CASES))
def test_the_file_computes_the_trained_numbers(name: str, recipe: str) -> None:
    function = CASES[name]
    q = jaxq.quantize(function, recipe, W, X[:1])
    ranges = q.init(W, X[:1])
    ranges = jaxq.calibrate(q, [X], W, ranges, progress=False) if ranges else ranges
    artifact = jaxq.export.to_tflite(q, W, ranges, verify=X, progress=False)
    assert artifact.program.tensors[artifact.program.inputs[0]].dtype == ("int8" if recipe == "int8" else "float32")
    found, trained = artifact.run(X)[0], np.asarray(q.apply(W, ranges, X))
    np.testing.assert_allclose(found, trained, rtol=0, atol=0 if recipe == "int8" else 1e-5 * np.abs(trained).max())


def test_indices_that_are_numbers_too_are_refused() -> None:
    with pytest.raises(PlanError, match=r"input is read as integers by .* \(EMBEDDING, .* Give the model two inputs"):
        jaxq.quantize(lambda p, ids: p[ids] * ids.astype(jnp.float32)[..., None], "int8", W, X[:1].astype(np.int32))
