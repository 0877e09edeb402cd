"""A power-of-two scale, trained by the logarithm of its threshold (Jain et al. 2020, "Trained quantization thresholds
for accurate and efficient fixed-point inference of deep neural networks", section 3):

    s = 2^ceil(log2 t) / 2^(b-1),   ds / dlog2 t = s ln 2

of b bits; 2^b in place of 2^(b-1) where nothing is negative. The zero point is 0, or the least integer where nothing is
negative. The optimizer moves log2 t by addition.

    log2_threshold    ()      of the magnitude that the grid ends at, in real units
    observed          (2,)    moving [min, max] of the tensor
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.plan.scheme import Grid, QParams
from jaxq.range_methods.method import RangeMethod, State

LN2 = 0.6931471805599453


def init(low: jax.Array, high: jax.Array, grid: Grid) -> dict[str, jax.Array]:
    """The state whose threshold is the largest magnitude in [low, high]."""
    return {"log2_threshold": _log2(low, high), "observed": jnp.stack([low, high])}


def _log2(low: jax.Array, high: jax.Array) -> jax.Array:
    return jnp.log2(jnp.maximum(jnp.abs(low), jnp.abs(high)))


def scaled(scale: jax.Array, grid: Grid) -> dict[str, jax.Array]:
    """The state of a grid whose scale is known."""
    return {"log2_threshold": jnp.log2(scale * jnp.float32(_levels(grid))), "observed": jnp.zeros(2, jnp.float32)}


def _levels(grid: Grid) -> int:
    return (grid.qmax + 1) * (2 if grid.nonnegative else 1)


def forward(state: State, grid: Grid) -> QParams:
    """The scale, exactly a power of two, and its zero point."""
    threshold = state["log2_threshold"]
    stopped = lax.stop_gradient(threshold)
    exponent = jnp.ceil(jnp.where(jnp.isnan(stopped), 0.0, stopped)).astype(jnp.int32)
    power = jnp.ldexp(jnp.where(jnp.isnan(stopped), jnp.nan, jnp.float32(1.0 / _levels(grid))), exponent)
    scale = power + power * LN2 * (threshold - stopped)
    return QParams(scale, jnp.full_like(scale, grid.qmin if grid.nonnegative else 0.0))


def coordinates(state: State) -> dict[str, jax.Array]:
    """The logarithm itself."""
    return {"log2_threshold": jnp.asarray(state["log2_threshold"])}


def gradients(state: State, gradient: State) -> dict[str, jax.Array]:
    """The gradient by the logarithm."""
    return {"log2_threshold": jnp.asarray(gradient["log2_threshold"])}


def moved(state: State, moves: State) -> dict[str, jax.Array]:
    """The logarithm, moved by one at most."""
    return {"log2_threshold": jnp.clip(moves["log2_threshold"], -1.0, 1.0)}


def following(state: State, seen: jax.Array) -> dict[str, jax.Array]:
    """The change that makes the largest magnitude seen the threshold."""
    return {"log2_threshold": _log2(seen[0], seen[1]) - state["log2_threshold"]}


TQT = RangeMethod(
    keys=frozenset({"log2_threshold", "observed"}),
    needs="log2_threshold",
    init=init,
    scaled=scaled,
    forward=forward,
    coordinates=coordinates,
    gradients=gradients,
    moved=moved,
    following=following,
)
