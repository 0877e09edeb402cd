"""Ops that a target lacks, in other ops: the same numbers, exact, and said in the plan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.export.targets import TARGETS, check

X = np.random.default_rng(0).normal(size=(16, 4, 4, 3)).astype(np.float32) * 3
FUNCTIONS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "hard_swish": (jax.nn.hard_swish, "hard_swish: HARD_SWISH as x * clip(x / 6 + 1/2, 0, 1), which the target has"),
    "leaky_relu": (jax.nn.leaky_relu, "leaky_relu: LEAKY_RELU as max(x, alpha x), for alpha up to 1, which the target"),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_form_for_the_edge_tpu_is_exact_and_maps(name: str) -> None:
    fn, said = FUNCTIONS[name]
    q = jaxq.quantize(lambda params, x: fn(x), {"target": "edgetpu"}, {}, X[:1])
    assert said in str(q.plan)
    ranges = jaxq.calibrate(q, [X], {}, q.init({}, X[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, {}, ranges, verify=X, progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    assert artifact.certificate.simulation_differing == 0
    assert check(artifact.program, TARGETS["edgetpu"]).ok
    np.testing.assert_allclose(np.asarray(q.apply({}, ranges, X)), np.asarray(fn(X)), atol=0.1)


def test_a_target_that_has_the_kernel_keeps_the_op() -> None:
    q = jaxq.quantize(lambda params, x: jax.nn.hard_swish(x), "int8", {}, X[:1])
    assert [op.kind for op in q.plan.graph.ops] == ["HARD_SWISH"]


def test_a_steep_slope_has_no_form() -> None:
    q = jaxq.quantize(lambda params, x: jax.nn.leaky_relu(x, 1.5), {"target": "edgetpu"}, {}, X[:1])
    with pytest.raises(jaxq.errors.TargetError, match=r"leaky_relu \(LEAKY_RELU, .*Coral Edge TPU does not take it"):
        jaxq.export.to_tflite(q, {}, jaxq.calibrate(q, [X], {}, q.init({}, X[:1]), progress=False), progress=False)


def resized(*size: int, antialias: bool = True) -> Callable[[Any, Any], Any]:
    return lambda params, x: jax.image.resize(x, (len(x), *size, 3), "bilinear", antialias=antialias)


def exported(fn: Callable[[Any, Any], Any], target: str) -> tuple[str, list[str]]:
    """The plan, and the operators of the file, which is proven equal in all three families."""
    q = jaxq.quantize(fn, {"target": target}, {}, X[:1])
    ranges = jaxq.calibrate(q, [X], {}, q.init({}, X[:1]), progress=False)
    artifact = jaxq.export.to_tflite(q, {}, ranges, verify=X, progress=False)
    assert artifact.verify(X, families=("tflm",), progress=False).ok
    assert artifact.certificate is not None and artifact.certificate.ok
    assert artifact.certificate.simulation_differing == 0
    step = artifact.manifest["outputs"][0]["scale"]  # a step for what enters, half of one each time it is rounded
    np.testing.assert_allclose(np.asarray(q.apply({}, ranges, X)), np.asarray(fn({}, X)), atol=2 * step)
    return str(q.plan), [op.kind for op in artifact.program.operators]


@pytest.mark.parametrize("size, antialias", [((8, 8), True), ((7, 11), True), ((3, 2), False)])
def test_an_image_is_resized_by_one_operator(size: tuple[int, int], antialias: bool) -> None:
    assert exported(resized(*size, antialias=antialias), "litert")[1] == ["RESIZE_BILINEAR"]


def test_what_is_smoothed_as_well_is_two_products() -> None:
    assert exported(resized(3, 2), "litert")[1].count("FULLY_CONNECTED") == 2


def test_arm_npus_resize_by_two_and_multiply_for_the_rest() -> None:
    assert exported(resized(8, 8), "ethos-u55")[1] == ["RESIZE_BILINEAR"]
    text, kinds = exported(resized(7, 11), "ethos-u55")
    assert "RESIZE_BILINEAR as two products, for factors other than 2, which the target has kernels for" in text
    assert kinds == ["TRANSPOSE", "FULLY_CONNECTED", "TRANSPOSE", "FULLY_CONNECTED", "TRANSPOSE"]
