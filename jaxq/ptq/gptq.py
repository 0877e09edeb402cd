"""GPTQ: kernels rounded column by column, each column making up for the error of those before it (Frantar et al. 2023).

With H = E[x x^T] + 0.01 mean(diag H) I over the op's integer inputs x and the upper factor U of H^-1 = U^T U, for each
input i of a kernel w [inputs, outputs] in turn

    q_i = round(w_i / s),   e = (w_i - s q_i) / U_ii,   w_j -= U_ij e   for j > i

U is the Cholesky factor: with the whole inverse in its place finished inputs would go on receiving errors. A
convolution is a product of patches, a grouped or depthwise one a product for each group.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.graph import Op
from jaxq.ptq.kernels import OBJECTIVE, Grid, improve_kernel
from jaxq.ptq.report import Report
from jaxq.ptq.setting import EXAMPLES, Done, Setting, run
from jaxq.ptq.walk import Pair, Walk

DAMPING = 0.01  # of the mean of H's diagonal (Frantar et al. 2023, section 3.3)
IDLE = {
    "AFFINE": "An output of it reads one input: rounding to nearest is the best.",
    "TRANSPOSE_CONV": "GPTQ has no form for it here; round_weights has.",
}


def gptq(target: Any, batches: Any, *state: Any, reference: Any = None, examples: int = EXAMPLES) -> Any:
    """Round kernels by GPTQ: second-order, in closed form, nothing to tune.

    It gains where the inputs of an op are correlated and weights have 4 bits: dense layers and convolutions. Where
    `round_weights` can be afforded it is the better of the two; use one of them.

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the float parameters to compare with, by default those at hand.
      examples: at most how many examples are held in memory.

    Returns:
      A `Report` (NNX), `(variables, Report)` (Linen) or `(params, ranges, Report)` (function).

    Raises:
      InputError: no example, NaN, or the reference is of another model.
      RangeError: the model is not calibrated.

    Example:
      >>> report = jaxq.ptq.gptq(qmodel, images)
      >>> [change.op for change in report.changes]
      ['kernel']
    """
    return run(rounded_by_gptq, target, batches, state, reference, examples)


def rounded_by_gptq(setting: Setting) -> Done:
    """The setting with kernels rounded by GPTQ."""
    walk, ops = Walk(setting), setting.weighted
    refused = setting.refusals([op.inputs[1] for op in ops])
    changes = [improve_kernel(walk, op, refused, _chosen, IDLE.get(op.kind, "")) for op in ops]
    wanted = {op.inputs[1]: walk.weights[op.inputs[1]] for op in ops if op.inputs[1] not in refused}
    return Done(setting.assigned(wanted), Report("gptq", OBJECTIVE, setting.examples, tuple(changes)))


def _chosen(walk: Walk, op: Op, grid: Grid, pairs: list[Pair]) -> np.ndarray:
    w, _ = walk.of(op, walk.weights)
    groups = _groups(op, w.shape, pairs[0].quantized.shape[-1])
    moments = jax.jit(lambda x: _moments(op, x, w.shape, groups))
    hessian = np.sum([np.asarray(moments(pair.quantized), np.float64) for pair in pairs], axis=0)
    by_channel = (np.broadcast_to(np.asarray(a), w.shape) for a in (grid.scale, grid.top, grid.nearest, grid.fixed))
    scale, top, nearest, fixed = (_by_group(a, groups) for a in by_channel)
    q = column_by_column(_by_group(np.asarray(w, np.float64), groups), hessian, scale, top, nearest, fixed)
    return _from_groups(q, w.shape, groups)


def column_by_column(
    w: np.ndarray, hessian: np.ndarray, scale: np.ndarray, top: np.ndarray, nearest: np.ndarray, fixed: np.ndarray
) -> np.ndarray:
    """The integers of kernels [groups, inputs, outputs], whose inputs have second moments [groups, inputs, inputs].

    The other arguments have the kernels' shape: scales, largest magnitudes, the integers of the weights that are
    `fixed`. Inputs are taken by falling second moment, so that the last ones, whose errors nothing takes, matter least.
    """
    w, q = w.copy(), np.zeros_like(w)
    inputs = w.shape[1]
    diagonal = np.diagonal(hessian, axis1=1, axis2=2)
    damped = hessian + (DAMPING * diagonal.mean(1) + np.finfo(np.float32).tiny)[:, None, None] * np.eye(inputs)
    order = np.argsort(-diagonal.sum(0), kind="stable")
    upper = np.swapaxes(np.linalg.cholesky(np.linalg.inv(damped[:, order][:, :, order])), 1, 2)
    for step, i in enumerate(order):
        q[:, i] = np.where(fixed[:, i], nearest[:, i], np.clip(np.rint(w[:, i] / scale[:, i]), -top[:, i], top[:, i]))
        error = (w[:, i] - q[:, i] * scale[:, i]) / upper[:, step, step, None]
        w[:, order[step + 1 :]] -= upper[:, step, step + 1 :, None] * error[:, None, :]
    return q


# --- kernels and inputs as matrices ---------------------------------------------------------------------------------


def _groups(op: Op, shape: tuple[int, ...], channels: int) -> int:
    return 1 if op.kind == "FULLY_CONNECTED" else channels // shape[-2]


def _by_group(w: Any, groups: int) -> np.ndarray:
    """[..., in, groups * out] to [groups, in * taps, out], inputs outermost, as patches have them."""
    *taps, inner, outer = w.shape
    split = np.moveaxis(np.asarray(w).reshape(int(np.prod(taps, initial=1)), inner, groups, outer // groups), 2, 0)
    return np.swapaxes(split, 1, 2).reshape(groups, -1, outer // groups)


def _from_groups(q: np.ndarray, shape: tuple[int, ...], groups: int) -> np.ndarray:
    """The inverse of `_by_group`."""
    *_, inner, outer = shape
    split = np.swapaxes(q.reshape(groups, inner, -1, outer // groups), 1, 2)
    return np.moveaxis(split, 0, 2).reshape(shape)


def _moments(op: Op, x: jax.Array, shape: tuple[int, ...], groups: int) -> jax.Array:
    """The sum of x x^T over the positions of the output, [groups, inputs, inputs]."""
    rows = jnp.asarray(x, jnp.float32)
    if op.kind != "FULLY_CONNECTED":
        rows = jax.lax.conv_general_dilated_patches(
            rows, shape[:2], op.attrs["stride"], op.attrs["padding"], rhs_dilation=op.attrs["dilation"],
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )  # fmt: skip
    rows = rows.reshape(-1, groups, rows.shape[-1] // groups)
    return jnp.einsum("rgi,rgj->gij", rows, rows)
