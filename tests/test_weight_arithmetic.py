"""Weight arithmetic gives the same bits in training, compiled as a whole, and at export, one equation at a time.

Mutant: `traced` without `EXACT`, with which 1,440 of the 6,144 quotients of "root" are one ulp off.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.export.lowering.host_weights import host_weights
from jaxq.simulate.weights import weight_values
from tests.effort import little_effort

RNG = np.random.default_rng(0)
PARAMS = {
    "w": RNG.normal(size=(64, 96)).astype(np.float32),
    "var": RNG.uniform(0.05, 2.0, 96).astype(np.float32),
    "gain": RNG.normal(size=96).astype(np.float32),
}
X = np.zeros((1, 64), np.float32)

# Kernels as models compute them from their parameters.
KERNELS: dict[str, Any] = {
    "checkpointed": lambda p: p["w"] * jax.checkpoint(lambda v: jax.lax.rsqrt(v + 1e-3))(p["var"]),
    "compiled": lambda p: p["w"] * jax.jit(lambda v: jax.lax.rsqrt(v + 1e-3))(p["var"]),
    "cubed": lambda p: p["w"] * p["var"] ** 3,
    "exp": lambda p: p["w"] * jnp.exp(p["gain"]),
    "low rank": lambda p: p["w"] + p["w"][:, :4] @ p["w"][:4],
    "normalized": lambda p: p["w"] / jnp.linalg.norm(p["w"], axis=0) * p["gain"],
    "power": lambda p: p["w"] * jnp.power(p["var"] + 1e-3, -0.5),
    "reciprocal": lambda p: p["w"] * (1.0 / p["var"]),
    "root": lambda p: p["w"] / jnp.sqrt(p["var"] + 1e-3),
    "rsqrt": lambda p: p["w"] * (p["gain"] * jax.lax.rsqrt(p["var"] + 1e-3)),
    "scalar": lambda p: p["w"] / jnp.max(jnp.abs(p["w"])),
    "softplus": lambda p: p["w"] * jax.nn.softplus(p["gain"]),
    "standardized": lambda p: (p["w"] - p["w"].mean(0)) / jnp.sqrt(p["w"].var(0) + 1e-5),
    "tanh": lambda p: p["w"] * jnp.tanh(p["gain"]),
}


@pytest.mark.parametrize("little", [False, True])
@pytest.mark.parametrize("name", KERNELS)
def test_training_and_export_compute_the_same_weights(name: str, little: bool) -> None:
    with little_effort(little):
        graph = jaxq.quantize(lambda p, x: x @ KERNELS[name](p), "int8", PARAMS, X).plan.graph
        leaves = jax.tree.leaves(PARAMS)
        trained = jax.jit(lambda leaves: weight_values(graph, leaves))(leaves)
        exported = host_weights(graph, leaves)
    (op,) = graph.ops
    for value in trained:  # the constants of `var` have a NaN
        np.testing.assert_array_equal(np.asarray(trained[value]), np.asarray(exported[value]))
    assert np.all(np.isfinite(exported[op.inputs[1]]))


@pytest.mark.parametrize("name", ["normalized", "root", "rsqrt"])
def test_its_gradient_is_the_functions(name: str) -> None:
    graph = jaxq.quantize(lambda p, x: x @ KERNELS[name](p), "int8", PARAMS, X).plan.graph
    leaves, structure = jax.tree.flatten(PARAMS)
    value = graph.ops[0].inputs[1]
    found = jax.grad(lambda leaves: jnp.sum(jnp.sin(weight_values(graph, leaves)[value])))(leaves)
    wanted = jax.grad(lambda p: jnp.sum(jnp.sin(KERNELS[name](p))))(jax.tree.unflatten(structure, leaves))
    for ours, theirs in zip(found, jax.tree.leaves(wanted), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)


TABLES = {
    "quotients of positions": lambda p, x: x + p["rows"][jnp.arange(8) // 2],
    "towards zero": lambda p, x: x + p["rows"][jax.lax.div(jnp.arange(8) - 4, jnp.int32(2)) + 2],
    "of a parameter": lambda p, x: x * (jax.lax.div(p["n"], jnp.int32(2)).astype(jnp.float32)[:, None] + 0.25),
}


@pytest.mark.parametrize("name", TABLES)
def test_integers_are_divided_as_integers(name: str) -> None:
    """Mutant: numpy's `/` for integers at export."""
    params = {"rows": RNG.normal(size=(6, 16)).astype(np.float32), "n": np.arange(8, dtype=np.int32) - 4}
    x = RNG.normal(size=(7, 8, 16)).astype(np.float32)
    q = jaxq.quantize(TABLES[name], "int8", params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x[:1]), progress=False)
    proof = jaxq.export.to_tflite(q, params, ranges, verify=x, progress=False).certificate
    assert proof is not None and proof.ok and not sum(proof.differing_integers.values())
