"""From a file, its manifest and what was measured to the content of a report."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.analyze.difference import Differences
from jaxq.export.flatbuffer.read import read
from jaxq.export.lint import lint
from jaxq.export.program import Program, Tensor, describe
from jaxq.export.runtimes import litert
from jaxq.export.targets import TARGETS, Placement, check
from jaxq.report.document import Content, Node, Run
from jaxq.report.tensors import channels, histogram, per_tensor

MOST_EXAMPLES = 64  # whose numbers are counted: every tensor of each is held at once


def content(
    name: str,
    data: bytes,
    *,
    manifest: Mapping[str, Any] | None = None,
    inputs: Sequence[np.ndarray] = (),
    differences: Differences | None = None,
    run: Run | None = None,
    recipe: str = "",
    plan: str = "",
    commands: Sequence[str] = (),
) -> Content:
    """Everything that a report on a file shows.

    Args:
      name: of the file.
      data: its bytes.
      manifest: the model.json beside it.
      inputs: an array [examples, ...] in the file's dtype for each input, to count numbers on; the first 64 are used.
      differences: the error of each tensor against the float model, by the names that the file has too.
      run: what the run folder tells.
      recipe, plan: their texts.
      commands: lines that repeat what is shown.

    Raises: FormatError for what is no TFLite file; ExportError where LiteRT does not run it.
    """
    program = read(data)
    inputs = [array[:MOST_EXAMPLES] for array in inputs]
    values = litert.run(data, inputs, "xnnpack", every_tensor=True) if inputs else {}
    assert isinstance(values, dict)
    targets = {target: check(program, device) for target, device in TARGETS.items()}
    placed = [{t: _placed(r.placements[i]) for t, r in targets.items()} for i in range(len(program.operators))]
    return Content(
        name=name,
        size=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        nodes=_nodes(program, values, differences, placed, targets["litert"].placements),
        manifest=manifest,
        examples=len(inputs[0]) if inputs else 0,
        lint=lint(program),
        targets=targets,
        bytes_by_kind=_bytes_by_kind(program),
        run=run or Run(),
        recipe=recipe,
        plan=plan,
        commands=tuple(commands),
    )


def _nodes(
    program: Program,
    values: Mapping[int, np.ndarray],
    differences: Differences | None,
    placed: Sequence[Mapping[str, tuple[bool, str]]],
    placements: Sequence[Placement],
) -> tuple[Node, ...]:
    errors = {} if differences is None else {d.site: d for d in differences.tensors}
    makers = {tensor: i for i, tensor in enumerate(program.inputs)}
    sizes = first_read(program)

    def node(index: int | None, kind: str, made: int, reads: Sequence[int]) -> Node:
        tensor = program.tensors[made]
        found = histogram(tensor, values[made]) if made in values else None
        q = tensor.quantization
        step = float(q.scale[0]) if q is not None and per_tensor(q) else None
        return Node(
            index, kind, tensor.name, tuple(reads), describe(tensor), step, _range(tensor),
            difference=errors.get(tensor.name), histogram=found,
        )  # fmt: skip

    nodes = [node(None, "INPUT", tensor, ()) for tensor in program.inputs]
    for i, op in enumerate(program.operators):
        reads = dict.fromkeys(makers[t] for t in op.inputs if t in makers)
        own = node(i, op.kind, next(t for t in op.outputs if t >= 0), list(reads))
        facts = {"weight_bytes": sizes[i], "macs": placements[i].macs, "placed": placed[i]}
        nodes.append(dataclasses.replace(own, channels=channels(program, op), **facts))
        makers |= dict.fromkeys((t for t in op.outputs if t >= 0), len(nodes) - 1)
    return tuple(nodes)


def _placed(placement: Placement) -> tuple[bool, str]:
    reason = "" if placement.mapped else f"{placement.status}: {placement.reason}"
    return placement.mapped, reason


def _range(tensor: Tensor) -> tuple[float, float] | None:
    """The least and greatest real number that an integer of the tensor stands for."""
    q = tensor.quantization
    if q is None or not per_tensor(q) or tensor.dtype not in ("int8", "uint8", "int16"):
        return None
    limits, zero = np.iinfo(tensor.dtype), int(q.zero_point[0])
    return float(q.scale[0]) * (limits.min - zero), float(q.scale[0]) * (limits.max - zero)


def first_read(program: Program) -> list[int]:
    """Bytes of constants by operator; a constant counts for the first that reads it."""
    seen: set[int] = set()
    sizes = []
    for op in program.operators:
        own = {i for i in op.inputs if i >= 0 and i not in seen and program.tensors[i].data is not None}
        seen |= own
        sizes.append(sum(constant_bytes(program.tensors[i]) for i in own))
    return sizes


def constant_bytes(tensor: Tensor) -> int:
    """What a constant takes in the file; two numbers of int4 share a byte."""
    assert tensor.data is not None
    return (tensor.data.size + 1) // 2 if tensor.dtype == "int4" else tensor.data.nbytes


def _bytes_by_kind(program: Program) -> dict[str, int]:
    found: Counter[str] = Counter()
    for op, size in zip(program.operators, first_read(program), strict=True):
        found[op.kind] += size
    return {kind: size for kind, size in found.most_common() if size}
