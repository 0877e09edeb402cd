"""Weights that flip between two integers while they train, and what stops them (Nagel et al. 2022, "Overcoming
oscillations in quantization-aware training").

With straight-through gradients a weight whose best value lies between two integers moves to the threshold between them
and flips for ever. Tracked per weight, at each step t (section 4.1):

    o_t = 1 if the integer changed, and the other way than at its last change; else 0
    f_t = m o_t + (1 - m) f_{t-1}                 how often it flips back
    e_t = m n_t + (1 - m) e_{t-1}                 the integer, on average
    where f_t > threshold:  the weight stays at the integer round(e_t)

`jaxq.optim.freeze_oscillations` and `jaxq.losses.dampening` are these pieces. Both need the integers of a kernel.
They are round(q k / max|k|) by output channel, q = 7 for 4 bits: of the parameter k alone, whatever BatchNorm's factor
the channel gets, for that cancels. So they are found without the model, and a frozen weight stays frozen while
BatchNorm trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from jaxq.errors import InputError
from jaxq.graph import Op, weight_origins
from jaxq.plan.plan import Plan


class Tracked(NamedTuple):
    """One kernel, arrays of its shape. integers: n of the last step. direction: of the last change, -1, 0 or 1.
    frequency: f. average: e. frozen: where the weight stays. at: the integer that it stays at.
    """

    integers: jax.Array
    direction: jax.Array
    frequency: jax.Array
    average: jax.Array
    frozen: jax.Array
    at: jax.Array


FREQUENCY, FROZEN = Tracked._fields.index("frequency"), Tracked._fields.index("frozen")


class FreezeState(NamedTuple):
    """step: int32 counter. inner: the state of the optimizer. kernels: by site."""

    step: jax.Array
    inner: Any
    kernels: dict[str, Tracked]


def freeze_oscillations(
    inner: optax.GradientTransformation,
    plan: Plan,
    *,
    threshold: optax.ScalarOrSchedule = 0.02,
    momentum: float = 0.01,
) -> optax.GradientTransformation:
    """`inner`, after which a weight that flips too often stays at its average integer.

    Args:
      inner: the optimizer; `jaxq.optim.partition(...)` for one.
      plan: of the quantized model (`qmodel.plan`). Its kernels must be quantized per channel, by scales that follow.
      threshold: on the frequency f, a number or an optax schedule. Let it fall while training, such as
        `optax.cosine_decay_schedule(0.04, steps, alpha=0.25)` (the paper, from 0.04 to 0.01): a weight that is still on
        its way is frozen at an average that lags behind.
      momentum: m.

    Returns:
      A transformation whose update needs params. Its state is arrays, so a resumed run goes on bit for bit.

    Raises:
      InputError: no kernel can be tracked; params that hold none of the plan's kernels.

    Example:
      >>> tx = jaxq.optim.freeze_oscillations(jaxq.optim.partition(optax.adam(1e-4)), qmodel.plan)
    """
    levels = _levels(plan)

    def init(params: Any) -> FreezeState:
        kernels = {site: _start(k, levels[site]) for site, k in _kernels(params, levels).items()}
        return FreezeState(jnp.zeros((), jnp.int32), inner.init(params), kernels)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        if params is None:
            raise ValueError("jaxq.optim.freeze_oscillations needs params: tx.update(grads, state, params).")
        updates, inner_state = inner.update(updates, state.inner, params)
        limit = threshold(state.step) if callable(threshold) else threshold
        olds, moves = _kernels(params, levels), _kernels(updates, levels)
        found = {
            site: _tracked(olds[site], moves[site], kernel, levels[site], limit, momentum)
            for site, kernel in state.kernels.items()
        }
        moved = _replaced(updates, levels, {site: move for site, (move, _) in found.items()})
        kernels = {site: kernel for site, (_, kernel) in found.items()}
        return moved, FreezeState(state.step + 1, inner_state, kernels)

    return optax.GradientTransformation(init, update)


def oscillations(state: Any, *, frequency: float = 0.02) -> dict[str, float]:
    """How many weights flip, of an optimizer's state that holds one of `freeze_oscillations`; to be logged.

    Args:
      state: any pytree with that state in it, such as `optimizer.opt_state`.
      frequency: a weight that flips back more often than this, f > frequency, oscillates. A weight on its way to
        another integer flips as well; after a warm-up of 1 / momentum steps the number is steady.

    Returns:
      The shares of all tracked weights, in [0, 1], as `oscillating_weights` and `frozen_weights`. An empty dict for a
      state without tracked weights: a threshold above 1 tracks and freezes nothing.

    Example:
      >>> oscillations(optax.adam(1e-3).init({"w": jnp.zeros(2)}))
      {}
    """
    found = jax.tree.leaves(state, is_leaf=lambda s: isinstance(s, FreezeState))
    kernels = [k for s in found if isinstance(s, FreezeState) for k in s.kernels.values()]
    if not kernels:
        return {}
    flips, frozen = (np.concatenate([np.ravel(np.asarray(k[i][...])) for k in kernels]) for i in (FREQUENCY, FROZEN))
    return {
        "oscillating_weights": float(np.mean((flips > frequency) & ~frozen)),
        "frozen_weights": float(np.mean(frozen)),
    }


def dampening(params: Any, plan: Plan) -> Float[Array, ""]:
    """How far weights are from their integers, in steps: a loss that pulls them off the thresholds (section 4.2).

        sum over kernels of  mean((round(k / s) - k / s)^2),   s = max|k| / q by channel

    The integer and the scale have no gradient. The paper weighs it by a factor that grows from 0 by a cosine.

    Args:
      params: the parameters, in whatever pytree they come in.
      plan: of the quantized model. Its kernels must be quantized per channel, by scales that follow.

    Returns:
      A float scalar >= 0, 0 where every weight is on its grid.

    Raises:
      InputError: as `jaxq.optim.freeze_oscillations`.
    """
    levels = _levels(plan)
    return jnp.sum(jnp.stack([_distance(k, levels[site]) for site, k in _kernels(params, levels).items()]))


def _distance(k: jax.Array, level: float) -> jax.Array:
    steps = k / jax.lax.stop_gradient(_scale(k, level))
    return jnp.mean(jnp.square(jax.lax.stop_gradient(jnp.round(steps)) - steps))


# --- which parameters are kernels -----------------------------------------------------------------------------------


def _levels(plan: Plan) -> dict[str, float]:
    """The greatest integer of every kernel whose integers depend on its parameter alone, by the site's name."""
    found = {op.name: float(plan.weights[op.name].qmax) for op in plan.graph.ops if _alone(plan, op)}
    if not found:
        raise InputError(
            f"None of the {len(plan.weights)} kernels of the plan is quantized per channel with a scale that follows "
            'it: their integers depend on more than the kernel. Use weights.per_channel = true and ranges = "follow".'
        )
    return found


def _alone(plan: Plan, op: Op) -> bool:
    scheme = plan.weights.get(op.name)
    if scheme is None or scheme.axis is None or scheme.ranges != "follow":
        return False
    shapes = {name: plan.graph.avals[v].shape for v, name in plan.graph.params.items()}
    origins = weight_origins(plan.graph).get(op.inputs[1], ())
    name = next((n for n in origins if n == op.name or n.endswith(f"/{op.name}")), None)
    return name is not None and shapes[name] == plan.graph.avals[op.inputs[1]].shape


def _kernels(tree: Any, levels: Mapping[str, float]) -> dict[str, jax.Array]:
    """The kernels in a tree of parameters or of their updates, by site."""
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    found = {site: leaf for path, leaf in leaves if (site := _site(path, levels)) is not None}
    if not found:
        raise InputError(
            f"The parameters hold none of the plan's {len(levels)} kernels (the first is {next(iter(levels))}). Give "
            "the parameters of the quantized model."
        )
    return found


def _replaced(tree: Any, levels: Mapping[str, float], kernels: Mapping[str, jax.Array]) -> Any:
    """The tree with these kernels in the place of its own."""

    def one(path: Any, leaf: Any) -> Any:
        site = _site(path, levels)
        return leaf if site is None else kernels[site]

    return jax.tree_util.tree_map_with_path(one, tree)


def _site(path: Any, levels: Mapping[str, float]) -> str | None:
    """The longest site that a parameter's path ends with."""
    keys = (str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", k)))) for k in path)
    text = "/".join(key for key in keys if key != "value")
    return max((s for s in levels if text == s or text.endswith(f"/{s}")), key=len, default=None)


# --- one kernel -----------------------------------------------------------------------------------------------------


def _scale(k: jax.Array, level: float) -> jax.Array:
    """max|k| / q by channel of the last axis, with ones for the other axes."""
    bound = jnp.max(jnp.abs(k), axis=tuple(range(k.ndim - 1)), keepdims=True)
    return jnp.where(bound > 0, bound, 1.0) / level


def _start(k: jax.Array, level: float) -> Tracked:
    integers = jnp.round(k / _scale(k, level))
    zeros = jnp.zeros_like(integers)
    return Tracked(integers, zeros, zeros, integers, jnp.zeros(k.shape, bool), zeros)


def _tracked(
    k: jax.Array, move: jax.Array, before: Tracked, level: float, limit: Any, momentum: float
) -> tuple[jax.Array, Tracked]:
    """The update of a kernel with its frozen weights held, and what is known of it after."""
    free = k + move
    scale = _scale(jnp.where(before.frozen, 0.0, free), level)  # the largest of a channel never flips: it is free
    integers = jnp.where(before.frozen, before.at, jnp.clip(jnp.round(free / scale), -level, level))
    change = jnp.sign(integers - before.integers)
    flipped = (change * before.direction == -1).astype(k.dtype)
    frequency = momentum * flipped + (1 - momentum) * before.frequency
    average = momentum * integers + (1 - momentum) * before.average
    freezes = ~before.frozen & (frequency > limit) & (jnp.abs(integers) < level)
    frozen, at = before.frozen | freezes, jnp.where(freezes, jnp.round(average), before.at)
    direction = jnp.where(change != 0, change, before.direction)
    held = jnp.where(frozen, at, integers)
    after = Tracked(held, direction, frequency, average, frozen, at)
    return jnp.where(frozen, at * scale - k, move), after
