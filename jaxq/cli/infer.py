"""`jaxq infer`: the top classes of one input, or its embedding, by what the file says of itself."""

from __future__ import annotations

import pathlib
from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import typer

from jaxq.cli import options, photo, sentence
from jaxq.cli.output import Result, Table
from jaxq.errors import InputError
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.export.program import Program

Given = Annotated[
    str,
    typer.Argument(
        metavar="INPUT", show_default=False, help="A photo, or a sentence for a file that carries a vocabulary."
    ),
]
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many classes to print.")]

# What a file takes, by its metadata: the file's inputs, in their types, from INPUT.
READERS: dict[str, Callable[[str, Program, Metadata], list[np.ndarray]]] = {
    "image": photo.file_inputs,
    "text": sentence.file_inputs,
}
SHOWN = 8  # numbers of an embedding in the table; --json has all
PROBABILITIES = ("SOFTMAX", "LOGISTIC")  # operators whose outputs are probabilities already


def infer(file: options.TFLite, input: Given, top: Top = 5, json: options.Json = False) -> Result:
    """Run a .tflite file, anyone's, on a photo or a sentence, and print its top classes or the embedding.

    Normalization, vocabulary and labels are those of the file's TFLite metadata; it runs on LiteRT. The middle of the
    photo is cut out: the shorter side is scaled to 8/7 of the input's (256 for 224). A sentence becomes word pieces;
    what is longer than the file's length is cut.
    """
    from jaxq.export.evaluate.load import evaluated_program
    from jaxq.export.flatbuffer.metadata import read_metadata
    from jaxq.export.runtimes.litert import run

    program, contents = evaluated_program(file), file.read_bytes()
    metadata = read_metadata(contents, program)
    inputs = READERS[_kind(file, metadata)](input, program, metadata or Metadata())
    outputs = run(contents, inputs, "xnnpack")
    assert metadata is not None and isinstance(outputs, tuple)
    described = metadata.outputs or [TensorMetadata()] * len(outputs)
    embeds = bool(metadata.vocabulary)
    ends = zip(program.outputs, described, outputs, strict=True)
    found = [_output(program, i, said, q, top, embeds) for i, said, q in ends]
    data = {"file": file, "input": input, "outputs": found}
    return Result(data, [f"{file}: {input}", *map(_table, found)])


def _kind(file: pathlib.Path, metadata: Metadata | None) -> str:
    """What INPUT is, by the metadata. Raises InputError where that cannot be known."""
    if metadata is None:
        raise InputError(
            f"{file} has no TFLite metadata, so nothing says what its input is. Export it with "
            "jaxq.export.to_tflite(..., metadata=jaxq.export.Metadata.image_classifier(labels, mean, std))."
        )
    if metadata.vocabulary and "text" in READERS:
        return "text"
    if metadata.inputs and metadata.inputs[0].color:
        return "image"
    takes = ", ".join(f"{entry.name!r}" for entry in metadata.inputs) or "inputs that it does not describe"
    raise InputError(f"The metadata of {file} says that it takes {takes}, which is no image. Use jaxq.load for others.")


def _output(
    program: Program, index: int, said: TensorMetadata, stored: np.ndarray, top: int, embeds: bool
) -> dict[str, Any]:
    """The greatest scores of one output, with their labels and, of an output along one axis, probabilities."""
    from jaxq.export.io_formulas import dequantized, formula

    tensor = program.tensors[index]
    scores = dequantized(stored, formula(tensor.name, tensor)).astype(np.float64).reshape(-1)
    if embeds and not said.labels:
        return {"output": said.name or tensor.name, "embedding": scores.tolist()}
    shares = scores if _makers(program, index) & {*PROBABILITIES} else _softmax(scores)
    best = np.argsort(-scores, kind="stable")[:top]
    labels = said.labels if len(said.labels) == scores.size else [str(i) for i in range(scores.size)]
    classes = [
        {"class": int(i), "label": labels[i], "score": float(scores[i]), "probability": float(shares[i])} for i in best
    ]
    return {"output": said.name or tensor.name, "classes": classes}


def _makers(program: Program, index: int) -> set[str]:
    """The operator that computes an output, and what is before a QUANTIZE or DEQUANTIZE at the end."""
    makers = {out: op for op in program.operators for out in op.outputs}
    kinds: set[str] = set()
    while index in makers and not kinds & {*PROBABILITIES}:
        kinds.add(makers[index].kind)
        if makers[index].kind not in ("QUANTIZE", "DEQUANTIZE"):
            break
        index = makers[index].inputs[0]
    return kinds


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max())
    return powers / powers.sum()


def _table(output: dict[str, Any]) -> Table:
    if "embedding" in output:
        numbers = [f"{x:.4f}" for x in output["embedding"][:SHOWN]]
        return Table(output["output"], ["numbers", "first"], [[str(len(output["embedding"])), " ".join(numbers)]])
    rows = [
        [str(entry["class"]), entry["label"], f"{entry['score']:.4f}", f"{100 * entry['probability']:.1f} %"]
        for entry in output["classes"]
    ]
    return Table(output["output"], [">class", "label", ">score", ">probability"], rows)
