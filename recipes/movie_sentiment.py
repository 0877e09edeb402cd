"""Movie sentences, positive or negative: a sentence encoder fine-tuned in float, then on integers, to int8 files.

Data: 8,058 sentences to train and 2,014 to test (`jaxq.recipes.sentences`). Model: all-MiniLM-L6-v2 with a linear head
on the mean of its tokens. Accuracies: docs/results.md. Commands:

    jaxq weights all-MiniLM-L6-v2
    jaxq train recipes/movie_sentiment --out build/movies
"""

from __future__ import annotations

import pathlib
from typing import Any

from jaxq.recipes.movie_tasks import SENTIMENT
from jaxq.recipes.movies import SMOKE, Config, ladder, of_policy


def run(
    out: pathlib.Path,
    *,
    policy: str | None = None,
    seed: int = 0,
    smoke: bool = False,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Run the recipe, of one policy if given; returns the summary. With `smoke` a small random encoder, a few steps."""
    config = of_policy(SMOKE if smoke else Config(), policy)
    return ladder(SENTIMENT, config, out, seed=seed, resume=resume, force=force)
