"""Statistics of a batch on their way to the optimizer: as the gradient of the range that they move."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp


@jax.custom_vjp
def observe(outputs: tuple[jax.Array, ...], observed: jax.Array, found: jax.Array) -> tuple[jax.Array, ...]:
    """`outputs`, unchanged; the gradient of `observed` [min, max] becomes `observed - found`.

    One step of gradient descent with rate r is then the moving average `(1 - r) observed + r found`: the statistics of
    a batch reach the optimizer by the one channel that every training loop has (`jaxq.optim.partition` takes that
    step). It passes through all outputs, so that a loss which reads any of them carries it.
    """
    return outputs


def _observe_forward(outputs: Any, observed: jax.Array, found: jax.Array) -> tuple[Any, jax.Array]:
    return outputs, observed - found


def _observe_backward(difference: jax.Array, cotangents: Any) -> tuple[Any, jax.Array, jax.Array]:
    return cotangents, difference, jnp.zeros_like(difference)


observe.defvjp(_observe_forward, _observe_backward)
