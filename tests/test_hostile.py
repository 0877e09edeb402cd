"""No bytes harm what opens files: ten thousand mutants and the worst bombs, in little time and memory."""

from __future__ import annotations

import json
import pathlib
import subprocess
import sys

import pytest

from jaxq.errors import FormatError
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from tests.hostile import opened
from tests.mutants import BOMBS
from tests.test_exact import exported
from tests.test_flatbuffer import control_flow, foreign, net
from tests.test_lint import CLEAN

ROOT = pathlib.Path(__file__).resolve().parent.parent
EACH, PARTS = 5_000, 2  # mutants in a part


@pytest.fixture(scope="module")
def seeds(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """Small files of every kind: of the zoo, with metadata and int4, control flow, another writer's, one operator."""
    zoo = [exported(name).artifact.data for name in ("clips", "scaled_same")]
    files = [*zoo, write(net()), control_flow(), foreign(), *(write(program) for program in CLEAN.values())]
    folder = tmp_path_factory.mktemp("seeds")
    for i, data in enumerate(files):
        (folder / f"{i:02}.tflite").write_bytes(data)
    return folder


def asked(*arguments: str) -> dict[str, int]:
    """What `tests.hostile` prints."""
    command = [sys.executable, "-m", "tests.hostile", *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize("part", range(PARTS))
def test_mutants_are_read_or_refused(part: int, seeds: pathlib.Path):
    outcomes = asked(str(seeds), str(EACH), str(part))
    assert sum(outcomes.values()) == EACH
    assert min(outcomes.values()) > EACH // 20, outcomes  # neither nearly all read nor nearly all refused


def test_bombs_take_no_more_memory_than_the_law_allows():
    assert asked("bombs") == {name: name != "a long custom code" for name in BOMBS}


def test_a_file_may_end_anywhere():
    data = write(CLEAN["softmax"])
    outcomes = [opened(data[:size])[0] is not None for size in range(len(data) + 1)]
    assert outcomes[-1] and not any(outcomes[: len(data) // 2])


def test_a_custom_code_has_a_length():
    with pytest.raises(FormatError, match="names a custom operator in 36,000 characters; at most 1,000 are read"):
        read(BOMBS["a long custom code"])
