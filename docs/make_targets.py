"""Writes docs/targets.md from the tables of jaxq.export.targets: `python docs/make_targets.py [--check]`.

`tests/test_targets.py` asserts that the page is fresh.
"""

from __future__ import annotations

import pathlib
import sys
import textwrap
from typing import Any

from jaxq.export.targets import TARGETS, Device, Limit
from jaxq.export.targets.edgetpu import CEILING

PAGE = pathlib.Path(__file__).parent / "targets.md"
WIDTH = 118
WRAP: dict[str, Any] = {"width": WIDTH, "break_on_hyphens": False, "break_long_words": False}

HEAD = """\
# Targets

`python docs/make_targets.py` writes this page from the tables that `jaxq check` runs on. Do not edit.

    jaxq check model.tflite --target edgetpu
    jaxq check model.tflite --target ethos-u55 --compile

tells of any .tflite file where each operator goes, in the target's own words, what share of the multiplications (MACs)
that is, and which operator to change first. Exit code 0: everything maps. 1: something does not. 2: the command line
is wrong. Before training, the plan asks `jaxq.plan.target.TARGETS`, which has the kinds of operators of
each target and none of their limits.

Every entry says where it comes from: *measured* (jaxq's tests run it on the runtime or the compiler named), *vendor*
(the vendor's document or source code says so), *inferred* (from logs, issues, neighbouring versions).

- `litert`: what XNNPACK does not take runs on TFLite's own kernels, so that only custom operators fail the check.
- `edgetpu`: operators are mapped up to the first that is not; all that depends on that one stays on the CPU ("More
  than one subgraph is not supported"; by dependence and not by order: inferred). A QUANTIZE of the model's own input
  may stay in front. Constants above 7.7 MiB are sent to the chip for each inference. Large RESHAPEs and MEANs and some
  resizes are refused by the compiler for reasons that are not public.
- `ethos-u55`, `ethos-u65`, `ethos-u85`: the rest runs on the CPU beside. `--compile` (`pip install 'jaxq[vela]'`) runs
  Arm's compiler Vela and shows its answer, cycles and memory. Vela's own list of CPU operators counts an Ethos-U85's
  GATHER among them; jaxq reads the file that Vela writes, where it is on the NPU. Vela crashes on weights of int4.
- `tflm`: kinds and types. The arena that `check` prints is the plan of TFLite Micro's own planner, without the scratch
  memory of kernels.

## Functions that are no operator

jaxq writes them as a look-up: CAST to int32, ADD of 128, GATHER from 256 constants.

| target | CAST int8 to int32 | ADD of int32 | GATHER from constants | |
| --- | --- | --- | --- | --- |
| LiteRT | runs | runs | runs | none of them on XNNPACK |
| Edge TPU | not supported | - | not supported | no such function there |
| Ethos-U55, U65 | CPU | NPU | CPU | a GELU, EXP, ELU, LOG, TANH, LOGISTIC or HARD_SWISH is one look-up on the NPU |
| Ethos-U85 | NPU | NPU | NPU | the same |
| TFLite Micro | runs | runs | runs | CAST of uint8 and GATHER of bool do not |

Measured with ai-edge-litert 2.3.0, ethos-u-vela 5.2.0 and tflite-micro 0.dev20261023182759; Edge TPU: vendor.
"""


def section(device: Device) -> str:
    """One target: its limits for all operators, then the table of them."""
    verdict = f"Verdict: {device.verdict}. Kinds: {device.evidence}, {device.source}."
    lines = [f"## {device.name}: {device.title}", "", *textwrap.wrap(verdict, **WRAP), ""]
    words = f'Mapped: "{device.mapped}". Not in the table: "{device.unlisted}". Beyond a limit: "{device.limited}".'
    lines += [*textwrap.wrap(words, **WRAP), ""]
    if device.everywhere:
        lines += ["All operators:", ""]
        lines += [line for limit in device.everywhere for line in item(limit)]
        lines += [""]
    groups: dict[tuple[Limit, ...], list[str]] = {}
    for kind, limits in sorted(device.operators.items()):
        groups.setdefault(tuple(limits), []).append(kind)
    for limits, kinds in sorted(groups.items(), key=lambda g: g[1]):
        lines += textwrap.wrap(", ".join(kinds), **WRAP, initial_indent="- ", subsequent_indent="  ")
        lines += [line for limit in limits for line in item(limit, "  ")]
    return "\n".join(lines)


def item(limit: Limit, indent: str = "") -> list[str]:
    """A limit, how it is known, and the status of what breaks it."""
    status = f': "{limit.status}"' if limit.status else ""
    source = "" if indent else f"; {limit.source}"
    text = f"{limit.law} ({limit.evidence}{source}){status}"
    return textwrap.wrap(text, **WRAP, initial_indent=f"{indent}- ", subsequent_indent=f"{indent}  ")


def versions() -> str:
    """The highest versions that the Edge TPU compiler is taken to know."""
    text = ", ".join(f"{kind} {version}" for kind, version in sorted(CEILING.items()))
    return "\n".join(["Highest operator versions there:", "", *textwrap.wrap(text + ".", **WRAP)])


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for device in TARGETS.values():
        parts += [section(device), "", *([versions(), ""] if device.name == "edgetpu" else [])]
    return "\n".join(parts)


def main() -> None:
    """Write the page, or fail with `--check` where it is stale."""
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/targets.md is stale: run python docs/make_targets.py")


if __name__ == "__main__":
    main()
