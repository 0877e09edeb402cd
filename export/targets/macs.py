"""Multiplications with addition (MACs) of each operator, for one run of the program in its own shapes."""

from __future__ import annotations

import math

from jaxq.export.lint.view import read_at, written
from jaxq.export.operators import CONTRACTIONS
from jaxq.export.program import Operator, Program


def macs(program: Program, op: Operator) -> int:
    """The MACs of an operator: of convolutions, dense layers and products of matrices; 0 for all others.

    A convolution has one for each output and tap, padded taps included; a transposed one for each input and tap.
    0 also where shapes are missing or do not fit, as in files that break the rules.
    """
    x, y = read_at(program, op), written(program, op)
    if op.kind == "BATCH_MATMUL" and x is not None and y is not None and len(x.shape) >= 2:
        depth = x.shape[-2] if op.options.get("adj_x") else x.shape[-1]
        return math.prod(y.shape) * depth
    if op.kind not in CONTRACTIONS:
        return 0
    at = CONTRACTIONS[op.kind]
    x, weights = read_at(program, op, at.x), read_at(program, op, at.weights)
    if x is None or y is None or weights is None or not weights.shape:
        return 0
    if op.kind == "DEPTHWISE_CONV_2D":
        return math.prod(y.shape) * math.prod(weights.shape[:-1])
    if op.kind == "TRANSPOSE_CONV":
        return math.prod(x.shape[:-1]) * math.prod(weights.shape)
    return math.prod(y.shape) * math.prod(weights.shape[1:])
