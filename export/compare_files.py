"""jaxq's file of a model and another's of the same float model, measured side by side."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxq.analyze.diff import decibels
from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.export.artifact import to_tflite
from jaxq.export.evaluate.program import joined
from jaxq.export.flatbuffer.read import read
from jaxq.export.io_formulas import dequantized, formula, quantized
from jaxq.export.proof.examples import apart
from jaxq.export.runtimes import litert
from jaxq.export.runtimes.bench import Contestant, measure
from jaxq.export.side_by_side import Output, SideBySide
from jaxq.export.tflite_converter import convert, settings, tensorflow
from jaxq.frontends.batches import chunks, file_chunks
from jaxq.frontends.core import Bound
from jaxq.quantization import bind

OTHERS = ("tflite-converter",)


def compare(
    target: Any,
    batches: Any,
    *state: Any,
    against: str = "tflite-converter",
    labels: Any = None,
    samples: Any = None,
    rounds: int = 50,
    progress: bool = True,
) -> SideBySide:
    """Compare jaxq's file of a model with the file that TensorFlow's converter makes of the same float model.

    The other file has the recipe's bits and ends, and ranges from the minimum and maximum of `samples`. Both run on
    LiteRT, on the same examples; their latencies are measured in turns. A trained model is given to the converter with
    its trained parameters, so that only jaxq's ranges know of the training.

    Args:
      target, state: as in `to_tflite`: the calibrated or trained model.
      batches: examples to compare on: an array, a tuple or dict of arrays (several inputs), or an iterable of these.
      against: who makes the other file: "tflite-converter" (`pip install 'jaxq[tensorflow]'`).
      labels: the class of each example, integers [examples]; they add the accuracy, of a model whose only output is
        [examples, classes].
      samples: examples that the converter calibrates on, as `batches`; by default these themselves.
      rounds: turns of each file where latency is measured.
      progress: show a progress bar while jaxq exports.

    Returns:
      SideBySide: the numbers of both; prints as a table.

    Raises:
      ExportError: TensorFlow is missing, its converter refuses the model or has no such recipe, or jaxq cannot export.
      InputError: empty data, NaN, another number of labels, or labels for another kind of output.
    """
    if against not in OTHERS:
        raise InputError(f"There is nothing called {against!r} to compare with. {did_you_mean(against, OTHERS)}")
    bound = bind(target, *state)
    settings(bound.core.recipe)
    tensorflow()
    chunked = list(file_chunks(bound, batches, "compare on"))
    if not chunked:
        raise InputError("There is no example to compare on: the iterable is empty.")
    floats = float_results(bound, chunked)
    labels = None if labels is None else checked(np.asarray(labels), floats)
    artifact = to_tflite(target, *state, progress=progress)
    other = convert(
        bound.outputs,
        bound.core.arrays(*bound.core.example),
        bound.core.recipe,
        chunked if samples is None else chunks(bound, samples, "calibrate on"),
    )
    names = [entry["name"] for entry in artifact.manifest["outputs"]]
    files = File.of("jaxq", artifact.data), File.of(against, other)
    return measured(names, files, chunked, floats, labels, rounds)


class File(NamedTuple):
    """A file with the formulas of its ends."""

    name: str
    data: bytes
    inputs: list[dict[str, Any]]
    outputs: list[dict[str, Any]]

    @classmethod
    def of(cls, name: str, data: bytes) -> File:
        """A file by its bytes."""
        program = read(data)
        given, taken = ([formula("", program.tensors[i]) for i in end] for end in (program.inputs, program.outputs))
        return cls(name, data, given, taken)

    def quantized(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Real numbers as the file takes them."""
        return [quantized(a, entry) for a, entry in zip(arrays, self.inputs, strict=True)]

    def first(self, arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        """The first example in the file's shapes and types."""
        rows = [a[: entry["shape"][0]] if entry["shape"] else a for a, entry in zip(arrays, self.inputs, strict=True)]
        return self.quantized(rows)

    def results(self, chunked: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
        """What the file gives on LiteRT for all examples, by output, as real numbers."""
        found = [litert.run(self.data, self.quantized(arrays), "xnnpack") for arrays in chunked]
        joined = [np.concatenate(parts) for parts in zip(*found, strict=True)]
        return [dequantized(q, entry) for q, entry in zip(joined, self.outputs, strict=True)]


def float_results(bound: Bound, chunked: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """What the user's float model gives for all examples, by output."""
    graph = bound.captured().plan.graph

    @functools.cache
    def compiled(batched: frozenset[int]) -> Callable[..., list[jax.Array]]:
        def outputs(params: Any, *arrays: Any) -> list[Any]:
            return bound._replace(params=params).outputs(*arrays)

        axes = [0 if v in batched else None for v in graph.inputs]
        return jax.jit(jax.vmap(outputs, in_axes=(None, *axes)) if batched else outputs)

    def results(arrays: Sequence[np.ndarray]) -> list[np.ndarray]:
        examples, batched = apart(graph, arrays)
        found = compiled(batched)(bound.params, *examples)
        return [joined(np.asarray(a)) if batched else np.asarray(a) for a in found]

    return [np.concatenate(parts) for parts in zip(*map(results, chunked), strict=True)]


def measured(
    names: Sequence[str],
    files: tuple[File, File],
    chunked: Sequence[Sequence[np.ndarray]],
    floats: Sequence[np.ndarray],
    labels: np.ndarray | None,
    rounds: int,
) -> SideBySide:
    """The numbers of two files whose outputs have these names, beside the float model's results."""
    ours, theirs = (file.results(chunked) for file in files)
    a, b = measure([Contestant(f.name, f.data, 1, f.first(chunked[0])) for f in files], rounds)
    return SideBySide(
        names=(files[0].name, files[1].name),
        examples=len(floats[0]),
        runtime=litert.runtime_version(("xnnpack",)),
        bytes=(len(files[0].data), len(files[1].data)),
        seconds=(a.median, b.median),
        ratio=a.ratio(b),
        accuracy=None if labels is None else _accuracies(labels, (floats, ours, theirs)),
        outputs=tuple(_output(*each) for each in zip(names, floats, ours, theirs, strict=True)),
    )


def _output(name: str, floats: np.ndarray, ours: np.ndarray, theirs: np.ndarray) -> Output:
    pairs = (ours, floats), (theirs, floats), (theirs, ours)
    real = floats.dtype.kind == "f"
    sqnr = [_sqnr(found, wanted) if real else None for found, wanted in pairs]
    agree = [_agreement(found, wanted) for found, wanted in pairs]
    return Output(name, _pair(sqnr), sqnr[2], _pair(agree), agree[2])


def _pair(numbers: Sequence[float | None]) -> tuple[float, float] | None:
    a, b, _ = numbers
    return None if a is None or b is None else (a, b)


def _sqnr(found: np.ndarray, wanted: np.ndarray) -> float:
    wanted = np.asarray(wanted, np.float64)
    return decibels(float(np.sum(wanted**2)), float(np.sum((found.reshape(wanted.shape) - wanted) ** 2)))


def _agreement(found: np.ndarray, wanted: np.ndarray) -> float | None:
    """The share of examples with the same largest number, of integers with the same numbers."""
    if wanted.dtype.kind != "f":
        return float(np.mean(np.all((found == wanted).reshape(len(wanted), -1), axis=1)))
    return float(np.mean(found.argmax(-1) == wanted.argmax(-1))) if _is_logits(wanted) else None


def _is_logits(array: np.ndarray) -> bool:
    return array.dtype.kind == "f" and array.ndim == 2 and array.shape[1] > 1


def checked(labels: np.ndarray, floats: Sequence[np.ndarray]) -> np.ndarray:
    """The labels of the model's only output. Raises InputError where they are of another kind or number."""
    if len(floats) != 1 or not _is_logits(floats[0]):
        shapes = ", ".join(str(a.shape) for a in floats)
        raise InputError(
            f"Labels are compared with one output of logits, [examples, classes]; the model gives {shapes}. Leave the "
            "labels out: the table has the error of each output."
        )
    if labels.shape != (len(floats[0]),):
        raise InputError(f"The labels are {labels.shape}; there must be one for each of {len(floats[0])} examples.")
    return labels


def _accuracies(labels: np.ndarray, results: Sequence[Sequence[np.ndarray]]) -> tuple[float, float, float]:
    """The share of right classes of the float model and of both files."""
    a, b, c = (float(np.mean(found[0].argmax(-1) == labels)) for found in results)
    return a, b, c
