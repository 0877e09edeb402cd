"""One small network for the tests of post-training passes, as a function, in NNX and in Linen, and its numbers."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen, nnx

import jaxq

WIDTHS = (6, 8, 5)
EXAMPLES = 64


def params(seed: int = 0) -> dict[str, dict[str, jax.Array]]:
    """Two dense layers whose first has channels of unlike size."""
    rng = np.random.default_rng(seed)
    inner, hidden, outer = WIDTHS
    first = rng.normal(0, 0.5, (inner, hidden)) * np.geomspace(0.3, 3, hidden)
    numbers = {
        "first": {"kernel": first, "bias": rng.normal(0.3, 0.3, hidden)},
        "second": {"kernel": rng.normal(0, 0.5, (hidden, outer)), "bias": rng.normal(0, 0.2, outer)},
    }
    return jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), numbers)


def inputs(seed: int = 1) -> np.ndarray:
    """Correlated rows, [EXAMPLES, 6]."""
    rng = np.random.default_rng(seed)
    mixed = rng.normal(0, 1, (EXAMPLES, WIDTHS[0])) @ rng.normal(0, 0.6, (WIDTHS[0], WIDTHS[0])) + 0.3
    return mixed.astype(np.float32)


def function(p: Any, x: Any) -> Any:
    """The network of its parameters."""
    hidden = jax.nn.relu(x @ p["first"]["kernel"] + p["first"]["bias"])
    return hidden @ p["second"]["kernel"] + p["second"]["bias"]


class NNX(nnx.Module):
    """The same network."""

    def __init__(self) -> None:
        inner, hidden, outer = WIDTHS
        self.first, self.second = (
            nnx.Linear(inner, hidden, rngs=nnx.Rngs(0)),
            nnx.Linear(hidden, outer, rngs=nnx.Rngs(0)),
        )
        for name, numbers in params().items():
            for key, array in numbers.items():
                getattr(getattr(self, name), key)[...] = array

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(jax.nn.relu(self.first(x)))


class Linen(linen.Module):
    """The same network."""

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(linen.Dense(WIDTHS[1], name="first")(x))
        return linen.Dense(WIDTHS[2], name="second")(x)


W4 = jaxq.Recipe(weights={"bits": 4})  # pyright: ignore[reportArgumentType]  (msgspec converts)


class Quantized(NamedTuple):
    """The function, quantized and calibrated, and its state."""

    q: Any
    params: Any
    ranges: Any

    @property
    def state(self) -> tuple[Any, Any]:
        """What follows the target in a call of a pass."""
        return self.params, self.ranges


@functools.cache
def quantized(recipe: jaxq.Recipe = W4) -> Quantized:
    """The function's network, calibrated on its inputs."""
    q = jaxq.quantize(function, recipe, params(), inputs()[:1])
    return Quantized(
        q, params(), jaxq.calibrate(q, [inputs()], params(), q.init(params(), inputs()[:1]), progress=False)
    )


def grid(scale: Any, zero_point: Any, x: np.ndarray) -> np.ndarray:
    """x on the int8 grid, in plain numpy."""
    q = np.clip(np.rint(x / np.float64(scale)) + np.float64(zero_point), -128, 127)
    return (q - np.float64(zero_point)) * np.float64(scale)


def rounded(w: np.ndarray, qmax: int = 7) -> np.ndarray:
    """A kernel [in, out] on its per-channel grid that follows max|w|, in plain numpy."""
    scale = np.abs(w).max(0) / qmax
    return np.clip(np.rint(w / scale), -qmax, qmax) * scale
