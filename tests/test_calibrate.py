"""Calibration is one pass over data of any length, in memory that does not grow with it."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

import jaxq

BATCH = (64, 28, 28, 1)  # 200 kB of float32; what the convolution makes of it is four times that
COUNT = 24


def _model() -> nnx.Module:
    rngs = nnx.Rngs(0)
    return nnx.Sequential(nnx.Conv(1, 4, (3, 3), rngs=rngs), jax.nn.relu, nnx.Linear(4, 2, rngs=rngs))


@pytest.mark.parametrize("calibration", ["minmax", "percentile"])
def test_memory_does_not_grow_with_the_number_of_batches(calibration: str) -> None:
    recipe: Any = {"activations": {"calibration": calibration}}
    qmodel = jaxq.quantize(_model(), recipe, np.zeros(BATCH, np.float32))
    held = []

    def batches() -> Iterator[np.ndarray]:
        rng = np.random.default_rng(0)
        for _ in range(COUNT):
            gc.collect()
            held.append((sum(a.nbytes for a in jax.live_arrays()), tracemalloc.get_traced_memory()[0]))
            yield rng.normal(size=BATCH).astype(np.float32)

    tracemalloc.start()
    jaxq.calibrate(qmodel, batches(), progress=False)
    tracemalloc.stop()
    (device, host), (later_device, later_host) = held[3], held[-1]  # 3: all is compiled
    assert later_device == device
    assert abs(later_host - host) < np.prod(BATCH)  # a quarter of the bytes of one batch


def test_an_array_is_read_as_batches_of_examples() -> None:
    x = np.random.default_rng(0).normal(size=(70, 3)).astype(np.float32)
    whole, parts, stacked = (jaxq.quantize(nnx.Linear(3, 2, rngs=nnx.Rngs(0)), "int8", x[:1]) for _ in range(3))
    jaxq.calibrate(whole, x, progress=False)
    jaxq.calibrate(parts, [x[:64], x[64:]], progress=False)
    jaxq.calibrate(stacked, x.reshape(7, 10, 3), progress=False)
    for other in (parts, stacked):
        jax.tree.map(np.testing.assert_array_equal, whole.pure_ranges(), other.pure_ranges())
