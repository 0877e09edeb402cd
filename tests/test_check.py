"""`jaxq check`: exit codes, the text, the document, and what a wrong command line is told."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Callable, Sequence

import pytest
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Program
from jaxq.export.targets import edgetpu
from tests.target_cases import looked_up, one_scale
from tests.test_kernels import (
    X,
    chain,
    value,
)


@pytest.fixture
def saved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Program], str]:
    monkeypatch.chdir(tmp_path)

    def save(built: Program) -> str:
        pathlib.Path("model.tflite").write_bytes(write(built))
        return "model.tflite"

    return save


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["check", *arguments])
    return done.exit_code, done.stdout, done.stderr


def mixed() -> Program:
    """chain() with a HARD_SWISH in the middle."""
    built = one_scale(chain(), 6, 7)
    tensors = (*built.tensors, value("swish", (1, 12, 12, 8), X))
    first, mean, *rest = built.operators
    swish = Operator("HARD_SWISH", first.outputs, (len(built.tensors),), {}, 1)
    mean = dataclasses.replace(mean, inputs=(len(built.tensors), mean.inputs[1]))
    return dataclasses.replace(built, tensors=tensors, operators=(first, swish, mean, *rest))


EXITS = [
    (one_scale(chain(), 6, 7), "edgetpu", 0), (mixed(), "edgetpu", 1), (mixed(), "litert", 0), (mixed(), "tflm", 0),
]  # fmt: skip


@pytest.mark.parametrize(("built", "target", "code"), EXITS)
def test_exit_codes(built: Program, target: str, code: int, saved: Callable[[Program], str]) -> None:
    assert run(saved(built), "--target", target)[0] == code


def test_the_text(saved: Callable[[Program], str], golden: Callable[[str, str], None]) -> None:
    code, out, _ = run(saved(mixed()), "--target", "edgetpu")
    assert code == 1
    golden("check.txt", out.rstrip("\n"))


def test_the_document(saved: Callable[[Program], str]) -> None:
    code, out, _ = run(saved(mixed()), "--target", "edgetpu", "--json")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and found["target"] == "edgetpu" and found["vela"] is None
    assert [op["mapped"] for op in found["operators"]] == [True, False, False, False, False]
    assert found["operators"][2]["after"] == 1
    assert found["gains"] == [{"operator": 1, "operators": 4, "macs": 80}]
    assert found["cache_bytes"] == edgetpu.CACHE_BYTES


def test_the_compilers_answer(saved: Callable[[Program], str]) -> None:
    code, out, _ = run(
        saved(looked_up()), "--target", "ethos-u55", "--compile", "--accelerator", "ethos-u55-64", "--json"
    )
    found = json.loads(out)
    assert code == 1 and found["vela"]["accelerator"] == "ethos-u55-64"
    assert [op["kind"] for op in found["vela"]["cpu"]] == ["CAST", "GATHER"]
    code, out, _ = run("model.tflite", "--target", "ethos-u85", "--compile")
    assert code == 0 and "operators on the CPU: none" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "hexagon"], "There is no target 'hexagon' to check a file for."),
        (["--target", "tflm", "--compile"], "tflm has no compiler to ask"),
        (["--target", "ethos-u55", "--accelerator", "ethos-u55-64"], "--accelerator goes with --compile."),
        (
            ["--target", "ethos-u55", "--compile", "--accelerator", "ethos-u85-512"],
            "--accelerator ethos-u85-512 is not of the target ethos-u55; one is ethos-u55-256.",
        ),
        ([], "Missing option '--target'"),
    ],
)
def test_usage(arguments: Sequence[str], message: str, saved: Callable[[Program], str]) -> None:
    code, _, err = run(saved(chain()), *arguments)
    assert code == 2 and message in err
