"""INT8 training of a function `f(params, *inputs)`, in optax's shape."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from jaxq.frontends.call import leaf_names
from jaxq.gradients.backward import Backward
from jaxq.int8.core import check_example, traced
from jaxq.int8.sites import Site


class Int8Function(NamedTuple):
    """A function whose contractions compute in int8. Both members are pure.

    Attributes:
      init: `init(params, *inputs)` gives the schemes' states, by contraction: {} for schemes without.
      apply: `apply(params, states, *inputs, **kwargs)` gives the function's result.
      sites: the names of the contractions.
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    sites: tuple[Site, ...]


def int8_function(
    fn: Callable[..., Any], how: Backward, example: Sequence[Any], kwargs: Mapping[str, Any]
) -> Int8Function:
    """See `jaxq.int8.training`; the example is `(params, *inputs)`."""
    check_example(example, kwargs)

    def init(params: Any, *args: Any, **kwargs: Any) -> Any:
        return traced(fn, how, params, leaf_names(params), args, kwargs).start()

    def apply(params: Any, states: Any, *args: Any, **kwargs: Any) -> Any:
        return traced(fn, how, params, leaf_names(params), args, kwargs).run(states)

    sites = traced(fn, how, example[0], leaf_names(example[0]), example[1:], kwargs).sites
    return Int8Function(init, apply, tuple(sites.values()))
