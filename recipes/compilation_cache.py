"""Compiled programs kept between runs, by JAX's persistent compilation cache."""

from __future__ import annotations

import contextlib
import pathlib
from collections.abc import Iterator

import jax

from jaxq.recipes.packages import cache

LEAST = 0.3  # seconds of compilation from which a program is kept; JAX's default of 1 leaves most of a step's parts out


@contextlib.contextmanager
def kept(wanted: bool = True) -> Iterator[pathlib.Path | None]:
    """While this context is open, programs are read from and kept in `xla/` of jaxq's cache (`packages.cache`).

    A program is found again by its operations, its flags, and the versions of JAX and XLA, so results do not change.

    Args:
      wanted: False leaves JAX as it is.

    Yields: the folder. None where JAX already has a folder, or is told to keep none: `JAX_COMPILATION_CACHE_DIR` and
    `JAX_ENABLE_COMPILATION_CACHE` decide.

    Example:
      >>> with kept(wanted=False) as folder:
      ...     folder is None
      True
    """
    now = jax.config.values
    if not wanted or now["jax_compilation_cache_dir"] or not now["jax_enable_compilation_cache"]:
        yield None
        return
    folder, least = cache() / "xla", now["jax_persistent_cache_min_compile_time_secs"]
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", min(least, LEAST))
    try:
        yield folder
    finally:
        jax.config.update("jax_compilation_cache_dir", None)
        jax.config.update("jax_persistent_cache_min_compile_time_secs", least)
