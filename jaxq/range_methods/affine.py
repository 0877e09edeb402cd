"""A range held as scale and zero point: learned by gradient, frozen, or the moving [min, max].

    scale         ()  or (channels,)   the step, in real units; > 0
    zero_point    ()                   in steps; used rounded
    observed      (2,)                 moving [min, max] of the tensor, in real units

The optimizer moves a scale multiplicatively: it sees log(scale), and its update u gives `scale * exp(u)`.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.numerics.rounding import clip_ste, positive, round_ste, scale_and_zero_point, true_divide
from jaxq.plan.scheme import Grid, QParams
from jaxq.range_methods.method import RangeMethod, State

KEYS = frozenset({"scale", "zero_point", "observed"})
STEPS = 255.0  # a zero point moves in steps; as a part of the range it is comparable with a scale's logarithm

# What TFLite has for activations. A grid whose zero point is -128 needs no row: the asymmetric one finds the same.
ACTIVATION_GRIDS = (Grid(-128, 127, symmetric=True), Grid(-32768, 32767, symmetric=True), Grid(-128, 127))


def covering(low: jax.Array, high: jax.Array, grid: Grid) -> QParams:
    """Scale and zero point of a grid that covers [low, high] and zero. Both (), in real units."""
    if grid.symmetric:
        bound = jnp.maximum(jnp.abs(low), jnp.abs(high))
        return QParams(positive(true_divide(bound, jnp.full_like(bound, grid.qmax))), jnp.zeros_like(bound))
    scale, zero_point = scale_and_zero_point(low, high, grid.qmin, grid.qmax)
    return QParams(scale, integer_zero_point(zero_point, grid))


def integer_zero_point(zero_point: jax.Array, grid: Grid) -> jax.Array:
    """The zero point as used: rounded, or given by the grid."""
    if grid.symmetric:
        return jnp.zeros_like(zero_point)
    if grid.nonnegative:
        return jnp.full_like(zero_point, grid.qmin)
    return clip_ste(round_ste(zero_point), jnp.float32(grid.qmin), jnp.float32(grid.qmax))


def init(low: jax.Array, high: jax.Array, grid: Grid) -> dict[str, jax.Array]:
    """The state that covers [low, high]."""
    scale, zero_point = covering(low, high, grid)
    return {"scale": scale, "zero_point": zero_point, "observed": jnp.stack([low, high])}


def scaled(scale: jax.Array, grid: Grid) -> dict[str, jax.Array]:
    """The state of a weight: it observes nothing."""
    return {"scale": scale, "zero_point": jnp.float32(0.0), "observed": jnp.zeros(2, jnp.float32)}


def standing(parameters: QParams) -> dict[str, jax.Array]:
    """The state of a frozen range with this scale and zero point."""
    return {"scale": parameters.scale, "zero_point": parameters.zero_point, "observed": jnp.zeros(2, jnp.float32)}


def learned(state: State, grid: Grid) -> QParams:
    """Scale and zero point, both trained (Bhalgat et al. 2020, LSQ+, with a rounded zero point)."""
    return QParams(positive(state["scale"]), integer_zero_point(state["zero_point"], grid))


def scale_learned(state: State, grid: Grid) -> QParams:
    """The scale is trained, the zero point stays as calibrated (Esser et al. 2020, LSQ)."""
    scale, zero_point = learned(state, grid)
    return QParams(scale, lax.stop_gradient(zero_point))


def frozen(state: State, grid: Grid) -> QParams:
    """Scale and zero point as they are; no gradient."""
    scale, zero_point = learned(state, grid)
    return QParams(lax.stop_gradient(scale), lax.stop_gradient(zero_point))


def followed(state: State, grid: Grid) -> QParams:
    """The grid that covers the moving [min, max] (Jacob et al. 2018, section 3.1)."""
    observed = lax.stop_gradient(state["observed"])
    return covering(observed[0], observed[1], grid)


def coordinates(state: State) -> dict[str, jax.Array]:
    """log(scale), and the zero point as a part of the range."""
    return {"scale": jnp.log(jnp.abs(state["scale"])), "zero_point": state["zero_point"] / STEPS}


def gradients(state: State, gradient: State) -> dict[str, jax.Array]:
    """The gradient by `coordinates`."""
    return {"scale": gradient["scale"] * state["scale"], "zero_point": gradient["zero_point"] * STEPS}


def moved(state: State, moves: State) -> dict[str, jax.Array]:
    """The change of the state; a scale changes by a factor e at most."""
    scale = state["scale"] * jnp.expm1(jnp.clip(moves["scale"], -1.0, 1.0))
    return {"scale": scale, "zero_point": STEPS * moves["zero_point"]}


def following(state: State, seen: jax.Array) -> dict[str, jax.Array]:
    """The change that makes the range cover `seen`, on the grid that the range is on."""
    scale, zero_point = _on_own_grid(state, [covering(seen[0], seen[1], grid) for grid in ACTIVATION_GRIDS])
    return {"scale": scale - state["scale"], "zero_point": zero_point - state["zero_point"]}


def _on_own_grid(state: State, found: Sequence[QParams]) -> QParams:
    """The one of `found`, a scale and zero point for each of ACTIVATION_GRIDS, that is of the state's own grid.

    An optimizer sees the state and no plan. Of the grids that the zero point allows it is the one whose scale for
    `observed` is nearest to the state's, which is equal to it but for rounding while a range follows.
    """
    low, high = state["observed"]
    scales = jnp.stack([covering(low, high, grid).scale for grid in ACTIVATION_GRIDS])
    distances = jnp.abs(jnp.log(true_divide(scales, jnp.full_like(scales, positive(state["scale"])))))
    excluded = jnp.array([grid.symmetric for grid in ACTIVATION_GRIDS]) & (state["zero_point"] != 0.0)
    index = jnp.argmin(jnp.where(excluded, jnp.inf, distances))
    return QParams(*(jnp.stack(numbers)[index] for numbers in zip(*found, strict=True)))


_SHARED = (coordinates, gradients, moved, following)
LSQ_PLUS = RangeMethod(KEYS, "scale", init, scaled, learned, *_SHARED)
LSQ = RangeMethod(KEYS, "scale", init, scaled, scale_learned, *_SHARED)
FROZEN = RangeMethod(KEYS, "scale", init, scaled, frozen, *_SHARED)
EMA = RangeMethod(KEYS, "observed", init, scaled, followed, *_SHARED)
