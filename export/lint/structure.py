"""Rules of the graph and of the file: what is left in floats, what nobody reads, names, signature, alignment."""

from __future__ import annotations

from collections.abc import Iterator

from jaxq.export import shapes
from jaxq.export.flatbuffer.schema import ALIGNMENT
from jaxq.export.lint.finding import Spot
from jaxq.export.lint.view import (
    FLOATS,
    first_output,
    index_at,
    is_integer,
    of_kinds,
    parameters_text,
    read_at,
    written,
)
from jaxq.export.program import Operator, Program

BETWEEN = frozenset({"QUANTIZE", "DEQUANTIZE"})


def float_island(program: Program) -> Iterator[Spot]:
    """Operators on floats in a graph that has operators on integers."""
    compute = [(i, op) for i, op in enumerate(program.operators) if op.kind not in BETWEEN]
    if not any(_writes_integers(program, op) for _, op in compute):
        return
    for i, op in compute:
        tensor = next((t for t in (*op.inputs, *op.outputs) if t >= 0 and program.tensors[t].dtype in FLOATS), None)
        if tensor is not None:
            yield Spot(f"is {program.tensors[tensor].dtype} among integers", i, tensor)


def _writes_integers(program: Program, op: Operator) -> bool:
    y = written(program, op)
    return is_integer(y) and y is not None and y.quantization is not None


def stray_quantize(program: Program) -> Iterator[Spot]:
    """QUANTIZE that changes nothing, or undoes a DEQUANTIZE."""
    dequantized = {t: i for i, op in of_kinds(program, "DEQUANTIZE") for t in op.outputs}
    for i, op in of_kinds(program, "QUANTIZE"):
        x, y, source = read_at(program, op), written(program, op), index_at(op, 0)
        if source in dequantized:
            yield Spot(f"quantizes what operator {dequantized[source]} (DEQUANTIZE) has just dequantized", i, source)
        elif x is not None and y is not None and is_integer(x) and x.dtype == y.dtype:
            ends = [q and (q.scale.tolist(), q.zero_point.tolist()) for q in (x.quantization, y.quantization)]
            if ends[0] == ends[1]:
                yield Spot(f"has {parameters_text(x)} at both ends", i, first_output(op))


def signature_missing(program: Program) -> Iterator[Spot]:
    """A signature names every input and every output."""
    if not program.input_names and not program.output_names:
        yield Spot(f"has no signature that names its {len(program.inputs)} inputs and {len(program.outputs)} outputs")


def unread(program: Program) -> Iterator[Spot]:
    """Every tensor is read by an operator, or is an output. An operator may need outputs that nobody reads."""
    used = {t for op in program.operators for t in op.inputs} | set(program.outputs)
    for op in program.operators:
        if used.intersection(op.outputs):
            used.update(op.outputs)
    for t, tensor in enumerate(program.tensors):
        if t not in used:
            yield Spot(
                "is read by no operator" if tensor.data is None else "is a constant that no operator reads", None, t
            )


def duplicate_names(program: Program) -> Iterator[Spot]:
    """Every tensor has a name of its own."""
    first: dict[str, int] = {}
    for t, tensor in enumerate(program.tensors):
        if first.setdefault(tensor.name, t) != t:
            yield Spot(f"has the name of tensor {first[tensor.name]}", None, t)


def shapes_misfit(program: Program) -> Iterator[Spot]:
    """Inputs, shapes, options and constants fit the operators."""
    return (Spot(fault.message, fault.operator, fault.tensor) for fault in shapes.misfits(program))


def not_evaluated(program: Program) -> Iterator[Spot]:
    """Types and constants are those that jaxq computes with."""
    return (Spot(fault.message, fault.operator, fault.tensor) for fault in shapes.beyond(program))


def misaligned(program: Program) -> Iterator[Spot]:
    """Constants begin at multiples of 16 bytes."""
    for t, tensor in enumerate(program.tensors):
        if tensor.offset is not None and tensor.data is not None and tensor.data.size and tensor.offset % ALIGNMENT:
            yield Spot(
                f"begins at byte {tensor.offset:,} of the file, {tensor.offset % ALIGNMENT} past a multiple of 16",
                None,
                t,
            )
