"""Variables of a program: arrays that outlive an invocation, as streaming models keep their past in.

A VAR_HANDLE names one (a resource), READ_VARIABLE and ASSIGN_VARIABLE read and write it through the name, and CALL_ONCE
runs the subgraph that gives the first values. Here they are a dict from name to array, a JAX pytree, that goes into a
step and comes out of it.
"""

from __future__ import annotations

from typing import Any

from jaxq.errors import ExportError
from jaxq.export.program import Operator, Program, Tensor

State = dict[str, Any]
KINDS = ("VAR_HANDLE", "READ_VARIABLE", "ASSIGN_VARIABLE", "CALL_ONCE")


def has_variables(program: Program) -> bool:
    """Whether an invocation depends on those before it."""
    return any(op.kind in KINDS for op in program.operators)


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
