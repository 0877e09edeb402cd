"""From ranges and weights to integers: every scale, zero point, kernel and bias that the file will hold.

The integers come out of the same functions, in the same order, as in the training forward (`jaxq.simulate.weights`,
`jaxq.simulate.qparams`). What kernels cannot compute exactly, or would abort on, is refused here by site.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError, RangeError
from jaxq.export.lowering.constants import Operand, Scales, operands_of, table_of
from jaxq.export.lowering.frozen import Frozen, Kernel
from jaxq.export.lowering.host_weights import host_weights
from jaxq.export.lowering.scale_checks import check_scales
from jaxq.frontends.ranges import check_ranges
from jaxq.graph import Op
from jaxq.numerics.rounding import SMALLEST_SCALE
from jaxq.ops import OPS
from jaxq.plan.plan import Group, Plan
from jaxq.plan.target import target_named
from jaxq.simulate.qparams import qparams
from jaxq.simulate.weights import float_kernel, integer_bias, quantized_weight

# Ratios of scales are bounded operator by operator, and products and sums of scales must be finite in float32 too.
LARGEST_SCALE = 2.0**64


def freeze(
    plan: Plan, params: Sequence[Any], ranges: Mapping[str, Mapping[str, jax.Array]], plans: Iterable[Plan] = ()
) -> Frozen:
    """Integers for a plan; `plans` as in `check_ranges`. Raises RangeError and ExportError, naming the site."""
    check_ranges(plan, ranges, plans)
    with np.errstate(all="ignore"):  # numbers that are not finite are refused by name below
        return _frozen(plan, params, ranges)


def _frozen(plan: Plan, params: Sequence[Any], ranges: Mapping[str, Mapping[str, jax.Array]]) -> Frozen:
    env = host_weights(plan.graph, params)
    if plan.recipe.floats:
        host_ranges = jax.tree.map(np.asarray, {n: dict(r) for n, r in ranges.items()})
        return _floating(plan, env, host_ranges, plan.graph.ops)
    scales = {name: _parameters(group, *qparams(group, ranges, env, plan)) for name, group in plan.groups.items()}
    host_ranges = jax.tree.map(np.asarray, {n: dict(r) for n, r in ranges.items()})
    kernels = _kernels(plan, env, host_ranges, scales)
    tables = target_named(plan.recipe.target).tables | {"TABLE"}
    live = [op for op in plan.graph.ops if op.name not in plan.islands]
    floating = _floating(plan, env, host_ranges, [op for op in plan.graph.ops if op.name in plan.islands])
    operands = {(op.name, i): constant for op in live for i, constant in operands_of(plan, op, env, scales)}
    frozen = Frozen(
        plan,
        scales,
        kernels | dict(floating.kernels),
        operands | dict(floating.operands),
        {op.name: table_of(plan, op, env, scales) for op in live if op.kind in tables},
    )
    for op in plan.graph.ops:
        if op.name not in plan.islands:
            check_scales(frozen, op)
    return frozen


def _floating(plan: Plan, env: Mapping[int, Any], ranges: Any, ops: Sequence[Op]) -> Frozen:
    """Ops whose activations are floats: weights as they are stored, constants in float32."""
    weighted = [op for op in ops if op.kind in OPS and OPS[op.kind].weights]
    operands = {
        (op.name, i): _float_operand(plan, op, i, np.asarray(env[v]))
        for op in ops
        for i, v in enumerate(op.inputs)
        if v not in plan.graph.activations and op not in weighted
    }
    return Frozen(plan, {}, {op.name: _float_kernel(plan, op, env, ranges) for op in weighted}, operands, {})


def _float_kernel(plan: Plan, op: Op, env: Mapping[int, Any], ranges: Any) -> Kernel:
    w, bias = (np.asarray(env[v], np.float32) for v in op.inputs[1:])
    if not (np.all(np.isfinite(w)) and np.all(np.isfinite(bias))):
        raise ExportError(f"The weights of {op.name} are not finite. Did training diverge? Restore a checkpoint.")
    if op.name in plan.weights:
        site = plan.weight_site(op)
        trained = None if site is None else ranges[site]
        kernel = float_kernel(w, plan.weights[op.name], trained)
        return Kernel(np.asarray(kernel.q, np.int8), np.asarray(kernel.scale, np.float32), bias)
    return Kernel(_half(op, w) if plan.storage.get(op.name) == "float16" else w, np.zeros(0, np.float32), bias)


def _half(op: Op, w: np.ndarray) -> np.ndarray:
    """Weights in float16. Raises ExportError for one that is too large."""
    if np.any(np.abs(w) > np.finfo(np.float16).max):
        raise ExportError(
            f"The weights of {op.name} reach {np.max(np.abs(w)):.4g}; float16 holds 65,504. Store them in float32."
        )
    return w.astype(np.float16)


def _float_operand(plan: Plan, op: Op, index: int, array: np.ndarray) -> Operand:
    """A constant of an op on floats: the table of an EMBEDDING as the plan stores it."""
    if index != 1 or op.name not in plan.storage:
        return Operand(_float32(array))
    if not np.all(np.isfinite(array)):
        raise ExportError(f"The table of {op.name} is not finite. Did training diverge? Restore a checkpoint.")
    if plan.storage[op.name] == "float16":
        return Operand(_half(op, array))
    table = float_kernel(array.astype(np.float32), plan.embeddings[op.name], None)
    return Operand(np.asarray(table.q, np.int8), np.float32(table.scale[0]))


def _float32(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32) if jnp.issubdtype(array.dtype, jnp.floating) else array


def _kernels(plan: Plan, env: Mapping[int, Any], ranges: Any, scales: Scales) -> dict[str, Kernel]:
    """Kernels one by one: all of them as the floats that hold their integers would be another copy of the model."""
    weighted = [op for op in plan.graph.ops if op.name in plan.weights]
    return {
        op.name: _kernel(op.name, *_kernel_numbers(plan, op, env, ranges, scales[_group_name(plan, op.inputs[0])][0]))
        for op in weighted
    }


def _kernel_numbers(plan: Plan, op: Op, env: Mapping[int, Any], ranges: Any, x_scale: np.float32) -> tuple[Any, ...]:
    w, bias = (np.asarray(env[v], np.float32) for v in op.inputs[1:])
    site = plan.weight_site(op)
    trained = None if site is None else ranges[site]
    kernel = quantized_weight(w, bias, plan.weights[op.name], x_scale, trained, plan.arithmetic[op.name].largest_bias)
    return kernel.q, kernel.scale, integer_bias(bias, x_scale * kernel.scale)


def _group_name(plan: Plan, value: int) -> str:
    group = plan.group(value)
    assert group is not None
    return group.name


def _parameters(group: Group, scale: Any, zero_point: Any) -> tuple[np.float32, int]:
    scale, zero_point = np.asarray(scale), np.asarray(zero_point)
    if not np.isfinite(scale) or not np.isfinite(zero_point):
        raise RangeError(
            f"{group.name} has scale {scale} and zero point {zero_point}: not finite. Calibrate, or lower the rate."
        )
    if scale <= 2 * SMALLEST_SCALE:
        raise RangeError(f"{group.name} has scale {scale:.3g}: a range of no width. Calibrate again (overwrite=True).")
    if scale > LARGEST_SCALE:
        raise RangeError(
            f"{group.name} has scale {scale:.3g}: kernels take up to {LARGEST_SCALE:.2g}, and abort at some beyond. "
            "Is it a mask that is added? Select instead: jnp.where(mask, x, -1e9)."
        )
    return np.float32(scale), int(zero_point)


def _kernel(name: str, q: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> Kernel:
    if not (np.all(np.isfinite(q)) and np.all(np.isfinite(scale)) and np.all(np.isfinite(bias))):
        raise ExportError(
            f"The weights of {name} or their scales are not finite. Did training diverge? Restore the last good "
            "checkpoint."
        )
    worst = float(np.max(np.abs(bias), initial=0.0))
    if worst >= 2.0**31:
        channel = int(np.argmax(np.abs(bias)))
        raise ExportError(
            f"The bias of {name}, channel {channel}, is {worst:.4g} steps of its scale; int32 holds 2,147,483,647. "
            "The weights of that channel are almost zero beside its bias. Prune the channel, or give the weight a "
            "learned scale."
        )
    return Kernel(q.astype(np.int8), scale.astype(np.float32), bias.astype(np.int32))
