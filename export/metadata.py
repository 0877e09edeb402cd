"""TFLite metadata: what a file says of itself, for the apps that run it. Values, and their checks against a Program.

The metadata is a second flatbuffer in a buffer of the file; labels and vocabularies are text files in a zip archive
behind it. Standard readers (TensorFlow Lite Support's and MediaPipe's metadata, Android Studio) read both.
Source: https://github.com/tensorflow/tflite-support, tensorflow_lite_support/metadata/metadata_schema.fbs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from jaxq.errors import ExportError
from jaxq.export.flatbuffer.metadata_table import COLOR_SPACES
from jaxq.export.program import Program, Tensor, describe


@dataclasses.dataclass(frozen=True)
class TensorMetadata:
    """What one input or output means.

    Args:
      name: as apps show it; the tensor's own where empty.
      description: a sentence.
      mean: an input holds (pixel - mean) / std of pixels from 0 to 255, before it is quantized; one number for all
        channels, or one for each.
      std: see mean.
      color: "RGB" or "GRAYSCALE" where the input is an image of that order [1, h, w, c].
      labels: the names of the classes along the last axis of an output.
    """

    name: str = ""
    description: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    color: str = ""
    labels: tuple[str, ...] = dataclasses.field(default=(), repr=False)


@dataclasses.dataclass(frozen=True)
class Metadata:
    """What a file says of itself; every field may be left out.

    Attributes:
      name: of the model.
      description: a sentence or more.
      version: as the author counts.
      author: who made it.
      license: under which it may be used.
      inputs: one for each of the file's inputs, in their order, or none.
      outputs: the same of the outputs.
      vocabulary: the tokens of a BERT tokenizer (WordPiece) whose ids the inputs take; a token's id is its place.
    """

    name: str = ""
    description: str = ""
    version: str = ""
    author: str = ""
    license: str = ""
    inputs: tuple[TensorMetadata, ...] = ()
    outputs: tuple[TensorMetadata, ...] = ()
    vocabulary: tuple[str, ...] = dataclasses.field(default=(), repr=False)

    @staticmethod
    def image_classifier(
        labels: Sequence[str],
        mean: Sequence[float] = (0.0,),
        std: Sequence[float] = (1.0,),
        *,
        color: str = "RGB",
        name: str = "",
        description: str = "",
    ) -> Metadata:
        """Of a network with one image in and one score a class out: its class names, and the normalization
        (pixel - mean) / std that it was trained with, pixels from 0 to 255.

        Args:
          labels: the classes' names, in the order of the output's last axis.
          mean: in pixels, one number for all channels or one for each.
          std: in pixels, in the same form.
          color: "RGB" or "GRAYSCALE".
          name: of the model, as apps show it.
          description: a sentence.

        Returns:
          Metadata for `jaxq.export.to_tflite`.

        Example:
          >>> jaxq.export.Metadata.image_classifier(["cat", "dog"], (127.5,), (127.5,)).outputs[0].labels
          ('cat', 'dog')
        """
        image = TensorMetadata("image", "The image.", tuple(mean), tuple(std), color)
        scores = TensorMetadata("score", "A score for each class.", labels=tuple(labels))
        return Metadata(name, description, inputs=(image,), outputs=(scores,))


def completed(metadata: Metadata, program: Program) -> Metadata:
    """The metadata with a named entry for every input and output. Raises ExportError where it cannot be the file's."""
    inputs = _ends(metadata.inputs, program, program.inputs, "input")
    outputs = _ends(metadata.outputs, program, program.outputs, "output")
    for entry, index in zip(inputs, program.inputs, strict=True):
        _check_image(entry, program.tensors[index])
    for entry, index in zip(outputs, program.outputs, strict=True):
        _check_labels(entry, program.tensors[index])
    _check_lines(metadata.vocabulary, "vocabulary")
    return dataclasses.replace(metadata, inputs=inputs, outputs=outputs)


def _ends(
    entries: Sequence[TensorMetadata], program: Program, indices: Sequence[int], end: str
) -> tuple[TensorMetadata, ...]:
    given = entries or [TensorMetadata()] * len(indices)
    if len(given) != len(indices):
        raise ExportError(
            f"The metadata describes {len(given)} {end}s; the file has {len(indices)} "
            f"({', '.join(program.tensors[i].name for i in indices)}). Describe each, in this order, or none."
        )
    names = [program.tensors[i].name for i in indices]
    return tuple(dataclasses.replace(e, name=e.name or name) for e, name in zip(given, names, strict=True))


def _check_image(entry: TensorMetadata, tensor: Tensor) -> None:
    channels = tensor.shape[-1] if tensor.shape else 1
    if len(entry.mean) != len(entry.std) or len(entry.mean) not in (0, 1, channels):
        raise ExportError(
            f"The metadata of the input {entry.name!r}, {describe(tensor)}, has {len(entry.mean)} means and "
            f"{len(entry.std)} standard deviations. Give one of each, or {channels}, one for each channel."
        )
    if not all(std > 0 for std in entry.std):
        raise ExportError(f"The metadata of the input {entry.name!r} has std {entry.std}; each must be above 0.")
    if not entry.color:
        return
    wanted = {"RGB": 3, "GRAYSCALE": 1}
    if entry.color not in COLOR_SPACES or len(tensor.shape) != 4 or channels != wanted[entry.color]:
        raise ExportError(
            f"The metadata says that the input {entry.name!r}, {describe(tensor)}, is an image in color "
            f'{entry.color!r}. Images are [1, height, width, 3] for "RGB" and [1, height, width, 1] for "GRAYSCALE".'
        )


def _check_labels(entry: TensorMetadata, tensor: Tensor) -> None:
    classes = tensor.shape[-1] if tensor.shape else 1
    if entry.labels and len(entry.labels) != classes:
        raise ExportError(
            f"The metadata of the output {entry.name!r} has {len(entry.labels)} labels; the output is "
            f"{describe(tensor)}, with {classes} classes. Give one label for each."
        )
    _check_lines(entry.labels, "labels")


def _check_lines(lines: Sequence[str], what: str) -> None:
    """A label or a token is one line of a text file, and its place is its line."""
    for i, line in enumerate(lines):
        if not line or "\n" in line or "\r" in line:
            raise ExportError(f"Number {i} of the {what} is {line!r}; each must be one line of text, and not empty.")


def by_name(entries: Sequence[TensorMetadata]) -> Mapping[int, str]:
    """The label file of each output that has labels: `labels.txt`, `labels_1.txt` for the second output ..."""
    return {i: f"labels_{i}.txt" if i else "labels.txt" for i, entry in enumerate(entries) if entry.labels}
