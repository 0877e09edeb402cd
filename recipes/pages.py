"""The page at the end of a run, and what is said of it."""

from __future__ import annotations

import pathlib
import shlex
import sys
from typing import Any

from jaxq import report
from jaxq.export.artifact import Artifact
from jaxq.report.exported import report_content


def written(artifact: Artifact, page: pathlib.Path, run: pathlib.Path, examples: Any = None) -> list[str]:
    """Write the report on a recipe's file; its path and its three most telling lines, for the terminal.

    Args:
      artifact: of the run.
      page: FILE.html; one that exists is replaced. Beside it stands FILE.tflite.
      run: the folder with summary.json and log.jsonl.
      examples: inputs for histograms and errors; without them the page has neither.

    Where a package of `jaxq[report]` is missing nothing is written, and the line says how to install it.
    """
    missing = report.missing_package()
    if missing is not None:
        return [f"no report: {missing} is not installed. Run: pip install 'jaxq[report]'"]
    command = [shlex.join(["jaxq", *sys.argv[1:]])] if sys.argv[1:2] == ["train"] else []
    content = report_content(artifact, page, examples, run=run, progress=False, commands=command)
    report.write(page, content, force=True)
    return [*(f"  {line}" for line in report.three_lines(content)), f"report: {page}"]
