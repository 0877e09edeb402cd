"""Learned rounding, AdaRound (Nagel et al. 2020): each weight goes up or down so that the op's output moves least.

    q = clip(floor(w / s) + h(V), -qmax, qmax),   h(V) = clip(1.2 sigmoid(V) - 0.1, 0, 1)
    min over V of  ||f(x'; s q) - y||^2 / ||f(x'; s round(w / s)) - y||^2  +  weight * mean(1 - |2 h - 1|^beta)

y is the float reference's output and x' the op's input as the integers before it leave it; f has the fused activation.
beta falls from 20 to 2 after a fifth of the steps, in which the second term is off; h begins at the fraction of w / s.
Both terms are relative here, so that one `weight` fits every op; the paper's are in the units of each.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jaxq.errors import InputError
from jaxq.graph import Op
from jaxq.ptq.adaround import (
    DEFAULTS,
    WARM_UP,
    Settings,
    annealed,
    integers,
    keys_of,
    penalty,
    started,
    stretched,
)
from jaxq.ptq.blocks import rounded_by_block
from jaxq.ptq.kernels import OBJECTIVE, Grid, improve_kernel
from jaxq.ptq.report import Report
from jaxq.ptq.setting import EXAMPLES, Done, Setting, run
from jaxq.ptq.walk import Pair, Walk, preactivation
from jaxq.simulate.reals import activated


def round_weights(
    target: Any,
    batches: Any,
    *state: Any,
    reference: Any = None,
    examples: int = EXAMPLES,
    steps: int = 2000,
    rate: float = 1e-2,
    drop: float = 0.0,
    block: bool = False,
    fisher: bool = False,
    seed: int = 0,
) -> Any:
    """Round each weight up or down so that its op's output stays nearest to the float reference's.

    The strongest pass for weights of 4 bits, and the slowest: `steps` gradients of each op by itself. The grid decides
    more than the steps: with one scale a tensor use learned or frozen weight ranges calibrated by "mse".

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change; they lie on the
        grid afterwards, and are no float model any more.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the float parameters to compare with, by default those at hand.
      examples: at most how many examples are held in memory.
      steps: gradient steps for each op; the paper takes 10,000.
      rate: Adam's learning rate.
      drop: share in [0, 1) of input elements that are the float reference's, drawn at each step (QDrop, Wei et al.
        2022, with 0.5), against overfitting to few examples.
      block: learn the kernels between two residual sums together, on the output of the block (BRECQ, Li et al. 2021);
        `steps` are then for each block.
      fisher: weigh the block's error by the squared gradient of the log-likelihood of the reference's own class; for a
        model of one output of logits.
      seed: of the examples drawn at each step.

    Returns:
      A `Report` (NNX), `(variables, Report)` (Linen) or `(params, ranges, Report)` (function). Of each op the better of
      nearest and learned rounding is kept.

    Raises:
      InputError: no example, NaN, the reference is of another model, or `fisher` without `block`.
      RangeError: the model is not calibrated.

    Example:
      >>> report = jaxq.ptq.round_weights(qmodel, images, steps=5)
      >>> all(change.after <= change.before for change in report.changes)
      True
    """
    settings = Settings(steps=steps, rate=rate, drop=drop, seed=seed)
    if fisher and not block:
        raise InputError("fisher=True weighs the output of a block: give block=True with it.")
    step = functools.partial(rounded_by_block, fisher=fisher) if block else rounded
    return run(functools.partial(step, settings=settings), target, batches, state, reference, examples)


def rounded(setting: Setting, settings: Settings = DEFAULTS) -> Done:
    """The setting with learned rounding."""
    walk, ops = Walk(setting), setting.weighted
    refused = setting.refusals([op.inputs[1] for op in ops])
    choose = functools.partial(_chosen, settings)
    changes = [improve_kernel(walk, op, refused, choose) for op in ops]
    wanted = {op.inputs[1]: walk.weights[op.inputs[1]] for op in ops if op.inputs[1] not in refused}
    return Done(setting.assigned(wanted), Report("round", OBJECTIVE, setting.examples, tuple(changes)))


def _chosen(settings: Settings, walk: Walk, op: Op, grid: Grid, pairs: list[Pair]) -> Any:
    w, bias = walk.of(op, walk.weights)
    inputs = Pair(*(jnp.concatenate(arrays) for arrays in zip(*pairs, strict=True)))
    wanted = jax.jit(lambda x, w, b: activated(op, preactivation(op, x, w, b)))
    y = wanted(inputs.real, *walk.of(op, walk.reference))
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam divides by a count in int32
        return _learned(op, settings)(inputs, y, w, bias, grid)


@functools.lru_cache(maxsize=4)
def _learned(op: Op, settings: Settings) -> Callable[..., Any]:
    """The compiled function `(inputs, y, w, bias, grid) -> integers` of an op."""

    def output(x: Any, q: Any, bias: Any, grid: Grid) -> Any:
        return activated(op, preactivation(op, x, q * grid.scale, bias))

    def error(x: Any, y: Any, q: Any, bias: Any, grid: Grid) -> Any:
        return jnp.mean(jnp.square(output(x, q, bias, grid) - y))

    def loss(v: Any, x: Any, y: Any, w: Any, bias: Any, grid: Grid, beta: Any, on: Any) -> Any:
        h = stretched(v)
        q = integers(w, h, grid)
        relative = error(x, y, q, bias, grid) / jnp.maximum(error(x, y, grid.nearest, bias, grid), 1e-30)
        return relative + on * settings.weight * penalty(h, beta)

    tx = optax.adam(settings.rate)

    @jax.jit
    def learned(inputs: Pair, y: Any, w: Any, bias: Any, grid: Grid) -> Any:
        def step(carry: Any, t: Any) -> Any:
            v, state = carry
            x, y_ = _drawn(settings, inputs, y, t)
            beta, on = annealed(t, settings.steps), t >= WARM_UP * settings.steps
            update, state = tx.update(jax.grad(loss)(v, x, y_, w, bias, grid, beta, on), state)
            return (optax.apply_updates(v, update), state), None

        v = started(w, grid)
        (v, _), _ = jax.lax.scan(step, (v, tx.init(v)), jnp.arange(settings.steps))
        return integers(w, (stretched(v) > 0.5).astype(jnp.float32), grid)

    return learned


def _drawn(settings: Settings, inputs: Pair, y: Any, step: Any) -> tuple[Any, Any]:
    """The inputs and outputs of one step: examples drawn with replacement."""
    index, mixed = keys_of(settings, step)
    i = jax.random.randint(index, (min(settings.batch, len(y)),), 0, len(y))
    x = inputs.quantized[i]
    if settings.drop:
        x = jnp.where(jax.random.bernoulli(mixed, settings.drop, x.shape), inputs.real[i], x)
    return x, y[i]
