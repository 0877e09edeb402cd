"""Writes the folder: the model, examples with their expected integers, a page, a Python program, a C file."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import pathlib
import shutil
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from typing import Any

import jax
import numpy as np

from jaxq import __version__
from jaxq.errors import ExportError, InputError, MismatchError
from jaxq.export.device_proof.browser import bridged
from jaxq.export.device_proof.micro import c_source
from jaxq.export.device_proof.runtime import pack
from jaxq.export.evaluate.kernels import floats, hybrid
from jaxq.export.evaluate.kernels.machine import MACHINES, this_machine
from jaxq.export.evaluate.program import checked, evaluate
from jaxq.export.evaluate.variables import has_variables
from jaxq.export.flatbuffer.read import read
from jaxq.export.io_formulas import formula
from jaxq.export.program import Program
from jaxq.export.runtimes import litert

PAGE = pathlib.Path(__file__).parent / "page"
MOST_EXAMPLES = 64


def save_proof(
    data: bytes,
    inputs: Sequence[np.ndarray],
    path: str | os.PathLike[str],
    *,
    manifest: Mapping[str, Any] | None = None,
    runtime: str | os.PathLike[str] | None = None,
    force: bool = False,
) -> pathlib.Path:
    """Write a folder that proves a file of integers on any device, without jaxq.

    Args:
      data: the .tflite file.
      inputs: for each input an array [examples, ...] in the file's dtype, at most 64 examples.
      path: the folder, made here; nothing is left of it where an error is raised.
      manifest: a `model.json` whose entries of inputs and outputs (normalization, labels) the page uses.
      runtime: a node_modules folder with @litertjs/core and @litertjs/wasm-utils, to pack LiteRT's web runtime.
      force: replace a folder that exists.

    Returns: the folder.
    Raises: ExportError for a file with float operators or variables, and for a path that exists. InputError for other
    inputs. MismatchError where LiteRT on this machine computes other integers than jaxq expects of it.
    """
    folder = pathlib.Path(path)
    if folder.exists() and not force:
        raise ExportError(f"{folder} exists. Give another path, or force=True to replace it.")
    program = read(data)
    _refuse(program, inputs)
    expected = expected_integers(program, inputs)
    _prove_here(data, inputs, expected[this_machine()])
    browser, ends = bridged(data, program, inputs)
    facts = _facts(data, program, inputs, expected, manifest or {}) | {"browser": ends}
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}.") as place:
        whole = pathlib.Path(place) / "proof"
        whole.mkdir()
        (whole / "model.tflite").write_bytes(data)
        if browser is not None:
            (whole / "browser.tflite").write_bytes(browser)
        (whole / "proof.json").write_text(json.dumps(facts))
        (whole / "proof.c").write_text(c_source(program, data, inputs))
        for name, target in (("index.html", "index.html"), ("check.txt", "check.py"), ("readme.txt", "README.md")):
            (whole / target).write_text((PAGE / name).read_text("utf-8"), "utf-8")
        if runtime is not None:
            pack(pathlib.Path(runtime), whole / "runtime")
        if folder.exists():
            shutil.rmtree(folder)
        whole.rename(folder)
    return folder


def expected_integers(program: Program, inputs: Sequence[np.ndarray]) -> dict[str, list[np.ndarray]]:
    """By machine, the outputs of LiteRT's default kernels."""
    found = {}
    for machine in MACHINES:
        outputs = jax.jit(evaluate(program, machine=machine))(*inputs)
        assert isinstance(outputs, tuple)
        found[machine] = [np.asarray(output) for output in outputs]
    return found


def _refuse(program: Program, inputs: Sequence[np.ndarray]) -> None:
    """Raise where the file is not of integers, or the inputs are not its own."""
    if has_variables(program):
        raise ExportError("The file has variables; a proof folder holds examples that do not depend on each other.")
    for op in program.operators:
        ends = {program.tensors[i].dtype for i in (*op.inputs, *op.outputs) if i >= 0}
        moves = op.kind in ("QUANTIZE", "DEQUANTIZE")
        if not moves and (floats.is_float(op, program.tensors) or hybrid.is_hybrid(op, program.tensors)):
            raise ExportError(f"{op.kind} computes on {', '.join(sorted(ends))}: a proof folder is of integers alone.")
    checked(program, inputs)
    count = len(inputs[0])
    if not 0 < count <= MOST_EXAMPLES or any(program.tensors[i].shape[:1] != (1,) for i in program.inputs):
        raise InputError(f"A proof folder takes 1 to {MOST_EXAMPLES} examples of a file of batch 1; here are {count}.")


def _prove_here(data: bytes, inputs: Sequence[np.ndarray], expected: Sequence[np.ndarray]) -> None:
    for ours, theirs in zip(expected, litert.run(data, inputs, "xnnpack"), strict=True):
        differing = int(np.count_nonzero(ours != theirs))
        if differing:
            raise MismatchError(f"{differing:,} of {ours.size:,} integers differ from LiteRT's on {this_machine()}.")


def _facts(
    data: bytes,
    program: Program,
    inputs: Sequence[np.ndarray],
    expected: Mapping[str, Sequence[np.ndarray]],
    manifest: Mapping[str, Any],
) -> dict[str, Any]:
    ends = {"inputs": program.inputs, "outputs": program.outputs}
    entries = {
        name: manifest.get(name) or [formula(program.tensors[i].name, program.tensors[i]) for i in indices]
        for name, indices in ends.items()
    }
    return {
        "format": 1,
        "jaxq": __version__,
        "model": "model.tflite",
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        **entries,
        "labels": _labels(data, entries["outputs"]),
        "examples": len(inputs[0]),
        "given": [_text(a) for a in inputs],
        "expected": {machine: [_text(a) for a in outputs] for machine, outputs in expected.items()},
    }


def _text(array: np.ndarray) -> str:
    return base64.b64encode(np.ascontiguousarray(array).tobytes()).decode()


def _labels(data: bytes, outputs: Sequence[Mapping[str, Any]]) -> list[str]:
    """The classes of the first output that names a file of them, from the archive behind the model."""
    for entry in outputs:
        if "labels" in entry:
            with zipfile.ZipFile(BytesIO(data)) as archive:
                return archive.read(entry["labels"]).decode().splitlines()
    return []
