"""What Flax and optax mix themselves: `avg_pool` and Adam divide float32 by int32. Other tests are strict: conftest."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax
from flax import nnx


def promoting(fn: Callable[..., Any]) -> Callable[..., Any]:
    """fn under JAX's standard promotion of dtypes."""

    @functools.wraps(fn)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):
            return fn(*args, **kwargs)

    return wrapped


def promoting_updates(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """tx, whose update may mix dtypes."""
    return optax.GradientTransformation(tx.init, promoting(tx.update))


avg_pool = promoting(nnx.avg_pool)
