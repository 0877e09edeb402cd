"""Schemes: which numbers of a gradient share a scale, and how the scale is found. One row of `SCHEMES` each.

With `g` the gradient of y, `levels` 127 or 7, and Q(g; s) = s clip(round(g / s), -levels, levels):

- "tensor": one scale, `s = max|g| / levels`, rounded to nearest (the baseline of Zhu et al. 2020, section 3).
- "tensor-sr": the same with stochastic rounding.
- "row": for dX a scale for each example (of a matrix product, each row), for dW one for each output channel: every
  axis that the product does not sum over may have its own (AQT; torchao's int8 mixed precision).
- "unified": one scale, `s = c / levels`, c the clip of least `d = 1 - cos(g, Q(g; s))` (Zhu et al. 2020, section 3.3).
- "adaptive": for dX one scale; for dW one for each output channel, from its distribution (Zhao et al. 2021).

A scheme's state is a dictionary of arrays. "unified": `clip` [2], the clips of dX and dW in units of the root mean
square of the gradient (0: not yet found); `deviation` [], d of dW. "adaptive": `channel` [output channels], the moving
average of max|g| (0: not yet found); `deviation` []. The others have none.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax.numpy as jnp
from jax import Array

from jaxq.gradients.deviation import deviations
from jaxq.gradients.geometry import Geometry
from jaxq.gradients.integers import SMALLEST, largest, scale_for, scale_of

State = dict[str, Array]

# Sites of state are told from parameters by this key.
DEVIATION = "deviation"

# Clips tried at a step, times the last one: hill climbing, O(1). Down fast, up slowly: a spike of one batch is clipped.
CANDIDATES = (0.5, 0.9, 1.0, 1.1)

# Zhao et al. 2021: a channel is Gaussian where P(|g| > sigma) > 0.3; else the average moves by k A = 0.8.
GAUSSIAN_SHARE = 0.3
AVERAGE = 0.8


class Scales(NamedTuple):
    """The scales of the gradient for dX and for dW, each with y's number of axes, and the state after this step."""

    for_input: Array
    for_weight: Array
    state: State


# (gradient for dX, gradient for dW, geometry, levels, state) -> scales
Find = Callable[[Array, Array, Geometry, int, State], Scales]


class Scheme(NamedTuple):
    """start(channels): the state before the first step, of an output with axes of channels of these sizes. find: the
    scales. stochastic: the rounding.
    """

    start: Callable[[Sequence[int]], State]
    find: Find
    stochastic: bool


def _nothing(channels: Sequence[int]) -> State:
    return {}


def _per_tensor(gx: Array, gw: Array, shape: Geometry, top: int, state: State) -> Scales:
    return Scales(scale_of(gx, range(gx.ndim), top), scale_of(gw, range(gw.ndim), top), state)


def _per_row(gx: Array, gw: Array, shape: Geometry, top: int, state: State) -> Scales:
    rows = [a for a in range(gx.ndim) if a not in shape.example_axes]
    columns = [a for a in range(gw.ndim) if a not in shape.channel_axes]
    return Scales(scale_of(gx, rows, top), scale_of(gw, columns, top), state)


def _unified_start(channels: Sequence[int]) -> State:
    return {"clip": jnp.zeros((2,), jnp.float32), DEVIATION: jnp.zeros((), jnp.float32)}


def _unified(gx: Array, gw: Array, shape: Geometry, top: int, state: State) -> Scales:
    clip_x, scale_x, _ = _searched(gx, state["clip"][0], top)
    clip_w, scale_w, found = _searched(gw, state["clip"][1], top)
    return Scales(scale_x, scale_w, {"clip": jnp.stack([clip_x, clip_w]), DEVIATION: found})


def _searched(g: Array, clip: Array, top: int) -> tuple[Array, Array, Array]:
    """The best clip near the last one in root mean squares of g, its scale, and its deviation."""
    bound = largest(g, range(g.ndim))
    rms = jnp.maximum(jnp.sqrt(jnp.mean(jnp.square(g))), SMALLEST)
    most = bound.reshape(()) / rms
    clip = jnp.where(clip > 0, jnp.minimum(clip, most), most)
    tried = jnp.minimum(jnp.asarray(CANDIDATES, jnp.float32) * clip, most)
    scales = [scale_for(c * rms, top).reshape((1,) * g.ndim) for c in tried]
    found = deviations(g, scales, top)
    best = jnp.argmin(found)
    return tried[best], jnp.stack(scales)[best], found[best]


def _adaptive_start(channels: Sequence[int]) -> State:
    return {"channel": jnp.zeros(tuple(channels), jnp.float32), DEVIATION: jnp.zeros((), jnp.float32)}


def _adaptive(gx: Array, gw: Array, shape: Geometry, top: int, state: State) -> Scales:
    axes = tuple(a for a in range(gw.ndim) if a not in shape.output_channels)
    bound = largest(gw, axes)
    gaussian = jnp.mean(jnp.abs(gw) > jnp.std(gw, axes, keepdims=True), axes, keepdims=True) > GAUSSIAN_SHARE
    last = state["channel"].reshape(bound.shape)
    moved = jnp.where(last > 0, (1 - AVERAGE) * last + AVERAGE * bound, bound)
    bound = jnp.where(gaussian, bound, moved)
    scale = scale_for(bound, top)
    turned = deviations(gw, [scale], top)[0]
    found = {"channel": bound.reshape(state["channel"].shape), DEVIATION: turned}
    return Scales(scale_of(gx, range(gx.ndim), top), scale, found)


SCHEMES: dict[str, Scheme] = {
    "adaptive": Scheme(_adaptive_start, _adaptive, stochastic=True),
    "row": Scheme(_nothing, _per_row, stochastic=True),
    "tensor": Scheme(_nothing, _per_tensor, stochastic=False),
    "tensor-sr": Scheme(_nothing, _per_tensor, stochastic=True),
    "unified": Scheme(_unified_start, _unified, stochastic=True),
}
