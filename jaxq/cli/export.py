"""`jaxq export`: a model with its ranges becomes a .tflite file."""

from __future__ import annotations

import pathlib
import sys
from typing import Annotated, Any

import typer

from jaxq.cli import options
from jaxq.cli.data import read_arrays, refuse_non_finite
from jaxq.cli.failures import usage
from jaxq.cli.metadata import MetadataFile, read_metadata_file
from jaxq.cli.output import Result, Table, warn
from jaxq.cli.quantized import improved, passes_named, quantized, with_ranges
from jaxq.cli.targets import load_target

Out = Annotated[
    pathlib.Path, typer.Option("--out", metavar="FILE.tflite", show_default=False, help="The file to write.")
]
Verify = Annotated[pathlib.Path | None, options.data_option("--verify", "Inputs to prove the file on")]
Passes = Annotated[
    str | None,
    typer.Option(
        "--passes", metavar="A,B", show_default=False,
        help="Post-training passes to run on the data of --calibrate: equalize, smooth, round, gptq, bias, norm.",
    ),
]  # fmt: skip
Force = Annotated[bool, typer.Option("--force", help="Replace the file if it exists.")]
AllowMismatch = Annotated[
    bool, typer.Option("--allow-mismatch", help="Write the file also when an integer differs; its certificate says so.")
]


def export(
    target: options.Target,
    out: Out,
    recipe: options.Recipe = "int8",
    checkpoint: options.Checkpoint = None,
    calibrate: options.Calibrate = None,
    passes: Passes = None,
    verify: Verify = None,
    metadata: MetadataFile = None,
    force: Force = False,
    allow_mismatch: AllowMismatch = False,
    json: options.Json = False,
) -> Result:
    """Write a model as an int8 TFLite file.

    Beside it goes its manifest (.json): hashes, ranges, formulas of input and output, and with --verify the certificate
    that every integer of the file is that of the training forward.
    """
    refuse_early(out, force)
    said = None if metadata is None else read_metadata_file(metadata)
    named = passes_named(passes, calibrate)
    q = with_ranges(quantized(load_target(target), recipe), checkpoint, calibrate)
    q, report = improved(q, calibrate, named)
    from jaxq.export import to_tflite

    artifact = to_tflite(
        q.model, *q.state, verify=_proof_data(verify), allow_mismatch=allow_mismatch, metadata=said,
        reference=None if report is None else report.reference, progress=sys.stdout.isatty(),
    )  # fmt: skip
    artifact.save(out, force=force)
    if artifact.certificate is None:
        warn("the file is not verified. Give --verify data.npy to prove its integers equal to the training forward's.")
    elif not artifact.certificate.ok:
        warn("an integer differs from the training forward's; written because of --allow-mismatch.")
    data = {"file": out, "manifest_file": out.with_suffix(".json"), **artifact.manifest}
    data |= {} if report is None else {"passes": report.as_dict()}
    said_of = [str(part) for part in (report, artifact.certificate) if part is not None]
    return Result(data, [_summary(data), *said_of])


def refuse_early(out: pathlib.Path, force: bool) -> None:
    """Find out before the work what `Artifact.save` would find out after it."""
    from jaxq.export.files import refuse_place

    if out.suffix != ".tflite":
        raise usage(f"--out {out} must end in .tflite; the manifest beside it ends in .json.")
    for path in (out, out.with_suffix(".json")):
        refuse_place(path, force, "Give another --out, or --force to replace it.")


def _proof_data(path: pathlib.Path | None) -> Any:
    if path is None:
        return None
    arrays = read_arrays(path)
    refuse_non_finite(path, arrays)
    return tuple(arrays)


def _summary(data: dict[str, Any]) -> Table:
    rows = [[key, f"{data[key]:,}" if key == "bytes" else str(data[key])] for key in
            ("file", "manifest_file", "bytes", "sha256", "recipe", "target")]  # fmt: skip
    for end in ("inputs", "outputs"):
        rows += [[end.removesuffix("s"), _end(entry)] for entry in data[end]]
    return Table("exported", ["what", "value"], rows)


def _end(entry: dict[str, Any]) -> str:
    text = f"{entry['name']}: {entry['dtype']}[{','.join(map(str, entry['shape']))}]"
    return text if "scale" not in entry else f"{text} scale={entry['scale']:.6g} zp={entry['zero_point']}"
