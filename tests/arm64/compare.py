"""Integers of emulated Arm processors against jaxq's evaluation for `machine="aarch64"`: every tensor of every file.

python tests/arm64/compare.py [--short] [--made] [--machine DIR] [--work DIR] [--cpu CPU ...] [--part PART ...]

The machine is made once, in the user's cache; with --made it is not made but used where it is there.

PART is a recipe of `cases.RECIPES` (the zoo and the sixty-three networks), or `operators` (the kernel tests' files).
Each operator is evaluated on the tensors that the machine computed before it, so a difference is the operator's own.
Exits with 1 if an integer differs, and with 0 and one sentence where no machine can be emulated.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from jaxq.export.evaluate.kernels.xnnpack import by_machine  # noqa: E402
from jaxq.export.evaluate.op_by_op import OperatorByOperator  # noqa: E402
from jaxq.export.evaluate.program import folded_tensors, run_time_tensors  # noqa: E402
from jaxq.export.flatbuffer.read import read  # noqa: E402
from jaxq.export.flatbuffer.write import write  # noqa: E402
from jaxq.export.program import Operator, Program  # noqa: E402
from jaxq.export.proof.families import tolerances  # noqa: E402
from jaxq.recipes.packages import cache  # noqa: E402
from tests.arm64 import cases  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
CPUS = ("cortex-a53", "cortex-a76", "max,sme=off")
PARTS = (*cases.RECIPES, "operators")
SHORT = {"int8": ("zoo/squeeze_excite",), "int4": ("zoo/heads",), "int16x8": ("zoo/heads",)}
CACHE = cache() / "arm64"
EXAMPLES = 8


@dataclasses.dataclass
class Sums:
    """Of one processor, family and part: integers and floats compared and differing, by kind of operator."""

    files: int = 0
    compared: int = 0
    differing: Counter[str] = dataclasses.field(default_factory=Counter)
    floats: int = 0
    far: int = 0
    x86: int = 0  # how many integers differ from the evaluation for x86_64
    refused: int = 0
    proven: Counter[str] = dataclasses.field(default_factory=Counter)  # integers that do not differ, by kind and type


def computed(program: Program) -> tuple[int, ...]:
    """The tensors that operators compute, in the order in which `run_files.py` gives them."""
    return tuple(index for index in run_time_tensors(program) if index not in program.inputs)


def type_of(op: Operator, program: Program) -> str:
    """The kind of an operator with the type of its first input that is no constant: `CONV_2D int8 by int4`."""
    read_at_all = [program.tensors[i] for i in op.inputs if i >= 0]
    own = next((t.dtype for t in read_at_all if t.data is None), read_at_all[0].dtype)
    return f"{op.kind} {own}" + (" by int4" if any(t.dtype == "int4" for t in read_at_all) else "")


def prepare(found: Iterable[cases.Case], folder: pathlib.Path) -> None:
    """Write the archives that `run_files.py` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    for case in found:
        program = read(case.data)
        every = write(dataclasses.replace(program, outputs=computed(program), input_names=(), output_names=()))
        arrays = cases.one_after_the_other(program, case.inputs)
        inputs: dict[str, Any] = {f"in{i}": a for i, a in enumerate(arrays)}
        np.savez(
            folder / (re.sub(r"[^\w.,-]+", "_", case.name) + ".npz"),
            name=np.array(case.name),
            family=np.array(case.family),
            model=np.frombuffer(case.data, np.uint8),
            every=np.frombuffer(every, np.uint8),
            **inputs,
        )


def emulate(machine: pathlib.Path, cpu: str, source: pathlib.Path, target: pathlib.Path) -> None:
    """Run the archives on a processor."""
    target.mkdir(parents=True, exist_ok=True)
    command = [HERE / "run.sh", machine, cpu, HERE / "run_files.py", source, target]
    subprocess.run(list(map(str, command)), check=True, stderr=subprocess.DEVNULL)


def compare(source: pathlib.Path, targets: dict[str, pathlib.Path]) -> dict[tuple[str, str, str], Sums]:
    """The sums by processor, family and part."""
    sums: dict[tuple[str, str, str], Sums] = defaultdict(Sums)
    for path in sorted(source.glob("*.npz")):
        case = np.load(path)
        program, name, family = read(case["model"].tobytes()), str(case["name"]), str(case["family"])
        inputs = [case[f"in{i}"] for i in range(len(program.inputs))]
        ours = {machine: _reader(program, family, machine) for machine in _machines(program, family)}
        for cpu, target in targets.items():
            _add(sums[cpu, family, name.split("/")[0]], np.load(target / path.name), program, inputs, ours, name)
    return sums


def _machines(program: Program, family: str) -> tuple[str, ...]:
    apart = any(by_machine(op, program.tensors) for op in program.operators)
    return ("aarch64", "x86_64") if apart and family == "xnnpack" else ("aarch64",)


def _reader(program: Program, family: str, machine: str):
    return OperatorByOperator(program, family, machine).on_each


def _add(sums: Sums, found, program: Program, inputs: list[np.ndarray], ours: dict, name: str) -> None:
    sums.files += 1
    if "error" in found:
        sums.refused += 1
        return
    indices, makers = computed(program), {i: op for op in program.operators for i in op.outputs}
    theirs = dict(zip(indices, (found[f"all{i}"] for i in range(len(indices))), strict=True))
    own = dict(zip(program.outputs, (found[f"out{i}"] for i in range(len(program.outputs))), strict=True))
    for index, within, machine, read_by_us in _pairs(
        program, dict(zip(program.inputs, inputs, strict=True)) | theirs, ours
    ):
        for wanted in (theirs[index], own.get(index)):
            if wanted is None:
                continue
            gap = np.abs(np.asarray(read_by_us, np.float64) - wanted.astype(np.float64))
            apart = int(np.count_nonzero(~(gap <= within * np.abs(wanted).max(initial=0))))
            if machine == "x86_64":
                sums.x86 += apart
            elif within:
                sums.floats, sums.far = sums.floats + gap.size, sums.far + apart
            else:
                sums.compared += gap.size
                sums.differing[makers[index].kind] += apart
                sums.proven[type_of(makers[index], program)] += gap.size - apart
                if apart:
                    kind, most = makers[index].kind, int(gap.max())
                    print(f"  {name}: {apart:,} of {gap.size:,} of {kind} differ, by {most} at most")


def _pairs(program: Program, given: dict[int, np.ndarray], ours: dict) -> Iterator[tuple[int, float, str, np.ndarray]]:
    allowed, folded = tolerances(program), folded_tensors(program)
    given = {index: value for index, value in given.items() if index not in folded}
    for machine, reader in ours.items():
        for index, value in reader(given).items():
            within = allowed.get(index)
            if within is not None and index not in program.inputs and not (within and machine == "x86_64"):
                yield index, within, machine, np.asarray(value)


def table(sums: dict[tuple[str, str, str], Sums]) -> str:
    """A row for each processor, family and part."""
    head = "| processor | family | files | integers | differ | of x86-64's | floats | beyond 1e-5 |"
    rows = [head, "| --- | --- | --- | --- | --- | --- | --- | --- |"]
    for (cpu, family, part), s in sorted(sums.items(), key=lambda item: (PARTS.index(item[0][2]), item[0])):
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in s.differing.items() if n)
        files = f"{part}, {s.files - s.refused}" + (f" (LiteRT refuses {s.refused})" if s.refused else "")
        differ = f"{s.differing.total():,}" + (f" ({kinds})" if kinds else "")
        rows.append(
            f"| {cpu} | `{family}` | {files} | {s.compared:,} | {differ} | {s.x86:,} | {s.floats:,} | {s.far:,} |"
        )
    return "\n".join(rows)


def record(path: pathlib.Path, sums: dict[tuple[str, str, str], Sums]) -> None:
    """Put the greatest count of each kind and type, by family, into the file that docs/make_kernels.py reads."""
    held = json.loads(path.read_text())
    for (_, family, _), found in sums.items():
        mine = held["aarch64"].setdefault(family, {})
        for name, count in found.proven.items():
            mine[name] = max(mine.get(name, 0), 0 if found.differing[name.split()[0]] else count)
    held["aarch64"] = {family: dict(sorted(counts.items())) for family, counts in held["aarch64"].items()}
    path.write_text(json.dumps(held, indent=1) + "\n")


def main() -> None:
    """Build, run, compare, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--short", action="store_true", help="one processor, a part of the zoo")
    parser.add_argument("--made", action="store_true", help="do not make the machine, only use it")
    parser.add_argument("--machine", type=pathlib.Path, default=CACHE)
    parser.add_argument("--work", type=pathlib.Path, default=ROOT / "build" / "arm64")
    parser.add_argument("--cpu", nargs="+", default=CPUS)
    parser.add_argument("--part", nargs="+", default=PARTS, choices=PARTS)
    parser.add_argument("--record", type=pathlib.Path, help="add the counts to docs/kernels.json")
    options = parser.parse_args()
    machine, start = options.machine, time.time()
    if options.made and not (any(machine.glob("done-*")) and shutil.which("qemu-aarch64")):
        print(f"arm64: no machine is made in {machine} (make arm64-short makes it); nothing was run.")
        return
    made = subprocess.run([str(HERE / "make_root.sh"), str(machine)], capture_output=True, text=True)
    if made.returncode:
        print(made.stderr.strip() or "arm64: the aarch64 machine could not be made.")
        print("arm64: nothing was run.")
        return
    cpus = ("cortex-a76",) if options.short else options.cpu
    parts = SHORT if options.short else dict.fromkeys(options.part, ())
    sums: dict[tuple[str, str, str], Sums] = {}
    for part, names in parts.items():
        folder = options.work / ("short" if options.short else "long") / part
        if not (folder / "built").exists():
            prepare(
                cases.operators(EXAMPLES) if part == "operators" else cases.networks(part, EXAMPLES, names),
                folder / "cases",
            )
            (folder / "built").touch()
        targets = {cpu: folder / cpu for cpu in cpus}
        for cpu, target in targets.items():
            emulate(machine, cpu, folder / "cases", target)
        sums.update(compare(folder / "cases", targets))
        print(f"arm64: {part}, {time.time() - start:.0f} s\n{table(sums)}", flush=True)
    if options.record:
        record(options.record, sums)
    if sum(s.differing.total() + s.far for s in sums.values()) or not sums:
        sys.exit(1)


if __name__ == "__main__":
    main()
