"""A tour of jaxq, from a float model to a file on a phone, on real handwritten digits. Read it from top to bottom."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import pathlib
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.recipes import checkpoint
from jaxq.recipes.data import Split, batches, mnist
from tests.zoo import proof_of

OBSERVE, FREEZE, STEPS, BATCH = 3, 6, 8, 40
RECIPE = {"activations": {"observe": True}, "rules": [{"match": "input", "ranges": "learned"}]}


class Net(nnx.Module):
    """An ordinary Flax model: nothing in it knows of quantization."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(1, 8, (3, 3), strides=2, rngs=rngs)
        self.norm = nnx.BatchNorm(8, momentum=0.9, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.head = nnx.Linear(8 * 49, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu6(self.norm(self.stem(x)))
        x = nnx.max_pool(x + self.depthwise(x), (2, 2), strides=(2, 2))
        return self.head(x.reshape(x.shape[0], -1))


@nnx.jit
def train_step(model: Any, optimizer: Any, images: Any, labels: Any) -> jax.Array:
    """An ordinary training step: it serves the float model and the quantized one."""

    def loss_of(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(images), labels).mean()

    loss, gradients = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, gradients)
    return loss


def accuracy(logits: Any, labels: np.ndarray) -> float:
    return float(np.mean(np.argmax(np.asarray(logits), -1) == labels))


# --- 1. train in floats ------------------------------------------------------------------------------------------


@functools.cache
def digits() -> Split:
    """500 real digits to train on, 200 to test with."""
    data = mnist()
    return Split(data.train_images[:500], data.train_labels[:500], data.test_images[:200], data.test_labels[:200])


@functools.cache
def float_model() -> Any:
    data, model = digits(), Net(nnx.Rngs(0))
    optimizer = nnx.Optimizer(model, optax.adam(5e-3), wrt=nnx.Param)
    model.train()
    for images, labels in batches(data.train_images, data.train_labels, BATCH, 100, seed=0):
        train_step(model, optimizer, images, labels)
    model.eval()
    return model


# --- 2. quantize and calibrate -----------------------------------------------------------------------------------


def quantized() -> Any:
    """The float model's parameters in a quantized model, calibrated."""
    data = digits()
    qmodel = jaxq.quantize(nnx.clone(float_model()), RECIPE, data.train_images[:1])
    jaxq.calibrate(qmodel, (data.train_images[i : i + 100] for i in range(0, 500, 100)), progress=False)
    return qmodel


# --- 3. train on the integers ------------------------------------------------------------------------------------


class Trained(NamedTuple):
    """A quantized model after QAT, and its ranges before the first step and after each."""

    qmodel: Any
    optimizer: Any
    history: list[dict[str, dict[str, np.ndarray]]]


def optimizer_of(qmodel: Any) -> Any:
    tx = jaxq.optim.partition(optax.adam(1e-3), observe=OBSERVE, freeze=FREEZE)
    return nnx.Optimizer(qmodel, tx, wrt=nnx.Param)


def batch(step: int) -> tuple[np.ndarray, np.ndarray]:
    """Digits that grow brighter from step to step, so that there is something to observe."""
    data = digits()
    images, labels = next(batches(data.train_images, data.train_labels, BATCH, step + 1, seed=1, first=step))
    return images * np.float32(1 + step / 8), labels


def ranges_of(qmodel: Any) -> dict[str, dict[str, np.ndarray]]:
    return jax.tree.map(np.asarray, qmodel.pure_ranges())


def train(qmodel: Any, optimizer: Any, steps: range) -> list[dict[str, dict[str, np.ndarray]]]:
    history = [ranges_of(qmodel)]
    for step in steps:
        train_step(qmodel, optimizer, *batch(step))
        history.append(ranges_of(qmodel))
    return history


@functools.cache
def trained() -> Trained:
    qmodel = quantized()
    optimizer = optimizer_of(qmodel)
    return Trained(qmodel, optimizer, train(qmodel, optimizer, range(STEPS)))


# --- 4. export, with the proof -----------------------------------------------------------------------------------


@functools.cache
def artifact() -> jaxq.export.Artifact:
    return jaxq.export.to_tflite(trained().qmodel, verify=digits().test_images[:64], progress=False)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    place = tmp_path_factory.mktemp("tour")
    artifact().save(place / "model.tflite")
    return place


# --- what holds on the way ---------------------------------------------------------------------------------------


def test_the_plan_says_what_will_be_done() -> None:
    qmodel = jaxq.quantize(nnx.clone(float_model()), "int8", digits().train_images[:1])
    assert str(qmodel.plan).splitlines() == [
        "plan: recipe int8, target LiteRT on a CPU (XNNPACK), input int8, output int8",
        "weights (3)",
        "  stem/kernel: int8, per channel (axis 3), symmetric, scale = max abs(w) / 127 at each step",
        "  depthwise/kernel: int8, per channel (axis 3), symmetric, scale = max abs(w) / 127 at each step",
        "  head/kernel: int8, per channel (axis 1), symmetric, scale = max abs(w) / 127 at each step",
        "activations (7 tensors, 5 ranges)",
        "  input: int8, per tensor, frozen range",
        "  stem/kernel:out: int8, per tensor, learned range; zero point fixed at the least integer (ReLU output)",
        "  depthwise/kernel:out: int8, per tensor, learned range",
        "  add: int8, per tensor, learned range; shared with max_pool_2d, reshape (tied by max_pool_2d, reshape)",
        "  head/kernel:out: int8, per tensor, learned range",
        "float islands (0)",
        "verdict: every tensor is an integer; LiteRT on a CPU (XNNPACK) takes every op",
    ]


def test_quantizing_leaves_the_model_as_it_is() -> None:
    images = digits().test_images[:8]
    before = float_model()(images)
    qmodel = quantized()
    np.testing.assert_array_equal(float_model()(images), before)
    np.testing.assert_array_equal(qmodel.model(images), before)


def test_calibration_alone_is_within_three_points_of_the_float_model() -> None:
    data = digits()
    floats = accuracy(float_model()(data.test_images), data.test_labels)
    assert floats > 0.7
    assert abs(accuracy(quantized()(data.test_images), data.test_labels) - floats) <= 0.03


def test_while_observing_ranges_follow_the_moving_average() -> None:
    """Calibration counts as the first batch; the input's extremes are known by hand."""
    history = trained().history
    seen = [history[0]["input"]["observed"], *(np.array([0.0, batch(step)[0].max()]) for step in range(OBSERVE))]
    for step in range(OBSERVE):
        found = history[step + 1]["input"]
        np.testing.assert_allclose(found["observed"], np.mean(seen[: step + 2], axis=0), rtol=1e-6)
        np.testing.assert_allclose(found["scale"], found["observed"][1] / 255, rtol=1e-6)


def test_after_observing_every_range_learns() -> None:
    observed, learned = trained().history[OBSERVE], trained().history[FREEZE]
    assert [name for name in observed if observed[name]["scale"] == learned[name]["scale"]] == []


def test_after_freeze_ranges_stand_still_and_weights_do_not() -> None:
    history = trained().history
    for before, after in itertools.pairwise(history[FREEZE:]):
        jax.tree.map(np.testing.assert_array_equal, before, after)
    kernel = trained().qmodel.model.head.kernel
    assert not np.array_equal(kernel[...], float_model().head.kernel[...])


def test_no_integer_differs() -> None:
    certificate = artifact().certificate
    assert certificate is not None
    assert certificate.differing_integers == {"xnnpack": 0, "reference": 0}
    assert certificate.simulation_differing == 0
    assert certificate.examples == 64


def test_the_file_computes_what_the_trained_model_does() -> None:
    images = digits().test_images
    np.testing.assert_array_equal(artifact().run(images)[0], trained().qmodel(images))


def test_the_manifest_describes_the_file(folder: pathlib.Path) -> None:
    manifest, data = json.loads((folder / "model.json").read_text()), (folder / "model.tflite").read_bytes()
    assert manifest["sha256"] == hashlib.sha256(data).hexdigest()
    assert manifest["bytes"] == len(data)
    assert manifest["certificate"]["differing_integers"] == {"xnnpack": 0, "reference": 0}
    assert [entry["shape"] for entry in (*manifest["inputs"], *manifest["outputs"])] == [[1, 28, 28, 1], [1, 10]]


def evaluated(formula: str, **names: Any) -> np.ndarray:
    """A manifest's formula, with numpy and nothing else."""
    return eval(formula, {"clip": np.clip, "rint": np.rint, "float32": np.float32, **names})


def test_a_host_needs_numpy_alone_to_feed_the_file_and_to_read_it(folder: pathlib.Path) -> None:
    images, manifest = digits().test_images[:16], json.loads((folder / "model.json").read_text())
    (entry,), (result,) = manifest["inputs"], manifest["outputs"]
    integers = evaluated(entry["quantize"], x=images).astype(entry["dtype"])
    stored, graph = proof_of(artifact()).forward([images])[0], trained().qmodel.plan.graph
    np.testing.assert_array_equal(integers, stored[graph.site_names[graph.inputs[0]]])

    (outputs,) = jax.jit(jaxq.load(folder / "model.tflite"))(integers)
    np.testing.assert_array_equal(outputs, stored[graph.site_names[graph.outputs[0]]])
    logits = evaluated(result["dequantize"], q=np.asarray(outputs, np.float32))
    np.testing.assert_array_equal(logits, trained().qmodel(images))


def test_training_resumes_bit_for_bit(tmp_path: pathlib.Path) -> None:
    half = STEPS // 2
    first = quantized()
    optimizer = optimizer_of(first)
    train(first, optimizer, range(half))
    with checkpoint.manager(tmp_path, every=1) as checkpoints:
        checkpoint.save(checkpoints, half - 1, first, optimizer, last=True)

    second = quantized()
    optimizer = optimizer_of(second)
    with checkpoint.manager(tmp_path, every=1) as checkpoints:
        assert checkpoint.restore(checkpoints, second, optimizer) == half
    train(second, optimizer, range(half, STEPS))
    jax.tree.map(np.testing.assert_array_equal, *(nnx.to_pure_dict(nnx.state(m)) for m in (second, trained().qmodel)))
    assert jaxq.export.to_tflite(second, progress=False).data == artifact().data


def test_the_plan_is_the_same_for_every_batch_size() -> None:
    qmodel, images = trained().qmodel, digits().test_images
    whole = qmodel(images[:6])
    np.testing.assert_array_equal(whole, jnp.concatenate([qmodel(images[i : i + 2]) for i in (0, 2, 4)]))
