"""The contractions of a function, found in its jaxpr: their names, the user's lines, and how each is computed.

A contraction goes by the path of the parameter that it reads (`block0/conv/kernel`), `#2` where that is read a second
time, or by its primitive and order (`dot_general`, `dot_general_1`) where it reads none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from jaxq.errors import CaptureError
from jaxq.gradients.backward import Backward, backward_for, check_backward_rules
from jaxq.gradients.geometry import KINDS, Geometry, geometry
from jaxq.gradients.schemes import SCHEMES, State
from jaxq.graph.capture import CALLS, CUSTOM_GRADIENT, Place, place_of, scan_counts

# Where an equation stands: its index in the jaxpr, and in the jaxprs that this one is called from, outermost first.
Address = tuple[int, ...]

# Of a value: the path of the parameter that it is formed from, "" for constants, None where it depends on data.
Origin = str | None


class Site(NamedTuple):
    """One contraction.

    Attributes:
      name: path of its parameter, or primitive and order.
      line: the user's, `model.py:29 (__call__)`.
      shape: what is contracted.
      how: its backward pass; None: floats.
      repeats: the lengths of the scans around it: it has a state for each of their steps.
      kernel: the shape of w.
    """

    name: str
    line: str
    shape: Geometry
    how: Backward | None
    repeats: tuple[int, ...]
    kernel: tuple[int, ...]

    def start(self) -> State:
        """The state before the first step, {} where the scheme has none."""
        if self.how is None:
            return {}
        state = SCHEMES[self.how.scheme].start(self.shape.channels(self.kernel))
        return {k: jnp.broadcast_to(v, (*self.repeats, *v.shape)) for k, v in state.items()}


class Body(NamedTuple):
    """A jaxpr inside an equation: where its own equations are, the origins of its inputs, and how it is run."""

    jaxpr: Any
    number: int
    origins: list[Origin]
    repeats: tuple[int, ...] = ()
    forward_only: bool = False
    stateless: bool = False


class _Found(NamedTuple):
    """A contraction before it has a name."""

    address: Address
    eqn: Any
    origin: Origin
    place: Place | None
    repeats: tuple[int, ...]
    forward_only: bool
    stateless: bool


def find_sites(jaxpr: Any, origins: Sequence[Origin], how: Backward) -> dict[Address, Site]:
    """Every contraction of floats, by address.

    Args:
      jaxpr: of the function, open.
      origins: of its inputs: a parameter's path, or None.
      how: the backward pass, whose rules are read here.

    Raises:
      CaptureError: a contraction of integers or complex numbers that no rule leaves alone; a scheme with a state
        inside a shard_map.
      UnmatchedRuleError: a rule that matches no contraction.
    """
    found: list[_Found] = []
    _walk(jaxpr, list(origins), (), None, Body(jaxpr, 0, []), found)
    names = _names(found)
    lines = [str(f.place) if f.place is not None else "unknown line" for f in found]
    keys = [(name, line.partition(" ")[0]) for name, line in zip(names, lines, strict=True)]
    check_backward_rules(how, dict.fromkeys(key for pair in keys for key in pair))
    rows = zip(found, names, lines, keys, strict=True)
    return {f.address: _site(f, name, line, backward_for(how, key)) for f, name, line, key in rows}


def _site(found: _Found, name: str, line: str, how: Backward | None) -> Site:
    x, w = (atom.aval for atom in found.eqn.invars[:2])
    shape = geometry(found.eqn.primitive.name, found.eqn.params, x, w)
    if how is not None:
        _check_numbers(found, name, line)
        if found.forward_only:  # there is no gradient: nothing to keep a state for
            how = Backward(compute=how.compute)
        if found.stateless and SCHEMES[how.scheme].start(shape.channels(w.shape)):
            raise CaptureError(
                f"{name} at {line} is inside a shard_map, where the scheme {how.scheme!r} cannot keep its state: every "
                f'device would have its own. Use "row" for it, with BackwardRule({name!r}, scheme="row").'
            )
    return Site(name, line, shape, how, found.repeats, tuple(w.shape))


def _check_numbers(found: _Found, name: str, line: str) -> None:
    for operand, atom in zip("xw", found.eqn.invars, strict=False):
        dtype = atom.aval.dtype
        if not jnp.issubdtype(dtype, jnp.floating):
            kind = "complex numbers" if jnp.issubdtype(dtype, jnp.complexfloating) else "integers"
            raise CaptureError(
                f"{name} at {line} contracts {kind}: its operand {operand} is {dtype}"
                f"{list(atom.aval.shape)}. INT8 training quantizes real floats. Convert it to float32, or leave the "
                f'contraction as it is with BackwardRule("{line.partition(" ")[0]}", float=True).'
            )


def _walk(
    jaxpr: Any, origins: list[Origin], prefix: Address, caller: Place | None, body: Body, found: list[_Found]
) -> list[Origin]:
    """Append the contractions of a jaxpr; the origins of its results."""
    known: dict[Any, Origin] = dict(zip(jaxpr.invars, origins, strict=True)) | dict.fromkeys(jaxpr.constvars, "")
    for i, eqn in enumerate(jaxpr.eqns):
        inputs = ["" if hasattr(atom, "val") else known[atom] for atom in eqn.invars]
        address, place = (*prefix, i), place_of(eqn, caller)
        results: list[Origin] = [_combined(eqn.invars, inputs)] * len(eqn.outvars)
        if eqn.primitive.name in KINDS:
            origin = inputs[1] or inputs[0]
            where = body.repeats, body.forward_only, body.stateless
            found.append(_Found(address, eqn, origin, place, *where))
        for inner in bodies(eqn, inputs):
            joined = inner._replace(
                repeats=(*body.repeats, *inner.repeats),
                forward_only=body.forward_only or inner.forward_only,
                stateless=body.stateless or inner.stateless,
            )
            results = _walk(inner.jaxpr, inner.origins, (*address, inner.number), place, joined, found)
        known.update(zip(eqn.outvars, results, strict=True))
    return [("" if hasattr(atom, "val") else known[atom]) for atom in jaxpr.outvars]


def bodies(eqn: Any, inputs: Sequence[Origin]) -> Iterator[Body]:
    """The jaxprs inside an equation that INT8 training enters."""
    name, params, given = eqn.primitive.name, eqn.params, list(inputs)
    if name in CALLS:
        yield Body(opened(params[CALLS[name]]), 0, given)
    elif name in CUSTOM_GRADIENT:
        yield Body(opened(params[CUSTOM_GRADIENT[name]]), 0, given, forward_only=True)
    elif name == "cond":
        yield from (Body(opened(branch), i, given[1:]) for i, branch in enumerate(params["branches"]))
    elif name == "while":
        first, last = params["cond_nconsts"], params["cond_nconsts"] + params["body_nconsts"]
        carry: list[Origin] = [None] * (len(given) - last)
        yield Body(opened(params["body_jaxpr"]), 0, [*given[first:last], *carry], forward_only=True)
    elif name == "scan":
        constant, carried = scan_counts(params)
        unknown: list[Origin] = [None] * carried
        origins = [*given[:constant], *unknown, *given[constant + carried :]]
        yield Body(opened(params["jaxpr"]), 0, origins, repeats=(params["length"],))
    elif name == "shard_map":
        yield Body(opened(params["jaxpr"]), 0, given, stateless=True)


def opened(jaxpr: Any) -> Any:
    """The jaxpr inside a ClosedJaxpr; newer JAX has only the one kind."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def _combined(atoms: Sequence[Any], origins: Sequence[Origin]) -> Origin:
    """The origin of a result: that of the largest operand formed from parameters, None where any is data."""
    if any(origin is None for origin in origins):
        return None
    sizes = {o: a.aval.size for a, o in zip(reversed(atoms), reversed(origins), strict=True) if o}
    return max(sizes, key=sizes.__getitem__, default="")


def _names(found: Sequence[_Found]) -> list[str]:
    """One name a contraction, all different."""
    seen: Counter[str] = Counter()
    names = []
    for f in found:
        stem = f.origin or f.eqn.primitive.name
        count = seen[stem]
        seen[stem] += 1
        names.append(stem if not count else f"{stem}#{count + 1}" if f.origin else f"{stem}_{count}")
    return names
