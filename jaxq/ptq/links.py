"""Ops in a row between which a factor of a channel can move: an op with weights, what passes a positive factor on, and
the ops with weights that read it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.assign import computed
from jaxq.graph import Graph, Op
from jaxq.plan.plan import Plan
from jaxq.ptq.setting import Setting
from jaxq.simulate.reals import reals

RELU, RELU6 = (0.0, math.inf), (0.0, 6.0)
# What passes a positive factor of a channel on, with the last axis for the channels.
PASSING = frozenset({"AVERAGE_POOL_2D", "MAX_POOL_2D", "MEAN", "PAD", "RELU", "RESHAPE"})
READING = frozenset({"AFFINE", "CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"})

Weights = dict[int, np.ndarray]


class Link(NamedTuple):
    """An op whose output channels are input channels of others, and these.

    reach: by channel, the largest number behind a ReLU6 on the examples, over the largest of the kernel; None without a
    ReLU6.
    """

    first: Op
    readers: tuple[Op, ...]
    reach: np.ndarray | None = None


def linked(setting: Setting) -> list[Link]:
    """Every op with weights whose output is read by ops with weights alone, through what passes a factor on."""
    plan, graph = setting.plan, setting.plan.graph
    found = []
    for op in setting.weighted:
        readers = _readers(graph, op.outputs[0], graph.avals[op.outputs[0]].shape[-1:])
        bounds = op.attrs.get("activation")
        gives = op.kind in {*READING, "TRANSPOSE_CONV"} and bounds in (None, RELU, RELU6)
        if gives and readers and all(r.name in plan.weights and _takes(r, plan) for r in readers):
            found.append(Link(op, tuple(readers)))
    return _with_reach(setting, found)


def _with_reach(setting: Setting, links: Sequence[Link]) -> list[Link]:
    clipped = [link.first.outputs[0] for link in links if link.first.attrs.get("activation") == RELU6]
    weights, most = weights_of(setting, setting.leaves, links), channel_extremes(setting, clipped)
    found = []
    for link in links:
        range_ = out_range(link.first, weights)
        reach = None if link.first.outputs[0] not in most else most[link.first.outputs[0]] / np.maximum(range_, 1e-30)
        found.append(link._replace(reach=reach))
    return found


def _readers(graph: Graph, value: int, channels: tuple[int, ...]) -> list[Op] | None:
    """The ops with weights that read a value; None where anything else does, an output of the network among them."""
    if value in graph.outputs:
        return None
    found: list[Op] = []
    for op in graph.consumers(value):
        if op.kind in READING and op.inputs[0] == value:
            found.append(op)
        elif op.kind in PASSING and _passes(graph, op, channels):
            behind = _readers(graph, op.outputs[0], channels)
            if behind is None:
                return None
            found += behind
        else:
            return None
    return found


def _passes(graph: Graph, op: Op, channels: tuple[int, ...]) -> bool:
    """Whether the last axis keeps the channels, each by itself, and nothing is clipped above."""
    last = len(graph.avals[op.inputs[0]].shape) - 1
    whole = op.kind != "MEAN" or last not in op.attrs["axes"]
    activation = op.attrs.get("activation")
    free = activation in (None, RELU) or op.kind == "RELU"
    return whole and free and graph.avals[op.outputs[0]].shape[-1:] == channels


def _takes(op: Op, plan: Plan) -> bool:
    """Whether the op's kernel has an axis, or the last, for its input's channels."""
    shape = plan.graph.avals[op.inputs[1]].shape
    channels = plan.graph.avals[op.inputs[0]].shape[-1]
    if op.kind in ("AFFINE", "DEPTHWISE_CONV_2D"):
        return shape[-1] == channels
    return op.kind == "FULLY_CONNECTED" or (op.attrs["groups"] == 1 and shape[-2] == channels)


def values_of(link: Link) -> list[int]:
    """The kernels and biases of a link: those of the first op, the kernels of its readers."""
    return [*link.first.inputs[1:], *(op.inputs[1] for op in link.readers)]


def weights_of(setting: Setting, leaves: Sequence[Any], links: Sequence[Link]) -> Weights:
    """The kernels and biases of all links, computed from these parameters."""
    values = tuple(dict.fromkeys(v for link in links for v in values_of(link)))
    return {v: np.asarray(a, np.float64) for v, a in computed(setting.plan.graph, values, tuple(leaves)).items()}


def channel_extremes(setting: Setting, values: Sequence[int]) -> dict[int, np.ndarray]:
    """The largest magnitude of each channel of activations, in the float reading."""
    if not values:
        return {}

    @jax.jit
    def largest(leaves: Any, arrays: Any) -> dict[int, Any]:
        found = reals(setting.plan, leaves, arrays)
        return {v: jnp.max(jnp.abs(found[v].reshape(-1, found[v].shape[-1])), 0) for v in values}

    each = [largest(setting.leaves, list(arrays)) for arrays in setting.data]
    return {v: np.max([np.asarray(e[v], np.float64) for e in each], axis=0) for v in values}


def out_range(op: Op, weights: Weights) -> np.ndarray:
    """By output channel, the largest magnitude of an op's kernel."""
    w = weights[op.inputs[1]]
    return np.abs(w).max(tuple(range(w.ndim - 1)))
