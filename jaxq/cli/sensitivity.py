"""`jaxq sensitivity`: which ops bear fewer bits, and which need more."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jaxq.cli import options
from jaxq.cli.examples import read_examples
from jaxq.cli.output import Result, Table
from jaxq.cli.quantized import quantized, with_ranges
from jaxq.cli.targets import load_target

Choices = Annotated[str, typer.Option("--choices", metavar="LIST", help="What to try, by commas: w4, w8, a16, float.")]


def sensitivity(
    target: options.Target,
    recipe: options.Recipe = "int8",
    checkpoint: options.Checkpoint = None,
    calibrate: options.Calibrate = None,
    data: options.Measured = None,
    labels: options.Labels = None,
    choices: Choices = "w4,a16,float",
    json: options.Json = False,
) -> Result:
    """Say of each op what the model loses when that op alone is quantized otherwise.

    The loss is the cross entropy of --labels, or without them the error of the output over its size.
    """
    from jaxq import analyze

    q = with_ranges(quantized(load_target(target), recipe), checkpoint, calibrate)
    examples = read_examples(data or calibrate, labels)
    found = analyze.sensitivity(
        q.model, examples.arrays, *q.state, labels=examples.labels, choices=tuple(choices.split(",")),
        progress=sys.stdout.isatty(),
    )  # fmt: skip
    return Result(found.as_dict(), [Table(found.title, found.columns, found.rows()), *found.skipped])
