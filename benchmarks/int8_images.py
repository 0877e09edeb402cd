"""INT8 training from scratch beside float training, on a folder of small images that the device holds whole.

    python benchmarks/int8_images.py --data FOLDER --network resnet_20 --epochs 8
    python benchmarks/int8_images.py --data FOLDER --network mobilenet_v2 --cases float row:8 unified:8

The networks of `recipes/cifar10_int8_training`, from the same weights, on the same batches in the same order, turned
over and shifted alike. SGD with momentum 0.9, its rate by a cosine after a rise over the first tenth, weight decay. On
an accelerator an epoch is one `jax.lax.scan`, so that a step waits for nothing but the device. Accuracy is of the
network as it was trained, in int8, and in floats with the same weights. `--train`, `--batch` and `--epochs` make it
small enough for a CPU.
"""

from __future__ import annotations

import argparse
import functools
import pathlib
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import lax

import jaxq
from jaxq.int8 import Backward
from jaxq.recipes import images
from jaxq.recipes.cifar10_int8_training import NETWORKS

SCHEMES = ("row", "adaptive", "unified", "tensor-sr", "tensor")
CASES = ("float", *(f"{scheme}:{bits}" for bits in (8, 4) for scheme in SCHEMES))
SIDE, SHIFT = 32, 4


def ready(pixels: jax.Array) -> jax.Array:
    """uint8 to float32 in [-1, 1]."""
    return pixels.astype(jnp.float32) / 127.5 - 1.0


def moved(key: jax.Array, pixels: jax.Array) -> jax.Array:
    """Each image shifted by at most SHIFT pixels, zeros moving in, and mirrored or not."""
    count = len(pixels)
    turn, shift = jax.random.split(key)
    pixels = jnp.where(jax.random.bernoulli(turn, shape=(count, 1, 1, 1)), pixels[:, :, ::-1], pixels)
    wide = jnp.pad(pixels, ((0, 0), (SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), constant_values=128)
    starts = jax.random.randint(shift, (count, 2), 0, 2 * SHIFT + 1)
    return jax.vmap(lambda image, at: lax.dynamic_slice(image, (*at, 0), pixels.shape[1:]))(wide, starts)


def loss_of(model: Any, x: jax.Array, y: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(model(x), y).mean()


def built(case: str, seed: int, options: argparse.Namespace, steps: int) -> tuple[Any, nnx.Optimizer]:
    """A network with the seed's weights, in floats or in int8, and its optimizer."""
    net = NETWORKS[options.network](10, nnx.Rngs(seed))
    for _, module in nnx.iter_modules(net):
        if isinstance(module, nnx.BatchNorm):
            module.momentum = 0.9
    scheme, _, bits = case.partition(":")
    example = np.zeros((options.batch, SIDE, SIDE, 3), np.float32)
    how = None if scheme == "float" else Backward(scheme=scheme, bits=int(bits or 8))  # type: ignore[arg-type]
    model = net if how is None else jaxq.int8.training(net, how, example)
    model.train()
    rate = optax.warmup_cosine_decay_schedule(0.0, options.rate, max(1, steps // 10), steps)
    sgd = optax.chain(optax.add_decayed_weights(options.decay), optax.sgd(rate, momentum=0.9))
    tx = jaxq.optim.partition(sgd)
    if scheme == "unified":
        tx = optax.chain(tx, jaxq.optim.scale_by_deviation())
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def epoch_of(graph: Any) -> Callable[..., Any]:
    """A pass over the images: (state, pixels, labels, order, key) to the state and its losses.

    One compiled loop on an accelerator. On a CPU a convolution in a compiled loop runs on one thread, so steps are
    called one by one.
    """

    def step(data: Any, state: Any, at: Any) -> Any:
        (pixels, labels), (index, key) = data, at
        model, optimizer = nnx.merge(graph, state)
        loss, gradients = nnx.value_and_grad(loss_of)(model, ready(moved(key, pixels[index])), labels[index])
        optimizer.update(model, gradients)
        return nnx.state((model, optimizer)), loss

    def looped(state: Any, data: Any, order: jax.Array, key: jax.Array) -> Any:
        return lax.scan(functools.partial(step, data), state, (order, jax.random.split(key, len(order))))

    one = jax.jit(step, donate_argnums=1)

    def called(state: Any, data: Any, order: jax.Array, key: jax.Array) -> Any:
        losses = []
        for at in zip(order, jax.random.split(key, len(order)), strict=True):
            state, loss = one(data, state, at)
            losses.append(loss)
        return state, jnp.stack(losses)

    return called if jax.default_backend() == "cpu" else jax.jit(looped, donate_argnums=0)


def accuracy(model: Any, data: images.Images) -> float:
    """Of the test images, in percent, in evaluation mode."""
    model.eval()
    forward = nnx.jit(lambda model, x: jnp.argmax(model(ready(x)), -1))
    found = [
        np.asarray(forward(model, jnp.asarray(data.images[i : i + 1000]))) for i in range(0, len(data.labels), 1000)
    ]
    return 100 * float(np.mean(np.concatenate(found) == data.labels))


def line(case: str, folder: tuple[images.Images, images.Images], options: argparse.Namespace) -> None:
    """Train by one scheme from each seed, and print what came of it."""
    training, test = folder
    data = jnp.asarray(training.images), jnp.asarray(training.labels)
    count = len(training.labels)
    each = count // options.batch
    epoch = None
    for seed in range(options.first, options.first + options.seeds):
        model, optimizer = built(case, seed, options, each * options.epochs)
        graph, state = nnx.split((model, optimizer))
        epoch = epoch or epoch_of(graph)
        rng, losses, seconds = np.random.default_rng(seed), jnp.zeros(1), []
        for number in range(options.epochs):
            order = jnp.asarray(rng.permutation(count)[: each * options.batch].reshape(each, -1))
            start = time.perf_counter()
            state, losses = jax.block_until_ready(epoch(state, data, order, jax.random.key(number)))
            seconds.append(time.perf_counter() - start)
        model, _ = nnx.merge(graph, state)
        right, floats = (accuracy(m, test) for m in (model, getattr(model, "model", model)))
        print(
            f"{options.network}, {case}, seed {seed}: {right:.2f} %, in floats {floats:.2f} %, loss of the last epoch "
            f"{float(losses.mean()):.3f}, {1e3 * min(seconds) / each:.1f} ms a step, first epoch {seconds[0]:.0f} s",
            flush=True,
        )


def main() -> None:
    """Print a line for each case and seed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True, help="FOLDER/train/CLASS/*.jpg and FOLDER/test/...")
    parser.add_argument("--network", choices=NETWORKS, default="resnet_20")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=CASES, help="scheme:bits of gradients")
    for name, number in (("epochs", 8), ("batch", 128), ("seeds", 1), ("first", 0)):
        parser.add_argument(f"--{name}", type=int, default=number)
    parser.add_argument("--rate", type=float, default=0.1)
    parser.add_argument("--decay", type=float, default=5e-4)
    parser.add_argument("--train", type=int, help="so many images to train on; all by default")
    parser.add_argument("--test", type=int, help="so many images to test on; all by default")
    options = parser.parse_args()
    data = images.read_splits(options.data, SIDE, options.train, options.test, 0)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, {len(data[0].labels)} images", flush=True)
    for case in options.cases:
        line(case, data, options)


if __name__ == "__main__":
    main()
