"""Which of sixty-three networks of one op each come out as full-integer files whose every integer is proven?

python benchmarks/coverage.py [--json] [NAME ...]

Each network of `tests/sixty_three.py` is calibrated on random examples, exported with the recipe `int8` and verified.
"full-integer" is said of a file that holds no float tensor, takes int8 (or int32 ids) and gives int8 (or int32
indices), and of whose integers none differs: from both kernel families of LiteRT, and from the training forward.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import sys
from collections import Counter
from typing import NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))

import jaxq
import jaxq.export
from jaxq.errors import JaxqError
from jaxq.export.program import Program, Tensor
from jaxq.export.proof.certificate import Certificate
from tests.sixty_three import SIXTY_THREE, Case, case

FULL = "full-integer"
KINDS = (FULL, "not full-integer", "differs", "refused", "crash")
PEER = {"full": FULL, "float": "not full-integer", "fails": "refused"}


class Verdict(NamedTuple):
    """`kind` is one of `KINDS`; `reason` is empty for the first of them."""

    kind: str
    reason: str = ""


def judge(case: Case) -> Verdict:
    """Calibrate, export, verify. Catches every exception: those that jaxq does not raise on purpose are a crash."""
    try:
        artifact, certificate = exported(case)
    except JaxqError as error:
        return Verdict("refused", str(error))
    except Exception as error:  # noqa: BLE001
        return Verdict("crash", f"{type(error).__name__}: {error}")
    if found := floats(artifact.program):
        return Verdict("not full-integer", f"float: {', '.join(found)}")
    if strange := [t.name for t in ends(artifact.program) if t.dtype not in ("int8", "int32")]:
        return Verdict("not full-integer", f"neither int8 nor int32: {', '.join(strange)}")
    return Verdict(FULL) if certificate.ok else Verdict("differs", " ".join(str(certificate).split()))


def exported(case: Case) -> tuple[jaxq.export.Artifact, Certificate]:
    """The artifact of a case and its certificate on all examples."""
    qmodel = jaxq.quantize(case.model, "int8", case.examples[:1])
    jaxq.calibrate(qmodel, [case.examples], progress=False)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    return artifact, artifact.verify(case.examples, progress=False)


def floats(program: Program) -> list[str]:
    """The names of a program's tensors that hold no integers."""
    return [t.name for t in program.tensors if "float" in t.dtype]


def ends(program: Program) -> list[Tensor]:
    """The inputs and outputs of a program."""
    return [program.tensors[i] for i in (*program.inputs, *program.outputs)]


def line(reason: str, width: int = 110) -> str:
    """The first line of a reason, cut, with bars that markdown would read as columns taken out."""
    text = (reason.splitlines() or [""])[0].replace("|", "/")
    return text if len(text) <= width else f"{text[: width - 3]}..."


def markdown(verdicts: dict[str, Verdict]) -> str:
    """The table, and the totals beside the peer's."""
    rows = [f"| {n} | {SIXTY_THREE[n].peer} | {v.kind} | {line(v.reason)} |" for n, v in verdicts.items()]
    ours = Counter(v.kind for v in verdicts.values())
    peers = Counter(PEER[SIXTY_THREE[n].peer] for n in verdicts)
    totals = [f"| **{kind}** | **{peers[kind]}** | **{ours[kind]}** | of {len(verdicts)} |" for kind in KINDS]
    return "\n".join(["| network | Qwix 0.1.8 | jaxq | why |", "| --- | --- | --- | --- |", *rows, *totals])


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help="of tests/sixty_three.py; all if none is given")
    parser.add_argument("--json", action="store_true", help="name, peer, kind and whole reason as JSON")
    options = parser.parse_args()
    unknown = [n for n in options.names if n not in SIXTY_THREE]
    if unknown:
        parser.error(f"no network of the name {unknown[0]!r}; there are: {', '.join(SIXTY_THREE)}")
    verdicts = {name: judge(case(name)) for name in options.names or SIXTY_THREE}
    if options.json:
        print(json.dumps([{"name": n, "peer": SIXTY_THREE[n].peer, **v._asdict()} for n, v in verdicts.items()]))
    else:
        print(markdown(verdicts))


if __name__ == "__main__":
    main()
