"""`jaxq lint`: what is wrong, fragile or wasteful in any .tflite file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxq.cli import options
from jaxq.cli.output import Result, Table


def lint(file: options.TFLite, json: options.Json = False) -> Result:
    """Check a .tflite file, anyone's, against the laws of int8 TFLite and its known kernel bugs. Nothing is run.

    Exit code 1 if there is an error: a runtime refuses the file, aborts, or computes something else than it says.
    Warnings alone give 0.
    """
    from jaxq.export.evaluate.load import load_program
    from jaxq.export.lint import ERROR, lint

    findings = lint(load_program(file))
    errors = sum(f.rule.severity == ERROR for f in findings)
    data = _as_data(file, findings, errors)
    head = f"{file}: {_count(errors, 'error')}, {_count(len(findings) - errors, 'warning')}"
    return Result(data, [head, *(_tables(findings) if findings else [])], 1 if errors else 0)


def _as_data(file: pathlib.Path, findings: Sequence[Any], errors: int) -> dict[str, Any]:
    return {
        "file": file,
        "ok": not errors,
        "errors": errors,
        "warnings": len(findings) - errors,
        "findings": [_finding(f) for f in findings],
    }


def _finding(found: Any) -> dict[str, Any]:
    return {
        "rule": found.rule.id,
        "severity": found.rule.severity,
        "operator": None if found.operator is None else {"index": found.operator, "kind": found.kind},
        "tensor": None if found.tensor is None else {"index": found.tensor, "name": found.name},
        "message": found.message,
        "what": found.rule.what,
        "fix": found.rule.fix,
        "source": found.rule.source,
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tables(findings: Sequence[Any]) -> list[str | Table]:
    rows = [[f.rule.severity, f.rule.id, _place(f.operator, f.kind), _place(f.tensor, f.name), f.message]
            for f in findings]  # fmt: skip
    rules = {f.rule.id: f.rule for f in findings}.values()
    texts = [f"{r.id}: {r.what}\n  fix: {r.fix}\n  source: {r.source}" for r in rules]
    return [Table("findings", ["", "rule", "operator", "tensor", "what"], rows), *texts]


def _place(index: int | None, name: str | None) -> str:
    return "" if index is None else f"{index} {name}"
