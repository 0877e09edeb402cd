"""Training steps of one quantized network on one device and on eight, compared; run by tests/test_train.py.

Needs `XLA_FLAGS=--xla_force_host_platform_device_count=8`, and "gradients", "images", "sharded" or "sentences". Prints
one JSON document.
"""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.errors import InputError
from jaxq.int8 import Backward, BackwardRule
from jaxq.plan.recipe import Activations, Weights
from jaxq.recipes import images, movies, stepping, train
from jaxq.recipes.bert import example
from jaxq.recipes.movie_tasks import SENTIMENT, Data
from jaxq.recipes.train import Training

CONFIG = Training(batch=16, resolution=8)
DATA = images.synthetic(3, 48, 10, seed=0)


class Net(nnx.Module):
    """Convolution, average, head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 8, 8, 3] to [n, 3]."""
        return self.head(jax.nn.relu6(self.conv(x)).mean((1, 2)))


# Integers of gradients by schemes with a state.
BACKWARD = Backward(scheme="adaptive", stochastic=False, rules=(BackwardRule("head/*", scheme="unified"),))


def trained(devices: Any, place: Any = stepping.replicate, backward: Backward | None = None) -> dict[str, Any]:
    """Logits and ranges before training, observations after a step, losses and the state after three."""
    mesh = stepping.mesh_of(devices)
    weights = Weights(ranges="learned" if place is stepping.shard else "follow")  # a range with an axis to divide
    activations = Activations(observe=True)
    recipe = jaxq.Recipe(name="int8", activations=activations, weights=weights, backward=backward)
    model = jaxq.quantize(Net(nnx.Rngs(0)), recipe, np.zeros((1, 8, 8, 3), np.float32))
    place(mesh, model)
    pictures = train.middle(DATA.images, 8)
    jaxq.calibrate(model, [preprocess(pictures)], progress=False)
    optimizer = nnx.Optimizer(model, jaxq.optim.partition(optax.adam(1e-3), observe=1), wrt=nnx.Param)
    place(mesh, model, optimizer)
    found: dict[str, Any] = {
        "calibrated": state_of(model, jaxq.nnx.Range),
        "logits": [stepping.outputs_of(model, [pictures], preprocess=preprocess, size=16, mesh=mesh, place=place)],
        "loss": [],
    }
    for step, (batch, labels) in zip(range(3), train.batches_from(DATA, CONFIG, 0), strict=True):
        metrics = train.train_step(model, optimizer, *stepping.divide(mesh, preprocess(batch), labels))
        found["loss"].append(np.asarray(metrics.loss))
        if step == 0:
            found["observed"] = state_of(model, jaxq.nnx.Range)
    assert all(len(leaf.devices()) == mesh.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    found["held"] = [np.float64(share_of_a_device((model, optimizer)))]
    return {**found, "state": state_of(model, nnx.Param)}


def sharded(devices: Any) -> dict[str, Any]:
    """The same with parameters, ranges and optimizer divided over the devices, before and after the steps."""
    return trained(devices, stepping.shard)


def taught(devices: Any) -> dict[str, Any]:
    """The same of a sentence encoder as the movie recipes train it, but one step: in a deeper network a weight's last
    bit soon decides which way something is rounded.
    """
    mesh, config = stepping.mesh_of(devices), movies.SMOKE
    sentences, _ = movies.data(SENTIMENT, config)
    encoder = movies.network(SENTIMENT, config, 0)
    encoder.eval()
    model = jaxq.quantize(encoder, "int8", *example(config.length))
    stepping.replicate(mesh, model)
    jaxq.calibrate(model, [(sentences.ids, sentences.mask)], progress=False)
    # Not Adam, which makes whole steps of gradients that are zero but for rounding, as a key's bias has them.
    optimizer = nnx.Optimizer(model, jaxq.optim.partition(optax.sgd(1e-2), optax.sgd(1e-2)), wrt=nnx.Param)
    stepping.replicate(mesh, model, optimizer)
    logits = stepping.outputs_of(model, (sentences.ids, sentences.mask), size=16, mesh=mesh)
    calibrated = state_of(model, jaxq.nnx.Range)
    with movies.batches_from(sentences, 16, 1, 0) as batches:
        batch = Data(*stepping.divide(mesh, *next(batches)))
    loss = movies.train_step(model, optimizer, batch, 0.5, 2.0, task=SENTIMENT)
    return {
        "calibrated": calibrated, "logits": [logits], "loss": [np.asarray(loss)], "state": state_of(model, nnx.Param),
    }  # fmt: skip


def share_of_a_device(modules: Any) -> float:
    """What share of the bytes of a state one device holds."""
    leaves = [leaf for leaf in jax.tree.leaves(nnx.state(modules)) if hasattr(leaf, "sharding")]
    held = sum(np.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in leaves)
    return float(held / sum(leaf.size * leaf.dtype.itemsize for leaf in leaves))


def state_of(model: Any, kind: type) -> list[np.ndarray]:
    """Part of a model's state, as numpy."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, kind))]


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Bytes to [0, 1]."""
    return pixels.astype(np.float32) / 255


def refusal() -> str:
    """What is said of a batch that cannot be divided."""
    try:
        stepping.divide(stepping.mesh_of(), np.zeros((12, 1)))
    except InputError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    gradients = functools.partial(trained, backward=BACKWARD)
    run = {"gradients": gradients, "images": trained, "sharded": sharded, "sentences": taught}[sys.argv[1]]
    one, eight = run(jax.devices()[:1]), run(jax.devices())
    pairs = {name: list(zip(one[name], eight[name], strict=True)) for name in one}
    differing = {
        n: sum(int(np.count_nonzero(a != b)) for a, b in pairs[n])
        for n in ("logits", "calibrated", "observed")
        if n in pairs
    }
    largest = {
        n: max(float(np.max(np.abs(a - b) / np.maximum(np.max(np.abs(a)), 1e-3))) for a, b in pairs[n])
        for n in ("loss", "state", "calibrated", "observed")
        if n in pairs
    }
    held = [float(of["held"][0]) for of in (one, eight) if "held" in of]
    counts = [1, len(jax.devices())]
    print(
        json.dumps({"devices": counts, "differing": differing, "largest": largest, "refused": refusal(), "held": held})
    )
