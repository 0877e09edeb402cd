"""Re-estimation: the mean and deviation of each op's output become the float reference's again (Nagel et al. 2022).

Kernels that were rounded, or whose training moved them, leave other statistics than those that their BatchNorm was
trained with. In a folded network there is no BatchNorm to re-estimate: its scale and shift are in kernel and bias. With
(m, d) the mean and standard deviation of a channel before the activation, (m_q, d_q) on integers,

    a = d / d_q,   w' = a w,   b' = m - a (m_q - b)

As a kernel's scale follows its largest weight, a factor for each channel leaves per-channel integers as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.graph import Op
from jaxq.ptq.report import Change, Report
from jaxq.ptq.setting import EXAMPLES, Done, Setting, run
from jaxq.ptq.walk import Pair, Walk, preactivation

OBJECTIVE = "squared error of mean and deviation before the activation, relative to the op's power"
LARGEST_FACTOR = 2.0  # a channel that needs more is nearly dead on integers: stretching it would stretch its rounding


def reestimate(target: Any, batches: Any, *state: Any, reference: Any = None, examples: int = EXAMPLES) -> Any:
    """Give each op's output the mean and the deviation that it has in the float reference, channel by channel.

    For low bits, after rounding or training; at 8 bits there is little to gain.

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the float parameters to compare with, by default those at hand. After training or another pass give
        those of the float model.
      examples: at most how many examples are held in memory.

    Returns:
      A `Report` (NNX), `(variables, Report)` (Linen) or `(params, ranges, Report)` (function).

    Raises:
      InputError: no example, NaN, or the reference is of another model.
      RangeError: the model is not calibrated.

    Example:
      >>> jaxq.ptq.reestimate(qmodel, images).name
      'norm'
    """
    return run(reestimated, target, batches, state, reference, examples)


def reestimated(setting: Setting) -> Done:
    """The setting after re-estimation."""
    walk, ops = Walk(setting), setting.weighted
    refused = setting.refusals([v for op in ops for v in op.inputs[1:]])
    changes = [_reestimate(walk, op, refused) for op in ops]
    wanted = {v: walk.weights[v] for op in ops for v in op.inputs[1:] if v not in refused}
    return Done(setting.assigned(wanted), Report("norm", OBJECTIVE, setting.examples, tuple(changes)))


def _reestimate(walk: Walk, op: Op, refused: dict[int, str]) -> Change:
    pairs, measure = walk.reach(op), _measure(walk, op)
    real, ours = _statistics(measure, walk, op, pairs)
    before = _error(real, ours)
    if why := next((refused[v] for v in op.inputs[1:] if v in refused), ""):
        return Change(op.name, before, before, f"left alone. {why}")
    old = {v: walk.weights[v] for v in op.inputs[1:]}
    w, bias = walk.of(op, walk.weights)
    factor = np.clip(real[1] / np.where(ours[1] > 0, ours[1], 1), 1 / LARGEST_FACTOR, LARGEST_FACTOR)
    factor = np.where((ours[1] > 0) & (real[1] > 0), factor, 1.0)
    shifted = real[0] - factor * (ours[0] - np.asarray(bias, np.float64))
    walk.weights |= {op.inputs[1]: w * factor.astype(np.float32), op.inputs[2]: shifted.astype(np.float32)}
    after = _error(*_statistics(measure, walk, op, pairs))
    if after >= before:
        walk.weights |= old
        return Change(op.name, before, before, "kept: the correction made it no better")
    return Change(op.name, before, after, f"factors {np.min(factor):.3f} to {np.max(factor):.3f}")


def _error(real: np.ndarray, ours: np.ndarray) -> float:
    power = float(np.mean(real**2))
    return float(np.mean((real - ours) ** 2) / power) if power else 0.0


def _statistics(measure: Callable[..., Any], walk: Walk, op: Op, pairs: list[Pair]) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation by channel, [2, channels], of the float reference and on integers."""
    sums = [measure(pair, *walk.of(op, walk.weights), *walk.of(op, walk.reference)) for pair in pairs]
    total = np.sum([np.asarray(s, np.float64) for s in sums], axis=0)
    count, moments = total[0, 0], total[1:]
    mean, square = moments[0::2] / count, moments[1::2] / count
    deviation = np.sqrt(np.maximum(square - mean**2, 0))
    return np.stack([mean[0], deviation[0]]), np.stack([mean[1], deviation[1]])


def _measure(walk: Walk, op: Op) -> Callable[..., Any]:
    kernel = walk.kernel(op)

    @jax.jit
    def sums(pair: Pair, w: Any, bias: Any, w_real: Any, bias_real: Any) -> Any:
        """Of one chunk, by channel: the count, then the sums of y, y^2, y_q and y_q^2; [5, channels]."""
        y = preactivation(op, pair.real, w_real, bias_real)
        ours = preactivation(op, pair.quantized, kernel(w, bias).real, bias)
        axes = tuple(range(y.ndim - 1))
        found = [jnp.sum(a, axes) for a in (jnp.ones_like(y), y, y * y, ours, ours * ours)]
        return jnp.stack(found)

    return sums
