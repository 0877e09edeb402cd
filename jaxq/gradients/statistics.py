"""The schemes' states among other values in a pytree: which nodes they are, and how their cotangents combine.

The cotangent of a state is `state - found`, where `found` is what the scheme saw in this batch (decision 003).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.gradients.schemes import DEVIATION, SCHEMES, State

STATES = (frozenset({"clip", DEVIATION}), frozenset({"channel", DEVIATION}))
SITE = ":gradient"  # in a recipe, a state's name is its op's with this behind it


@dataclasses.dataclass(frozen=True)
class GradientSite:
    """A contraction whose scheme keeps a state.

    Attributes:
      scheme: a key of SCHEMES.
      channels: the number of the contraction's output channels.
    """

    scheme: str
    channels: int

    def new_state(self) -> State:
        """The state before the first step."""
        return SCHEMES[self.scheme].start((self.channels,))

    def holds(self, node: Any) -> bool:
        """Whether a node of a pytree is a state of this contraction."""
        wanted = self.new_state()
        return isinstance(node, Mapping) and {k: np.shape(v) for k, v in node.items()} == {
            k: v.shape for k, v in wanted.items()
        }


def gradient_site(op: str) -> str:
    """The name of the state of an op's gradient, among the ranges of a quantized model."""
    return op + SITE


def is_gradient_state(node: Any) -> bool:
    """Whether a pytree node is a scheme's state: a mapping with exactly its keys."""
    return isinstance(node, Mapping) and frozenset(node) in STATES


def combine_gradients(gradients: Any, axis_name: Any) -> Any:
    """The gradients of all devices of a mapped axis (`shard_map`, `pmap`, `vmap`): means, and of states the maximum.

    Args:
      gradients: of the device: any pytree that may hold schemes' states.
      axis_name: of the mapped axis, or several.

    Returns:
      The same pytree, equal on all devices. A state's cotangent is `state - max found`, as if one device had seen the
      whole batch; under `jax.jit` with sharded arrays that is so without this function.
    """
    return _by_kind(lambda g: lax.pmean(g, axis_name), lambda g: lax.pmin(g, axis_name), gradients)


def added_gradients(total: Any, gradients: Any) -> Any:
    """Sums of gradients; of states the cotangent with the larger statistics, `state - max(found)`."""
    return _by_kind(jnp.add, jnp.minimum, total, gradients)


def scaled_gradients(gradients: Any, factor: float | jax.Array) -> Any:
    """Gradients times a factor; states' cotangents as they are."""
    return _by_kind(lambda g: g * factor, lambda g: g, gradients)


def _by_kind(plain: Any, statistic: Any, *trees: Any) -> Any:
    def one(first: Any, *rest: Any) -> Any:
        return jax.tree.map(statistic if is_gradient_state(first) else plain, first, *rest)

    return jax.tree.map(one, *trees, is_leaf=is_gradient_state)
