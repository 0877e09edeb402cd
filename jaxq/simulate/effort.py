"""How hard XLA optimizes what is compiled for few examples: compiling it takes longer than running it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import jax

# XLA's fusion emitters for the CPU start MLIR for every fusion: of a small function two thirds of the time to compile
# (jaxlib 0.10.2). Without them it has its older ones. A jaxlib that does not know the option compiles without it.
OLDER_EMITTERS: Mapping[str, Any] = {"xla_cpu_use_fusion_emitters": False}
# Graphs and programs of at least so many ops are compiled op by op. A small function costs some 0.1 CPU seconds, so
# that a short network is compiled faster as a whole; a long one in more than linear time.
LONG = 32
UNOPTIMIZED: Mapping[str, Any] = {"xla_backend_optimization_level": 0}


LARGE = 2**18  # numbers in a result, from which on it pays to optimize


def for_results(numbers: int) -> dict[str, Any]:
    """Compiler options of one integer reader or measurement whose results have so many numbers; the same integers."""
    return small() if numbers >= LARGE else quickly()


@functools.cache
def quickly() -> dict[str, Any]:
    """Compiler options of readers of integers and of measurements: no optimization, the same integers."""
    return {**UNOPTIMIZED, **small()}


@functools.cache
def small() -> dict[str, Any]:
    """Compiler options of the training forward in a proof: all optimizations, from emitters that start fast."""
    try:
        jax.jit(lambda x: x + 1, compiler_options=dict(OLDER_EMITTERS))(0.0)
    except Exception as error:  # noqa: BLE001  # of which class depends on the release
        if not any(name in str(error) for name in OLDER_EMITTERS):
            raise
        return {}
    return dict(OLDER_EMITTERS)
