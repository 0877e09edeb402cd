"""The ends of the range trained as clipping values (Choi et al. 2018, "PACT", eq. 1-3): the gradient of an end is the
sum over what it clips, and rounding has none.

    y = clip(x, low, high),   dy / dhigh = [x > high],   dy / dlow = [x < low]

PACT has low = 0 (a ReLU) and a penalty on high in the loss, which is the user's to add. Here low is trained where the
grid is asymmetric; a symmetric grid ends at -high and high. The optimizer moves an end as a part of the range.

    low, high    ()      in real units; low is not read where the grid prescribes it
    observed     (2,)    moving [min, max] of the tensor
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.numerics.rounding import positive, straight_through, true_divide
from jaxq.plan.scheme import Grid, QParams
from jaxq.range_methods import affine
from jaxq.range_methods.method import RangeMethod, State


def init(low: jax.Array, high: jax.Array, grid: Grid) -> dict[str, jax.Array]:
    """The state that covers [low, high]."""
    if grid.symmetric:  # `observed` too, for it becomes the ends
        high = jnp.maximum(jnp.abs(low), jnp.abs(high))
        low = -high
    return {"low": low, "high": high, "observed": jnp.stack([low, high])}


def scaled(scale: jax.Array, grid: Grid) -> dict[str, jax.Array]:
    """The state of a symmetric grid whose scale is known."""
    high = scale * jnp.float32(grid.qmax)
    return {"low": -high, "high": high, "observed": jnp.zeros(2, jnp.float32)}


def forward(state: State, grid: Grid) -> QParams:
    """The grid that covers the range; differentiable in its ends."""
    low, high = jnp.minimum(state["low"], 0.0), jnp.abs(state["high"])
    if grid.symmetric or grid.nonnegative:
        steps = grid.qmax - (grid.qmin if grid.nonnegative else 0)
        zero_point = jnp.full_like(high, grid.qmin if grid.nonnegative else 0)
        return QParams(positive(true_divide(high, jnp.full_like(high, steps))), zero_point)
    steps = grid.qmax - grid.qmin
    scale = positive(true_divide(high - low, jnp.full_like(high, steps)))
    zero_point = affine.integer_zero_point(grid.qmin - true_divide(low, lax.stop_gradient(scale)), grid)
    # The lower end of the grid moves with `low` alone, whatever the scale does.
    least = lax.stop_gradient(true_divide(grid.qmin - zero_point, scale))
    return QParams(scale, straight_through(zero_point, zero_point + least * scale))


def gradient(q: jax.Array, steps: jax.Array, scale: jax.Array) -> jax.Array:
    """`q`, without the gradient that rounding would give the scale where nothing is clipped."""
    rounding = jnp.where(q == jnp.round(steps), steps - q, 0.0)
    return straight_through(q, q + lax.stop_gradient(true_divide(rounding, scale)) * scale)


def coordinates(state: State) -> dict[str, jax.Array]:
    """Both ends as parts of the range."""
    width = _width(state)
    return {key: state[key] / width for key in ("low", "high")}


def _width(state: State) -> jax.Array:
    return positive(jnp.abs(state["high"]) - jnp.minimum(state["low"], 0.0))


def gradients(state: State, gradient: State) -> dict[str, jax.Array]:
    """The gradient by `coordinates`, the width held."""
    width = _width(state)
    return {key: gradient[key] * width for key in ("low", "high")}


def moved(state: State, moves: State) -> dict[str, jax.Array]:
    """The change of both ends: half of the range at most."""
    width = _width(state)
    return {key: width * jnp.clip(moves[key], -0.5, 0.5) for key in ("low", "high")}


def following(state: State, seen: jax.Array) -> dict[str, jax.Array]:
    """The change that makes the range cover `seen`."""
    return {"low": seen[0] - state["low"], "high": seen[1] - state["high"]}


PACT = RangeMethod(
    keys=frozenset({"low", "high", "observed"}),
    needs="high",
    init=init,
    scaled=scaled,
    forward=forward,
    coordinates=coordinates,
    gradients=gradients,
    moved=moved,
    following=following,
    gradient=gradient,
)
