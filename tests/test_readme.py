"""The README's code runs, and prints what the README says that it prints."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import re

import pytest

README = pathlib.Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), re.DOTALL)


@pytest.fixture
def inside(tmp_path: pathlib.Path):
    before = pathlib.Path.cwd()
    os.chdir(tmp_path)
    yield tmp_path
    os.chdir(before)


def test_the_quickstart_runs_and_prints_what_it_says(inside: pathlib.Path) -> None:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(blocks("python")[0], "README.md", "exec"), {"__name__": "readme"})
    assert (inside / "model.tflite").stat().st_size > 1000
    assert (inside / "model.json").exists()
    assert steady(printed.getvalue()) == steady(blocks("text")[0])


def steady(text: str) -> list[str]:
    """The lines, without what depends on the machine or on LiteRT's version."""
    return [
        re.sub(r"ai-edge-litert \S+ \(\S+\)", "ai-edge-litert", line.rstrip()) for line in text.strip().splitlines()
    ]


def test_it_has_at_most_120_lines() -> None:
    assert len(README.read_text().splitlines()) <= 120


def test_the_two_commands_come_first() -> None:
    commands = re.findall(r"^    (make \w+)", README.read_text(), re.MULTILINE)
    assert commands[:2] == ["make demo", "make test"]
