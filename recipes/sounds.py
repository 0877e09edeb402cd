"""Folders of WAV files, one folder a class, as MFCC in memory."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxq.errors import InputError
from jaxq.recipes.mfcc import CHUNK, Mfcc, mfcc
from jaxq.recipes.wav import Sound, read_wav

LAYOUT = (
    "The clips belong in {folder}/CLASS/*.wav, one folder a class. Speech Commands (Warden 2018) has this form; "
    "folders whose name begins with _ or . are left out."
)


class Clips(NamedTuple):
    """MFCC float32 [n, frames, coefficients], labels int32 [n] and the names of the classes, by label."""

    features: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]


class Folder(NamedTuple):
    """What is in a folder: the sizes of its MFCC, the clips to train with and those to test with."""

    sizes: Mfcc
    train: Clips
    test: Clips


def read_folder(folder: pathlib.Path, seconds: float) -> Folder:
    """The clips of `folder/CLASS/*.wav` as MFCC; about a fifth of each class is to be tested with.

    A longer clip is cut to its middle, a shorter one has silence on both sides. Which are tested with depends on the
    names of the files alone; files whose names are equal up to `_nohash_`, in Speech Commands those of one speaker, are
    on one side.

    Args:
      folder: of the classes.
      seconds: of a clip.

    Raises: InputError for a folder without two classes, a class of fewer than two clips, a file that is no WAV file,
      and files of different rates.
    """
    files = {name: _files(folder / name) for name in _classes(folder)}
    first = next(iter(files.values()))[0]
    sizes = Mfcc.of(read_wav(first).rate, seconds)
    sides = [(name, file, side) for name in files for file, side in zip(files[name], tested(files[name]), strict=True)]
    classes = tuple(files)
    found = [[(classes.index(name), file) for name, file, s in sides if s is side] for side in (False, True)]
    train, test = (_clips(rows, classes, sizes, first) for rows in found)
    return Folder(sizes, train, test)


def tested(files: Sequence[pathlib.Path]) -> list[bool]:
    """Which files of a class are tested with: those whose hash is a multiple of 5; one at least, and not all."""
    hashes = [_hash(file) for file in files]
    sides = [value % 5 == 0 for value in hashes]
    if len(set(sides)) == 1:
        sides[int(np.argmin(hashes))] = not sides[0]
    return sides


def made_up(seed: int, count: int = 90) -> Folder:
    """Tones in noise at 8,000 samples a second, each class of a pitch of its own, for a smoke run."""
    rng, sizes = np.random.default_rng(seed), Mfcc.of(8_000, 0.5)
    labels, classes = np.arange(count, dtype=np.int32) % 3, ("high", "low", "middle")
    pitch = np.array([2400.0, 300.0, 900.0])[labels] * rng.uniform(0.95, 1.05, count)
    turns = np.arange(sizes.samples) * pitch[:, None] / sizes.rate + rng.uniform(0, 1, (count, 1))
    clips = 0.3 * np.sin(2 * np.pi * turns) + rng.normal(0, 0.05, (count, sizes.samples))
    features, third = mfcc(clips, sizes), count // 3
    train, test = (Clips(features[part], labels[part], classes) for part in (slice(third, None), slice(third)))
    return Folder(sizes, train, test)


def of_length(samples: np.ndarray, length: int) -> np.ndarray:
    """The middle `length` samples of a clip, with silence on both sides where it is shorter."""
    start = (len(samples) - length) // 2
    if start >= 0:
        return samples[start : start + length]
    return np.pad(samples, (-start, length - len(samples) + start))


def _classes(folder: pathlib.Path) -> tuple[str, ...]:
    layout = LAYOUT.format(folder=folder)
    if not folder.is_dir():
        raise InputError(f"There is no folder {folder}. {layout}")
    names = sorted(p.name for p in folder.iterdir() if p.is_dir() and not p.name.startswith(("_", ".")))
    if len(names) < 2:
        one = f"one class, {names[0]}" if names else "no folder of a class"
        raise InputError(f"{folder} has {one}; there must be two or more. {layout}")
    return tuple(names)


def _files(folder: pathlib.Path) -> list[pathlib.Path]:
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() == ".wav")
    if len(files) < 2:
        raise InputError(
            f"{folder} has {len(files)} WAV files; each class has two or more, for one in five is tested with. Add "
            "clips, or remove the folder."
        )
    return files


def _hash(file: pathlib.Path) -> int:
    """A number of a file's name, up to `_nohash_`."""
    return int.from_bytes(hashlib.sha256(file.stem.partition("_nohash_")[0].encode()).digest()[:8], "big")


def _clips(
    rows: Sequence[tuple[int, pathlib.Path]], classes: tuple[str, ...], sizes: Mfcc, first: pathlib.Path
) -> Clips:
    features = [mfcc(np.stack(clips), sizes) for clips in _chunks([file for _, file in rows], sizes, first)]
    return Clips(np.concatenate(features), np.array([label for label, _ in rows], np.int32), classes)


def _chunks(files: Sequence[pathlib.Path], sizes: Mfcc, first: pathlib.Path) -> Iterator[list[np.ndarray]]:
    """The clips of some files, a few at a time: the samples of all of them may not fit into memory."""
    for start in range(0, len(files), CHUNK):
        part = files[start : start + CHUNK]
        yield [of_length(_of_rate(file, read_wav(file), sizes, first), sizes.samples) for file in part]


def _of_rate(file: pathlib.Path, sound: Sound, sizes: Mfcc, first: pathlib.Path) -> np.ndarray:
    if sound.rate != sizes.rate:
        raise InputError(
            f"{file} has {sound.rate:,} samples a second, and {first} has {sizes.rate:,}. All must have the rate of "
            f"the device's microphone. Convert it: ffmpeg -i IN.wav -ar {sizes.rate} OUT.wav"
        )
    return sound.samples
