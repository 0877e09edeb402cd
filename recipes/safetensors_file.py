"""The safetensors format: eight bytes of length, a JSON header of types, shapes and places, the numbers.

https://github.com/huggingface/safetensors#format. Nothing in such a file can run.
"""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np

from jaxq.errors import WeightsError

DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I8": "|i1", "U8": "|u1", "BOOL": "|b1"}


def read_safetensors(data: bytes) -> dict[str, np.ndarray]:
    """Every tensor by its name, as views of `data`. Raises WeightsError for what is no such file."""
    size = int.from_bytes(data[:8], "little")
    try:
        header = json.loads(data[8 : 8 + size])
        body = memoryview(data)[8 + size :]
        return {name: _tensor(body, **entry) for name, entry in header.items() if name != "__metadata__"}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as e:
        raise WeightsError(f"Not a safetensors file: {e}. Is it cut short? Fetch it again.") from e


def _tensor(body: memoryview, dtype: str, shape: list[int], data_offsets: list[int]) -> Any:
    first, end = data_offsets
    numbers = np.frombuffer(body[first:end], DTYPES[dtype])
    if not 0 <= first <= end <= len(body) or numbers.size != math.prod(shape):
        raise ValueError(f"a tensor of shape {shape} lies at the bytes {first} to {end} of {len(body)}")
    return numbers.reshape(shape)
