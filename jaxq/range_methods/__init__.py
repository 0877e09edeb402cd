"""How the range of a site is held and trained: one method, one short file, and one row of METHODS.

A site's state is declared by its method: a mapping of float32 arrays, so that it is a subtree of any pytree, of Linen's
variables and of an NNX state alike. `method_of` recognises one by its keys.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from jaxq.plan.scheme import Grid
from jaxq.range_methods import affine
from jaxq.range_methods.clip import PACT
from jaxq.range_methods.method import RangeMethod as RangeMethod
from jaxq.range_methods.method import State as State
from jaxq.range_methods.tqt import TQT

METHODS: dict[str, RangeMethod] = {
    "clip": PACT,
    "ema": affine.EMA,
    "frozen": affine.FROZEN,
    "learned": affine.LSQ_PLUS,
    "lsq": affine.LSQ,
    "lsq+": affine.LSQ_PLUS,
    "tqt": TQT,
}


def method_of(node: Any) -> RangeMethod | None:
    """A method whose state this node of a pytree is; None for any other node. Methods with the same keys move alike."""
    return next((method for method in METHODS.values() if method.holds(node)), None)


def is_range(node: Any) -> bool:
    """Whether a node of a pytree is the state of a range."""
    return method_of(node) is not None


def new_state(method: RangeMethod, grid: Grid, shape: tuple[int, ...] = ()) -> dict[str, Any]:
    """An uncalibrated state: NaN, so that using it cannot go unnoticed. A weight's range, which has a shape, observes
    nothing.
    """
    state = method.scaled(jnp.full(shape, jnp.nan, jnp.float32), grid)
    return state if shape else {**state, "observed": jnp.full((2,), jnp.nan, jnp.float32)}
