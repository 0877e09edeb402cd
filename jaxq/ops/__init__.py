"""The op catalogue: for each op its float meaning, its integer arithmetic, and what it demands of its scales.

`OPS` is the one table. `scales` is "free" (the output has a scale of its own), "same" (all activations in and out
share one: the kernel copies integers), or a fixed `(scale, zero_point)` that TFLite prescribes for the output.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxq.ops import compute, steps


@dataclasses.dataclass(frozen=True)
class Spec:
    """One row. `step` is None where the float meaning, run on carriers, is already the integer one.

    weights: the inputs after the first are a kernel and a bias. raw: they are numbers that reach the step as they are,
    not integers. table: within one step, not exact.
    """

    compute: Callable[..., Any]
    step: Callable[..., Any] | None = None
    scales: str | tuple[float, int] = "same"
    weights: bool = False
    raw: bool = False
    table: bool = False


_CONV, _DENSE, _AFFINE = (steps.contraction(f) for f in (compute.conv_2d, compute.fully_connected, steps.multiply))

# Sorted. The steps of contractions take the carrier dtype first.
OPS: dict[str, Spec] = {
    "ADD": Spec(compute.add, steps.add, "free"),
    "AFFINE": Spec(compute.affine, _AFFINE, "free", weights=True),
    "AVERAGE_POOL_2D": Spec(compute.average_pool_2d, steps.average_pool_2d),
    "CLIP": Spec(compute.clip, steps.clip),
    "CONCATENATION": Spec(compute.concatenation),
    "CONV_2D": Spec(compute.conv_2d, _CONV, "free", weights=True),
    "DEPTHWISE_CONV_2D": Spec(compute.conv_2d, _CONV, "free", weights=True),
    "DROPOUT": Spec(compute.dropout),
    "FAKE_QUANT": Spec(compute.fake_quantized, steps.identity, raw=True),
    "FULLY_CONNECTED": Spec(compute.fully_connected, _DENSE, "free", weights=True),
    "HARD_SWISH": Spec(compute.hard_swish, steps.table(compute.hard_swish), "free", table=True),
    "LOGISTIC": Spec(compute.logistic, steps.table(compute.logistic), (1 / 256, -128), table=True),
    "MAX_POOL_2D": Spec(compute.max_pool_2d),
    "MEAN": Spec(compute.mean, steps.mean, "free"),
    "MUL": Spec(compute.mul, steps.mul, "free"),
    "PAD": Spec(compute.pad),
    "RELU": Spec(compute.clip, steps.clip),
    "RELU6": Spec(compute.clip, steps.clip),
    "RELU_N1_TO_1": Spec(compute.clip, steps.clip),
    "RESHAPE": Spec(compute.reshape),
    "SLICE": Spec(compute.slice_),
    "SOFTMAX": Spec(compute.softmax, steps.table(compute.softmax), (1 / 256, -128), table=True),
    "SPLIT": Spec(compute.split),
    "STOP_GRADIENT": Spec(compute.stop_gradient),
    "STRIDED_SLICE": Spec(compute.strided_slice),
    "SUB": Spec(compute.sub, steps.sub, "free"),
    "TABLE": Spec(compute.table, steps.table(compute.table), "free", raw=True, table=True),
    "TANH": Spec(compute.tanh, steps.table(compute.tanh), (1 / 128, 0), table=True),
    "TRANSPOSE": Spec(compute.transpose),
}
