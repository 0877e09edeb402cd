"""What the three interfaces of INT8 training share: trace a call, find its contractions, evaluate it in int8."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxq.errors import InputError, RangeError
from jaxq.frontends.call import split_call
from jaxq.gradients.backward import Backward
from jaxq.gradients.schemes import State
from jaxq.int8.sites import Site, find_sites, opened
from jaxq.int8.transform import Run, States, evaluate


class Traced(NamedTuple):
    """A call as a jaxpr, its contractions, its arrays, and the structure of its result."""

    closed: Any
    sites: dict[tuple[int, ...], Site]
    arrays: tuple[Any, ...]
    structure: Any

    def start(self) -> States:
        """The states of the contractions that have one, before the first step."""
        return {s.name: state for s in self.sites.values() if (state := s.start())}

    def run(self, states: Mapping[str, State]) -> Any:
        """The call's result, with contractions in int8. Raises RangeError where a state is missing."""
        for site in self.sites.values():
            check_state(site, states)
        given = {name: dict(state) for name, state in states.items()}
        flat = evaluate(opened(self.closed), self.closed.consts, self.arrays, Run(self.sites, given))
        return jax.tree.unflatten(self.structure, flat)


def traced(
    fn: Callable[..., Any], how: Backward, params: Any, names: Sequence[str], args: Sequence[Any], kwargs: Any
) -> Traced:
    """Trace `fn(params, *args, **kwargs)`; `names` are the paths of the leaves of params.

    What of the arguments is no array (flags, strings, None) is part of the function.
    """
    leaves, tree = jax.tree.flatten(params)
    call, structures = split_call(args, kwargs), []

    def flat(*arrays: Any) -> list[Any]:
        args, kwargs = call.rebuild(arrays[len(leaves) :])
        out, structure = jax.tree.flatten(fn(jax.tree.unflatten(tree, arrays[: len(leaves)]), *args, **kwargs))
        structures.append(structure)
        return out

    arrays = (*leaves, *call.arrays)
    closed = jax.make_jaxpr(flat)(*arrays)
    origins = [*names, *(None for _ in call.arrays)]
    return Traced(closed, find_sites(opened(closed), origins, how), arrays, structures[0])


def check_state(site: Site, states: Mapping[str, State]) -> None:
    """Raise RangeError where a contraction's scheme has a state and `states` does not hold it."""
    wanted = site.start()
    held = states.get(site.name, {})
    if wanted and {k: v.shape for k, v in wanted.items()} != {k: v.shape for k, v in held.items()}:
        assert site.how is not None
        raise RangeError(
            f"{site.name} at {site.line} has no state of the scheme {site.how.scheme!r} ({', '.join(wanted)}); there "
            f"are states of {', '.join(states) or 'no contraction'}. Take them from `init` with an example of the "
            'shapes that you train with, or use a scheme without a state ("row").'
        )


def check_example(args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
    """Raise InputError where there is no example."""
    if not split_call(args, kwargs).arrays:
        raise InputError(
            'jaxq.int8.training needs an example input, for its shapes: jaxq.int8.training(model, "row", images[:1]).'
        )
