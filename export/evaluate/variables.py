"""Variables of a program: arrays that outlive an invocation, as streaming models keep their past in.

A VAR_HANDLE names one (a resource), READ_VARIABLE and ASSIGN_VARIABLE read and write it through the name, and CALL_ONCE
runs the subgraph that gives the first values. Recurrent operators (`shapes.STATES`) keep theirs in inputs of their own,
which begin at zero. Here they all are a dict from name to array, a JAX pytree, that goes into a step and comes out.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.operands import Kernel
from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.shapes import STATES

State = dict[str, Any]
KINDS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")


def has_variables(program: Program) -> bool:
    """Whether an invocation depends on those before it."""
    return any(op.kind in KINDS or op.kind in STATES for op in program.operators)


def states(op: Operator, tensors: tuple[Tensor, ...]) -> dict[int, str]:
    """The positions of a recurrent operator's state among its inputs, with the names of its variables."""
    held = [position for position in STATES.get(op.kind, ()) if position < len(op.inputs)]
    return {p: f"{tensors[op.inputs[p]].name}:{op.inputs[p]}" for p in held}


def at_rest(program: Program) -> State:
    """The states of recurrent operators before the first invocation: zero, as an integer of the tensor's grid."""
    found: State = {}
    for op in program.operators:
        for position, name in states(op, program.tensors).items():
            tensor = program.tensors[op.inputs[position]]
            zero = int(tensor.quantization.zero_point[0]) if tensor.quantization is not None else 0
            found[name] = np.full(tensor.shape, zero if tensor.dtype == "int8" else 0, tensor.dtype)
    return found


def recur(op: Operator, tensors: tuple[Tensor, ...], values: list[Any], state: State, kernel: Kernel) -> list[Any]:
    """One recurrent operator. Its kernel returns the output, then the new states, which change `state`."""
    names = states(op, tensors)
    held = [state[names[i]] if i in names else value for i, value in enumerate(values)]
    y, *after = kernel(op, tensors, held)
    state.update(zip(names.values(), after, strict=True))
    return [y]


def apply(op: Operator, tensors: tuple[Tensor, ...], values: list[Any], state: State) -> list[Any]:
    """One operator of `KINDS`. ASSIGN_VARIABLE changes `state`; the value of a resource is its variable's name."""
    if op.kind == "VAR_HANDLE":
        return ["/".join(str(op.options[part]) for part in ("container", "shared_name") if op.options.get(part))]
    if op.kind == "READ_VARIABLE":
        if values[0] not in state:
            raise ExportError(
                f"Variable {values[0]!r} is read before it has a value, which LiteRT refuses too. "
                "Convert the model with an initialization subgraph."
            )
        return [state[values[0]]]
    if op.kind == "ASSIGN_VARIABLE":
        state[values[0]] = values[1]
    return []


def initializers(program: Program) -> list[Program]:
    """The subgraphs that CALL_ONCE runs, in order. Raises ExportError for one that the file lacks."""
    indices = [op.options.get("init_subgraph_index") for op in program.operators if op.kind == "CALL_ONCE"]
    for index in indices:
        if not isinstance(index, int) or not 0 < index <= len(program.subgraphs):
            count = len(program.subgraphs) + 1
            raise ExportError(f"CALL_ONCE runs subgraph {index} of {count}. The file is corrupt: convert it again.")
    return [program.subgraphs[index - 1] for index in indices if isinstance(index, int)]
