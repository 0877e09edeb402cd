"""The report on a file: one HTML page that opens offline, verdict first.

    content = jaxq.report.content("model.tflite", data, manifest=..., inputs=..., differences=...)
    jaxq.report.write("report.html", content)

`jaxq report model.tflite`, `artifact.report(path, images)` and the end of every recipe go through these two.
"""

from __future__ import annotations

import importlib.util
import os
import pathlib

from jaxq.errors import ExportError
from jaxq.export.files import refuse_place, write_whole
from jaxq.report.document import Content as Content
from jaxq.report.gather import content as content
from jaxq.report.model_explorer import node_data as node_data
from jaxq.report.run import read_run as read_run
from jaxq.report.verdict import three_lines as three_lines

__all__ = ["Content", "content", "missing_package", "node_data", "read_run", "three_lines", "write"]

NEEDED = {"altair": "altair", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}


def missing_package() -> str | None:
    """The first package of the extra `jaxq[report]` that is not installed; None where all are."""
    return next((package for module, package in NEEDED.items() if importlib.util.find_spec(module) is None), None)


def write(path: str | os.PathLike[str], content: Content, *, force: bool = False) -> pathlib.Path:
    """Write a report as one HTML file.

    Args:
      path: of the file; ends in .html.
      content: what it says.
      force: replace a file that exists.

    Raises: ExportError where the file cannot be written, or a package of the extra `jaxq[report]` is missing.
    """
    target = pathlib.Path(path)
    if target.suffix != ".html":
        raise ExportError(f"{target} does not end in .html.")
    refuse_place(target, force)
    write_whole({target: _page(content).encode()}, force=force)
    return target


def _page(content: Content) -> str:
    missing = missing_package()
    if missing is not None:
        raise ExportError(
            f"A report needs the package {missing}, which is not installed. Run: pip install 'jaxq[report]'"
        )
    from jaxq.report.page import page

    return page(content)
