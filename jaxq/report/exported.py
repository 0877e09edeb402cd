"""The report on an artifact, whose model is at hand: with its errors, recipe and plan."""

from __future__ import annotations

import os
import pathlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxq import report
from jaxq.analyze.diff import compare
from jaxq.analyze.difference import Differences
from jaxq.export.io_formulas import quantized
from jaxq.frontends.batches import joined
from jaxq.plan.toml_text import recipe_text
from jaxq.report.document import Content
from jaxq.report.gather import MOST_EXAMPLES

if TYPE_CHECKING:
    from jaxq.export.artifact import Artifact


def write_report(
    artifact: Artifact,
    path: str | os.PathLike[str],
    examples: Any,
    *,
    run: str | os.PathLike[str] | None,
    force: bool,
    progress: bool,
) -> pathlib.Path:
    """See `Artifact.report`."""
    found = report_content(artifact, pathlib.Path(path), examples, run=run, progress=progress)
    return report.write(path, found, force=force)


def report_content(
    artifact: Artifact,
    path: pathlib.Path,
    examples: Any = None,
    *,
    run: str | os.PathLike[str] | None = None,
    progress: bool = True,
    commands: Sequence[str] = (),
) -> Content:
    """What the page at `path` says of an artifact; `commands` come first of those that repeat it."""
    arrays = [] if examples is None else first_examples(artifact, examples)
    plan = artifact.proof.frozen.plan if artifact.proof is not None else None
    name = path.with_suffix(".tflite").name
    return report.content(
        name,
        artifact.data,
        manifest=artifact.manifest,
        inputs=[quantized(a, entry) for a, entry in zip(arrays, artifact.manifest["inputs"], strict=True)]
        if arrays
        else [],
        differences=_differences(artifact, arrays, progress) if arrays else None,
        run=None if run is None else report.read_run(pathlib.Path(run)),
        recipe="" if plan is None else recipe_text(plan.recipe),
        plan="" if plan is None else str(plan),
        commands=[*commands, f"jaxq verify {name} --random 8", f"jaxq inspect {name}", f"jaxq lint {name}"],
    )


def first_examples(artifact: Artifact, examples: Any) -> list[np.ndarray]:
    """The first 64 of what `Artifact.verify` takes, an array for each input of the file."""
    return joined(artifact.proven.bound, examples, "report on", MOST_EXAMPLES)


def _differences(artifact: Artifact, arrays: list[np.ndarray], progress: bool) -> Differences | None:
    """The error of each tensor against the float model; None for a recipe of floats, which has no steps."""
    bound = artifact.proven.bound
    return None if bound.core.recipe.floats else compare(bound, [arrays], progress)
