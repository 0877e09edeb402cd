"""Parameters from weights: the inverse of weight arithmetic, for passes that change what an op multiplies by.

A folded kernel is `w = P D k`, a permutation of an elementwise product of one parameter with what BatchNorm gives, and
a folded bias is `b = P D k + c`. With J the derivative of a weight value by that parameter, `J^T J r = D^2 r`, so

    k' = k + J^T (w' - w) / (J^T J r / r)

gives the value w', for any r without zeros. (r is not all ones, which weight standardization maps to zero.)

Nothing here knows Flax, BatchNorm or TFLite: only `weight_values` is differentiated.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxq.errors import AssignError
from jaxq.graph import Graph, Op, equations_behind, weight_origins
from jaxq.simulate.weights import weight_values

ROUNDS = 3  # of the update: one solves, one compensates a bias that reads the kernel too, one takes float32's rounding
TOLERANCE = 1e-5
PROBE = 0.1  # by which part `refusals` tries to move each number

Choice = tuple[tuple[int, int], ...]  # weight values, each with the position of the parameter that is to move


class Assignment(NamedTuple):
    """Parameters that give the weights wanted.

    Attributes:
      params: the leaves, those that move as new arrays of the same shape and dtype.
      unreached: by weight value, how many of its numbers no parameter moves (gamma = 0) though another was wanted.
    """

    params: list[Any]
    unreached: dict[int, int]


def assigned(
    graph: Graph,
    params: Sequence[Any],
    wanted: Mapping[int, Any],
    *,
    statistics: Collection[str] = (),
    tolerance: float = TOLERANCE,
) -> Assignment:
    """Parameters whose weight arithmetic gives the weights wanted; every other weight that an op reads stays.

    Of the parameters that a weight is computed from, one moves: one that no other weight reads before one that others
    read too (these are then kept by parameters of their own), a trained one before a statistic, the largest first.

    Args:
      graph: a captured graph.
      params: its parameters, in the order of `graph.params`.
      wanted: by weight value (an input of an op), float32 of that value's shape.
      statistics: names of parameters that training does not move, such as BatchNorm's running mean.
      tolerance: the largest error allowed, relative to the largest number of the weight.

    Returns:
      The new parameters. Numbers whose derivative is zero (a channel whose BatchNorm has gamma = 0) stay as they are
      and are counted.

    Raises:
      AssignError: a weight is read by several ops, shares every parameter with another weight, or is no elementwise
        product of a parameter (weight standardization). Names the op and the parameters.

    Example:
      >>> from jaxq.graph import capture
      >>> graph = capture(lambda w, b, x: [x @ w + b], [jnp.ones((2, 3)), jnp.zeros(3)], ["w", "b"], [jnp.ones((1, 2))])
      >>> value = graph.ops[0].inputs[1]
      >>> assigned(graph, [jnp.ones((2, 3)), jnp.zeros(3)], {value: jnp.full((2, 3), 2.0)}).params[0].tolist()
      [[2.0, 2.0, 2.0], [2.0, 2.0, 2.0]]
    """
    chosen = _chosen(graph, params, tuple(wanted), frozenset(statistics))
    kept = computed(graph, tuple(v for v, _ in chosen if v not in wanted), tuple(params))
    full = {v: jnp.asarray(wanted[v] if v in wanted else kept[v], jnp.float32) for v, _ in chosen}
    leaves, errors, unreached = _solved(graph, chosen, tuple(params), full, jnp.float32(tolerance))
    for value, leaf in chosen:
        if not float(errors[value]) <= tolerance:
            raise AssignError(_not_elementwise(graph, value, leaf, float(errors[value])))
    return Assignment(list(leaves), {v: int(n) for v, n in unreached.items() if int(n)})


def refusals(
    graph: Graph, params: Sequence[Any], values: Sequence[int], *, statistics: Collection[str] = ()
) -> dict[int, str]:
    """The weights that `assigned` would refuse, wanted together, each with the error's text. Changes nothing."""
    kept, found = _compatible(graph, params, tuple(values), frozenset(statistics))
    chosen = _chosen(graph, params, kept, frozenset(statistics))
    env = computed(graph, tuple(v for v, _ in chosen), tuple(params))
    moved = {v: jnp.asarray(env[v], jnp.float32) for v, _ in chosen}
    moved |= {v: moved[v] * _probe(moved[v].shape) for v in kept}
    _, errors, _ = _solved(graph, chosen, tuple(params), moved, jnp.float32(TOLERANCE))
    off = {v: (leaf, float(errors[v])) for v, leaf in chosen if not float(errors[v]) <= TOLERANCE}
    return found | {v: _not_elementwise(graph, v, *missed) for v, missed in off.items()}


def _compatible(
    graph: Graph, params: Sequence[Any], values: tuple[int, ...], statistics: frozenset[str]
) -> tuple[tuple[int, ...], dict[int, str]]:
    """The values that have a parameter each, and why the rest has none."""
    try:
        _chosen(graph, params, values, statistics)
    except AssignError:
        pass
    else:
        return values, {}
    kept, found = (), {}
    for value in values:
        try:
            _chosen(graph, params, (*kept, value), statistics)
        except AssignError as error:
            found[value] = str(error)
        else:
            kept = (*kept, value)
    return kept, found


@functools.partial(jax.jit, static_argnums=(0, 1))
def computed(graph: Graph, values: tuple[int, ...], params: tuple[Any, ...]) -> dict[int, Any]:
    """Some weight values, compiled together."""
    env = weight_values(graph, params) if values else {}
    return {v: env[v] for v in values}


def _probe(shape: tuple[int, ...]) -> jax.Array:
    """Factors near 1, no two alike."""
    return 1 + PROBE * jnp.sin(jnp.arange(math.prod(shape), dtype=jnp.float32)).reshape(shape)


# --- which parameter moves ------------------------------------------------------------------------------------------


def _chosen(graph: Graph, params: Sequence[Any], wanted: tuple[int, ...], statistics: frozenset[str]) -> Choice:
    """Each wanted value with the position of its parameter, then those that have to be kept because one moves."""
    names, origins = list(graph.params.values()), weight_origins(graph)
    read = _readers(graph, origins)
    floating = [i for i, p in enumerate(params) if jnp.issubdtype(p.dtype, jnp.floating)]
    chosen: dict[int, int] = {}
    pending, cause = list(wanted), {value: value for value in wanted}  # for which wanted value one has to be kept
    while pending:
        value = pending.pop(0)
        if value in chosen:
            continue
        if value in wanted:
            _refuse_shared(graph, value, read)
        own = [i for i in floating if names[i] in origins.get(value, ()) and i not in chosen.values()]
        others = {i: [v for v in read if v != value and names[i] in origins[v]] for i in own}
        order = sorted(own, key=lambda i: (len(others[i]), names[i] in statistics, -params[i].size, i))
        if not order:
            raise AssignError(_no_parameter(graph, cause[value], origins, read))
        chosen[value] = order[0]
        pending += [v for v in others[order[0]] if v not in chosen]
        cause = {v: cause[value] for v in others[order[0]]} | cause
    return tuple(chosen.items())


def _readers(graph: Graph, origins: Mapping[int, tuple[str, ...]]) -> dict[int, list[Op]]:
    """The ops that read each weight value that is computed from parameters."""
    found: dict[int, list[Op]] = {}
    for op in graph.ops:
        for value in dict.fromkeys(v for v in op.inputs if origins.get(v)):
            found.setdefault(value, []).append(op)
    return found


def _refuse_shared(graph: Graph, value: int, read: Mapping[int, list[Op]]) -> None:
    ops = read.get(value, [])
    if len(ops) > 1:
        raise AssignError(
            f"{_described(graph, value)} is read by {len(ops)} ops ({', '.join(op.name for op in ops)}): changed for "
            "one of them it would change the others. Give each op a kernel of its own, or leave this one as it is."
        )


def _no_parameter(
    graph: Graph, value: int, origins: Mapping[int, tuple[str, ...]], read: Mapping[int, list[Op]]
) -> str:
    names = origins.get(value, ())
    if not names:
        return (
            f"{_described(graph, value)} is computed from no parameter: it is a constant of the model's code. To "
            "change it, make it a parameter (a layer without a bias: use_bias=True)."
        )
    sharing = [op.name for v, ops in read.items() if v != value and set(names) & set(origins[v]) for op in ops]
    return (
        f"{_described(graph, value)} shares all of its parameters with {', '.join(dict.fromkeys(sharing)) or 'none'}: "
        "changed for one op they would change the other. Untie them, or leave this weight as it is."
    )


def _not_elementwise(graph: Graph, value: int, leaf: int, error: float) -> str:
    name = list(graph.params.values())[leaf]
    return (
        f"{_described(graph, value)} cannot be set through {name}: the best that this parameter gives is off by "
        f"{error:.2g} of the largest number. The weight is no elementwise product of it (weight standardization, or "
        "a parameter of fewer bits than float32). Leave this weight as it is, or store the product as the parameter."
    )


def _described(graph: Graph, value: int) -> str:
    """`The kernel of conv/kernel (model.py:12), computed from bn/scale, conv/kernel`."""
    op = next((op for op in graph.ops if value in op.inputs), None)
    origins = weight_origins(graph).get(value, ())
    if op is None:
        return f"Weight value {value}, which no op reads,"
    position = op.inputs.index(value)
    kind = {1: "kernel", 2: "bias"}.get(position, f"operand {position}")
    source = f" ({op.source})" if op.source else ""
    return f"The {kind} of {op.name}{source}" + (f", computed from {', '.join(origins)}," if origins else "")


# --- how far it moves -----------------------------------------------------------------------------------------------


@functools.partial(jax.jit, static_argnums=(0, 1))
def _solved(
    graph: Graph, chosen: Choice, params: tuple[Any, ...], wanted: Mapping[int, Any], tolerance: Any
) -> tuple[tuple[Any, ...], dict[int, Any], dict[int, Any]]:
    """The parameters, the largest error of each value that they reach (relative), and how many numbers they do not."""
    parts = {v: dataclasses.replace(graph, weights=equations_behind(graph.weights, [v])) for v, _ in chosen}

    def once(_: Any, leaves: tuple[Any, ...]) -> tuple[Any, ...]:
        for value, leaf in chosen:
            leaves = _moved(parts[value], leaves, value, leaf, wanted[value])
        return leaves

    leaves = jax.lax.fori_loop(0, ROUNDS, once, params)
    found = {v: _missed(parts[v], leaves, v, leaf, wanted[v], tolerance) for v, leaf in chosen}
    return leaves, {v: error for v, (error, _) in found.items()}, {v: count for v, (_, count) in found.items()}


def _of_leaf(graph: Graph, leaves: tuple[Any, ...], value: int, leaf: int) -> Any:
    """The weight value as a function of one parameter, the others as they are."""
    return lambda k: jnp.asarray(weight_values(graph, [*leaves[:leaf], k, *leaves[leaf + 1 :]])[value], jnp.float32)


def _moved(graph: Graph, leaves: tuple[Any, ...], value: int, leaf: int, wanted: Any) -> tuple[Any, ...]:
    k = leaves[leaf]
    now, linear = jax.linearize(_of_leaf(graph, leaves, value, leaf), k)
    transposed = jax.linear_transpose(linear, k)
    direction = _probe(k.shape).astype(k.dtype)
    (square,), (step,) = transposed(linear(direction)), transposed(wanted - now)
    square = square / direction
    move = jnp.where(square > 0, step / jnp.where(square > 0, square, 1), 0)
    return (*leaves[:leaf], (k + move).astype(k.dtype), *leaves[leaf + 1 :])


def _missed(
    graph: Graph, leaves: tuple[Any, ...], value: int, leaf: int, wanted: Any, tolerance: Any
) -> tuple[Any, Any]:
    k = leaves[leaf]
    now, slope = jax.jvp(_of_leaf(graph, leaves, value, leaf), (k,), (_probe(k.shape).astype(k.dtype),))
    size = jnp.maximum(jnp.max(jnp.abs(wanted), initial=0.0), jnp.finfo(jnp.float32).tiny)
    gap = jnp.abs(now - wanted) / size
    return jnp.max(jnp.where(slope != 0, gap, 0), initial=0.0), jnp.sum((slope == 0) & (gap > tolerance))
