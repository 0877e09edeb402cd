"""From ranges and weights to integers: every scale, zero point, kernel and bias that the file will hold.

The integers come out of the same functions, in the same order, as in the training forward (`jaxq.simulate.weights`,
`jaxq.simulate.qparams`). What kernels cannot compute exactly, or would abort on, is refused here by site.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.errors import ExportError, RangeError
from jaxq.export.evaluate.kernels.wide import POWERS, powers_of_two
from jaxq.export.lowering.constants import Operand, Scales, operands_of, table_of
from jaxq.frontends.call import is_key
from jaxq.frontends.ranges import check_ranges
from jaxq.graph import Equation, Graph, Op, with_ones
from jaxq.numerics.rounding import SMALLEST_SCALE
from jaxq.ops import OPS
from jaxq.plan.plan import Group, Plan
from jaxq.plan.target import target_named
from jaxq.simulate.qparams import qparams
from jaxq.simulate.weights import float_kernel, integer_bias, quantized_weight, traced, weight_values

# Ratios of scales are bounded operator by operator, and products and sums of scales must be finite in float32 too.
LARGEST_SCALE = 2.0**64

# The advice where nothing is known of the cause; `to_tflite` gives calibration's findings in its place.
CALIBRATE_AGAIN = "One of the ranges is far too wide or too narrow: calibrate again, on typical data."


@dataclasses.dataclass(frozen=True, eq=False)
class Kernel:
    """An op's integer weights.

    q: int8 in the op's canonical layout. scale: float32 (channels,). bias: int32 (channels,). Of an op on floats: q is
    float32, float16 or int8, the bias float32; floats have no scale, (0,).
    """

    q: np.ndarray
    scale: np.ndarray
    bias: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Frozen:
    """A plan with all its numbers. parameters: (float32 scale, zero point) by group. tables: of each op that is written
    as one, the output integer of every input integer from -128 on, int8 (256,).
    """

    plan: Plan
    parameters: Mapping[str, tuple[np.float32, int]]
    kernels: Mapping[str, Kernel]
    operands: Mapping[tuple[str, int], Operand]
    tables: Mapping[str, np.ndarray]

    def of(self, value: int) -> tuple[np.float32, int]:
        """Scale and zero point of an activation."""
        group = self.plan.group(value)
        assert group is not None
        return self.parameters[group.name]


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
            _check_scales(frozen, op)
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


def host_weights(graph: Graph, params: Sequence[Any]) -> dict[int, Any]:
    """Every weight value as a numpy array, bit for bit as training computes it.

    What rounds once (a product, a sum of two, a quotient, a root) is the same in numpy; the rest (sums, functions) JAX
    computes, one equation at a time. No program is compiled for the whole of a model's weights, which would take
    seconds.
    """

    def run(eq: Equation, arguments: Sequence[Any]) -> Sequence[Any]:
        if eq.primitive == "weight":
            return eq.call(*arguments)
        if eq.primitive in HOST:
            return [HOST[eq.primitive](graph.avals[eq.outputs[0]].shape, eq.params, *arguments)]
        return [np.asarray(out) if not is_key(out) else out for out in traced(eq, arguments)]

    constants = {v: np.asarray(c, graph.avals[v].dtype) for v, c in graph.constants.items()}
    host = dataclasses.replace(graph, constants=constants)
    return weight_values(host, [np.asarray(p) if not is_key(p) else p for p in params], run)


def _broadcast(shape: tuple[int, ...], params: Mapping[str, Any], a: np.ndarray) -> np.ndarray:
    return np.broadcast_to(a.reshape(with_ones(params, a.shape)), shape)


def _quotient(shape: tuple[int, ...], params: Mapping[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a / b if jnp.issubdtype(a.dtype, jnp.floating) else np.asarray(lax.div(a, b))  # of integers towards zero


# Primitives of which each resulting number is rounded once: numpy and XLA agree in every bit.
HOST: dict[str, Callable[..., Any]] = {
    "add": lambda shape, params, a, b: a + b,
    "broadcast_in_dim": _broadcast,
    "div": _quotient,
    "expand_dims": lambda shape, params, a: a.reshape(shape),
    "mul": lambda shape, params, a, b: a * b,
    "neg": lambda shape, params, a: -a,
    "reshape": lambda shape, params, a: a.reshape(shape),
    "rsqrt": lambda shape, params, a: np.float32(1.0) / np.sqrt(a),
    "sqrt": lambda shape, params, a: np.sqrt(a),
    "squeeze": lambda shape, params, a: a.reshape(shape),
    "sub": lambda shape, params, a, b: a - b,
    "transpose": lambda shape, params, a: a.transpose(params["permutation"]),
}


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


# --- scales that kernels cannot take --------------------------------------------------------------------------------


def _check_scales(frozen: Frozen, op: Op) -> None:
    if frozen.plan.arithmetic[op.name].is_int16:
        _check_wide(frozen, op)
        return
    if op.kind in {"ADD", "SUB"}:
        for name, ratio in _ratios(frozen, op):
            _within(op, f"scale of {name} / scale of the output", ratio, 2.0**-10, 2.0**8)
    elif op.kind == "MUL":
        (_, a), (_, b) = _operand_scales(frozen, op)
        _within(
            op,
            "product of the input scales / scale of the output",
            a * b / float(frozen.of(op.outputs[0])[0]),
            2.0**-16,
            2.0**8,
        )
    elif op.kind == "HARD_SWISH":
        x, y = frozen.of(op.inputs[0])[0], frozen.of(op.outputs[0])[0]
        _within(op, "scale of the input / 128 / scale of the output", float(x) / 128 / float(y), 0.0, 1.0)
        _within(op, "scale of the input", float(x), 0.0, 1536.0)  # 255 * 128 shifted by its exponent passes 2^31
    elif op.name in frozen.kernels:
        x, y = frozen.of(op.inputs[0])[0], frozen.of(op.outputs[0])[0]
        ratios = (x * frozen.kernels[op.name].scale) / y
        _within(op, "greatest scale of a product / scale of the output", float(np.max(ratios)), 2.0**-32, 2.0**8)
    for name, operand in frozen.plan.requantized:
        if name == op.name:
            ratio = float(frozen.of(op.inputs[operand])[0]) / float(frozen.of(op.outputs[0])[0])
            _within(op, "scale before / scale after requantization", ratio, 2.0**-8, 2.0**7)


def _check_wide(frozen: Frozen, op: Op) -> None:
    """Of activations of 16 bits: int32 sums must not overflow, multipliers stay below 1."""
    if op.kind in {"ADD", "SUB", "MEAN"}:
        y = float(frozen.of(op.outputs[0])[0])
        scales = (
            _operand_scales(frozen, op)[:2] if op.kind != "MEAN" else [("its input", float(frozen.of(op.inputs[0])[0]))]
        )
        for name, scale in scales:
            _within(op, f"scale of {name} / scale of the output", scale / y, 2.0**-10, 2.0**10)
        low, high = min(s for _, s in scales), max(s for _, s in scales)
        _within(op, "greater scale / smaller scale of its operands", high / low, 1.0, 2.0**13)
    elif op.kind == "MUL":
        (_, a), (_, b) = _operand_scales(frozen, op)
        ratio = a * b / float(frozen.of(op.outputs[0])[0])
        reach = math.prod(_reach(frozen, v) for v in op.inputs)
        _within(op, "product of the input scales / scale of the output", ratio, 2.0**-28, max(1.0, 2.0**30 / reach))
    elif op.kind in {"LOGISTIC", "TANH", "SOFTMAX"}:
        scale = frozen.of(op.inputs[0])[0]
        _within(op, "scale of the input", float(scale), 2.0**-24, 1.0)
        _refuse_power_of_two(op, scale)
    elif op.name in frozen.kernels:
        kernel, (x, _), (y, _) = frozen.kernels[op.name], frozen.of(op.inputs[0]), frozen.of(op.outputs[0])
        ratios = np.asarray(x * kernel.scale / y, np.float64)
        _within(op, "greatest scale of a product / scale of the output", float(np.max(ratios)), 2.0**-30, 2.0**7)
        products = np.sum(np.abs(kernel.q.astype(np.float64)), tuple(range(kernel.q.ndim - 1)))
        _refuse_overflow(op, _reach(frozen, op.inputs[0]) * products + np.abs(kernel.bias), ratios)


def _refuse_power_of_two(op: Op, scale: np.float32) -> None:
    """LiteRT computes a LOGISTIC and a TANH of some scales by other kernels."""
    if op.kind in POWERS and powers_of_two(scale) in POWERS[op.kind]:
        raise ExportError(
            f"{op.name} ({op.kind}, {op.source}): the scale of its input, {scale:.7g}, lies within 0.07 per cent of "
            f"2^{powers_of_two(scale)}, where LiteRT has a kernel of its own that is off by up to ten steps. Widen the "
            f"range by a per cent, or give the site 8 bits: Rule({op.name!r}, activation_bits=8)."
        )


def _reach(frozen: Frozen, value: int) -> float:
    """The greatest magnitude of an operand of an op of 16 bits: of 8 bits that were widened, 255."""
    group = frozen.plan.group(value)
    return 255.0 if group is not None and group.derived is not None else 32768.0


def _refuse_overflow(op: Op, worst: np.ndarray, ratios: np.ndarray) -> None:
    """A sum that int32 cannot hold, where it is in reach: at less than four times the output's range."""
    bad = (worst * np.maximum(1.0, 2.0 * ratios) >= 2.0**31) & ((ratios * 2.0**31 < 4 * 32768.0) | (ratios >= 0.5))
    if np.any(bad):
        channel = int(np.argmax(bad))
        raise ExportError(
            f"{op.name} ({op.kind}, {op.source}): the sum of int16 by int8 of channel {channel} may reach "
            f"{worst[channel]:.4g}; int32 holds 2,147,483,647. Give the site 8 bits: "
            f"Rule({op.name!r}, activation_bits=8)."
        )


def _operand_scales(frozen: Frozen, op: Op) -> list[tuple[str, float]]:
    names = frozen.plan.graph.site_names
    return [
        (names.get(v, "the constant"), float(frozen.operands[op.name, i].scale if v not in names else frozen.of(v)[0]))
        for i, v in enumerate(op.inputs)
    ]


def _ratios(frozen: Frozen, op: Op) -> list[tuple[str, float]]:
    out = float(frozen.of(op.outputs[0])[0])
    return [(name, scale / out) for name, scale in _operand_scales(frozen, op)]


def _within(op: Op, what: str, ratio: float, low: float, high: float) -> None:
    if not low <= ratio < high:
        span = f"[2^{math.log2(low):.0f}, {high:g})" if low else f"below {high:g}"
        raise ExportError(
            f"{op.name} ({op.kind}, {op.source}): {what} is {ratio:.4g}, outside {span}; TFLite's kernels abort or "
            f"change their arithmetic there. {CALIBRATE_AGAIN}"
        )
