"""Ops of one dimension less than TFLite's, and the mirrored ones of those that jaxq had: integers, and exact."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import ExportError

SERIES, IDS = (10, 6), (10,)
WEIGHTS = {
    "w": np.random.default_rng(0).normal(0, 0.5, (6, 8)).astype(np.float32),
    "alpha": np.linspace(-0.1, 0.4, 8).astype(np.float32),
    "rows": np.random.default_rng(1).normal(0, 1, (8, 4)).astype(np.float32),
}

Function = Callable[..., Any]


def behind(fn: Function) -> Function:
    """A function of the parameters and of what a dense layer makes of a series."""
    return lambda p, x: fn(p, x @ p["w"])


def pooled(pool: Function, window: int, **options: Any) -> Function:
    return behind(lambda p, x: pool(x, (window,), **options))


# Name: the function, the shape of its input, and operators that it is written with.
CASES: dict[str, tuple[Function, tuple[int, ...], set[str]]] = {
    "argmin": (behind(lambda p, x: jnp.argmin(x, -1)), SERIES, {"ARG_MIN"}),
    "argmin as a number": (
        behind(lambda p, x: jnp.argmin(x, -1).astype(jnp.float32)[..., None] * 0.1 + x), SERIES, {"ARG_MIN", "GATHER"}
    ),
    "cumsum": (behind(lambda p, x: jnp.cumsum(x, 1)), SERIES, {"FULLY_CONNECTED"}),
    "cumsum, last axis": (behind(lambda p, x: jnp.cumsum(x, -1)), SERIES, {"FULLY_CONNECTED"}),
    "cumsum, reverse": (behind(lambda p, x: lax.cumsum(x, 1, reverse=True)), SERIES, {"FULLY_CONNECTED"}),
    "divided by a column": (behind(lambda p, x: jnp.cumsum(x, 1) / jnp.arange(1.0, 11.0)[:, None]), SERIES, {"MUL"}),
    "flip": (behind(lambda p, x: jnp.flip(x, 1)), SERIES, {"REVERSE_V2"}),
    "flip, two axes": (behind(lambda p, x: lax.rev(x, (1, 2))), SERIES, {"REVERSE_V2"}),
    "floor of a quotient": (behind(lambda p, x: x // 0.5), SERIES, {"GATHER"}),
    "integer quotient": (lambda p, ids: p["rows"][ids // 2], IDS, {"FLOOR_DIV", "GATHER"}),
    "integer remainder": (lambda p, ids: p["rows"][ids % 3], IDS, {"FLOOR_MOD", "GATHER"}),
    "mask of int32": (
        lambda p, ids: p["rows"][ids] * (ids != 0).astype(jnp.int32).astype(jnp.float32)[..., None],
        IDS, {"NOT_EQUAL", "SELECT_V2", "MUL"},
    ),
    "min": (behind(lambda p, x: jnp.min(x, 1)), SERIES, {"REDUCE_MIN"}),
    "queries of every example": (
        behind(lambda p, x: jnp.broadcast_to(p["rows"].T, (x.shape[0], 4, 8)) @ x.swapaxes(1, 2)), SERIES, {"CONV_2D"}
    ),
    "running positions": (lambda p, ids: p["rows"][jnp.cumsum(ids, 1) // 32], IDS, {"CUMSUM", "FLOOR_DIV", "GATHER"}),
    "prelu": (behind(lambda p, x: jnp.where(x >= 0, x, p["alpha"] * x)), SERIES, {"PRELU"}),
    "prelu, >": (behind(lambda p, x: jnp.where(x > 0, x, p["alpha"] * x)), SERIES, {"PRELU"}),
    **{
        f"{pool.__name__} {window} by {stride} {padding}": (
            pooled(pool, window, strides=(stride,), padding=padding), SERIES, {kind}
        )
        for pool, kind in ((nnx.max_pool, "MAX_POOL_2D"), (nnx.avg_pool, "AVERAGE_POOL_2D"))
        for window, stride, padding in ((2, 2, "VALID"), (3, 1, "SAME"), (3, 2, "SAME"))
    },
    "avg_pool that counts padding": (
        pooled(linen.avg_pool, 3, strides=(2,), padding=((1, 1),), count_include_pad=True), SERIES, {"AVERAGE_POOL_2D"}
    ),
    "min_pool": (pooled(nnx.min_pool, 2, strides=(2,)), SERIES, {"MAX_POOL_2D"}),
}  # fmt: skip
TFLM_LACKS = {"CUMSUM", "FLOOR_DIV", "FLOOR_MOD"}  # of int32
WIDE = ("cumsum", "divided by a column", "flip", "max_pool 3 by 2 SAME", "avg_pool 2 by 2 VALID")


def examples(shape: tuple[int, ...], count: int = 7) -> np.ndarray:
    rng = np.random.default_rng(3)
    ids = rng.integers(0, 8, (count, *shape)).astype(np.int32)
    return ids if shape == IDS else rng.normal(0, 1, (count, *shape)).astype(np.float32)


def exported(fn: Function, x: np.ndarray, recipe: Any = "int8", target: str = "litert") -> Any:
    recipe = {"target": target, **recipe} if isinstance(recipe, dict) else recipe
    q = jaxq.quantize(fn, recipe, WEIGHTS, x[:1])
    assert not q.plan.islands, q.plan
    ranges = jaxq.calibrate(q, [x], WEIGHTS, q.init(WEIGHTS, x[:1]), progress=False)
    return jaxq.export.to_tflite(q, WEIGHTS, ranges, verify=x, progress=False)


@pytest.mark.parametrize("name", CASES)
def test_full_integer_and_exact(name: str):
    fn, shape, operators = CASES[name]
    x = examples(shape)
    artifact = exported(fn, x)
    kinds = {op.kind for op in artifact.program.operators}
    assert operators <= kinds and not kinds & {"QUANTIZE", "DEQUANTIZE"}
    assert artifact.certificate.ok and artifact.certificate.examples == len(x)
    if not kinds & TFLM_LACKS:
        assert artifact.verify([x], families=("tflm",)).ok


@pytest.mark.parametrize("name", WIDE)
def test_in_16_bits(name: str):
    fn, shape, operators = CASES[name]
    artifact = exported(fn, examples(shape), "int16x8")
    assert operators <= {op.kind for op in artifact.program.operators}
    assert {t.dtype for t in artifact.program.tensors if t.data is None} == {"int16"}


@pytest.mark.parametrize("name", ["cumsum", "flip", "prelu", "max_pool 2 by 2 VALID", "argmin"])
def test_float_files_have_the_operator(name: str):
    fn, shape, _ = CASES[name]
    x = examples(shape)
    q = jaxq.quantize(fn, "float32", WEIGHTS, x[:1])
    artifact = jaxq.export.to_tflite(q, WEIGHTS, q.init(WEIGHTS, x[:1]), verify=x, progress=False)
    wanted = {"cumsum": "CUMSUM", "flip": "REVERSE_V2", "prelu": "PRELU", "argmin": "ARG_MIN"}.get(name, "MAX_POOL_2D")
    assert wanted in {op.kind for op in artifact.program.operators}
    wanted_numbers = np.asarray(fn(WEIGHTS, x[:1]))
    np.testing.assert_allclose(
        np.asarray(artifact.run(x[:1])).reshape(wanted_numbers.shape), wanted_numbers, rtol=1e-5, atol=1e-5
    )


def test_a_rule_makes_a_running_sum_an_island():
    fn, shape, _ = CASES["cumsum"]
    x = examples(shape)
    q = jaxq.quantize(fn, {"rules": [{"match": "cumsum", "float": True}]}, WEIGHTS, x[:1])
    assert list(q.plan.islands) == ["cumsum"]
    ranges = jaxq.calibrate(q, [x], WEIGHTS, q.init(WEIGHTS, x[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, WEIGHTS, ranges, verify=x, progress=False)
    kinds = [op.kind for op in artifact.program.operators]
    assert kinds[:3] == ["FULLY_CONNECTED", "DEQUANTIZE", "CUMSUM"], kinds


class Learned(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense, self.act = nnx.Linear(6, 8, rngs=rngs), nnx.PReLU(0.2)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.act(self.dense(x))


class LinenLearned(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return linen.PReLU(negative_slope_init=0.2)(linen.Dense(8)(x))


class Both(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        cells = [nnx.RNN(nnx.GRUCell(6, 4, rngs=rngs)) for _ in range(2)]
        self.rnn = nnx.Bidirectional(*cells)

    def __call__(self, x: jax.Array) -> jax.Array:
        return cast(jax.Array, self.rnn(x))


class LinenBoth(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        both = linen.Bidirectional(linen.RNN(linen.GRUCell(4)), linen.RNN(linen.GRUCell(4)))
        return cast(jax.Array, both(x))


def of_module(model: Any, x: np.ndarray) -> tuple[Any, Any]:
    """A module of either kind, quantized, calibrated and exported; its plan and the artifact."""
    if isinstance(model, nnx.Module):
        q = jaxq.quantize(model, "int8", x[:1])
        jaxq.calibrate(q, [x], progress=False)
        return q.plan, jaxq.export.to_tflite(q, verify=x, progress=False)
    q = jaxq.quantize(model, "int8", x[:1])
    variables = q.init(jax.random.key(0), x[:1])
    trained = {**variables, "params": jax.tree.map(lambda p: p + 0.1, variables["params"])}  # biases begin at zero
    variables = jaxq.calibrate(q, [x], trained, progress=False)
    return q.plan, jaxq.export.to_tflite(q, variables, verify=x, progress=False)


@pytest.mark.parametrize("make", [lambda: Learned(nnx.Rngs(0)), LinenLearned], ids=["nnx", "linen"])
def test_a_learned_slope(make: Callable[[], Any]):
    plan, artifact = of_module(make(), examples((6,)))
    assert [op.kind for op in artifact.program.operators] == ["FULLY_CONNECTED", "PRELU"]
    assert not plan.islands and artifact.verify([examples((6,))], families=("tflm",)).ok


@pytest.mark.parametrize("make", [lambda: Both(nnx.Rngs(0)), LinenBoth], ids=["nnx", "linen"])
def test_recurrent_networks_in_both_directions(make: Callable[[], Any]):
    plan, artifact = of_module(make(), examples((2, 6), count=1))
    assert not plan.islands
    assert {"REVERSE_V2"} <= {op.kind for op in artifact.program.operators}


def test_a_learned_slope_has_the_gradient_of_its_function():
    """Of every channel. What lies outside of the output's range gives its gradient to the bound, not to the slope."""
    x = examples(SERIES)
    fn, w = CASES["prelu"][0], WEIGHTS
    q = jaxq.quantize(fn, "int8", w, x[:1])
    ranges = jaxq.calibrate(q, [x], w, q.init(w, x[:1]), progress=False)
    scale, zero_point = (np.asarray(ranges["prelu"][key]) for key in ("scale", "zero_point"))
    low, high = ((bound - zero_point) * scale for bound in (-128, 127))
    outside = (fn(w, x) < low) | (fn(w, x) > high)
    assert 0 < np.count_nonzero(outside) < 3  # the zero point is rounded, so the range ends a fraction of a step early
    ours = jax.grad(lambda p: (q.apply(p, ranges, x) ** 2).sum())(w)["alpha"]
    theirs = jax.grad(lambda p: (jnp.clip(fn(p, x), low, high) ** 2).sum())(w)["alpha"]
    np.testing.assert_allclose(ours, theirs, rtol=0.03, atol=0.002 * float(jnp.max(jnp.abs(theirs))))


def test_what_has_no_rule_is_said_of_jaxq():
    q = jaxq.quantize(lambda p, x: lax.cumlogsumexp(x @ p["w"], 1), "int8", WEIGHTS, examples(SERIES)[:1])
    text = str(q.plan)
    assert (
        "has no export rule in jaxq" in text and "test_mirrors.py:" in text and "TFLite" not in text.split("islands")[1]
    )
    ranges = q.init(WEIGHTS, examples(SERIES)[:1])
    with pytest.raises(ExportError, match="`cumlogsumexp`.*has no export rule in jaxq"):
        jaxq.export.to_tflite(q, WEIGHTS, jaxq.calibrate(q, [examples(SERIES)], WEIGHTS, ranges, progress=False))
