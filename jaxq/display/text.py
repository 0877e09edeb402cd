"""Words for messages, and tables of words."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

LONGEST_WORD = 500  # characters of a word that is looked up: the search is quadratic in them


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?`, or the first of the known words when none is near."""
    choices = list(known)
    near = difflib.get_close_matches(word[:LONGEST_WORD], choices, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(w) for w in near) + "?"
    shown = ", ".join(repr(w) for w in choices[:12])
    return f"There are: {shown}{' ...' if len(choices) > 12 else ''}." if choices else "There are none."


def shortened(text: str, most: int = 200) -> str:
    """The text, or its two ends where it has more than `most` characters: names in files have any length."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"


def aligned(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table as lines of text. Columns whose name begins with ">" are numbers, set flush right."""
    cells = [[c.lstrip(">") for c in columns], *rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = [c.startswith(">") for c in columns]

    def line(row: Sequence[str]) -> str:
        words = [c.rjust(w) if flush else c.ljust(w) for c, w, flush in zip(row, widths, right, strict=True)]
        return f"  {'  '.join(words)}".rstrip()

    return "\n".join(map(line, cells))
