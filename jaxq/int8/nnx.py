"""INT8 training of an `nnx.Module`: an `nnx.Module` that holds the user's, called as it is called."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
from flax import nnx

from jaxq.frontends.call import leaf_names
from jaxq.gradients.backward import Backward
from jaxq.int8.core import Traced, check_example, traced
from jaxq.int8.sites import Site


class GradientState(nnx.Param):
    """A scheme's state of one contraction: an `nnx.Param`, so that its cotangent reaches the optimizer."""


class Int8Model(nnx.Module):
    """A model whose contractions compute in int8, forward and backward.

    `model` is the user's, unchanged; `gradients` are the schemes' states. BatchNorm's statistics and random keys of
    the model are updated by a call as ever.
    """

    def __init__(self, model: nnx.Module, how: Backward, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        self.model, self.how = model, how
        found = self._traced(args, kwargs)
        self.sites: tuple[Site, ...] = nnx.static(tuple(found.sites.values()))
        states = found.start()
        self.gradients = nnx.Dict({n: nnx.Dict({k: GradientState(v) for k, v in s.items()}) for n, s in states.items()})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, with contractions in int8."""
        states = {n: {k: v[...] for k, v in s.items()} for n, s in self.gradients.items()}
        result, changed = self._traced(args, kwargs).run(states)
        if changed:
            _update(self.model, changed)
        return result

    def _traced(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Traced:
        graphdef, state = nnx.split(self.model)
        return traced(_function(graphdef), self.how, state, leaf_names(state), args, kwargs)


def int8_nnx(model: nnx.Module, how: Backward, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Int8Model:
    """See `jaxq.int8.training`."""
    check_example(args, kwargs)
    return Int8Model(model, how, args, kwargs)


def _function(graphdef: Any) -> Callable[..., Any]:
    """(state, *args) -> the model's result, and the leaves of its state that the call has changed, by index."""

    def fn(state: Any, *args: Any, **kwargs: Any) -> Any:
        before = jax.tree.leaves(state)
        model = nnx.merge(graphdef, state)
        result = model(*args, **kwargs)
        after = jax.tree.leaves(nnx.state(model))
        pairs = enumerate(zip(before, after, strict=True))
        return result, {i: new for i, (old, new) in pairs if new is not old}

    return fn


def _update(model: nnx.Module, changed: Mapping[int, Any]) -> None:
    """Give the leaves of a model's state new values, by index."""
    state = nnx.state(model)
    leaves, structure = jax.tree.flatten(state)
    whole = jax.tree.unflatten(structure, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])
    nnx.update(model, nnx.from_flat_state([p for i, p in enumerate(nnx.to_flat_state(whole)) if i in changed]))
