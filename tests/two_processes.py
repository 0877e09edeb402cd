"""One run of several processes (`jax.distributed`), each of one CPU device, or of one process; run by
tests/test_scale.py, which compares what they leave.

    python tests/two_processes.py FOLDER COUNT [INDEX PORT]

Calibrates a small network on divided batches, trains it on integers with checkpoints in FOLDER, and exports it. Writes
FOLDER/found.INDEX.npz. "--die STEP" kills this process before that step's checkpoint.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import signal
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.frontends.call import is_key
from jaxq.plan.recipe import Activations
from jaxq.recipes import checkpoint, images, processes, stepping, train
from jaxq.recipes.train import Training

CONFIG = Training(epochs=2.0, batch=8, rate=1e-2, resolution=8, save=2, log=1, look=0)
DATA = images.synthetic(3, 24, 10, seed=0)


class Net(nnx.Module):
    """Convolution, average, dropout, head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.dropout = nnx.Dropout(0.2, rngs=rngs)
        self.head = nnx.Linear(8, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 8, 8, 3] to [n, 3]."""
        return self.head(self.dropout(jax.nn.relu6(self.conv(x)).mean((1, 2))))


class Losses:
    """A writer to a list; before the checkpoint of the step `die` this process is killed."""

    def __init__(self, die: int) -> None:
        self.die, self.losses = die, {}

    def scalar(self, name: str, value: float, step: int) -> None:
        """Keep a loss."""
        if name.endswith("loss"):
            self.losses[step] = value


def preprocess(pixels: np.ndarray) -> np.ndarray:
    """Bytes to [0, 1]."""
    return pixels.astype(np.float32) / 255


def state_of(name: str, module: Any, kind: Any = ...) -> dict[str, np.ndarray]:
    """A module's state as numpy, by names."""
    leaves = jax.tree.leaves(nnx.state(processes.local(module), kind))
    keys = [jax.random.key_data(a) if is_key(a) else a for a in leaves]
    return {f"{name} {i}": np.asarray(leaf) for i, leaf in enumerate(keys)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("count", type=int)
    parser.add_argument("index", type=int, nargs="?", default=0)
    parser.add_argument("port", type=int, nargs="?")
    parser.add_argument("--die", type=int, default=-1)
    options = parser.parse_args()
    if options.count > 1:
        processes.join(f"127.0.0.1:{options.port}", options.count, options.index, patience=20)
    run(options.folder, options.index, options.die)


def run(folder: pathlib.Path, index: int, die: int) -> None:
    """Calibrate, train, export."""
    mesh, pictures = stepping.mesh_of(), preprocess(train.middle(DATA.images, 8))
    recipe = jaxq.Recipe(name="int8", activations=Activations(observe=True, calibration="percentile"))
    model = jaxq.quantize(Net(nnx.Rngs(0)), recipe, np.zeros((1, 8, 8, 3), np.float32))
    stepping.replicate(mesh, model)
    jaxq.calibrate(model, [stepping.spread(mesh, pictures[:16]), stepping.spread(mesh, pictures[16:])], progress=False)
    found = state_of("calibrated", model, jaxq.nnx.Range)
    found["logits"] = stepping.outputs_of(model, [pictures], size=16, mesh=mesh)
    model.train()
    tx = jaxq.optim.partition(optax.sgd(train.schedule(CONFIG, 6)), observe=2, freeze=5)
    optimizer, losses = nnx.Optimizer(model, tx, wrt=nnx.Param), Losses(die)
    with checkpoint.manager(folder / "checkpoints", every=CONFIG.save) as checkpoints:
        fit(model, optimizer, checkpoints, mesh, losses)
    found["losses"] = np.array([losses.losses[step] for step in sorted(losses.losses)])
    found |= state_of("trained", model) | state_of("optimizer", optimizer)
    alone = processes.local(model)
    alone.eval()
    artifact = jaxq.export.to_tflite(alone, verify=pictures[:8])
    assert artifact.certificate is not None and not any(artifact.certificate.differing_integers.values())
    found["artifact"] = np.frombuffer(artifact.data, np.uint8)
    np.savez(folder / f"found.{index}.npz", allow_pickle=False, **found)


def fit(model: Any, optimizer: Any, checkpoints: Any, mesh: Any, losses: Losses) -> None:
    """`train.fit`, in which this process may be killed."""

    def killed(pixels: np.ndarray) -> np.ndarray:
        losses.die -= 1
        if losses.die == -1:
            os.kill(os.getpid(), signal.SIGKILL)
        return preprocess(pixels)

    train.fit(
        model, optimizer, DATA, CONFIG, preprocess=killed, checkpoints=checkpoints, title="small", mesh=mesh,
        writer=losses,
    )  # fmt: skip


if __name__ == "__main__":
    main()
