"""Masks: booleans that select between numbers."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from jaxq.graph import arithmetic
from jaxq.graph.builder import Builder
from jaxq.graph.ir import MASK, Equation


def logical_and(builder: Builder, eq: Equation) -> bool:
    """LOGICAL_AND of masks; with one that is true throughout, the other."""
    true = [builder.view.scalar(v) == 1.0 for v in eq.inputs]
    if builder.avals[eq.outputs[0]].dtype != np.bool_:
        return False
    if any(true):
        other, shape = builder.resolve(eq.inputs[true.index(True) - 1]), builder.shape(eq.outputs[0])
        if builder.shape(other) != shape:
            other = builder.op("BROADCAST_TO", (other,), {"shape": shape}, eq.source, shape=shape)
        builder.becomes(eq.outputs[0], other)
        return True
    builder.op("LOGICAL_AND", arithmetic.unbroadcast_pair(builder, eq), {}, eq.source, outputs=eq.outputs)
    return True


def select(builder: Builder, eq: Equation) -> bool:
    """SELECT by a mask that is a constant, an input, or a table of booleans."""
    if len(eq.inputs) != 3 or builder.avals[eq.inputs[0]].dtype != np.bool_:
        return False
    if not jnp.issubdtype(builder.avals[eq.outputs[0]].dtype, jnp.floating):
        return False
    condition, otherwise, then = eq.inputs
    masked = any(abs(builder.view.scalar(v) or 0.0) >= MASK for v in (otherwise, then))
    if condition in builder.dynamic:
        condition = builder.resolve(arithmetic.unbroadcast(builder, condition, eq.source))
        spread = builder.made.get(condition)
        condition = spread.inputs[0] if spread is not None and spread.kind == "BROADCAST_TO" else condition
    attrs = {"masked": True} if masked else {}
    builder.op("SELECT", (condition, then, otherwise), attrs, eq.source, outputs=eq.outputs)
    return True
