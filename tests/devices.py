"""Three training steps of one quantized network on one device and on eight, compared; run by tests/test_train.py.

Needs `XLA_FLAGS=--xla_force_host_platform_device_count=8`. Prints one JSON document.
"""

from __future__ import annotations

import json
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.errors import InputError
from jaxq.recipe import Activations
from jaxq.recipes import images, train
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


def trained(devices: Any) -> dict[str, Any]:
    """Logits and ranges before training, observations after a step, losses and the state after three."""
    mesh = train.mesh_of(devices)
    recipe = jaxq.Recipe(name="int8", activations=Activations(observe=True))
    model = jaxq.quantize(Net(nnx.Rngs(0)), recipe, np.zeros((1, 8, 8, 3), np.float32))
    train.replicate(mesh, model)
    pictures = train.middle(DATA.images, 8)
    jaxq.calibrate(model, [preprocess(pictures)], progress=False)
    optimizer = nnx.Optimizer(model, jaxq.optim.partition(optax.adam(1e-3), observe=1), wrt=nnx.Param)
    train.replicate(mesh, model, optimizer)
    found: dict[str, Any] = {
        "calibrated": state_of(model, jaxq.nnx.Range),
        "logits": [train.logits_of(model, pictures, preprocess, size=16, mesh=mesh)],
        "loss": [],
    }
    for step in range(3):
        batch, labels = train.batch_at(DATA, CONFIG, step, 0)
        metrics = train.train_step(model, optimizer, *train.divide(mesh, preprocess(batch), labels))
        found["loss"].append(np.asarray(metrics.loss))
        if step == 0:
            found["observed"] = state_of(model, jaxq.nnx.Range)
    assert all(len(leaf.devices()) == mesh.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    return {**found, "state": state_of(model, nnx.Param)}


def state_of(model: Any, kind: type) -> list[np.ndarray]:
    """Part of a model's state, as numpy."""
    return [np.asarray(leaf) for leaf in jax.tree.leaves(nnx.state(model, kind))]


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Bytes to [0, 1]."""
    return pixels.astype(np.float32) / 255


def refusal() -> str:
    """What is said of a batch that cannot be divided."""
    try:
        train.divide(train.mesh_of(), np.zeros((12, 1)))
    except InputError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    one, eight = trained(jax.devices()[:1]), trained(jax.devices())
    pairs = {name: list(zip(one[name], eight[name], strict=True)) for name in one}
    differing = {
        n: sum(int(np.count_nonzero(a != b)) for a, b in pairs[n]) for n in ("logits", "calibrated", "observed")
    }
    largest = {
        n: max(float(np.max(np.abs(a - b) / np.maximum(np.max(np.abs(a)), 1e-3))) for a, b in pairs[n])
        for n in ("loss", "state", "observed")
    }
    counts = [1, len(jax.devices())]
    print(json.dumps({"devices": counts, "differing": differing, "largest": largest, "refused": refusal()}))
