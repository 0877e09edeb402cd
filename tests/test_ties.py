"""A recipe's ties: tensors that share one range, so that a state's integers that leave a file enter it again."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from jaxq.errors import PlanError, UnmatchedRuleError
from jaxq.export.io_formulas import quantized
from jaxq.export.runtimes import litert

RNG = np.random.default_rng(0)
PARAMS = {k: RNG.normal(0, 0.5, (4, 4)).astype(np.float32) for k in "wu"}
X, STATE = (RNG.normal(0, 1, (16, 4)).astype(np.float32) for _ in range(2))
TIED = {"ties": [["state_in", "state_out"]]}


def cell(p: Any, x: jax.Array, state_in: jax.Array) -> dict[str, jax.Array]:
    """A leaky sum, whose range is no prescribed one."""
    state = 0.5 * state_in + x @ p["w"]
    return {"state_out": state, "y": jax.nn.relu(state @ p["u"])}


def exported(recipe: Any) -> tuple[Any, Any, Any]:
    q = jaxq.quantize(cell, recipe, PARAMS, X[:1], STATE[:1])
    ranges = jaxq.calibrate(q, [(X, STATE)], PARAMS, q.init(PARAMS, X[:1], STATE[:1]), progress=False)
    return q, ranges, jaxq.export.to_tflite(q, PARAMS, ranges, verify=(X[:4], STATE[:4]), progress=False)


def grid(entry: Any) -> tuple[float, int]:
    return entry["scale"], entry["zero_point"]


def test_integers_of_a_tied_state_are_fed_back_as_they_are() -> None:
    q, ranges, artifact = exported(TIED)
    (x_entry, state_entry), (out_entry, _) = artifact.manifest["inputs"], artifact.manifest["outputs"]
    assert grid(state_entry) == grid(out_entry)
    real, state = jnp.zeros((1, 4)), quantized(np.zeros((1, 4), np.float32), state_entry)
    y = state
    for t in range(4):
        stepped = litert.run(artifact.data, [quantized(X[t : t + 1], x_entry), state], "xnnpack")
        assert isinstance(stepped, tuple)
        state, y = stepped
        result = q.apply(PARAMS, ranges, X[t : t + 1], real)
        real = result["state_out"]
        np.testing.assert_array_equal(state, quantized(np.asarray(real), out_entry))
    assert np.any(np.asarray(y) != y.flat[0])


def test_without_a_tie_the_grids_differ() -> None:
    _, _, artifact = exported("int8")
    assert grid(artifact.manifest["inputs"][1]) != grid(artifact.manifest["outputs"][0])


def test_a_tie_of_an_unknown_name_says_what_was_meant() -> None:
    with pytest.raises(UnmatchedRuleError, match="ties 'state_ou', which is none of .*'state_out'"):
        jaxq.quantize(cell, {"ties": [["state_in", "state_ou"]]}, PARAMS, X[:1], STATE[:1])


def test_a_tie_of_two_prescribed_scales_is_refused() -> None:
    def fn(p: Any, x: jax.Array) -> dict[str, jax.Array]:
        return {"a": jax.nn.softmax(x @ p["w"]), "b": jnp.tanh(x @ p["u"])}

    with pytest.raises(PlanError, match="ties a and b, and they cannot share a range"):
        jaxq.quantize(fn, {"ties": [["a", "b"]]}, PARAMS, X[:1])
