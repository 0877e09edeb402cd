"""What a quantized training step costs beside the float step of the same model, in turns in one run.

    python benchmarks/step.py [--rounds 15]

Classical fake-quant is the same graph with a float quantize-dequantize after every tensor, written here as plainly as
can be.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.recipes.mnist import Separable


class DepthwiseNet(nnx.Module):
    """A MobileNet-like stack on 64x64 colour images."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = nnx.Conv(3, 32, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.bn = nnx.BatchNorm(32, rngs=rngs)
        self.blocks = nnx.List([Separable(32, rngs) for _ in range(3)])
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 64, 64, 3] to [n, 10]."""
        x = jax.nn.relu6(self.bn(self.stem(x)))
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((1, 2)))


class DenseNet(nnx.Module):
    """Four wide dense layers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        sizes = (784, 1024, 1024, 1024, 10)
        self.layers = nnx.List([nnx.Linear(a, b, rngs=rngs) for a, b in zip(sizes, sizes[1:], strict=False)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 784] to [n, 10]."""
        for layer in self.layers[:-1]:
            x = jax.nn.relu(layer(x))
        return self.layers[-1](x)


CASES: dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], tuple[int, ...]]] = {
    "depthwise CNN, 64x64, batch 32": (DepthwiseNet, (32, 64, 64, 3)),
    "dense 4 x 1024, batch 256": (DenseNet, (256, 784)),
}


@nnx.jit
def train_step(model: Any, optimizer: nnx.Optimizer, x: jax.Array, labels: jax.Array) -> jax.Array:
    """One step of cross entropy."""

    def loss_of(model: Any) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(model(x), labels).mean()

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def contestants(build: Callable[[nnx.Rngs], nnx.Module], x: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """Each way to train the model, with its optimizer."""
    plain, quantized = (build(nnx.Rngs(0)) for _ in range(2))
    plain.eval()
    quantized.eval()
    qmodel = jaxq.quantize(quantized, "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    tx = jaxq.optim.partition(optax.adam(1e-4))
    return {
        "float": (plain, nnx.Optimizer(plain, optax.adam(1e-4), wrt=nnx.Param)),
        "jaxq": (qmodel, nnx.Optimizer(qmodel, tx, wrt=nnx.Param)),
    }


def seconds(
    runners: dict[str, tuple[Any, Any]], x: np.ndarray, labels: np.ndarray, rounds: int
) -> dict[str, list[float]]:
    """Seconds of every step of every contestant, taken in turns."""
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 2):
        for name, (model, optimizer) in runners.items():
            start = time.perf_counter()
            jax.block_until_ready(train_step(model, optimizer, jnp.asarray(x), jnp.asarray(labels)))
            times[name].append(time.perf_counter() - start)
    return {name: taken[2:] for name, taken in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    rounds = parser.parse_args().rounds
    table = Table(title=f"training step, jax {jax.__version__}, {jax.default_backend()}, median of {rounds}")
    for column in ("model", "float ms", "jaxq ms", "ratio"):
        table.add_column(column)
    rng = np.random.default_rng(0)
    for name, (build, shape) in CASES.items():
        x, labels = rng.random(shape, np.float32), rng.integers(0, 10, shape[0])
        taken = seconds(contestants(build, x), x, labels, rounds)
        middle = {key: float(np.median(values)) for key, values in taken.items()}
        ratio = float(np.median(np.divide(taken["jaxq"], taken["float"])))
        table.add_row(name, f"{1e3 * middle['float']:.1f}", f"{1e3 * middle['jaxq']:.1f}", f"{ratio:.2f}")
    Console().print(table)


if __name__ == "__main__":
    main()
