"""Functions of each number in files of floats: what TFLite has no operator for, as the operators that it has.

On integers such a function is a table of 256 entries (`elementwise.table`). On floats its recorded primitives are
written one by one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.lowering.writer import BOOL, FLOAT32, Writer
from jaxq.export.program import Tensor
from jaxq.graph import Op

Value = int | np.ndarray | np.generic  # a tensor of the program, or a constant

CALLS = ("call_jaxpr", "fun_jaxpr", "jaxpr")


class Function:
    """The operators of one function under construction."""

    def __init__(self, writer: Writer, op: Op) -> None:
        self.writer, self.op, self.count = writer, op, 0
        self.shape = tuple(writer.graph.avals[op.outputs[0]].shape)

    def emit(self, kind: str, *operands: Value, dtype: str = "float32", **options: Any) -> int:
        """One operator, its result a new tensor of the function's shape."""
        inputs = [v if isinstance(v, int) else self._constant(v) for v in operands]
        self.count += 1
        out = self.writer.tensor(Tensor(f"{self.op.name}:{self.count}", self.shape, dtype))
        self.writer.emit(kind, inputs, [out], **options)
        return out

    def _constant(self, value: np.ndarray | np.generic) -> int:
        self.count += 1
        held = np.asarray(value, np.bool_ if value.dtype == np.bool_ else np.float32)
        return self.writer.constant(f"{self.op.name}:constant{self.count}", held)

    def run(self, jaxpr: Any, constants: Sequence[Any], arguments: Sequence[Value]) -> list[Value]:
        """The equations of a jaxpr."""
        env: dict[Any, Value] = dict(zip(jaxpr.constvars, map(_compressed, constants), strict=True))
        env.update(zip(jaxpr.invars, arguments, strict=True))

        def value(v: Any) -> Value:
            return np.asarray(v.val) if hasattr(v, "val") else env[v]

        for eq in jaxpr.eqns:
            env.update(zip(eq.outvars, self._equation(eq, [value(v) for v in eq.invars]), strict=True))
        return [value(v) for v in jaxpr.outvars]

    def _equation(self, eq: Any, operands: list[Value]) -> list[Value]:
        inner = next((eq.params[key] for key in CALLS if key in eq.params), None)
        if inner is not None:
            return self.run(getattr(inner, "jaxpr", inner), getattr(inner, "consts", ()), operands)
        if not any(isinstance(v, int) for v in operands):
            found = eq.primitive.bind(*(jnp.asarray(v) for v in operands), **eq.params)
            return [_compressed(v) for v in (found if eq.primitive.multiple_results else [found])]
        if eq.primitive.name not in WRITE:
            raise ExportError(
                f"{self.op.name} ({'+'.join(self.op.attrs['of'])}, {self.op.source}): jaxq has no rule that writes "
                f"`{eq.primitive.name}` in float operators. Write it in ops of docs/ops.md, or quantize."
            )
        return [WRITE[eq.primitive.name](self, eq.params, *operands)]


def _compressed(value: Any) -> np.ndarray:
    """A constant; of one number throughout, that number."""
    array = np.asarray(value)
    return array.reshape(-1)[:1].reshape(()) if array.size and np.all(array == array.reshape(-1)[0]) else array


Write = Callable[..., Value]


def _each(kind: str, **options: Any) -> Write:
    return lambda f, params, x: f.emit(kind, x, **options)


def _both(kind: str, **options: Any) -> Write:
    return lambda f, params, a, b: f.emit(kind, a, b, **options)


def _compare(kind: str) -> Write:
    return _both(kind, dtype="bool")


def _same(f: Function, params: Any, x: Value) -> Value:
    return x


def _convert(f: Function, params: Any, x: Value) -> Value:
    assert isinstance(x, int)
    source = f.writer.tensors[x].dtype
    if jnp.issubdtype(params["new_dtype"], jnp.floating):
        return x if source == "float32" else f.emit("CAST", x, in_data_type=BOOL, out_data_type=FLOAT32)
    if source == "float32" and params["new_dtype"] == np.bool_:
        return f.emit("NOT_EQUAL", x, np.float32(0), dtype="bool")
    raise ExportError(f"{f.op.name} ({f.op.source}) converts to {params['new_dtype']}. Compute it in floats.")


def _power(f: Function, params: Any, x: Value) -> Value:
    """x to an integer: squares, multiplied."""
    wanted, square, result = abs(params["y"]), x, None
    while wanted:
        if wanted & 1:
            result = square if result is None else f.emit("MUL", result, square)
        wanted >>= 1
        square = f.emit("MUL", square, square) if wanted else square
    result = np.float32(1).reshape(()) if result is None else result
    return f.emit("DIV", np.float32(1), result) if params["y"] < 0 else result


def _select(f: Function, params: Any, condition: Value, otherwise: Value, then: Value) -> Value:
    return f.emit("SELECT_V2", condition, then, otherwise)


def _clamp(f: Function, params: Any, low: Value, x: Value, high: Value) -> Value:
    return f.emit("MINIMUM", f.emit("MAXIMUM", x, low), high)


def _halved(kind: str) -> Write:
    """sinh and cosh."""

    def write(f: Function, params: Any, x: Value) -> Value:
        exponentials = f.emit(kind, f.emit("EXP", x), f.emit("EXP", f.emit("NEG", x)))
        return f.emit("MUL", exponentials, np.float32(0.5))

    return write


def _tan(f: Function, params: Any, x: Value) -> Value:
    return f.emit("DIV", f.emit("SIN", x), f.emit("COS", x))


# Abramowitz and Stegun 7.1.26: erf to 1.5e-7.
ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def _erf(f: Function, params: Any, x: Value) -> Value:
    """`sign(x) (1 - t p(t) exp(-x^2))` with `t = 1 / (1 + 0.3275911 |x|)`."""
    denominator = f.emit("ADD", f.emit("MUL", f.emit("ABS", x), np.float32(0.3275911)), np.float32(1))
    t = f.emit("DIV", np.float32(1), denominator)
    sum_: Value = np.float32(ERF[-1]).reshape(())
    for coefficient in reversed(ERF[:-1]):
        sum_ = f.emit("ADD", f.emit("MUL", t, sum_), np.float32(coefficient))
    tail = f.emit("MUL", f.emit("MUL", t, sum_), f.emit("EXP", f.emit("NEG", f.emit("MUL", x, x))))
    return f.emit("MUL", f.emit("SIGN", x), f.emit("SUB", np.float32(1), tail))


def _erfc(f: Function, params: Any, x: Value) -> Value:
    return f.emit("SUB", np.float32(1), _erf(f, params, x))


# By JAX primitive. There are no rules for inverse functions of circles, erf_inv, cbrt, rem and bits; for round the
# reference kernels have no operator.
WRITE: dict[str, Write] = {
    "abs": _each("ABS"),
    "add": _both("ADD"),
    "and": _both("LOGICAL_AND", dtype="bool"),
    "ceil": lambda f, params, x: f.emit("NEG", f.emit("FLOOR", f.emit("NEG", x))),  # there is no reference CEIL
    "clamp": _clamp,
    "convert_element_type": _convert,
    "copy": _same,
    "copy_p": _same,
    "cos": _each("COS"),
    "cosh": _halved("ADD"),
    "div": _both("DIV"),
    "eq": _compare("EQUAL"),
    "erf": _erf,
    "erfc": _erfc,
    "exp": _each("EXP"),
    "exp2": lambda f, params, x: f.emit("EXP", f.emit("MUL", x, np.float32(math.log(2)))),
    "expm1": lambda f, params, x: f.emit("SUB", f.emit("EXP", x), np.float32(1)),
    "floor": _each("FLOOR"),
    "ge": _compare("GREATER_EQUAL"),
    "gt": _compare("GREATER"),
    "integer_pow": _power,
    "is_finite": lambda f, params, x: f.emit("EQUAL", f.emit("SUB", x, x), np.float32(0), dtype="bool"),
    "le": _compare("LESS_EQUAL"),
    "log": _each("LOG"),
    "log1p": lambda f, params, x: f.emit("LOG", f.emit("ADD", x, np.float32(1))),
    "logistic": _each("LOGISTIC"),
    "lt": _compare("LESS"),
    "max": _both("MAXIMUM"),
    "min": _both("MINIMUM"),
    "mul": _both("MUL"),
    "ne": _compare("NOT_EQUAL"),
    "neg": _each("NEG"),
    "not": _each("LOGICAL_NOT", dtype="bool"),
    "or": _both("LOGICAL_OR", dtype="bool"),
    "pow": _both("POW"),
    "rsqrt": _each("RSQRT"),
    "select_n": _select,
    "sign": _each("SIGN"),
    "sin": _each("SIN"),
    "sinh": _halved("SUB"),
    "sqrt": _each("SQRT"),
    "square": lambda f, params, x: f.emit("MUL", x, x),
    "stop_gradient": _same,
    "sub": _both("SUB"),
    "tan": _tan,
    "tanh": _each("TANH"),
}


def composition(w: Writer, op: Op) -> None:
    """A TABLE in a file of floats."""
    assert op.call is not None
    x = op.inputs[0]
    numbers = [w.frozen.operands[op.name, i].q for i in range(1, len(op.inputs))]
    shapes = [jax.ShapeDtypeStruct(w.graph.avals[v].shape, w.graph.avals[v].dtype) for v in op.inputs]
    closed = jax.make_jaxpr(op.call)(*shapes)
    (result,) = Function(w, op).run(closed.jaxpr, closed.consts, [w.tensor_of[x], *map(_compressed, numbers)])
    if not isinstance(result, int) or result == w.tensor_of[x]:
        raise ExportError(f"{op.name} ({op.source}) does not depend on its input. Replace it by what it is.")
    w.tensors[result] = dataclasses.replace(w.tensors[result], name=w.graph.site_names[op.outputs[0]])
    w.tensor_of[op.outputs[0]] = result
