"""Arrays that are divided among the processes of `jax.distributed`, as numpy."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def gathered(array: Any) -> np.ndarray:
    """An array as numpy, whole in every process.

    Where it is divided among processes this is a collective operation: every process must call it.
    """
    divided = isinstance(array, jax.Array) and not (array.is_fully_addressable or array.is_fully_replicated)
    return np.asarray(multihost_utils.process_allgather(array, tiled=True) if divided else array)
