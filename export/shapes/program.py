"""A program's tensors and operators held against the table of shape rules."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxq.display.text import shortened
from jaxq.errors import FormatError
from jaxq.export.program import LIMITS, RAW, Operator, Program, Tensor
from jaxq.export.shapes.table import SHAPES, STATES, Row
from jaxq.export.shapes.view import Misfit, View, ensure

INT32 = (-(2**31), 2**31 - 1)
NOT_EVALUATED = (*RAW, "complex64", "complex128", "resource", "uint64", "variant")
CORRUPT = "The file is corrupt, or its writer is wrong: convert the model again."
VARIABLES = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE")


class Fault(NamedTuple):
    """What does not fit: a fact, with the operator or the tensor that it holds of. `corrupt`: whether the file is
    wrong; else it is only beyond what jaxq evaluates.
    """

    message: str
    operator: int | None = None
    tensor: int | None = None
    corrupt: bool = True


def check(program: Program) -> None:
    """Raise FormatError for the first fault of a program or of its other subgraphs that CALL_ONCE runs."""
    for number, graph in enumerate((program, *_initializers(program))):
        for fault in faults(graph):
            advice = CORRUPT if fault.corrupt else "jaxq does not evaluate that; inspect, lint and check show the rest."
            raise FormatError(f"{_place(graph, fault, number)} {fault.message}. {advice}")


def faults(program: Program) -> Iterator[Fault]:
    """Everything in one subgraph that no kernel can compute. Custom and unknown operators are passed over."""
    yield from beyond(program)
    yield from _parameters(program)
    yield from misfits(program)


def misfits(program: Program) -> Iterator[Fault]:
    """Operators whose inputs, shapes, options and constants do not fit."""
    yield from _order(program)
    kinds: dict[str, tuple[tuple[int, ...], str]] = {}
    handles = _handles(program)
    for i, op in enumerate(program.operators):
        try:
            _fit(op, program.tensors)
            _variable(op, program.tensors, handles, kinds)
        except Misfit as e:
            yield Fault(str(e), i, op.outputs[0] if op.outputs else None)


def _initializers(program: Program) -> list[Program]:
    indices = {op.options.get("init_subgraph_index") for op in program.operators if op.kind == "CALL_ONCE"}
    return [graph for i, graph in enumerate(program.subgraphs, 1) if i in indices]


def _place(program: Program, fault: Fault, number: int) -> str:
    inner = " of an initialization subgraph" if number else ""
    if fault.operator is not None:
        return f"The file's operator {fault.operator} ({program.operators[fault.operator].kind}){inner}"
    assert fault.tensor is not None
    return f"The file's tensor {fault.tensor} ({shortened(program.tensors[fault.tensor].name)!r}){inner}"


def beyond(program: Program) -> Iterator[Fault]:
    """Tensors that are legal and that jaxq does not evaluate."""
    ends = {*program.inputs, *program.outputs}
    for i in sorted(_used(program) | ends):
        tensor = program.tensors[i]
        if tensor.unread:
            yield Fault(f"has {tensor.unread}", None, i, corrupt=False)
        if tensor.dtype in NOT_EVALUATED and (i in ends or tensor.dtype != "resource"):
            yield Fault(f"is of type {tensor.dtype}", None, i, corrupt=False)


def _parameters(program: Program) -> Iterator[Fault]:
    """Scales and zero points of what operators compute with."""
    for i in sorted(_used(program)):
        fact = _parameter_fact(program.tensors[i])
        if fact:
            yield Fault(fact, None, i)


def _used(program: Program) -> set[int]:
    return {i for op in program.operators for i in (*op.inputs, *op.outputs) if i >= 0}


def _parameter_fact(tensor: Tensor) -> str | None:
    q = tensor.quantization
    if q is None:
        return None
    low, high = LIMITS.get(tensor.dtype, INT32)
    wrong = q.zero_point[(q.zero_point < low) | (q.zero_point > high)]
    if wrong.size:
        return f"has zero point {int(wrong[0])}, beyond {tensor.dtype}"
    bad = q.scale[~(np.isfinite(q.scale) & (q.scale > 0))] if tensor.dtype in LIMITS else q.scale[:0]
    return f"has scale {float(bad[0]):g}" if bad.size else None


def _order(program: Program) -> Iterator[Fault]:
    """Every value is there before it is read, and is written once."""
    known = {i for i, tensor in enumerate(program.tensors) if tensor.data is not None or tensor.unread}
    known |= set(program.inputs)
    for i, op in enumerate(program.operators):
        for index in op.inputs:
            if index >= 0 and index not in known and not _is_state(op, index) and op.kind in SHAPES:
                yield Fault(f"reads tensor {index} before it has a value", i)
        for index in op.outputs:
            if index in known:
                yield Fault(f"writes tensor {index}, which has a value already", i)
        known.update(op.outputs)
    for index in program.outputs:
        if index not in known:
            yield Fault("is an output that nothing writes", None, index)


def _is_state(op: Operator, index: int) -> bool:
    return any(position < len(op.inputs) and op.inputs[position] == index for position in STATES.get(op.kind, ()))


def _fit(op: Operator, tensors: tuple[Tensor, ...]) -> None:
    row = SHAPES.get(op.kind)
    if row is None:
        return
    _count(op, row)
    _types(op, row, tensors)
    view = View(op, tensors)
    for position, shape in enumerate(row.rule(view) or ()):
        found = view.output(position).shape
        ensure(found == shape, f"writes shape {found}, where its inputs make {shape}")


def _count(op: Operator, row: Row) -> None:
    counts = f"{row.least}" if row.least == row.most else f"{row.least} to {row.most}"
    ensure(row.least <= len(op.inputs) <= row.most, f"has {len(op.inputs)} inputs, and takes {counts}")
    missing = [i for i, index in enumerate(op.inputs) if index < 0 and i not in row.optional]
    ensure(not missing, f"has no input {missing[:1]}")
    ensure(min(1, row.outputs) <= len(op.outputs) <= row.outputs, f"has {len(op.outputs)} outputs")
    ensure(len(set(op.outputs)) == len(op.outputs), f"writes one tensor twice, {list(op.outputs)}")


def _types(op: Operator, row: Row, tensors: tuple[Tensor, ...]) -> None:
    if op.kind not in VARIABLES:
        names = [tensors[i].name for i in (*op.inputs, *op.outputs) if i >= 0 and tensors[i].dtype == "resource"]
        ensure(not names, f"computes on {names}, the name of a variable")
    alike = range(len(op.inputs)) if op.kind in ("CONCATENATION", "PACK") else row.alike
    found = {tensors[op.inputs[i]].dtype for i in alike} | {tensors[i].dtype for i in op.outputs if row.alike}
    ensure(len(found) <= 1, f"mixes {' and '.join(sorted(found))}")


def _handles(program: Program) -> dict[int, str]:
    """The tensors that name a variable."""
    handles = [op for op in program.operators if op.kind == "VAR_HANDLE" and op.outputs]
    return {op.outputs[0]: f"{op.options.get('container')}/{op.options.get('shared_name')}" for op in handles}


def _variable(
    op: Operator, tensors: tuple[Tensor, ...], handles: dict[int, str], kinds: dict[str, tuple[tuple[int, ...], str]]
) -> None:
    """A variable has one shape and one type wherever it is read or assigned."""
    if op.kind not in ("READ_VARIABLE", "ASSIGN_VARIABLE"):
        return
    ensure(op.inputs[0] in handles, "reads a variable that no VAR_HANDLE names")
    tensor = tensors[op.outputs[0]] if op.kind == "READ_VARIABLE" else tensors[op.inputs[1]]
    has = tensor.shape, tensor.dtype
    held = kinds.setdefault(handles[op.inputs[0]], has)
    ensure(held == has, f"takes a variable of {held[1]}{list(held[0])} for {has[1]}{list(has[0])}")
