"""What is learned of a movie sentence: whether it is praise, how much, or, of a teacher, a vector that means it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxq import losses
from jaxq.export.metadata import TensorMetadata


class Data(NamedTuple):
    """Token ids int32 [n, length], mask bool [n, length], ratings float32 [n] from -4 to 4, and what a teacher says of
    them, float32 [n, outputs].
    """

    ids: np.ndarray
    mask: np.ndarray
    ratings: np.ndarray
    teacher: np.ndarray


class Task(NamedTuple):
    """A head on the encoder, or none, and how it is taught and judged.

    outputs: numbers that the head gives; None: no head, the sentence's embedding. least: only sentences with |rating|
    >= least are clear enough. loss(outputs, ratings), from the data, None where only a teacher knows; and
    taught(outputs, teacher's, temperature), from the float model's outputs: float32 [n]. score(outputs, data): one
    number, of the name `measure`. asks, says, title: the task, the output and the model, for the file's metadata.
    group: so many sentences that follow each other belong together.
    """

    outputs: int | None
    least: float
    loss: Callable[[jax.Array, jax.Array], jax.Array] | None
    taught: Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
    measure: str
    score: Callable[[np.ndarray, Data], float]
    asks: str
    says: TensorMetadata
    title: str = "Movie sentences"
    group: int = 1


def _cross_entropy(logits: jax.Array, ratings: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(logits, (ratings > 0).astype(jnp.int32))


def _distilled(logits: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    return losses.distilled(logits, teacher, temperature=temperature)


def _accuracy(logits: np.ndarray, of: Data) -> float:
    return float(np.mean(np.argmax(logits, -1) == (of.ratings > 0)))


def _squared_error(found: jax.Array, ratings: jax.Array) -> jax.Array:
    return jnp.square(found[:, 0] - ratings)


def _as_the_teacher(found: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    return _squared_error(found, teacher[:, 0])


def _correlation(found: np.ndarray, of: Data) -> float:
    return float(np.corrcoef(found[:, 0], of.ratings)[0, 1])


def _apart(found: jax.Array, teacher: jax.Array, temperature: jax.Array) -> jax.Array:
    """`1 - cos(found, teacher)`, [n, width] both, to [n]: lengths mean nothing, who compares sentences divides by them.

    Reimers and Gurevych 2020 teach by the squared difference, which holds lengths too.
    """
    return 1.0 - optax.cosine_similarity(found, teacher, epsilon=1e-6)


def _cosine(found: np.ndarray, of: Data) -> float:
    return float(np.mean(optax.cosine_similarity(found, of.teacher)))


SENTIMENT = Task(
    2, 0.5, _cross_entropy, _distilled, "accuracy", _accuracy, "Is it praise?",
    TensorMetadata("rating", "A score for each.", labels=("negative", "positive")),
)  # fmt: skip
RATING = Task(
    1, 0.0, _squared_error, _as_the_teacher, "correlation", _correlation, "How much does it praise?",
    TensorMetadata("rating", "From -4, blame, to 4, praise."),
)  # fmt: skip
EMBEDDING = Task(
    None, 0.0, None, _apart, "cosine", _cosine, "What does it mean?",
    TensorMetadata("embedding", "Sentences of one meaning point one way: compare them by their cosine."),
)  # fmt: skip
