"""What must hold of any bytes, and a program that asks it: `python -m tests.hostile FOLDER COUNT SEED` of so many
mutants of the folder's files, `python -m tests.hostile bombs` of the worst files that are known.

A program of its own, because under the type checks that pytest adds to every call of jaxq it takes ten times as long.
"""

from __future__ import annotations

import contextlib
import io
import json
import pathlib
import sys
import tempfile
import time
import tracemalloc
import warnings

import jaxq
from jaxq.cli.inspect import inspect
from jaxq.cli.lint import lint as lint_command
from jaxq.cli.output import Result, show, write_json
from jaxq.errors import FormatError, JaxqError
from jaxq.export.flatbuffer.read import read
from jaxq.export.lint import lint
from jaxq.export.program import Program
from tests.mutants import BOMBS, mutants

SECONDS = 5  # a mutant takes a millisecond, but a machine may be busy
TIMES, SLACK = 64, 2**20  # bytes of memory for each byte of a file, and besides


def opened(data: bytes) -> tuple[Program | None, int]:
    """What the reader makes of the bytes, None for a FormatError, and the most memory that it held."""
    tracemalloc.start()
    try:
        program = read(data)
    except FormatError:
        program = None
    finally:
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    return program, peak


def used(program: Program, file: pathlib.Path) -> None:
    """All that may be asked of a file that reads. Whatever but a JaxqError escapes is a bug."""
    lint(program)
    str(program)
    for result in (inspect(file), lint_command(file)):
        printed(result)
    for family in ("xnnpack", "reference"):
        with contextlib.suppress(JaxqError):
            jaxq.load(file, family=family)


def printed(result: Result) -> None:
    """As text and as JSON."""
    with contextlib.redirect_stdout(io.StringIO()):
        show(result.blocks)
        write_json(result.data)


def hold(data: bytes, file: pathlib.Path, slack: int = SLACK) -> bool:
    """Whether the bytes read. Raises where a law is broken; the bytes are in `file` then."""
    file.write_bytes(data)
    started = time.monotonic()
    program, peak = opened(data)
    if program is not None:
        used(program, file)
    assert peak <= TIMES * len(data) + slack, f"{peak:,} bytes of memory for a file of {len(data):,}"
    assert time.monotonic() - started < SECONDS
    return program is not None


def main(folder: str, *count_and_seed: str) -> None:
    """Prints what became of the mutants, or of the bombs."""
    warnings.simplefilter("error")
    with tempfile.TemporaryDirectory() as place:
        file = pathlib.Path(place, "mutant.tflite")
        if folder == "bombs":
            found: dict[str, int] = {name: hold(data, file, slack=0) for name, data in BOMBS.items()}
        else:
            seeds = [seed.read_bytes() for seed in sorted(pathlib.Path(folder).iterdir())]
            count, seed = map(int, count_and_seed)
            outcomes = [hold(data, file) for data in mutants(seeds, count, seed)]
            found = {"read": sum(outcomes), "refused": len(outcomes) - sum(outcomes)}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
