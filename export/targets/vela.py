"""Arm's compiler Vela, run as a process of its own in a temporary folder: what it does with a file.

What it leaves to the CPU is read from the file that it writes, where everything else has become the operator
`CUSTOM:ethos-u`; its printed list names moves of memory, such as an Ethos-U85's GATHER, among the CPU's operators.
"""

from __future__ import annotations

import csv
import dataclasses
import importlib.util
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Sequence

from jaxq.errors import ExportError
from jaxq.export.flatbuffer.read import read

PACKAGE = "ethos-u-vela"
ON_NPU = "CUSTOM:ethos-u"
SECONDS = 600.0
KIB = 1024


@dataclasses.dataclass(frozen=True)
class Compiled:
    """What Vela made of a file.

    `accelerator`: its configuration. `cpu`: operators that it left, as (kind, name of the first output). `cycles`:
    of one inference, estimated. `seconds`: of one inference, estimated. `sram`, `dram`, `flash`: bytes used.
    `weights`: bytes of the encoded weights. `macs`: as it counts them, activations behind convolutions included.
    """

    accelerator: str
    cpu: tuple[tuple[str, str], ...]
    cycles: int
    seconds: float
    sram: int
    dram: int
    flash: int
    weights: int
    macs: int


def compiled(data: bytes, accelerator: str) -> Compiled:
    """Compile a .tflite file. `accelerator`: a configuration such as "ethos-u55-256".

    Raises ExportError where Vela is not installed, refuses the file, crashes, or takes more than ten minutes.
    """
    if importlib.util.find_spec("ethosu") is None:
        raise missing()
    with tempfile.TemporaryDirectory(prefix="jaxq-vela-") as name:
        folder = pathlib.Path(name)
        (folder / "model.tflite").write_bytes(data)
        _run(folder, accelerator)
        return _result(folder, accelerator)


def missing() -> ExportError:
    """The error where the package is not installed."""
    return ExportError(f"The package {PACKAGE} is not installed. Run: pip install 'jaxq[vela]'")


def _run(folder: pathlib.Path, accelerator: str) -> None:
    command = [sys.executable, "-m", "ethosu.vela", "model.tflite", "--accelerator-config", accelerator]
    try:
        done = subprocess.run(
            [*command, "--output-dir", "out"], cwd=folder, capture_output=True, text=True, timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ExportError(f"Vela has not compiled the file for {accelerator} in {SECONDS:g} s.") from error
    if done.returncode:
        raise ExportError(
            f"Vela does not compile the file for {accelerator}: {_ended(done.returncode)}, last words: "
            f"{_last_line(done.stderr, done.stdout)}. Drop --compile for the rules alone."
        )


def _ended(code: int) -> str:
    return f"exit code {code}" if code > 0 else f"ended by signal {-code}"


def _last_line(*texts: str) -> str:
    lines = [line.strip() for text in texts for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if "rror" in line]
    return repr((errors or lines or ["nothing"])[-1])


def _result(folder: pathlib.Path, accelerator: str) -> Compiled:
    made, table = folder / "out" / "model_vela.tflite", sorted((folder / "out").glob("model_summary_*.csv"))
    if not made.is_file() or not table:
        raise ExportError(f"Vela reports success for {accelerator} and has written no file. Use another version of it.")
    row = _row(table)
    program = read(made.read_bytes())
    left = [op for op in program.operators if op.kind != ON_NPU]
    try:
        return Compiled(
            accelerator=accelerator,
            cpu=tuple((op.kind, program.tensors[op.outputs[0]].name if op.outputs else "") for op in left),
            cycles=int(float(row["cycles_total"])),
            seconds=float(row["inference_time"]),
            sram=int(float(row["sram_memory_used"]) * KIB),
            dram=int(float(row["dram_memory_used"]) * KIB),
            flash=int((float(row["on_chip_flash_memory_used"]) + float(row["off_chip_flash_memory_used"])) * KIB),
            weights=int(float(row["total_npu_encoded_weights"])),
            macs=int(float(row["nn_macs"])),
        )
    except (KeyError, ValueError) as error:
        raise ExportError(f"Vela's summary is not as expected ({error}). Use {PACKAGE} 5.2.") from error


def _row(tables: Sequence[pathlib.Path]) -> dict[str, str]:
    with tables[0].open(newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows:
        raise ExportError(f"Vela's summary is empty. Use {PACKAGE} 5.2.")
    return rows[-1]
