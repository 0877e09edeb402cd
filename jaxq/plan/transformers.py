"""Whether a plan is of a transformer whose residual stream has 8 bits and no bound.

The sums of a transformer's residual stream grow from block to block, and a few of their numbers much more than the rest
(Bondarenko et al. 2021, "Understanding and Overcoming the Challenges of Efficient Transformer Quantization",
section 3). Per-tensor ranges of 8 bits then cost accuracy even where no whole channel is lost.
"""

from __future__ import annotations

from jaxq.graph.builder import MOVES
from jaxq.graph.ir import Graph, Op
from jaxq.plan.plan import Plan

BETWEEN = frozenset({"ADD", "AFFINE", "CLIP", "MUL", "SELECT", "SUB"})  # scores, on their way to the SOFTMAX
FEWEST = 2  # blocks of attention; one pools or mixes, and no stream grows


def plain_sums(plan: Plan) -> tuple[str, ...]:
    """The sites of the residual sums of 8 bits that nothing bounds, in a graph of several blocks of attention."""
    graph = plan.graph
    blocks = [op for op in graph.ops if op.kind == "SOFTMAX" and _of_products(graph, op.inputs[0])]
    if len(blocks) < FEWEST or plan.recipe.floats:
        return ()
    sums = (op for op in graph.ops if op.kind == "ADD" and plan.arithmetic[op.name].bits == 8)
    return tuple(graph.site_names[op.outputs[0]] for op in sums if _is_residual(graph, op))


def _of_products(graph: Graph, value: int) -> bool:
    """Whether a value is a product of two activations, scaled, masked and moved."""
    made = _producer(graph, value)
    if made is None or made.kind == "BATCH_MATMUL":
        return made is not None
    return made.kind in MOVES | BETWEEN and any(_of_products(graph, v) for v in made.inputs if v in graph.activations)


def _producer(graph: Graph, value: int) -> Op | None:
    return next((op for op in graph.ops if value in op.outputs), None)


def _is_residual(graph: Graph, op: Op) -> bool:
    """A sum of two activations without a bound that is read more than once: by a branch, and by the next sum."""
    readers = graph.consumers(op.outputs[0])
    bounded = op.attrs.get("activation") is not None or any(reader.kind == "CLIP" for reader in readers)
    return graph.activations.issuperset(op.inputs) and not bounded and len(readers) > 1
