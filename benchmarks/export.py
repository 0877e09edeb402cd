"""Seconds to import jaxq, to plan, and to export a MobileNetV2-sized graph (52 convolutions, 3.5 M parameters).

python benchmarks/export.py
"""

from __future__ import annotations

import subprocess
import sys
import time

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq
import jaxq.export

# Expansion, output channels, repeats, first stride: Sandler et al. 2018, table 2.
STAGES = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))


class ConvBN(nnx.Module):
    """Convolution, BatchNorm, and ReLU6 if asked."""

    def __init__(self, cin: int, cout: int, k: int, stride: int, groups: int, act: bool, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(cin, cout, (k, k), strides=stride, feature_group_count=groups, use_bias=False, rngs=rngs)
        self.bn, self.act = nnx.BatchNorm(cout, rngs=rngs), act

    def __call__(self, x: jax.Array) -> jax.Array:
        """NHWC to NHWC."""
        y = self.bn(self.conv(x))
        return jax.nn.relu6(y) if self.act else y


class Inverted(nnx.Module):
    """Inverted residual."""

    def __init__(self, cin: int, cout: int, stride: int, expansion: int, rngs: nnx.Rngs) -> None:
        hidden, layers = cin * expansion, []
        if expansion != 1:
            layers.append(ConvBN(cin, hidden, 1, 1, 1, True, rngs))
        layers += [ConvBN(hidden, hidden, 3, stride, hidden, True, rngs), ConvBN(hidden, cout, 1, 1, 1, False, rngs)]
        self.layers, self.residual = nnx.List(layers), stride == 1 and cin == cout

    def __call__(self, x: jax.Array) -> jax.Array:
        """NHWC to NHWC."""
        y = x
        for layer in self.layers:
            y = layer(y)
        return x + y if self.residual else y


class MobileNetV2Sized(nnx.Module):
    """The graph of MobileNetV2-1.0."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        layers: list[nnx.Module] = [ConvBN(3, 32, 3, 2, 1, True, rngs)]
        channels = 32
        for expansion, out, repeats, first in STAGES:
            for i in range(repeats):
                layers.append(Inverted(channels, out, first if i == 0 else 1, expansion, rngs))
                channels = out
        layers.append(ConvBN(channels, 1280, 1, 1, 1, True, rngs))
        self.layers, self.head = nnx.List(layers), nnx.Linear(1280, 1000, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 224, 224, 3] to [n, 1000]."""
        for layer in self.layers:
            x = layer(x)
        return self.head(x.mean((1, 2)))


def import_seconds(statement: str) -> float:
    """Seconds of a fresh interpreter that runs a statement; the least of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", statement], check=True)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Print the table."""
    table = Table(title=f"export of a MobileNetV2-sized graph, jax {jax.__version__}")
    table.add_column("what")
    table.add_column("seconds")
    flax, ours = import_seconds("import flax.nnx, flax.linen, optax"), import_seconds("import jaxq")
    table.add_row("import jaxq, above importing flax and optax", f"{ours - flax:.2f}")
    model = MobileNetV2Sized(nnx.Rngs(0))
    model.eval()
    x = np.random.default_rng(0).random((1, 224, 224, 3), np.float32)
    start = time.perf_counter()
    qmodel = jaxq.quantize(model, "int8", x)
    table.add_row("quantize: capture and plan", f"{time.perf_counter() - start:.2f}")
    jaxq.calibrate(qmodel, [x], progress=False)
    for title in ("to_tflite, first (compiles)", "to_tflite, again"):
        start = time.perf_counter()
        artifact = jaxq.export.to_tflite(qmodel)
        table.add_row(title, f"{time.perf_counter() - start:.2f}")
    table.add_row("bytes", f"{len(artifact.data):,}")
    Console().print(table)


if __name__ == "__main__":
    main()
