"""Arguments and options that several commands share."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxq.cli import complete

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of text.")]

Target = Annotated[
    str,
    typer.Argument(
        metavar="TARGET",
        show_default=False,
        help="package.module:function or file.py:function, giving (model, example) or (module, example, variables); "
        "or a shipped recipe.",
        autocompletion=complete.models,
    ),
]

Recipe = Annotated[
    str,
    typer.Option(
        "--recipe",
        metavar="NAME|FILE.toml",
        help="How to quantize: a shipped name or a TOML file.",
        autocompletion=complete.recipes,
    ),
]

TFLite = Annotated[
    pathlib.Path,
    typer.Argument(metavar="FILE", show_default=False, exists=True, dir_okay=False, help="A .tflite file."),
]


def data_option(flag: str, text: str) -> typer.models.OptionInfo:
    """An option that names an existing .npy or .npz file."""
    return typer.Option(
        flag, metavar="FILE.npy", show_default=False, exists=True, dir_okay=False,
        help=f"{text} (.npy, or .npz with one array for each input, in order).",
    )  # fmt: skip


Checkpoint = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--checkpoint", metavar="DIR", exists=True, file_okay=False, help="Orbax checkpoint of the quantized model."
    ),
]

Calibrate = Annotated[
    pathlib.Path | None, data_option("--calibrate", "Inputs to take the ranges from, without training")
]

Measured = Annotated[
    pathlib.Path | None, data_option("--data", "Inputs to measure on; without them those of --calibrate")
]

Labels = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--labels", metavar="FILE.npy", show_default=False, exists=True, dir_okay=False,
        help="The class of each example, integers [examples]; without them the float model's output is the reference.",
    ),
]  # fmt: skip
