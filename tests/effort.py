"""How hard XLA optimizes what a test compiles. Compiling is most of what the tests cost."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def little_effort(little: bool = True) -> Iterator[None]:
    """Compile without most optimizations (LLVM's above all), or with all of them.

    Results are those of the same operations, except that nothing is contracted into a multiply-add: a law about the
    last bit of the training forward is proven with all optimizations.
    """
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", little)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", before)
