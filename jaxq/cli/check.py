"""`jaxq check`: what a target takes of any .tflite file, and what to change."""

from __future__ import annotations

import pathlib
from typing import Annotated, Any

import typer

from jaxq.cli import complete, options
from jaxq.cli.failures import usage
from jaxq.cli.output import Result, Table
from jaxq.display.text import shortened

Target = Annotated[
    str,
    typer.Option(
        "--target",
        metavar="NAME",
        show_default=False,
        help="Such as litert, edgetpu, ethos-u55 or tflm; docs/targets.md has all.",
        autocompletion=complete.targets,
    ),
]
Compile = Annotated[bool, typer.Option("--compile", help="For Ethos-U: ask Arm's compiler Vela, too.")]
Accelerator = Annotated[
    str | None,
    typer.Option(
        "--accelerator", metavar="NAME", show_default=False, help="Vela's configuration, such as ethos-u55-128."
    ),
]
SHOWN_GAINS = 5
MIB = 2**20


def check(
    file: options.TFLite,
    target: Target,
    compile: Compile = False,
    accelerator: Accelerator = None,
    json: options.Json = False,
) -> Result:
    """Which operators of a .tflite file, anyone's, a target takes; the share of work on it; what to change first.

    Exit code 1 when something does not map. With --compile the answer is Vela's, and the rules are shown beside it.
    """
    from jaxq.export.evaluate.load import load_program
    from jaxq.export.targets import check, device_named

    device = device_named(target)
    configuration = _configuration(device, compile, accelerator)
    report = check(load_program(file), device)
    result = _compiled(file, configuration) if configuration else None
    ok = report.ok if result is None else not result.cpu
    data = {"file": file, "ok": ok, **_as_data(report), "vela": None if result is None else _vela_data(result)}
    blocks = [_head(file, report), _table(report), _facts(report), *_gains(report), *_vela(result)]
    return Result(data, blocks, 0 if ok else 1)


def _configuration(device: Any, wanted: bool, accelerator: str | None) -> str | None:
    if not wanted:
        if accelerator is not None:
            raise usage("--accelerator goes with --compile.")
        return None
    if not device.compilers:
        raise usage(f"--compile is for ethos-u55, ethos-u65 and ethos-u85; {device.name} has no compiler to ask.")
    chosen = accelerator or device.compilers[0]
    if not chosen.startswith(f"{device.name}-"):
        raise usage(f"--accelerator {chosen} is not of the target {device.name}; one is {device.compilers[0]}.")
    return chosen


def _compiled(file: pathlib.Path, configuration: str) -> Any:
    from jaxq.export.targets.vela import compiled

    return compiled(file.read_bytes(), configuration)


# --- text -----------------------------------------------------------------------------------------------------------


def _head(file: pathlib.Path, report: Any) -> str:
    total = len(report.placements)
    lines = [
        f"{file}: {report.device.title}, {report.mapped:,} of {_count(total, 'operator')} mapped",
        f"verdict: {report.device.verdict}",
        *([_drawing(report)] if total else []),
    ]
    return "\n".join(lines)


def _drawing(report: Any, width: int = 72) -> str:
    """One character an operator in the order of execution, `#` where it is mapped; long programs are cut."""
    marks = "".join("#" if p.mapped else "." for p in report.placements)
    shown = marks if len(marks) <= width else f"{marks[: width - 3]}..."
    prefix = len(marks) - len(marks.lstrip("#"))
    first = "" if prefix == len(marks) else f" up to operator {prefix} ({report.placements[prefix].kind})"
    return f"|{shown}|{first}"


def _table(report: Any) -> Table:
    rows = [[str(p.index), p.kind, p.output, _macs(p.macs), p.status, p.reason] for p in report.placements]
    return Table("operators", [">", "kind", "output", ">MACs", "status", "why"], rows)


def _facts(report: Any) -> str:
    memory, lines = report.memory, []
    if report.macs:
        lines.append(f"MACs: {report.mapped_macs:,} of {report.macs:,} mapped ({_share(report.mapped_macs, report)})")
    lines.append(f"activations: an arena of {memory.activations:,} bytes; constants: {memory.constants:,} bytes")
    if report.device.cache_bytes is not None:
        cache, fits = report.device.cache_bytes, memory.constants <= report.device.cache_bytes
        lines.append(
            f"parameter cache: {memory.constants / MIB:.2f} of {cache / MIB:.1f} MiB"
            + ("" if fits else "; the rest is sent to the chip for every inference")
        )
    return "\n".join(lines)


def _gains(report: Any) -> list[str | Table]:
    if not report.gains:
        return []
    lines = ["what to change first"]
    for gain in report.gains[:SHOWN_GAINS]:
        placement = report.placements[gain.index]
        fix = placement.limit.fix if placement.limit is not None and placement.limit.fix else "Use another operator."
        won = f"{_share(gain.macs, report)} of MACs" if report.macs else "no MACs"
        place = f"operator {gain.index} ({placement.kind}, {shortened(placement.output)!r})"
        lines.append(f"  {place}: gains {_count(gain.operators, 'operator')}, {won}. {fix}")
    rest = len(report.gains) - SHOWN_GAINS
    return ["\n".join([*lines, *([f"  and {rest:,} more"] if rest > 0 else [])])]


def _vela(result: Any) -> list[str | Table]:
    if result is None:
        return []
    left = ", ".join(f"{kind} {shortened(name)!r}" for kind, name in result.cpu) or "none"
    memory = ", ".join(f"{name} {size:,}" for name, size in _memories(result).items() if size)
    return [
        f"Vela, {result.accelerator}\n"
        f"  operators on the CPU: {left}\n"
        f"  cycles: {result.cycles:,} ({result.seconds * 1e3:.3f} ms), estimated\n"
        f"  bytes: {memory or 'none'}; encoded weights {result.weights:,}"
    ]


def _memories(result: Any) -> dict[str, int]:
    return {"SRAM": result.sram, "DRAM": result.dram, "flash": result.flash}


def _share(part: int, report: Any) -> str:
    return f"{100 * part / report.macs:.1f} %"


def _macs(count: int) -> str:
    return f"{count:,}" if count else ""


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


# --- data -----------------------------------------------------------------------------------------------------------


def _as_data(report: Any) -> dict[str, Any]:
    device, memory = report.device, report.memory
    return {
        "target": device.name,
        "verdict": device.verdict,
        "operators": [_operator(p) for p in report.placements],
        "mapped": report.mapped,
        "macs": report.macs,
        "mapped_macs": report.mapped_macs,
        "gains": [{"operator": g.index, "operators": g.operators, "macs": g.macs} for g in report.gains],
        "activation_bytes": memory.activations,
        "constant_bytes": memory.constants,
        "cache_bytes": device.cache_bytes,
    }


def _operator(placement: Any) -> dict[str, Any]:
    limit = placement.limit
    return {
        "index": placement.index,
        "kind": placement.kind,
        "output": placement.output,
        "mapped": placement.mapped,
        "status": placement.status,
        "why": placement.reason,
        "macs": placement.macs,
        "after": placement.after,
        "limit": None if limit is None else _limit(limit),
    }


def _limit(limit: Any) -> dict[str, Any]:
    return {"law": limit.law, "evidence": limit.evidence, "source": limit.source, "fix": limit.fix}


def _vela_data(result: Any) -> dict[str, Any]:
    return {
        "accelerator": result.accelerator,
        "cpu": [{"kind": kind, "output": name} for kind, name in result.cpu],
        "cycles": result.cycles,
        "seconds": result.seconds,
        "sram_bytes": result.sram,
        "dram_bytes": result.dram,
        "flash_bytes": result.flash,
        "weights_bytes": result.weights,
        "macs": result.macs,
    }
