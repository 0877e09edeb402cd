"""Equalization: a factor moves from one op's output channels into the next op's input channels.

    w1_i' = w1_i / s_i,   b1_i' = b1_i / s_i,   w2_i' = w2_i s_i

The network computes the same in floats, as long as what lies between passes a positive factor on: nothing, a ReLU, a
pool, a mean over the image. `equalize` takes s_i = sqrt(r1_i r2_i) / r2_i, which gives both kernels the range
sqrt(r1_i r2_i) in channel i (cross-layer equalization, Nagel et al. 2019, section 4.1); `smooth` takes s_i = max|x_i|^a
/ max|w2_i|^(1 - a), which moves outliers of activations into weights (SmoothQuant, Xiao et al. 2023).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.graph import Op
from jaxq.ptq.links import Link, Weights, channel_extremes, linked, out_range, values_of, weights_of
from jaxq.ptq.outputs import noise, recalibrated
from jaxq.ptq.report import Change, Report
from jaxq.ptq.setting import EXAMPLES, Done, Setting, run

OBJECTIVE = "greatest over least range of a channel"
SWEEPS = 40  # over all pairs; factors of a chain settle in about as many as it has links
SETTLED = 1e-4
CLIPPED, NEAR = 6 * (1 - 1e-6), 6 * (1 - 1e-4)  # what counts as reaching 6, and how near a factor may take a channel


def equalize(target: Any, batches: Any, *state: Any, reference: Any = None, examples: int = EXAMPLES) -> Any:
    """Give each channel of neighbouring kernels the same range: for weights with one scale a tensor.

    Ranges are calibrated anew on the same examples, for activations change with the factors. With a scale for each
    channel of the weights there is little to gain.

    A ReLU6 clips at 6 whatever the factor. A channel that reaches 6 on the examples keeps its factor 1, another gets
    one that keeps it below 6: exact on the examples, and no further.

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      reference: the float parameters that the outputs are compared with, by default those at hand.
      examples: at most how many examples are held in memory.

    Returns:
      A `Report` (NNX), `(variables, Report)` (Linen) or `(params, ranges, Report)` (function). Where the outputs are
      farther from the reference afterwards, parameters and ranges are as they were. `Report.reference` are the
      equalized float parameters: for a following pass, whose inner activations have these factors.

    Raises:
      InputError: no example, NaN, or the reference is of another model.
      RangeError: the model is not calibrated.

    Example:
      >>> jaxq.ptq.equalize(qmodel, images).name
      'equalize'
    """
    return run(equalized, target, batches, state, reference, examples)


def smooth(
    target: Any,
    batches: Any,
    *state: Any,
    alpha: float = 0.5,
    reference: Any = None,
    examples: int = EXAMPLES,
) -> Any:
    """Move outliers of activations into the weights that read them: for transformers, in front of dense layers.

    An op's output is smoothed where dense layers and convolutions alone read it: a LayerNorm's scale and shift in front
    of query, key and value, not one that a residual sum reads too.

    Args:
      target: what `jaxq.quantize` gave, calibrated. Of an NNX model the user's own parameters change.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these; no labels.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      alpha: in [0, 1], how much of the outliers moves: 0 levels the weights, 1 the activations.
      reference: the float parameters that the outputs are compared with, by default those at hand.
      examples: at most how many examples are held in memory.

    Returns:
      As `equalize`.

    Raises:
      As `equalize`.

    Example:
      >>> jaxq.ptq.smooth(qmodel, images, alpha=0.5).name
      'smooth'
    """
    return run(functools.partial(smoothed, alpha=alpha), target, batches, state, reference, examples)


def equalized(setting: Setting) -> Done:
    """The setting after cross-layer equalization."""
    links = [link for link in linked(setting) if len(link.readers) == 1]
    return _applied(setting, "equalize", links, _swept)


def smoothed(setting: Setting, alpha: float = 0.5) -> Done:
    """The setting after SmoothQuant."""
    links = [link for link in linked(setting) if any(op.kind == "FULLY_CONNECTED" for op in link.readers)]
    extremes = channel_extremes(setting, [op.inputs[0] for link in links for op in link.readers])
    return _applied(setting, "smooth", links, functools.partial(_smoothing, extremes, alpha))


def _applied(
    setting: Setting, name: str, links: Sequence[Link], factors: Callable[[Weights, Sequence[Link]], list[np.ndarray]]
) -> Done:
    """The setting with other factors, if its outputs on integers are the better for it."""
    refused = setting.refusals(list(dict.fromkeys(v for link in links for v in values_of(link))))
    free = [link for link in links if not any(v in refused for v in values_of(link))]
    found = factors(weights_of(setting, setting.leaves, free), free)
    findings = setting.bound.core.findings
    moved = recalibrated(dataclasses.replace(setting, leaves=_with_factors(setting, setting.leaves, free, found)))
    before, after = noise((setting, moved), setting.reference)
    better = bool(free) and sum(after.values()) > sum(before.values())
    if not better:
        setting.bound.core.findings, moved = findings, setting
    elif _same(setting.leaves, setting.reference):
        moved = dataclasses.replace(moved, reference=moved.leaves)
    else:
        moved = dataclasses.replace(moved, reference=_with_factors(setting, setting.reference, free, found))
    old, new = (weights_of(setting, leaves, links) for leaves in (setting.leaves, moved.leaves))
    shown = tuple(_change(link, old, new, refused, better) for link in links)
    sqnr = tuple((n, before[n], after[n] if better else before[n]) for n in before)
    return Done(moved, Report(name, OBJECTIVE, setting.examples, shown, sqnr=sqnr))


def _same(leaves: Sequence[Any], others: Sequence[Any]) -> bool:
    return all(a is b for a, b in zip(leaves, others, strict=True))


def _with_factors(
    setting: Setting, leaves: list[Any], links: Sequence[Link], factors: Sequence[np.ndarray]
) -> list[Any]:
    """Parameters with each link's factors moved."""
    weights = weights_of(setting, leaves, links)
    for link, s in zip(links, factors, strict=True):
        weights = _moved(weights, link, s)
    return dataclasses.replace(setting, leaves=leaves).assigned(weights).leaves


def _change(link: Link, before: Weights, after: Weights, refused: Mapping[int, str], better: bool) -> Change:
    why = next((refused[v] for v in values_of(link) if v in refused), "")
    spread = [_spread(link, weights) for weights in (before, after)]
    notes = [f"with {', '.join(op.name for op in link.readers)}"]
    if link.reach is not None:
        reached = link.reach * out_range(link.first, before) >= CLIPPED
        notes += [f"{int(np.sum(reached))} of {len(reached)} channels reach 6 and stay"]
    notes += [f"left alone. {why}"] if why else [] if better else ["kept: the outputs would be no better"]
    return Change(link.first.name, spread[0], spread[1], "; ".join(notes))


def _spread(link: Link, weights: Weights) -> float:
    """By how much the ranges of channels differ, over the op and those that read it."""
    found = [out_range(link.first, weights), *(_in_range(op, weights) for op in link.readers)]
    return max(float(r.max() / r[r > 0].min()) if np.any(r > 0) else 1.0 for r in found)


# --- factors --------------------------------------------------------------------------------------------------------


def _swept(weights: Weights, links: Sequence[Link]) -> list[np.ndarray]:
    """Factors of cross-layer equalization: all pairs in turn, again and again until no factor moves."""
    total = [np.ones(1) for _ in links]
    for _ in range(SWEEPS):
        largest = 0.0
        for i, link in enumerate(links):
            r1, r2 = out_range(link.first, weights), _in_range(link.readers[0], weights)
            alive = (r1 > 0) & (r2 > 0)
            s = _allowed(link, weights, np.where(alive, np.sqrt(r1 * r2) / np.where(alive, r2, 1), 1))
            weights, total[i] = _moved(weights, link, s), total[i] * s
            largest = max(largest, float(np.max(np.abs(np.log(s)), initial=0.0)))
        if largest < SETTLED:
            break
    return total


def _smoothing(
    extremes: Mapping[int, np.ndarray], alpha: float, weights: Weights, links: Sequence[Link]
) -> list[np.ndarray]:
    """Factors of SmoothQuant, of all readers of a tensor together."""
    found = []
    for link in links:
        x = np.max([extremes[op.inputs[0]] for op in link.readers], axis=0)
        w = np.max([_in_range(op, weights) for op in link.readers], axis=0)
        alive = (x > 0) & (w > 0)
        wanted = np.where(alive, x, 1) ** alpha / np.where(alive, w, 1) ** (1 - alpha)
        s = _allowed(link, weights, np.where(alive, wanted, 1))
        weights = _moved(weights, link, s)
        found.append(s)
    return found


def _allowed(link: Link, weights: Weights, wanted: np.ndarray) -> np.ndarray:
    """The factors allowed: behind a ReLU6 none that takes a channel to 6 that stays below it on the examples."""
    if link.reach is None:
        return wanted
    most = link.reach * out_range(link.first, weights)
    return np.where(most < CLIPPED, np.maximum(wanted, most / NEAR), 1)


def _moved(weights: Weights, link: Link, s: np.ndarray) -> Weights:
    """The weights with a factor 1/s in the first op's output channels and s in its readers' input channels."""
    _, w, bias = link.first.inputs
    found = weights | {w: weights[w] / s, bias: weights[bias] / s}
    for op in link.readers:
        found[op.inputs[1]] = found[op.inputs[1]] * _as_inputs(op, s, found[op.inputs[1]].ndim)
    return found


def _as_inputs(op: Op, s: np.ndarray, rank: int) -> np.ndarray:
    """Factors of input channels, to multiply a kernel with: its last axis but one, of one input a channel the last."""
    one = op.kind in ("AFFINE", "DEPTHWISE_CONV_2D")
    return s if one else s.reshape(*(1 for _ in range(rank - 2)), -1, 1)


def _in_range(op: Op, weights: Weights) -> np.ndarray:
    w = np.abs(weights[op.inputs[1]])
    if op.kind in ("AFFINE", "DEPTHWISE_CONV_2D"):
        return w.max(tuple(range(w.ndim - 1)))
    return w.max((*range(w.ndim - 2), w.ndim - 1))
