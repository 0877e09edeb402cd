"""`jaxq proof`: a folder that proves a .tflite file on a phone, in a browser, on a board."""

from __future__ import annotations

import pathlib
from typing import Annotated

import numpy as np
import typer

from jaxq.cli import options
from jaxq.cli.data import file_batches, random_batches, read_arrays, refuse_non_finite
from jaxq.cli.failures import usage
from jaxq.cli.manifest import manifest_beside
from jaxq.cli.output import Result, Table

Out = Annotated[pathlib.Path, typer.Option("--out", metavar="DIR", show_default=False, help="The folder to write.")]
Data = Annotated[pathlib.Path | None, options.data_option("--data", "Examples, real numbers or the file's integers")]
Random = Annotated[
    int | None, typer.Option("--random", metavar="N", min=1, max=64, show_default=False, help="N random examples.")
]
Runtime = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--runtime", metavar="DIR", exists=True, file_okay=False, show_default=False,
        help="node_modules with @litertjs/core and @litertjs/wasm-utils, to pack LiteRT's web runtime.",
    ),
]  # fmt: skip
Force = Annotated[bool, typer.Option("--force", help="Replace the folder if it exists.")]


def proof(
    file: options.TFLite,
    out: Out,
    data: Data = None,
    random: Random = None,
    runtime: Runtime = None,
    force: Force = False,
    json: options.Json = False,
) -> Result:
    """Write a folder with examples and the integers that a .tflite file must give, to run on a device without jaxq.

    It holds check.py (numpy and ai-edge-litert), index.html (a browser) and proof.c (TFLite Micro).
    """
    from jaxq.export.device_proof import save_proof
    from jaxq.export.evaluate.load import load_program

    if (data is None) == (random is None):
        raise usage("Give either --data inputs.npy or --random N.")
    program = load_program(file)
    if data is None:
        batches = list(random_batches(program, random or 1))
    else:
        arrays = read_arrays(data)
        refuse_non_finite(data, arrays)
        batches = list(file_batches(program, arrays))
    inputs = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
    contents = file.read_bytes()
    manifest = manifest_beside(file, contents, "The proof") or {}
    folder = save_proof(contents, inputs, out, manifest=manifest, runtime=runtime, force=force)
    files = sorted(path.name for path in folder.iterdir())
    facts = {"folder": str(folder), "examples": len(inputs[0]), "files": files}
    rows = [[key, ", ".join(value) if isinstance(value, list) else str(value)] for key, value in facts.items()]
    return Result({"file": file, **facts}, [Table("proof", ["what", "value"], rows)])
