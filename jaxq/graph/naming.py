"""Names of ops and sites: the path of the weight that an op reads, else the op's kind and order.

`block0/conv/kernel` names an op by its weight; `head/kernel#2` reads a weight for the second time; `add_3` is the
fourth ADD (the first is `add`). A *site* is a tensor that is quantized: a weight has the name of its path, an
activation that of the op that makes it, with `:out` after a path. Flax's scope names are not used: NNX records none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from jaxq.graph.ir import WEIGHTED, Equation, Op

# Ops that are named after a weight of theirs. The others have none, or none of their own.
NAMED_BY_WEIGHT = WEIGHTED | {"EMBEDDING"}


def name_ops(ops: Sequence[Op], weights: Sequence[Equation], params: Mapping[int, str]) -> list[str]:
    """One name an op, in order; no two are the same, and none but an op's own is a parameter's path or an input's."""
    producer = {v: eq for eq in weights for v in eq.outputs}
    seen: Counter[str] = Counter()
    taken = {*params.values(), *(f"{path}:out" for path in params.values()), "input"}
    return [_numbered(_path(op, producer, params), op.kind.lower(), seen, taken) for op in ops]


def site_names(inputs: Sequence[int], ops: Sequence[Op], params: Mapping[int, str]) -> dict[int, str]:
    """The name of every activation."""
    paths = frozenset(params.values())
    names = {v: "input" if i == 0 else f"input_{i}" for i, v in enumerate(inputs)}
    for op in ops:
        stem = f"{op.name}:out" if op.name.partition("#")[0] in paths else op.name
        names.update({v: stem if i == 0 else f"{stem}.{i}" for i, v in enumerate(op.outputs)})
    return names


def _numbered(path: str | None, kind: str, seen: Counter[str], taken: set[str]) -> str:
    stem, separator = (path, "#") if path else (kind, "_")
    while True:
        seen[stem] += 1
        count = seen[stem]
        name = stem if count == 1 else f"{stem}{separator}{count if path else count - 1}"
        if name not in taken or name == path:
            taken.add(name)
            return name


def _path(op: Op, producer: Mapping[int, Equation], params: Mapping[int, str]) -> str | None:
    if op.kind not in NAMED_BY_WEIGHT:
        return None
    paths = (_first_parameter(value, producer, params) for value in op.inputs[1:])
    return next((path for path in paths if path is not None), None)


def _first_parameter(value: int, producer: Mapping[int, Equation], params: Mapping[int, str]) -> str | None:
    """The parameter at the end of the first-input path: `w` of `reshape(w) * g`."""
    while value not in params:
        eq = producer.get(value)
        if eq is None or not eq.inputs:
            return None
        value = eq.inputs[0]
    return params[value]
