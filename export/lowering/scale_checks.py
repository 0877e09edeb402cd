"""Scales that kernels abort on, or for which they change their arithmetic: refused by site."""

from __future__ import annotations

import math

import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.wide import POWERS, powers_of_two
from jaxq.export.lowering.frozen import Frozen
from jaxq.graph import Op

# The advice where nothing is known of the cause; `to_tflite` gives calibration's findings in its place.
CALIBRATE_AGAIN = "One of the ranges is far too wide or too narrow: calibrate again, on typical data."


def check_scales(frozen: Frozen, op: Op) -> None:
    """Raise ExportError for scales of an op's operands and result that its kernels do not take."""
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
