"""What the recipes for sentences choose, and their sentences as token ids: batches, sizes, a smoke run's."""

from __future__ import annotations

import dataclasses
import pathlib
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxq.errors import InputError
from jaxq.recipes import processes
from jaxq.recipes.bert import CONFIGS
from jaxq.recipes.bert import Config as Sizes
from jaxq.recipes.bert_policies import POLICIES
from jaxq.recipes.input_pipeline import Batches, Rows
from jaxq.recipes.movie_tasks import Data, Task
from jaxq.recipes.sentences import Sentences, movie_sentences, tokenize, tokenizer_json
from jaxq.recipes.settings import changed


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and lengths of the run.

    pretrained: whose weights, and tokenizer; None: a small random encoder. length: tokens of a sentence in training and
    testing. lengths: of the files besides. stages: of each policy, from calibration on; the last one's files are
    written. share: the teacher's part of the loss where it teaches. policies: of `bert_policies.POLICIES`.
    float_steps: 0 takes the encoder as published, and leaves the longer float training out.
    clip: bounds what a layer adds to a token in the quantized copies, not in the float model (`bert.Config`).
    """

    pretrained: str | None = "all-MiniLM-L6-v2"
    sizes: Sizes = CONFIGS["minilm-l6"]
    policies: tuple[str, ...] = ("float", "int8")
    stages: tuple[str, ...] = ("ptq", "qat+distillation", "qat")
    length: int = 40
    lengths: tuple[int, ...] = (32, 64, 128)
    clip: float | None = 24.0
    batch: int = 32
    float_steps: int = 300
    float_rate: float = 5e-5
    qat_steps: int = 300
    qat_rate: float = 2e-5
    range_rate: float = 1e-3
    share: float = 0.9
    temperature: float = 2.0
    calibrate: int = 256
    train: int = 10_000
    test: int = 10_000
    verify: int = 16


SMOKE = Config(
    None, Sizes(1, 16, 2, 32, vocabulary=64), ("int8",), ("ptq", "qat+distillation"), length=8, lengths=(4, 16),
    batch=8, float_steps=3, qat_steps=3, calibrate=8, train=32, test=8, verify=2,
)  # fmt: skip


def of_policy(config: Config, policy: str | None) -> Config:
    """The same run of one policy alone; None: of those that it has. Raises InputError for a name that is none."""
    if policy is None:
        return config
    if policy not in POLICIES:
        raise InputError(f"The policy {policy!r} is none of {', '.join(POLICIES)}. Give one of these.")
    return dataclasses.replace(config, policies=(policy,))


def of_own_texts(
    file: pathlib.Path | None, needs: str, *, settings: Mapping[str, Any] | None, policy: str | None, smoke: bool
) -> Config:
    """What a run on texts of one's own chooses. Raises InputError without a file, in the words of `needs`; a smoke run
    makes texts up.
    """
    config = of_policy(changed(SMOKE if smoke else Config(), settings or {}), policy)
    if file is None and not smoke:
        raise InputError(needs)
    return config


def data(task: Task, config: Config, own: tuple[Sentences, Sentences] | None = None) -> tuple[Data, Data]:
    """Sentences to train and to test with, as token ids: one's own, or movie sentences."""
    if config.pretrained is None and own is not None:
        train, test = (_hashed(task, config, sentences) for sentences in own)
        return train, test
    if config.pretrained is None:
        return _random(task, config, config.train, 0), _random(task, config, config.test, 1)
    settings = tokenizer_json(config.pretrained)
    sets = zip(own or movie_sentences(task.least), (config.train, config.test), strict=True)
    train, test = (_encoded(task, config, sentences, n, settings) for sentences, n in sets)
    return train, test


def _encoded(task: Task, config: Config, sentences: Sentences, count: int, settings: str) -> Data:
    order = mixed(np.random.default_rng(0), len(sentences.texts), task.group)[: count // task.group * task.group]
    tokens = tokenize([sentences.texts[i] for i in order], config.length, settings)
    return Data(tokens.ids, tokens.mask, sentences.ratings[order], _untaught(task, config, len(order)))


def _hashed(task: Task, config: Config, of: Sentences) -> Data:
    """Sentences for an encoder without a vocabulary: a word's id is a hash of it, 0 is padding."""
    words = [text.split()[: config.length] for text in of.texts]
    ids = np.array(
        [[zlib.crc32(w.encode()) % (config.sizes.vocabulary - 1) + 1 for w in row] + [0] * (config.length - len(row))
         for row in words], np.int32,
    )  # fmt: skip
    return Data(ids, ids != 0, of.ratings, _untaught(task, config, len(ids)))


def _random(task: Task, config: Config, count: int, seed: int) -> Data:
    """Sentences of no language, for a smoke test."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, config.sizes.vocabulary, (count, config.length)).astype(np.int32)
    mask = np.arange(config.length) < rng.integers(2, config.length + 1, (count, 1))
    ratings = (ids[:, 0] % 2 * 2 - 1).astype(np.float32)
    return Data(ids * mask, mask, ratings, _untaught(task, config, count))


def _untaught(task: Task, config: Config, count: int) -> np.ndarray:
    """What a teacher says before there is one."""
    return np.zeros((count, config.sizes.width if task.outputs is None else task.outputs), np.float32)


def resized(of: Data, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks of the first sentences, cut or padded to a length."""
    wide = max(0, length - of.ids.shape[1])
    ids, mask = (np.pad(a[:count, :length], ((0, 0), (0, wide))) for a in (of.ids, of.mask))
    return ids, mask


def batches_from(train: Data, size: int, steps: int, seed: int, first: int = 0, *, group: int = 1) -> Batches:
    """The batches of the steps from `first` on, columns of `Data`; every epoch has an order of its own.

    Groups stay together. Of fewer sentences than a batch, all are in each.
    """
    size = max(group, min(size, len(train.ids)) // group * group)
    source, share = Rows(train, group), processes.share()
    return Batches(source, batch=size, steps=steps, seed=seed, first=first, share=share, group=group)


def mixed(rng: np.random.Generator, count: int, group: int) -> np.ndarray:
    """The numbers from 0 to `count` in a random order, in which groups stay together: int64 [count]."""
    return (rng.permutation(count // group)[:, None] * group + np.arange(group)).reshape(-1)
