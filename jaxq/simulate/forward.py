"""The differentiable reading of a graph: training forward, in the integers of LiteRT's default CPU runtime.

An activation is a `Carrier`, an integer-valued float array with its scale. Each op computes its output in steps,
which is then rounded (ties to even) and clipped, as XNNPACK does; straight-through gradients make all of it
differentiable, scales and zero points included. `reals` is the float reading of the same folded graph: calibration
and analysis run it.

Not here: the exact table and fixed-point forms of LOGISTIC, SOFTMAX and their like (`jaxq.export.evaluate.kernels`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.gradients.carriers import with_integer_gradients
from jaxq.gradients.statistics import gradient_site
from jaxq.graph import Op
from jaxq.numerics.rounding import carrier_bounds, clip_ste, dequantize, in_memory, quantize, round_ste, saturate
from jaxq.ops import OPS, builtin_ops, dynamic_range, step_of
from jaxq.ops.contract import Products
from jaxq.ops.integer_ops import Carrier, fused_bounds, requantized
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.range_methods import METHODS
from jaxq.simulate.norm_statistics import Statistics, statistics, with_statistics
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.range_statistics import observe
from jaxq.simulate.reals import activated, as_number, as_tuple, by_taps, wide
from jaxq.simulate.weights import (
    dequantized_weight,
    float_kernel,
    half_precision,
    quantized_operand,
    quantized_weight,
    weight_values,
)

Record = Callable[[int, Carrier], None]


def simulate(
    plan: Plan,
    params: Sequence[Any],
    ranges: Ranges,
    inputs: Sequence[Any],
    record: Record | None = None,
    given: Mapping[int, Any] | None = None,
    differentiable: bool = True,
) -> list[jax.Array]:
    """The graph's outputs as real numbers on their integer grids (float islands and state as they are).

    `record(value, carrier)` is called for every integer activation; in a recipe of floats for every result. There
    `given` holds results that take the place of those computed, once these are recorded: each op on another's numbers.
    Differentiable in params, ranges and inputs, unless `differentiable` is False: then the same integers, in a
    faster way where there is one.
    """
    params = with_statistics(plan.norms, params, ranges)
    env = weight_values(plan.graph, params)
    parameters = {name: qparams(g, ranges, env, plan) for name, g in plan.groups.items()}
    observing = plan.recipe.activations.observe or plan.recipe.activations.ranges == "ema"
    norms = statistics(plan, params)
    run = Run(plan, env, parameters, ranges, record, given or {}, observing, norms, differentiable)
    for value, array in zip(plan.graph.inputs, inputs, strict=True):
        run.enter(value, array)
    for op in plan.graph.ops:
        run.island(op) if op.name in plan.islands else run.step(op)
    outputs = [run.output(v) for v in plan.graph.outputs]
    return run.with_observations(outputs)


class Run:
    """One pass over the graph: values by number, carriers for integers, plain arrays for floats and weights.

    parameters: scale and zero point of each group, by name. observing: whether statistics are kept for
    `with_observations`. norms: by an op's name, the site of its BatchNorm and how a batch's statistics are found.
    differentiable: False where only the integers are wanted, in whatever way is fast.
    """

    def __init__(
        self,
        plan: Plan,
        env: dict[int, Any],
        parameters: Mapping[str, QParams],
        ranges: Ranges,
        record: Record | None = None,
        given: Mapping[int, Any] | None = None,
        observing: bool = False,
        norms: Mapping[str, tuple[str, Statistics]] | None = None,
        differentiable: bool = True,
    ) -> None:
        self.plan, self.env, self.parameters, self.ranges = plan, env, parameters, ranges
        self.record, self.given, self.observing = record, given or {}, observing
        self.differentiable = differentiable
        self.activations = plan.graph.activations
        self.norms = norms or {}
        self.seen: dict[str, list[jax.Array]] = {}
        self.followed: dict[str, dict[str, jax.Array]] = {}

    def enter(self, value: int, array: jax.Array) -> None:
        """Take an input: as integers, or as floats where nothing reads it as integers."""
        if self.plan.group(value) is None:
            self.env[value] = wide(as_number(self.plan.graph, value, jnp.asarray(array)))
        else:
            self._quantize(value, jnp.asarray(array, jnp.float32))

    def island(self, op: Op) -> None:
        """An op that computes in floating point."""
        arguments = [self._real(v) for v in op.inputs]
        if self.plan.arithmetic[op.name].dynamic:
            outputs = (activated(op, self._followed(op, self._hybrid(op, *arguments))),)
        elif op.call is not None:
            outputs = op.call(
                *(a.astype(self.plan.graph.avals[v].dtype) for a, v in zip(arguments, op.inputs, strict=True))
            )
        else:
            if op.name in self.plan.storage:
                arguments[1] = self._stored(op, arguments[1])
            outputs = as_tuple(activated(op, self._followed(op, OPS[op.kind].compute(op, *arguments))))
        for value, out in zip(op.outputs, outputs, strict=True):
            if self.plan.group(value) is None:
                self.keep_real(value, out)
            else:
                self._quantize(value, out.astype(jnp.float32))

    def _hybrid(self, op: Op, x: jax.Array, w: jax.Array, bias: jax.Array) -> jax.Array:
        """An op whose input the device quantizes as it runs, before its activation."""
        site = self.plan.weight_site(op)
        kernel = float_kernel(w, self.plan.weights[op.name], None if site is None else self.ranges[site])
        x, bias = x.astype(jnp.float32), bias.astype(jnp.float32)
        return dynamic_range.contraction(OPS[op.kind].compute, self._products(op), op, x, kernel, bias)

    def _products(self, op: Op) -> Products:
        """How training forms an op's sums of products."""
        arithmetic, backward = self.plan.arithmetic[op.name], self.plan.backward(op)
        by_tap = not self.differentiable and op.kind == "DEPTHWISE_CONV_2D"
        sums = functools.partial(by_taps, op) if by_tap else None
        if backward is None or not self.differentiable:
            return Products(arithmetic, self.plan.recipe.carrier, sums)
        carriers = "16 bits" if arithmetic.is_int16 else "dynamic" if arithmetic.dynamic else "8 bits"
        state = dict(self.ranges.get(gradient_site(op.name), {}))
        gradient = functools.partial(with_integer_gradients, backward, carriers, state)
        return Products(arithmetic, self.plan.recipe.carrier, sums, gradient)

    def _stored(self, op: Op, w: jax.Array) -> jax.Array:
        """The weights or the table of an op on floats as the file holds them."""
        if self.plan.storage[op.name] == "float16":
            return half_precision(w)
        if op.name in self.plan.embeddings:
            return dequantized_weight(w, self.plan.embeddings[op.name], None)
        site = self.plan.weight_site(op)
        return dequantized_weight(w, self.plan.weights[op.name], None if site is None else self.ranges[site])

    def step(self, op: Op) -> None:
        """An op that computes in integers."""
        spec = OPS[op.kind]
        if spec.scales == "none":
            held = [self.env[v] for v in op.inputs]
            found = spec.compute(op, *(h.q if isinstance(h, Carrier) else jnp.asarray(h) for h in held))
            self.env.update(zip(op.outputs, as_tuple(found), strict=True))
            return
        if self.plan.group(op.outputs[0]) is None:
            self.island(op)  # a table of booleans
            return
        group = self._group(op.outputs[0])
        scale, zero_point = self.parameters[group.name]
        if spec.scales == "same" and spec.step is None:
            outputs = as_tuple(spec.compute(op, *(self._operand(op, i, scale) for i in range(len(op.inputs)))))
        else:
            steps = self._steps(op, scale, zero_point)
            self._followed(op, steps * scale)
            self._observe(op.outputs[0], steps * scale, op.attrs.get("activation"))
            outputs = (self._rounded(op, steps, scale, zero_point, group),)
        for value, q in zip(op.outputs, outputs, strict=True):
            self.keep(value, Carrier(in_memory(q), scale, zero_point))

    def _steps(self, op: Op, scale: jax.Array, zero_point: jax.Array) -> jax.Array:
        spec, how = OPS[op.kind], self.plan.arithmetic[op.name]
        rule = step_of(op.kind, how)
        assert rule is not None
        if spec.product:
            rule = functools.partial(rule, products=self._products(op))
        return rule(op, *self._read(op, scale), scale=scale, zero_point=zero_point)

    def _read(self, op: Op, scale: jax.Array) -> list[Any]:
        """What the rule of an op reads: carriers, a bias in real numbers, and numbers that are no integers."""
        spec, how = OPS[op.kind], self.plan.arithmetic[op.name]
        if not spec.weights:
            raw = [spec.raw and v not in self.activations for v in op.inputs]
            return [
                self.env[v] if as_it_is else self._tensor(v, scale, how.bits)
                for v, as_it_is in zip(op.inputs, raw, strict=True)
            ]
        x, site = self.env[op.inputs[0]], self.plan.weight_site(op)
        w, bias = (jnp.asarray(self.env[v]) for v in op.inputs[1:])
        trained = None if site is None else self.ranges[site]
        kernel = quantized_weight(w, bias, self.plan.weights[op.name], x.scale, trained, how.largest_bias)
        return [x, kernel, bias.astype(jnp.float32)]

    def _rounded(self, op: Op, steps: jax.Array, scale: jax.Array, zero_point: jax.Array, group: Group) -> jax.Array:
        return _by_method(group, self._clipped(op, steps, scale, zero_point, group), steps, scale)

    def _clipped(self, op: Op, steps: jax.Array, scale: jax.Array, zero_point: jax.Array, group: Group) -> jax.Array:
        bounds = op.attrs.get("activation")
        if bounds is None or (group.nonnegative and bounds == (0.0, math.inf)):  # the least integer is zero: a ReLU
            return saturate(steps, zero_point, jnp.float32(group.scheme.qmin), jnp.float32(group.scheme.qmax))
        low, high = carrier_bounds(zero_point, group.scheme.bits)
        how = self.plan.arithmetic[op.name]
        least, greatest = fused_bounds(bounds, scale, zero_point, how.rounds_bounds_away)
        return clip_ste(round_ste(steps), jnp.maximum(low, least), jnp.minimum(high, greatest))

    def _operand(self, op: Op, index: int, scale: jax.Array) -> jax.Array:
        """The carrier array that a copying op reads, requantized where the plan says so; constants on the op's grid."""
        held, spec = self.env[op.inputs[index]], OPS[op.kind]
        if index in spec.plain or (spec.raw and op.inputs[index] not in self.activations):
            return held
        group = self._group(op.outputs[0])
        low, high = carrier_bounds(self.parameters[group.name].zero_point, group.scheme.bits)
        if not isinstance(held, Carrier):
            return quantize(jnp.asarray(held, jnp.float32), scale, low, high)
        if (op.name, index) not in self.plan.requantized:
            return held.q
        wide = max(group.scheme.bits, self._group(op.inputs[index]).scheme.bits) == 16
        return clip_ste(round_ste(builtin_ops.rescaled(held, scale) if wide else requantized(held, scale)), low, high)

    def _tensor(self, value: int, scale: jax.Array, bits: int) -> Carrier:
        """An operand: a carrier, or a constant quantized per tensor, symmetric."""
        if value in self.activations:
            return self.env[value]
        return quantized_operand(jnp.asarray(self.env[value], jnp.float32), scale, bits)

    def _quantize(self, value: int, real: jax.Array) -> None:
        group = self._group(value)
        scale, zero_point = self.parameters[group.name]
        low, high = carrier_bounds(zero_point, group.scheme.bits)
        self._observe(value, real, None)
        q = _by_method(group, quantize(real, scale, low, high), real / scale, scale)
        self.keep(value, Carrier(q, scale, zero_point))

    def keep_real(self, value: int, out: jax.Array) -> None:
        """Take a result that is no integer; in a recipe of floats it is recorded."""
        self.env[value] = self.given.get(value, out)
        if self.record is not None and self.plan.recipe.floats:
            self.record(value, Carrier(out, jnp.float32(1), jnp.float32(0)))

    def keep(self, value: int, carrier: Carrier) -> None:
        """Take an integer result, and record it."""
        if self.record is not None:
            self.record(value, carrier)
        if value in self.given:
            carrier = carrier._replace(q=jnp.asarray(self.given[value], jnp.float32) - carrier.zero_point)
        self.env[value] = carrier

    def _group(self, value: int) -> Group:
        group = self.plan.group(value)
        assert group is not None, self.plan.graph.site_names[value]
        return group

    def _real(self, value: int) -> jax.Array:
        held = self.env[value]
        return dequantize(held.q, held.scale) if isinstance(held, Carrier) else jnp.asarray(held)

    def output(self, value: int) -> jax.Array:
        """An output of the graph in real numbers."""
        if value not in self.activations:
            return self.env[value]  # state that passes through
        return self._real(value).astype(self.plan.graph.avals[value].dtype)

    # --- observing: statistics travel as the gradient of `observed`, and of a BatchNorm's own ---

    def _followed(self, op: Op, real: Any) -> Any:
        """What an op gives before its activation, as it is; its BatchNorm's statistics are noted."""
        if op.name in self.norms:
            site, found = self.norms[op.name]
            self.followed[site] = found(real)
        return real

    def _observe(self, value: int, real: jax.Array, bounds: tuple[float, float] | None) -> None:
        group = self._group(value)
        if not self.observing or group.name not in self.ranges or group.scheme.ranges == "frozen":
            return
        real = lax.stop_gradient(real if bounds is None else jnp.clip(real, *bounds))
        pair = jnp.stack([jnp.min(real), jnp.max(real)])
        if group.scheme.symmetric:
            pair = jnp.max(jnp.abs(pair)) * jnp.array([-1.0, 1.0])
        self.seen.setdefault(group.name, []).append(pair)

    def with_observations(self, outputs: list[jax.Array]) -> list[jax.Array]:
        """The outputs, whose gradient also carries the statistics observed."""
        indices = [i for i, v in enumerate(self.plan.graph.outputs) if v in self.activations]
        results = tuple(outputs[i] for i in indices)
        for name, pairs in self.seen.items():
            both = jnp.stack(pairs)
            found = jnp.stack([jnp.min(both[:, 0]), jnp.max(both[:, 1])])
            results = observe(results, self.ranges[name]["observed"], found)
        for site, found in self.followed.items():
            for key, statistic in found.items():
                results = observe(results, self.ranges[site][key], statistic)
        for i, result in zip(indices, results, strict=True):
            outputs[i] = result
        return outputs


def _by_method(group: Group, q: jax.Array, steps: jax.Array, scale: jax.Array) -> jax.Array:
    """`q`, with the gradient by the scale that the group's range method gives it."""
    gradient = METHODS[group.scheme.ranges].gradient if group.has_range else None
    return q if gradient is None else gradient(q, steps, scale)
