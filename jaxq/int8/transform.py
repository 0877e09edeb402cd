"""A function whose contractions compute in int8, forward and backward; nothing else of it changes.

The function is traced to a jaxpr and evaluated again, with `jaxq.gradients.contraction` in the place of each
`dot_general` and `conv_general_dilated` of floats. Bodies of jit, checkpoint, scan, cond, while, custom_jvp,
custom_vjp and shard_map are entered where they hold a contraction, and else bound as they are. A custom gradient rule
stays the user's, in floats; what its function computes is int8.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.core
from jax import lax

from jaxq.gradients.contraction import contraction
from jaxq.gradients.schemes import State
from jaxq.graph.capture import CALLS, CUSTOM_GRADIENT, scan_counts
from jaxq.int8.sites import Address, Site, opened

Sites = Mapping[Address, Site]
States = dict[str, State]


def evaluate(jaxpr: Any, consts: Sequence[Any], values: Sequence[Any], run: Run, prefix: Address = ()) -> list[Any]:
    """The results of a jaxpr with its contractions in int8."""
    env: dict[Any, Any] = dict(zip((*jaxpr.constvars, *jaxpr.invars), (*consts, *values), strict=True))
    for i, eqn in enumerate(jaxpr.eqns):
        inputs = [atom.val if hasattr(atom, "val") else env[atom] for atom in eqn.invars]
        env.update(zip(eqn.outvars, _step(eqn, inputs, run, (*prefix, i)), strict=True))
    return [atom.val if hasattr(atom, "val") else env[atom] for atom in jaxpr.outvars]


class Run:
    """What an evaluation needs beside the values: the sites, and the states of those that have one, by name."""

    def __init__(self, sites: Sites, states: States) -> None:
        self.sites, self.states = sites, states

    def inside(self, address: Address) -> bool:
        """Whether there is a contraction to quantize in the equation's bodies."""
        n = len(address)
        return any(a[:n] == address and s.how is not None for a, s in self.sites.items())

    def within(self, address: Address) -> States:
        """The states of the contractions in the equation's bodies."""
        names = {s.name for a, s in self.sites.items() if a[: len(address)] == address}
        return {name: state for name, state in self.states.items() if name in names}

    def with_states(self, states: States) -> Run:
        """The same sites, other states."""
        return Run(self.sites, self.states | states)


def _step(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    site = run.sites.get(address)
    if site is not None and site.how is not None:
        return [contraction(site.shape, site.how, inputs[0], inputs[1], run.states.get(site.name, {}))]
    if site is None and run.inside(address):
        return _inner(eqn)(eqn, inputs, run, address)
    return bound(eqn, inputs)


def bound(eqn: Any, inputs: Sequence[Any]) -> Sequence[Any]:
    """The equation's results, as they were."""
    with eqn.ctx.manager:
        out = eqn.primitive.bind(*inputs, **eqn.primitive.get_bind_params(eqn.params))
    return out if eqn.primitive.multiple_results else [out]


def _inner(eqn: Any) -> Callable[..., Sequence[Any]]:
    name = eqn.primitive.name
    if name in ("checkpoint", "remat", "remat2"):
        return _checkpoint
    return _call if name in CALLS else _custom if name in CUSTOM_GRADIENT else INNER[name]


def _call(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    inner = eqn.params[CALLS[eqn.primitive.name]]
    return _evaluated(inner, inputs, run, (*address, 0))


def _evaluated(inner: Any, inputs: Sequence[Any], run: Run, prefix: Address) -> list[Any]:
    return evaluate(opened(inner), getattr(inner, "consts", ()), inputs, run, prefix)


def _checkpoint(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    def body(states: States, *values: Any) -> list[Any]:
        return _evaluated(eqn.params["jaxpr"], values, run.with_states(states), (*address, 0))

    kept = {k: eqn.params[k] for k in ("policy", "prevent_cse") if k in eqn.params}
    return jax.checkpoint(body, **kept)(run.within(address), *inputs)


def _custom(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    """The value in int8; the derivative by the user's rule, in floats."""
    jvp, consts = "jvp" in eqn.primitive.name, inputs[: eqn.params.get("num_consts", 0)]

    def value(*values: Any) -> list[Any]:
        inner = eqn.params[CUSTOM_GRADIENT[eqn.primitive.name]]
        return _evaluated(inner, [*consts, *values], run, (*address, 0))

    def original(*values: Any) -> list[Any]:
        return list(bound(eqn, [*consts, *values]))

    if jvp:
        fn: Any = jax.custom_jvp(value)
        fn.defjvp(lambda primals, tangents: (value(*primals), jax.jvp(original, primals, tangents)[1]))
    else:
        fn = jax.custom_vjp(value)
        fn.defvjp(lambda *values: (value(*values), jax.vjp(original, *values)[1]), lambda vjp, g: vjp(list(g)))
    return fn(*inputs[len(consts) :])


def _scan(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    constant, carried = scan_counts(eqn.params)
    consts, carry, xs = inputs[:constant], inputs[constant : constant + carried], inputs[constant + carried :]

    def body(carry: Any, slices: Any) -> tuple[Any, Any]:
        states, values = slices
        prefix, inner = (*address, 0), run.with_states(states)
        outputs = _evaluated(eqn.params["jaxpr"], [*consts, *carry, *values], inner, prefix)
        return outputs[:carried], outputs[carried:]

    kept = {k: eqn.params[k] for k in ("length", "reverse", "unroll")}
    carry, ys = lax.scan(body, list(carry), (run.within(address), list(xs)), **kept)
    return [*carry, *ys]


def _while(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    p = eqn.params
    first, last = p["cond_nconsts"], p["cond_nconsts"] + p["body_nconsts"]

    def going_on(carry: Any) -> Any:
        inner = p["cond_jaxpr"]
        return jax.core.eval_jaxpr(opened(inner), getattr(inner, "consts", ()), *inputs[:first], *carry)[0]

    def body(carry: Any) -> Any:
        return _evaluated(p["body_jaxpr"], [*inputs[first:last], *carry], run, (*address, 0))

    return lax.while_loop(going_on, body, list(inputs[last:]))


def _cond(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    def branch(i: int, inner: Any) -> Callable[..., list[Any]]:
        return lambda states, *values: _evaluated(inner, values, run.with_states(states), (*address, i))

    choices = [branch(i, inner) for i, inner in enumerate(eqn.params["branches"])]
    return lax.switch(inputs[0], choices, run.within(address), *inputs[1:])


def _shard_map(eqn: Any, inputs: Sequence[Any], run: Run, address: Address) -> Sequence[Any]:
    p = eqn.params
    axes = p.get("newly_manual_axes", p.get("manual_axes", frozenset()))

    def body(*values: Any) -> tuple[Any, ...]:
        return tuple(_evaluated(p["jaxpr"], values, run, (*address, 0)))

    return jax.shard_map(
        body,
        mesh=p["mesh"],
        in_specs=tuple(p["in_specs"]),
        out_specs=tuple(p["out_specs"]),
        axis_names=set(axes),
        check_vma=p["check_vma"],
    )(*inputs)


INNER: dict[str, Callable[..., Sequence[Any]]] = {
    "cond": _cond,
    "scan": _scan,
    "shard_map": _shard_map,
    "while": _while,
}
