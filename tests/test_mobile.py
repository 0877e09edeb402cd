"""The mobile image networks: sizes as published, one network in NNX and Linen, and integers that are equal."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.recipes import efficientnet_lite, mobilenet_v1, mobilenet_v2, mobilenet_v2_linen, mobilenet_v3
from jaxq.recipes.layers import round_channels

Make = Callable[[nnx.Rngs], nnx.Module]

# Trainable parameters with 1000 classes. V1: the paper says 4.2 M, the exact number follows from its table 1. V2, V3:
# torchvision 0.29.2. Lite: efficientnet_lite_pytorch 0.1.0, made from the authors' code.
PARAMETERS: dict[str, tuple[Make, int]] = {
    "MobileNetV1": (lambda rngs: mobilenet_v1.MobileNetV1(rngs=rngs), 4_231_976),
    "MobileNetV1 0.25": (lambda rngs: mobilenet_v1.MobileNetV1(0.25, rngs=rngs), 470_072),
    "MobileNetV2": (lambda rngs: mobilenet_v2.MobileNetV2(rngs=rngs), 3_504_872),
    "MobileNetV2 0.35": (lambda rngs: mobilenet_v2.MobileNetV2(0.35, rngs=rngs), 1_677_128),
    "MobileNetV3 small": (lambda rngs: mobilenet_v3.MobileNetV3("small", rngs=rngs), 2_542_856),
    "MobileNetV3 large": (lambda rngs: mobilenet_v3.MobileNetV3("large", rngs=rngs), 5_483_032),
    "MobileNetV3 small 0.35": (lambda rngs: mobilenet_v3.MobileNetV3("small", 0.35, rngs=rngs), 558_744),
    "EfficientNet-Lite0": (lambda rngs: efficientnet_lite.EfficientNetLite(0, rngs=rngs), 4_652_008),
    "EfficientNet-Lite1": (lambda rngs: efficientnet_lite.EfficientNetLite(1, rngs=rngs), 5_416_680),
    "EfficientNet-Lite2": (lambda rngs: efficientnet_lite.EfficientNetLite(2, rngs=rngs), 6_092_072),
    "EfficientNet-Lite3": (lambda rngs: efficientnet_lite.EfficientNetLite(3, rngs=rngs), 8_197_096),
    "EfficientNet-Lite4": (lambda rngs: efficientnet_lite.EfficientNetLite(4, rngs=rngs), 13_006_568),
}


def count(tree: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_is_of_the_published_size(name: str) -> None:
    make, published = PARAMETERS[name]
    assert count(nnx.state(nnx.eval_shape(lambda: make(nnx.Rngs(0))), nnx.Param)) == published


def test_channels_are_multiples_of_eight_and_lose_at_most_a_tenth() -> None:
    assert [round_channels(c) for c in (1.0, 11.2, 12.0, 18.9, 20.0, 33.6, 224.0)] == [8, 16, 16, 24, 24, 32, 224]


# --- one network in both APIs -------------------------------------------------------------------------------------

SHALLOW_V2 = ((1, 16, 1, 1), (6, 24, 2, 2))


def linen_names(tree: Any) -> dict[str, tuple[int, ...]]:
    return {jax.tree_util.keystr(k, simple=True, separator="/"): v.shape for k, v in jax.tree.leaves_with_path(tree)}


def test_linen_has_the_same_parameters() -> None:
    module = mobilenet_v2_linen.MobileNetV2()
    theirs = jax.eval_shape(module.init, jax.random.key(0), np.zeros((1, 64, 64, 3), np.float32))
    model = nnx.eval_shape(lambda: mobilenet_v2.MobileNetV2(rngs=nnx.Rngs(0)))
    ours = {"/".join(map(str, path)): v.shape for path, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    assert count(theirs["params"]) == 3_504_872
    assert {name.replace("blocks/", "blocks_"): shape for name, shape in ours.items()} == linen_names(theirs["params"])


def test_linen_computes_the_same() -> None:
    x = jnp.asarray(images(2, 32))
    model = drawn(SHALLOW["MobileNetV2"])
    state = nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat)))
    variables: dict[str, Any] = {"params": {}, "batch_stats": {}}
    for path, variable in state:
        names = "/".join(map(str, path)).replace("blocks/", "blocks_").split("/")
        node = variables["batch_stats" if names[-1] in ("mean", "var") else "params"]
        for name in names[:-1]:
            node = node.setdefault(name, {})
        node[names[-1]] = variable[...]
    module = mobilenet_v2_linen.MobileNetV2(0.35, 10, SHALLOW_V2)
    np.testing.assert_allclose(np.asarray(module.apply(variables, x)), model(x), rtol=1e-6, atol=1e-6)


# --- law 2: exactness ---------------------------------------------------------------------------------------------


def images(n: int, resolution: int) -> np.ndarray:
    return np.random.default_rng(0).random((n, resolution, resolution, 3), np.float32)


# The ranges of the numbers that a trained network holds, by the last part of their names: every channel its own.
DRAWN = {"scale": (0.5, 1.5), "bias": (-0.5, 0.5), "mean": (-0.2, 0.2), "var": (0.5, 1.5)}


def drawn(make: Make) -> Any:
    """The network in evaluation mode with numbers drawn by numpy: Flax compiles its initializers shape by shape."""
    rng, state = np.random.default_rng(1), {}
    model: Any = nnx.eval_shape(lambda: make(nnx.Rngs(0)))
    for path, variable in nnx.to_flat_state(nnx.state(model, (nnx.Param, nnx.BatchStat))):
        name, shape = str(path[-1]), variable.shape
        if name == "kernel":
            values = rng.normal(0, np.sqrt(2 / math.prod(shape[:-1])), shape)
        else:
            values = rng.uniform(*DRAWN[name], shape)
        state[path] = variable.replace(jnp.asarray(values, jnp.float32))
    model.dropout.rngs = nnx.Rngs(0)  # pyright: ignore[reportAttributeAccessIssue]
    nnx.update(model, nnx.from_flat_state(state))
    model.eval()
    return model


def assert_exact(make: Make, resolution: int) -> None:
    """Quantize, calibrate on random images, export; no integer differs, and the file holds nothing but integers."""
    x = images(4, resolution)
    qmodel = jaxq.quantize(drawn(make), "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    assert not qmodel.plan.islands
    artifact = jaxq.export.to_tflite(qmodel, verify=x, progress=False)
    assert artifact.certificate is not None
    assert artifact.certificate.ok, str(artifact.certificate)
    assert artifact.certificate.differing_integers == {"xnnpack": 0, "reference": 0}
    assert {tensor.dtype for tensor in artifact.program.tensors} == {"int8", "int32"}


# Every kind of layer that a family has: a network's compilation is what a test costs.
SHALLOW: dict[str, Make] = {
    "MobileNetV1": lambda rngs: mobilenet_v1.MobileNetV1(0.25, 10, blocks=((64, 1), (128, 2)), rngs=rngs),
    "MobileNetV2": lambda rngs: mobilenet_v2.MobileNetV2(0.35, 10, stages=SHALLOW_V2, rngs=rngs),
    "MobileNetV2, padding as in torchvision": lambda rngs: mobilenet_v2.MobileNetV2(
        0.35, 10, stages=((6, 24, 1, 2),), convention=mobilenet_v2.TORCHVISION, rngs=rngs
    ),
    "MobileNetV3": lambda rngs: mobilenet_v3.MobileNetV3(
        "small", 0.35, 10, blocks=((3, 16, 16, True, "RE", 1), mobilenet_v3.SMALL[3]), rngs=rngs
    ),
    "EfficientNet-Lite": lambda rngs: efficientnet_lite.EfficientNetLite(
        0, 10, width=0.35, stages=((5, 2, 24, 6, 2),), rngs=rngs
    ),
}
WHOLE: dict[str, Make] = {
    "MobileNetV1": lambda rngs: mobilenet_v1.MobileNetV1(0.25, rngs=rngs),
    "MobileNetV2": lambda rngs: mobilenet_v2.MobileNetV2(0.35, rngs=rngs),
    "MobileNetV3 small": lambda rngs: mobilenet_v3.MobileNetV3("small", 0.35, rngs=rngs),
    "MobileNetV3 large": lambda rngs: mobilenet_v3.MobileNetV3("large", 0.35, rngs=rngs),
    "EfficientNet-Lite0": lambda rngs: efficientnet_lite.EfficientNetLite(0, width=0.35, rngs=rngs),
}


LONG = {"MobileNetV1", "MobileNetV3"}  # V1's ops are the others'; V3's HARD_SWISH has tests of its own


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in LONG)) for n in SHALLOW])
def test_a_shallow_network_is_exact(name: str) -> None:
    assert_exact(SHALLOW[name], 64)


@pytest.mark.slow
@pytest.mark.parametrize("name", WHOLE)
def test_a_whole_network_is_exact(name: str) -> None:
    assert_exact(WHOLE[name], 96)
