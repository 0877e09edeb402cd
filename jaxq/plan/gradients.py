"""Which ops' quantized gradients keep a state from step to step: those of a product by a scheme that has one."""

from __future__ import annotations

from jaxq.gradients.schemes import SCHEMES
from jaxq.gradients.statistics import GradientSite, gradient_site
from jaxq.graph import Op
from jaxq.graph.ir import CONTRACTIONS
from jaxq.plan.plan import Plan

# The ops whose product is one contraction. That of AFFINE is of vectors; it keeps float gradients.
QUANTIZED = CONTRACTIONS | {"BATCH_MATMUL"}


def gradient_sites(plan: Plan) -> dict[str, GradientSite]:
    """The states of a plan's gradients, by site: `block0/conv/kernel:gradient`."""
    found = ((op, plan.backward(op)) for op in plan.graph.ops if _has_integer_product(plan, op))
    return {
        gradient_site(op.name): GradientSite(how.scheme, plan.graph.avals[op.outputs[0]].shape[-1])
        for op, how in found
        if how is not None and SCHEMES[how.scheme].start(())
    }


def _has_integer_product(plan: Plan, op: Op) -> bool:
    """Whether training forms the op's product of carriers, as one contraction."""
    if op.kind not in QUANTIZED or (op.name in plan.islands and not plan.arithmetic[op.name].dynamic):
        return False
    a, b = (plan.graph.avals[v].shape for v in op.inputs[:2])
    return op.kind != "BATCH_MATMUL" or a[:-2] == b[:-2]  # one that broadcasts an operand keeps float gradients
