"""The Linen face:

a quantized module is a Linen module; its variables are the user's collections unchanged, plus `ranges`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jaxq.errors import InputError
from jaxq.frontends.call import leaf_names
from jaxq.frontends.captured import Captured
from jaxq.frontends.core import Bound, Called, Core, Target, shapes_of, zeros_of
from jaxq.frontends.ranges import initial_ranges
from jaxq.frontends.state import refuse_state
from jaxq.numerics.rounding import scale_and_zero_point
from jaxq.ops.fake_quant import jaxq_fake_quant
from jaxq.plan.findings import Finding
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe

RANGES = "ranges"
# Collections that training sets: what else a call sets is a state between calls.
TRAINED = frozenset({"params", "batch_stats"})


class QuantizedLinen(linen.Module):
    """A Linen module that computes in integers.

    `init` and `apply` as ever; `variables["ranges"]` are the trained ranges. In every mode BatchNorm computes with its
    running statistics and leaves them as they are (`mutable=["batch_stats"]` gives them back), for they are folded into
    the weights that ship; `train=True` and a key for "dropout" turn dropout on. A float phase that trains the
    statistics runs the module itself.

    Attributes:
      module: the user's, unchanged.
      core: the target, its recipe and its plans.

    Example:
      >>> import jax, flax.linen as linen
      >>> q = jaxq.quantize(linen.Dense(3), "int8", images[:1])
      >>> variables = jaxq.calibrate(q, [images], q.init(jax.random.key(0), images), progress=False)
      >>> q.apply(variables, images).shape
      (8, 3)
      >>> sorted(variables)
      ['params', 'ranges']
    """

    module: linen.Module
    core: Core

    @linen.compact
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The module's result: in floats while initialising, then on the integers of the device."""
        linen.share_scope(self, self.module)  # the user's variables keep their names
        if self.is_initializing():
            result = self.module(*args, **kwargs)
            keys = {"dropout": jax.random.key(0)}  # for the graph alone, which a key's numbers do not enter
            for name, value in initial_ranges(self._captured(self._user(), keys, args, kwargs).plan).items():
                self.variable(RANGES, name, lambda value=value: value)
            return result
        rngs = {"dropout": self.make_rng("dropout")} if self.has_rng("dropout") else {}
        captured = self._captured(self._user(), rngs, args, kwargs)
        return self.core.run(captured, (self._user(), rngs), self.variables.get(RANGES, {}), args, kwargs)

    @property
    def plan(self) -> Plan:
        """The plan made from the example, with the findings of the last calibration."""
        return dataclasses.replace(self.core.plan, findings=self.findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the ranges of the last calibration cannot hold."""
        return self.core.findings

    def _user(self) -> dict[str, Any]:
        return {name: value for name, value in self.variables.items() if name != RANGES}

    def _captured(self, user: Any, rngs: Any, args: Any, kwargs: Any) -> Captured:
        module = self.module.clone(parent=None)
        return self.core.capture(_target(module, user, rngs), args, kwargs)


def _writing(module: linen.Module) -> Any:
    """As the function of `_target`, with the variables that a call sets by the number of their leaf."""

    def fn(state: Any, *args: Any, **kwargs: Any) -> Any:
        variables, keys = state
        mutable = [name for name in variables if name != "params"]
        with linen.intercept_methods(_on_running_statistics):
            result, changed = module.apply(variables, *args, rngs=keys, mutable=mutable, **kwargs)
        after = dict(jax.tree_util.tree_flatten_with_path(changed)[0])
        pairs = enumerate(jax.tree_util.tree_flatten_with_path(variables)[0])
        return result, {i: after[path] for i, (path, old) in pairs if after.get(path, old) is not old}

    return fn


def _target(module: linen.Module, user: Any, rngs: Any) -> Target:
    """A Linen module with its variables and random keys."""

    def fn(state: Any, *args: Any, **kwargs: Any) -> Any:
        variables, keys = state
        # What a model writes, its cache or its losses, stays inside.
        mutable = [name for name in variables if name != "params"]
        with linen.intercept_methods(_on_running_statistics):
            return module.apply(variables, *args, rngs=keys, mutable=mutable, **kwargs)[0]

    names = [*leaf_names(user, frozenset(user)), *leaf_names({"rngs": rngs})]
    return Target(fn, ("linen", _key(module)), (user, rngs), names)


def _key(value: Any) -> Hashable:
    """A module, or an attribute of one, as a key of a cache: two with equal keys compute the same. Lists and dicts, of
    which flax's own models have some, cannot be hashed as they are.
    """
    if isinstance(value, linen.Module):
        fields = [f.name for f in dataclasses.fields(value) if f.init and f.name not in {"parent", "name"}]
        return type(value), tuple((name, _key(getattr(value, name, None))) for name in fields)
    if isinstance(value, list | tuple):
        return type(value), tuple(map(_key, value))
    if isinstance(value, Mapping):
        return type(value), tuple((k, _key(v)) for k, v in value.items())
    return value if isinstance(value, Hashable) and not _holds_arrays(value) else id(value)


def _holds_arrays(value: Any) -> bool:
    return any(hasattr(leaf, "shape") for leaf in jax.tree.leaves(value))


def _on_running_statistics(next_fn: Any, args: Any, kwargs: Any, context: linen.module.InterceptorContext) -> Any:
    """A BatchNorm's call on its running statistics, whatever the model's `train` flag says: these are what ships."""
    module = context.module
    if not isinstance(module, linen.BatchNorm) or context.method_name != "__call__":
        return next_fn(*args, **kwargs)
    own = module.use_running_average
    object.__setattr__(module, "use_running_average", True)  # a module is frozen; nobody else sees it before the reset
    try:
        return next_fn(*args[:1], **{**kwargs, "use_running_average": None})
    finally:
        object.__setattr__(module, "use_running_average", own)


class FakeQuant(linen.Module):
    """Simulated int8 quantization with a learned range; see `jaxq.nnx.FakeQuant`. Its range is in `params`."""

    low: float = -6.0
    high: float = 6.0

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` on the grid of 256 steps."""
        scale, zero_point = scale_and_zero_point(jnp.float32(self.low), jnp.float32(self.high))
        scale = self.param("scale", lambda _: scale)
        zero_point = self.param("zero_point", lambda _: zero_point)
        self.param("observed", lambda _: jnp.array([self.low, self.high], jnp.float32))
        return jaxq_fake_quant(x, scale, zero_point)


def takes(target: Any) -> bool:
    """Whether this face serves a target."""
    return isinstance(target, linen.Module)


def quantize_linen(
    module: linen.Module, recipe: Recipe, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> QuantizedLinen:
    """Quantize a Linen module. Captures it once now, with variables of the right shapes, so that errors come early."""
    example = shapes_of(args, kwargs)
    zeros, flags = zeros_of(*example)
    variables = jax.eval_shape(lambda: module.init(jax.random.key(0), *zeros, **flags))
    target = _target(module, variables, {"dropout": jax.random.key(0)})
    core = Core(recipe, Called(type(module).__call__, skip=1), example, target)
    others = {name: value for name, value in variables.items() if name not in TRAINED}
    refuse_state(target._replace(fn=_writing(module)), *core.example, leaf_names(others, frozenset(others)))
    return QuantizedLinen(module, core)


def bind_linen(qmodule: QuantizedLinen, variables: Mapping[str, Any]) -> Bound:
    """What calibration and export need of a quantized module and its variables. Raises InputError for no variables."""
    if not isinstance(variables, Mapping) or not all(isinstance(v, Mapping) for v in variables.values()):
        raise InputError(
            f'The variables of a Linen module are a dict of collections, {{"params": ..., "ranges": ...}}, as '
            f"`qmodule.init` gives it, not {type(variables).__name__}"
            f"{f' with {sorted(map(str, variables))}' if isinstance(variables, Mapping) else ''}."
        )
    user = {name: value for name, value in variables.items() if name != RANGES}

    target = _target(qmodule.module, user, {})

    def captured(*args: Any, **kwargs: Any) -> Captured:
        args, kwargs = qmodule.core.completed(args, kwargs)
        return qmodule.core.capture(target, args, kwargs)

    ranges = {n: {k: jnp.asarray(value) for k, value in r.items()} for n, r in variables.get(RANGES, {}).items()}
    statistics = frozenset(leaf_names({k: v for k, v in user.items() if k != "params"}, frozenset(user)))
    return Bound(qmodule.core, captured, (user, {}), ranges, target.fn, statistics)


def parameters_of(variables: Mapping[str, Any]) -> Any:
    """The user's part of variables, in the form that `bind_linen` gives parameters."""
    return {name: value for name, value in variables.items() if name != RANGES}, {}
