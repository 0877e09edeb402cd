"""From a file's inputs and outputs to a program that feeds it, by Jinja templates; Python's is in `io_formulas`."""

from __future__ import annotations

import importlib.util
import math
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxq import __version__
from jaxq.display.text import did_you_mean
from jaxq.errors import ExportError, InputError
from jaxq.export.evaluate.load import load_program
from jaxq.export.flatbuffer.metadata import read_metadata
from jaxq.export.io_formulas import described, formula, snippet
from jaxq.export.metadata import completed
from jaxq.export.program import Program

TEMPLATES = pathlib.Path(__file__).parent / "templates"
# What is known of each language's program: how jaxq's tests treat it.
LANGUAGES = {
    "c": "its formulas are compiled with gcc and compared with numpy by jaxq's tests",
    "cpp": "its formulas are compiled with g++ and compared with numpy by jaxq's tests",
    "js": "its formulas are run by Node and compared with numpy by jaxq's tests",
    "kotlin": "jaxq's tests parse it, and do not run it",
    "python": "jaxq's tests run it and compare it with artifact.run",
    "swift": "jaxq's tests parse it, and do not run it",
}
# The names of types, by language.
TYPES: dict[str, dict[str, str]] = {
    "c": {"int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t", "int32": "int32_t", "int64": "int64_t",
          "float32": "float", "bool": "uint8_t"},
    "js": {"int8": "Int8Array", "uint8": "Uint8Array", "int16": "Int16Array", "int32": "Int32Array",
           "float32": "Float32Array", "bool": "Uint8Array"},
    "kotlin": {"int8": "Byte", "uint8": "Byte", "int16": "Short", "int32": "Int", "int64": "Long", "float32": "Float",
               "bool": "Byte"},
    "swift": {"int8": "Int8", "uint8": "UInt8", "int16": "Int16", "int32": "Int32", "int64": "Int64",
              "float32": "Float", "bool": "UInt8"},
}  # fmt: skip
TYPES["cpp"] = TYPES["c"]


def render(data: bytes, language: str, file: str = "model.tflite") -> str:
    """A program that feeds a file.

    Args:
      data: the .tflite file, anyone's; its metadata gives normalization and labels.
      language: "c", "cpp", "js", "kotlin", "python" or "swift".
      file: what the program calls the file.

    Raises: InputError for another language; ExportError for an input or output of a type that the language lacks here,
    and where Jinja is missing.
    """
    if language not in LANGUAGES:
        raise InputError(f"There is no language {language!r}. {did_you_mean(language, LANGUAGES)}")
    program = load_program(data)
    inputs, outputs = ends(data, program)
    if language == "python":
        return snippet(inputs, outputs)
    entries = [[_entry(language, k, entry) for k, entry in enumerate(end)] for end in (inputs, outputs)]
    return _template(f"{language}.j2").render(
        version=__version__, file=_plain(file), known=LANGUAGES[language], inputs=entries[0], outputs=entries[1]
    )


def ends(data: bytes, program: Program) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The entries of a file's inputs and outputs, as its manifest has them, with what its metadata adds."""
    metadata = read_metadata(data, program)
    found = [
        [formula(program.tensors[i].name, program.tensors[i]) for i in end] for end in (program.inputs, program.outputs)
    ]
    if metadata is None:
        return found[0], found[1]
    metadata = completed(metadata, program)
    return described(found[0], metadata.inputs), described(found[1], metadata.outputs)


def _template(name: str) -> Any:
    if importlib.util.find_spec("jinja2") is None:
        raise ExportError("A snippet needs the package jinja2, which is not installed. Run: pip install 'jaxq[report]'")
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    return environment.get_template(name)


def _entry(language: str, k: int, entry: Mapping[str, Any]) -> dict[str, Any]:
    """What a template needs of one input or output. Numbers are the decimals of float32 values, which every language
    reads back as the same float32."""
    dtype = entry["dtype"]
    if dtype not in TYPES[language]:
        raise ExportError(f"{entry['name']} is {dtype}, which the {language} program does not feed. Use python.")
    found = {"k": k, "name": _plain(entry["name"]), "dtype": dtype, "type": TYPES[language][dtype],
             "shape": entry["shape"], "size": math.prod(entry["shape"]), "quantized": "scale" in entry,
             "mean": None, "labels": entry.get("labels")}  # fmt: skip
    if "scale" in entry:
        limits, scale = np.iinfo(dtype), np.float32(entry["scale"])
        found |= {"scale": _decimal(scale), "inverse": _decimal(np.float32(1) / scale), "zero": entry["zero_point"],
                  "low": int(limits.min), "high": int(limits.max)}  # fmt: skip
    if entry.get("mean"):
        found |= {"mean": _decimals(entry["mean"]), "std": _decimals(entry["std"]), "color": entry.get("color", "")}
        found["channels"] = len(entry["mean"])
    return found


def _decimal(number: Any) -> str:
    """A decimal with a point, which is a literal in every language here."""
    text = repr(float(number))
    return text if "." in text or "e" not in text else text.replace("e", ".0e")


def _decimals(numbers: Sequence[float]) -> list[str]:
    return [_decimal(np.float32(x)) for x in numbers]


def _plain(text: str) -> str:
    """A name of other people's files, safe inside comments and strings of every language."""
    return re.sub(r"[^\w ./:-]", "_", text, flags=re.ASCII)[:100].replace("//", "/_")
