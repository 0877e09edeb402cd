"""Small networks as users write them, on random but realistic numbers. Each law of jaxq holds on every one.

`ZOO` maps a name to a function that builds a `Case`: a model in evaluation mode with non-trivial biases and
BatchNorm statistics (negative scales among them), and 64 examples. A name gives the same numbers each time.
"""

from __future__ import annotations

import functools
import zlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import jaxq
from jaxq.export.proof.forward import Proof
from tests.effort import little_effort
from tests.promotion import avg_pool, promoting

EXAMPLES = 64
IMAGE, SERIES, ROW = (16, 16, 3), (12, 6), (12,)

Shape = tuple[int, ...]


class Case(NamedTuple):
    """A model with examples to calibrate and to verify on."""

    model: nnx.Module
    args: tuple[np.ndarray, ...]
    kwargs: dict[str, np.ndarray]

    def first(self, n: int) -> tuple[tuple[np.ndarray, ...], dict[str, np.ndarray]]:
        """The first n examples, as arguments of a call."""
        return tuple(a[:n] for a in self.args), {k: a[:n] for k, a in self.kwargs.items()}

    @property
    def arrays(self) -> tuple[np.ndarray, ...]:
        """Every input, in the order of the artifact's inputs (keywords by name)."""
        return (*self.args, *(self.kwargs[k] for k in sorted(self.kwargs)))

    @property
    def batches(self) -> list[Any]:
        """All examples as one batch for `jaxq.calibrate`; as two where they are positional."""
        if self.kwargs:
            return [self.kwargs] if not self.args else []
        return [tuple(a[:32] for a in self.args), tuple(a[32:] for a in self.args)]


def proof_of(artifact: jaxq.export.Artifact) -> Proof:
    """The training forward and the integers behind an exported artifact."""
    assert artifact.proof is not None
    return artifact.proof


# --- numbers ------------------------------------------------------------------------------------------------


def examples(shape: Shape, seed: int) -> np.ndarray:
    """Images: smooth patches in [0, 1] with noise. Anything else: a slow walk about zero."""
    rng = np.random.default_rng(seed)
    if len(shape) < 3:
        return np.cumsum(rng.normal(0.0, 0.4, (EXAMPLES, *shape)), axis=1).astype(np.float32)
    coarse = rng.beta(0.8, 1.2, (EXAMPLES, -(-shape[0] // 4), -(-shape[1] // 4), shape[2]))
    smooth = coarse.repeat(4, axis=1).repeat(4, axis=2)[:, : shape[0], : shape[1]]
    return np.clip(smooth + rng.normal(0.0, 0.05, (EXAMPLES, *shape)), 0.0, 1.0).astype(np.float32)


@functools.cache
def as_trained(make: Callable[[nnx.Rngs], nnx.Module], seed: int) -> nnx.Module:
    """A model with biases and BatchNorm statistics as after training: none 0 or 1, some scales negative.

    Clone it before anything changes it. (It is made once: a compiler of another effort gives other last bits.)
    """
    with little_effort():  # of the kernels' first numbers
        model = make(nnx.Rngs(seed))
    rng = np.random.default_rng(seed)
    for _, module in nnx.iter_modules(model):
        if isinstance(module, nnx.BatchNorm):
            n = module.num_features
            sign = np.where(rng.random(n) < 0.25, -1.0, 1.0)
            _set(module.mean, rng.normal(0.0, 0.3, n))
            _set(module.var, rng.uniform(0.05, 2.0, n))
            _set(module.scale, sign * rng.uniform(0.4, 1.6, n))
            _set(module.bias, rng.normal(0.0, 0.4, n))
        elif isinstance(module, nnx.Conv | nnx.Linear) and module.bias is not None:
            _set(module.bias, rng.normal(0.0, 0.2, module.bias.shape))
    return model


def _set(variable: Any, numbers: np.ndarray) -> None:
    variable[...] = jnp.asarray(numbers, variable.dtype)


def conv(rngs: nnx.Rngs, inner: int, outer: int, size: int = 3, **options: Any) -> nnx.Conv:
    """A square convolution."""
    return nnx.Conv(inner, outer, (size, size), rngs=rngs, **options)


def norm(rngs: nnx.Rngs, channels: int) -> nnx.BatchNorm:
    """BatchNorm on its running statistics."""
    return nnx.BatchNorm(channels, use_running_average=True, rngs=rngs)


# --- networks -----------------------------------------------------------------------------------------------


class Separable(nnx.Module):
    """MobileNetV2 in small: BatchNorm, ReLU6, depthwise, a residual sum, an average, a classifier."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem, self.stem_norm = conv(rngs, 3, 8, strides=2, use_bias=False), norm(rngs, 8)
        self.depthwise = conv(rngs, 8, 8, feature_group_count=8, use_bias=False)
        self.depthwise_norm = norm(rngs, 8)
        self.project, self.project_norm = conv(rngs, 8, 8, 1, use_bias=False), norm(rngs, 8)
        self.head = nnx.Linear(32, 10, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu6(self.stem_norm(self.stem(x)))
        y = jax.nn.relu6(self.depthwise_norm(self.depthwise(x)))
        x = x + self.project_norm(self.project(y))
        x = avg_pool(x, (4, 4), (4, 4))
        return self.head(x.reshape(x.shape[0], -1))


class Windows(nnx.Module):
    """Strides, dilations and paddings: SAME, VALID, TFLite's SAME spelled out, and one that needs a PAD."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.strided = conv(rngs, 3, 6, strides=(2, 1))
        self.dilated = conv(rngs, 6, 6, kernel_dilation=(2, 1))
        self.valid = conv(rngs, 6, 6, padding="VALID", strides=2)
        self.spelled = conv(rngs, 6, 6, 2, padding=((0, 1), (0, 1)))
        self.uneven = conv(rngs, 6, 4, padding=((2, 0), (1, 3)))
        self.uneven_depthwise = conv(rngs, 4, 4, padding=((0, 2), (1, 1)), feature_group_count=4)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.dilated(self.strided(x)))
        x = jax.nn.relu(self.spelled(self.valid(x)))
        return self.uneven_depthwise(self.uneven(x))


class Grouped(nnx.Module):
    """A grouped convolution between others, and a depthwise one with two outputs a channel."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.grouped = conv(rngs, 3, 8), conv(rngs, 8, 12, feature_group_count=4)
        self.norm = norm(rngs, 12)
        self.doubled = conv(rngs, 12, 24, feature_group_count=12, strides=2)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.doubled(jax.nn.relu(self.norm(self.grouped(jax.nn.relu(self.first(x))))))


class Stacked(nnx.Module):
    """Layers in stacks: each position has matrices of its own, and three members vote."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.groups = nnx.Einsum("ntgi,gio->ntgo", (2, 3, 5), rngs=rngs)
        self.mix = nnx.Einsum("ntgo,goc->ntc", (2, 5, 8), rngs=rngs)
        self.members = nnx.Param(jax.random.normal(rngs.params(), (3, 8, 4)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = jax.nn.relu(self.mix(jax.nn.gelu(self.groups(x.reshape(*x.shape[:2], 2, 3)))))
        return jax.vmap(lambda w: jnp.tanh(y @ w))(self.members[...]).mean(0)


class Series(nnx.Module):
    """A causal-looking 1-D network: strided, dilated, depthwise, and an average over time."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = nnx.Conv(6, 8, (3,), rngs=rngs)
        self.norm = norm(rngs, 8)
        self.dilated = nnx.Conv(8, 8, (3,), kernel_dilation=2, padding="VALID", rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3,), strides=2, feature_group_count=8, rngs=rngs)
        self.head = nnx.Linear(8, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.first(x)))
        x = self.depthwise(jax.nn.relu(self.dilated(x)))
        return self.head(jnp.mean(x, axis=1))


class Perceptron(nnx.Module):
    """Dense layers on rows, one without a bias."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.norm = nnx.Linear(12, 24, rngs=rngs), norm(rngs, 24)
        self.second = nnx.Linear(24, 24, use_bias=False, rngs=rngs)
        self.head = nnx.Linear(24, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.first(x)))
        return self.head(x + jax.nn.relu(self.second(x)))


class Positions(nnx.Module):
    """Dense layers on each step of a sequence, a learned position (1, T, C), and a layer of any rank."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.embed = nnx.Linear(6, 8, rngs=rngs)
        self.position = nnx.Param(0.5 * jax.random.normal(rngs.params(), (1, 12, 8)))
        self.mix = nnx.Linear(8, 8, rngs=rngs)
        self.gather = nnx.LinearGeneral((12, 8), (3, 2), axis=(-2, -1), rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.embed(x) + self.position[...]
        return self.gather(jax.nn.relu(self.mix(x)))


class Branches(nnx.Module):
    """Branches of unlike ranges, joined and joined again; the input joins as well."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.point, self.wide = conv(rngs, 3, 4, 1), conv(rngs, 3, 6)
        self.after = conv(rngs, 13, 5)

    def __call__(self, x: jax.Array) -> jax.Array:
        joined = jnp.concatenate([jax.nn.relu(self.point(x)), 3.0 * self.wide(x), x], axis=-1)
        return jnp.concatenate([self.after(joined), joined], axis=-1)


class Parts(nnx.Module):
    """SPLIT, SLICE with and without strides, uneven splits; the parts go separate ways."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.left, self.right = conv(rngs, 3, 8), conv(rngs, 4, 4), conv(rngs, 3, 4)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(x)
        a, b = jnp.split(x, 2, axis=-1)
        c, d = jnp.split(x, [5], axis=-1)
        y = self.left(a) + b
        return y[:, 1:9, 2:10] + self.right(d)[:, ::2, ::2] + c[:, :8, 8:, :4]


class MaxPools(nnx.Module):
    """Greatest of each window: SAME, VALID, overlapping, and with padding that TFLite has no name for."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = conv(rngs, 3, 6), conv(rngs, 6, 6)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(self.first(x), (3, 3), (2, 2), "SAME")
        x = nnx.max_pool(self.second(x), (2, 2), (1, 1), "VALID")
        return nnx.max_pool(x, (3, 3), (2, 2), ((1, 1), (1, 1)))  # pyright: ignore[reportArgumentType]


class AveragePools(nnx.Module):
    """Averages: VALID, SAME with and without the padding counted, on signed and on ReLU'd numbers."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = conv(rngs, 3, 6), conv(rngs, 6, 6)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.first(x)
        counted = avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=True)
        inside = avg_pool(jax.nn.relu(x), (3, 3), (2, 2), "SAME", count_include_pad=False)
        return avg_pool(self.second(counted) + inside, (2, 2), (2, 2), "VALID")


class Means(nnx.Module):
    """Means over both sides, over one, with axes kept and dropped."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second, self.head = (
            conv(rngs, 3, 6),
            conv(rngs, 6, 6, 1),
            nnx.Linear(6, 6, rngs=rngs),
        )

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        x = jax.nn.relu(self.first(x))
        kept = self.second(jnp.mean(x, axis=(1, 2), keepdims=True))
        rows = jnp.mean(x, axis=2)
        return self.head(jnp.mean(x, axis=(1, 2))), kept + x, rows


class Products(nnx.Module):
    """MUL, SUB and ADD of two branches, squares, and an activation behind each."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.left, self.right = conv(rngs, 3, 6), conv(rngs, 3, 6, 1)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        a, b = self.left(x), self.right(x)
        return a * b, jax.nn.relu(a - b), jax.nn.relu6(a + b) - jnp.square(b)


class SqueezeExcite(nnx.Module):
    """A gate a channel, from the mean over the image: MUL with broadcasting, behind a table."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first = conv(rngs, 3, 8)
        self.squeeze, self.excite = nnx.Linear(8, 4, rngs=rngs), nnx.Linear(4, 8, rngs=rngs)
        self.last = conv(rngs, 8, 4)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.first(x))
        gate = jax.nn.sigmoid(self.excite(jax.nn.relu(self.squeeze(jnp.mean(x, axis=(1, 2))))))
        return self.last(x * gate[:, None, None, :])


class Heads(nnx.Module):
    """Every table op as an output of its own."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.trunk = nnx.Linear(12, 16, rngs=rngs)
        self.tanh, self.logistic = nnx.Linear(16, 4, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)
        self.softmax, self.swish = nnx.Linear(16, 7, rngs=rngs), nnx.Linear(16, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> dict[str, jax.Array]:
        x = jax.nn.relu(self.trunk(x))
        return {
            "tanh": jnp.tanh(self.tanh(x)),
            "logistic": jax.nn.sigmoid(self.logistic(x)),
            "softmax": jax.nn.softmax(self.softmax(x)),
            "hard_swish": jax.nn.hard_swish(self.swish(x)),
        }


class Scaled(nnx.Module):
    """Images scaled to [-1, 1] by the model: folds into a VALID convolution, but not into a padded one."""

    def __init__(self, rngs: nnx.Rngs, padding: str) -> None:
        self.first, self.norm = conv(rngs, 3, 8, padding=padding, use_bias=False), norm(rngs, 8)

    def __call__(self, x: jax.Array) -> jax.Array:
        return jax.nn.relu(self.norm(self.first(x * 2.0 - 1.0)))


class Preactivated(nnx.Module):
    """ResNetV2: BatchNorm and ReLU come before each convolution, so nothing behind them takes them in."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.stem = conv(rngs, 3, 8)
        self.norm1, self.conv1 = norm(rngs, 8), conv(rngs, 8, 8, use_bias=False)
        self.norm2, self.conv2 = norm(rngs, 8), conv(rngs, 8, 8)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.stem(x)
        y = self.conv1(jax.nn.relu(self.norm1(x)))
        return x + self.conv2(jax.nn.relu(self.norm2(y)))


class Clips(nnx.Module):
    """Bounds that TFLite cannot fuse behind a convolution, a sum and a pool; wide bounds; clips of clips."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = conv(rngs, 3, 6), conv(rngs, 6, 6)

    def __call__(self, x: jax.Array) -> tuple[jax.Array, ...]:
        x = jnp.clip(self.first(x), -0.3, 0.7)
        y = jnp.minimum(self.second(x) + x, 0.45)
        pooled = jnp.maximum(nnx.max_pool(y, (2, 2), (2, 2)), -0.21)
        wide = jnp.clip(self.second(x), -100.0, 100.0)
        return jnp.clip(pooled, -1.0, 1.0), jax.nn.relu(jnp.clip(wide, -0.5, 0.33)), jax.nn.relu6(pooled)


class TwoInputs(nnx.Module):
    """Inputs by keyword, in an order that is not the alphabet's, and a dict of results."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.see, self.read = conv(rngs, 3, 6), nnx.Linear(12, 6, rngs=rngs)
        self.head = nnx.Linear(6, 3, rngs=rngs)

    def __call__(self, *, picture: jax.Array, facts: jax.Array) -> dict[str, jax.Array]:
        seen = jnp.mean(jax.nn.relu(self.see(picture)), axis=(1, 2))
        read = jax.nn.relu(self.read(facts))
        return {"verdict": self.head(seen + read), "again": seen * read}


class Tied(nnx.Module):
    """One layer called twice, on tensors of unlike ranges: two ops, one kernel."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.shared, self.head = nnx.Linear(12, 12, rngs=rngs), nnx.Linear(12, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jax.nn.relu(self.shared(jax.nn.relu(self.shared(x)))))


class HalfPrecision(nnx.Module):
    """Parameters in float32, arithmetic in bfloat16, as for an accelerator."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.norm = conv(rngs, 3, 8, dtype=jnp.bfloat16, use_bias=False), norm(rngs, 8)
        self.head = nnx.Linear(8, 4, dtype=jnp.bfloat16, rngs=rngs)

    @promoting
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.first(x)))
        return self.head(jnp.mean(x, axis=(1, 2)))


class Shuffles(nnx.Module):
    """RESHAPE and TRANSPOSE between layers: a channel shuffle, and channels first for a while."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = conv(rngs, 3, 8), conv(rngs, 8, 4)
        self.head = nnx.Linear(16, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        n = x.shape[0]
        x = self.first(x)
        x = x.reshape(n, 16, 16, 2, 4).transpose(0, 1, 2, 4, 3).reshape(n, 16, 16, 8)
        x = self.second(x).transpose(0, 3, 1, 2)
        return self.head(jax.nn.relu(x)).swapaxes(1, 2)


class Placed(nnx.Module):
    """Quantizers placed by hand on two of the tensors; one of them clips."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.first, self.second = conv(rngs, 3, 6), conv(rngs, 6, 4)
        self.quantizer, self.tight = jaxq.FakeQuant(-1.9, 2.3), jaxq.FakeQuant(-0.4, 0.6)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.quantizer(self.first(x))
        return self.tight(self.second(x))


# --- networks by chance -------------------------------------------------------------------------------------

ACTIVATIONS: tuple[Callable[[jax.Array], jax.Array], ...] = (
    jax.nn.relu,
    jax.nn.relu6,
    jax.nn.hard_swish,
    jnp.tanh,
)


class Layer(nnx.Module):
    """Convolution, perhaps BatchNorm, perhaps an activation; perhaps around a residual sum."""

    def __init__(self, rng: np.random.Generator, inner: int, size: int, rngs: nnx.Rngs) -> None:
        kind = rng.choice(["plain", "depthwise", "residual"])
        self.outer = inner if kind != "plain" else int(rng.choice([4, 6, 8]))
        self.residual = bool(kind == "residual")
        stride = 1 if self.residual else int(rng.choice([1, 1, 2]))
        self.conv = nnx.Conv(
            inner,
            self.outer,
            tuple(int(k) for k in rng.choice([1, 2, 3, 5], 2)),
            strides=stride,
            kernel_dilation=int(rng.choice([1, 2])) if stride == 1 else 1,
            padding="SAME" if self.residual or size < 10 else str(rng.choice(["SAME", "VALID"])),
            feature_group_count=inner if kind == "depthwise" else 1,
            use_bias=bool(rng.random() < 0.5),
            rngs=rngs,
        )
        self.norm = norm(rngs, self.outer) if rng.random() < 0.6 else None
        self.activation = ACTIVATIONS[rng.choice(4, p=[0.5, 0.3, 0.1, 0.1])] if rng.random() < 0.8 else None

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.conv(x)
        y = y if self.norm is None else self.norm(y)
        y = x + y if self.residual else y
        return y if self.activation is None else self.activation(y)


class Chance(nnx.Module):
    """Three to five layers drawn by a seed, a pool between two of them, and a head."""

    def __init__(self, seed: int, rngs: nnx.Rngs) -> None:
        rng = np.random.default_rng(seed)
        layers, channels = [], 3
        for size in (16, *[6] * rng.integers(2, 5)):
            layers.append(Layer(rng, channels, size, rngs))
            channels = layers[-1].outer
        self.layers = nnx.List(layers)
        self.pooled, self.pool = int(rng.integers(0, 2)), (nnx.max_pool, avg_pool)[rng.integers(2)]
        self.join = bool(rng.random() < 0.5)
        self.head = nnx.Linear(channels * (2 if self.join else 1), 6, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        for i, layer in enumerate(self.layers):
            x = layer(x)
            x = self.pool(x, (2, 2), (2, 2), "SAME") if i == self.pooled else x
        x = jnp.mean(x, axis=(1, 2))
        return self.head(jnp.concatenate([x, jax.nn.relu(x)], axis=-1) if self.join else x)


# --- the table ----------------------------------------------------------------------------------------------


def _case(
    name: str, make: Callable[[nnx.Rngs], nnx.Module], shapes: tuple[Shape, ...], named: Mapping[str, Shape]
) -> Case:
    seed = zlib.crc32(name.encode())
    model = nnx.clone(as_trained(make, seed))
    args = tuple(examples(shape, seed + i) for i, shape in enumerate(shapes))
    return Case(model, args, {k: examples(shape, seed + 100 + i) for i, (k, shape) in enumerate(named.items())})


def _entry(
    name: str, make: Callable[[nnx.Rngs], nnx.Module], *shapes: Shape, **named: Shape
) -> tuple[str, Callable[[], Case]]:
    return name, functools.partial(_case, name, make, shapes, named)


def random_net(seed: int) -> Case:
    """A network drawn by a seed."""
    return _case(f"random_{seed}", _chance(seed), (IMAGE,), {})


@functools.cache
def _chance(seed: int) -> Callable[[nnx.Rngs], nnx.Module]:
    return functools.partial(Chance, seed)


ZOO: dict[str, Callable[[], Case]] = dict(
    [
        _entry("average_pools", AveragePools, IMAGE),
        _entry("bfloat16", HalfPrecision, IMAGE),
        _entry("branches", Branches, IMAGE),
        _entry("clips", Clips, IMAGE),
        _entry("grouped", Grouped, IMAGE),
        _entry("heads", Heads, ROW),
        _entry("max_pools", MaxPools, IMAGE),
        _entry("means", Means, IMAGE),
        _entry("parts", Parts, IMAGE),
        _entry("perceptron", Perceptron, ROW),
        _entry("placed", Placed, IMAGE),
        _entry("positions", Positions, SERIES),
        _entry("preactivated", Preactivated, IMAGE),
        _entry("products", Products, IMAGE),
        _entry("scaled_same", lambda rngs: Scaled(rngs, "SAME"), IMAGE),
        _entry("scaled_valid", lambda rngs: Scaled(rngs, "VALID"), IMAGE),
        _entry("separable", Separable, IMAGE),
        _entry("series", Series, SERIES),
        _entry("shuffles", Shuffles, IMAGE),
        _entry("squeeze_excite", SqueezeExcite, IMAGE),
        _entry("stacked", Stacked, SERIES),
        _entry("tied", Tied, ROW),
        _entry("two_inputs", TwoInputs, picture=IMAGE, facts=ROW),
        _entry("windows", Windows, IMAGE),
        *((f"random_{seed}", functools.partial(random_net, seed)) for seed in range(6)),
    ]
)
