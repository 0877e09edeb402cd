"""Weights that are a function of their names and shapes: the same in other packages' networks and in ours, no download.

NumPy alone, for `tests/golden/make_network_logits.py` imports it beside PyTorch.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence

import numpy as np


def made(name: str, shape: Sequence[int]) -> np.ndarray:
    """float32. Kernels have variance 1 / fan-in, so that activations neither vanish nor grow; scales lie near 1."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var"):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) > 1:
        return (rng.standard_normal(shape) * math.sqrt(2 / math.prod(shape[1:]))).astype(np.float32)
    noise = 0.1 * rng.standard_normal(shape)
    return (noise + (name.endswith("weight"))).astype(np.float32)


def all_made(shapes: Mapping[str, Sequence[int]]) -> dict[str, np.ndarray]:
    """Of every array of a network."""
    return {name: made(name, shape) for name, shape in shapes.items()}


def images() -> np.ndarray:
    """float32 [2, 64, 64, 3]."""
    return np.random.default_rng(0).standard_normal((2, 64, 64, 3)).astype(np.float32)


def sentences() -> tuple[np.ndarray, np.ndarray]:
    """Token ids int64 and mask, [2, 7]: the second sentence is shorter."""
    mask = np.arange(7) < np.array([[7], [4]])
    return np.random.default_rng(0).integers(1, 90, (2, 7)) * mask, mask
