"""INT8 training of a Linen module: a Linen module with the user's variables, and `gradients` beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import jax
from flax import linen
from flax.core.scope import LazyRng

from jaxq.frontends.call import leaf_names
from jaxq.gradients.backward import Backward
from jaxq.int8.core import Traced, check_example, traced

GRADIENTS = "gradients"


class Int8Linen(linen.Module):
    """A Linen module whose contractions compute in int8, forward and backward.

    `init` and `apply` as ever, `mutable` and `rngs` included; `variables["gradients"]` are the schemes' states.
    """

    module: linen.Module
    how: Backward

    @linen.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result: in floats while initialising, then with contractions in int8."""
        linen.share_scope(self, self.module)  # the user's variables keep their names
        if self.is_initializing():
            result = self.module(*args, **kwargs)
            user = self._user()
            written = [name for name in user if name != "params"]
            for name, state in self._traced(user, self._keys(), written, args, kwargs).start().items():
                self.variable(GRADIENTS, name, lambda state=state: state)
            return result
        user = self._user()
        mutable = [name for name in user if self.is_mutable_collection(name)]
        found = self._traced(user, self._keys(), mutable, args, kwargs)
        result, changed = found.run(self.variables.get(GRADIENTS, {}))
        for collection, values in changed.items():
            for name, value in values.items():
                self.put_variable(collection, name, value)
        return result

    def _user(self) -> dict[str, Any]:
        return {name: value for name, value in self.variables.items() if name != GRADIENTS}

    def _keys(self) -> dict[str, jax.Array]:
        """The random keys of this call, as the user's module gets them."""
        assert self.scope is not None
        rngs = cast(Mapping[str, LazyRng], self.scope.rngs)  # Scope makes every key a LazyRng
        return {name: rng.as_jax_rng() for name, rng in rngs.items() if name != "params"}

    def _traced(self, user: Any, keys: Any, mutable: Sequence[str], args: Any, kwargs: Any) -> Traced:
        module = self.module.clone(parent=None)

        def fn(state: Any, *args: Any, **kwargs: Any) -> Any:
            variables, rngs = state
            return module.apply(variables, *args, rngs=rngs, mutable=list(mutable), **kwargs)

        names = [*leaf_names(user, frozenset(user)), *leaf_names({"rngs": keys})]
        return traced(fn, self.how, (user, keys), names, args, kwargs)


def int8_linen(module: linen.Module, how: Backward, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Int8Linen:
    """See `jaxq.int8.training`. The module is traced once now, so that errors come early."""
    check_example(args, kwargs)
    made = Int8Linen(module, how)
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(0)}
    jax.eval_shape(lambda: made.init(keys, *args, **kwargs))
    return made
