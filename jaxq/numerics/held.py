"""What a compiled training step holds in memory, and what it computes again (decision 008).

XLA fuses a chain of element-wise operations into each of its readers, so that a network whose residual stream is such a
chain compiles, and runs, in the square of its depth. A barrier stops that where the compiler keeps it; for the CPU XLA
takes barriers away before it fuses (jaxlib 0.10.2), but not a call that it must not inline.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
from jax import Array, lax
from jax.experimental.xla_metadata import set_xla_metadata


def in_memory(x: Array) -> Array:
    """`x`, computed once and held in memory, with its gradient: what reads it does not compute it again."""
    return lax.platform_dependent(x, cpu=_called, default=lax.optimization_barrier)


def _called(x: Array) -> Array:
    with set_xla_metadata(inlineable="false"):
        return _held(x)


@jax.jit
def _held(x: Array) -> Array:
    return lax.optimization_barrier(x)


def as_one(fn: Callable[..., Any], *arrays: Any, again: bool = True) -> Any:
    """`fn(*arrays)`, a chain of element-wise operations, computed once; its results are held in memory.

    Args:
      fn: a function of pytrees of arrays.
      *arrays: its arguments.
      again: whether only the arguments are held for the backward pass, which computes again what is between. In a
        training step memory is new at each step: its first use costs more than the operations (docs/results.md).

    Returns: the results of `fn`, with its gradients.
    """
    on_cpu = jax.default_backend() == "cpu"
    whole = jax.checkpoint(fn, prevent_cse=not on_cpu) if again else fn
    if not on_cpu:
        return jax.tree.map(lax.optimization_barrier, whole(*arrays))

    @jax.jit
    def called(*arrays: Any) -> Any:
        with set_xla_metadata(inlineable="true"):  # the functions that `fn` calls
            return whole(*arrays)

    with set_xla_metadata(inlineable="false"):
        return called(*arrays)
