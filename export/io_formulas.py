"""What the host computes around a file, in numpy: pixels to integers before it, real numbers and classes after it.

The functions from `normalized` to `dequantized` are what jaxq itself computes with, and the text of the program that
`snippet` writes. An entry is one of the manifest's `inputs` or `outputs`.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxq import __version__
from jaxq.export.metadata import TensorMetadata, by_name
from jaxq.export.program import Tensor

RESIZE = "not part of the formula: give pixels of the input's height and width, cut and scaled as in training"


def formula(name: str, tensor: Tensor) -> dict[str, Any]:
    """How to get from real numbers to what a tensor holds, and back: exactly the arithmetic that was trained with."""
    entry: dict[str, Any] = {"name": name, "shape": list(tensor.shape), "dtype": tensor.dtype}
    q = tensor.quantization
    if q is None or q.scale.size != 1 or tensor.dtype not in ("int8", "uint8", "int16"):
        return entry
    scale, shift, limits = q.scale[0], int(q.zero_point[0]), np.iinfo(tensor.dtype)
    inverse = float(np.float32(1) / scale)
    return entry | {
        "scale": float(scale),
        "zero_point": shift,
        "quantize": f"clip(rint(float32(x) * float32({inverse!r})) + {shift}, {limits.min}, {limits.max})",
        "dequantize": f"float32({float(scale)!r}) * (q - {shift})",
    }


def described(entries: Sequence[dict[str, Any]], metadata: Sequence[TensorMetadata]) -> list[dict[str, Any]]:
    """The manifest's entries with what the metadata adds: normalization folded with quantization, labels."""
    files = by_name(metadata)
    return [
        {**entry, **_pixels(entry, said), **({"labels": files[i], "classes": len(said.labels)} if i in files else {})}
        for i, (entry, said) in enumerate(zip(entries, metadata, strict=True))
    ]


def _pixels(entry: dict[str, Any], said: TensorMetadata) -> dict[str, Any]:
    """The formula from a pixel p in 0..255 to the input; for one byte an element also as a table of 256 in hex."""
    if not said.mean:
        return {}
    mean, std = ([float(np.float32(x)) for x in numbers] for numbers in (said.mean, said.std))
    color = {"color": said.color} if said.color else {}
    text = {"normalize": "(float32(p) - float32(mean[c])) / float32(std[c])", "resize": RESIZE}
    found = {"mean": mean, "std": std, **color, **text}
    if entry["dtype"] not in ("int8", "uint8"):
        return found
    return {**found, "pixel_table": [column.tobytes().hex() for column in pixel_table({**entry, **found}).T]}


def normalized(pixels: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Pixels from 0 to 255, channels last, to what the network was trained on: (pixel - mean) / std in float32."""
    return (pixels.astype(np.float32) - np.array(entry["mean"], np.float32)) / np.array(entry["std"], np.float32)


def quantized(real: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """Real numbers to what the file takes; as they are where it takes floats or indices."""
    if "scale" not in entry:
        return np.asarray(real, entry["dtype"])
    limits = np.iinfo(entry["dtype"])
    steps = np.rint(np.asarray(real, np.float32) * (np.float32(1) / np.float32(entry["scale"])))
    return np.clip(steps + entry["zero_point"], limits.min, limits.max).astype(entry["dtype"])


def pixel_table(entry: Mapping[str, Any]) -> np.ndarray:
    """[256, channels]: what each pixel value becomes, normalization and quantization in one look-up."""
    return quantized(normalized(np.arange(256, dtype=np.uint8)[:, None], entry), entry)


def prepared(value: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """An input of the file: of pixels (uint8, where the entry has a mean), else of real numbers."""
    if value.dtype == np.uint8 and "mean" in entry:
        table = pixel_table(entry)
        return table[value, np.arange(table.shape[1])]
    return quantized(value, entry)


def dequantized(stored: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """What the file gives, as real numbers, float32; as it is where it has no scale."""
    if "scale" not in entry:
        return stored
    return np.float32(entry["scale"]) * (stored.astype(np.float32) - entry["zero_point"])


HOST_FUNCTIONS = (normalized, quantized, pixel_table, prepared, dequantized)

_HEAD = '''"""Runs a .tflite file with numpy and ai-edge-litert alone. Written by jaxq {version}.

python THIS.py model.tflite input.npy [input.npy ...]

An input is an array in the file's shape: pixels, uint8, where INPUTS gives a mean, else real numbers.
"""

import sys
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np
from ai_edge_litert.interpreter import Interpreter

INPUTS = [
{inputs}
]
OUTPUTS = [
{outputs}
]

'''
_TAIL = '''
def run(path: str, *inputs: np.ndarray) -> list[np.ndarray]:
    """The outputs as the file holds them, for pixels or real numbers."""
    interpreter = Interpreter(path, num_threads=1)
    interpreter.allocate_tensors()
    for detail, entry, value in zip(interpreter.get_input_details(), INPUTS, inputs, strict=True):
        interpreter.set_tensor(detail["index"], prepared(value, entry))
    interpreter.invoke()
    return [interpreter.get_tensor(detail["index"]) for detail in interpreter.get_output_details()]


def labels(path: str, entry: Mapping[str, Any]) -> list[str]:
    """The names of the classes, from the archive behind the model."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(entry["labels"]).decode().splitlines()


if __name__ == "__main__":
    for entry, stored in zip(OUTPUTS, run(sys.argv[1], *map(np.load, sys.argv[2:])), strict=True):
        scores = dequantized(stored, entry).reshape(-1)
        names = labels(sys.argv[1], entry) if "labels" in entry else [str(i) for i in range(scores.size)]
        for i in np.argsort(-scores, kind="stable")[:5]:
            print(f"{scores[i]:.6g}  {names[i]}")
'''
_SHOWN = ("name", "shape", "dtype", "scale", "zero_point", "mean", "std", "color", "labels")


def snippet(inputs: Sequence[Mapping[str, Any]], outputs: Sequence[Mapping[str, Any]]) -> str:
    """A Python program that feeds a file and reads it, for the manifest's entries of its inputs and outputs."""
    literal = [[f"    { ({k: e[k] for k in _SHOWN if k in e})!r}," for e in end] for end in (inputs, outputs)]
    head = _HEAD.format(version=__version__, inputs="\n".join(literal[0]), outputs="\n".join(literal[1]))
    return head + "\n\n".join(inspect.getsource(function) for function in HOST_FUNCTIONS) + "\n" + _TAIL
