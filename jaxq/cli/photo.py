"""A photo as the input of a file: cut and scaled to the input's size, then by the embedded normalization."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import numpy as np

from jaxq.errors import InputError
from jaxq.export.io_formulas import described, formula, prepared
from jaxq.export.metadata import Metadata, completed
from jaxq.export.program import Program, describe
from jaxq.recipes.pictures import read_picture

MODES = {"RGB": "RGB", "GRAYSCALE": "L"}
FROM, TO = 8, 7  # the shorter side becomes 8/7 of the input's (256 for 224), then the middle is cut out


def file_inputs(text: str, program: Program, metadata: Metadata) -> list[np.ndarray]:
    """The one input of a file, in its type, from the photo at the path `text`. A uint8 input without a normalization
    takes the pixels as they are. Raises InputError, and ExportError for metadata that is not the file's.
    """
    tensor = program.tensors[program.inputs[0]]
    if len(program.inputs) != 1 or len(tensor.shape) != 4 or tensor.shape[0] != 1:
        count = len(program.inputs)
        raise InputError(f"The file has {count} inputs, the first {describe(tensor)}; a photo is [1, h, w, channels].")
    (said,) = completed(dataclasses.replace(metadata, outputs=()), program).inputs
    pixels = photo(pathlib.Path(text), MODES[said.color], tensor.shape[1], tensor.shape[2])
    if tensor.dtype == "uint8" and not said.mean:
        return [pixels]
    (entry,) = described([formula(tensor.name, tensor)], [said])
    return [prepared(pixels, entry)]


def photo(path: pathlib.Path, mode: str, height: int, width: int) -> np.ndarray:
    """Pixels uint8 [1, height, width, channels] of a photo, as a viewer shows it. Raises InputError for a file that is
    none, and for one that is too large.
    """
    image = read_picture(path, mode)
    return np.asarray(_middle(image, height, width), np.uint8).reshape(1, height, width, -1)


def _middle(image: Any, height: int, width: int) -> Any:
    """The middle of a PIL image, scaled so that it fills the input with 1/16 more at both ends."""
    from PIL import Image

    factor = FROM / TO * max(width / image.width, height / image.height)
    scaled = round(image.width * factor), round(image.height * factor)
    left, top = (scaled[0] - width) // 2, (scaled[1] - height) // 2
    return image.resize(scaled, Image.Resampling.BILINEAR).crop((left, top, left + width, top + height))
