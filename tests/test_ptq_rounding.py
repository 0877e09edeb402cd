"""Learned rounding against every rounding of a small layer, and its formulas against numbers of the definition."""

from __future__ import annotations

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.errors import InputError
from jaxq.ptq.adaround import Settings, annealed, stretched, unstretched
from jaxq.ptq.blocks import _at_logits, blocks_of
from jaxq.ptq.rounding import _drawn
from jaxq.ptq.walk import Pair
from tests.ptq_cases import W4, function, grid, inputs, params, quantized

# h(V) and h'(V) of Nagel et al. 2020, equation 23, by the definition; brevitas' LearnedRoundSte gives the same to 5e-8.
GOLDEN = {
    -3.0: (0.0, 0.0),
    -1.0: (1.2 / (1 + math.e) - 0.1, 1.2 * math.e / (1 + math.e) ** 2),
    0.0: (0.5, 0.3),
    0.5: (0.6469511, 0.2820045),
    2.0: (0.9569564, 0.1259923),
    3.0: (1.0, 0.0),
}


@pytest.mark.parametrize("v", GOLDEN)
def test_the_stretched_sigmoid_and_its_slope(v: float) -> None:
    """Mutants: 1.1 in place of 1.2; a clip without a flat end."""
    h, slope = jax.value_and_grad(lambda v: stretched(v))(jnp.float32(v))
    assert (float(h), float(slope)) == pytest.approx(GOLDEN[v], abs=2e-7)


def test_it_begins_at_the_fraction() -> None:
    h = jnp.linspace(0.001, 0.999, 41)
    np.testing.assert_allclose(stretched(unstretched(h)), h, atol=1e-6)


def test_beta_falls_from_20_to_2_after_a_fifth() -> None:
    found = [float(annealed(jnp.float32(t), 1000)) for t in (0, 200, 600, 1000)]
    assert found == pytest.approx([20, 20, 11, 2], abs=1e-4)


def one_neuron() -> tuple[Any, dict[str, Any], Any, np.ndarray]:
    p = {"w": params()["first"]["kernel"][:, 3:4], "b": params()["first"]["bias"][3:4]}
    x = inputs()
    q = jaxq.quantize(lambda p, x: jax.nn.relu(x @ p["w"] + p["b"]), W4, p, x[:1])
    return q, p, jaxq.calibrate(q, [x], p, q.init(p, x[:1]), progress=False), x


def test_no_rounding_of_a_small_layer_is_better() -> None:
    """Of all 2^6 roundings the one found is the best. Mutants: the loss without the activation; the float input in
    place of the integer one; the sign of the second term turned.
    """
    q, p, ranges, x = one_neuron()
    found, _, report = jaxq.ptq.round_weights(q, x, p, ranges, steps=300)
    w, b = (np.asarray(p[k], np.float64) for k in ("w", "b"))
    scale = np.abs(w).max() / 7
    x_q = grid(ranges["input"]["scale"], np.rint(ranges["input"]["zero_point"]), x.astype(np.float64))
    y = np.maximum(x @ w + b, 0)
    below = np.floor(w / scale)
    errors = {}
    for up in itertools.product((0, 1), repeat=6):
        kernel = np.where(np.abs(w) == np.abs(w).max(), w, (below + np.array(up)[:, None]) * scale)
        errors[up] = np.sum((np.maximum(x_q @ kernel + b, 0) - y) ** 2) / np.sum(y**2)
    assert report.changes[0].after == pytest.approx(min(errors.values()), rel=1e-3)
    assert report.changes[0].before > 4 * report.changes[0].after
    assert float(jnp.max(jnp.abs(found["w"]))) == float(jnp.max(jnp.abs(p["w"])))  # it sets the scale: not moved a bit


def test_the_better_of_nearest_and_learned_is_kept() -> None:
    """Mutant: the learned one is always taken: one step moves nothing, and its rounding of h is nearest's."""
    q, p, ranges, x = one_neuron()
    found, _, report = jaxq.ptq.round_weights(q, x, p, ranges, steps=1)
    assert report.changes[0].after == report.changes[0].before
    np.testing.assert_array_equal(found["w"], p["w"])


def test_the_same_call_gives_the_same_integers() -> None:
    q, p, ranges, x = one_neuron()
    (a, _, _), (b, _, _) = (jaxq.ptq.round_weights(q, x, p, ranges, steps=30, seed=1, drop=0.5) for _ in range(2))
    np.testing.assert_array_equal(a["w"], b["w"])


def test_drop_takes_a_share_of_the_float_inputs() -> None:
    """Mutant: the shares exchanged."""
    inputs = Pair(jnp.zeros((40, 50)), jnp.ones((40, 50)))
    x, y = _drawn(Settings(drop=0.25), inputs, jnp.arange(40), jnp.int32(3))
    assert x.shape == (32, 50) and y.shape == (32,)
    assert 0.2 < float(jnp.mean(x)) < 0.3
    assert float(jnp.max(_drawn(Settings(), inputs, jnp.arange(40), jnp.int32(3))[0])) == 0.0


# --- by block -------------------------------------------------------------------------------------------------------


def residual(p: Any, x: jax.Array) -> jax.Array:
    """A dense layer, a residual branch of two, a head."""
    stem = jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"])
    branch = jax.nn.relu(stem @ p["a"] + 0.1) @ p["b"] + 0.2
    return jax.nn.relu(stem + branch) @ p["second"]["kernel"] + p["second"]["bias"]


def residual_params() -> dict[str, Any]:
    rng = np.random.default_rng(3)
    return params() | {k: jnp.asarray(rng.normal(0, 0.4, (8, 8)), jnp.float32) for k in ("a", "b")}


def test_blocks_end_at_residual_sums() -> None:
    """Inside a branch two tensors go on, so that nothing is cut there; a chain is cut after four kernels."""
    plan = jaxq.quantize(residual, W4, residual_params(), inputs()[:1]).plan
    found = [[op.name for op in block if op.name in plan.weights] for block in blocks_of(plan.graph, set(plan.weights))]
    assert found == [["first/kernel", "a", "b"], ["second/kernel"]]
    chain = jaxq.quantize(lambda p, x: x @ p @ p.T @ p @ p.T @ p, W4, jnp.ones((6, 8)), inputs()[:1]).plan
    assert [len(block) for block in blocks_of(chain.graph, set(chain.weights))] == [4, 1]


@pytest.mark.slow
def test_a_block_is_learned_as_one() -> None:
    """The objective is the network's own error where the network is one block. Mutants: the float input in place of the
    integer one in `error`; nearest kept whatever was learned.
    """
    q, x = quantized(), inputs()
    found, ranges, report = jaxq.ptq.round_weights(q.q, x, *q.state, block=True, steps=200)
    (change,) = report.changes
    assert change.op == "first/kernel to second/kernel" and change.after < 0.7 * change.before
    floats = np.asarray(function(q.params, x), np.float64)
    for state, said in ((q.state, change.before), ((found, ranges), change.after)):
        ours = np.asarray(q.q.apply(*state, x), np.float64)
        assert np.sum((ours - floats) ** 2) / np.sum(floats**2) == pytest.approx(said, rel=1e-4)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::jaxq.PrecisionWarning")
def test_blocks_of_a_residual_network_weighted_by_fisher() -> None:
    p, x = residual_params(), inputs()
    q = jaxq.quantize(residual, W4, p, x[:1])
    ranges = jaxq.calibrate(q, [x], p, q.init(p, x[:1]), progress=False)
    found, ranges, report = jaxq.ptq.round_weights(q, x, p, ranges, block=True, fisher=True, drop=0.5, steps=60)
    assert [c.op for c in report.changes] == ["first/kernel to b", "second/kernel"]
    assert all(c.after <= c.before for c in report.changes)
    proof = jaxq.export.to_tflite(q, found, ranges, verify=x, reference=p, progress=False).certificate
    assert proof is not None and proof.ok


def shared_row(p: Any, x: Any, row: Any) -> Any:
    """A row that all examples share, and positions of all examples in one axis."""
    y = (jax.nn.relu(x @ p["a"]) + row).reshape(-1, 4)
    return (jax.nn.relu(y @ p["b"]) @ p["c"]).reshape(len(x), -1)


@pytest.mark.slow
def test_a_block_with_a_shape_of_its_own_and_an_input_without_a_batch() -> None:
    """Of 70 examples, two chunks, for whose size the plan has the shape of the positions."""
    rng = np.random.default_rng(0)
    x, row = rng.normal(size=(70, 6)).astype(np.float32), rng.normal(size=(8,)).astype(np.float32)
    p = {k: rng.normal(size=s).astype(np.float32) for k, s in {"a": (6, 8), "b": (4, 5), "c": (5, 2)}.items()}
    q = jaxq.quantize(shared_row, W4, p, x[:1], row)
    ranges = jaxq.calibrate(q, [(x, row)], p, q.init(p), progress=False)
    found, ranges, report = jaxq.ptq.round_weights(q, (x, row), p, ranges, block=True, steps=300)
    assert all(c.after <= c.before for c in report.changes) and any(c.after < 0.9 * c.before for c in report.changes)
    proof = jaxq.export.to_tflite(q, found, ranges, verify=(x, row), reference=p, progress=False).certificate
    assert proof is not None and proof.ok


def test_fisher_is_the_squared_slope_of_the_log_likelihood() -> None:
    """At the logits: (1 - p)^2 for the class itself, p^2 for the others."""
    logits = np.array([[2.0, 0.5, -1.0]], np.float32)
    p = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(_at_logits(jnp.asarray(logits)), np.where(p == p.max(), (1 - p) ** 2, p**2), rtol=1e-5)
    with pytest.raises(InputError, match="give block=True with it"):
        jaxq.ptq.round_weights(None, inputs(), fisher=True)
