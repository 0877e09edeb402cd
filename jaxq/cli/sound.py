"""A WAV file as the input of a file: MFCC where the manifest says how, else the samples themselves."""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from jaxq.errors import InputError
from jaxq.export.io_formulas import formula, quantized
from jaxq.export.program import Program, Tensor, describe
from jaxq.recipes.mfcc import FrontEnd, front_end
from jaxq.recipes.sounds import of_length
from jaxq.recipes.wav import Sound, read_wav


class Heard(NamedTuple):
    """The one input of a file, in its type, and what was done to the sound, in words."""

    inputs: list[np.ndarray]
    said: str


def file_inputs(path: pathlib.Path, file: pathlib.Path, program: Program, manifest: Mapping[str, Any] | None) -> Heard:
    """The input of a file from a WAV file: the mean of its channels, its middle or with silence on both sides.

    Args:
      path: the WAV file.
      file: the .tflite file, for messages.
      program: the same, read.
      manifest: of the file. Its `preprocess` is the front end; without one the file takes samples in [-1, 1).

    Raises: InputError where the sound cannot be read, has another rate than the front end, or the file takes no sound.
    """
    tensor = program.tensors[program.inputs[0]]
    said = (manifest or {}).get("preprocess")
    if said is None:
        length = _samples_of(file, program, tensor)
        sound = read_wav(path)
        real, rate = of_length(sound.samples, length), f"{sound.rate:,} samples a second, which nothing checks"
    else:
        made, sound = _front_end(file, said, program, tensor), read_wav(path)
        _check_rate(path, sound, made.sizes.rate)
        length, rate = made.sizes.samples, f"{sound.rate:,} samples a second"
        real = made.inputs(of_length(sound.samples, length)[None])
    entry = formula(tensor.name, tensor)
    return Heard([quantized(real.reshape(tensor.shape), entry)], f"{rate}; {_fitted(sound, length)}")


def _front_end(file: pathlib.Path, said: Any, program: Program, tensor: Tensor) -> FrontEnd:
    """The front end of the manifest. Raises InputError where it is none that jaxq has, or not this file's."""
    try:
        made = front_end(said)
    except InputError as e:
        raise InputError(
            f"The manifest {file.with_suffix('.json')}: {e} Compute the input, and give it as .npy."
        ) from e
    count = made.sizes.frames * made.sizes.coefficients
    if len(program.inputs) != 1 or int(np.prod(tensor.shape)) != count:
        raise InputError(
            f"{file} has {len(program.inputs)} inputs, the first {describe(tensor)}; its manifest's `preprocess` makes "
            f"one of {made.sizes.frames} frames of {made.sizes.coefficients} coefficients. Export the file again."
        )
    return made


def _samples_of(file: pathlib.Path, program: Program, tensor: Tensor) -> int:
    """How many samples a file takes that has no front end. Raises InputError where it takes none."""
    shape = tensor.shape[:-1] if len(tensor.shape) == 3 and tensor.shape[-1] == 1 else tensor.shape
    numbers = tensor.dtype.startswith("float") or "scale" in formula(tensor.name, tensor)
    if len(program.inputs) == 1 and numbers and len(shape) in (1, 2) and (len(shape) == 1 or shape[0] == 1):
        return shape[-1]
    raise InputError(
        f"{file} takes {', '.join(describe(program.tensors[i]) for i in program.inputs)}, and no manifest beside it "
        "says how this is made of sound; samples themselves are taken by one input [1, samples]. Keep the manifest "
        f"that jaxq train recipes/keyword_spotting wrote beside the file, as {file.with_suffix('.json').name}, or "
        "compute the input, and give it as .npy."
    )


def _check_rate(path: pathlib.Path, sound: Sound, rate: int) -> None:
    if sound.rate != rate:
        raise InputError(
            f"{path} has {sound.rate:,} samples a second; the network was trained on {rate:,}. Convert it: "
            f"ffmpeg -i IN.wav -ar {rate} OUT.wav"
        )


def _fitted(sound: Sound, length: int) -> str:
    """What `of_length` did."""
    count = len(sound.samples)
    if count == length:
        return f"all {count:,} samples"
    if count > length:
        return f"the middle {length:,} of {count:,} samples"
    return f"all {count:,} samples, with silence on both sides up to {length:,}"
