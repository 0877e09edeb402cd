"""`jaxq snippet`: a program that feeds a .tflite file, in the language of the device."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxq.cli import complete, options
from jaxq.cli.failures import usage
from jaxq.cli.output import Result
from jaxq.display.text import did_you_mean

Language = Annotated[
    str,
    typer.Option(
        "--language",
        metavar="NAME",
        show_default=False,
        help="c, cpp, js, kotlin, python or swift.",
        autocompletion=complete.languages,
    ),
]
Out = Annotated[
    pathlib.Path | None,
    typer.Option("--out", metavar="FILE", show_default=False, help="Where to write it; printed if not given."),
]
Force = Annotated[bool, typer.Option("--force", help="Replace --out if it exists.")]


def snippet(
    file: options.TFLite, language: Language, out: Out = None, force: Force = False, json: options.Json = False
) -> Result:
    """Print a program that feeds a .tflite file, anyone's, exactly: normalize, quantize, run, dequantize.

    The constants are the file's own: scales, zero points, and the normalization and labels of its metadata.
    """
    from jaxq.export.files import refuse_place, write_whole
    from jaxq.snippets import LANGUAGES, render

    if language not in LANGUAGES:
        raise usage(f"--language: there is no {language!r}. {did_you_mean(language, LANGUAGES)}")
    text = render(file.read_bytes(), language, file.name)
    data = {"file": file, "language": language, "tested": LANGUAGES[language], "code": text}
    if out is None:
        return Result(data, [text.rstrip("\n")])
    refuse_place(out, force, "Give another --out, or --force to replace it.")
    write_whole({out: text.encode()}, force=force)
    return Result({**data, "out": out}, [f"{out}: {language}; {LANGUAGES[language]}"])
