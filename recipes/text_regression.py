"""A number for a text of one's own: a file of texts and numbers, a sentence encoder, an int8 file with its proof.

Data: FILE.csv, .tsv or .jsonl with the columns text and label, a number (`jaxq.recipes.labelled_texts`). Model:
all-MiniLM-L6-v2 with one output on the mean of its tokens, trained as the movie recipes are. The output is
(label - mean) / std, with the mean and the standard deviation of the labels trained with, so that eight bits are enough
for labels of any size; both are in summary.json and in the file's metadata. Commands:

    jaxq weights all-MiniLM-L6-v2
    jaxq train recipes/text_regression --data FILE.csv --out build/numbers
"""

from __future__ import annotations

import pathlib
from collections.abc import Mapping
from typing import Any

from jaxq.export.metadata import TensorMetadata
from jaxq.recipes import labelled_texts
from jaxq.recipes.movie_tasks import RATING, Task
from jaxq.recipes.movies import ladder, of_own_texts

FILE = (
    "This recipe reads a file of texts and numbers. Give it with --data FILE.csv: a row for each text, with the "
    "columns text and label, a number."
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
    config = of_own_texts(data, FILE, settings=settings, policy=policy, smoke=smoke)
    texts = labelled_texts.made_up(seed)
    numbers = labelled_texts.Numbered(texts.texts, texts.labels.astype(float))
    own, mean, std = labelled_texts.split_numbers(numbers if data is None else labelled_texts.read_numbers(data))
    notes = {"label_mean": mean, "label_std": std}
    return ladder(task(mean, std), config, out, seed=seed, resume=resume, force=force, own=own, notes=notes)


def task(mean: float, std: float) -> Task:
    """What is learned: a number of this mean and standard deviation, less the one and over the other."""
    says = TensorMetadata("number", f"label = {std:.9g} * number + {mean:.9g}")
    return RATING._replace(asks="Which number has it?", says=says, title="Text regression")
