"""`jaxq compare`: a model's file beside the one that TensorFlow's converter makes of it."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from jaxq.cli import options
from jaxq.cli.data import read_arrays
from jaxq.cli.examples import read_examples
from jaxq.cli.failures import usage
from jaxq.cli.output import Result, Table
from jaxq.cli.quantized import quantized, with_ranges
from jaxq.cli.targets import load_target

Against = Annotated[
    str,
    typer.Option("--against", metavar="NAME", help="Who makes the other file: tflite-converter (jaxq[tensorflow])."),
]
Rounds = Annotated[int, typer.Option("--rounds", metavar="N", min=1, help="How often each file has its turn.")]


def compare(
    target: options.Target,
    against: Against = "tflite-converter",
    recipe: options.Recipe = "int8",
    checkpoint: options.Checkpoint = None,
    calibrate: options.Calibrate = None,
    data: options.Measured = None,
    labels: options.Labels = None,
    rounds: Rounds = 50,
    json: options.Json = False,
) -> Result:
    """Compare a model's file with the one that TFLiteConverter makes: bytes, latency, accuracy, agreement.

    The converter takes its ranges from --calibrate, or without it from --data. Both files run on LiteRT; their
    latencies are measured in turns.
    """
    from jaxq.export import compare as side_by_side
    from jaxq.export.compare_files import OTHERS
    from jaxq.export.tflite_converter import tensorflow

    if against not in OTHERS:
        raise usage(f"There is nothing called {against!r} to compare with. Known: {', '.join(OTHERS)}.")
    tensorflow()  # before the work: where it is missing, pip's line is all there is to say
    q = with_ranges(quantized(load_target(target), recipe), checkpoint, calibrate)
    examples = read_examples(data or calibrate, labels)
    found = side_by_side(
        q.model, examples.arrays, *q.state, against=against, labels=examples.labels, rounds=rounds,
        samples=None if calibrate is None else tuple(read_arrays(calibrate)), progress=sys.stdout.isatty(),
    )  # fmt: skip
    return Result(found.as_dict(), [Table(found.title, found.columns, found.rows())])
