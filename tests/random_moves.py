"""What a random network is made of: `MOVES`, one row a thing that users write, each with details drawn by a seed.

A move `(tools, x, y) -> tensors` takes two tensors [n, ...] that the network holds already and gives new ones; no
tensor where it does not apply to their shapes. It never reduces over the batch. Weights come from `Tools.weight`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax

from tests.promotion import avg_pool

Tensors = tuple[jax.Array, ...]
Weights = dict[str, np.ndarray]


class Tools:
    """The dice of one step and its weights: made up where `weights` lacks them, else those given."""

    def __init__(self, seed: int, weights: Weights) -> None:
        self.rng, self.weights = np.random.default_rng(seed), weights

    def pick(self, *choices: Any) -> Any:
        """One of the choices."""
        return choices[int(self.rng.integers(len(choices)))]

    def number(self, low: float, high: float) -> float:
        """A real number."""
        return float(self.rng.uniform(low, high))

    def weight(self, name: str, shape: tuple[int, ...], spread: float = 1.0, middle: float = 0.0) -> Any:
        """Normal numbers times `spread`, from one channel (the last axis) to the next of other size, about `middle`."""
        sizes = self.pick(np.ones(shape[-1]), 10.0 ** self.rng.uniform(-1.5, 0.5, shape[-1]))
        made = middle + spread * sizes * self.rng.normal(0.0, 1.0, shape)
        return self.weights.setdefault(name, made.astype(np.float32))

    def kernel(self, shape: tuple[int, ...]) -> Any:
        """A kernel that makes of unit inputs outputs of a size between a tenth and ten."""
        return self.weight("kernel", shape, 10.0 ** self.number(-1.0, 1.0) / math.sqrt(math.prod(shape[:-1])))

    def bias(self, y: jax.Array) -> jax.Array:
        """With a bias, or without."""
        return y + self.weight("bias", y.shape[-1:], 0.5) if self.pick(True, False) else y


Move = Callable[[Tools, jax.Array, jax.Array], Tensors]


# --- contractions -------------------------------------------------------------------------------------------


def _convolved(t: Tools, x: jax.Array, groups: int, out: int) -> Tensors:
    spatial = x.ndim - 2
    size = tuple(t.pick(1, 2, 3, 5) for _ in range(spatial))
    pads = tuple((t.pick(0, 1, 2), t.pick(0, 1, 2)) for _ in range(spatial))
    numbers = ("NHWC", "HWIO", "NHWC") if spatial == 2 else ("NWC", "WIO", "NWC")
    y = lax.conv_general_dilated(
        x,
        t.kernel((*size, x.shape[-1] // groups, out)),
        tuple(t.pick(1, 1, 2, 3) for _ in size),
        t.pick("SAME", "SAME", "VALID", pads),
        rhs_dilation=tuple(t.pick(1, 1, 2) for _ in size),
        dimension_numbers=numbers,
        feature_group_count=groups,
    )
    return (t.bias(y),)


def _conv(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if x.ndim not in (3, 4):
        return ()
    groups = t.pick(1, 1, 1, *(g for g in (2, 3, 4) if x.shape[-1] % g == 0))
    return _convolved(t, x, groups, groups * t.pick(1, 2, 3, 4))


def _depthwise(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return _convolved(t, x, x.shape[-1], x.shape[-1] * t.pick(1, 1, 2)) if x.ndim in (3, 4) else ()


def _conv_transpose(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if x.ndim != 4:
        return ()
    kernel = t.kernel((t.pick(2, 3), t.pick(2, 3), x.shape[-1], t.pick(2, 4)))
    return (t.bias(lax.conv_transpose(x, kernel, (t.pick(1, 2), 2), t.pick("SAME", "VALID"))),)


def _dense(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (t.bias(x @ t.kernel((x.shape[-1], t.pick(1, 3, 4, 8)))),)


def _dense_all(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (t.bias(x.reshape(x.shape[0], -1) @ t.kernel((math.prod(x.shape[1:]), t.pick(1, 4, 7)))),)


def _einsum(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (jnp.einsum("n...c,cde->n...de", x, t.kernel((x.shape[-1], t.pick(2, 3), t.pick(2, 4)))),)


def _matmul(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if x.ndim < 3:
        return ()
    if y.ndim != x.ndim or x.shape[:-2] != y.shape[:-2] or x.shape[-1] != y.shape[-1]:
        y = x
    return (x @ jnp.swapaxes(y, -1, -2) / math.sqrt(x.shape[-1]),)


# --- normalization and arithmetic with weights ----------------------------------------------------------------


def _batch_norm(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    shape = x.shape[-1:]
    mean, var = t.weight("mean", shape, 0.3), jnp.abs(t.weight("var", shape)) + 0.05
    return ((x - mean) * lax.rsqrt(var + 1e-5) * t.weight("gamma", shape) + t.weight("beta", shape, 0.3),)


def _layer_norm(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    centred = x - jnp.mean(x, axis=-1, keepdims=True)
    variance = jnp.mean(jnp.square(centred), axis=-1, keepdims=True)
    return (centred * lax.rsqrt(variance + 1e-5) * t.weight("gamma", x.shape[-1:]) + t.weight("beta", x.shape[-1:]),)


def _with(operate: Callable[[Any, Any], Any], middle: float = 0.0) -> Move:
    """An activation and a weight: a number, a vector over channels, or a tensor of the activation's shape."""

    def move(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
        weight = t.weight("weight", t.pick((1,), x.shape[-1:], (1, *x.shape[1:])), 0.4, middle)
        return (operate(x, weight),)

    return move


def _scalar(operate: Callable[[jax.Array, float], jax.Array]) -> Move:
    def move(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
        return (operate(x, t.pick(-1.0, 1.0) * 10.0 ** t.number(-1.5, 1.0)),)

    return move


def _clip(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    low = t.number(-1.5, 0.7)
    return (jnp.clip(x, *t.pick((low, low + t.number(0.05, 3.0)), (-1.0, 1.0))),)


def _mask(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (jnp.where(t.rng.random((1, *x.shape[1:])) < 0.5, x, t.pick(0.0, x[:, :1])),)


# --- two activations ------------------------------------------------------------------------------------------


def _partner(t: Tools, x: jax.Array, y: jax.Array) -> jax.Array:
    """`y` where it can be broadcast against x; its mean over all but batch and channels where that can; else x."""
    for other in (y, jnp.mean(y, axis=tuple(range(1, y.ndim - 1)), keepdims=True) if y.ndim > 2 else y):
        fits = other.ndim == x.ndim and all(1 in pair or len(set(pair)) == 1 for pair in zip(x.shape, other.shape))  # noqa: B905
        if fits:
            return other
    return t.pick(x, jax.nn.relu(x), x[:, ::-1] if x.ndim > 2 and x.shape[1] == 1 else x)


def _pair(operate: Callable[[Any, Any], Any]) -> Move:
    return lambda t, x, y: (operate(*t.pick((x, _partner(t, x, y)), (_partner(t, x, y), x))),)


def _gate(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if x.ndim < 3:
        return (x * jax.nn.sigmoid(x),)
    mean = jnp.mean(x, axis=tuple(range(1, x.ndim - 1)), keepdims=True)
    return (x * t.pick(jax.nn.sigmoid, jax.nn.hard_sigmoid)(mean @ t.kernel((x.shape[-1], x.shape[-1]))),)


def _concat(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if y.ndim != x.ndim:
        y = x
    axes = [a for a in range(1, x.ndim) if all(i == a or x.shape[i] == y.shape[i] for i in range(x.ndim))]
    return (jnp.concatenate(t.pick([x, y], [y, x], [x, y, x]), axis=t.pick(*axes)),) if axes else ()


# --- movement -------------------------------------------------------------------------------------------------


def _split(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    axis = int(t.rng.integers(1, x.ndim))
    size = x.shape[axis]
    if size < 2:
        return ()
    even = [n for n in (2, 3, 4) if size % n == 0]
    return tuple(jnp.split(x, t.pick(*even, [int(t.rng.integers(1, size))]), axis=axis))


def _slice(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    cuts = []
    for size in x.shape[1:]:
        start = int(t.rng.integers(0, size))
        cuts.append(slice(start, int(t.rng.integers(start + 1, size + 1)), t.pick(1, 1, 1, 2)))
    cuts = t.pick(cuts, cuts[:1], [*[slice(None)] * (x.ndim - 2), *cuts[-1:]])
    return (x[(slice(None), *cuts)],)


def _pad(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (jnp.pad(x, [(0, 0), *((t.pick(0, 0, 1, 2), t.pick(0, 1)) for _ in x.shape[1:])]),)


def _reshape(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    shape: list[int] = [int(size) for size in x.shape[1:]]
    halves = [(*shape[:-1], shape[-1] // 2, 2)] if shape[-1] % 2 == 0 and len(shape) < 4 else []
    merged = [(shape[0] * shape[1], *shape[2:]), (*shape[:-2], shape[-2] * shape[-1])] if len(shape) > 1 else []
    return (x.reshape(x.shape[0], *t.pick(*halves, *merged, (math.prod(shape),), (1, *shape))),)


def _transpose(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (jnp.transpose(x, (0, *(1 + int(i) for i in t.rng.permutation(x.ndim - 1)))),)


def _flip(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    return (jnp.flip(x, int(t.rng.integers(1, x.ndim))),)


def _take(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    axis = int(t.rng.integers(1, x.ndim))
    return (jnp.take(x, t.rng.integers(0, x.shape[axis], 1 + x.shape[axis] // 2), axis=axis),)


def _repeat(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    axis, times = int(t.rng.integers(1, x.ndim)), t.pick(2, 3)
    tiles = [times if a == axis else 1 for a in range(x.ndim)]
    return (t.pick(jnp.tile(x, tiles), jnp.repeat(x, times, axis=axis)),)


def _resize(method: str) -> Move:
    def move(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
        if x.ndim != 4:
            return ()
        return (jax.image.resize(x, (x.shape[0], 2 * x.shape[1], 2 * x.shape[2], x.shape[3]), method),)

    return move


# --- pools and reductions ---------------------------------------------------------------------------------------


def _max_pool(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if x.ndim != 4:
        return ()
    window = tuple(t.pick(1, 2, 3) for _ in range(2))
    padding: Any = t.pick("SAME", "VALID", ((1, 1), (1, 1)))
    return (nnx.max_pool(x, window, (t.pick(1, 2), t.pick(1, 2)), padding),) if min(x.shape[1:3]) > 2 else ()


def _avg_pool(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
    if x.ndim != 4 or min(x.shape[1:3]) < 3:
        return ()
    window, stride = tuple(t.pick(1, 2, 3) for _ in range(2)), (t.pick(1, 2), t.pick(1, 2))
    return (avg_pool(x, window, stride, t.pick("SAME", "VALID"), count_include_pad=t.pick(True, False)),)


def _reduce(reduce: Callable[..., jax.Array]) -> Move:
    def move(t: Tools, x: jax.Array, y: jax.Array) -> Tensors:
        axes = tuple(a for a in range(1, x.ndim) if t.pick(True, False)) or (x.ndim - 1,)
        return (reduce(x, axis=axes, keepdims=t.pick(True, False) or len(axes) == x.ndim - 1),)

    return move


def _each(function: Callable[[jax.Array], jax.Array]) -> Move:
    return lambda t, x, y: (function(x),)


# Sorted.
MOVES: dict[str, Move] = {
    "abs": _each(jnp.abs),
    "add": _pair(jnp.add),
    "add scalar": _scalar(jnp.add),
    "add weight": _with(jnp.add),
    "avg_pool": _avg_pool,
    "batch_norm": _batch_norm,
    "clip": _clip,
    "concat": _concat,
    "conv": _conv,
    "conv_transpose": _conv_transpose,
    "dense": _dense,
    "dense of all": _dense_all,
    "depthwise": _depthwise,
    "divide scalar": _scalar(jnp.divide),
    "einsum": _einsum,
    "elu": _each(jax.nn.elu),
    "exp": _each(lambda x: jnp.exp(-jnp.abs(x))),
    "flip": _flip,
    "gate": _gate,
    "gelu": _each(jax.nn.gelu),
    "hard_sigmoid": _each(jax.nn.hard_sigmoid),
    "hard_swish": _each(jax.nn.hard_swish),
    "hard_tanh": _each(jax.nn.hard_tanh),
    "layer_norm": _layer_norm,
    "leaky_relu": _each(jax.nn.leaky_relu),
    "log_softmax": _each(jax.nn.log_softmax),
    "mask": _mask,
    "matmul": _matmul,
    "max": _reduce(jnp.max),
    "max_pool": _max_pool,
    "maximum": _pair(jnp.maximum),
    "mean": _reduce(jnp.mean),
    "min": _reduce(jnp.min),
    "minimum": _pair(jnp.minimum),
    "multiply": _pair(jnp.multiply),
    "multiply scalar": _scalar(jnp.multiply),
    "multiply weight": _with(jnp.multiply, middle=1.0),
    "negative": _each(jnp.negative),
    "pad": _pad,
    "prelu": _with(lambda x, slope: jnp.where(x >= 0, x, slope * x)),
    "relu": _each(jax.nn.relu),
    "relu6": _each(jax.nn.relu6),
    "repeat": _repeat,
    "reshape": _reshape,
    "resize bilinear": _resize("bilinear"),
    "resize nearest": _resize("nearest"),
    "reversed scalar": _scalar(lambda x, c: c - x),
    "select": _pair(lambda a, b: jnp.where(a > 0.25, a, b)),
    "select by both": _pair(lambda a, b: jnp.where((a > 0.0) & (b > 0.25), a, b)),
    "sigmoid": _each(jax.nn.sigmoid),
    "silu": _each(jax.nn.silu),
    "slice": _slice,
    "softmax": _each(jax.nn.softmax),
    "softplus": _each(jax.nn.softplus),
    "split": _split,
    "sqrt": _each(lambda x: jnp.sqrt(jax.nn.relu(x) + 0.01)),
    "square": _each(jnp.square),
    "stop_gradient": _each(lax.stop_gradient),
    "subtract": _pair(jnp.subtract),
    "sum": _reduce(jnp.sum),
    "take": _take,
    "tanh": _each(jnp.tanh),
    "transpose": _transpose,
    "where": _each(lambda x: jnp.where(x > 0.25, x, 0.0)),
}
