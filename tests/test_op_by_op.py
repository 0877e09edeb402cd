"""Proofs operator by operator: the integers of the whole, compiled once for all operators that compute alike."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.export.evaluate.op_by_op import OperatorByOperator
from jaxq.export.evaluate.program import each_operator, evaluate
from jaxq.export.io_formulas import quantized
from jaxq.export.proof import families, forward, quality
from jaxq.export.runtimes import litert
from jaxq.graph import Op, shared
from jaxq.graph.capture import trace
from jaxq.graph.recent import Recent
from jaxq.ops import compute
from jaxq.simulate.effort import for_results, quickly, small
from jaxq.simulate.forward import simulate
from jaxq.simulate.op_by_op import OpByOp
from jaxq.simulate.steps import step_key
from tests import zoo

RNG = np.random.default_rng(0)


def exported(name: str, recipe: str = "int8") -> tuple[jaxq.export.Artifact, list[np.ndarray], tuple[np.ndarray, ...]]:
    """A network of the zoo: its artifact, five examples as the file's inputs, and as the model's."""
    case = zoo.ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    if not qmodel.plan.recipe.floats:
        jaxq.calibrate(qmodel, case.batches, progress=False)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    arrays = tuple(a[:5] for a in case.arrays)
    return artifact, [quantized(a, e) for a, e in zip(arrays, artifact.manifest["inputs"], strict=True)], arrays


def structure(fn, *arguments):
    return shared.structure(trace(lambda *a: [fn(*a)], arguments, anonymous=True))


# --- compiled once --------------------------------------------------------------------------------------------------


def test_functions_that_differ_in_numbers_have_one_structure() -> None:
    x = jnp.ones((3, 4))
    one = structure(lambda a: jnp.clip(a * np.full(4, 2.0, np.float32) + 1, -1.0, 6.0), x)
    other = structure(lambda a: jnp.clip(a * np.full(4, 3.0, np.float32) + 2, 0.0, 2.0), x)
    assert one == other and hash(one) == hash(other)


@pytest.mark.parametrize(
    "other",
    [
        lambda a: jnp.sum(a, 0) * 2.0,
        lambda a: jnp.max(a, 1) * 2.0,
        lambda a: 2.0 - jnp.sum(a, 1),
        lambda a: jnp.sum(a, 1) * np.full((3,), 2.0, np.float32),
        lambda a: a[:, 0] * jnp.sum(a, 1) * 2.0,
    ],
)
def test_functions_that_differ_otherwise_do_not(other) -> None:
    x = jnp.ones((3, 4))
    assert structure(lambda a: jnp.sum(a, 1) * 2.0, x) != structure(other, x)


def test_a_shared_function_computes_with_its_own_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_compiled", Recent(shared.MOST))
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    for scale, shift in ((2.0, 1.0), (5.0, -3.0)):
        run = shared.prepared(lambda a, s=scale, d=shift: [a * np.full(3, s, np.float32) + d], [x], quickly())
        np.testing.assert_array_equal(run(x)[0], x * np.float32(scale) + np.float32(shift))
    assert len(shared._compiled) == 1


def test_what_is_kept_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shared, "_compiled", Recent(2))
    for size in range(1, 5):
        shared.prepared(lambda a: [a + 1], [jax.ShapeDtypeStruct((size,), jnp.float32)], {})
    assert len(shared._compiled) == 2


def test_large_results_are_optimized() -> None:
    assert for_results(10) == quickly() and for_results(10**7) == small()
    assert quickly().keys() > small().keys()


# --- the same integers ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "perceptron" else pytest.mark.slow) for n in zoo.ZOO]
)
@pytest.mark.parametrize("family", ["xnnpack", pytest.param("reference", marks=pytest.mark.slow)])
def test_operators_apart_give_the_integers_of_the_whole(name: str, family: str) -> None:
    artifact, inputs, _ = exported(name)
    apart = OperatorByOperator(artifact.program, family)
    for given in (inputs, [a[:1] for a in inputs]):
        whole = jax.jit(evaluate(artifact.program, family, every_tensor=True), compiler_options=quickly())(*given)
        found = apart(*given)
        assert isinstance(whole, dict) and found.keys() == whole.keys()
        for index, wanted in whole.items():
            assert found[index].dtype == wanted.dtype
            np.testing.assert_array_equal(found[index], wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["heads", "series", "two_inputs"])
def test_operators_apart_on_given_tensors(name: str) -> None:
    artifact, inputs, _ = exported(name, "dynamic-range-int8")
    given = litert.run(artifact.data, inputs, "xnnpack", every_tensor=True)
    assert isinstance(given, dict)
    whole = jax.jit(each_operator(artifact.program, "xnnpack"), compiler_options=quickly())(given)
    found = OperatorByOperator(artifact.program, "xnnpack").on(given)
    assert found.keys() == whole.keys()
    for index, wanted in whole.items():
        np.testing.assert_allclose(found[index], wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        ("perceptron", "int8"),
        *(
            pytest.param(n, r, marks=pytest.mark.slow)
            for n in zoo.ZOO
            for r in ("int8", "int16x8")
            if (n, r) != ("perceptron", "int8")
        ),
        *(pytest.param("heads", r, marks=pytest.mark.slow) for r in ("int4", "dynamic-range-int8", "float16")),
    ],
)
def test_a_proof_op_by_op_is_the_proof_as_a_whole(name: str, recipe: str, monkeypatch: pytest.MonkeyPatch) -> None:
    artifact, _, arrays = exported(name, recipe)
    whole = artifact.verify(arrays, progress=False)
    for module in (families, forward, quality):
        monkeypatch.setattr(module, "LONG", 0)
    apart = exported(name, recipe)[0].verify(arrays, progress=False)
    assert apart.ok and whole.ok
    assert apart.as_dict() == whole.as_dict()


@pytest.mark.parametrize("multiplier", [pytest.param(1, marks=pytest.mark.slow), 3])
@pytest.mark.parametrize(
    ("stride", "dilation"), [pytest.param((1, 1), (1, 1), marks=pytest.mark.slow), ((2, 1), (1, 2))]
)
def test_a_depthwise_product_tap_by_tap(multiplier: int, stride: tuple[int, int], dilation: tuple[int, int]) -> None:
    x = jnp.asarray(RNG.integers(-255, 256, (2, 9, 8, 4)), jnp.float32)
    w = jnp.asarray(RNG.integers(-127, 128, (3, 2, 1, 4 * multiplier)), jnp.float32)
    attrs = {"stride": stride, "dilation": dilation, "padding": ((1, 2), (0, 1))}
    op = Op("DEPTHWISE_CONV_2D", "d", (), (), attrs)
    np.testing.assert_array_equal(compute.depthwise_by_taps(op, x, w), compute.conv_2d(op, x, w))


# --- which ops are one function --------------------------------------------------------------------------------------


def two_sums(p: dict[str, jax.Array], x: jax.Array) -> tuple[jax.Array, ...]:
    """A sum of tensors of one scale, then a sum of tensors of two."""
    a, b, c, d = (x @ p[name] for name in "abcd")
    return jnp.maximum(a, b), a + b, c + d


def test_ops_whose_operands_share_scales_in_other_ways_are_two_functions() -> None:
    spreads = {"a": 0.3, "b": 2.0, "c": 0.2, "d": 4.0}
    params = {name: RNG.normal(0, spread, (6, 6)).astype(np.float32) for name, spread in spreads.items()}
    x = RNG.normal(0, 1, (16, 6)).astype(np.float32)
    q = jaxq.quantize(two_sums, "int8", params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x[:1]), progress=False)
    leaves = jax.tree.leaves(params)
    whole, each = simulate(q.plan, leaves, ranges, [x]), OpByOp(leaves).outputs(q.plan, ranges, [x])
    for a, b in zip(whole, each, strict=True):
        np.testing.assert_array_equal(a, b)
    ops = [op for op in q.plan.graph.ops if op.kind in ("FULLY_CONNECTED", "ADD")]
    assert len(ops) == 6 and len({step_key(q.plan, op) for op in ops}) == 3  # the products are one, the sums two
    traced = jax.make_jaxpr(lambda leaves, ranges: simulate(q.plan, leaves, ranges, [x]))(leaves, ranges)
    steps = [eqn.params["jaxpr"] for eqn in traced.eqns if eqn.params.get("name") == "step"]
    assert len(steps) == 7 and len(set(map(id, steps))) == 4
