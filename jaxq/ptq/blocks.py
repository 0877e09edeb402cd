"""Learned rounding by block: the kernels between two residual sums go up or down together (BRECQ, Li et al. 2021).

The loss is of the block's output and not of each op's, so that an op can make up for what another of its block does:

    min over all V of  sum f (z(x'; V) - z)^2 / sum f (z(x'; nearest) - z)^2  +  weight * mean(1 - |2h - 1|^beta)

z is the float reference's output of the block, x' its input as the integers before it leave it, h and beta those of
`jaxq.ptq.rounding`. f is 1, or with `fisher` the squared gradient of the log-likelihood of the reference's own class by
z, the diagonal of the Fisher matrix (Li et al. 2021, section 3.3).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxq.errors import InputError
from jaxq.graph import Graph, Op
from jaxq.plan.plan import Plan
from jaxq.ptq.adaround import WARM_UP, Settings, annealed, integers, keys_of, penalty, started, stretched
from jaxq.ptq.kernels import Grid, grid_of
from jaxq.ptq.report import Change, Report
from jaxq.ptq.setting import Done, Setting
from jaxq.ptq.walk import Held, Walk, with_weights
from jaxq.simulate.forward import simulate
from jaxq.simulate.reals import reals

OBJECTIVE = "squared error of the block's output, relative to its power"
LONGEST = 4  # kernels of a block where no sum ends it


def rounded_by_block(setting: Setting, settings: Settings, fisher: bool) -> Done:
    """The setting with rounding learned block by block."""
    walk = Walk(setting)
    refused = setting.refusals([op.inputs[1] for op in setting.weighted])
    changes = []
    for block in blocks_of(walk.plan.graph, set(walk.plan.weights)):
        if any(op.name in walk.plan.weights for op in block):
            changes.append(_Block(walk, block).rounded(refused, settings, fisher))
    wanted = {op.inputs[1]: walk.weights[op.inputs[1]] for op in setting.weighted if op.inputs[1] not in refused}
    return Done(setting.assigned(wanted), Report("round", OBJECTIVE, setting.examples, tuple(changes)))


def blocks_of(graph: Graph, weighted: set[str]) -> list[tuple[Op, ...]]:
    """The ops in order, cut where one tensor alone goes on: behind each sum, and after `LONGEST` ops with kernels."""
    blocks, start, known = list[tuple[Op, ...]](), 0, set(graph.inputs)
    for i, op in enumerate(graph.ops, 1):
        known |= set(op.outputs)
        live = known & ({v for later in graph.ops[i:] for v in later.inputs} | set(graph.outputs))
        count = sum(o.name in weighted for o in graph.ops[start:i])
        if i == len(graph.ops) or (len(live) == 1 and (op.kind == "ADD" or count >= LONGEST)):
            blocks.append(graph.ops[start:i])
            start = i
    return blocks


class _Block:
    """One block of a walk, which has come to its first op."""

    def __init__(self, walk: Walk, ops: Sequence[Op]) -> None:
        self.walk, self.ops = walk, [op for op in ops if op.name in walk.plan.weights]
        walk.advance(walk.plan.graph.ops.index(ops[0]))
        self.plan, self.rest = walk.part(ops)
        self.name = self.ops[0].name if len(self.ops) == 1 else f"{self.ops[0].name} to {self.ops[-1].name}"

    def rounded(self, refused: Mapping[int, str], settings: Settings, fisher: bool) -> Change:
        """Learn the integers of the block's kernels and keep them if the block's output is better on integers."""
        walk, before = self.walk, self.error()
        free = [op for op in self.ops if op.inputs[1] not in refused]
        if not free:
            return Change(self.name, before, before, f"left alone. {refused[self.ops[0].inputs[1]]}")
        old = dict(walk.weights)
        grids = {op.inputs[1]: grid_of(walk, op) for op in free}
        found = self.learned(grids, settings, fisher)
        for value, grid in grids.items():
            q = np.where(grid.fixed, grid.nearest, np.asarray(found[value], np.float32))
            walk.weights[value] = grid.weights(np.asarray(old[value], np.float32), q)
        if (after := self.error()) >= before:
            walk.weights = old
            return Change(self.name, before, before, "kept: rounding to nearest is as good")
        changed = np.mean(np.concatenate([(found[v] != g.nearest).reshape(-1) for v, g in grids.items()]))
        return Change(self.name, before, after, f"{len(free)} kernels, {100 * changed:.1f} % of the integers changed")

    def error(self) -> float:
        """The objective with the weights as they are, over all examples."""
        plan, ranges = self.plan, self.walk.ranges

        @jax.jit
        def sums(ours: Held, theirs: Held, weights: Held, reference: Held) -> tuple[Any, Any]:
            inputs = plan.graph.inputs
            found = simulate(with_weights(plan, weights), (), ranges, [ours[v] for v in inputs])
            wanted = _outputs(plan, reference, [theirs[v] for v in inputs])
            pairs = list(zip(found, wanted, strict=True))
            return sum(jnp.sum(jnp.square(a - b)) for a, b in pairs), sum(jnp.sum(b * b) for _, b in pairs)

        weights = [self.constants(w) for w in (self.walk.weights, self.walk.reference)]
        noise, power = np.sum([[float(n) for n in sums(*held, *weights)] for held in self.walk.held], axis=0)
        return float(noise / power) if power else 0.0

    def constants(self, weights: Mapping[int, Any]) -> Held:
        """What the block's ops read that are no activations."""
        activations = self.walk.plan.graph.activations
        return {v: weights[v] for op in self.plan.graph.ops for v in op.inputs if v not in activations}

    def learned(self, grids: Mapping[int, Grid], settings: Settings, fisher: bool) -> dict[int, np.ndarray]:
        """The integers of each kernel, by its value."""
        plan, inputs = self.plan, self.plan.graph.inputs
        weights, reference = (self.constants(w) for w in (self.walk.weights, self.walk.reference))
        wanted_of = jax.jit(lambda x: _outputs(plan, reference, x))
        chunks = [[[held[i][v] for v in inputs] for i in (0, 1)] for held in self.walk.held]
        wanted = [wanted_of(theirs) for _, theirs in chunks]
        share = [[self.fisher(z)] if fisher else [jnp.ones_like(a) for a in z] for z in wanted]
        given = [(*chunk, z, f) for chunk, z, f in zip(chunks, wanted, share, strict=True)]
        with jax.numpy_dtype_promotion("standard"):  # optax's Adam divides by a count in int32
            found = _learn(plan, settings)(jax.tree.map(lambda *a: jnp.stack(a), *given), weights, grids)
        return jax.tree.map(np.asarray, found)

    def fisher(self, outputs: Sequence[Any]) -> Any:
        """The squared gradient of the log-likelihood of the reference's own class by the block's output."""
        if len(outputs) != 1:
            raise InputError("fisher=True needs blocks of one output and a model of one output of logits.")
        return jax.jit(jax.grad(self._likelihood))(outputs[0]) ** 2 if self.rest is not None else _at_logits(outputs[0])

    def _likelihood(self, z: Any) -> Any:
        assert self.rest is not None
        activations = self.walk.plan.graph.activations
        rest = {v for op in self.rest.graph.ops for v in op.inputs if v not in activations}
        (logits,) = _outputs(self.rest, {v: self.walk.reference[v] for v in rest}, [z])
        return jnp.sum(jnp.max(jax.nn.log_softmax(logits), -1))


def _at_logits(logits: Any) -> Any:
    return jax.grad(lambda z: jnp.sum(jnp.max(jax.nn.log_softmax(z), -1)))(logits) ** 2


def _outputs(plan: Plan, weights: Held, inputs: Sequence[Any]) -> list[Any]:
    found = reals(with_weights(plan, weights), (), inputs)
    return [found[v] for v in plan.graph.outputs]


def _learn(plan: Plan, settings: Settings) -> Callable[..., dict[int, Any]]:
    """The compiled function `(chunks, weights, grids) -> integers by value` of a block.

    chunks: the block's inputs on integers and in floats, the outputs wanted and the share of each number in the error,
    each with an axis of chunks before it. A step takes one chunk, whose size the shapes in the plan are for.
    """

    def error(x: Any, z: Any, f: Any, weights: Held, q: Mapping[int, Any], grids: Mapping[int, Grid]) -> Any:
        found = _outputs(plan, weights | {v: q[v] * grids[v].scale for v in q}, x)
        return sum(jnp.sum(s * jnp.square(a - b)) for a, b, s in zip(found, z, f, strict=True))

    def loss(v: Any, x: Any, z: Any, f: Any, weights: Held, grids: Mapping[int, Grid], beta: Any, on: Any) -> Any:
        h = {k: stretched(a) for k, a in v.items()}
        q = {k: integers(weights[k], h[k], grids[k]) for k in v}
        nearest = error(x, z, f, weights, {k: grids[k].nearest for k in v}, grids)
        relative = error(x, z, f, weights, q, grids) / jnp.maximum(nearest, 1e-30)
        return relative + on * settings.weight * sum(penalty(a, beta) for a in h.values()) / len(h)

    tx = optax.adam(settings.rate)

    @jax.jit
    def learned(chunks: Any, weights: Held, grids: Mapping[int, Grid]) -> dict[int, Any]:
        def step(carry: Any, t: Any) -> Any:
            v, state = carry
            place = jax.random.randint(keys_of(settings, t)[0], (), 0, len(jax.tree.leaves(chunks)[0]))
            x, real, z, f = jax.tree.map(lambda a: a[place], chunks)
            if settings.drop:
                key = keys_of(settings, t)[1]
                x = [
                    jnp.where(jax.random.bernoulli(key, settings.drop, a.shape), b, a)
                    for a, b in zip(x, real, strict=True)
                ]
            beta, on = annealed(t, settings.steps), t >= WARM_UP * settings.steps
            update, state = tx.update(jax.grad(loss)(v, x, z, f, weights, grids, beta, on), state)
            return (optax.apply_updates(v, update), state), None

        v = {k: started(weights[k], grids[k]) for k in grids}
        (v, _), _ = jax.lax.scan(step, (v, tx.init(v)), jnp.arange(settings.steps))
        return {k: integers(weights[k], (stretched(a) > 0.5).astype(jnp.float32), grids[k]) for k, a in v.items()}

    return learned
