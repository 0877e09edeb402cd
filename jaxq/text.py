"""Words for messages."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """`Did you mean 'x'?`, or the first of the known words when none is near."""
    choices = list(known)
    near = difflib.get_close_matches(word, choices, n=3, cutoff=0.5)
    if near:
        return "Did you mean " + " or ".join(repr(w) for w in near) + "?"
    shown = ", ".join(repr(w) for w in choices[:12])
    return f"There are: {shown}{' ...' if len(choices) > 12 else ''}." if choices else "There are none."


def shortened(text: str, most: int = 200) -> str:
    """The text, or its two ends where it has more than `most` characters: names in files have any length."""
    return text if len(text) <= most else f"{text[: most // 2]} ... {text[-most // 2 :]}"
