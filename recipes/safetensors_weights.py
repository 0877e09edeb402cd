"""Weights in the safetensors format, read by the package of that name. Nothing in such a file can run."""

from __future__ import annotations

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from jaxq.errors import WeightsError


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Every tensor of a safetensors file by its name.

    Args:
      data: the bytes of the file.

    Returns:
      Arrays in the file's shapes and dtypes.

    Raises:
      WeightsError: the bytes are not such a file, or a part of one.
    """
    try:
        return load(data)
    except (SafetensorError, KeyError, TypeError) as e:  # the last two: a dtype that numpy does not have
        raise WeightsError(f"Not a safetensors file: {e}. Is it cut short? Fetch it again.") from e
