"""What calibration data must be: finite, and masks of zeros and ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.errors import CalibrationError
from jaxq.frontends.call import is_key
from jaxq.frontends.gathered import gathered
from jaxq.graph import Graph
from jaxq.graph.masks import INDICATOR


def refuse_soft_masks(index: int, graph: Graph, arrays: Sequence[Any]) -> None:
    """Raise CalibrationError for numbers beside 0 and 1 in an input that is taken for a mask."""
    for op in graph.ops:
        for i in _inputs_behind(graph, op.inputs[0]) if op.attrs.get(INDICATOR) else ():
            others = np.setdiff1d(gathered(arrays[i]).astype(np.float64), (0, 1))
            others = others[np.isfinite(others)]
            if others.size:
                raise CalibrationError(
                    f"Calibration batch {index}: input {i} ({graph.ends[0][i]}) holds {others[0]:g}, and the model "
                    f"adds it to scores as a mask, a number of -1e4 or less for one of 0 and 1 ({op.source}). The file "
                    "selects by it, which is the same for zeros and ones alone. Give zeros and ones, or add a bounded "
                    "bias instead, such as jnp.maximum(bias, -30)."
                )


def _inputs_behind(graph: Graph, value: int) -> set[int]:
    """The numbers of the inputs that a value is made of."""
    made = {v: op for op in graph.ops for v in op.outputs}
    if value in graph.inputs:
        return {graph.inputs.index(value)}
    return {i for v in (made[value].inputs if value in made else ()) for i in _inputs_behind(graph, v)}


def refuse_non_finite(index: int, arrays: Sequence[Any], extremes: Mapping[str, Any]) -> None:
    """Raise CalibrationError for NaN and infinity, in the data or in what the float model makes of it.

    Args:
      index: of the batch.
      arrays: its inputs.
      extremes: by range, [min, max] of the batch.
    """
    for i, array in enumerate(arrays):
        if is_key(array):
            continue
        bad = int(np.size(array) - np.count_nonzero(np.isfinite(gathered(array).astype(np.float32))))
        if bad:
            raise CalibrationError(
                f"Calibration batch {index}: input {i} holds {bad} of {np.size(array)} values that are NaN or "
                "infinite. Clean the data; a range learnt from it would be meaningless."
            )
    for name, pair in extremes.items():
        if not np.all(np.isfinite(np.asarray(pair))):
            raise CalibrationError(
                f"Calibration batch {index}: {name} becomes {np.asarray(pair)} in the float model, though its input "
                "is finite. Check the model's weights for NaN."
            )
