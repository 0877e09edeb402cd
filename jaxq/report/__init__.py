"""The report on a file: one HTML page that opens offline, verdict first.

    content = jaxq.report.content("model.tflite", data, manifest=..., inputs=..., differences=...)
    jaxq.report.write("report.html", content)

`jaxq report model.tflite`, `artifact.report(path, images)` and the end of every recipe go through these two.
"""

from __future__ import annotations

import os
import pathlib

from jaxq.errors import ExportError
from jaxq.export.files import refuse_place, write_whole
from jaxq.report.document import Content as Content
from jaxq.report.gather import content as content
from jaxq.report.model_explorer import node_data as node_data
from jaxq.report.run import read_run as read_run
from jaxq.report.verdict import three_lines as three_lines

__all__ = ["Content", "content", "node_data", "read_run", "three_lines", "write"]

NEEDED = {"altair": "altair", "jinja2": "jinja2", "vl_convert": "vl-convert-python"}


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
    try:
        from jaxq.report.page import page
    except ModuleNotFoundError as e:
        if e.name not in NEEDED:
            raise
        raise ExportError(
            f"A report needs the package {NEEDED[e.name]}, which is not installed. Run: pip install 'jaxq[report]'"
        ) from e
    return page(content)
