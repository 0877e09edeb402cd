"""The NNX face: quantized models and FakeQuant as ordinary `nnx.Module`s, ranges as `nnx.Param`s of their own kind."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from jaxq.frontends.call import leaf_names
from jaxq.frontends.captured import Captured
from jaxq.frontends.core import Bound, Called, Core, Target
from jaxq.frontends.ranges import initial_ranges
from jaxq.frontends.state import refuse_state
from jaxq.numerics.rounding import scale_and_zero_point
from jaxq.ops.fake_quant import jaxq_fake_quant
from jaxq.plan.findings import Finding
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe
from jaxq.simulate.run import Record

# Variables that training sets: what else a call sets is a state between calls.
TRAINED = (nnx.Param, nnx.BatchStat, nnx.RngState)


class Range(nnx.Param):
    """A trained range's scale, zero point or moving min and max: an `nnx.Param`, so that optimizers see it."""


class QuantizedModel(nnx.Module):
    """A model that computes in integers; called as the model is called.

    Its Params are the model's and the ranges: `nnx.Optimizer(qmodel, jaxq.optim.partition(...), wrt=nnx.Param)` trains
    both. `plan` says what is quantized and how.

    Attributes:
      model: the user's, unchanged.
      core: the target, its recipe and its plans.
      ranges: a `Range` for each number of each site's state.

    Example:
      >>> qmodel = jaxq.quantize(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "int8", images[:1])
      >>> jaxq.calibrate(qmodel, [images], progress=False)
      >>> qmodel(images).shape
      (8, 3)
      >>> sorted(qmodel.pure_ranges())
      ['input', 'kernel:out']
    """

    def __init__(self, model: nnx.Module, core: Core) -> None:
        self.model = model
        self.core = core
        ranges = initial_ranges(self.captured().plan)
        self.ranges = nnx.Dict({n: nnx.Dict({k: Range(v) for k, v in r.items()}) for n, r in ranges.items()})

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """The model's result, computed on the integers of the device."""
        return self.recorded(None, *args, **kwargs)

    def recorded(self, record: Record | None, *args: Any, **kwargs: Any) -> Any:
        """As a call; `record(value, carrier)` sees every integer activation."""
        state = nnx.state(self.model)
        self.core.check_names(args, kwargs)
        captured = self.captured(*args, **kwargs)
        result, changed = self.core.run(captured, state, self.pure_ranges(), args, kwargs, record)
        if changed:  # counters of random keys; nothing in evaluation mode
            nnx.update(self.model, _with_leaves(state, changed))
        return result

    def captured(self, *args: Any, **kwargs: Any) -> Captured:
        """The plan for a call of these shapes, by default the example's."""
        args, kwargs = (args, kwargs) if args or kwargs else self.core.example
        return self.core.capture(_target(self.model), args, kwargs)

    @property
    def plan(self) -> Plan:
        """The plan made from the example, with the findings of the last calibration."""
        return dataclasses.replace(self.core.plan, findings=self.findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the ranges of the last calibration cannot hold."""
        return self.core.findings

    def pure_ranges(self) -> dict[str, dict[str, jax.Array]]:
        """The ranges as plain arrays."""
        return {n: {k: value[...] for k, value in r.items()} for n, r in self.ranges.items()}

    def set_ranges(self, ranges: Mapping[str, Mapping[str, jax.Array]]) -> None:
        """Give every range new values."""
        for name, values in ranges.items():
            for key, array in values.items():
                self.ranges[name][key][...] = array

    def set_parameters(self, params: Any) -> None:
        """Give every parameter of the model a new value; params: an `nnx.State` as `nnx.state(qmodel.model)`."""
        nnx.update(self.model, params)

    def train(self, **attributes: Any) -> None:
        """Training mode for dropout. BatchNorm computes with its running statistics in every mode, for they are folded
        into the weights that ship. A float phase that trains the statistics runs the model itself, before.
        """
        self.model.set_attributes(deterministic=False, raise_if_not_found=False, **attributes)


class FakeQuant(nnx.Module):
    """Simulated int8 quantization with a learned range, for models that place quantizers by hand.

    Capture keeps the range as the range of the tensor it is called on, and the exported tensor has its scale and zero
    point. Shapes are kept; float in, float out.

    Args:
      low: where the range begins at first, in real units; it trains from there.
      high: where it ends at first.

    Example:
      >>> jaxq.FakeQuant(-1.0, 1.0)(np.ones((2, 3), np.float32)).shape
      (2, 3)
    """

    def __init__(self, low: float = -6.0, high: float = 6.0) -> None:
        scale, zero_point = scale_and_zero_point(jnp.float32(low), jnp.float32(high))
        self.scale, self.zero_point = Range(scale), Range(zero_point)
        self.observed = Range(jnp.array([low, high], jnp.float32))

    def __call__(self, x: jax.Array) -> jax.Array:
        """`x` on the grid of 256 steps."""
        return jaxq_fake_quant(x, self.scale[...], self.zero_point[...])


def takes(target: Any) -> bool:
    """Whether this face serves a target."""
    return isinstance(target, nnx.Module)


def quantize_nnx(model: nnx.Module, recipe: Recipe, args: Sequence[Any], kwargs: Mapping[str, Any]) -> QuantizedModel:
    """Quantize an `nnx.Module`."""
    called = Called(type(model).__call__, skip=1, result=operator.itemgetter(0))
    core, target = Core(recipe, called, (args, kwargs), _target(model)), _target(model)
    variables = zip(target.names, nnx.to_flat_state(target.params), strict=True)
    refuse_state(target, *core.example, [name for name, (_, v) in variables if not isinstance(v, TRAINED)])
    return QuantizedModel(model, core)


def bind_nnx(qmodel: QuantizedModel) -> Bound:
    """What calibration and export need of a quantized module."""

    def captured(*args: Any, **kwargs: Any) -> Captured:
        args, kwargs = qmodel.core.completed(args, kwargs)
        return qmodel.captured(*args, **kwargs)

    state = nnx.state(qmodel.model)
    pairs = zip(leaf_names(state), nnx.to_flat_state(state), strict=True)
    statistics = frozenset(name for name, (_, variable) in pairs if not isinstance(variable, nnx.Param))
    return Bound(qmodel.core, captured, state, qmodel.pure_ranges(), _target(qmodel.model).fn, statistics)


def parameters_of(reference: Any) -> Any:
    """The parameters of a float module, or these parameters as they are (an `nnx.State`)."""
    return nnx.state(reference) if isinstance(reference, nnx.Module) else reference


def _target(model: nnx.Module) -> Target:
    graphdef, state = nnx.split(model)
    return Target(_function(graphdef), graphdef, state, leaf_names(state))


def _function(graphdef: Any) -> Callable[..., Any]:
    def fn(state: Any, *args: Any, **kwargs: Any) -> Any:
        before = [(path, variable[...]) for path, variable in nnx.to_flat_state(state)]
        model = nnx.merge(graphdef, state)
        for _, module in nnx.iter_modules(model):  # what ships are the running statistics, folded into the weights
            if isinstance(module, nnx.BatchNorm):
                module.use_running_average = True
        result = model(*args, **kwargs)
        after = dict(nnx.to_flat_state(nnx.state(model)))  # it may hold more, what a module sowed
        pairs = enumerate((value, after[path][...]) for path, value in before)
        return result, {i: new for i, (old, new) in pairs if new is not old}

    return fn


def _with_leaves(state: Any, changed: Mapping[int, Any]) -> Any:
    """The part of a state whose leaves changed, with their new values."""
    leaves, structure = jax.tree.flatten(state)
    whole = jax.tree.unflatten(structure, [changed.get(i, leaf) for i, leaf in enumerate(leaves)])
    return nnx.from_flat_state([pair for i, pair in enumerate(nnx.to_flat_state(whole)) if i in changed])
