"""Arithmetic of int32 in front of an embedding, a mask or an output: TFLite's operators on int32, exact, wrapping."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import jaxq
import jaxq.export
from jaxq import Recipe
from jaxq.errors import ExportError, TargetError
from jaxq.export.runtimes import litert
from jaxq.plan.target import TARGETS

LEAST, MOST = -(2**31), 2**31 - 1
ROWS = np.random.default_rng(1).normal(0, 1, (24, 4)).astype(np.float32)
IDS = np.random.default_rng(0).integers(1, 9, (7, 10)).astype(np.int32)
ANY = np.random.default_rng(0).integers(LEAST, MOST, (7, 10)).astype(np.int32)
ANY[0, :8] = [LEAST, MOST, -1, 0, 1, -7, 7, LEAST + 1]
ADDED = np.arange(10, dtype=np.int32) * 300_000_000

Function = Callable[[Any], Any]

# In JAX, what numpy (64 bits, then cut to 32) gives for it, and the operators of its file.
EVERYWHERE: dict[str, tuple[Function, Function, set[str]]] = {
    "abs": (jnp.abs, np.abs, {"SUB", "MAXIMUM"}),
    "add": (lambda x: x + 2_000_000_000, lambda x: x + 2_000_000_000, {"ADD"}),
    "add a vector": (lambda x: ADDED + x, lambda x: ADDED + x, {"ADD"}),
    "clamp": (lambda x: lax.clamp(-3, x, 5), lambda x: np.clip(x, -3, 5), {"MAXIMUM", "MINIMUM"}),
    "clip": (lambda x: jnp.clip(x, -3, 5), lambda x: np.clip(x, -3, 5), {"MAXIMUM", "MINIMUM"}),
    "div": (lambda x: lax.div(x, jnp.int32(7)), lambda x: np.trunc(x / 7), {"DIV"}),
    "maximum of two": (lambda x: jnp.maximum(x, x[:, ::-1]), lambda x: np.maximum(x, x[:, ::-1]), {"MAXIMUM"}),
    "minimum": (lambda x: jnp.minimum(x, 4), lambda x: np.minimum(x, 4), {"MINIMUM"}),
    "mul": (lambda x: x * 3, lambda x: x * 3, {"MUL"}),
    "neg": (lambda x: -x, lambda x: -x, {"SUB"}),
    "padded with 3": (
        lambda x: jnp.pad(x, ((0, 0), (1, 0)), constant_values=3),
        lambda x: np.pad(x, ((0, 0), (1, 0)), constant_values=3),
        {"CONCATENATION"},
    ),
    "power": (lambda x: x**3, lambda x: x * x % 2**32 * x, {"MUL"}),
    "rem": (lambda x: lax.rem(x, jnp.int32(7)), lambda x: np.fmod(x, 7), {"DIV", "MUL", "SUB"}),
    "rsub": (lambda x: 5 - x, lambda x: 5 - x, {"SUB"}),
    "shifted in": (
        lambda x: jnp.pad(x[:, :-1], ((0, 0), (1, 0))), lambda x: np.pad(x[:, :-1], ((0, 0), (1, 0))), {"PAD"}
    ),
    "shift left": (lambda x: x << 3, lambda x: x << 3, {"MUL"}),
    "sign": (jnp.sign, np.sign, {"MAXIMUM", "MINIMUM"}),
    "square": (jnp.square, np.square, {"MUL"}),
    "sub": (lambda x: x - x[:, :1], lambda x: x - x[:, :1], {"SUB"}),
}  # fmt: skip
# TFLite Micro has these for other types alone.
LITERT: dict[str, tuple[Function, Function, set[str]]] = {
    "all": (lambda x: jnp.all(x != 5, 1), lambda x: np.all(x != 5, 1), {"REDUCE_MIN"}),
    "any": (lambda x: jnp.any((x == 5) | (x == 0), 1), lambda x: np.any((x == 5) | (x == 0), 1), {"REDUCE_MAX"}),
    "count": (lambda x: jnp.sum(x > 0, 1), lambda x: np.sum(x > 0, 1), {"SUM", "SELECT_V2"}),
    "cumsum": (lambda x: jnp.cumsum(x, 1), lambda x: np.cumsum(x, 1), {"CUMSUM"}),
    "last bits": (lambda x: x & 15, lambda x: x & 15, {"FLOOR_MOD"}),
    "max": (lambda x: jnp.max(x, 1), lambda x: np.max(x, 1), {"REDUCE_MAX"}),
    "min": (lambda x: jnp.min(x, 1), lambda x: np.min(x, 1), {"REDUCE_MIN"}),
    "shift right": (lambda x: x >> 3, lambda x: x >> 3, {"FLOOR_DIV"}),
    "sum": (lambda x: jnp.sum(x, 1), lambda x: np.sum(x, 1), {"SUM"}),
    "where": (lambda x: jnp.where(x > 3, x, x + 1), lambda x: np.where(x > 3, x, x + 1), {"SELECT_V2"}),
    "xor": (lambda x: (x > 3) ^ (x < 100), lambda x: (x > 3) ^ (x < 100), {"NOT_EQUAL"}),
}


def cut(x: Any) -> np.ndarray:
    """The last 32 bits of integers of 64."""
    x = np.asarray(x)
    return x if x.dtype == np.bool_ else x.astype(np.int64).astype(np.uint32).astype(np.int32)


def exported(fn: Callable[..., Any], *args: np.ndarray, recipe: Any = "int8", params: Any = ROWS) -> Any:
    q = jaxq.quantize(fn, recipe, params, *(a[:1] for a in args))
    ranges = q.init(params, *(a[:1] for a in args))
    if ranges:
        ranges = jaxq.calibrate(q, [args], params, ranges, progress=False)
    return jaxq.export.to_tflite(q, params, ranges, verify=args, progress=False)


@pytest.mark.parametrize(
    "cases", [EVERYWHERE, pytest.param(LITERT, marks=pytest.mark.slow)], ids=["everywhere", "litert"]
)
def test_every_operator_has_numpys_integers_and_wraps(cases: dict[str, tuple[Function, Function, set[str]]]):
    functions = [fn for fn, _, _ in cases.values()]
    artifact = exported(lambda p, x: [fn(x) for fn in functions], ANY)
    kinds = {op.kind for op in artifact.program.operators}
    assert not kinds & {"QUANTIZE", "DEQUANTIZE"} and kinds >= {kind for *_, found in cases.values() for kind in found}
    for name, found in zip(cases, artifact.run(ANY), strict=True):
        np.testing.assert_array_equal(found, cut(cases[name][1](ANY.astype(np.int64))), err_msg=name)
    assert artifact.verify([ANY], families=("xnnpack", "reference")).ok
    if cases is EVERYWHERE:
        assert artifact.verify([ANY], families=("tflm",)).ok


def positions(p: Any, ids: Any) -> Any:
    """The positions that RoBERTa gives to tokens: counted from 2 on, 1 for padding (id 1)."""
    mask = (ids != 1).astype(jnp.int32)
    return p[jnp.cumsum(mask, 1) * mask + 1]


def mean_of_tokens(p: Any, ids: Any) -> Any:
    """The mean over the tokens that are no padding: a length as a real number."""
    mask = ids != 1
    length = jnp.maximum(jnp.sum(mask, 1), 1)
    return jnp.sum(p[ids] * mask.astype(jnp.float32)[..., None], 1) / length.astype(jnp.float32)[:, None]


def distances(p: Any, ids: Any) -> Any:
    """Rows by clipped distances between numbers."""
    return p[jnp.clip(ids[:, :, None] - ids[:, None, :] + 4, 0, 8)]


IN_FRONT: dict[str, tuple[Callable[..., Any], set[str]]] = {
    "clipped distances": (distances, {"SUB", "ADD", "MAXIMUM", "MINIMUM", "GATHER"}),
    "mean of tokens": (mean_of_tokens, {"SUM", "MAXIMUM", "SUB", "GATHER"}),
    "positions": (positions, {"CUMSUM", "MUL", "ADD", "GATHER"}),
}


@pytest.mark.parametrize("recipe", ["int8", pytest.param("float32", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "name", ["positions", *(pytest.param(n, marks=pytest.mark.slow) for n in IN_FRONT if n != "positions")]
)
def test_in_front_of_an_embedding(name: str, recipe: str):
    fn, operators = IN_FRONT[name]
    artifact = exported(fn, IDS, recipe=recipe)
    assert operators <= {op.kind for op in artifact.program.operators}
    wanted = np.asarray(fn(ROWS, IDS))
    step = 0.06 if recipe == "int8" else 1e-5
    np.testing.assert_allclose(np.asarray(artifact.run(IDS)[0]), wanted, rtol=0, atol=step)


def test_integers_have_a_real_number_where_they_are_bounded():
    """As [0, 10], and as what an ARG_MAX finds; the ids themselves may be anything."""

    def counted(p: Any, ids: Any, x: Any) -> list[Any]:
        best = jnp.argmax(x, 1) * 2 + 1
        return [jnp.sum(ids == 1, 1).astype(jnp.float32), (best - jnp.sum(ids == 2, 1)).astype(jnp.float32)]

    x = np.random.default_rng(2).normal(size=(7, 5)).astype(np.float32)
    artifact = exported(counted, IDS, x)
    tables = [t.shape for t in artifact.program.tensors if t.data is not None and t.dtype == "int8"]
    assert tables == [(11,), (19,)]  # 0 ... 10, and 1 - 10 ... 9 - 0
    for found, wanted in zip(artifact.run(IDS, x), counted(ROWS, IDS, x), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=0, atol=0.06)


REFUSED: dict[str, tuple[Function, str]] = {
    "or": (lambda ids: ids | 3, "`or`"),
    "a divisor that may be zero": (lambda ids: lax.div(ids, ids), "`div`"),
    "ids as numbers": (lambda ids: (ids + 1).astype(jnp.float32), "`convert_element_type`"),
    "product of all": (lambda ids: jnp.prod(ids, 1), "`reduce_prod`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_no_kernel_has_is_refused_by_the_users_line(name: str):
    fn, primitive = REFUSED[name]
    q = jaxq.quantize(lambda p, ids: fn(ids), "int8", ROWS, IDS[:1])
    assert primitive in str(q.plan) and "test_integers.py:" in str(q.plan)
    with pytest.raises(ExportError, match=f"{primitive} .*test_integers.py:.*has no export rule in jaxq"):
        ranges = q.init(ROWS, IDS[:1])
        ranges = jaxq.calibrate(q, [IDS], ROWS, ranges, progress=False) if ranges else ranges
        jaxq.export.to_tflite(q, ROWS, ranges)


def test_arithmetic_of_a_mask_of_integers_keeps_every_bit():
    """`(ids != 1) * 20_000_001 + 1` is folded into the mask's two numbers, in 32 bits and not in a float32's 24."""
    artifact = exported(lambda p, ids: (ids != 1).astype(jnp.int32) * 20_000_001 + 2, IDS)
    np.testing.assert_array_equal(artifact.run(IDS)[0], (IDS != 1).astype(np.int32) * 20_000_001 + 2)
    assert [op.kind for op in artifact.program.operators] == ["NOT_EQUAL", "SELECT_V2"]


def test_a_halved_mask_of_integers_is_rounded_towards_zero():
    artifact = exported(lambda p, ids: lax.div((ids != 1).astype(jnp.int32) * 3, jnp.int32(2)) * 2, IDS)
    np.testing.assert_array_equal(artifact.run(IDS)[0], np.where(IDS != 1, 2, 0))


ALL = EVERYWHERE | LITERT
BRIEF = ("last bits", "mul", "sum")


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in BRIEF else pytest.mark.slow) for n in sorted(ALL)])
def test_the_plan_says_what_tflite_micro_says_of_the_file(name: str) -> None:
    artifact = exported(lambda p, x: ALL[name][0](x), ANY)
    q = jaxq.quantize(lambda p, x: ALL[name][0](x), Recipe(target="tflm"), ROWS, ANY[:1])
    refused = "does not take" in str(q.plan)
    try:
        litert.run(artifact.data, [ANY], "tflm")
    except ExportError:
        assert refused
    else:
        assert not refused


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - {"litert", "litert-x86"}))
def test_what_a_target_lacks_for_int32_is_said_before_a_file_is_written(name: str) -> None:
    ids = np.ones((1, 6), np.int32)
    q = jaxq.quantize(lambda p, x: jnp.sum(x, 1), Recipe(target=name), {}, ids)
    assert f"{TARGETS[name].title} does not take SUM of int32" in str(q.plan)
    with pytest.raises(TargetError, match=r"\(SUM of int32, test_integers.py:\d+ .*\): .* does not take it"):
        jaxq.export.to_tflite(q, {}, q.init({}, ids), progress=False)


def test_a_kind_that_a_target_has_for_no_type_is_not_said_to_be_of_int32() -> None:
    assert TARGETS["ethos-u55"].refused("SELECT", [np.dtype(np.float32)]) == "SELECT"
    assert TARGETS["tflm"].refused("SELECT", [np.dtype(np.float32)]) is None
