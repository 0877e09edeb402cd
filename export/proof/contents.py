"""Two programs side by side without running them: what of the one is not in the other."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import numpy as np

from jaxq.export.program import Operator, Program, Tensor


@dataclasses.dataclass(frozen=True)
class Change:
    """One thing that is not the same: `name` (a tensor, or the one that an operator computes) and the fact."""

    name: str
    fact: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.name}: {self.fact}"


def changes(model: Program, file: Program) -> tuple[Change, ...]:
    """What a file has otherwise than the model's own program: tensors and operators by name, in the model's order."""
    return tuple(_changes(model, file))


def _changes(model: Program, file: Program) -> Iterator[Change]:
    theirs = {tensor.name: tensor for tensor in file.tensors}
    makers = {file.tensors[i].name: op for op in file.operators for i in op.outputs if i >= 0}
    for end in ("inputs", "outputs"):
        a, b = ([p.tensors[i].name for i in getattr(p, end)] for p in (model, file))
        if a != b:
            yield Change(end, f"{', '.join(a)} in the model, {', '.join(b)} in the file")
    for tensor in model.tensors:
        if tensor.name not in theirs:
            yield Change(tensor.name, "is not in the file")
        else:
            yield from (Change(tensor.name, fact) for fact in _tensor_facts(tensor, theirs[tensor.name]))
    for op in model.operators:
        name = model.tensors[op.outputs[0]].name
        if name in theirs:
            yield from (Change(name, fact) for fact in _operator_facts(model, op, file, makers.get(name)))


def _tensor_facts(a: Tensor, b: Tensor) -> Iterator[str]:
    for what in ("shape", "dtype"):
        if getattr(a, what) != getattr(b, what):
            yield f"{what} {getattr(a, what)} in the model, {getattr(b, what)} in the file"
    for what in ("scale", "zero_point"):
        both = (None if t.quantization is None else getattr(t.quantization, what) for t in (a, b))
        yield from _array_fact(what, *both)
    yield from _array_fact("values", a.data, b.data)


def _array_fact(what: str, a: np.ndarray | None, b: np.ndarray | None) -> Iterator[str]:
    if a is None and b is None:
        return
    if a is None or b is None:
        yield f"{what}: {'none' if a is None else 'some'} in the model, {'none' if b is None else 'some'} in the file"
    elif a.shape != b.shape:
        yield f"{what} of shape {a.shape} in the model, {b.shape} in the file"
    elif np.any(different := a != b):
        at = tuple(int(i) for i in np.argwhere(different)[0])
        count, where = np.count_nonzero(different), f"the first [{','.join(map(str, at))}]"
        yield f"{count} of {a.size} {what} differ, {where}: {a[at]} in the model, {b[at]} in the file"


def _operator_facts(model: Program, ours: Operator, file: Program, theirs: Operator | None) -> Iterator[str]:
    if theirs is None:
        yield f"{ours.kind} computes it in the model, nothing in the file"
        return
    a, b = _facts(model, ours), _facts(file, theirs)
    unlike = [key for key in {**a, **b} if a.get(key) != b.get(key)]
    yield from (f"{key} {a.get(key)} in the model, {b.get(key)} in the file" for key in unlike)


def _facts(program: Program, op: Operator) -> dict[str, Any]:
    """What an operator is, by the name of each fact; options at TFLite's usual nothing are left out."""
    reads = ", ".join(program.tensors[i].name for i in op.inputs if i >= 0)
    options = {key: value for key, value in op.options.items() if value not in (None, False, 0, "NONE", ())}
    return {"operator": op.kind, "version": op.version, "reads": reads, **options}
