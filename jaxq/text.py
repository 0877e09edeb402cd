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
