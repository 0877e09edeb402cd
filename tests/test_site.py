"""The documentation site, unbuilt: the index has every page, and quoted error texts are those of the code."""

from __future__ import annotations

import ast
import functools
import hashlib
import pathlib
import re
import xml.etree.ElementTree
from collections.abc import Iterator

import pytest

import jaxq.errors

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
# "### `a part of the message`", then "`ErrorClass`" at the beginning of the entry's text.
ENTRIES = re.findall(r"^### `(.+)`\n\n`(\w+)`", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)


def text_of(node: ast.AST) -> str | None:
    """A string, an f-string with a tab for each hole, or None."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "\t" for part in node.values)
    return None


def texts(tree: ast.AST) -> Iterator[str]:
    return (text for node in ast.walk(tree) if (text := text_of(node)) is not None)


@functools.cache
def raised() -> dict[str, list[str]]:
    """By class of jaxq.errors, the texts it is raised with; warnings are made of strings anywhere."""
    found: dict[str, list[str]] = {}
    for path in (p for room in ("jaxq", "export", "recipes") for p in (ROOT / room).rglob("*.py")):
        source = path.read_text()
        if "precision: " in source:
            found.setdefault("PrecisionWarning", []).extend(texts(ast.parse(source)))
        for node in ast.walk(ast.parse(source)) if "raise " in source else ():
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and isinstance(node.exc.func, ast.Name):
                found.setdefault(node.exc.func.id, []).extend(texts(node.exc))
    return found


def test_every_entry_names_an_error() -> None:
    headings = re.findall(r"^### ", (DOCS / "troubleshooting.md").read_text(), re.MULTILINE)
    assert len(ENTRIES) == len(headings) > 20


@pytest.mark.parametrize(("quoted", "error"), ENTRIES, ids=[quoted for quoted, _ in ENTRIES])
def test_quoted_errors_are_those_of_the_code(quoted: str, error: str) -> None:
    assert hasattr(jaxq.errors, error)
    pattern = re.compile(".*".join(re.escape(piece.strip()) for piece in quoted.split("...")))
    assert any(pattern.search(text) for text in raised()[error]), f"{error} is raised with no text like {quoted!r}"


def test_every_diagram_has_its_picture() -> None:
    """A diagram whose text changes has another name: `python docs/make_diagrams.py` draws it."""
    blocks = [
        text for page in DOCS.rglob("*.md") for text in re.findall(r"```mermaid\n(.*?)```", page.read_text(), re.S)
    ]
    names = {hashlib.sha256(text.strip().encode()).hexdigest()[:12] + ".svg" for text in blocks}
    assert names == {picture.name for picture in (DOCS / "diagrams").iterdir()} and len(names) > 2
    for picture in (DOCS / "diagrams").iterdir():
        drawn = "".join(xml.etree.ElementTree.parse(picture).getroot().itertext())
        assert "jaxq" in drawn and "Syntax error" not in drawn


def test_no_page_has_the_name_of_one_of_sphinx_s() -> None:
    """Sphinx writes these last: a page of that name would be lost without a warning."""
    assert not {"genindex", "modindex", "py-modindex", "search"} & {page.stem for page in DOCS.glob("*.md")}


def test_the_index_has_every_page() -> None:
    index = (DOCS / "index.md").read_text()
    trees = re.findall(r"```\{toctree\}\n(.*?)```", index, re.DOTALL)
    patterns = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    listed = {path for pattern in patterns for path in DOCS.glob(f"{pattern}.md")}
    assert listed == set(DOCS.rglob("*.md")) - {DOCS / "index.md"}
    assert all(list(DOCS.glob(f"{pattern}.md")) for pattern in patterns)
