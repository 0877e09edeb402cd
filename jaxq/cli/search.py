"""`jaxq search` and `jaxq tune`: a recipe for a budget of bytes, or for a drop of accuracy."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated, Any

import typer

from jaxq.cli import options
from jaxq.cli.examples import read_examples
from jaxq.cli.export import refuse_early as refuse_file
from jaxq.cli.failures import usage
from jaxq.cli.output import Result, Table
from jaxq.cli.quantized import Quantized, quantized, with_ranges
from jaxq.cli.targets import load_target

INTERRUPTED = 130
VERIFIED = 16  # examples that the file of `jaxq tune` is proven on

Out = Annotated[
    pathlib.Path | None,
    typer.Option("--out", metavar="FILE.toml", show_default=False, help="The recipe to write."),
]
Budget = Annotated[
    str | None,
    typer.Option("--budget", metavar="BYTES", help="Bytes of the file: 2.5MB, 900KiB, or 60% of the int8 file."),
]
MaxDrop = Annotated[
    float | None,
    typer.Option("--max-drop", metavar="POINTS", help="Points of accuracy below the float model that are allowed."),
]
Steps = Annotated[
    int, typer.Option("--steps", min=0, help="Steps of training on the float model's outputs, if all else misses it.")
]
Rate = Annotated[float, typer.Option("--rate", help="The first learning rate of --steps.")]
File = Annotated[
    pathlib.Path | None,
    typer.Option("--file", metavar="FILE.tflite", show_default=False, help="The file of the result, to write."),
]
Ranges = Annotated[bool, typer.Option("--ranges", help="Choose the calibration of each tensor instead.")]
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]


def search(
    target: options.Target,
    recipe: options.Recipe = "int8",
    checkpoint: options.Checkpoint = None,
    calibrate: options.Calibrate = None,
    data: options.Measured = None,
    labels: options.Labels = None,
    budget: Budget = None,
    max_drop: MaxDrop = None,
    ranges: Ranges = False,
    out: Out = None,
    force: Force = False,
    json: options.Json = False,
) -> Result:
    """Find a recipe: weights of 4 and 8 bits under a budget, or what must leave int8 for a drop of accuracy.

    With --budget the bits of each op's weights; with --max-drop the fewest tensors in 16 bits, or ops in floats; with
    --ranges each tensor's calibration. Ctrl-C keeps what was found so far. Exit code 1 when the drop is not reached.
    """
    from jaxq import search

    if (budget is not None) + (max_drop is not None) + ranges != 1:
        raise usage("Give one of --budget 2.5MB, --max-drop 0.5 and --ranges.")
    _refuse_early(out, force)
    q = with_ranges(quantized(load_target(target), recipe), checkpoint, calibrate)
    examples = read_examples(data or calibrate, labels)
    given: dict[str, Any] = {"labels": examples.labels, "progress": sys.stdout.isatty()}
    if max_drop is not None:
        return _result(search.rollback(q.model, examples.arrays, *q.state, max_drop=max_drop, **given), out, force)
    if ranges:
        return _result(search.ranges(q.model, examples.arrays, *q.state, **given), out, force)
    overhead, kernels = _of_the_file(q, str(budget))
    found = search.mixed(q.model, examples.arrays, *q.state, budget=kernels, **given)
    return _result(found, out, force, f"the file: at most {overhead + found.facts['bytes']:,} bytes")


def tune(
    target: options.Target,
    max_drop: MaxDrop = 0.5,
    recipe: options.Recipe = "int8",
    data: options.Measured = None,
    labels: options.Labels = None,
    calibrate: options.Calibrate = None,
    steps: Steps = 0,
    rate: Rate = 1e-4,
    out: Out = None,
    file: File = None,
    force: Force = False,
    json: options.Json = False,
) -> Result:
    """Quantize as far as a drop of accuracy allows: calibrators compared, partial quantization if it is needed, then
    with --steps training.

    Prints what each step brings. Without --labels accuracy is agreement with the float model's classes. Exit code 1
    when the drop is not reached: train with the recipe found.
    """
    from jaxq import search

    _refuse_early(out, force)
    if file is not None:
        refuse_file(file, force)
    examples = read_examples(data or calibrate, labels)
    own = None if calibrate is None else read_examples(calibrate, None).arrays
    q = quantized(load_target(target), recipe)
    assert max_drop is not None
    found = search.tune(
        q.model, examples.arrays, *q.state, max_drop=max_drop, labels=examples.labels, calibration=own,
        steps=steps, rate=rate, progress=sys.stdout.isatty(),
    )  # fmt: skip
    train = [] if found.facts["reached"] or ":" in target else [f"next: jaxq train {target} trains this model"]
    made = [] if file is None else [_written(found, target, examples.arrays, file, force)]
    return _result(found, out, force, *train, *made)


def _written(found: Any, target: str, arrays: Any, file: pathlib.Path, force: bool) -> str:
    """Export what `jaxq tune` found, verified on some of its examples; one sentence of what was written."""
    from jaxq.export import to_tflite

    q = quantized(load_target(target), found.recipe)
    state = found.install(q.model, *q.state)
    state = () if state is None else state if isinstance(state, tuple) else (state,)
    shown = tuple(a[:VERIFIED] for a in arrays)
    artifact = to_tflite(q.model, *state, verify=shown, progress=sys.stdout.isatty())
    artifact.save(file, force=force)
    return f"wrote {file}: {len(artifact.data):,} bytes, every integer proven on {len(shown[0])} examples"


def _of_the_file(q: Quantized, budget: str) -> tuple[int, int]:
    """The bytes of the file beside its kernels, and the budget that is left to the kernels."""
    from jaxq.errors import InputError
    from jaxq.export import to_tflite
    from jaxq.search.sizes import OPERATOR_CODE, budget_bytes, kernel_bytes

    size = len(to_tflite(q.model, *q.state, progress=False).data)
    overhead = size - sum(kernel_bytes(q.plan, name) for name in q.plan.weights)
    if budget_bytes(budget, size) < size:  # some operators will be there in two versions
        overhead += OPERATOR_CODE * len({op.kind for op in q.plan.graph.ops if op.name in q.plan.weights})
    left = budget_bytes(budget, size) - overhead
    if left <= 0:
        raise InputError(
            f"--budget {budget} is {budget_bytes(budget, size):,} bytes; the file has {size:,}, of which {overhead:,} "
            "are no weights. Give a larger budget."
        )
    return overhead, left


def _refuse_early(out: pathlib.Path | None, force: bool) -> None:
    from jaxq.export.files import refuse_place

    if out is not None and out.suffix != ".toml":
        raise usage(f"--out {out} must end in .toml: it is a recipe.")
    if out is not None:
        refuse_place(out, force, "Give another --out, or --force to replace it.")


def _result(found: Any, out: pathlib.Path | None, force: bool, *more: str) -> Result:
    """The table, the recipe written, and the exit code."""
    from jaxq.export.files import write_whole
    from jaxq.plan.toml_text import recipe_text

    text = recipe_text(found.recipe)
    if out is not None:
        write_whole({out: text.encode()}, force=force)
    where = [f"wrote {out}: --recipe {out}"] if out is not None else [text.rstrip()]
    code = INTERRUPTED if not found.complete else int(not found.facts.get("reached", True))
    data = {**found.as_dict(), "out": out}
    return Result(data, [Table(found.heading, found.columns, found.table), *more, *where], code)
