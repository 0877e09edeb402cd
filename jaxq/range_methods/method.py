"""What a range method is: the state of a site, how scale and zero point come from it, and how an optimizer moves it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jaxq.plan.scheme import Grid, QParams

State = Mapping[str, Any]  # of arrays; in an optimizer of NNX, of variables


@dataclasses.dataclass(frozen=True)
class RangeMethod:
    """One way to hold and train the range of a site, as pure functions of its state.

    A state is a mapping of float32 arrays. Every state has `observed`, (2,): the moving [min, max] of the tensor in
    real units, with which `jaxq.simulate.range_statistics` works; the rest is the method's own.

    keys: the names in the state. needs: the one that must be finite for the range to be usable.
    init(low, high, grid): the state that covers [low, high], both () in real units.
    scaled(scale, grid): the state of a weight, whose scale, (channels,), is known.
    forward(state, grid): scale and zero point in use, differentiable in the state.
    coordinates(state): what the optimizer of ranges sees in place of the state.
    gradients(state, gradient): the gradient by coordinates, from that by the state.
    moved(state, moves): the change of the state for a change of its coordinates.
    gradient(q, steps, scale): the integers q, their zero point removed, that `steps` (real numbers / scale) rounded and
    clipped give, with another gradient by the scale. None: that of straight-through rounding, LSQ's.
    following(state, seen): the change that makes the range cover `seen`, (2,), the moving [min, max].
    """

    keys: frozenset[str]
    needs: str
    init: Callable[[jax.Array, jax.Array, Grid], dict[str, jax.Array]]
    scaled: Callable[[jax.Array, Grid], dict[str, jax.Array]]
    forward: Callable[[State, Grid], QParams]
    coordinates: Callable[[State], dict[str, jax.Array]]
    gradients: Callable[[State, State], dict[str, jax.Array]]
    moved: Callable[[State, State], dict[str, jax.Array]]
    following: Callable[[State, jax.Array], dict[str, jax.Array]]
    gradient: Callable[[jax.Array, jax.Array, jax.Array], jax.Array] | None = None

    def holds(self, node: Any) -> bool:
        """Whether a node of a pytree is a state of this method."""
        return isinstance(node, Mapping) and frozenset(node) == self.keys
