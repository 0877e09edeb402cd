"""What a command prints: blocks of text and tables, or one JSON document."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from jaxq.display.text import aligned, shortened


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of text under a title. Columns whose name begins with ">" are numbers, set flush right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command found. data: the JSON document. blocks: the same for people. code: the exit code."""

    data: Mapping[str, Any]
    blocks: Sequence[str | Table]
    code: int = 0


def show(blocks: Sequence[str | Table]) -> None:
    """Print blocks to standard output: rich tables on a terminal, aligned columns in a pipe."""
    if not sys.stdout.isatty():
        print("\n\n".join(printable(b) if isinstance(b, str) else _aligned(b) for b in blocks))
        return
    from rich.console import Console

    console = Console()
    for block in blocks:
        if isinstance(block, str):  # a line is broken by the terminal alone: programs and commands are copied
            console.print(printable(block), markup=False, highlight=False, soft_wrap=True)
        else:
            console.print(_rich(block))


def warn(message: str) -> None:
    """One line on standard error."""
    print(f"warning: {message}", file=sys.stderr)


def printable(text: str) -> str:
    """Text without control characters but line ends: names in other people's files are shown, never obeyed."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def _cells(table: Table) -> list[list[str]]:
    return [[printable(shortened(cell)).replace("\n", "\\n") for cell in row] for row in table.rows]


def _aligned(table: Table) -> str:
    return f"{printable(table.title)}\n{aligned(table.columns, _cells(table))}"


def _rich(table: Table) -> Any:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    drawn = RichTable(title=Text(printable(table.title)), title_justify="left", box=box.SIMPLE_HEAD)
    for column in table.columns:
        drawn.add_column(column.lstrip(">"), justify="right" if column.startswith(">") else "left", overflow="fold")
    for row in _cells(table):
        drawn.add_row(*map(Text, row))
    return drawn


def write_json(data: Mapping[str, Any]) -> None:
    """Print one JSON document. Numbers that JSON lacks (NaN, infinities) become null."""
    print(json.dumps(_plain(data), indent=2, allow_nan=False))


def _plain(value: Any) -> Any:
    """A value of JSON's own types; numpy's and JAX's numbers and arrays included."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, str | int):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)
