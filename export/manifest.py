"""The manifest, `model.json`: hashes, the formulas at both ends, ranges, bounds of sums, what was proven."""

from __future__ import annotations

import hashlib
from typing import Any

from jaxq import __version__
from jaxq.export.io_formulas import described, formula
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.metadata import Metadata
from jaxq.export.program import Program
from jaxq.export.proof.bounds import accumulator_bounds
from jaxq.export.proof.certificate import Certificate
from jaxq.export.proof.quality import Quality
from jaxq.plan.plan import Plan


def manifest_of(
    frozen: Frozen,
    program: Program,
    data: bytes,
    proof: Certificate | None,
    metadata: Metadata | None,
    quality: Quality | None,
) -> dict[str, Any]:
    """The manifest of a file: `proof` and `quality` are those of its examples, None where no proof ran."""
    recipe, graph = frozen.plan.recipe, frozen.plan.graph
    inputs, outputs = ([formula(name, program.tensors[i]) for name, i in zip(*end, strict=True)]
                       for end in zip(graph.ends, (program.inputs, program.outputs), strict=True))  # fmt: skip
    if metadata is not None:
        inputs, outputs = described(inputs, metadata.inputs), described(outputs, metadata.outputs)
    return {
        "format": 1,
        "jaxq": __version__,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "recipe": recipe.name,
        "target": recipe.target,
        "plan": frozen.plan.fingerprint,
        "inputs": inputs,
        "outputs": outputs,
        "ranges": {name: {"scale": float(s), "zero_point": z} for name, (s, z) in frozen.parameters.items()},
        "accumulators": accumulator_bounds(frozen),
        "certificate": None if proof is None else proof.as_dict(),
        **_precision(frozen.plan, quality),
    }


def _precision(plan: Plan, quality: Quality | None) -> dict[str, Any]:
    """What the manifest says of the file's worth: findings of calibration, and the outputs beside the float model's."""
    measured = None if quality is None else quality.as_dict()
    return {"precision": {"findings": [f.as_dict() for f in plan.findings], "outputs": measured}}
