"""Code that feeds a .tflite file on a device exactly as it was trained: `render(data, "kotlin")`.

A program of one language normalizes, quantizes, runs the file and dequantizes, by the formulas of
`jaxq.export.io_formulas`, with the file's own constants in it.
"""

from __future__ import annotations

from jaxq.snippets.render import LANGUAGES as LANGUAGES
from jaxq.snippets.render import render as render

__all__ = ["LANGUAGES", "render"]
