"""Functions of one number that TFLite has no op for, on floats: operator by operator, as the model spells them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxq.export.program import Tensor
from jaxq.export.writer import Writer
from jaxq.graph import Op, Steps

# By JAX's primitive: TFLite's operator. LiteRT computes each in float32.
OPERATORS: Mapping[str, str] = {
    **{"add": "ADD", "sub": "SUB", "mul": "MUL", "div": "DIV", "max": "MAXIMUM", "min": "MINIMUM"},
    **{"neg": "NEG", "abs": "ABS", "exp": "EXP", "log": "LOG", "sqrt": "SQRT", "rsqrt": "RSQRT"},
    **{"tanh": "TANH", "logistic": "LOGISTIC", "square": "SQUARE"},
}
ACTIVATED = frozenset({"ADD", "SUB", "MUL", "DIV"})
COPIES = frozenset({"copy", "copy_p", "stop_gradient", "convert_element_type"})


def is_written(op: Op) -> bool:
    """Whether each step of a TABLE has an operator."""
    found = op.call.equations if isinstance(op.call, Steps) else [None]
    return all(eq is not None and (eq.primitive in OPERATORS or eq.primitive in COPIES) for eq in found)


def spelled(w: Writer, op: Op) -> None:
    """The operators of a TABLE."""
    steps = op.call
    assert isinstance(steps, Steps)
    held: dict[int, Any] = {v: np.asarray(c) for v, c in steps.recorded.constants.items()}
    held |= {v: w.frozen.operands[op.name, i].q for i, v in enumerate(steps.inputs) if i}
    held[steps.inputs[0]] = w.tensor_of[op.inputs[0]]
    for number, eq in enumerate(steps.equations):
        if eq.primitive in COPIES:
            held[eq.outputs[0]] = held[eq.inputs[0]]
            continue
        inputs = [_operand(w, f"{op.name}:{number}:operand{i}", held[v]) for i, v in enumerate(eq.inputs)]
        kind, out = OPERATORS[eq.primitive], _result(w, op, number, eq.outputs[0] == steps.value)
        w.emit(kind, inputs, [out], 1, **({"fused_activation_function": "NONE"} if kind in ACTIVATED else {}))
        held[eq.outputs[0]] = out
    w.tensor_of[op.outputs[0]] = held[steps.value]


def _operand(w: Writer, name: str, held: Any) -> int:
    return held if isinstance(held, int) else w.constant(name, np.asarray(held, np.float32))


def _result(w: Writer, op: Op, number: int, last: bool) -> int:
    if last:
        return w.activation(op.outputs[0])
    return w.tensor(Tensor(f"{op.name}:{number}", tuple(w.graph.avals[op.outputs[0]].shape), "float32"))
