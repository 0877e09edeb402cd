"""What a proof costs: CPU seconds and memory of `verify` and of `analyze.diff`, each in a process of its own.

python benchmarks/verify.py                    # all; EfficientNet-Lite0's weights are fetched once, about 18 MB
python benchmarks/verify.py gru                # one or more, by name

`verify` compares the training forward, both kernel families and LiteRT in every integer. The chains are networks of so
many operators, for the time to compile: it should be linear in them.
"""

from __future__ import annotations

import json
import os
import pathlib
import resource
import subprocess
import sys
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxq
import jaxq.analyze
import jaxq.export
from jaxq.errors import WeightsError
from jaxq.recipes import weights
from jaxq.recipes.efficientnet_lite import EfficientNetLite
from jaxq.recipes.photos import photos

CHAINS = (100, 300, 1000)
HEAD = ("network", "operators", "examples", "verify, CPU s", "again", "diff, CPU s", "peak, GB", "integers", "differ")


class Block(nnx.Module):
    """A transformer block: attention of four heads and two dense layers, each behind a LayerNorm."""

    def __init__(self, width: int, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(width, rngs=rngs) for _ in range(2)])
        self.query, self.key, self.value, self.out = (nnx.Linear(width, width, rngs=rngs) for _ in range(4))
        self.up, self.down = nnx.Linear(width, 4 * width, rngs=rngs), nnx.Linear(4 * width, width, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, tokens, width] to the same."""
        y = self.norms[0](x)
        q, k, v = (layer(y).reshape(*y.shape[:2], 4, -1).transpose(0, 2, 1, 3) for layer in
                   (self.query, self.key, self.value))  # fmt: skip
        weights = jax.nn.softmax(q @ k.transpose(0, 1, 3, 2) / np.sqrt(q.shape[-1]))
        x = x + self.out((weights @ v).transpose(0, 2, 1, 3).reshape(x.shape))
        return x + self.down(jax.nn.gelu(self.up(self.norms[1](x))))


class TinyViT(nnx.Module):
    """Three blocks of width 64 over 64 patches of a 32x32 picture."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.patches = nnx.Conv(3, 64, (4, 4), strides=4, rngs=rngs)
        self.positions = nnx.Param(jax.random.normal(rngs.params(), (1, 64, 64)) * 0.02)
        self.blocks = nnx.List([Block(64, rngs) for _ in range(3)])
        self.norm, self.head = nnx.LayerNorm(64, rngs=rngs), nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 32, 32, 3] to [n, 10]."""
        y = self.patches(x)
        y = y.reshape(len(x), -1, 64) + self.positions[...]
        for block in self.blocks:
            y = block(y)
        return self.head(self.norm(y).mean(1))


class Gru(nnx.Module):
    """A GRU of 32 cells over 12 steps."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.rnn, self.head = nnx.RNN(nnx.GRUCell(16, 32, rngs=rngs)), nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 12, 16] to [n, 10]."""
        return self.head(jnp.asarray(self.rnn(x))[:, -1])


class Chain(nnx.Module):
    """Dense layers and sums in turns: so many operators."""

    def __init__(self, operators: int, rngs: nnx.Rngs) -> None:
        small = nnx.initializers.normal(0.02)  # sums of hundreds of terms stay in range
        self.layers = nnx.List([nnx.Linear(16, 16, kernel_init=small, rngs=rngs) for _ in range(operators // 2)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 16] to the same."""
        for layer in self.layers:
            x = x + jax.nn.relu(layer(x))
        return x


def case(name: str) -> tuple[Any, np.ndarray]:
    """A network in evaluation mode, and examples."""
    rng = np.random.default_rng(0)
    if name == "lite0":
        published = weights.checkpoint("efficientnet_lite0")
        x = published.preprocess(photos(interpolation=published.interpolation).images)[:8]
        try:
            weights.install("efficientnet_lite0")
            return weights.pretrained("efficientnet_lite0"), x
        except WeightsError:
            model: Any = EfficientNetLite(0, rngs=nnx.Rngs(0))
    elif name == "vit":
        model, x = TinyViT(nnx.Rngs(0)), rng.normal(size=(16, 32, 32, 3)).astype(np.float32)
    elif name == "gru":
        model, x = Gru(nnx.Rngs(0)), rng.normal(size=(16, 12, 16)).astype(np.float32)
    else:
        model, x = Chain(int(name.removeprefix("chain_")), nnx.Rngs(0)), rng.normal(size=(16, 16)).astype(np.float32)
    model.eval()
    return model, x


def cpu_seconds() -> float:
    """Of this process and of its children, such as the one that runs LiteRT."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    total, tick = used.ru_utime + used.ru_stime, os.sysconf("SC_CLK_TCK")
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:  # it has ended
            continue
        if int(fields[1]) == os.getpid():
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def measured(name: str, what: str) -> dict[str, Any]:
    """The cost of one part for one network, in this process."""
    warnings.simplefilter("ignore", jaxq.PrecisionWarning)
    model, x = case(name)
    qmodel = jaxq.quantize(model, "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    found: dict[str, Any] = {"examples": len(x)}
    if what == "diff":
        start = cpu_seconds()
        jaxq.analyze.diff(qmodel, x, progress=False)
        return found | {"cpu": cpu_seconds() - start, "peak": _peak()}
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    start = cpu_seconds()
    certificate = artifact.verify(x, progress=False)
    between = cpu_seconds()
    artifact.verify(x, progress=False)
    differ = sum(certificate.differing_integers.values()) + certificate.simulation_differing
    found |= {"cpu": between - start, "again": cpu_seconds() - between, "peak": _peak(), "differ": differ}
    return found | {"operators": len(artifact.program.operators), "integers": certificate.compared_integers}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def row(name: str) -> tuple[str, ...]:
    """A network's row, each part in a fresh process."""
    parts = {}
    for what in ("verify", "diff"):
        command = [sys.executable, __file__, "--one", name, what]
        parts[what] = json.loads(subprocess.run(command, check=True, capture_output=True).stdout.splitlines()[-1])
    v, d = parts["verify"], parts["diff"]
    numbers = (v["cpu"], v["again"], d["cpu"], max(v["peak"], d["peak"]))
    return (name, str(v["operators"]), str(v["examples"]), *(f"{n:.1f}" for n in numbers), f"{v['integers']:,}",
            str(v["differ"]))  # fmt: skip


def main() -> None:
    """Print the table."""
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(measured(*sys.argv[2:4])))
        return
    names = sys.argv[1:] or ["lite0", "vit", "gru", *(f"chain_{n}" for n in CHAINS)]
    print("\n".join(f"| {' | '.join(cells)} |" for cells in (HEAD, ["---"] * len(HEAD))))
    for name in names:
        print(f"| {' | '.join(row(name))} |", flush=True)


if __name__ == "__main__":
    main()
