"""What learned rounding of an op and of a block share: h(V), the term that drives it to 0 or 1, and the random keys.

AdaRound (Nagel et al. 2020): `q = clip(floor(w / s) + h(V), -qmax, qmax)`, `h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)`.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxq.ptq.kernels import Grid

LOW, HIGH = -0.1, 1.1  # the stretched sigmoid (Louizos et al. 2018)
WARM_UP = 0.2
BETA = (20.0, 2.0)
EDGE = 1e-3


class Settings(NamedTuple):
    """How rounding is learned.

    Attributes:
      steps: of Adam.
      rate: of Adam.
      weight: of the term that drives h to 0 or 1.
      batch: examples a step of an op; a step of a block takes a chunk.
      drop: the share of input elements taken from the float reference (QDrop).
      seed: of the draws.
    """

    steps: int = 2000
    rate: float = 1e-2
    weight: float = 10.0
    batch: int = 32
    drop: float = 0.0
    seed: int = 0


DEFAULTS = Settings()


def stretched(v: Any) -> Any:
    """h(V) in [0, 1], which reaches both ends."""
    return jnp.clip((HIGH - LOW) * jax.nn.sigmoid(v) + LOW, 0, 1)


def unstretched(h: Any) -> Any:
    """The V whose h it is, for h inside (0, 1)."""
    return -jnp.log((HIGH - LOW) / (h - LOW) - 1)


def annealed(step: Any, steps: int) -> Any:
    """beta at a step: 20, from the end of the warm-up by cosine to 2."""
    share = jnp.clip((step / steps - WARM_UP) / (1 - WARM_UP), 0, 1)
    return BETA[1] + (BETA[0] - BETA[1]) * 0.5 * (1 + jnp.cos(jnp.pi * share))


def penalty(h: Any, beta: Any) -> Any:
    """The mean of 1 - |2h - 1|^beta: 0 where every h is 0 or 1."""
    return jnp.mean(1 - jnp.abs(2 * h - 1) ** beta)


def started(w: Any, grid: Grid) -> Any:
    """The V of a kernel as it is: h is the fraction of w / s."""
    below = jnp.floor(w / grid.scale)
    return unstretched(jnp.clip(w / grid.scale - below, EDGE, 1 - EDGE))


def integers(w: Any, h: Any, grid: Grid) -> Any:
    """The integers of a kernel, between two where h is between 0 and 1."""
    q = jnp.clip(jnp.floor(w / grid.scale) + h, -grid.top, grid.top)
    return jnp.where(grid.fixed, grid.nearest, q)


def keys_of(settings: Settings, step: Any) -> tuple[Any, Any]:
    """Of one step the random keys of the examples and of the mixing."""
    index, mixed = jax.random.split(jax.random.fold_in(jax.random.key(settings.seed), step))
    return index, mixed
