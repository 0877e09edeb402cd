"""`jaxq plan`: what will be quantized, and how, before any training."""

from __future__ import annotations

from typing import Any

from jaxq.cli import options
from jaxq.cli.output import Result
from jaxq.cli.quantized import quantized
from jaxq.cli.targets import load_target
from jaxq.plan.plan import Group, Plan


def plan(target: options.Target, recipe: options.Recipe = "int8", json: options.Json = False) -> Result:
    """Print how a model will be quantized.

    Its sites, which of them share a scale and why, what stays in floating point and why, and the target's verdict.
    """
    found = quantized(load_target(target), recipe).plan
    return Result(_as_data(found), [str(found)])


def _as_data(plan: Plan) -> dict[str, Any]:
    return {
        "recipe": plan.recipe.name,
        "target": plan.recipe.target,
        "input": plan.recipe.input,
        "output": plan.recipe.output,
        "weights": {name: str(scheme) for name, scheme in {**plan.weights, **plan.embeddings}.items()},
        "activations": [_group(group) for group in plan.groups.values()],
        "float_islands": dict(plan.islands),
        "requantized": [{"op": op, "operand": operand} for op, operand in sorted(plan.requantized)],
        "verdict": str(plan).splitlines()[-1].removeprefix("verdict: "),
    }


def _group(group: Group) -> dict[str, Any]:
    fixed = None if group.fixed is None else {"scale": group.fixed[0], "zero_point": group.fixed[1]}
    return {
        "name": group.name,
        "scheme": str(group.scheme),
        "members": list(group.members),
        "tied_by": list(group.ties),
        "fixed": fixed,
        "nonnegative": group.nonnegative,
        "fake_quant": group.fake_quant,
    }
