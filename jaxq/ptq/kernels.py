"""What passes that choose a kernel's integers share: the grid, the error of an op's output, keeping the better."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.graph import Op
from jaxq.ptq.report import Change
from jaxq.ptq.walk import Pair, Walk, preactivation
from jaxq.simulate.reals import activated

OBJECTIVE = "squared error of the op's output, relative to its power"
BELOW = np.float32(1 - 2.0**-20)  # keeps a weight below the largest, which sets the scale, in spite of rounding


class Grid(NamedTuple):
    """The integers that a kernel may take, as numpy arrays (in a compiled function as JAX's).

    Attributes:
      scale: by output channel, [channels].
      nearest: the kernel's integers now, of the kernel's shape.
      top: the largest magnitude by output channel, [channels].
      fixed: which weights stay as they are, to the bit: those that set a scale that follows the largest.
    """

    scale: Any
    nearest: Any
    top: Any
    fixed: Any

    def weights(self, w: np.ndarray, q: np.ndarray) -> np.ndarray:
        """The kernel with the integers q, in real numbers: at the middle of each step, but for the fixed ones."""
        real = q * self.scale
        if not self.fixed.any():
            return real
        limit = np.max(np.where(self.fixed, np.abs(w), 0), tuple(range(w.ndim - 1)))
        limit = np.where(limit > 0, limit, np.max(limit)) * BELOW  # one scale a tensor: one weight holds all channels
        return np.where(self.fixed, w, np.clip(real, -limit, limit)).astype(np.float32)


def grid_of(walk: Walk, op: Op) -> Grid:
    """The grid of an op's kernel with the weights as they are now."""
    scheme = walk.plan.weights[op.name]
    w, bias = walk.of(op, walk.weights)
    kernel = jax.jit(walk.kernel(op))(w, bias)
    scale, nearest = np.broadcast_to(np.asarray(kernel.scale), w.shape[-1:]), np.asarray(kernel.q)
    if scheme.ranges != "follow":
        return Grid(scale, nearest, np.full_like(scale, scheme.qmax), np.zeros(w.shape, bool))
    axes = None if scheme.axis is None else tuple(range(w.ndim - 1))
    top = np.broadcast_to(np.max(np.abs(nearest), axes), w.shape[-1:])
    return Grid(scale, nearest, top, np.abs(w) >= np.max(np.abs(w), axes, keepdims=True))


Choose = Callable[[Walk, Op, Grid, list[Pair]], Any]  # the integers that a method chooses for an op's kernel


def improve_kernel(walk: Walk, op: Op, refused: Mapping[int, str], choose: Choose, idle: str = "") -> Change:
    """Give an op's kernel the integers that `choose` finds, unless the op's output gets no better by them.

    idle: why the method has nothing to do for this op.
    """
    value, pairs, error = op.inputs[1], walk.reach(op), output_error(walk, op)
    before = error(pairs)
    if value in refused or idle:
        return Change(op.name, before, before, f"left alone. {refused.get(value, idle)}")
    old, grid = walk.weights[value], grid_of(walk, op)
    q = np.where(grid.fixed, grid.nearest, np.clip(np.asarray(choose(walk, op, grid, pairs)), -grid.top, grid.top))
    walk.weights[value] = grid.weights(np.asarray(old, np.float32), q.astype(np.float32))
    after = error(pairs)
    if after >= before:
        walk.weights[value] = old
        return Change(op.name, before, before, "kept: rounding to nearest is as good")
    return Change(op.name, before, after, f"{100 * np.mean(q != grid.nearest):.1f} % of the integers changed")


def output_error(walk: Walk, op: Op) -> Callable[[list[Pair]], float]:
    """The error of an op's output against the float reference, over all examples, with the weights as they are."""
    kernel = walk.kernel(op)

    @jax.jit
    def sums(pair: Pair, w: Any, bias: Any, w_real: Any, bias_real: Any) -> tuple[Any, Any]:
        y = activated(op, preactivation(op, pair.real, w_real, bias_real))
        error = activated(op, preactivation(op, pair.quantized, kernel(w, bias).real, bias)) - y
        return jnp.sum(error * error), jnp.sum(y * y)

    def over(pairs: list[Pair]) -> float:
        weights = (*walk.of(op, walk.weights), *walk.of(op, walk.reference))
        noise, power = np.sum([[float(n) for n in sums(pair, *weights)] for pair in pairs], axis=0)
        return float(noise / power) if power else 0.0

    return over
