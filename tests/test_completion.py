"""Shell completion, and the page of commands."""

from __future__ import annotations

import pathlib
import re

import pytest
from typer.testing import CliRunner

from jaxq.cli import complete
from jaxq.cli.app import COMMANDS, app

PAGE = pathlib.Path(__file__).resolve().parents[1] / "docs" / "command_line.md"


def completed(line: str) -> list[str]:
    """What bash offers after a command line."""
    words = {"COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - (0 if line.endswith(" ") else 1))}
    found = CliRunner().invoke(app, [], prog_name="jaxq", env={"_JAXQ_COMPLETE": "complete_bash", **words})
    assert found.exit_code == 0, found.output
    return found.stdout.split()


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("jaxq comp", ["compare"]),
        ("jaxq train recipes/mn", ["recipes/mnist"]),
        ("jaxq plan recipes/mnist --recipe int8-", ["int8-ema", "int8-float-io", "int8-uint8-io"]),
        ("jaxq check a.tflite --target ethos-u5", ["ethos-u55"]),
        ("jaxq snippet a.tflite --language k", ["kotlin"]),
        ("jaxq plan recipes/mnist --rec", ["--recipe"]),
    ],
)
def test_the_tab_key_offers_what_there_is(line: str, offered: list[str]) -> None:
    assert completed(line) == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_jaxq(shell: str) -> None:
    from typer._completion_shared import get_completion_script

    assert "_JAXQ_COMPLETE" in get_completion_script(prog_name="jaxq", complete_var="_JAXQ_COMPLETE", shell=shell)
    assert "--show-completion" in CliRunner().invoke(app, ["--help"]).output


def test_every_command_is_on_its_page() -> None:
    assert set(re.findall(r"^\| `jaxq (\w+)", PAGE.read_text(), re.MULTILINE)) == set(COMMANDS)


def test_names_that_begin_otherwise_are_not_offered() -> None:
    assert complete.models("recipes/x") == [] and "recipes/mnist" in complete.models("")
