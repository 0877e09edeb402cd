"""The network as a whole: how far its outputs on integers are from a float reference's, and ranges anew."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.analyze.diff import decibels
from jaxq.calibration import calibrated
from jaxq.plan.plan import Plan
from jaxq.ptq.setting import Setting
from jaxq.simulate.forward import simulate
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.reals import reals


def noise(settings: Sequence[Setting], reference: Sequence[Any]) -> list[dict[str, float]]:
    """Of each setting of one plan the SQNR of each output in dB, `10 log10(sum r^2 / sum (r - q)^2)`, r of the float
    reading of the reference.
    """
    powers = jax.jit(functools.partial(_powers, settings[0].plan))
    return [_sqnr(powers, setting, reference) for setting in settings]


def _sqnr(powers: Any, setting: Setting, reference: Sequence[Any]) -> dict[str, float]:
    sums = [powers(setting.leaves, list(reference), setting.ranges, list(arrays)) for arrays in setting.data]
    total = {name: np.sum([np.asarray(s[name], np.float64) for s in sums], axis=0) for name in sums[0]}
    return {name: decibels(*map(float, pair)) for name, pair in total.items()}


def _powers(plan: Plan, leaves: Sequence[Any], reference: Sequence[Any], ranges: Ranges, arrays: Sequence[Any]) -> Any:
    """Of one chunk, by output: the sum of r^2 and of (r - q)^2."""
    graph, floats = plan.graph, reals(plan, reference, arrays)
    found = {}
    for value, ours in zip(graph.outputs, simulate(plan, leaves, ranges, arrays), strict=True):
        if value in graph.activations and jnp.issubdtype(ours.dtype, jnp.floating):
            r = floats[value].astype(jnp.float32)
            error = r - ours.astype(jnp.float32)
            found[graph.site_names[value]] = (jnp.sum(r * r), jnp.sum(error * error))
    return found


def recalibrated(setting: Setting) -> Setting:
    """With ranges that the parameters at hand have on the examples."""
    params = jax.tree.unflatten(jax.tree.structure(setting.bound.params), setting.leaves)
    bound = setting.bound._replace(params=params)
    core = bound.core
    batches = []
    for arrays in setting.data:
        args, kwargs = core.with_arrays(arrays)
        batches.append((*args, kwargs) if kwargs else args)
    return dataclasses.replace(setting, ranges=calibrated(bound, batches, False))
