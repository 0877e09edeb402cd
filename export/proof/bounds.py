"""How large the int32 accumulator of each contraction can become, for any input: a bound from the shipped integers."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxq.export.lowering.frozen import Frozen
from jaxq.graph import Op
from jaxq.ops import OPS
from jaxq.ops.contract import EXACT


def accumulator_bounds(frozen: Frozen) -> dict[str, dict[str, Any]]:
    """By the name of each op that forms sums of products, the largest magnitude that its accumulator can take.

    Of weights it is the maximum over output channels of what the worst input makes of them: with carriers in [a, b],
    a <= 0 <= b, and P and N the sums of the channel's positive and negative weights, `max(b P + a N, -(a P + b N))`,
    plus the bias. Of two activations it is the number of products times the largest carriers. Every partial sum, in
    whatever order, is within it. Sums are exact for every input whatever it is: below 2^24 one float32 sum, above that
    in parts (`jaxq.ops.contract`).

    Returns:
      By name: `bound`; `terms`, the products in one sum; `exceeds_float32`, whether the bound passes 2^24; `proven`,
      True where the bound holds in int32, below 2^31.
    """
    products = [op for op in frozen.plan.graph.ops if op.kind in OPS and OPS[op.kind].product]
    return {op.name: _entry(*_bound(frozen, op)) for op in products if _has_integers(frozen, op)}


def _has_integers(frozen: Frozen, op: Op) -> bool:
    how = frozen.plan.arithmetic[op.name]
    return not how.is_float or how.dynamic is not None


def _entry(bound: int, terms: int) -> dict[str, Any]:
    return {"bound": bound, "terms": terms, "exceeds_float32": bound > EXACT, "proven": bound < 2**31}


def _bound(frozen: Frozen, op: Op) -> tuple[int, int]:
    if not OPS[op.kind].weights:
        (a_low, a_high), (b_low, b_high) = (_carriers(frozen, v) for v in op.inputs)
        terms = frozen.plan.graph.avals[op.inputs[0]].shape[-1]
        return terms * max(-a_low, a_high) * max(-b_low, b_high), terms
    kernel, (low, high) = frozen.kernels[op.name], _carriers(frozen, op.inputs[0])
    q = kernel.q.astype(np.int64).reshape(-1, kernel.q.shape[-1])
    positive, negative = np.maximum(q, 0).sum(axis=0), np.minimum(q, 0).sum(axis=0)
    largest = np.maximum(high * positive + low * negative, -(low * positive + high * negative))
    bias = np.abs(kernel.bias.astype(np.int64)) if not frozen.plan.arithmetic[op.name].is_float else 0
    return int(np.max(largest + bias, initial=0)), math.prod(kernel.q.shape[:-1])


def _carriers(frozen: Frozen, value: int) -> tuple[int, int]:
    """The least and the greatest carrier of an operand; of a constant or of what is quantized as it runs, any."""
    group = frozen.plan.group(value)
    if group is None:
        return -255, 255
    zero_point = frozen.parameters[group.name][1]
    return group.scheme.qmin - zero_point, group.scheme.qmax - zero_point
