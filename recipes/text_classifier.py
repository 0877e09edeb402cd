"""A text classifier of one's own: a file of texts and labels, a sentence encoder, an int8 file with proof and report.

Data: FILE.csv, .tsv or .jsonl of texts and labels (`jaxq.recipes.labelled_texts`); any number of classes. Model:
all-MiniLM-L6-v2 with a linear head on the mean of its tokens, trained as the movie recipes are. Commands:

    jaxq weights all-MiniLM-L6-v2
    jaxq train recipes/text_classifier --data FILE.csv --out build/texts
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxq import losses
from jaxq.export.metadata import TensorMetadata
from jaxq.recipes import labelled_texts
from jaxq.recipes.movie_tasks import Data, Task
from jaxq.recipes.movies import ladder, of_own_texts

FILE = (
    "This recipe reads a file of texts and labels. Give it with --data FILE.csv: a row for each text, with the columns "
    "text and label."
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
    """Run the recipe on the texts in `data`, of one policy if given; returns the summary.

    With `smoke` a small random encoder and a few steps, on made-up texts where no file is given.
    """
    chosen = of_own_texts(data, FILE, settings=settings, policy=policy, smoke=smoke)
    texts = labelled_texts.made_up(seed) if data is None else labelled_texts.read(data)
    own = labelled_texts.split(texts)
    return ladder(task(texts.classes), chosen, out, seed=seed, resume=resume, force=force, own=own)


def task(classes: Sequence[str]) -> Task:
    """What is learned: the class of a text, whose number stands in the place of a movie's rating."""

    def loss(logits: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels.astype(jnp.int32))

    def taught(logits: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
        return losses.distilled(logits, teacher, temperature=temperature)

    def score(logits: np.ndarray, of: Data) -> float:
        return float(np.mean(np.argmax(logits, -1) == of.ratings))

    says = TensorMetadata("class", "A score for each class.", labels=tuple(classes))
    return Task(len(classes), 0.0, loss, taught, "accuracy", score, "Which class is it?", says, "Text classifier")
