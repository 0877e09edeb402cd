"""Calls and pytrees: what of a call is an array, what is part of the function, and what leaves are called."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Call(NamedTuple):
    """Arguments of one call: arrays to trace, and the rest (flags, None, structure), which is part of the function."""

    arrays: tuple[Any, ...]
    static: Hashable
    rebuild: Callable[[Sequence[Any]], tuple[tuple[Any, ...], dict[str, Any]]]


def split_call(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Call:
    """Separate the arrays of a call from its static part."""
    leaves, structure = jax.tree.flatten((tuple(args), dict(kwargs)))
    traced = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    static = tuple((i, leaf) for i, leaf in enumerate(leaves) if i not in traced)
    others = [None if i in traced else leaf for i, leaf in enumerate(leaves)]  # `rebuild` may outlive the arrays

    def rebuild(arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        filled = [*others]
        for i, array in zip(traced, arrays, strict=True):
            filled[i] = array
        return jax.tree.unflatten(structure, filled)

    return Call(tuple(leaves[i] for i in traced), (structure, static), rebuild)


def places(args: Any, kwargs: Any) -> list[str]:
    """Where the arrays of a call stand: `0`, `1`, `mask`, `features/x`."""
    names = leaf_names((tuple(args), dict(kwargs)))
    leaves = jax.tree.leaves((tuple(args), dict(kwargs)))
    return [n.partition("/")[2] for n, leaf in zip(names, leaves, strict=True) if hasattr(leaf, "shape")]


def leaf_names(params: Any, strip: frozenset[str] = frozenset()) -> list[str]:
    """The path of each leaf of a pytree, `block0/conv/kernel`, without leading keys in `strip` or a variable's
    `.value`.
    """
    paths = [[_key_text(k) for k in path] for path, _ in jax.tree_util.tree_flatten_with_path(params)[0]]
    return ["/".join(p for i, p in enumerate(path) if p and not (i == 0 and p in strip)) for path in paths]


def _key_text(key: Any) -> str:
    if isinstance(key, jax.tree_util.GetAttrKey):
        return "" if key.name == "value" else key.name
    return str(getattr(key, "key", getattr(key, "idx", key)))


def is_key(array: Any) -> bool:
    """Whether an array holds random keys, which are state and not numbers."""
    return jnp.issubdtype(array.dtype, jax.dtypes.prng_key)
