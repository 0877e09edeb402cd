"""`jaxq lint`: what is wrong, fragile or wasteful in any .tflite file."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence
from typing import Any

from jaxq.cli import options
from jaxq.cli.output import Result, Table

SHOWN = 3  # places of one finding in the table


def lint(file: options.TFLite, json: options.Json = False) -> Result:
    """Check a .tflite file, anyone's, against the laws of int8 TFLite and its known kernel bugs. Nothing is run.

    There is one finding for each rule that is broken, with a count and its first places. Exit code 1 if there is an
    error: a runtime refuses the file, aborts, or computes something else than it says. Warnings alone give 0.
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
    first = found.places[0]
    return {
        "rule": found.rule.id,
        "severity": found.rule.severity,
        "count": found.count,
        **_where(first),
        "places": [_where(place) for place in found.places],
        "what": found.rule.what,
        "fix": found.rule.fix,
        "source": found.rule.source,
    }


def _where(place: Any) -> dict[str, Any]:
    return {
        "operator": None if place.operator is None else {"index": place.operator, "kind": place.kind},
        "tensor": None if place.tensor is None else {"index": place.tensor, "name": place.name},
        "message": place.message,
    }


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _tables(findings: Sequence[Any]) -> list[str | Table]:
    rows = [_row(found, place, found.count if not i else None)
            for found in findings for i, place in enumerate(found.places[:SHOWN])]  # fmt: skip
    texts = [f"{r.id}: {r.what}\n  fix: {r.fix}\n  source: {r.source}" for r in (found.rule for found in findings)]
    more = [f"{f.rule.id}: {f.count - SHOWN:,} more places; --json lists them" for f in findings if f.count > SHOWN]
    return [Table("findings", ["", "rule", ">count", "operator", "tensor", "what"], rows), *more, *texts]


def _row(found: Any, place: Any, count: int | None) -> list[str]:
    """The first place of a finding says how many there are."""
    head = ["", "", ""] if count is None else [found.rule.severity, found.rule.id, f"{count:,}"]
    return [*head, _place(place.operator, place.kind), _place(place.tensor, place.name), place.message]


def _place(index: int | None, name: str | None) -> str:
    return "" if index is None else f"{index} {name}"
