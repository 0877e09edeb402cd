"""`jaxq report`: one HTML page on a .tflite file, anyone's."""

from __future__ import annotations

import pathlib
import shlex
import sys
from collections.abc import Iterator
from typing import Annotated, Any, NamedTuple

import numpy as np
import typer

from jaxq.cli import options
from jaxq.cli.data import file_batches, read_arrays, refuse_non_finite
from jaxq.cli.failures import usage
from jaxq.cli.manifest import manifest_beside
from jaxq.cli.output import Result
from jaxq.cli.quantized import quantized, with_ranges
from jaxq.cli.targets import load_target

Out = Annotated[
    pathlib.Path | None,
    typer.Option("--out", metavar="FILE.html", show_default=False, help="The page; FILE with .html if not given."),
]
Data = Annotated[pathlib.Path | None, options.data_option("--data", "Inputs to count the numbers of every tensor on")]
Model = Annotated[
    str | None,
    typer.Option(
        "--model", metavar="TARGET", show_default=False,
        help="The model that the file was made of (package.module:function), to measure its errors on --data.",
    ),
]  # fmt: skip
RunFolder = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--run", metavar="DIR", show_default=False, exists=True, file_okay=False,
        help="A folder that jaxq train left: its accuracies and curves.",
    ),
]  # fmt: skip
ModelExplorer = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--model-explorer", metavar="FILE.json", show_default=False,
        help="Write node data for AI Edge Model Explorer, too.",
    ),
]  # fmt: skip
Force = Annotated[bool, typer.Option("--force", help="Replace files that exist.")]


class _Measured(NamedTuple):
    """What a model adds: its errors, and the texts of its recipe and plan."""

    differences: Any = None
    recipe: str = ""
    plan: str = ""


def report(
    file: options.TFLite,
    out: Out = None,
    data: Data = None,
    model: Model = None,
    recipe: options.Recipe = "int8",
    checkpoint: options.Checkpoint = None,
    calibrate: options.Calibrate = None,
    run: RunFolder = None,
    model_explorer: ModelExplorer = None,
    force: Force = False,
    json: options.Json = False,
) -> Result:
    """Write one HTML page on a .tflite file: verdict, remedies, the network in colours, every tensor's numbers.

    The page holds all that it needs and opens offline. Its certificate and findings are those of the manifest (.json)
    beside the file; --data adds histograms, --model the errors against the float model, --run the training.
    """
    from jaxq import report as pages
    from jaxq.export.files import refuse_place, write_whole

    page = file.with_suffix(".html") if out is None else out
    for path in filter(None, (page, model_explorer)):
        refuse_place(path, force, "Give another path, or --force to replace it.")
    contents = file.read_bytes()
    measured = _measured(model, recipe, checkpoint, calibrate, data)
    found = pages.content(
        file.name,
        contents,
        manifest=manifest_beside(file, contents, "The report"),
        inputs=_inputs(contents, data),
        run=None if run is None else pages.read_run(run),
        commands=_commands(file),
        **measured._asdict(),
    )
    pages.write(page, found, force=force)
    if model_explorer is not None:
        write_whole({model_explorer: pages.node_data(found).encode()}, force=force)
    lines = pages.three_lines(found)
    written = [f"report: {page}", *([] if model_explorer is None else [f"model explorer: {model_explorer}"])]
    return Result(
        {"file": file, "report": page, "model_explorer": model_explorer, "lines": lines}, ["\n".join(written + lines)]
    )


def _inputs(contents: bytes, data: pathlib.Path | None) -> list[np.ndarray]:
    """The examples in the file's types; none without --data."""
    if data is None:
        return []
    from jaxq.export.evaluate.load import evaluated_program
    from jaxq.report.gather import MOST_EXAMPLES

    arrays = read_arrays(data)
    refuse_non_finite(data, arrays)
    program = evaluated_program(contents)
    few = [array[:MOST_EXAMPLES] if len(array) > MOST_EXAMPLES else array for array in arrays]
    batches: Iterator[list[np.ndarray]] = file_batches(program, few)
    return [np.concatenate(parts) for parts in zip(*batches, strict=True)]


def _measured(
    model: str | None,
    recipe: str,
    checkpoint: pathlib.Path | None,
    calibrate: pathlib.Path | None,
    data: pathlib.Path | None,
) -> _Measured:
    if model is None:
        return _Measured()
    place = data or calibrate
    if place is None:
        raise usage("--model goes with --data inputs.npy, to measure its errors on.")
    from jaxq.analyze import diff
    from jaxq.plan.toml_text import recipe_text

    q = with_ranges(quantized(load_target(model), recipe), checkpoint, calibrate)
    found = diff(q.model, tuple(read_arrays(place)), *q.state, progress=sys.stdout.isatty())
    return _Measured(found, recipe_text(q.plan.recipe), str(q.plan))


def _commands(file: pathlib.Path) -> list[str]:
    """The command that wrote the page, and those that say more."""
    own = [shlex.join(["jaxq", *sys.argv[1:]])] if sys.argv[1:2] == ["report"] else []
    name = shlex.quote(str(file))
    return [*own, f"jaxq verify {name} --random 8", f"jaxq inspect {name}", f"jaxq lint {name}"]
