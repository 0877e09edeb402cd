"""The error of each tensor in steps of its scale, element by element, in four parts that add up to it.

Write `F` for an op on real numbers with its float weights, `G` for the same with the real numbers that its integer
weights stand for, `Q` for the op as the device computes it. `x` is its input in the float reading, `x'` in the
training forward, `p` is `x` rounded onto the input's grid. Then, in steps of the output,

    total     = Q(x') - F(x)              the training forward against the float reading
    rounding  = Q(p) - clip(G(p))         half a step at most where a kernel rounds once
    clipping  = clip(G(p)) - G(p)         what lies outside the output's range
    weights   = G(p) - F(p)               the integers of kernel, bias and constants
    inherited = total - rounding - clipping - weights = (F(p) - F(x)) + (Q(x') - Q(p))

The first three are the op's *own*: they do not depend on what the ops before it do wrong. Real numbers are computed in
float32, so a part of an 8-bit tensor is sure to a thousandth of a step, of a 16-bit one to a tenth or two.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxq.graph import Op
from jaxq.numerics.rounding import carrier_bounds, dequantize, quantize, true_divide
from jaxq.ops import OPS
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Group, Plan
from jaxq.plan.scheme import QParams
from jaxq.range_methods.affine import standing
from jaxq.simulate.forward import simulate
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.reals import reals
from jaxq.simulate.weights import integer_bias, quantized_operand, quantized_weight, weight_values

# By the width of a tensor, in steps: an own part below this is what float32 leaves of nothing.
NOTHING = {8: 2.0**-12, 16: 2.0**-7}


class Parts(NamedTuple):
    """One tensor, in steps of its scale; arrays of the tensor's shape.

    real: the float reading. clipped: whether it lies more than half a step outside the range. scale: (), real units.
    """

    scale: jax.Array
    real: jax.Array
    clipped: jax.Array
    total: jax.Array
    rounding: jax.Array
    clipping: jax.Array
    weights: jax.Array

    @property
    def own(self) -> jax.Array:
        """The op's own part: rounding, clipping and weights."""
        return self.rounding + self.clipping + self.weights

    @property
    def inherited(self) -> jax.Array:
        """What was wrong with the op's inputs already."""
        return self.total - self.own


class _Known(NamedTuple):
    """What is the same for every op: the plan, weight values, those of the float reference, scales and zero points by
    group, trained ranges.
    """

    plan: Plan
    env: Mapping[int, Any]
    reference: Mapping[int, Any]
    parameters: Mapping[str, QParams]
    ranges: Ranges


def parts(
    plan: Plan,
    params: Sequence[Any],
    ranges: Ranges,
    arrays: Sequence[Any],
    reference: Sequence[Any] | None = None,
) -> dict[str, Parts]:
    """The parts of every integer tensor's error by its site's name, in the order of computation. Can be jitted.

    reference: the parameters of the float reading F; by default `params`.
    """
    env = weight_values(plan.graph, params)
    floats = env if reference is None else weight_values(plan.graph, reference)
    known = _Known(plan, env, floats, {n: qparams(g, ranges, env, plan) for n, g in plan.groups.items()}, ranges)
    real = reals(plan, params if reference is None else reference, arrays, differentiable=False)
    carried: dict[int, Carrier] = {}
    simulate(plan, params, ranges, arrays, carried.__setitem__, differentiable=False)
    found = {v: _entering(plan, v, real[v], carried[v]) for v in plan.graph.inputs if v in carried}
    for op in plan.graph.ops:
        if any(v in carried for v in op.outputs):
            found.update(_made(known, op, real, carried))
    return {plan.graph.site_names[v]: p for v, p in found.items()}


def of_input(plan: Plan, value: int) -> Callable[..., tuple[Parts]]:
    """The parts of an input as a function of its real numbers, its integers, its scale and zero point."""

    def step(real: jax.Array, q: jax.Array, parameters: QParams) -> tuple[Parts]:
        return (_entering(plan, value, real, Carrier(q, *parameters)),)

    return step


def of_op(plan: Plan, op: Op) -> Callable[..., tuple[Parts, ...]]:
    """The parts of an op's results as a function of numbers alone: ops of one `step_key` are one function.

    It takes the float reading of the op's operands and results (of weights and constants their numbers), the reference
    in the place of each operand, the integers of each quantized result, scale and zero point of each operand and
    result, and the trained state of its weight.
    """
    values, site = (*op.inputs, *op.outputs), plan.weight_site(op)
    kept = [v for v in op.outputs if plan.group(v) is not None]

    def step(
        numbers: Sequence[Any],
        reference: Sequence[Any],
        made: Sequence[Any],
        around: Sequence[QParams | None],
        trained: Any,
    ) -> tuple[Parts, ...]:
        real, named = dict(zip(values, numbers, strict=True)), zip(map(plan.group, values), around, strict=True)
        parameters = {group.name: p for group, p in named if group is not None and p is not None}
        ranges = {} if site is None else {site: trained}
        known = _Known(plan, real, dict(zip(op.inputs, reference, strict=True)), parameters, ranges)
        carried = {v: Carrier(q, *parameters[_group(plan, v).name]) for v, q in zip(kept, made, strict=True)}
        found = _made(known, op, real, carried)
        return tuple(found[v] for v in kept)

    return step


def _entering(plan: Plan, value: int, real: jax.Array, carried: Carrier) -> Parts:
    """An input: it is rounded and clipped, and there is nothing else."""
    return _parts(plan, value, real, carried, carried.q, real, real)


def _made(known: _Known, op: Op, real: Mapping[int, Any], carried: Mapping[int, Carrier]) -> dict[int, Parts]:
    """The outputs of an op, against the op by itself."""
    plan, ranges = _by_itself(known, op)
    alone: dict[int, Carrier] = {}
    simulate(plan, (), ranges, [real[v] for v in plan.graph.inputs], alone.__setitem__, differentiable=False)
    fed = [alone[v].real if v in alone else real[v] for v in plan.graph.inputs]
    exact = reals(_with_constants(plan, _on_grid(known, op)), (), fed, differentiable=False)
    reference = {v: known.reference[v] for v in plan.graph.constants}
    float_weights = reals(_with_constants(plan, reference), (), fed, differentiable=False)
    return {
        v: _parts(plan, v, real[v], carried[v], alone[v].q, exact[v], float_weights[v])
        for v in op.outputs
        if v in carried
    }


def _parts(
    plan: Plan, value: int, real: jax.Array, carried: Carrier, own: jax.Array, exact: jax.Array, floats: jax.Array
) -> Parts:
    group, scale = _group(plan, value), carried.scale
    low, high = carrier_bounds(carried.zero_point, group.scheme.bits)
    steps, exact, floats = (true_divide(a.astype(jnp.float32), scale) for a in (real, exact, floats))
    inside = jnp.clip(exact, low, high)
    clipped = (steps < low - 0.5) | (steps > high + 0.5)
    least = NOTHING[group.scheme.bits]
    rounding, clipping, weights = (_settled(e, least) for e in (own - inside, inside - exact, exact - floats))
    return Parts(scale, steps, clipped, carried.q - steps, rounding, clipping, weights)


def _group(plan: Plan, value: int) -> Group:
    group = plan.group(value)
    assert group is not None, plan.graph.site_names[value]
    return group


def _settled(e: jax.Array, least: float) -> jax.Array:
    """`e` without what float32 leaves of nothing: an op that copies integers makes no error."""
    return jnp.where(jnp.abs(e) < least, 0.0, e)


def _by_itself(known: _Known, op: Op) -> tuple[Plan, dict[str, Any]]:
    """The plan of the graph that holds this op alone, its weights as constants, and the ranges that it needs.

    `simulate` of that plan is the op as the training forward computes it, with inputs rounded onto their grid.
    """
    plan, graph = known.plan, known.plan.graph
    inputs = tuple(dict.fromkeys(v for v in op.inputs if v in graph.activations))
    constants = {v: known.env[v] for v in op.inputs if v not in graph.activations}
    touched = [g for g in map(plan.group, (*inputs, *op.outputs)) if g is not None]
    # What a group's range comes from (a FakeQuant module, another group, moving extremes) has been computed.
    groups = {g.name: _standing_group(g) for g in touched}
    small = dataclasses.replace(
        graph, inputs=inputs, params={}, constants=constants, weights=(), ops=(op,), outputs=op.outputs
    )
    ranges = {name: standing(known.parameters[name]) for name in groups}
    if (site := plan.weight_site(op)) is not None:
        ranges[site] = dict(known.ranges[site])
    return dataclasses.replace(plan, graph=small, groups=groups), ranges


def _standing_group(group: Group) -> Group:
    scheme = dataclasses.replace(group.scheme, ranges="frozen")
    return dataclasses.replace(group, fake_quant=None, derived=None, scheme=scheme)


def _with_constants(plan: Plan, constants: Mapping[int, Any]) -> Plan:
    graph = dataclasses.replace(plan.graph, constants={**plan.graph.constants, **constants})
    return dataclasses.replace(plan, graph=graph)


def _on_grid(known: _Known, op: Op) -> dict[int, jax.Array]:
    """An op's weights or constant operands as the real numbers that their integers stand for."""
    plan = known.plan
    if op.name in plan.islands or op.kind not in OPS:
        return {}
    if op.name in plan.weights:
        return _kernel_on_grid(known, op)
    group, spec = plan.group(op.outputs[0]), OPS[op.kind]
    constants = {
        v: jnp.asarray(known.env[v], jnp.float32)
        for i, v in enumerate(op.inputs)
        if v not in plan.graph.activations and i not in spec.plain
    }
    if group is None or spec.raw or not constants:
        return {}
    scale, zero_point = known.parameters[group.name]
    if spec.step is None:  # it copies integers, constants of its output's grid among them
        low, high = carrier_bounds(zero_point, group.scheme.bits)
        return {v: dequantize(quantize(c, scale, low, high), scale) for v, c in constants.items()}
    return {v: quantized_operand(c, scale, plan.arithmetic[op.name].bits).real for v, c in constants.items()}


def _kernel_on_grid(known: _Known, op: Op) -> dict[int, jax.Array]:
    plan, group = known.plan, known.plan.group(op.inputs[0])
    assert group is not None
    x_scale, site = known.parameters[group.name].scale, plan.weight_site(op)
    w, bias = (jnp.asarray(known.env[v]) for v in op.inputs[1:])
    trained = None if site is None else known.ranges[site]
    kernel = quantized_weight(w, bias, plan.weights[op.name], x_scale, trained, plan.arithmetic[op.name].largest_bias)
    product = x_scale * kernel.scale
    return dict(zip(op.inputs[1:], (kernel.real, integer_bias(bias, product) * product), strict=True))
