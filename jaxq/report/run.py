"""What a run folder of a recipe tells: its ladder of accuracies, its curves, its sensitivity."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxq.errors import InputError
from jaxq.report.document import Accuracy, Change, Point, Run

# Keys of a summary that are accuracies, in the order of the ladder, and what they are called.
STAGES = {
    "float": "float",
    "float_accuracy": "float",
    "int8_per_tensor_ptq": "int8 PTQ, one weight scale a tensor",
    "int8_ptq": "int8 PTQ, calibrated",
    "ptq_accuracy": "int8 PTQ, calibrated",
    "float_longer": "float, trained as long",
    "int8_qat": "int8 QAT",
    "qat_accuracy": "int8 QAT",
    "int8_artifact": "the file on LiteRT",
    "artifact_accuracy": "the file on LiteRT",
    "int4_ptq": "4-bit weights, PTQ",
    "int4_qat": "4-bit weights, QAT",
    "int4_artifact": "the 4-bit file on LiteRT",
}
MOST_POINTS = 600  # of a curve


def read_run(folder: pathlib.Path) -> Run:
    """The run that left `summary.json` and `log.jsonl` in a folder, and `sensitivity.json`, which is what `jaxq
    sensitivity --json` prints; each may be missing.

    Raises InputError for a folder without any, and for files that are no JSON.
    """
    summary, log, scores = (folder / name for name in ("summary.json", "log.jsonl", "sensitivity.json"))
    if not any(file.is_file() for file in (summary, log, scores)):
        raise InputError(
            f"{folder} has no summary.json, no log.jsonl and no sensitivity.json: it is not the --out of a jaxq train."
        )
    found = _json(summary) if summary.is_file() else {}
    lines = log.read_text().splitlines() if log.is_file() else []
    told = Run(ladder(found), points([_parsed(log, line) for line in lines]), facts=_facts(found))
    return told if not scores.is_file() else dataclasses.replace(told, **_sensitivity(scores))


def _sensitivity(file: pathlib.Path) -> dict[str, Any]:
    """The changes of a `jaxq.analyze.Sensitivity`, by site and choice, and what its loss is."""
    found = _json(file)
    try:
        changes = tuple(Change(str(s["site"]), str(s["choice"]), float(s["change"])) for s in found["scores"])
        return {"changes": changes, "measure": f"{found['measure']}, {found['examples']:,} examples"}
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{file} is not what jaxq sensitivity --json prints: {type(e).__name__} {e}.") from e


def ladder(summary: Mapping[str, Any]) -> tuple[Accuracy, ...]:
    """The accuracies of a summary, by stage."""
    names = STAGES if "measure" not in summary else {key: key for key, value in summary.items() if _is_share(value)}
    if summary.get("measure", "accuracy") != "accuracy":
        return ()  # another score, which is no share
    known = [(words, summary[key]) for key, words in names.items() if isinstance(summary.get(key), float | int)]
    return tuple(Accuracy(words, float(value)) for words, value in known)


def _is_share(value: Any) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


def points(entries: list[Mapping[str, Any]]) -> tuple[Point, ...]:
    """The curves of a log: of two entries of one step the later counts, and long curves are thinned evenly."""
    curves: dict[tuple[str, str], dict[int, float]] = {}
    for entry in entries:
        if {"name", "step", "value"} <= entry.keys():
            phase, _, curve = str(entry["name"]).rpartition("/")
            curves.setdefault((phase, curve), {})[int(entry["step"])] = float(entry["value"])
    found = []
    for (phase, curve), values in curves.items():
        steps = sorted(values)
        kept = steps[:: -(-len(steps) // MOST_POINTS)]
        found += [Point(phase, curve, s, values[s]) for s in dict.fromkeys([*kept, steps[-1]])]
    return tuple(found)


def _facts(summary: Mapping[str, Any]) -> dict[str, str]:
    """Other numbers of the summary, as words."""
    plain = {k: v for k, v in summary.items() if k not in STAGES and isinstance(v, int | float | str)}
    return {k.replace("_", " "): f"{v:,}" if isinstance(v, int) else f"{v:.4g}" if isinstance(v, float) else v
            for k, v in plain.items()}  # fmt: skip


def _json(path: pathlib.Path) -> Mapping[str, Any]:
    return _parsed(path, path.read_text())


def _parsed(path: pathlib.Path, text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except ValueError as e:
        raise InputError(f"{path} holds a line that is no JSON: {e}.") from e
    if not isinstance(found, dict):
        raise InputError(f"{path} holds {type(found).__name__}; an object of names and values is expected.")
    return found
