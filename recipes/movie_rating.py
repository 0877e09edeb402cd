"""How much a movie sentence praises, from -4 to 4: regression by a sentence encoder, in float and in int8 files.

Data: 8,491 sentences to train and 2,114 to test, each with the mean of twenty readers' ratings
(`jaxq.recipes.sentences`). Model: all-MiniLM-L6-v2 with one number as its head. Correlations with the ratings:
docs/results.md. Commands:

    jaxq weights all-MiniLM-L6-v2
    jaxq train recipes/movie_rating --out build/ratings
"""

from __future__ import annotations

import pathlib
from typing import Any

from jaxq.recipes.movie_tasks import RATING
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
    return ladder(RATING, config, out, seed=seed, resume=resume, force=force)
