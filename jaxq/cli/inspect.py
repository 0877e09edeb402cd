"""`jaxq inspect`: what is in any .tflite file."""

from __future__ import annotations

import dataclasses
import pathlib
from collections import Counter
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from jaxq.cli import options
from jaxq.cli.metadata import lines
from jaxq.cli.output import Result, Table
from jaxq.display.text import shortened
from jaxq.errors import FormatError
from jaxq.export.program import Operator, Program, Tensor, describe

SHOWN = 5  # faults of a file that cannot be evaluated

Python = Annotated[
    bool,
    typer.Option("--python", help="Print a Python program that runs the file with numpy and ai-edge-litert alone."),
]


def inspect(file: options.TFLite, python: Python = False, json: options.Json = False) -> Result:
    """Print what is in a .tflite file, anyone's.

    Inputs, outputs, tensors and their quantization, operators and their versions, the sizes of the weights, and what
    its metadata says.
    """
    from jaxq.export.evaluate.load import load_program
    from jaxq.snippets import render

    program = load_program(file)
    if python:
        text = render(file.read_bytes(), "python", file.name)
        return Result({"python": text}, [text.rstrip("\n")])
    data = {**_as_data(file, program), **_described(file, program)}
    return Result(data, [_head(data), *_oddities(program), *data.pop("said"), *_tables(data, program)])


def _oddities(program: Program) -> list[str]:
    """Why `jaxq.load` refuses the file, one line a fault; nothing for a file whose shapes and types fit."""
    from jaxq.export.shapes import faults

    found = [_fault(program, fault) for fault in faults(program)]
    more = [f"  and {len(found) - SHOWN:,} more: see jaxq lint"] if len(found) > SHOWN else []
    return ["\n".join(["cannot be evaluated:", *found[:SHOWN], *more])] if found else []


def _fault(program: Program, fault: Any) -> str:
    if fault.operator is not None:
        return f"  operator {fault.operator} ({program.operators[fault.operator].kind}) {fault.message}"
    return f"  tensor {fault.tensor} ({shortened(program.tensors[fault.tensor].name)!r}) {fault.message}"


def _described(file: pathlib.Path, program: Program) -> dict[str, Any]:
    """What the metadata says, as data and for people. Broken metadata hides nothing else."""
    from jaxq.export.flatbuffer.metadata import read_metadata

    try:
        metadata = read_metadata(file.read_bytes(), program)
    except FormatError as e:
        return {"described": {"error": str(e)}, "said": [f"metadata: {e}"]}
    if metadata is None:
        return {"described": None, "said": []}
    return {"described": dataclasses.asdict(metadata), "said": ["\n".join(lines(metadata))]}


def _as_data(file: pathlib.Path, program: Program) -> dict[str, Any]:
    weights = _weight_bytes(program)
    return {
        "file": file,
        "bytes": file.stat().st_size,
        "description": program.description,
        "inputs": _ends(program, program.inputs, program.input_names),
        "outputs": _ends(program, program.outputs, program.output_names),
        "operators": [_operator(i, op) for i, op in enumerate(program.operators)],
        "tensors": [_tensor(i, tensor) for i, tensor in enumerate(program.tensors)],
        "weight_bytes": {"by_op": weights, "total": sum(weights.values())},
        "metadata": {name: len(value) for name, value in program.metadata.items()},
    }


def _ends(program: Program, indices: Sequence[int], names: Sequence[str]) -> list[dict[str, Any]]:
    """Inputs or outputs, with their names in the signature where the file has one. "tensors" has the whole names."""
    signature = [*names, *[None] * (len(indices) - len(names))]
    ends = [(index, program.tensors[index], name) for index, name in zip(indices, signature, strict=True)]
    return [{"tensor": i, "name": shortened(t.name), "signature": name, "text": describe(t)} for i, t, name in ends]


def _operator(index: int, op: Operator) -> dict[str, Any]:
    return {
        "index": index,
        "kind": op.kind,
        "version": op.version,
        "inputs": list(op.inputs),
        "outputs": list(op.outputs),
        "options": dict(op.options),
    }


def _tensor(index: int, tensor: Tensor) -> dict[str, Any]:
    q = tensor.quantization
    parameters = None if q is None or not q.scale.size else {
        "scale": q.scale, "zero_point": q.zero_point, "axis": q.axis if q.per_channel else None,
    }  # fmt: skip
    return {
        "index": index,
        "name": tensor.name,
        "dtype": tensor.dtype,
        "shape": list(tensor.shape),
        "constant_bytes": _bytes(tensor),
        "unread": tensor.unread or None,
        "quantization": parameters,
    }


def _bytes(tensor: Tensor) -> int | None:
    """The size of a constant in the file; None for what is computed."""
    if tensor.data is None:
        return None
    return (tensor.data.size + 1) // 2 if tensor.dtype == "int4" else tensor.data.nbytes


def _weight_bytes(program: Program) -> dict[str, int]:
    """Bytes of constants by the kind of the first operator that reads them."""
    found: Counter[str] = Counter()
    seen: set[int] = set()
    for op in program.operators:
        for index in op.inputs:
            if index >= 0 and index not in seen and (size := _bytes(program.tensors[index])) is not None:
                found[op.kind] += size
                seen.add(index)
    unread = sum(_bytes(t) or 0 for i, t in enumerate(program.tensors) if i not in seen)
    return {**dict(found.most_common()), **({"(read by none)": unread} if unread else {})}


def _head(data: dict[str, Any]) -> str:
    lines = [
        f"{data['file']}: {data['bytes']:,} bytes, {len(data['operators'])} operators, {len(data['tensors'])} tensors"
    ]
    if data["description"]:
        lines.append(f"description: {data['description']}")
    if data["metadata"]:
        entries = ", ".join(f"{name} ({size:,} bytes)" for name, size in data["metadata"].items())
        lines.append(f"metadata: {entries}")
    return "\n".join(lines)


def _tables(data: dict[str, Any], program: Program) -> list[Table]:
    ends = [[kind.removesuffix("s"), e["signature"] or "-", e["name"], e["text"]]
            for kind in ("inputs", "outputs") for e in data[kind]]  # fmt: skip
    ops = [[str(i), f"{op.kind}.v{op.version}", _tensors(op.inputs), _tensors(op.outputs), _options(op)]
           for i, op in enumerate(program.operators)]  # fmt: skip
    tensors = [[str(i), t.name, describe(t), "" if (size := _bytes(t)) is None else f"{size:,}"]
               for i, t in enumerate(program.tensors)]  # fmt: skip
    kinds, weights = Counter(op.kind for op in program.operators), data["weight_bytes"]
    by_op = weights["by_op"]
    sizes = [[kind, f"{kinds[kind]:,}", f"{by_op.get(kind, 0):,}"] for kind in {**by_op, **kinds}]
    total = ["total", f"{len(ops):,}", f"{weights['total']:,}"]
    return [
        Table("inputs and outputs", ["", "signature", "name", "type"], ends),
        Table("tensors", [">", "name", "type", ">constant bytes"], tensors),
        Table("operators", [">", "op", "inputs", "outputs", "options"], ops),
        Table("sizes", ["op", ">count", ">weight bytes"], [*sizes, total]),
    ]


def _tensors(indices: Sequence[int]) -> str:
    return " ".join("-" if index < 0 else str(index) for index in indices)


def _options(op: Operator) -> str:
    return " ".join(f"{k}={v}" for k, v in sorted(op.options.items()) if v not in (None, False, 0, "NONE", ()))
