"""The first lines of a report: is the file what was trained, how large and accurate is it, what is to be done."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from jaxq.analyze.difference import Difference, sqnr_text
from jaxq.export.lint import ERROR
from jaxq.plan.findings import Finding
from jaxq.plan.target import TARGETS
from jaxq.report.document import Content

GOOD, BAD, UNKNOWN = "good", "bad", "unknown"
LOW_SQNR = 20.0  # decibels of an operator's own error, below which a remedy is offered
SHOWN = 3  # tensors with a remedy


@dataclasses.dataclass(frozen=True)
class Verdict:
    """One sentence, how it is meant (GOOD, BAD, UNKNOWN), and what it rests on."""

    tone: str
    headline: str
    details: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Remark:
    """Something to know, and what to do about it. tone: BAD for an error, UNKNOWN for a warning."""

    tone: str
    text: str
    remedy: str


def verdict(content: Content) -> Verdict:
    """Whether the integers of the file are those of the training, on which machines."""
    manifest = content.manifest
    if manifest is None:
        return Verdict(
            UNKNOWN, "There is no manifest: nothing says what this file should compute",
            (f"jaxq verify {content.name} --random 8 compares its integers with LiteRT's.",),
        )  # fmt: skip
    proof = manifest.get("certificate")
    if proof is None:
        return Verdict(
            UNKNOWN, "The integers of this file are not verified",
            ("jaxq.export.to_tflite(..., verify=images) proves them.",),
        )  # fmt: skip
    compared = f"{proof['compared_integers']:,} integers of {proof['examples']:,} examples compared with"
    details = [f"{compared} {proof['runtime']}.", *_machines(proof.get("machines", {}))]
    if proof["ok"]:
        return Verdict(GOOD, "Every integer of the file is the one that was trained", tuple(details))
    differing = sum(proof["differing_integers"].values())
    first = next((name for name in proof.get("first_divergent", {}).values() if name), None)
    where = "" if first is None else f"The first tensor that differs is {first}."
    return Verdict(BAD, f"{differing:,} integers of the file differ from those that were trained", (where, *details))


def _machines(machines: Mapping[str, Any]) -> Iterator[str]:
    ran = [name for name, known in machines.items() if known["ran"]]
    same = [name for name, known in machines.items() if not known["ran"] and not known["modelled_operators"]]
    if ran:
        follows = f" {' and '.join(same)} compute the same: every operator has the same kernel there." if same else ""
        yield f"LiteRT ran it on {', '.join(ran)}.{follows}"
    for name, known in machines.items():
        if known["modelled_operators"]:
            kinds = ", ".join(f"{kind} {count:,}" for kind, count in known["modelled_operators"].items())
            yield f"On {name} other kernels run, which jaxq models: {kinds}."


def facts(content: Content) -> list[tuple[str, str]]:
    """Short facts under the verdict: what, and its value."""
    report = next(iter(content.targets.values()))
    found = [(stage.stage, f"{100 * stage.value:.2f} %") for stage in _telling(content)]
    found.append(("size", f"{content.size:,} bytes"))
    found += [(f"SQNR of {name}", f"{value:.1f} dB") for name, value in output_sqnr(content).items()]
    found.append(("operators", f"{sum(n.index is not None for n in content.nodes):,}"))
    if report.macs:
        found.append(("multiplications", f"{report.macs:,}"))
    found.append(("activation memory", f"{report.memory.activations:,} bytes"))
    return found


def _telling(content: Content) -> list[Any]:
    """The first and the last stage of the ladder, and the last before it."""
    steps = content.run.ladder
    return list(steps if len(steps) < 4 else [steps[0], *steps[-3:]])


def output_sqnr(content: Content) -> dict[str, float]:
    """The SQNR of the outputs against the float model, as export measured it, in dB."""
    outputs = ((content.manifest or {}).get("precision") or {}).get("outputs") or {}
    return {name: entry["sqnr"] for name, entry in outputs.items() if entry.get("sqnr") is not None}


def remarks(content: Content) -> list[Remark]:
    """What is wrong or lost, worst first, with what to do."""
    found = [*_lint(content), *_outputs(content), *_findings(content), *_errors(content), *_targets(content)]
    return sorted(found, key=lambda remark: remark.tone != BAD)


def _lint(content: Content) -> Iterator[Remark]:
    for finding in content.lint:
        tone = BAD if finding.rule.severity == ERROR else UNKNOWN
        more = f" (and {finding.count - 1:,} other places)" if finding.count > 1 else ""
        yield Remark(tone, f"{finding.rule.id}: {finding.places[0]}{more}", finding.rule.fix)


def _outputs(content: Content) -> Iterator[Remark]:
    for name, value in output_sqnr(content).items():
        if value < 15.0:
            text = f"The output {name} is far from the float model's: SQNR {value:.1f} dB."
            yield Remark(
                BAD, text, "Look for the operators with the least own SQNR below; train, or give them 16 bits."
            )


def _findings(content: Content) -> Iterator[Remark]:
    for entry in ((content.manifest or {}).get("precision") or {}).get("findings") or ():
        names = {f.name for f in dataclasses.fields(Finding)}
        kept = tuple((str(name), float(steps)) for name, steps in entry["kept"])
        finding = Finding(**{k: v for k, v in entry.items() if k in names and k != "kept"}, kept=kept)
        yield Remark(UNKNOWN, str(finding), finding.remedy)


def _errors(content: Content) -> Iterator[Remark]:
    """The operators that add most error of their own."""
    found = [n.difference for n in content.nodes if n.difference is not None and n.difference.own.sqnr < LOW_SQNR]
    for d in sorted(found, key=lambda d: d.own.sqnr)[:SHOWN]:
        yield Remark(UNKNOWN, f"{d.site} ({d.kind}) adds much error: own SQNR {sqnr_text(d.own.sqnr)} dB.", _cure(d))


def _cure(d: Difference) -> str:
    """Advice that fits what the error is made of."""
    parts = {"clipping": d.clipping.mean_abs, "rounding": d.rounding.mean_abs, "weights": d.weights.mean_abs}
    worst = max(parts, key=lambda name: parts[name])
    if worst == "clipping":
        return f"Its range clips {100 * d.clipped:.2f} % of the numbers: calibrate on more data, or train the ranges."
    if worst == "weights":
        return "Its weights lose most: train on the integers (QAT), or use one scale for each channel."
    return f'Rounding loses most: Rule("{d.site}", activation_bits=16) gives it 16 bits where the target has them.'


def _targets(content: Content) -> Iterator[Remark]:
    """What the recipe's own target does not take."""
    name = (content.manifest or {}).get("target")
    report = content.targets.get(str(name))
    if report is not None and not report.ok:
        left = len(report.placements) - report.mapped
        gain = report.gains[0] if report.gains else None
        first = "" if gain is None else f"First operator {gain.index} ({report.placements[gain.index].kind})."
        limit = None if gain is None else report.placements[gain.index].limit
        fix = "Use another operator." if limit is None or not limit.fix else limit.fix
        yield Remark(BAD, f"{TARGETS[str(name)].title} does not take {left:,} operators. {first}", fix)


def three_lines(content: Content) -> list[str]:
    """The most telling lines of a report, for a terminal."""
    found, sqnr = verdict(content), output_sqnr(content)
    steps = ", ".join(f"{a.stage} {100 * a.value:.2f} %" for a in _telling(content))
    worst = min((n.difference for n in content.nodes if n.difference), key=lambda d: d.own.sqnr, default=None)
    lines = [f"{found.headline}: {found.details[0]}" if found.details else found.headline]
    lines.append(f"{steps}; {content.size:,} bytes" if steps else f"{content.size:,} bytes")
    if worst is not None:
        lines.append(f"most error of its own: {worst.site}, SQNR {sqnr_text(worst.own.sqnr)} dB")
    elif sqnr:
        lines.append("; ".join(f"SQNR of {name} {value:.1f} dB" for name, value in sqnr.items()))
    else:
        lines.append(f"{len(remarks(content)):,} remarks with remedies")
    return lines
