"""The image networks on the accelerators that they ship to: the Edge TPU's rules, and Arm's compiler Vela."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

import jaxq
import jaxq.export
import jaxq.plan.recipe
from jaxq.export.targets import TARGETS, check, edgetpu, vela
from tests.test_mobile import SHALLOW, WHOLE, drawn, images

V3 = "MobileNetV3"
MAPPED = ["MobileNetV1", "MobileNetV2", "MobileNetV2, padding as in torchvision", "EfficientNet-Lite", V3]


@functools.cache
def exported(name: str, target: str, whole: bool = False) -> jaxq.export.Artifact:
    """A network with random weights, exported for a target and verified in both kernel families."""
    x = images(2, 96 if whole else 64)
    recipe = jaxq.Recipe(target=target)
    qmodel = jaxq.quantize(drawn((WHOLE if whole else SHALLOW)[name]), recipe, x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    artifact = jaxq.export.to_tflite(qmodel, verify=x, progress=False)
    assert artifact.certificate is not None
    assert artifact.certificate.differing_integers == {"xnnpack": 0, "reference": 0}
    return artifact


def left(artifact: jaxq.export.Artifact, target: str) -> set[str]:
    """The kinds of operators that a target's table does not map."""
    return {p.kind for p in check(artifact.program, TARGETS[target]).placements if not p.mapped}


@pytest.mark.parametrize("name", ["MobileNetV2", pytest.param(V3, marks=pytest.mark.slow)])
def test_the_edge_tpu_takes_the_whole_network(name: str) -> None:
    """Its dense layer has one scale, which the plan chose; int8 ends; nothing is left to the CPU."""
    artifact = exported(name, "edgetpu")
    dense = [op for op in artifact.program.operators if op.kind == "FULLY_CONNECTED"]
    grids = [artifact.program.tensors[i].quantization for op in dense for i in op.inputs[1:]]
    assert dense and [q is not None and q.scale.size for q in grids] == [1, 1] * len(dense)
    report = check(artifact.program, TARGETS["edgetpu"])
    assert report.ok and report.mapped_macs == report.macs > 0
    assert {p.status for p in report.placements} == {edgetpu.MAPPED}


def test_with_a_scale_for_each_class_the_dense_layer_stays_on_the_cpu() -> None:
    assert left(exported("MobileNetV2", "litert"), "edgetpu") == {"FULLY_CONNECTED"}


def test_the_file_for_litert_keeps_hard_swish_which_the_edge_tpu_lacks() -> None:
    report = check(exported(V3, "litert").program, TARGETS["edgetpu"])
    first = next(p for p in report.placements if not p.mapped)
    assert (first.kind, first.status) == ("HARD_SWISH", edgetpu.NOT_SUPPORTED)
    assert all(not p.mapped for p in report.placements[first.index :])  # one subgraph


@pytest.mark.parametrize(
    ("name", "target"),
    [("MobileNetV2", "ethos-u55"), (V3, "ethos-u85")]
    + [pytest.param(*p, marks=pytest.mark.slow) for p in (("MobileNetV2", "ethos-u85"), (V3, "ethos-u55"))],
)
def test_vela_leaves_nothing_to_the_cpu(name: str, target: str) -> None:
    artifact = exported(name, "litert")
    result = vela.compiled(artifact.data, TARGETS[target].compilers[0])
    assert result.cpu == () and left(artifact, target) == set()
    assert result.cycles > 0 and result.sram + result.dram > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WHOLE if not name.startswith(V3)])
def test_the_edge_tpu_takes_whole_networks(name: str) -> None:
    assert left(exported(name, "edgetpu", whole=True), "edgetpu") == set()


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u65", "ethos-u85"])
@pytest.mark.parametrize("name", WHOLE)
def test_vela_leaves_nothing_of_whole_networks_to_the_cpu(name: str, target: str) -> None:
    artifact = exported(name, "litert", whole=True)
    result = vela.compiled(artifact.data, TARGETS[target].compilers[0])
    assert result.cpu == () and left(artifact, target) == set()


# --- one scale for all weights --------------------------------------------------------------------------------------


def test_a_rule_says_how_many_scales_a_kernel_has() -> None:
    model, x = drawn(SHALLOW["MobileNetV2"]), images(1, 64)
    rule = jaxq.Rule("classifier/*", per_channel=False)
    plan = jaxq.quantize(model, jaxq.Recipe(rules=(rule,)), x).plan
    axes = {name: scheme.axis for name, scheme in plan.weights.items()}
    assert axes.pop("classifier/kernel") is None and None not in axes.values()


def test_one_scale_stays_one_where_a_bias_is_large() -> None:
    """A bias of 10^6 raises the scale of its channel: for want of another, that of all."""

    def dense(params: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
        return x @ params["w"] + params["b"]

    rng = np.random.default_rng(0)
    params = {"w": rng.normal(size=(8, 4)).astype(np.float32), "b": np.array([0, 1e6, 0, 1], np.float32)}
    x = rng.normal(size=(16, 8)).astype(np.float32)
    q = jaxq.quantize(dense, jaxq.Recipe(target="edgetpu"), params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x), progress=False)
    artifact = jaxq.export.to_tflite(q, params, ranges, verify=x, progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    grids = [t.quantization for t in artifact.program.tensors if t.data is not None]
    assert [g is not None and g.scale.size for g in grids] == [1, 1]


def test_of_attention_the_edge_tpu_says_what_it_lacks() -> None:
    """Dense layers on rows, and products of two activations; the plan knows the second before training."""

    def attention(params: dict[str, np.ndarray], x: jax.Array) -> jax.Array:
        q, k, v = (x @ params[name] for name in "qkv")
        return jax.nn.softmax(q @ k.swapaxes(1, 2)) @ v

    rng = np.random.default_rng(0)
    params = {name: rng.normal(size=(8, 8)).astype(np.float32) for name in "qkv"}
    x = rng.normal(size=(4, 6, 8)).astype(np.float32)
    planned = jaxq.quantize(attention, jaxq.Recipe(target="edgetpu"), params, x[:1])
    assert str(planned.plan).endswith("verdict: Coral Edge TPU does not take BATCH_MATMUL")
    q = jaxq.quantize(attention, jaxq.Recipe(weights=jaxq.plan.recipe.Weights(per_channel=False)), params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x), progress=False)
    report = check(jaxq.export.to_tflite(q, params, ranges, progress=False).program, TARGETS["edgetpu"])
    words = {p.kind: (p.status, p.reason) for p in report.placements}
    assert words["FULLY_CONNECTED"][0] == edgetpu.UNSPECIFIED
    assert words["BATCH_MATMUL"][0] == edgetpu.NOT_SUPPORTED
    assert words["SOFTMAX"] == (edgetpu.UNSPECIFIED, "writes 6 rows; it takes one row")
    assert not report.ok and report.mapped_macs == 0 and report.gains
