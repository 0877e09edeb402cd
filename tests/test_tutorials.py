"""The tutorials run: every code cell of docs/tutorials/*.md, in order, as a notebook runs them."""

from __future__ import annotations

import ast
import pathlib
import re
from typing import Any

import pytest

FOLDER = pathlib.Path(__file__).resolve().parents[1] / "docs" / "tutorials"
PAGES = sorted(FOLDER.glob("*.md"))
CELL = re.compile(r"^```\{code-cell\}\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# What a page must end with, by its name: a file whose every integer was compared.
PROVEN = {
    "accuracy_dropped",
    "bert",
    "first_int8_model",
    "int8_training",
    "microcontroller",
    "own_weights",
}


def name_of(page: pathlib.Path) -> str:
    return page.stem


def cells(page: pathlib.Path) -> list[str]:
    """The code of a page, each cell moved down to its own lines, so that a traceback names the page's line."""
    text = page.read_text()
    return ["\n" * text.count("\n", 0, found.start(1)) + found[1] for found in CELL.finditer(text)]


def test_every_tutorial_has_a_law() -> None:
    assert {page.stem for page in PAGES} == PROVEN


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_tutorial_is_a_notebook_that_the_site_has(page: pathlib.Path) -> None:
    head = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n  language: python\n---\n"
    assert page.read_text().startswith(head)
    assert f"\ntutorials/{page.stem}\n" in (FOLDER.parent / "index.md").read_text()
    assert len(cells(page)) >= 3 and all(ast.parse(cell).body for cell in cells(page))


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_tutorial_runs(page: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "tutorial"}
    for cell in cells(page):
        exec(compile(cell, str(page), "exec"), names)
    proof = names["artifact"].certificate
    assert proof.ok and proof.compared_integers > 1000
