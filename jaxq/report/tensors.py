"""The numbers of a file's tensors: histograms of what was computed, extents of what is constant."""

from __future__ import annotations

import numpy as np

from jaxq.export.operators import CONTRACTIONS
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.report.document import Channels, Histogram

BINS = 64  # of a histogram
MOST_CHANNELS = 1024  # of a chart; of more, the ones of greatest extent


def histogram(tensor: Tensor, values: np.ndarray) -> Histogram | None:
    """Counts of a tensor's numbers in at most `BINS` bins; None where it holds nothing that can be counted.

    Args:
      tensor: of the file.
      values: what it held, in the file's type, of any shape.
    """
    if (
        not values.size
        or values.dtype.kind not in "iuf"
        or (values.dtype.kind == "f" and not np.isfinite(values).all())
    ):
        return None
    if values.dtype.kind == "f" or not per_tensor(tensor.quantization):
        return _of_floats(np.asarray(values, np.float64))
    return _of_integers(tensor, values)


def per_tensor(quantization: Quantization | None) -> bool:
    """Whether one scale and zero point say what the integers mean."""
    return quantization is not None and quantization.scale.size == 1


def _of_floats(values: np.ndarray) -> Histogram:
    low, high = float(values.min()), float(values.max())
    counts, edges = np.histogram(values, BINS, (low, high if high > low else low + 1.0))
    return Histogram(low, float(edges[1] - edges[0]), tuple(counts.tolist()), None, None, (low, high))


def _of_integers(tensor: Tensor, values: np.ndarray) -> Histogram:
    """Bins of whole steps, over the extent that was seen, so that no bin holds more integers than another."""
    assert tensor.quantization is not None
    scale, zero = float(tensor.quantization.scale[0]), int(tensor.quantization.zero_point[0])
    low, high = int(values.min()), int(values.max())
    steps = -(-(high - low + 1) // BINS)
    counts = np.bincount((values.reshape(-1).astype(np.int64) - low) // steps)
    limits = np.iinfo(values.dtype)
    ends = (float(np.mean(values == end)) for end in (limits.min, limits.max))
    return Histogram(
        (low - zero - 0.5) * scale, steps * scale, tuple(counts.tolist()), *ends,
        seen=((low - zero) * scale, (high - zero) * scale),
    )  # fmt: skip


def channels(program: Program, op: Operator) -> Channels | None:
    """The extent of an operator's weights in each output channel; None where it has no quantized weights."""
    if op.kind not in CONTRACTIONS:
        return None
    index = op.inputs[CONTRACTIONS[op.kind].weights]
    tensor = program.tensors[index] if index >= 0 else None
    if tensor is None or tensor.data is None or tensor.quantization is None or not tensor.data.size:
        return None
    q = tensor.quantization
    if not q.scale.size or tensor.dtype not in ("int4", "int8", "int16"):
        return None
    axis = q.axis if q.per_channel else CONTRACTIONS[op.kind].axis
    rows = np.moveaxis(tensor.data, axis, 0).reshape(tensor.data.shape[axis], -1)
    scale = np.broadcast_to(q.scale, len(rows)).astype(np.float64)
    low, high = rows.min(1) * scale, rows.max(1) * scale
    limit = {"int4": 7, "int8": 127, "int16": 32767}[tensor.dtype] * scale
    order = np.sort(np.argsort(-np.maximum(-low, high), kind="stable")[:MOST_CHANNELS])
    return Channels(*(tuple(numbers[order].tolist()) for numbers in (low, high, limit)))
