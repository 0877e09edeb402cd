"""Weight arithmetic on the host, bit for bit as training computes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.frontends.call import is_key
from jaxq.graph import Equation, Graph, with_ones
from jaxq.simulate.weights import traced, weight_values


def host_weights(graph: Graph, params: Sequence[Any]) -> dict[int, Any]:
    """Every weight value as a numpy array, bit for bit as training computes it.

    What rounds once (a product, a sum of two, a quotient, a root) is the same in numpy; the rest (sums, functions) JAX
    computes, one equation at a time. No program is compiled for the whole of a model's weights, which would take
    seconds.
    """

    def run(eq: Equation, arguments: Sequence[Any]) -> Sequence[Any]:
        if eq.primitive == "weight":
            return eq.call(*arguments)
        if eq.primitive in HOST:
            return [HOST[eq.primitive](graph.avals[eq.outputs[0]].shape, eq.params, *arguments)]
        return [np.asarray(out) if not is_key(out) else out for out in traced(eq, arguments)]

    constants = {v: np.asarray(c, graph.avals[v].dtype) for v, c in graph.constants.items()}
    host = dataclasses.replace(graph, constants=constants)
    return weight_values(host, [np.asarray(p) if not is_key(p) else p for p in params], run)


def _broadcast(shape: tuple[int, ...], params: Mapping[str, Any], a: np.ndarray) -> np.ndarray:
    return np.broadcast_to(a.reshape(with_ones(params, a.shape)), shape)


def _quotient(shape: tuple[int, ...], params: Mapping[str, Any], a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a / b if jnp.issubdtype(a.dtype, jnp.floating) else np.asarray(lax.div(a, b))  # of integers towards zero


# Primitives of which each resulting number is rounded once: numpy and XLA agree in every bit.
HOST: dict[str, Callable[..., Any]] = {
    "add": lambda shape, params, a, b: a + b,
    "broadcast_in_dim": _broadcast,
    "div": _quotient,
    "expand_dims": lambda shape, params, a: a.reshape(shape),
    "mul": lambda shape, params, a, b: a * b,
    "neg": lambda shape, params, a: -a,
    "reshape": lambda shape, params, a: a.reshape(shape),
    "rsqrt": lambda shape, params, a: np.float32(1.0) / np.sqrt(a),
    "sqrt": lambda shape, params, a: np.sqrt(a),
    "squeeze": lambda shape, params, a: a.reshape(shape),
    "sub": lambda shape, params, a, b: a - b,
    "transpose": lambda shape, params, a: a.transpose(params["permutation"]),
}
