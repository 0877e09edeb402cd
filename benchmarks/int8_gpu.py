"""INT8 training on a GPU: where int8 products are faster than bfloat16 ones, and what a whole training step gains.

    python benchmarks/int8_gpu.py [--seconds 225] [--rounds 7] [--anywhere]

Made to end within four minutes on one GPU: a part that the time left is too short for is left out and named. Where JAX
sees no GPU it says so and ends; `--anywhere` runs it all the same with small sizes, which is a test of the script.
Needs jax, numpy and jaxq. Contestants run in turns; a ratio is the median over the rounds of int8's time over
bfloat16's.

The parts: (0) integers that differ from numpy's, for each way of computing; (1) a square product of 1,024 to 8,192,
alone and with the rounding to int8 before it; (2) a step of four dense layers of 4,096; (3) a step of a transformer
block of width 2,048; (4) forward and backward of ResNet-50's convolutions, as sums over taps.
"""

from __future__ import annotations

import argparse
import functools
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

import jaxq
from jaxq.gradients import products, taps
from jaxq.gradients.choice import carrier_dtype
from jaxq.gradients.contraction import contraction
from jaxq.gradients.geometry import Geometry, geometry

BEGAN = time.monotonic()
NHWC = ("NHWC", "HWIO", "NHWC")

# ResNet-50 at 224x224: image size, channels in, channels out, window, stride.
CONVOLUTIONS = (
    (56, 64, 64, 3, 1),
    (56, 64, 256, 1, 1),
    (56, 128, 128, 3, 2),
    (28, 128, 128, 3, 1),
    (28, 512, 128, 1, 1),
    (14, 256, 256, 3, 1),
    (14, 1024, 256, 1, 1),
    (7, 512, 512, 3, 1),
    (7, 512, 2048, 1, 1),
)


def turns(rounds: int, calls: int, **contestants: tuple[Callable[..., Any], Sequence[Any]]) -> dict[str, list[float]]:
    """Seconds a call of each contestant in each round, in turns, after one call that compiles it."""
    for fn, args in contestants.values():
        jax.block_until_ready(fn(*args))
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(rounds):
        for name, (fn, args) in contestants.items():
            start, out = time.perf_counter(), None
            for _ in range(calls):
                out = fn(*args)
            jax.block_until_ready(out)
            seconds[name].append((time.perf_counter() - start) / calls)
    return seconds


def ratio(seconds: dict[str, list[float]], of: str, to: str) -> float:
    """The median over the rounds of one contestant's time over another's."""
    return float(np.median([a / b for a, b in zip(seconds[of], seconds[to], strict=True)]))


def milliseconds(seconds: list[float]) -> float:
    """The median, in milliseconds."""
    return 1e3 * float(np.median(seconds))


def normal(seed: int, *shape: int, dtype: Any = jnp.float32) -> jax.Array:
    """Normal numbers."""
    return jax.random.normal(jax.random.key(seed), shape, dtype)


def shape_of(fn: Callable[..., Any], x: Any, w: Any) -> Geometry:
    """The geometry of a function that is one contraction."""
    eqn = jax.make_jaxpr(fn)(x, w).eqns[0]
    return geometry(eqn.primitive.name, eqn.params, x, w)


def convolved(x: Any, w: Any, stride: int) -> Any:
    """A SAME convolution."""
    return lax.conv_general_dilated(x, w, (stride, stride), "SAME", dimension_numbers=NHWC)


def exact(options: argparse.Namespace) -> None:
    """Each way of computing against numpy's integer sums, on small arrays."""
    rng = np.random.default_rng(0)
    a, b = (rng.integers(-127, 128, s).astype(np.int8) for s in ((256, 512), (512, 128)))
    wide = a.astype(np.int64) @ b.astype(np.int64)
    dot = shape_of(jnp.matmul, *(jnp.zeros(v.shape) for v in (a, b)))
    for way in ("int8", "carriers"):
        got = jax.jit(lambda p, q, way=way: products.forward_product(dot, p, q, way))(a, b)
        print(f"  dot 256x512x128, {way}: {int(np.sum(np.asarray(got) != wide))} of {wide.size} differ")
    x, w = (rng.integers(-127, 128, s).astype(np.int8) for s in ((4, 14, 14, 64), (3, 3, 64, 32)))
    conv = functools.partial(convolved, stride=2)
    shape = shape_of(conv, *(jnp.zeros(v.shape) for v in (x, w)))
    want = _convolution_by_numpy(x, w, 2)
    g = rng.integers(-127, 128, want.shape).astype(np.int8)
    ways = {
        "y by taps": (lambda: taps.forward(shape, x, w), want),
        "y by carriers": (lambda: products.forward_product(shape, x, w, "carriers"), want),
    }
    dx, dw = _gradients_by_numpy(x, w, g, 2)
    ways["dX by taps"] = (lambda: taps.input_gradient(shape, g, w, x), dx)
    ways["dW by taps"] = (lambda: taps.weight_gradient(shape, x, g, w), dw)
    ways["dX by carriers"] = (lambda: products.input_product(shape, g, w, x, "carriers"), dx)
    ways["dW by carriers"] = (lambda: products.weight_product(shape, x, g, w, "carriers"), dw)
    for name, (fn, right) in ways.items():
        print(f"  3x3 convolution, {name}: {int(np.sum(np.asarray(jax.jit(fn)()) != right))} of {right.size} differ")


def _places(x: Any, w: Any, stride: int) -> tuple[np.ndarray, int, int]:
    size = -(-x.shape[1] // stride)
    total = max((size - 1) * stride + w.shape[0] - x.shape[1], 0)
    low = total // 2
    padded = np.pad(x.astype(np.int64), ((0, 0), (low, total - low), (low, total - low), (0, 0)))
    return padded, size, low


def _convolution_by_numpy(x: Any, w: Any, stride: int) -> np.ndarray:
    padded, size, _ = _places(x, w, stride)
    y = np.zeros((x.shape[0], size, size, w.shape[3]), np.int64)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            part = padded[:, i : i + stride * size : stride, j : j + stride * size : stride][:, :size, :size]
            y += part @ w[i, j].astype(np.int64)
    return y


def _gradients_by_numpy(x: Any, w: Any, g: Any, stride: int) -> tuple[np.ndarray, np.ndarray]:
    padded, size, low = _places(x, w, stride)
    dx, dw, g = np.zeros_like(padded), np.zeros(w.shape, np.int64), g.astype(np.int64)
    for i in range(w.shape[0]):
        for j in range(w.shape[1]):
            rows, columns = slice(i, i + stride * size, stride), slice(j, j + stride * size, stride)
            part = padded[:, rows, columns][:, :size, :size]
            dw[i, j] = np.einsum("nhwc,nhwo->co", part, g)
            dx[:, rows, columns][:, :size, :size] += g @ w[i, j].astype(np.int64).T
    return dx[:, low : low + x.shape[1], low : low + x.shape[2]], dw


def dots(options: argparse.Namespace) -> None:
    """Square products: bfloat16, int8, and int8 with the rounding of both operands before it."""
    sizes = (1024, 1536, 2048, 3072, 4096, 6144, 8192) if options.full else (64, 128)
    numbers = (((1,), (0,)), ((), ()))
    low = jax.jit(lambda p, q: lax.dot_general(p, q, numbers))
    whole = jax.jit(lambda p, q: lax.dot_general(p, q, numbers, preferred_element_type=jnp.int32))
    first: dict[str, int] = {}
    for n in sizes:
        a, b = (normal(i, n, n, dtype=jnp.bfloat16) for i in range(2))
        shape = shape_of(jnp.matmul, a, b)
        rounded = jax.jit(lambda p, q, shape=shape: contraction(shape, jaxq.int8.Backward(compute="int8"), p, q, {}))
        ints = tuple(jnp.clip(jnp.round(30 * v.astype(jnp.float32)), -127, 127).astype(jnp.int8) for v in (a, b))
        calls = max(1, round(4e12 / (2.0 * n**3)) if options.full else 1)
        seconds = turns(
            options.rounds, min(calls, 200), bfloat16=(low, (a, b)), int8=(whole, ints), rounded=(rounded, (a, b))
        )
        rate = {k: 2.0 * n**3 / np.median(v) / 1e12 for k, v in seconds.items()}
        gain = {k: 1 / ratio(seconds, k, "bfloat16") for k in ("int8", "rounded")}
        for k, v in gain.items():
            if v >= 1:
                first.setdefault(k, n)
        print(
            f"  {n:5d}: bfloat16 {rate['bfloat16']:7.1f} TFLOP/s, int8 {rate['int8']:7.1f} TOP/s, {gain['int8']:.2f} "
            f"times as fast; with the rounding {gain['rounded']:.2f}"
        )
    even = {k: f"{n} ({n**3:.1e} multiply-adds)" for k, n in first.items()}
    print(
        f"  break-even: int8 alone from {even.get('int8', 'no size')}, with the rounding from "
        f'{even.get("rounded", "no size")}; compute="auto" takes carriers on a GPU'
    )


def steps(options: argparse.Namespace, loss: Callable[..., Any], params: Any, x: Any) -> None:
    """One training step by SGD in bfloat16 and in int8, by every way of computing."""

    def step(fn: Callable[..., Any]) -> Any:
        def run(params: Any, x: Any) -> Any:
            value, g = jax.value_and_grad(fn)(params, x)
            return value, jax.tree.map(lambda p, d: p - 1e-3 * d, params, g)

        return jax.jit(run)

    contestants = {"bfloat16": (step(loss), (params, x))}
    for compute in ("auto", "int8"):
        how = jaxq.int8.Backward(compute=compute)
        made = jaxq.int8.training(loss, how, params, x)
        contestants[compute] = (step(lambda p, v, made=made: made.apply(p, {}, v)), (params, x))
    how = jaxq.int8.Backward(compute="auto", weight_gradient=False)
    made = jaxq.int8.training(loss, how, params, x)
    contestants["switchback"] = (step(lambda p, v: made.apply(p, {}, v)), (params, x))
    seconds = turns(options.rounds, 5 if options.full else 1, **contestants)
    texts = [f"{k} {milliseconds(v):.2f} ms ({ratio(seconds, k, 'bfloat16'):.2f})" for k, v in seconds.items()]
    print("  " + ", ".join(texts))
    for name, (fn, args) in contestants.items():
        analysis = fn.lower(*args).compile().memory_analysis()
        if analysis is not None:
            print(f"    {name}: {analysis.temp_size_in_bytes / 1e6:.0f} MB of temporary memory")


def dense(options: argparse.Namespace) -> None:
    """Four dense layers of 4,096 on 16,384 rows."""
    width, rows = (4096, 16384) if options.full else (64, 64)
    params = [normal(i, width, width) / width**0.5 for i in range(4)]

    def loss(params: Any, x: Any) -> Any:
        for w in params:
            x = jax.nn.relu(x @ w.astype(jnp.bfloat16))
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    steps(options, loss, params, normal(9, rows, width, dtype=jnp.bfloat16))


def transformer(options: argparse.Namespace) -> None:
    """One transformer block of width 2,048 with 16 heads, 8 sequences of 1,024."""
    width, heads, length, batch = (2048, 16, 1024, 8) if options.full else (64, 4, 16, 2)
    sizes = {"qkv": (width, 3 * width), "out": (width, width), "up": (width, 4 * width), "down": (4 * width, width)}
    params = {name: normal(i, *s) / s[0] ** 0.5 for i, (name, s) in enumerate(sizes.items())}

    def normed(x: Any) -> Any:
        wide = x.astype(jnp.float32)
        return (wide * lax.rsqrt(jnp.mean(wide * wide, -1, keepdims=True) + 1e-6)).astype(x.dtype)

    def loss(params: Any, x: Any) -> Any:
        p = jax.tree.map(lambda v: v.astype(jnp.bfloat16), params)
        q, k, v = (t.reshape(batch, length, heads, -1) for t in jnp.split(normed(x) @ p["qkv"], 3, -1))
        scores = jnp.einsum("bthd,bshd->bhts", q, k).astype(jnp.float32) * (width // heads) ** -0.5
        mixed = jnp.einsum("bhts,bshd->bthd", jax.nn.softmax(scores).astype(x.dtype), v)
        x = x + mixed.reshape(x.shape) @ p["out"]
        x = x + jax.nn.gelu(normed(x) @ p["up"]) @ p["down"]
        return jnp.mean(jnp.square(x.astype(jnp.float32)))

    steps(options, loss, params, normal(9, batch, length, width, dtype=jnp.bfloat16))


def convolutions(options: argparse.Namespace) -> None:
    """Forward and backward of single convolutions of ResNet-50 in a batch of 64, quantizing included."""
    batch, shapes = (64, CONVOLUTIONS) if options.full else (2, CONVOLUTIONS[-2:-1])
    for size, inner, outer, window, stride in shapes:
        if left(options) < 10:
            print("  the time is up: the other shapes are left out")
            return
        x = normal(0, batch, size, size, inner, dtype=jnp.bfloat16)
        w = normal(1, window, window, inner, outer, dtype=jnp.bfloat16)
        conv = functools.partial(convolved, stride=stride)
        shape, g = shape_of(conv, x, w), jnp.ones_like(conv(x, w))

        def both(fn: Callable[..., Any], g: Any = g) -> Any:
            return jax.jit(lambda a, b: jax.vjp(fn, a, b)[1](g) + (fn(a, b),))

        how = jaxq.int8.Backward(compute="int8")
        whole = both(lambda a, b, shape=shape, how=how: contraction(shape, how, a, b, {}))
        ways = {"bfloat16": (both(conv), (x, w)), "taps": (whole, (x, w))}
        seconds = turns(options.rounds, 10 if options.full else 1, **ways)
        print(
            f"  {size}x{size}, {inner} to {outer}, {window}x{window}/{stride}: bfloat16 "
            f"{milliseconds(seconds['bfloat16']):.2f} ms, int8 by taps {ratio(seconds, 'taps', 'bfloat16'):.2f} of it"
        )


def left(options: argparse.Namespace) -> float:
    """The seconds left."""
    return options.seconds - (time.monotonic() - BEGAN)


PARTS = {
    "integers against numpy's": (exact, 20),
    "square products": (dots, 30),
    "step of four dense layers of 4,096": (dense, 30),
    "step of a transformer block of 2,048": (transformer, 30),
    "convolutions of ResNet-50": (convolutions, 15),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=225.0, help="no part begins that may end later")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--anywhere", action="store_true", help="run without a GPU too, on small sizes")
    options = parser.parse_args()
    options.full = jax.default_backend() == "gpu"
    if not options.full and not options.anywhere:
        print("JAX sees no GPU here; nothing to measure. --anywhere runs the script with small sizes.")
        return
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}, carriers in {jnp.dtype(carrier_dtype())}")
    failed = []
    for name, (part, needed) in PARTS.items():
        if left(options) < needed:
            print(f"{name}: left out, {left(options):.0f} s are left of {options.seconds:.0f}")
            continue
        print(f"{name}:", flush=True)
        try:
            part(options)
        except Exception:  # one part must not cost the others, for a GPU is rare
            failed.append(name)
            traceback.print_exc()
        print(f"  ({time.monotonic() - BEGAN:.0f} s)", flush=True)
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
