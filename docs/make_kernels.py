"""Writes docs/kernels.md: for each operator, type, family and machine, whether its integers are proven.

python docs/make_kernels.py [--check]

Proven on x86-64 is what has a case in tests/test_kernels.py; on aarch64 what docs/kernels.json counts, which
`python tests/arm64/compare.py --record docs/kernels.json` writes.
"""

from __future__ import annotations

import json
import pathlib
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from jaxq.export.evaluate.kernels.machine import MACHINES  # noqa: E402
from jaxq.export.evaluate.kernels.xnnpack import by_machine  # noqa: E402
from tests import test_kernels  # noqa: E402
from tests.arm64.compare import type_of  # noqa: E402

PAGE = ROOT / "docs" / "kernels.md"
WEB = {"CONV_2D int8 by int4", "MUL int8", "SOFTMAX int8"}  # tests/test_device_proof_browser.py
TEXT = """# Which kernels are proven where

*Written by docs/make_kernels.py.* Every row is an operator that `tests/test_kernels.py` has a case of, with the type of
what it reads.

- *proven*: jaxq's evaluation equals LiteRT in every integer. On x86-64 at least a million a case, `python -m pytest -m
  slow tests/test_kernels.py -k a_million`. On aarch64 the number of comparisons on each of three emulated processors
  (Cortex-A53, Cortex-A76, one with i8mm), {date}: `make arm64`; an output is compared in the file and in a copy
  that shows every tensor. In WebAssembly in Chromium: `make browser`.
- *derived*: the kernel is the one that is proven on x86-64 ([machines.md](machines.md)).
- *modelled*: the kernel is another than there, known from its source, and was not run.

The family `tflm` is proven on x86-64 (`tests/test_tflm.py`) and unknown elsewhere.

| operator | `xnnpack`, x86-64 | aarch64 | WebAssembly | `reference`, x86-64 | aarch64 |
| --- | --- | --- | --- | --- | --- |
{rows}
"""


def page() -> str:
    """The page."""
    recorded = json.loads((ROOT / "docs" / "kernels.json").read_text())
    found: dict[str, set[str | None]] = {}
    for program, _ in test_kernels.CASES.values():
        (op,) = program.operators
        found.setdefault(type_of(op, program), set()).add(by_machine(op, program.tensors))
    rows = [_row(name, fields, recorded["aarch64"]) for name, fields in sorted(found.items())]
    return TEXT.format(date=recorded["date"], rows="\n".join(rows))


def _row(name: str, fields: set[str | None], arm: dict[str, dict[str, int]]) -> str:
    aarch64 = _counted(arm["xnnpack"].get(name, 0), fields)
    same = all(f is None or getattr(MACHINES["wasm32"], f) == getattr(MACHINES["x86_64"], f) for f in fields)
    web = "proven" if name in WEB else "derived" if same else "modelled"
    reference = _counted(arm["reference"].get(name, 0), {None})
    return f"| {name} | proven | {aarch64} | {web} | proven | {reference} |"


def _counted(count: int, fields: set[str | None]) -> str:
    return f"proven, {count:,}" if count else "derived" if fields == {None} else "modelled"


def main() -> None:
    """Write the page, or with `--check` exit with 1 where it is not what would be written."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit(f"{PAGE.name} is stale. Run: python docs/make_kernels.py")


if __name__ == "__main__":
    main()
