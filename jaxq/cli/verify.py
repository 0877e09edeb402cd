"""`jaxq verify`: our reading of kernel families against their runtimes, for every tensor of any .tflite file."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
import typer

from jaxq.cli import options
from jaxq.cli.data import file_batches, random_batches, read_arrays, refuse_non_finite
from jaxq.cli.failures import usage
from jaxq.cli.output import Result, Table
from jaxq.export.program import Program

Data = Annotated[
    pathlib.Path | None,
    options.data_option("--data", "Inputs in the file's types, or floats, quantized by the file's parameters"),
]
Random = Annotated[
    int | None,
    typer.Option("--random", metavar="N", min=1, show_default=False, help="N random inputs, always the same."),
]
Family = Annotated[
    list[str] | None,
    typer.Option(
        "--family",
        metavar="NAME",
        show_default=False,
        help="xnnpack, reference (LiteRT) or tflm (TFLite Micro, package tflite-micro); repeat for several. "
        "By default LiteRT's two.",
    ),
]
Runtime = Annotated[
    str,
    typer.Option(
        "--runtime",
        metavar="NAME",
        help="Whose interpreter runs LiteRT's two families: litert, or tf.lite, TensorFlow's own (jaxq[tensorflow]).",
    ),
]


def verify(
    file: options.TFLite,
    data: Data = None,
    random: Random = None,
    family: Family = None,
    runtime: Runtime = "litert",
    json: options.Json = False,
) -> Result:
    """Compare a .tflite file's integers with LiteRT's, TensorFlow's or TFLite Micro's.

    Every tensor of any file, as jaxq computes it for each kernel family; exit code 1 when one integer differs.
    """
    from jaxq.export.evaluate.load import evaluated_program
    from jaxq.export.evaluate.program import FAMILIES as KNOWN
    from jaxq.export.files import check_pair
    from jaxq.export.proof.certificate import FAMILIES, certificate, new_tallies
    from jaxq.export.proof.families import compare_families, readers
    from jaxq.export.runtimes.interpreters import INTERPRETERS

    if (data is None) == (random is None):
        raise usage("Give either --data inputs.npy or --random N.")
    if unknown := set(family or ()) - KNOWN.keys():
        raise usage(f"There is no kernel family {min(unknown)!r}. Families: {', '.join(KNOWN)}.")
    if runtime not in INTERPRETERS:
        raise usage(f"There is no runtime {runtime!r}. Runtimes: {', '.join(INTERPRETERS)}.")
    program, contents, families = evaluated_program(file), file.read_bytes(), tuple(family or FAMILIES)
    check_pair(file, contents)
    tallies, ours, examples = new_tallies(families), readers(program, families), 0
    for batch in _batches(program, data, random):
        compare_families(contents, program, batch, ours, tallies, runtime)
        examples += _examples(program, batch)
    proof = certificate(examples, tallies, None, None, program, runtime=runtime)
    differing = [(family, name, count, tally.largest[name]) for family, tally in tallies.items()
                 for name, count in tally.differing.items() if count]  # fmt: skip
    return Result(
        {"file": file, **proof.as_dict(), "differing_tensors": [_entry(*d) for d in differing]},
        [f"{file}\n{proof}", *([_table(differing)] if differing else [])],
        0 if proof.ok else 1,
    )


def _batches(program: Program, data: pathlib.Path | None, random: int | None) -> Iterator[list[np.ndarray]]:
    if data is None:
        return random_batches(program, random or 1)
    arrays = read_arrays(data)
    refuse_non_finite(data, arrays)
    return file_batches(program, arrays)


def _examples(program: Program, batch: list[np.ndarray]) -> int:
    batched = all(program.tensors[index].shape[:1] == (1,) for index in program.inputs)
    return len(batch[0]) if batched and batch else 1


def _entry(family: str, tensor: str, differing: int, largest: int) -> dict[str, Any]:
    return {"family": family, "tensor": tensor, "differing": differing, "largest_step": largest}


def _table(differing: list[tuple[str, str, int, int]]) -> Table:
    rows = [[family, name, f"{count:,}", f"{largest:,}"] for family, name, count, largest in differing]
    return Table("tensors that differ", ["family", "tensor", ">integers", ">largest step"], rows)
