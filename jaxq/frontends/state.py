"""Refuses a model that keeps a state between calls: its file would begin every call from the same state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax

from jaxq.errors import CaptureError
from jaxq.frontends.core import Target, graph_of
from jaxq.graph.ir import Graph


def refuse_state(target: Target, args: Sequence[Any], kwargs: Mapping[str, Any], watched: Iterable[str]) -> None:
    """Raise CaptureError where the model's result depends on a variable that the call sets from its inputs.

    Args:
      target: whose function returns the result and a dict of the variables that it sets, by the number of the leaf.
      args, kwargs: an example.
      watched: names of leaves. Where there is none, nothing is traced.

    What is written and not read (sown losses) stays inside, and what is read and not written is a constant.
    """
    names = frozenset(watched)
    if not names:
        return
    graph, structure = graph_of(target, args, kwargs)
    result, written = jax.tree.unflatten(structure, graph.outputs)
    kept = {target.names[i]: v for i, v in written.items() if target.names[i] in names and v in graph.activations}
    kept = {name: v for name, v in kept.items() if name in _read(graph, jax.tree.leaves(result))}
    if kept:
        name, value = min(kept.items())
        raise CaptureError(
            f"The result depends on the variable {name} of shape {list(graph.avals[value].shape)}, which each call "
            "sets from its inputs, and a file keeps no state between calls. Take the state as an argument and return "
            'the new one (ties = [["state_in", "state_out"]] in the recipe gives both one range); for an attention '
            "layer with decode=True, pass keys and values, or quantize it with decode=False."
        )


def _read(graph: Graph, results: Iterable[int]) -> set[str]:
    """The names of the parameters that some results are computed from."""
    wanted = set(results)
    for step in (*reversed(graph.ops), *reversed(graph.weights)):
        if wanted.intersection(step.outputs):
            wanted.update(step.inputs)
    return {name for v, name in graph.params.items() if v in wanted}
