"""`jaxq infer`: the top classes of one input, or its embedding, by what the file and its manifest say."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import numpy as np
import typer

from jaxq.cli import arrays, options, photo, sentence, sound
from jaxq.cli.manifest import manifest_beside
from jaxq.cli.output import Result, Table
from jaxq.errors import InputError
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.export.program import Program

Given = Annotated[
    str,
    typer.Argument(
        metavar="INPUT",
        show_default=False,
        help="A photo, a .wav, .npy or .npz file, or for a file with a vocabulary a sentence or a .txt file.",
    ),
]
Top = Annotated[int, typer.Option("--top", metavar="N", min=1, help="How many classes to print.")]

SHOWN = 8  # numbers of an embedding in the table; --json has all
PROBABILITIES = ("SOFTMAX", "LOGISTIC")  # operators whose outputs are probabilities already


def infer(file: options.TFLite, input: Given, top: Top = 5, json: options.Json = False) -> Result:
    """Run a .tflite file, anyone's, on a photo, sound, sentence or array; print its top classes or the embedding.

    It runs on LiteRT. Normalization, vocabulary and labels are those of the file's TFLite metadata. The middle of a
    photo is cut out: the shorter side is scaled to 8/7 of the input's (256 for 224). A sentence becomes word pieces;
    what is longer than the file's length is cut. A .wav file becomes MFCC as `preprocess` in the manifest (.json)
    beside the file says, or samples in [-1, 1) for an input [1, samples]; channels are averaged, the middle is cut out,
    and silence is added on both sides. Arrays are real numbers, which are quantized, or the file's own integers.
    """
    from jaxq.export.evaluate.load import evaluated_program
    from jaxq.export.flatbuffer.metadata import read_metadata
    from jaxq.export.runtimes.litert import run

    program, contents = evaluated_program(file), file.read_bytes()
    metadata = read_metadata(contents, program) or Metadata()
    inputs, said = _read(file, contents, input, program, metadata)
    outputs = run(contents, inputs, "xnnpack")
    assert isinstance(outputs, tuple)
    described = metadata.outputs or [TensorMetadata()] * len(outputs)
    embeds = bool(metadata.vocabulary)
    ends = zip(program.outputs, described, outputs, strict=True)
    found = [_output(program, i, said, q, top, embeds) for i, said, q in ends]
    data = {"file": file, "input": input, "read": said, "outputs": found}
    return Result(data, [f"{file}: {input}" + f" ({said})" * bool(said), *map(_table, found)])


def _read(
    file: pathlib.Path, contents: bytes, text: str, program: Program, metadata: Metadata
) -> tuple[list[np.ndarray], str]:
    """The file's inputs, in their types, from INPUT, and what was done to it, in words. Raises InputError."""
    from jaxq.export.files import check_pair

    path = pathlib.Path(text)
    ending = path.suffix.lower()
    if ending in (".npy", ".npz"):
        return arrays.file_inputs(path, program, metadata), ""
    if metadata.vocabulary:
        return sentence.file_inputs(_sentence(text), program, metadata), ""
    if ending == ".wav":
        check_pair(file, contents)
        return sound.file_inputs(path, file, program, manifest_beside(file, contents, "The command"))
    if metadata.inputs and metadata.inputs[0].color:
        return photo.file_inputs(text, program, metadata), ""
    raise InputError(_unknown(file, text, metadata))


def _sentence(text: str) -> str:
    """INPUT itself, or what is in the .txt file of that name."""
    path = pathlib.Path(text)
    if path.suffix.lower() != ".txt":
        return text
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as e:
        raise InputError(f"{path} is not UTF-8: byte {e.start} is {e.object[e.start]:#04x}. Save it as UTF-8.") from e
    except OSError as e:
        raise InputError(f"Cannot read {path}: {e.strerror}. Give a .txt file that exists, or a sentence.") from e


def _unknown(file: pathlib.Path, text: str, metadata: Metadata) -> str:
    """Why INPUT cannot be read for this file."""
    if metadata == Metadata():
        return (
            f"{file} has no TFLite metadata, so nothing says how {text} becomes its input. Export it with "
            "jaxq.export.to_tflite(..., metadata=jaxq.export.Metadata.image_classifier(labels, mean, std)), or give "
            "the input as .npy."
        )
    takes = ", ".join(f"{entry.name!r}" for entry in metadata.inputs) or "inputs that it does not describe"
    return f"The metadata of {file} says that it takes {takes}, which is no image. Give a .wav or .npy file."


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
