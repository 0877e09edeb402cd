"""No bytes harm what opens files: twenty thousand mutants and the worst bombs, in little time and memory."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys
from typing import Any

import pytest

from jaxq.errors import FormatError
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from tests.hostile import opened
from tests.mutants import bombs
from tests.test_exact import exported
from tests.test_flatbuffer import control_flow, foreign, net
from tests.test_lint import CLEAN

ROOT = pathlib.Path(__file__).resolve().parent.parent
GOLDEN = ROOT / "tests" / "golden"
FEW, MANY = 300, 2_500  # mutants of a kind; in one of eight parts
LARGE = ("hey_jarvis.tflite", "odd_float.tflite", "odd_uint8_ends.tflite", "small_ai_edge.tflite",
         "small_dynamic.tflite", "small_float_ends.tflite")  # fmt: skip
# What becomes of enough mutants of bytes, and of programs, which nearly always can be read.
LEAST = {"bytes": {"refused", "loaded"}, "programs": {"shown", "loaded"}}


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Small files of every kind: of the zoo, with metadata and int4, control flow, another writer's, one operator."""
    zoo = [exported(name).artifact.data for name in ("clips", "scaled_same")]
    files = [*zoo, write(net()), control_flow(), foreign(), *(write(program) for program in CLEAN.values())]
    folder = tmp_path_factory.mktemp("seeds")
    for i, data in enumerate(files):
        (folder / f"{i:02}.tflite").write_bytes(data)
    return folder


def asked(*arguments: str) -> dict[str, Any]:
    """What `tests.hostile` prints."""
    command = [sys.executable, "-m", "tests.hostile", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("kind", LEAST)
def test_mutants_are_read_or_refused(kind: str, seeds: pathlib.Path):
    outcomes = asked(str(seeds), str(FEW), "0", kind)
    assert sum(outcomes.values()) == FEW
    assert {name for name, count in outcomes.items() if count > FEW // 50} >= LEAST[kind], outcomes


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
@pytest.mark.parametrize("kind", LEAST)
def test_twenty_thousand_mutants_of_networks(kind: str, part: int, tmp_path: pathlib.Path):
    for name in LARGE:
        (tmp_path / name).write_bytes((GOLDEN / name).read_bytes())
    outcomes = asked(str(tmp_path), str(MANY), str(part), kind)
    assert sum(outcomes.values()) == MANY
    assert {name for name, count in outcomes.items() if count > MANY // 50} >= LEAST[kind], outcomes


def test_bombs_take_no_more_memory_than_the_law_allows():
    outcomes = asked("bombs")
    assert {name for name, outcome in outcomes.items() if outcome == "refused"} == {"a long custom code"}
    assert set(outcomes) == set(bombs())


def test_a_file_may_end_anywhere():
    data = write(CLEAN["softmax"])
    outcomes = [opened(data[:size])[0] is not None for size in range(len(data) + 1)]
    assert outcomes[-1] and not any(outcomes[: len(data) // 2])


def test_a_custom_code_has_a_length():
    with pytest.raises(FormatError, match="names a custom operator in 36,000 characters; at most 1,000 are read"):
        read(bombs()["a long custom code"])
