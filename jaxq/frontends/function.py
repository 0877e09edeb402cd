"""The function interface: `f(params, *inputs)` quantized, in optax's shape."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax

from jaxq.errors import InputError
from jaxq.frontends.call import leaf_names
from jaxq.frontends.captured import Captured
from jaxq.frontends.core import Bound, Called, Core, Target
from jaxq.frontends.ranges import initial_ranges
from jaxq.plan.findings import Finding
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe
from jaxq.simulate.qparams import Ranges


class QuantizedFunction(NamedTuple):
    """A quantized function, in optax's shape. Both members are pure.

    Attributes:
      init: `init(params, *example)` gives ranges, not yet calibrated.
      apply: `apply(params, ranges, *args, **kwargs)` gives the function's result, computed on the device's integers.
      core: the target, its recipe and its plans.
      captured: `captured(params, *args)` gives the plan for a call of these shapes.

    Example:
      >>> q = jaxq.quantize(lambda w, x: jax.nn.relu(x @ w), "int8", np.eye(4, 3, dtype="float32"), images[:1])
      >>> ranges = q.init(np.eye(4, 3, dtype="float32"), images)
      >>> sorted(ranges)
      ['fully_connected', 'input']
    """

    init: Callable[..., Any]
    apply: Callable[..., Any]
    core: Core
    captured: Callable[..., Captured]

    @property
    def plan(self) -> Plan:
        """The plan made from the example, with the findings of the last calibration."""
        return dataclasses.replace(self.core.plan, findings=self.findings)

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What the ranges of the last calibration cannot hold."""
        return self.core.findings


def quantize_function(
    fn: Callable[..., Any], recipe: Recipe, example: Sequence[Any], example_kwargs: Mapping[str, Any]
) -> QuantizedFunction:
    """Quantize `fn(params, *inputs)`; the example is `(params, *inputs)`. Raises InputError for one without inputs."""
    if len(example) < 2 and not (example and example_kwargs):
        raise InputError(
            f"The example of a function is its parameters and an input, and {len(example)} was given: "
            'jaxq.quantize(f, "int8", params, images[:1]). Give a module itself, not its method or a closure over it.'
        )

    def target(params: Any) -> Target:
        return Target(fn, fn, params, leaf_names(params))

    core = Core(recipe, Called(fn, skip=1), (example[1:], example_kwargs), target(example[0]))

    def captured(params: Any, *args: Any, **kwargs: Any) -> Captured:
        args, kwargs = (args, kwargs) if args or kwargs else core.example
        return core.capture(target(params), args, kwargs)

    def init(params: Any, *args: Any, **kwargs: Any) -> dict[str, dict[str, jax.Array]]:
        return initial_ranges(captured(params, *args, **kwargs).plan)

    def apply(params: Any, ranges: Ranges, *args: Any, **kwargs: Any) -> Any:
        core.check_names(args, kwargs)
        return core.run(captured(params, *args, **kwargs), params, ranges, args, kwargs)

    return QuantizedFunction(init, apply, core, captured)


def bind_function(function: QuantizedFunction, params: Any, ranges: Ranges) -> Bound:
    """What calibration and export need of a quantized function, its parameters and ranges."""

    def captured(*args: Any, **kwargs: Any) -> Captured:
        args, kwargs = function.core.completed(args, kwargs)
        return function.captured(params, *args, **kwargs)

    return Bound(function.core, captured, params, ranges, function.core.call.called)
