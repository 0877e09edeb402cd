"""Embeddings of movie sentences: the published encoder in int8, taught by itself in float, to files for any sentence.

Nothing but the float encoder says what an embedding should be (Reimers and Gurevych 2020 teach one encoder by another):
the loss is what the cosine between both lacks of one. Data: 8,491 sentences to learn from and 2,114 to test with
(`jaxq.recipes.sentences`). Model: all-MiniLM-L6-v2, the mean of its tokens. Cosines: docs/results.md. Commands:

    jaxq weights all-MiniLM-L6-v2
    jaxq train recipes/movie_embedding --out build/embeddings
    jaxq infer build/embeddings/int8.tflite "A fine film."
"""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

from jaxq.recipes import movies
from jaxq.recipes.movie_tasks import EMBEDDING

TAUGHT: dict[str, Any] = {
    "policies": ("int8",), "stages": ("ptq", "qat+distillation"), "float_steps": 0, "share": 1.0, "qat_rate": 5e-5,
}  # fmt: skip


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
    config = dataclasses.replace(movies.SMOKE if smoke else movies.Config(), **TAUGHT)
    config = movies.of_policy(config, policy)
    return movies.ladder(EMBEDDING, config, out, seed=seed, resume=resume, force=force)
