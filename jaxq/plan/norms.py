"""Which ops have a BatchNorm folded into them, and which of their parameters are its running mean and variance.

A parameter is told by what it does to the folded kernel and bias, whatever the model calls it: with positive parameters

    w = k g,   b = (c - mean) g + beta,   g = gamma / sqrt(var + epsilon)

so that `db / dmean < 0` while no kernel depends on the mean, and `2 var (dw / dvar) / w` is nearly -1. That is tried on
random numbers, once a plan, and only where the recipe says `norm = "follow"`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.graph import Equation, Graph, Op, equations_behind, weight_origins
from jaxq.ops import OPS

MEAN, VAR = "norm_mean", "norm_var"
KEYS = frozenset({MEAN, VAR})
NEARLY = (-1.001, -0.9)  # of 2 var (dw / dvar) / w = -var / (var + epsilon), for var in [1/2, 3/2]


@dataclasses.dataclass(frozen=True)
class Norm:
    """A BatchNorm folded into an op: its op's name, the places of its mean and variance among the model's parameters,
    and the number of channels.
    """

    op: str
    mean: int
    var: int
    channels: int

    def holds(self, node: Any) -> bool:
        """Whether a node is the state of this BatchNorm's statistics."""
        return is_norm_state(node) and all(np.shape(a) == (self.channels,) for a in node.values())

    def new_state(self) -> dict[str, jax.Array]:
        """A state not yet calibrated: NaN, so that using it cannot go unnoticed."""
        return {key: jnp.full((self.channels,), jnp.nan, jnp.float32) for key in (MEAN, VAR)}

    def state_of(self, params: Sequence[Any]) -> dict[str, jax.Array]:
        """The state of the statistics among a model's parameters."""
        return {key: jnp.asarray(params[i], jnp.float32).reshape(-1) for key, i in ((MEAN, self.mean), (VAR, self.var))}


def is_norm_state(node: Any) -> bool:
    """Whether a node of a pytree is the state of a BatchNorm that follows."""
    return isinstance(node, Mapping) and frozenset(node) == KEYS


def norms_of(graph: Graph) -> dict[str, Norm]:
    """The BatchNorms folded into ops that alone read their statistics, by site: `block0/conv/kernel:norm`."""
    tried = _Trial.of(graph)
    found = {f"{op.name}:norm": tried.norm(op) for op in tried.ops}
    return {site: norm for site, norm in found.items() if norm is not None}


@dataclasses.dataclass(frozen=True)
class _Trial:
    """Weights on random numbers. names: of leaves. candidates: by op, the leaves that it alone reads and that have a
    number a channel. slopes: by op, for each candidate in turn, [db, db along a ramp, 2 var dw / w].
    """

    ops: tuple[Op, ...]
    candidates: Mapping[str, tuple[int, ...]]
    slopes: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]]

    @staticmethod
    def of(graph: Graph) -> _Trial:
        origins, names = weight_origins(graph), list(graph.params.values())
        ops = [op for op in graph.ops if op.kind in OPS and OPS[op.kind].weights]
        read = {name: {op.name for op in ops for v in op.inputs[1:] if name in origins.get(v, ())} for name in names}
        candidates = {op.name: _candidates(graph, op, names, origins, read) for op in ops}
        tried = tuple(op for op in ops if len(candidates[op.name]) >= 2)
        return _Trial(tried, candidates, _slopes(graph, tried, candidates) if tried else {})

    def norm(self, op: Op) -> Norm | None:
        """The op's BatchNorm, if it has one mean and one variance."""
        pairs = list(zip(self.candidates[op.name], self.slopes[op.name], strict=True))
        means = [leaf for leaf, (db, along, dw) in pairs if np.all(db < 0) and not dw.any() and _diagonal(db, along)]
        found = [leaf for leaf, (_, _, dw) in pairs if np.all((dw > NEARLY[0]) & (dw < NEARLY[1]))]
        if len(means) != 1 or len(found) != 1:
            return None
        return Norm(op.name, means[0], found[0], len(pairs[0][1][0]))


def _candidates(
    graph: Graph, op: Op, names: Sequence[str], origins: Mapping[int, Sequence[str]], read: Mapping[str, set[str]]
) -> tuple[int, ...]:
    """The leaves that this op alone reads, its bias among what reads them, and that have a number a channel."""
    shapes = [graph.avals[v].shape for v in graph.params]
    channels = graph.avals[op.inputs[2]].shape[-1]
    own = [i for i, name in enumerate(names) if read[name] == {op.name} and name in origins[op.inputs[2]]]
    return tuple(i for i in own if int(np.prod(shapes[i], initial=1)) == channels)


def _slopes(graph: Graph, ops: Sequence[Op], candidates: Mapping[str, tuple[int, ...]]) -> dict[str, list[Any]]:
    """The derivatives of kernels and biases, of all ops together: one candidate of each at a time."""
    rng, places = np.random.default_rng(0), {v: i for i, v in enumerate(graph.params)}
    equations, needed = _needed(graph, {v for op in ops for v in op.inputs[1:]})
    values = {v: jnp.asarray(rng.uniform(0.5, 1.5, graph.avals[v].shape), graph.avals[v].dtype) for v in needed}

    @jax.jit
    def derivative(values: Any, tangents: Any) -> Any:
        def weights(values: Any) -> Any:
            env = {**graph.constants, **values}
            for eq in equations:
                env.update(zip(eq.outputs, eq.call(*(env[v] for v in eq.inputs)), strict=True))
            return {v: jnp.asarray(env[v], jnp.float32) for op in ops for v in op.inputs[1:]}

        return jax.jvp(weights, (values,), (tangents,))

    found: dict[str, list[Any]] = {op.name: [] for op in ops}
    for turn in range(max(len(candidates[op.name]) for op in ops)):
        moving = {candidates[op.name][turn]: op for op in ops if turn < len(candidates[op.name])}
        still = {v: jnp.zeros_like(a) for v, a in values.items()}
        moved = {v: a for v, a in values.items() if places[v] in moving}
        primal, flat = derivative(values, still | {v: jnp.ones_like(a) for v, a in moved.items()})
        _, sloped = derivative(values, still | {v: _along(a) for v, a in moved.items()})
        for v, var in moved.items():
            found[moving[places[v]].name].append(_of_op(moving[places[v]], primal, flat, sloped, var))
    return found


def _of_op(op: Op, primal: Any, flat: Any, sloped: Any, var: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    w, bias = op.inputs[1:]
    relative = 2 * np.asarray(flat[w]) / np.asarray(primal[w]) * np.asarray(var).reshape(-1)
    return np.asarray(flat[bias]), np.asarray(sloped[bias]), relative


def _along(array: Any) -> Any:
    return 1 + jnp.arange(array.size, dtype=jnp.float32).reshape(array.shape) / array.size


def _diagonal(flat: np.ndarray, sloped: np.ndarray) -> bool:
    """Whether each channel of a bias moves with its own number alone."""
    return bool(np.allclose(sloped, flat * np.asarray(_along(flat)), rtol=1e-4))


def _needed(graph: Graph, values: set[int]) -> tuple[tuple[Equation, ...], list[int]]:
    """The weight arithmetic behind some values, in order, and the parameters that it reads."""
    equations = equations_behind(graph.weights, values)
    read = values.union(*(eq.inputs for eq in equations))
    return equations, [v for v in graph.params if v in read]
