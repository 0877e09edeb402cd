"""One pass of the training forward over a graph, op by op: values by number, integers in float arrays.

An activation is a `Carrier`, an integer-valued float array with its scale. Each op computes its output in steps,
which is then rounded (ties to even) and clipped, as XNNPACK does; straight-through gradients make all of it
differentiable, scales and zero points included.

Not here: the exact table and fixed-point forms of LOGISTIC, SOFTMAX and their like (`jaxq.export.evaluate.kernels`).
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from jaxq.gradients.carriers import with_integer_gradients
from jaxq.gradients.statistics import gradient_site
from jaxq.graph import Op
from jaxq.graph.ir import REARRANGED
from jaxq.numerics.held import as_one, in_memory
from jaxq.numerics.rounding import carrier_bounds, clip_ste, dequantize, quantize, round_ste, saturate
from jaxq.ops import OPS, builtin_ops, dynamic_range, step_of
from jaxq.ops.contract import Products
from jaxq.ops.integer_ops import Carrier, fused_bounds, requantized
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.range_methods import METHODS
from jaxq.simulate.norm_statistics import Statistics
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.range_statistics import observe
from jaxq.simulate.reals import activated, as_number, as_tuple, by_taps, wide
from jaxq.simulate.weights import (
    dequantized_weight,
    float_kernel,
    half_precision,
    quantized_operand,
    quantized_weight,
)

Record = Callable[[int, Carrier], None]


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

    def watches(self, op: Op) -> bool:
        """Whether statistics of an op's result are kept."""
        return op.name in self.norms or any(self._observes(g) for g in map(self.plan.group, op.outputs) if g)

    def apply(self, op: Op) -> None:
        """Compute an op, in floating point or in integers."""
        self.island(op) if op.name in self.plan.islands else self.step(op)

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
        by_tap = op.kind == "DEPTHWISE_CONV_2D" and (not self.differentiable or jax.default_backend() == "cpu")
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
        if spec.scales != "same" or spec.step is not None:
            self.keep(op.outputs[0], Carrier(self._rounded(op, group, scale, zero_point), scale, zero_point))
            return
        outputs = as_tuple(spec.compute(op, *(self._operand(op, i, scale) for i in range(len(op.inputs)))))
        moved = op.kind in REARRANGED and (op.name, 0) not in self.plan.requantized
        for value, q in zip(op.outputs, outputs, strict=True):
            if self.plan.group(value) is None:
                self.keep_real(value, q)  # indices
            else:
                self.keep(value, Carrier(q if moved else in_memory(q), scale, zero_point))

    def _rounded(self, op: Op, group: Group, scale: jax.Array, zero_point: jax.Array) -> jax.Array:
        """The integers of an op that has a rule. All that follows its sums of products, if any, is computed as one."""
        rule, read = step_of(op.kind, self.plan.arithmetic[op.name]), self._read(op, scale)
        assert rule is not None
        products, watched = self._products(op) if OPS[op.kind].product else None, self.watches(op)
        again = self._no_larger(op) if products is None else products.gradient is None  # which holds bytes of its own

        def finish(steps: Callable[..., jax.Array], *arrays: Any) -> tuple[jax.Array, Any]:
            def whole(*arrays: Any) -> tuple[jax.Array, Any]:
                found = steps(*arrays)
                q = _by_method(group, self._clipped(op, found, scale, zero_point, group), found, scale)
                return q, found if watched else None

            return as_one(whole, *arrays, again=again)

        rule = functools.partial(rule, op, scale=scale, zero_point=zero_point)
        ended = None if products is None else dataclasses.replace(products, finish=finish)
        q, steps = finish(rule, *read) if ended is None else rule(*read, products=ended)
        if watched:
            self._followed(op, steps * scale)
            self._observe(op.outputs[0], steps * scale, op.attrs.get("activation"))
        return q

    def _no_larger(self, op: Op) -> bool:
        """Whether no operand has more numbers than the result, as that of a mean has."""
        sizes = [math.prod(self.plan.graph.avals[v].shape) for v in (*op.inputs, op.outputs[0])]
        return max(sizes) == sizes[-1]

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

    def _observes(self, group: Group) -> bool:
        return self.observing and group.name in self.ranges and group.scheme.ranges != "frozen"

    def _observe(self, value: int, real: jax.Array, bounds: tuple[float, float] | None) -> None:
        group = self._group(value)
        if not self._observes(group):
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
