"""From a JAX function to a `Trace`: one flat list of equations, with every call inlined.

The only file that touches `jax.extend`, which promises no compatibility. Functions with a gradient of their own
(`jax.custom_jvp`, `jax.custom_vjp`) are inlined when `recognised` says that their body is an op of ours (ReLU), and
stay one equation otherwise, so that their gradient survives. A short `scan` (a recurrent layer) is unrolled, and a
`cond` or `switch` whose predicate is a constant is the branch that it takes. Any other, and `while`, stay whole: the
raising refuses them where they touch an activation.
"""

from __future__ import annotations

import functools
import itertools
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core as jex_core
from jax.extend import source_info_util

from jaxq.graph.ir import Aval, Equation, Trace
from jaxq.graph.known import known

# Call primitives whose body is inlined, and the parameter that holds it. JAX has renamed them over time.
CALLS = {
    "jit": "jaxpr", "pjit": "jaxpr", "closed_call": "call_jaxpr", "core_call": "call_jaxpr", "checkpoint": "jaxpr",
    "remat": "jaxpr", "remat2": "jaxpr", "custom_lin": "jaxpr", "run_state": "jaxpr",
}  # fmt: skip
CUSTOM_GRADIENT = {
    "custom_jvp_call": "call_jaxpr",
    "custom_vjp_call": "call_jaxpr",
    "custom_vjp_call_jaxpr": "fun_jaxpr",
}

# A `scan` of at most so many equations, all its steps together, is unrolled.
LONGEST_SCAN = 8192

# A jitted function of this name is one equation, however it is built inside (`jaxq.nnx.FakeQuant`).
FAKE_QUANT = "jaxq_fake_quant"


def trace(
    fn: Callable[..., Any],
    arguments: Sequence[Any],
    recognised: Callable[[Trace], bool] | None = None,
    anonymous: bool = False,
) -> Trace:
    """Record `fn(*arguments)`; `arguments` are arrays or `ShapeDtypeStruct`s, `fn` returns a flat list of arrays.

    anonymous: without the lines of the source, and with every literal as a constant of its own, so that functions that
    differ in numbers alone have one record (`jaxq.graph.shared`).
    """
    return _flatten(jax.make_jaxpr(fn)(*arguments), recognised, anonymous)


def _flatten(jaxpr: Any, recognised: Callable[[Trace], bool] | None, anonymous: bool = False) -> Trace:
    recorder = _Recorder(recognised, anonymous)
    arguments = tuple(recorder.new(var.aval) for var in _open(jaxpr).invars)
    outputs = tuple(recorder.run(jaxpr, arguments))
    return Trace(recorder.avals, tuple(recorder.equations), recorder.constants, arguments, outputs)


class _Recorder:
    """Numbers the values of nested jaxprs and appends their equations to one list."""

    def __init__(self, recognised: Callable[[Trace], bool] | None, anonymous: bool = False) -> None:
        self.recognised, self.anonymous = recognised, anonymous
        self.avals: dict[int, Aval] = {}
        self.constants: dict[int, Any] = {}
        self.equations: list[Equation] = []
        self._numbers: Iterator[int] = itertools.count()
        self._literals: dict[tuple[Any, ...], int] = {}

    def new(self, aval: Any) -> int:
        value = next(self._numbers)
        self.avals[value] = Aval(tuple(aval.shape), aval.dtype)
        return value

    def constant(self, array: Any, aval: Any) -> int:
        value = self.new(aval)
        self.constants[value] = array
        return value

    def run(self, jaxpr: Any, arguments: Sequence[int], caller: Place | None = None) -> list[int]:
        body = _open(jaxpr)
        env = dict(zip(body.invars, arguments, strict=True))
        for var, const in zip(body.constvars, getattr(jaxpr, "consts", ()), strict=True):
            env[var] = self.constant(const, var.aval)
        for eqn in body.eqns:
            inputs = tuple(self._read(env, atom) for atom in eqn.invars)
            for var, value in zip(eqn.outvars, self._step(eqn, inputs, caller), strict=True):
                env[var] = value
        return [self._read(env, atom) for atom in body.outvars]

    def _read(self, env: Mapping[Any, int], atom: Any) -> int:
        if not isinstance(atom, jex_core.Literal):
            return env[atom]
        aval: Any = atom.aval
        if self.anonymous:
            return self.constant(atom.val, aval)
        key = (str(aval.dtype), tuple(aval.shape), np.asarray(atom.val).tobytes())
        if key not in self._literals:
            self._literals[key] = self.constant(atom.val, aval)
        return self._literals[key]

    def _step(self, eqn: Any, inputs: tuple[int, ...], caller: Place | None) -> Sequence[int]:
        name, place = eqn.primitive.name, None if self.anonymous else place_of(eqn, caller)
        if name in CALLS and eqn.params.get("name") != FAKE_QUANT:
            return self.run(eqn.params[CALLS[name]], inputs, place)
        if name in CUSTOM_GRADIENT and self._may_inline(eqn.params[CUSTOM_GRADIENT[name]]):
            return self.run(eqn.params[CUSTOM_GRADIENT[name]], inputs, place)
        if name == "scan" and eqn.params["length"] * len(_open(eqn.params["jaxpr"]).eqns) <= LONGEST_SCAN:
            return self._unrolled(eqn.params, inputs, place)
        if name == "cond" and (index := self._known(inputs[0])) is not None:
            branches = eqn.params["branches"]
            return self.run(branches[int(np.clip(index, 0, len(branches) - 1))], inputs[1:], place)
        outputs = tuple(self.new(var.aval) for var in eqn.outvars)
        primitive = FAKE_QUANT if eqn.params.get("name") == FAKE_QUANT else name
        source = "" if self.anonymous else str(place or source_info_util.summarize(eqn.source_info))
        self.equations.append(Equation(primitive, inputs, outputs, eqn.params, _bind(eqn), source))
        return outputs

    def _known(self, value: int) -> np.ndarray | None:
        return known(self.constants, {v: eq for eq in self.equations for v in eq.outputs}, value)

    def _unrolled(self, params: Mapping[str, Any], inputs: Sequence[int], place: Place | None) -> list[int]:
        """The steps of a scan one after another: slices of what it runs over go in, and what comes out is stacked."""
        constant, carried = scan_counts(params)
        consts, carry, xs = inputs[:constant], inputs[constant : constant + carried], inputs[constant + carried :]
        results: list[Sequence[int]] = []
        order = range(params["length"])
        for i in reversed(order) if params["reverse"] else order:
            slices = [self._inlined(functools.partial(_at, index=i), [x], place) for x in xs]
            outputs = self.run(params["jaxpr"], [*consts, *carry, *slices], place)
            carry = outputs[:carried]
            results.append(outputs[carried:])
        columns = zip(*(results[::-1] if params["reverse"] else results), strict=True)
        return [*carry, *(self._inlined(_stacked, column, place) for column in columns)]

    def _inlined(self, fn: Callable[..., Any], values: Sequence[int], place: Place | None) -> int:
        arguments = [jax.ShapeDtypeStruct(self.avals[v].shape, self.avals[v].dtype) for v in values]
        return self.run(jax.make_jaxpr(fn)(*arguments), values, place)[0]

    def _may_inline(self, jaxpr: Any) -> bool:
        return self.recognised is None or self.recognised(_flatten(jaxpr, self.recognised))


def scan_counts(params: Mapping[str, Any]) -> tuple[int, int]:
    """How many of a scan's inputs are constants, and how many are carried. JAX 0.12 holds them as trees."""
    if "num_consts" in params:
        return params["num_consts"], params["num_carry"]
    consts, carry, _ = params["ft_in"].unpack()
    return len(list(consts)), len(list(carry))


def _at(x: jax.Array, index: int) -> jax.Array:
    return lax.index_in_dim(x, index, keepdims=False)


def _stacked(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate([part[None] for part in parts])


def _open(jaxpr: Any) -> Any:
    """The jaxpr inside a ClosedJaxpr; newer JAX has only the one kind."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _bind(eqn: Any) -> Callable[..., Sequence[jax.Array]]:
    def call(*arguments: Any) -> Sequence[Any]:
        with eqn.ctx.manager:
            out = eqn.primitive.bind(*arguments, **eqn.primitive.get_bind_params(eqn.params))
        return out if eqn.primitive.multiple_results else [out]

    return call


class Place(NamedTuple):
    """A line of the user's: `model.py:29 (__call__)`."""

    file: str
    function: str
    line: int

    def __str__(self) -> str:
        """File name without its folder, line, function without its class."""
        return f"{os.path.basename(self.file)}:{self.line} ({self.function.rpartition('.')[2]})"


# Code of these packages is not the user's; recipes, which are meant to be copied, are.
LIBRARIES = ("jax", "flax", "optax", "jaxq", "jaxtyping", "beartype")


def place_of(eqn: Any, caller: Place | None) -> Place | None:
    """The innermost line of an equation that is the user's own.

    JAX traces a jitted library function once, so what is inside remembers its first caller: where that is the function
    that makes this call, or unknown, the line of this call is the truth.
    """
    traceback = eqn.source_info.traceback
    for frame in traceback.frames if traceback is not None else ():
        if not _is_library(frame.file_name):
            own = Place(frame.file_name, frame.function_name, frame.line_num)
            return caller if caller is not None and own[:2] == caller[:2] else own
    return caller


@functools.cache
def _is_library(file: str) -> bool:
    if file.startswith("<frozen"):
        return True
    roots = [os.path.dirname(sys.modules[name].__file__ or "") + os.sep for name in LIBRARIES if name in sys.modules]
    return any(file.startswith(root) for root in roots) and f"{os.sep}recipes{os.sep}" not in file
