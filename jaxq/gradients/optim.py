"""Transformations of optax that read the states of gradients' schemes. `jaxq.optim` offers them."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxq.gradients.schemes import DEVIATION
from jaxq.gradients.statistics import SITE, added_gradients, is_gradient_state, scaled_gradients


def scale_by_deviation(alpha: float = 20.0, floor: float = 0.1) -> optax.GradientTransformation:
    """Scale the update of each weight by `max(exp(-alpha d), floor)`, d the deviation of its quantized gradient.

    `d = 1 - cos(g, Q(g))` is measured by the schemes "unified" and "adaptive" and is part of their state. A weight
    whose gradient has no state, and a bias, keep their update (Zhu et al. 2020, section 3.4: the deviation
    counteractive learning rate; alpha 20 and floor 0.1 are the paper's).

    It stands after the optimizer, for it scales the learning rate:
    `optax.chain(jaxq.optim.partition(optax.sgd(0.1)), jaxq.optim.scale_by_deviation())`.

    Args:
      alpha: how fast the rate falls with the deviation.
      floor: the least share of the rate.

    Returns:
      A transformation without state. Its update needs params, which hold the states.

    Raises:
      ValueError: in update, when params are not given.

    Example:
      >>> tx = optax.chain(jaxq.optim.partition(optax.sgd(0.1)), jaxq.optim.scale_by_deviation())
    """

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("jaxq.optim.scale_by_deviation needs params: tx.update(grads, state, params).")
        factors = {site: jnp.maximum(jnp.exp(-alpha * d), floor) for site, d in _deviations(updates, params).items()}

        def scaled(path: Any, update: Any) -> Any:
            site = None if is_gradient_state(update) else _longest(_text(path), factors)
            return update if site is None else jax.tree.map(lambda u: u * factors[site].astype(u.dtype), update)

        return jax.tree_util.tree_map_with_path(scaled, updates, is_leaf=is_gradient_state), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)


def _deviations(updates: Any, params: Any) -> dict[str, jax.Array]:
    """The deviation of each contraction once these updates are applied, by the contraction's name.

    A weight that is read more than once, or by each step of a scan, has the largest of its deviations.
    """
    found: dict[str, jax.Array] = {}
    old = jax.tree_util.tree_flatten_with_path(params, is_leaf=is_gradient_state)[0]
    new = jax.tree.leaves(updates, is_leaf=is_gradient_state)
    for (path, held), update in zip(old, new, strict=True):
        if is_gradient_state(held):
            d = jnp.max(jnp.asarray(_value(held[DEVIATION])) + jnp.asarray(_value(update[DEVIATION])))
            site = _text(path[-1:]).removesuffix(SITE).partition("#")[0]
            found[site] = jnp.maximum(found[site], d) if site in found else d
    return found


def _value(leaf: Any) -> Any:
    """The array of a leaf, which may be a Flax variable."""
    return jax.tree.leaves(leaf)[0]


def _text(path: Any) -> str:
    """A key path as a site's name is written: `block0/conv/kernel`."""
    keys = (str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
    return "/".join(key for key in keys if key != "value")


def _longest(path: str, sites: dict[str, Any]) -> str | None:
    """The longest site's name that a parameter's path ends with."""
    return max((s for s in sites if path == s or path.endswith("/" + s)), key=len, default=None)


class AccumulateState(NamedTuple):
    """seen: int32, micro-batches seen since the last step. total: their gradients. inner: the optimizer's state."""

    seen: jax.Array
    total: Any
    inner: Any


def accumulate(inner: optax.GradientTransformation, every: int) -> optax.GradientTransformation:
    """A step of `inner` for every so many micro-batches: by the mean of their gradients, and the maximum of statistics.

    `optax.MultiSteps` takes the mean of both, and the mean of maxima is no maximum of the batch.

    Args:
      inner: the optimizer, `jaxq.optim.partition(...)`.
      every: micro-batches a step, 1 or more.

    Returns:
      A transformation whose updates are zeros between the steps.
    """
    if every < 1:
        raise ValueError(f"accumulate takes 1 or more micro-batches a step, not {every}.")

    def init(params: Any) -> AccumulateState:
        return AccumulateState(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params), inner.init(params))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        first = state.seen == 0
        added = added_gradients(state.total, updates)
        total = jax.tree.map(lambda new, sum_: jnp.where(first, new, sum_), updates, added)
        moves, after = inner.update(scaled_gradients(total, 1.0 / every), state.inner, params)
        last = state.seen + 1 == every
        moves = jax.tree.map(lambda m: jnp.where(last, m, jnp.zeros_like(m)), moves)
        after = jax.tree.map(lambda new, old: jnp.where(last, new, old), after, state.inner)
        return moves, AccumulateState(jnp.where(last, 0, state.seen + 1), total, after)

    return optax.GradientTransformation(init, update)
