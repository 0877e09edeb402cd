"""Quantization-aware training without labels: the quantized model learns its float model's outputs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.frontends.batches import joined
from jaxq.frontends.core import Bound
from jaxq.losses import distilled
from jaxq.optim import partition, qat_schedule
from jaxq.plan.norms import norms_of
from jaxq.plan.plan import Plan
from jaxq.simulate.forward import simulate
from jaxq.simulate.reals import reals

BATCH = 32
FROZEN = 0.8  # the part of the steps after which ranges stand still


def taught(bound: Bound, batches: Any, steps: int, rate: float, progress: bool, seed: int = 0) -> Bound:
    """The model after `steps` steps of training on what the float model gives for the same inputs.

    The loss is `jaxq.losses.distilled` where the output is logits, [examples, classes], else the error's power over the
    outputs'. Parameters that no gradient trains (BatchNorm's statistics) stay.

    Args:
      bound: a calibrated model (`jaxq.quantization.bind`), whose parameters now are the float model's.
      batches: inputs, as of `jaxq.calibrate`.
      steps: of Adam, on batches of 32 drawn without replacement.
      rate: the first learning rate, falling by cosine to a hundredth.
      progress: show a progress bar.
      seed: of the order of the examples.

    Raises: InputError for no example.
    """
    data = joined(bound, batches, "train on")
    if not data:
        raise InputError("There is no example to train on: the iterable is empty.")
    count, batched = bound.core.examples(data), bound.core.batched(data)
    size = min(BATCH, count)

    def of(places: Any) -> list[np.ndarray]:
        return [array[places] if own else array for array, own in zip(data, batched, strict=True)]

    args, kwargs = bound.core.with_arrays(of(slice(size)))
    plan = bound.captured(*args, **kwargs).plan
    leaves, structure = jax.tree.flatten(bound.params)
    kept = _untrained(bound, plan)
    moving = {i: leaf for i, leaf in enumerate(leaves) if i not in kept and jnp.issubdtype(leaf.dtype, jnp.floating)}
    tx = partition(optax.adam(qat_schedule(rate, steps, share=1.0)), freeze=int(FROZEN * steps))
    trained = (moving, {name: dict(state) for name, state in bound.ranges.items()})
    step, state = _step(plan, leaves, tx), tx.init(trained)
    with bar(progress) as shown:
        for number in shown.track(range(steps), description="training"):
            arrays = of(_chosen(number, size, count, seed))
            with jax.numpy_dtype_promotion("standard"):  # optax's Adam divides by a count in int32
                trained, state = step(trained, state, arrays)
    moving, ranges = trained
    params = jax.tree.unflatten(structure, [moving.get(i, leaf) for i, leaf in enumerate(leaves)])
    return bound._replace(params=params, ranges=ranges)


def _step(plan: Plan, leaves: Sequence[Any], tx: optax.GradientTransformation) -> Callable[..., Any]:
    """One step: `(trained, state, arrays) -> (trained, state)`. leaves: the float model's."""

    def loss(trained: Any, arrays: Sequence[Any], floats: Sequence[Any]) -> Any:
        moving, ranges = trained
        params = [moving.get(i, leaf) for i, leaf in enumerate(floats)]
        return distance(plan, simulate(plan, params, ranges, arrays), reals(plan, floats, arrays))

    @jax.jit
    def step(trained: Any, state: Any, arrays: Sequence[Any], floats: Sequence[Any]) -> Any:
        updates, state = tx.update(jax.grad(loss)(trained, arrays, floats), state, trained)
        return optax.apply_updates(trained, updates), state

    return lambda trained, state, arrays: step(trained, state, arrays, list(leaves))


def distance(plan: Plan, found: Sequence[Any], wanted: dict[int, Any]) -> jax.Array:
    """How far the graph's outputs are from the float reading's: the loss."""
    pairs = [(ours, wanted[v]) for ours, v in zip(found, plan.graph.outputs, strict=True) if v in wanted]
    pairs = [(a.astype(jnp.float32), b.astype(jnp.float32)) for a, b in pairs if jnp.issubdtype(b.dtype, jnp.floating)]
    if len(pairs) == 1 and pairs[0][0].ndim == 2 and pairs[0][0].shape[-1] > 1:
        return jnp.mean(distilled(*pairs[0]))
    errors = [jnp.mean(jnp.square(a - b)) / jnp.maximum(jnp.mean(jnp.square(b)), 1e-12) for a, b in pairs]
    return jnp.mean(jnp.stack(errors))


def _untrained(bound: Bound, plan: Plan) -> set[int]:
    """The places of parameters that no gradient trains: those that the interface names, and folded statistics."""
    named = {i for i, name in enumerate(plan.graph.params.values()) if name in bound.statistics}
    return named.union(*({norm.mean, norm.var} for norm in norms_of(plan.graph).values()))


def _chosen(step: int, size: int, count: int, seed: int) -> np.ndarray:
    """The examples of a step: each epoch is a permutation of all, but for a rest smaller than a batch."""
    epoch, place = divmod(step, count // size)
    return np.random.default_rng((seed, epoch)).permutation(count)[place * size : (place + 1) * size]
