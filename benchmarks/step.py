"""What a quantized training step costs beside the float step of the same model, in turns in one run.

    python benchmarks/step.py [--rounds 15] [--only transformer]

Where Qwix is installed (`pip install qwix==0.1.8`) its quantization-aware training for LiteRT (`OdmlQatProvider`) and
its INT8 training (`QtProvider`, gradients of 8 bits too) take their turns in the same run. What cannot take a step of
the model has no ratio, and the reason is printed.

The first step compiles; its CPU seconds are the process's. Peak memory is what XLA plans for the compiled step: its
arguments, results and temporary memory, less what results share with arguments (`memory_analysis`). A step's temporary
memory is new to the process each time: with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` in the environment (glibc 2.35 or
newer) Linux gives it in pages of 2 MB.
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.recipes.mnist import Separable
from jaxq.recipes.mobilenet_v2 import MobileNetV2


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


class Block(nnx.Module):
    """A transformer block of 384, six heads, as encoders of 22 M parameters have it."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.before_attention, self.before_mlp = nnx.LayerNorm(384, rngs=rngs), nnx.LayerNorm(384, rngs=rngs)
        self.attention = nnx.MultiHeadAttention(6, 384, decode=False, rngs=rngs)
        self.up, self.down = nnx.Linear(384, 1536, rngs=rngs), nnx.Linear(1536, 384, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, positions, 384] to the same."""
        x = x + self.attention(self.before_attention(x))
        return x + self.down(jax.nn.gelu(self.up(self.before_mlp(x))))


class Transformer(nnx.Module):
    """Three blocks and a head."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.blocks = nnx.List([Block(rngs) for _ in range(3)])
        self.head = nnx.Linear(384, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, positions, 384] to [n, 10]."""
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(1))


CASES: dict[str, tuple[Callable[[nnx.Rngs], nnx.Module], tuple[int, ...]]] = {
    "depthwise CNN, 64x64, batch 32": (DepthwiseNet, (32, 64, 64, 3)),
    "MobileNetV2, 96x96, batch 32": (lambda rngs: MobileNetV2(classes=10, rngs=rngs), (32, 96, 96, 3)),
    "dense 4 x 1024, batch 256": (DenseNet, (256, 784)),
    "three transformer blocks of 384, 16 x 64 positions": (Transformer, (16, 64, 384)),
}


QWIX = ("Qwix QAT", "Qwix int8")


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
        **qwix_contestants(build, x),
    }


def qwix_contestants(build: Callable[[nnx.Rngs], nnx.Module], x: np.ndarray) -> dict[str, tuple[Any, Any]]:
    """Qwix's two ways to train the model; none where it is not installed."""
    if importlib.util.find_spec("qwix") is None:
        return {}
    qwix: Any = importlib.import_module("qwix")
    eight = {"weight_qtype": jnp.int8, "act_qtype": jnp.int8}
    providers = {
        "Qwix QAT": qwix.OdmlQatProvider([qwix.QuantizationRule(**eight)], strict=False),
        "Qwix int8": qwix.QtProvider([qwix.QtRule(module_path=".*", bwd_qtype=jnp.int8, **eight)]),
    }
    found = {}
    for name, provider in providers.items():
        model = build(nnx.Rngs(0))
        model.eval()
        try:
            quantized = qwix.quantize_model(model, provider, jnp.asarray(x[:1]))
            optimizer = nnx.Optimizer(quantized, optax.adam(1e-4), wrt=nnx.Param)
            train_step(quantized, optimizer, jnp.asarray(x), jnp.zeros(len(x), jnp.int32))
            found[name] = quantized, optimizer
        except Exception as e:  # a peer's own fault: what it is does not matter to the others
            print(f"{name} takes no step: {type(e).__name__}: {str(e).splitlines()[0]}")
    return found


class Cost(NamedTuple):
    """What one way to train costs.

    Attributes:
      first: CPU seconds of the first step, nearly all of it compilation.
      steps: seconds of each later step but one.
      peak: bytes of memory of a step.
    """

    first: float
    steps: list[float]
    peak: int


def peak_bytes(model: Any, optimizer: nnx.Optimizer, x: jax.Array, labels: jax.Array) -> int:
    """What XLA plans for a step; it is compiled once more for that."""
    found: Any = train_step.lower(model, optimizer, x, labels).compile().compiled.memory_analysis()
    held = found.argument_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    return held + found.temp_size_in_bytes


def costs(runners: dict[str, tuple[Any, Any]], x: np.ndarray, labels: np.ndarray, rounds: int) -> dict[str, Cost]:
    """Every contestant's cost, steps taken in turns."""
    first: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in runners}
    for _ in range(rounds + 2):
        for name, (model, optimizer) in runners.items():
            start, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(train_step(model, optimizer, jnp.asarray(x), jnp.asarray(labels)))
            times[name].append(time.perf_counter() - start)
            first.setdefault(name, time.process_time() - cpu)
    peaks = {name: peak_bytes(*state, jnp.asarray(x), jnp.asarray(labels)) for name, state in runners.items()}
    return {name: Cost(first[name], taken[2:], peaks[name]) for name, taken in times.items()}


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="cases whose name holds this")
    options = parser.parse_args()
    table = Table(title=f"training step, jax {jax.__version__}, {jax.default_backend()}, median of {options.rounds}")
    for column in ("model", "float ms", "jaxq ms", "ratio", "first step, float CPU s", "jaxq", "ratio",
                   "peak, float MB", "jaxq", "ratio", *(f"{name} / float" for name in QWIX)):  # fmt: skip
        table.add_column(column)
    rng = np.random.default_rng(0)
    for name, (build, shape) in CASES.items():
        if options.only in name:
            x, labels = rng.random(shape, np.float32), rng.integers(0, 10, shape[0])
            table.add_row(name, *row(costs(contestants(build, x), x, labels, options.rounds)))
    Console(width=130).print(table)


def row(found: dict[str, Cost]) -> list[str]:
    """The columns of one model."""
    middle = {name: 1e3 * float(np.median(cost.steps)) for name, cost in found.items()}
    ratios = {name: float(np.median(np.divide(cost.steps, found["float"].steps))) for name, cost in found.items()}
    first = [found["float"].first, found["jaxq"].first]
    steps = [f"{middle['float']:.1f}", f"{middle['jaxq']:.1f}", f"{ratios['jaxq']:.2f}"]
    peak = [found["float"].peak, found["jaxq"].peak]
    memory = [*(f"{size / 1e6:.0f}" for size in peak), f"{peak[1] / peak[0]:.2f}"]
    others = [f"{ratios[name]:.2f}" if name in ratios else "" for name in QWIX]
    return [*steps, *(f"{seconds:.1f}" for seconds in first), f"{first[1] / first[0]:.1f}", *memory, *others]


if __name__ == "__main__":
    main()
