"""Folders of images, `train/<class>/*.jpg` and `test/<class>/*.jpg`: as arrays in memory, or decoded when read."""

from __future__ import annotations

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.recipes.pictures import read_picture

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp"})


HELD = 2**30  # bytes of training images that are decoded once and held in memory


@dataclasses.dataclass(frozen=True)
class Squares:
    """Image files as an array uint8 [n, side, side, 3] whose numbers are decoded when they are asked for.

    `squares[3]` is one image; a slice or an array of numbers gives several. Raises InputError for a file that is no
    image, when it is asked for.
    """

    files: tuple[pathlib.Path, ...]
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """[n, side, side, 3]."""
        return len(self.files), self.side, self.side, 3

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, int | np.integer):
            return _square(self.files[index], self.side)
        return np.stack([_square(self.files[i], self.side) for i in np.arange(len(self.files))[index]])


class Images(NamedTuple):
    """Images uint8 [n, side, side, 3], RGB, an array or `Squares`, labels int32 [n] and the names of the classes, by
    label.
    """

    images: Any
    labels: np.ndarray
    classes: tuple[str, ...]


def read_folder(
    folder: pathlib.Path, split: str, side: int, *, limit: int | None = None, seed: int = 0, held: bool = True
) -> Images:
    """The images of `folder/split/<class>/`, their middle square scaled to `side` (bicubic). Classes in sorted order.

    limit: take so many in all, equally many of each class, drawn by `seed`. held: decode them now, into 3 side^2 bytes
    of memory an image; else when they are asked for. Raises InputError for a folder, class or image that is missing,
    and for a file that is no image.
    """
    names = classes_of(folder, split)
    each = None if limit is None else -(-limit // len(names))
    files = [(file, i) for i, name in enumerate(names) for file in _chosen(folder / split / name, each, seed)]
    squares = Squares(tuple(file for file, _ in files), side)
    return Images(squares[:] if held else squares, np.array([label for _, label in files], np.int32), names)


def read_splits(
    folder: pathlib.Path, side: int, train: int | None, test: int | None, seed: int, *, held: bool = True
) -> tuple[Images, Images]:
    """The images to train on and to test on. Raises InputError, also where their classes differ.

    held: as in `read_folder`, of those to train on.
    """
    found = classes_of(folder, "train"), classes_of(folder, "test")
    if found[0] != found[1]:
        odd = sorted(set(found[0]) ^ set(found[1]))[0]
        raise InputError(f"{folder}: the class {odd} is in one of train/ and test/ only; both must have every class.")
    if len(found[0]) == 1:
        raise InputError(
            f"{folder} has one class, {found[0][0]}; there must be two or more. Add a folder of another in both train/ "
            "and test/, of images that are none of it where there is nothing else."
        )
    training = read_folder(folder, "train", side, limit=train, seed=seed, held=held)
    return training, read_folder(folder, "test", side, limit=test)


def held(data: Images) -> Images:
    """The images decoded, where they fit in HELD bytes."""
    return data if math.prod(data.images.shape) > HELD else data._replace(images=data.images[:])


def classes_of(folder: pathlib.Path, split: str) -> tuple[str, ...]:
    """The names of the folders in `folder/split`, sorted. Raises InputError where there are none."""
    if not (folder / split).is_dir():
        there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
        hint = f" {folder} holds {', '.join(there[:5])}. {did_you_mean(split, there)}" if there else ""
        raise InputError(
            f"There is no folder {folder / split}.{hint} The images belong in {folder}/train/CLASS/*.jpg and "
            f"{folder}/test/CLASS/*.jpg, one folder a class."
        )
    names = tuple(sorted(path.name for path in (folder / split).iterdir() if path.is_dir()))
    if not names:
        raise InputError(f"{folder / split} holds no folder: the images belong in {folder / split}/CLASS/, by class.")
    return names


def _chosen(folder: pathlib.Path, count: int | None, seed: int) -> Sequence[pathlib.Path]:
    """Images of one class in sorted order: all, or so many drawn at random."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise InputError(f"{folder} holds no image ({', '.join(sorted(SUFFIXES))}). Remove the folder, or fill it.")
    if count is None or count >= len(files):
        return files
    return [files[i] for i in sorted(np.random.default_rng(seed).permutation(len(files))[:count])]


def _square(file: pathlib.Path, side: int) -> np.ndarray:
    """The middle square of one image, scaled."""
    try:
        return np.asarray(_scaled(read_picture(file), side), np.uint8)
    except InputError as e:
        raise InputError(f"{str(e).splitlines()[0]} Delete or replace it.") from e


def _scaled(image: Any, side: int) -> Any:
    from PIL import Image

    size, short = image.size, min(image.size)
    left, top = ((length - short) / 2 for length in size)
    return image.resize((side, side), Image.Resampling.BICUBIC, (left, top, left + short, top + short))


def synthetic(classes: int, count: int, side: int, seed: int) -> Images:
    """Noisy images, each class of a colour of its own: something that a few steps can learn, to see that all runs."""
    colours = np.random.default_rng(0).integers(40, 216, (classes, 1, 1, 3))
    labels = np.arange(count, dtype=np.int32) % classes
    noise = np.random.default_rng((seed, 1)).normal(0, 30, (count, side, side, 3))
    images = np.clip(colours[labels] + noise, 0, 255).astype(np.uint8)
    return Images(images, labels, tuple(f"class {i}" for i in range(classes)))
