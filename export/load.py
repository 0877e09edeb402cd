"""A TFLite file as a JAX function."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Callable
from typing import Any

from jaxq.errors import FormatError
from jaxq.export.evaluate import evaluate
from jaxq.export.flatbuffer.read import read
from jaxq.export.program import Program

LARGEST_FILE = 1 << 31  # bytes; a flatbuffer's offsets end there


def load_program(path: str | os.PathLike[str]) -> Program:
    """Read and check a .tflite file. Raises FormatError, also for a file that cannot be read."""
    target = pathlib.Path(path)
    try:
        if target.stat().st_size >= LARGEST_FILE:
            raise FormatError(f"{target} has {target.stat().st_size:,} bytes; a TFLite file has less than 2 GiB.")
        return read(target.read_bytes())
    except OSError as e:
        raise FormatError(f"Cannot read {target}: {e.strerror}.") from e
    except FormatError as e:
        raise FormatError(f"{target}: {e}") from e


def load(path: str | os.PathLike[str], *, family: str = "xnnpack") -> Callable[..., Any]:
    """The deployed numerics of a .tflite file as a jittable, vmappable JAX function of its inputs, in their own dtypes.

    family: "xnnpack" (LiteRT's default on phones), "reference" or "tflm" (TFLite Micro). Returns a tuple of outputs.
    Raises FormatError, and ExportError for an operator that the family lacks.
    """
    return evaluate(load_program(path), family)
