"""A plan as text: weights, activations, float islands, and what the target says."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from jaxq.plan.decompositions import FORMS
from jaxq.plan.mean_of_squares import SQUARES
from jaxq.plan.target import target_named

if TYPE_CHECKING:
    from jaxq.graph import Op
    from jaxq.plan.groups import Group
    from jaxq.plan.plan import Plan


def plan_text(plan: Plan) -> str:
    """The whole plan, one fact a line."""
    target = target_named(plan.recipe.target)
    lines = [
        f"plan: recipe {plan.recipe.name}, target {target.title}, input {plan.recipe.input}, output "
        f"{plan.recipe.output}",
        f"weights ({len(plan.weights) + len(plan.embeddings)})",
        *(f"  {name}: {scheme}{_weight_note(plan, name)}" for name, scheme in plan.weights.items()),
        *(f"  {name}: {scheme}; the rows read are dequantized" for name, scheme in plan.embeddings.items()),
        f"activations ({sum(len(g.members) for g in plan.groups.values())} tensors, {len(plan.groups)} ranges)",
        *(f"  {_group_text(g)}" for g in plan.groups.values()),
        f"float islands ({len(plan.islands)})",
        *(f"  {name}: {reason}" for name, reason in plan.islands.items()),
    ]
    lines += [f"  {op.name}: {_form_text(op.attrs['form'])}" for op in plan.graph.ops if "form" in op.attrs]
    lines += [f"  {name} operand {i}: requantized to the output's scale" for name, i in sorted(plan.requantized)]
    if plan.recipe.norm == "follow":
        lines += [f"BatchNorms that follow ({len(plan.norms)})", *(f"  {site}" for site in plan.norms)]
    if plan.gradients:
        lines += [f"gradients with a state ({len(plan.gradients)})"]
        lines += [f"  {site}: {found.scheme}" for site, found in plan.gradients.items()]
    if plan.findings:
        lines += [f"precision ({len(plan.findings)})", *(f"  {f}. {f.remedy}" for f in plan.findings)]
    return "\n".join([*lines, *_machine_note(plan), _verdict(plan)])


def _machine_note(plan: Plan) -> list[str]:
    """What other processors than the target's round differently, where it is one of LiteRT's."""
    kinds = [op.kind for op in plan.graph.ops if _differs_by_machine(plan, op)]
    if not kinds or not plan.recipe.target.startswith("litert"):
        return []
    machine, counts = target_named(plan.recipe.target).machine, Counter(kinds)
    ops = ", ".join(f"{kind} {count:,}" for kind, count in sorted(counts.items()))
    return [f"integers are those of {machine}; other machines differ by a step in some of: {ops}"]


def _differs_by_machine(plan: Plan, op: Op) -> bool:
    how = plan.arithmetic.get(op.name)
    if op.name in plan.islands or how is None or how.is_float:
        return False
    eight = op.kind in ("MUL", "SOFTMAX") and how.bits == 8
    return eight or how.requantize == "once" or (how.requantize == "half up" and plan.recipe.target == "litert-x86")


def _form_text(form: str) -> str:
    if form == SQUARES:
        return f"{form} as a product of two vectors, none of whose terms is rounded"
    return f"{form} as {FORMS[form].meaning}, which the target has kernels for"


def _weight_note(plan: Plan, name: str) -> str:
    """What the device does with weights of 4 bits, and with weights of 8 that meet floats."""
    if plan.weights[name].bits == 8:
        return "; its input is quantized at run time" if plan.arithmetic[name].dynamic else ""
    if plan.storage[name] == "int8":
        return "; stored as int8"
    slow = "; computed by TFLite's builtin kernel, which is slower than XNNPACK's"
    return "" if plan.arithmetic[name].requantize == "float32" else slow


def _group_text(group: Group) -> str:
    text = f"{group.name}: {group.scheme}"
    if group.fixed is not None:
        scale, zero_point = group.fixed
        text = f"{group.name}: int{group.scheme.bits}, scale {scale:.6g} and zero point {zero_point} prescribed by "
        text += "TFLite"
    if group.fake_quant is not None:
        text += f"; range of {group.fake_quant}"
    if group.derived is not None:
        text += f"; the integers of {group.derived} in {group.scheme.bits} bits"
    if group.nonnegative:
        text += "; zero point fixed at the least integer (ReLU output)"
    if len(group.members) > 1:
        text += f"; shared with {', '.join(group.members[1:])} (tied by {', '.join(group.ties)})"
    return text


def _verdict(plan: Plan) -> str:
    target = target_named(plan.recipe.target)
    found = {target.refused(op.kind, plan.graph.reads(op)) for op in plan.graph.ops}
    refused = sorted(words for words in found if words is not None)
    if plan.islands and not target.float_islands:
        refused = sorted({*refused, *plan.islands})
    if refused:
        return f"verdict: {target.title} does not take {', '.join(refused)}"
    if plan.recipe.floats:
        at_run_time = "; activations are quantized at run time" if plan.recipe.activations.dynamic else ""
        return f"verdict: activations are floats; weights are stored in {plan.recipe.weights.bits} bits{at_run_time}"
    if plan.islands:
        text = f"verdict: {len(plan.islands)} ops run in floating point, between DEQUANTIZE and QUANTIZE"
        unknown = [f"`{op.attrs['primitive']}` ({op.source})" for op in plan.graph.ops if op.kind == "FLOAT"]
        without = f"; to_tflite will refuse {len(unknown)}: {', '.join(unknown)}, which have no export rule in jaxq"
        return text + (without if unknown else "")
    return f"verdict: every tensor is an integer; {target.title} takes every op"
