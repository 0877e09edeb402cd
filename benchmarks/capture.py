"""Seconds and memory to capture and plan networks of 100 to 10,000 equations, and an encoder of 12 layers.

python benchmarks/capture.py
"""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq

PER_LAYER = 3  # equations: a product, a ReLU, a sum
SIZES = (100, 300, 1_000, 3_000, 10_000)


def chain(layers: int) -> Callable[[Any, jax.Array], jax.Array]:
    """Residual layers, one after another."""

    def fn(params: Any, x: jax.Array) -> jax.Array:
        for i in range(layers):
            x = jax.nn.relu(x @ params[i % len(params)]) + x
        return x

    return fn


class Layer(nnx.Module):
    """A transformer's encoder layer, LayerNorm behind each sum."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.attention = nnx.MultiHeadAttention(12, width, decode=False, rngs=rngs)
        self.wide, self.narrow = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)
        self.first, self.second = nnx.LayerNorm(width, rngs=rngs), nnx.LayerNorm(width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, length, width] to the same."""
        x = self.first(x + self.attention(x))
        return self.second(x + self.narrow(jax.nn.gelu(self.wide(x))))


class Encoder(nnx.Module):
    """BERT-base's stack: 12 layers of 768."""

    def __init__(self, layers: int, width: int, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([Layer(width, rngs) for _ in range(layers)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[batch, length, width] to the same."""
        for layer in self.layers:
            x = layer(x)
        return x


def measured(build: Callable[[], Any]) -> tuple[float, float, Any]:
    """Seconds of one call, the megabytes it allocates at most in another, and its result."""
    start = time.perf_counter()
    result = build()
    seconds = time.perf_counter() - start
    tracemalloc.start()
    build()
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    return seconds, peak, result


def main() -> None:
    """Print the table."""
    params = [np.eye(8, dtype=np.float32) * np.float32(0.1) for _ in range(4)]
    x = np.zeros((1, 8), np.float32)
    jaxq.quantize(chain(2), "int8", params, x)  # what is paid once
    table = Table("network", "ops", "capture + plan, s", "ms per op", "MB at most")
    for equations in SIZES:
        fn = chain(-(-equations // PER_LAYER))
        seconds, peak, q = measured(lambda fn=fn: jaxq.quantize(fn, "int8", params, x))
        ops = len(q.plan.graph.ops)
        table.add_row(
            f"{equations:,} equations", f"{ops:,}", f"{seconds:.2f}", f"{1e3 * seconds / ops:.2f}", f"{peak:.1f}"
        )
    encoder = Encoder(12, 768, nnx.Rngs(0))
    seconds, peak, q = measured(lambda: jaxq.quantize(encoder, "int8", np.zeros((1, 64, 768), np.float32)))
    ops = len(q.plan.graph.ops)
    table.add_row(
        "encoder, 12 layers of 768", f"{ops:,}", f"{seconds:.2f}", f"{1e3 * seconds / ops:.2f}", f"{peak:.1f}"
    )
    Console(width=120).print(table)


if __name__ == "__main__":
    main()
