"""Optimizers for quantization-aware training, in optax: ranges get a rate of their own, no weight decay, and a
schedule.

    tx = partition(optax.adamw(schedule), observe=200, freeze=1800)

Everything is a function of the step counter inside the optimizer's state: a training step has no Python branch and
never recompiles.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jaxq.gradients.optim import accumulate as accumulate
from jaxq.gradients.optim import scale_by_deviation as scale_by_deviation
from jaxq.gradients.statistics import is_gradient_state
from jaxq.plan.norms import is_norm_state
from jaxq.range_methods import RangeMethod, State, is_range, method_of
from jaxq.simulate.oscillations import freeze_oscillations as freeze_oscillations
from jaxq.simulate.oscillations import oscillations as oscillations


class PartitionState(NamedTuple):
    """step: int32 counter. weights, ranges: the states of the two inner optimizers."""

    step: jax.Array
    weights: Any
    ranges: Any


def partition(
    weights: optax.GradientTransformation,
    ranges: optax.GradientTransformation | None = None,
    *,
    observe: int = 0,
    freeze: int | None = None,
    decay: float = 0.99,
    norm_decay: float = 0.99,
    norm_freeze: int | None = None,
) -> optax.GradientTransformation:
    """`weights` for the model's parameters and `ranges` for the learned ranges, whatever pytree they come in.

    The states of gradients' schemes (`jaxq.int8`) become what the scheme found, neither scaled nor decayed.
    Ranges move multiplicatively: `ranges` (default `optax.adam(1e-3)`) sees the gradient of log(scale) and of the
    zero point as a part of the range, and its update u gives `scale * exp(u)`. That is the log parametrisation (Jain
    et al. 2020, TQT) with the scale itself stored, so that the number trained is bit for bit the number exported.

    Args:
      weights: the optimizer of the model's parameters.
      ranges: that of the learned ranges, by default `optax.adam(1e-3)`.
      observe: for this many steps ranges follow the moving min and max of their tensors, then they learn (needs a
        recipe with `activations.observe` or `ranges = "ema"`).
      freeze: from this step on ranges stand still.
      decay: of the moving min and max, `m <- decay m + (1 - decay) batch`. The first steps weigh calibration and each
        batch equally, `1 / (t + 2)`, so that the average has no bias from its start (TFMOT's starts at +-6 and never
        forgets).
      norm_decay: of the statistics of BatchNorms that follow (a recipe with `norm = "follow"`), as `momentum` of Flax.
      norm_freeze: from this step on these statistics stand still.

    Returns:
      A transformation; call it as `tx.update(grads, state, params)`. Its state is a PartitionState.

    Raises:
      ValueError: in update, when params are not given.

    Example:
      >>> tx = jaxq.optim.partition(optax.adamw(1e-3), freeze=900)
      >>> int(tx.init({"kernel": jnp.zeros((2, 3))}).step)
      0
    """
    learner = ranges if ranges is not None else optax.adam(1e-3)

    def init(params: Any) -> PartitionState:
        plain, found = _split(params)
        return PartitionState(jnp.zeros((), jnp.int32), weights.init(plain), learner.init(_coordinates(found)))

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("jaxq.optim.partition needs params: tx.update(grads, state, params).")
        plain_grads, range_grads = _split(updates)
        plain, found = _split(params)
        weight_updates, weight_state = weights.update(plain_grads, state.weights, plain)
        moves: Any
        moves, range_state = learner.update(_gradients(range_grads, found), state.ranges, _coordinates(found))
        rate = jnp.maximum(1.0 - decay, 1.0 / (state.step.astype(jnp.float32) + 2.0))
        frozen = state.step >= freeze if freeze is not None else jnp.bool_(False)
        phase = _Phase(state.step < observe if observe else None, frozen, rate)
        new = [_range_update(r, g, m, phase) for r, g, m in zip(found, range_grads, moves, strict=True)]
        still = state.step >= norm_freeze if norm_freeze is not None else jnp.bool_(False)
        follow = jnp.where(still, 0.0, 1.0 - norm_decay)
        new_states = [_state_update(node, follow) for node in _nodes(updates) if _is_statistic(node)]
        joined = _join(updates, weight_updates, new, new_states)
        return joined, PartitionState(state.step + 1, weight_state, range_state)

    return optax.GradientTransformation(init, update)


class _Phase(NamedTuple):
    """observing: None where no step observes; then nothing of it is traced or compiled, for any of a hundred ranges."""

    observing: jax.Array | None
    frozen: jax.Array
    rate: jax.Array


def _range_update(state: State, gradient: State, moves: State, phase: _Phase) -> dict[str, jax.Array]:
    """The change of a range: by its optimizer, or after the moving [min, max], or none."""
    method = _method(state)
    observed = -phase.rate * gradient["observed"]
    changes = method.moved(state, moves)
    scalars = all(array.ndim == 0 for key, array in state.items() if key != "observed")
    if phase.observing is not None and scalars:  # a weight's range, of vectors, observes none
        follows = phase.observing & jnp.any(gradient["observed"] != 0.0)  # nor does a frozen one
        after = method.following(state, state["observed"] + observed)
        stays = {key: jnp.where(phase.observing, 0.0, change) for key, change in changes.items()}
        changes = {key: jnp.where(follows, after[key], stays[key]) for key in changes}
    changes = {**changes, "observed": observed}
    return {key: jnp.where(phase.frozen, jnp.zeros_like(change), change) for key, change in changes.items()}


def _is_statistic(node: Any) -> bool:
    """Whether a node holds what a forward or backward pass found, and not what a gradient trains."""
    return is_gradient_state(node) or is_norm_state(node)


def _state_update(gradient: Any, follow: jax.Array) -> Any:
    """The change of such a state from its gradient, `state - found`: to what was found, or a part of the way."""
    rate = follow if is_norm_state(gradient) else 1.0
    return jax.tree.map(lambda g: -rate * g, gradient)


def _method(state: State) -> RangeMethod:
    method = method_of(state)
    assert method is not None
    return method


def _coordinates(ranges: list[State]) -> list[dict[str, jax.Array]]:
    return [_method(r).coordinates(r) for r in ranges]


def _gradients(gradients: list[State], ranges: list[State]) -> list[dict[str, jax.Array]]:
    return [_method(r).gradients(r, g) for g, r in zip(gradients, ranges, strict=True)]


def _apart(node: Any) -> bool:
    """Whether a node is no parameter of the model: a range, or the state of a gradient's scheme or of a BatchNorm."""
    return is_range(node) or _is_statistic(node)


def _nodes(tree: Any) -> list[Any]:
    return jax.tree.leaves(tree, is_leaf=_apart)


def _split(tree: Any) -> tuple[Any, list[Any]]:
    """A tree without its ranges and gradients' states (empty nodes in their place), and the ranges in order."""
    leaves, structure = jax.tree.flatten(tree, is_leaf=_apart)
    plain = jax.tree.unflatten(structure, [optax.MaskedNode() if _apart(leaf) else leaf for leaf in leaves])
    return plain, [_unboxed(leaf) for leaf in leaves if is_range(leaf)]


def _unboxed(state: Any) -> dict[str, jax.Array]:
    """The arrays of a range, whatever boxes they are in: nnx.Variable, flax.linen's Partitioned."""
    return {key: jax.tree.leaves(box)[0] for key, box in state.items()}


def _boxed(like: Any, state: State) -> Any:
    """`state` in the boxes of another."""
    paths, structure = jax.tree_util.tree_flatten_with_path(like)
    keys = [jax.tree_util.keystr(path[:1], simple=True) for path, _ in paths]
    return jax.tree.unflatten(structure, [state[key] for key in keys])


def _join(like: Any, plain: Any, ranges: Iterable[Any], states: Iterable[Any]) -> Any:
    leaves, structure = jax.tree.flatten(like, is_leaf=_apart)
    others, values, found = iter(jax.tree.leaves(plain)), iter(ranges), iter(states)
    joined = [_boxed(n, next(values)) if is_range(n) else next(found if _is_statistic(n) else others) for n in leaves]
    return jax.tree.unflatten(structure, joined)


def qat_schedule(float_rate: float, steps: int, *, share: float = 0.01) -> optax.Schedule:
    """The usual rate of quantization-aware fine-tuning: `share` of the float training's, by cosine to a hundredth of
    that.

    References: Wu et al. 2020, "Integer quantization for deep learning inference", section 5.2 (1 % of the original
    rate).

    Args:
      float_rate: the largest learning rate of the float training.
      steps: how many steps the fine-tuning has.
      share: of `float_rate`, the first rate.

    Returns:
      A schedule, from step to rate.

    Example:
      >>> rate = jaxq.optim.qat_schedule(0.1, 1000)
      >>> f"{rate(0):.6f} {rate(1000):.6f}"
      '0.001000 0.000010'
    """
    return optax.cosine_decay_schedule(float_rate * share, steps, alpha=0.01)
