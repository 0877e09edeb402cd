"""The integer forward beside the float one, op by op, over examples held in memory.

A pass goes through the ops with weights in order. It sees each op's input as the integers before it leave it, so that
an op makes up for what the ops before it did wrong, and the float reference's input beside it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.assign import computed
from jaxq.graph import Op
from jaxq.ops import OPS
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.groups import Group
from jaxq.plan.plan import Plan
from jaxq.ptq.setting import Setting
from jaxq.range_methods.affine import standing
from jaxq.simulate.forward import simulate
from jaxq.simulate.qparams import Ranges, qparams
from jaxq.simulate.reals import reals
from jaxq.simulate.weights import float_kernel, quantized_weight, weight_values

Held = dict[int, Any]  # activations by value, as real numbers


class Pair(NamedTuple):
    """One chunk of an op's input: as the integer forward has it, in real numbers, and of the float reference."""

    quantized: jax.Array
    real: jax.Array


class Walk:
    """Both forwards up to an op. `weights` are the weight values that passes change as they go."""

    def __init__(self, setting: Setting) -> None:
        self.plan, self.ranges = _standing(setting)
        read = functools.partial(computed, setting.plan.graph, _weights_read(self.plan))
        self.weights: dict[int, Any] = dict(read(tuple(setting.leaves)))
        self.reference: dict[int, Any] = dict(read(tuple(setting.reference)))
        self.position = 0
        enter = self._segment(())
        self.held = [enter(dict(zip(self.plan.graph.inputs, a, strict=True)), None) for a in setting.data]

    def reach(self, op: Op) -> list[Pair]:
        """Run the ops before `op`, with the weights as they are now, and give its input, chunk by chunk."""
        self.advance(self.plan.graph.ops.index(op))
        return [Pair(integers[op.inputs[0]], floats[op.inputs[0]]) for integers, floats in self.held]

    def advance(self, end: int) -> None:
        """Run the ops before a position in the graph, with the weights as they are now."""
        if ops := self.plan.graph.ops[self.position : end]:
            run = self._segment(ops)
            self.held = [run(integers, floats) for integers, floats in self.held]
            self.position = end

    def part(self, ops: Sequence[Op]) -> tuple[Plan, Plan | None]:
        """The plan of some consecutive ops, and of those behind them (None where there are none): from the activations
        that they read to those that later ones do. The weights are constants, to be given (`with_weights`).
        """
        graph = self.plan.graph
        end = graph.ops.index(ops[-1]) + 1
        made = {v for op in ops for v in op.outputs}
        read = {v for op in graph.ops[end:] for v in op.inputs} | set(graph.outputs)
        outputs = tuple(v for op in ops for v in op.outputs if v in read)
        inputs = tuple(dict.fromkeys(v for op in ops for v in op.inputs if v in graph.activations and v not in made))
        rest = self._alone(graph.ops[end:], outputs, graph.outputs) if graph.ops[end:] else None
        return self._alone(ops, inputs, outputs), rest

    def _alone(self, ops: Sequence[Op], inputs: Sequence[int], outputs: Sequence[int]) -> Plan:
        graph = dataclasses.replace(
            self.plan.graph, inputs=tuple(inputs), params={}, constants={}, weights=(), ops=tuple(ops),
            outputs=tuple(outputs), input_names=(), output_names=(),
        )  # fmt: skip
        return dataclasses.replace(self.plan, graph=graph)

    def kernel(self, op: Op) -> Callable[[Any, Any], Carrier]:
        """The function `(w, bias) -> integers and scales` of an op's kernel, as the training forward and the file have
        them.
        """
        scheme, site = self.plan.weights[op.name], self.plan.weight_site(op)
        trained = None if site is None else self.ranges[site]
        if (group := self.plan.group(op.inputs[0])) is None or op.name in self.plan.islands:
            return lambda w, bias: float_kernel(w.astype(np.float32), scheme, trained)
        x_scale, largest = self.ranges[group.name]["scale"], self.plan.arithmetic[op.name].largest_bias
        return lambda w, bias: quantized_weight(w, bias, scheme, x_scale, trained, largest)

    def of(self, op: Op, weights: Mapping[int, Any]) -> tuple[np.ndarray, np.ndarray]:
        """Kernel and bias of an op among weight values, in float32."""
        w, bias = (np.asarray(weights[v], np.float32) for v in op.inputs[1:])
        return w, bias

    def _segment(self, ops: Sequence[Op]) -> Callable[[Held, Held | None], tuple[Held, Held]]:
        """Both forwards of some consecutive ops: from the values held before them to those held after them."""
        graph = self.plan.graph
        end = self.position + len(ops)
        later = {v for op in graph.ops[end:] for v in op.inputs} | set(graph.outputs)
        made = {v for op in ops for v in op.outputs}
        known = graph.inputs if not ops else tuple(self.held[0][0])
        inputs = tuple(v for v in known if not ops or any(v in op.inputs for op in ops))
        outputs = tuple(v for v in (*known, *sorted(made)) if v in later)
        constants = {v for op in ops for v in op.inputs if v not in graph.activations}
        small = dataclasses.replace(
            graph, inputs=inputs, params={}, constants={}, weights=(), ops=tuple(ops),
            outputs=tuple(v for v in outputs if not ops or v in made),
        )  # fmt: skip
        plan = dataclasses.replace(self.plan, graph=small)

        @jax.jit
        def both(integers: Held, floats: Held, weights: Held, reference: Held) -> tuple[Held, Held]:
            carried: dict[int, Carrier] = {}
            arrays = [integers[v] for v in inputs]
            results = simulate(with_weights(plan, weights), (), self.ranges, arrays, carried.__setitem__)
            ours = {v: carried[v].real if v in carried else r for v, r in zip(small.outputs, results, strict=True)}
            theirs = reals(with_weights(plan, reference), (), [floats[v] for v in inputs])
            return ours, {v: theirs[v] for v in small.outputs}

        def run(integers: Held, floats: Held | None) -> tuple[Held, Held]:
            floats = integers if floats is None else floats
            weights, reference = ({v: w[v] for v in constants} for w in (self.weights, self.reference))
            read = ({v: held[v] for v in inputs} for held in (integers, floats))
            ours, theirs = both(*read, weights, reference)
            kept = [v for v in outputs if v not in ours]
            return {v: integers[v] for v in kept} | ours, {v: floats[v] for v in kept} | theirs

        return run


def preactivation(op: Op, x: Any, w: Any, bias: Any) -> jax.Array:
    """What an op with weights computes on real numbers, before its fused activation."""
    return jnp.asarray(OPS[op.kind].compute(op, jnp.asarray(x, jnp.float32), w, bias))


def with_weights(plan: Plan, constants: Mapping[int, Any]) -> Plan:
    """A plan whose weights are these."""
    return dataclasses.replace(plan, graph=dataclasses.replace(plan.graph, constants=constants))


def _weights_read(plan: Plan) -> tuple[int, ...]:
    """Every value that an op reads and that is no activation."""
    activations = plan.graph.activations
    return tuple(dict.fromkeys(v for op in plan.graph.ops for v in op.inputs if v not in activations))


def _standing(setting: Setting) -> tuple[Plan, Ranges]:
    """The plan with the scales and zero points in use written into its groups, for parts of the graph to run alone."""
    plan = setting.plan
    env = weight_values(plan.graph, setting.leaves) if any(g.fake_quant for g in plan.groups.values()) else {}
    found = {name: standing(qparams(g, setting.ranges, env, plan)) for name, g in plan.groups.items()}
    trained = {site: dict(setting.ranges[site]) for op in plan.graph.ops if (site := plan.weight_site(op)) is not None}
    groups = {name: _standing_group(g) for name, g in plan.groups.items()}
    return dataclasses.replace(plan, groups=groups, norms={}), {**found, **trained}


def _standing_group(group: Group) -> Group:
    scheme = dataclasses.replace(group.scheme, ranges="frozen")
    return dataclasses.replace(group, fixed=None, fake_quant=None, derived=None, scheme=scheme)
