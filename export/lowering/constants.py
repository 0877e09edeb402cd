"""Constants that are no kernels: operands, and the tables of functions that TFLite has no op for."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.graph import Op
from jaxq.numerics.rounding import carrier_bounds, quantize
from jaxq.ops import OPS, Spec
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Plan
from jaxq.simulate.weights import quantized_operand

Scales = Mapping[str, tuple[np.float32, int]]


@dataclasses.dataclass(frozen=True, eq=False)
class Operand:
    """A constant operand. q: int8, with one scale and zero point; or integers and booleans by nature, scale 0."""

    q: np.ndarray
    scale: np.float32 = np.float32(0)
    zero_point: int = 0


def operands_of(plan: Plan, op: Op, env: Mapping[int, Any], scales: Scales) -> Iterator[tuple[int, Operand]]:
    """The constant operands of an op that is no contraction, with their positions."""
    spec = OPS[op.kind]
    for i, value in enumerate(op.inputs):
        if value in plan.graph.activations or spec.weights:
            continue
        if i in spec.plain or not jnp.issubdtype(plan.graph.avals[op.outputs[0]].dtype, jnp.floating):
            yield i, Operand(np.asarray(env[value], plan.graph.avals[value].dtype))
        elif not spec.raw:
            grid = _grid(plan, scales, op.outputs[0])
            yield i, _operand(spec, np.asarray(env[value], np.float32), *grid, plan.arithmetic[op.name].bits)


def _operand(spec: Spec, real: np.ndarray, scale: np.float32, zero_point: int, bits: int) -> Operand:
    """A constant in integers, given the grid of the op's output: on that grid where the op copies integers, else on a
    scale of its own, symmetric.
    """
    if spec.scales != "same":
        carrier = quantized_operand(real, scale, bits)
        return Operand(np.asarray(carrier.q).astype(f"int{bits}"), np.float32(carrier.scale))
    low, high = carrier_bounds(jnp.float32(zero_point), bits)
    steps = np.asarray(quantize(jnp.asarray(real), jnp.float32(scale), low, high))
    return Operand(np.asarray(steps + zero_point).astype(f"int{bits}"), scale, zero_point)


def table_of(plan: Plan, op: Op, env: Mapping[int, Any], scales: Scales) -> np.ndarray:
    """`clip(round(f(s_x (q - z_x)) / s_y) + z_y)` for every int8 q: the training forward's own rule, run on each.

    The op is a TABLE, or another function of each number alone. int8 (256,), or bool for a function that says yes or
    no. Raises ExportError where it is no number at all; where it is none at some inputs (the square root of what is
    negative), these get the entry of the nearest that has one.
    """
    x_scale, x_zero = _grid(plan, scales, op.inputs[0])
    boolean = plan.group(op.outputs[0]) is None
    scale, zero = (np.float32(1), 0) if boolean else _grid(plan, scales, op.outputs[0])
    x = Carrier(_every_code(plan, op) - x_zero, jnp.float32(x_scale), jnp.float32(x_zero))
    numbers = [jnp.asarray(env[v]) for v in op.inputs[1:]]
    steps = _filled(op, np.concatenate([_steps(op, x._replace(q=q), numbers, scale) for q in x.q])[:256])
    if boolean:
        return steps != 0
    return np.clip(np.rint(np.clip(steps, -512, 512)) + zero, -128, 127).astype(np.int8)


def _every_code(plan: Plan, op: Op) -> jax.Array:
    """-128 ... 127 in blocks of the shape that the function was recorded at."""
    shape = plan.graph.avals[op.inputs[0]].shape
    return jnp.asarray(np.resize(np.arange(-128, 128), (-(-256 // math.prod(shape)), *shape)), jnp.float32)


def _steps(op: Op, x: Carrier, numbers: Sequence[jax.Array], scale: np.float32) -> np.ndarray:
    rule = OPS[op.kind].step
    assert rule is not None
    return np.asarray(rule(op, x, *numbers, scale=jnp.float32(scale), zero_point=jnp.float32(0))).reshape(-1)


def _filled(op: Op, steps: np.ndarray) -> np.ndarray:
    known = np.flatnonzero(~np.isnan(steps))
    if not len(known):
        raise ExportError(
            f"{op.name} ({'+'.join(op.attrs.get('of', [op.kind]))}, {op.source}) is not a number for any input in its "
            "input's range. Did training diverge? Restore the last good checkpoint."
        )
    nearest = known[np.argmin(np.abs(np.arange(len(steps))[:, None] - known), axis=1)]
    return steps[nearest]


def _grid(plan: Plan, scales: Scales, value: int) -> tuple[np.float32, int]:
    group = plan.group(value)
    assert group is not None
    return scales[group.name]
