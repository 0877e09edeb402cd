"""`jaxq diff`: float reading, training forward, file and runtime, tensor by tensor on data."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated, Any

import typer

from jaxq.cli import options
from jaxq.cli.data import read_arrays, refuse_non_finite
from jaxq.cli.failures import usage
from jaxq.cli.output import Result, Table
from jaxq.cli.quantized import Quantized, quantized, with_ranges
from jaxq.cli.targets import load_target
from jaxq.display.text import did_you_mean
from jaxq.errors import ExportError

File = Annotated[
    pathlib.Path | None,
    typer.Argument(
        metavar="FILE", show_default=False, exists=True, dir_okay=False,
        help="A .tflite file that should be this model's; without one, the file that would be exported.",
    ),
]  # fmt: skip
Data = Annotated[
    pathlib.Path | None,
    options.data_option("--data", "Inputs to compare on; without them those of --calibrate"),
]
Sort = Annotated[
    str, typer.Option("--sort", metavar="ORDER", help="Worst first: sqnr, own, mean, max or clipped; or program.")
]


def diff(
    target: options.Target,
    file: File = None,
    recipe: options.Recipe = "int8",
    checkpoint: options.Checkpoint = None,
    calibrate: options.Calibrate = None,
    data: Data = None,
    sort: Sort = "program",
    json: options.Json = False,
) -> Result:
    """Say where a model's integers leave its floats, and where its file leaves the model.

    Of every tensor the error of the training forward in steps and SQNR, its own or inherited; then integer for integer
    the training forward, the file and LiteRT, with the first divergent tensor. Exit code 1 when one integer diverges.
    """
    from jaxq.analyze import diff as float_diff
    from jaxq.analyze.difference import COLUMNS, ORDERS

    if sort not in ORDERS:
        raise usage(f"There is no order {sort!r}. {did_you_mean(sort, ORDERS)}")
    place = data or calibrate
    if place is None:
        raise usage("Give --data inputs.npy to compare on.")
    q = with_ranges(quantized(load_target(target), recipe), checkpoint, calibrate)
    arrays = tuple(read_arrays(place))
    refuse_non_finite(place, arrays)
    found = float_diff(q.model, arrays, *q.state, progress=sys.stdout.isatty())
    integers, refused = _integers(q, arrays, file)
    return Result(
        {
            "data": place,
            "float": found.sorted_by(sort).as_dict(),
            "integers": None if integers is None else integers.as_dict(),
            "not_exported": refused,
        },
        [
            Table(found.title, COLUMNS, found.sorted_by(sort).rows()),
            f"integers not compared: {refused}" if integers is None else str(integers),
        ],
        0 if integers is None or integers.ok else 1,
    )


def _integers(q: Quantized, arrays: tuple[Any, ...], file: pathlib.Path | None) -> tuple[Any, str | None]:
    """The comparison of integers; or None and the reason, for a model that cannot be exported (yet)."""
    from jaxq.export import diff as integer_diff

    try:
        return integer_diff(q.model, arrays, *q.state, file=file, progress=sys.stdout.isatty()), None
    except ExportError as e:
        if file is not None:
            raise
        return None, str(e)
