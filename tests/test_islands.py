"""Float islands: ops on floats between integers, in the file as in training; functions spelled out on floats."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import ExportError

X = np.random.default_rng(0).normal(size=(8, 4, 16)).astype(np.float32)
PARAMS = {
    "w": np.random.default_rng(1).normal(size=(16, 16)).astype(np.float32) / 4,
    "scale": np.linspace(0.5, 2.0, 16).astype(np.float32),
    "bias": np.linspace(-1.0, 1.0, 16).astype(np.float32),
}


def norm(p: Any, x: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    y = centred * lax.rsqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-6)
    return y * p["scale"] + p["bias"]


def block(p: Any, x: Any) -> Any:
    return norm(p, x + x @ p["w"]) @ p["w"]


def exported(fn: Any, recipe: Any, verify: Any = None) -> tuple[Any, Any]:
    q = jaxq.quantize(fn, recipe, PARAMS, X[:1])
    ranges = q.init(PARAMS, X[:1])
    ranges = ranges if q.plan.recipe.floats else jaxq.calibrate(q, [X], PARAMS, ranges, progress=False)
    return jaxq.export.to_tflite(q, PARAMS, ranges, verify=verify), q.apply(PARAMS, ranges, X)


ISLAND = {"rules": [{"match": m, "float": True} for m in ("add*", "mean*", "sub*", "mul*", "table*")]}


def test_an_island_is_in_the_file() -> None:
    artifact, forward = exported(block, ISLAND, np.random.default_rng(2).normal(size=(64, 4, 16)).astype(np.float32))
    proof = artifact.certificate  # each operator on the runtime's own numbers
    assert proof.ok and not sum(proof.differing_integers.values()) and proof.compared_integers > 40_000
    kinds = [op.kind for op in artifact.program.operators]
    floats = {t.name for t in artifact.program.tensors if t.dtype == "float32" and t.data is None}
    assert (kinds.count("DEQUANTIZE"), kinds.count("QUANTIZE"), kinds.count("RSQRT")) == (2, 1, 1)
    assert {"add", "mean", "sub", "mul", "mean_1", "table"} <= floats
    (found,) = artifact.run(X)
    step = artifact.manifest["outputs"][0]["scale"]
    assert np.max(np.abs(found - forward)) < 1.5 * step
    assert np.mean(np.abs(found - forward) > 0.5 * step) < 0.01


def test_a_function_without_an_operator_is_spelled_out_on_floats() -> None:
    artifact, _ = exported(block, "float32")
    assert not {"QUANTIZE", "DEQUANTIZE", "GATHER"} & {op.kind for op in artifact.program.operators}
    (found,) = artifact.run(X)
    np.testing.assert_allclose(found, block(PARAMS, X), atol=1e-5)


def test_one_that_cannot_be_spelled_out_is_refused() -> None:
    with pytest.raises(ExportError, match="jaxq has no rule that writes `atan` in float operators"):
        exported(lambda p, x: jnp.arctan(x @ p["w"]), "float32")


def test_a_mean_in_a_function_keeps_its_op() -> None:
    q = jaxq.quantize(norm, "int8", PARAMS, X[:1])
    product = ["RESHAPE", "AFFINE", "RESHAPE", "TRANSPOSE", "BATCH_MATMUL"]
    diagonal = ["RESHAPE", "PAD", "RESHAPE", "SLICE", "RESHAPE"]
    kinds = [op.kind for op in q.plan.graph.ops]
    assert kinds == ["MEAN", "SUB", *product, *diagonal, "TABLE", "MUL", "AFFINE"]


def test_an_operand_next_to_nothing_is_exported() -> None:
    artifact, forward = exported(lambda p, x: x - (x @ p["w"]) * 1e-6, "int8")
    (found,) = artifact.run(X)
    np.testing.assert_allclose(found, forward, atol=1e-6)


def test_islands_go_on_with_floats_where_integers_read_as_well() -> None:
    def stream(p: Any, x: Any) -> Any:
        y = x * x
        return y * y + y @ p["w"]

    recipe = {"rules": [{"match": m, "float": True} for m in ("mul*", "add*")]}
    artifact, forward = exported(stream, recipe, X)
    operators = {op.kind: op for op in artifact.program.operators if op.kind in ("QUANTIZE", "ADD")}
    names = {artifact.program.tensors[i].name for i in operators["ADD"].inputs}
    assert artifact.certificate.ok and "mul_1" in names and "QUANTIZE" in operators
    (found,) = artifact.run(X)
    assert np.mean(np.abs(found - forward) > 1e-5) < 0.01  # an integer that another last bit makes another


def test_moves_between_islands_are_islands() -> None:
    def turned(p: Any, x: Any) -> Any:
        return jax.nn.softmax(jax.nn.softmax(x @ p["w"]).reshape(-1, 2, 4).swapaxes(1, 2)).reshape(x.shape) @ p["w"]

    recipe = {"rules": [{"match": "softmax*", "float": True}]}
    q = jaxq.quantize(turned, recipe, PARAMS, X[:1])
    assert str(q.plan).count("it only moves values between float ops") == 2  # not the reshape that a product reads
    artifact, _ = exported(turned, recipe)
    assert [op.kind for op in artifact.program.operators].count("DEQUANTIZE") == 1


def attention(p: Any, x: Any, mask: Any) -> Any:
    q, k = (y.reshape(-1, 4, 2, 8).swapaxes(1, 2) for y in (x @ p["w"], x))
    scores = jnp.where(mask[:, None, None, :], q @ k.swapaxes(2, 3), -1e4)
    return (jax.nn.softmax(scores) @ k).swapaxes(1, 2).reshape(x.shape) @ p["w"]


def test_moves_between_islands_are_islands_at_every_batch() -> None:
    """The mask of one example was spread by other reshapes than that of many: a range for them was never reached."""
    rules = [{"match": m, "float": True} for m in ("batch_matmul*", "select*", "softmax*")]
    mask = np.arange(4) < np.random.default_rng(3).integers(1, 5, (8, 1))
    q = jaxq.quantize(attention, {"rules": rules}, PARAMS, X[:1], mask[:1])
    ranges = jaxq.calibrate(q, [(X, mask)], PARAMS, q.init(PARAMS, X[:1], mask[:1]), progress=False)
    proof = jaxq.export.to_tflite(q, PARAMS, ranges, verify=(X, mask)).certificate
    assert proof is not None and proof.ok and not sum(proof.differing_integers.values())
