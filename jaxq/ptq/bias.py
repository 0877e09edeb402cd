"""Bias correction: each op's mean error goes into its bias (Nagel et al. 2019, section 4.2; Krishnamoorthi 2018).

    b' = b + E[y - y_q], by channel, before the activation

y is the float reference's, y_q what the integer kernel makes of the integer input. Ops are taken in order, so that each
sees the input that the corrected ops before it leave.
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

OBJECTIVE = "largest mean error of a channel before the activation, relative to the op's root mean square"


def correct_biases(target: Any, batches: Any, *state: Any, reference: Any = None, examples: int = EXAMPLES) -> Any:
    """Put each op's mean error into its bias.

    Rounding a kernel shifts the mean of its op's output, the more the fewer weights a channel has: depthwise
    convolutions most. The shift is measured against the float reference and taken out.

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the float parameters to compare with, by default those at hand. After another pass give those of
        before it, `report.reference`: a kernel that was rounded is no float reference.
      examples: at most how many examples are held in memory.

    Returns:
      A `Report` (NNX), `(variables, Report)` (Linen) or `(params, ranges, Report)` (function).

    Raises:
      InputError: no example, NaN, or the reference is of another model.
      RangeError: the model is not calibrated.

    Example:
      >>> jaxq.ptq.correct_biases(qmodel, images).name
      'bias'
    """
    return run(corrected, target, batches, state, reference, examples)


def corrected(setting: Setting) -> Done:
    """The setting after bias correction."""
    walk, ops = Walk(setting), setting.weighted
    refused = setting.refusals([op.inputs[2] for op in ops])
    changes = [_correct(walk, op, refused) for op in ops]
    wanted = {op.inputs[2]: walk.weights[op.inputs[2]] for op in ops if op.inputs[2] not in refused}
    return Done(setting.assigned(wanted), Report("bias", OBJECTIVE, setting.examples, tuple(changes)))


def _correct(walk: Walk, op: Op, refused: dict[int, str]) -> Change:
    value, pairs, measure = op.inputs[2], walk.reach(op), _measure(walk, op)
    before, size = _mean_error(measure, walk, op, pairs)
    if value in refused:
        return Change(op.name, _largest(before, size), _largest(before, size), f"left alone. {refused[value]}")
    old = walk.weights[value]
    walk.weights[value] = np.asarray(old, np.float32) + before.astype(np.float32)
    after, _ = _mean_error(measure, walk, op, pairs)
    if _largest(after, size) > _largest(before, size):  # the greater bias raised the scale (LARGEST_BIAS)
        walk.weights[value], after = old, before
        return Change(op.name, _largest(before, size), _largest(before, size), "kept: the correction made it worse")
    return Change(op.name, _largest(before, size), _largest(after, size), "corrected")


def _largest(error: np.ndarray, size: float) -> float:
    return float(np.max(np.abs(error), initial=0.0) / size) if size else 0.0


def _mean_error(measure: Callable[..., Any], walk: Walk, op: Op, pairs: list[Pair]) -> tuple[np.ndarray, float]:
    """The mean of y - y_q by channel over all examples, and the root mean square of y."""
    sums = [measure(pair, *walk.of(op, walk.weights), *walk.of(op, walk.reference)) for pair in pairs]
    error, squares, count = (np.sum([np.asarray(s[i], np.float64) for s in sums], axis=0) for i in range(3))
    return error / count, float(np.sqrt(np.sum(squares) / (count * error.size)))


def _measure(walk: Walk, op: Op) -> Callable[..., Any]:
    kernel = walk.kernel(op)

    @jax.jit
    def sums(pair: Pair, w: Any, bias: Any, w_real: Any, bias_real: Any) -> tuple[Any, Any, Any]:
        """Of one chunk: sum of y - y_q by channel, sum of y^2 by channel, and how many numbers a channel has."""
        y = preactivation(op, pair.real, w_real, bias_real)
        error = y - preactivation(op, pair.quantized, kernel(w, bias).real, bias)
        axes = tuple(range(y.ndim - 1))
        return jnp.sum(error, axes), jnp.sum(y * y, axes), jnp.int32(y.size // y.shape[-1])

    return sums
