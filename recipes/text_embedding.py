"""Embeddings for texts of one's own: a file of pairs with scores, a sentence encoder, an int8 file with its proof.

Data: FILE.csv, .tsv or .jsonl with the columns text_a, text_b and score, the greater the nearer
(`jaxq.recipes.labelled_texts`). Model: all-MiniLM-L6-v2, the mean of its tokens. The cosine of a pair learns its score,
from the least of the file, 0, to the greatest, 1 (Reimers and Gurevych 2019, section 3, regression); the measure is
Spearman's rank correlation of cosines and scores. Commands:

    jaxq weights all-MiniLM-L6-v2
    jaxq train recipes/text_embedding --data FILE.csv --out build/embeddings
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxq.recipes import labelled_texts
from jaxq.recipes.movie_tasks import EMBEDDING, Data, Task
from jaxq.recipes.movies import ladder, of_own_texts

FILE = (
    "This recipe reads a file of pairs of texts. Give it with --data FILE.csv: a row for each pair, with the columns "
    "text_a, text_b and score."
)


def run(
    out: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    policy: str | None = None,
    settings: Mapping[str, Any] | None = None,
    seed: int = 0,
    smoke: bool = False,
    resume: bool = False,
    force: bool = False,
) -> dict[str, Any]:
    """Run the recipe on the pairs in `data`, of one policy if given; returns the summary.

    With `smoke` a small random encoder and a few steps, on made-up pairs where no file is given.
    """
    config = of_own_texts(data, FILE, settings=settings, policy=policy, smoke=smoke)
    pairs = labelled_texts.made_up_pairs(seed) if data is None else labelled_texts.read_pairs(data)
    own = labelled_texts.split_pairs(pairs)
    return ladder(TASK, config, out, seed=seed, resume=resume, force=force, own=own)


def loss(outputs: jax.Array, ratings: jax.Array) -> jax.Array:
    """`(cos(a, b) - rating)^2` of each pair, for both of its texts: [2 n, width] and [2 n] to [2 n]."""
    return jnp.repeat(jnp.square(_cosines(outputs) - ratings[::2]), 2)


def score(outputs: np.ndarray, of: Data) -> float:
    """Spearman's rank correlation of cosines and ratings."""
    return float(np.corrcoef(_ranks(np.asarray(_cosines(outputs))), _ranks(of.ratings[::2]))[0, 1])


def _ranks(x: np.ndarray) -> np.ndarray:
    """The place of each number among all, [n]; equal ones share the mean of their places."""
    _, inverse, counts = np.unique(x, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _cosines(outputs: Any) -> jax.Array:
    return optax.cosine_similarity(outputs[::2], outputs[1::2], epsilon=1e-6)


TASK: Task = EMBEDDING._replace(
    loss=loss,
    score=score,
    measure="Spearman correlation",
    asks="Which texts are near?",
    title="Text embedding",
    group=2,
)
