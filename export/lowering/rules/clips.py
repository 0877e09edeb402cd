"""Clips: activations that TFLite fuses, and bounds that it has no name for."""

from __future__ import annotations

from collections.abc import Container

import numpy as np

from jaxq.export.lowering.writer import Writer
from jaxq.graph import Op, clip_name

FUSED = frozenset({"NONE", "RELU", "RELU6", "RELU_N1_TO_1"})


def clipped(w: Writer, op: Op, fused: Container[str] = FUSED) -> tuple[str, list[int]]:
    """The activation to fuse, and the tensors to write: two where a clip that TFLite cannot fuse has to follow."""
    name = clip_name(op.attrs.get("activation"))
    value = op.outputs[0]
    if name in fused or not _bites(w, value, op.attrs["activation"]):
        return (name if name in fused else "NONE"), [w.activation(value)]
    return "NONE", [w.activation(value, ":unclipped"), value]


def _bites(w: Writer, value: int, bounds: tuple[float, float]) -> bool:
    if w.frozen.plan.group(value) is None:
        return True
    return bool(_clip_steps(w, value, bounds))


def integer_bounds(
    bounds: tuple[float, float], scale: np.float32, zero_point: int, limits: tuple[int, int] = (-128, 127)
) -> tuple[int, int]:
    """Real bounds as stored integers: `z + round(bound / s)`, ties away from zero, inside `limits`."""

    def step(bound: float) -> float:
        if np.isinf(bound):
            return bound
        ratio = np.float32(bound) / scale
        return float(np.sign(ratio) * np.floor(np.abs(np.float64(ratio)) + 0.5)) + zero_point

    low, high = (float(np.clip(step(b), *limits)) for b in bounds)
    return int(low), int(high)


def clip_after(w: Writer, tensors: list[int], op: Op, bounds: tuple[float, float]) -> None:
    """MAXIMUM and MINIMUM with constants, where the second entry of `tensors` is the graph value still to write."""
    if len(tensors) == 2:
        _emit_clip(w, op, tensors[0], tensors[1], bounds)


def _emit_clip(w: Writer, op: Op, source: int, value: int, bounds: tuple[float, float]) -> None:
    steps = _clip_steps(w, value, bounds)
    for i, (kind, q) in enumerate(steps):
        last = i == len(steps) - 1
        out = w.activation(value) if last else w.activation(value, ":floored")
        like = w.like(value, f"{op.name}:{kind.lower()}", (1,))
        constant = w.constant(like.name, np.full((1,), q, like.dtype), like.quantization)
        w.emit(kind, [source, constant], [out])
        source = out
    if not steps:
        w.tensor_of[value] = source


def _clip_steps(w: Writer, value: int, bounds: tuple[float, float]) -> list[tuple[str, float]]:
    """MAXIMUM and MINIMUM with their constants, without those that change nothing."""
    if w.frozen.plan.group(value) is None:
        return [(k, v) for k, v in zip(("MAXIMUM", "MINIMUM"), bounds, strict=True) if np.isfinite(v)]
    info = np.iinfo(w.integer(value))
    low, high = integer_bounds(bounds, *w.frozen.of(value), (info.min, info.max))
    steps = (("MAXIMUM", low, low > info.min), ("MINIMUM", high, high < info.max))
    return [(kind, float(q)) for kind, q, bites in steps if bites]


def clip(w: Writer, op: Op) -> None:
    """MAXIMUM and MINIMUM with constants."""
    _emit_clip(w, op, w.tensor_of[op.inputs[0]], op.outputs[0], (op.attrs["low"], op.attrs["high"]))
