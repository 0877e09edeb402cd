"""Texts with labels, out of .csv, .tsv and .jsonl files."""

from __future__ import annotations

import csv
import json
import pathlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from jaxq.errors import InputError
from jaxq.recipes.sentences import Sentences, tested

COLUMNS = ("text", "label")
DELIMITERS = {".csv": ",", ".tsv": "\t"}


class Texts(NamedTuple):
    """Texts, the number of the class of each, int32 [n], and the names of the classes, sorted."""

    texts: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]


def read(path: pathlib.Path) -> Texts:
    """The texts of a file.

    Args:
      path: .csv or .tsv with the columns text and label in its first row, or without such a row the text first and the
        label second; or .jsonl with an object of both a line.

    Raises: InputError for a file that cannot be read, a line without text or label, and fewer than two classes.
    """
    if path.suffix not in (*DELIMITERS, ".jsonl"):
        raise InputError(f"{path} does not end in .csv, .tsv or .jsonl.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(_objects(path, stream) if path.suffix == ".jsonl" else _rows(path, stream))
    except OSError as e:
        raise InputError(f"Cannot read {path}: {e.strerror}.") from e
    except (UnicodeDecodeError, csv.Error) as e:
        raise InputError(f"{path} is no text file of UTF-8: {e}.") from e
    classes = tuple(sorted({label for _, label in rows}))
    if len(classes) < 2:
        raise InputError(f"{path} has {len(rows):,} texts of {len(classes)} classes; there must be two or more.")
    labels = np.array([classes.index(label) for _, label in rows], np.int32)
    return Texts([text for text, _ in rows], labels, classes)


def split(texts: Texts) -> tuple[Sentences, Sentences]:
    """Those to train with and those to test with, a fifth: what is tested depends on nothing but a text's words.

    Raises InputError where a class has nothing on one side.
    """
    side = np.array([tested(text) for text in texts.texts])
    for name, chosen in (("train", ~side), ("test", side)):
        absent = set(range(len(texts.classes))) - set(texts.labels[chosen].tolist())
        if absent:
            raise InputError(
                f"The class {texts.classes[min(absent)]!r} has no text to {name} with: a fifth of the texts is tested "
                "with. Give more texts of it."
            )
    return _sentences(texts, ~side), _sentences(texts, side)


def made_up(seed: int, count: int = 160) -> Texts:
    """Texts of no language in two classes, for a smoke test."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    words = [[f"w{n}" for n in rng.integers(0, 20, 5)] for _ in range(count)]
    return Texts([" ".join([*w, f"class{label}"]) for w, label in zip(words, labels, strict=True)], labels, ("a", "b"))


def _sentences(texts: Texts, chosen: np.ndarray) -> Sentences:
    labels = texts.labels[chosen]
    return Sentences([t for t, c in zip(texts.texts, chosen, strict=True) if c], labels.astype(np.float32), labels)


def _rows(path: pathlib.Path, stream: Iterator[str]) -> Iterator[tuple[str, str]]:
    rows = csv.reader(stream, delimiter=DELIMITERS[path.suffix])
    places = (0, 1)
    for number, row in enumerate(rows, start=1):
        names = [cell.strip().lower() for cell in row]
        if number == 1 and set(COLUMNS) <= set(names):
            places = (names.index("text"), names.index("label"))
        elif row:
            cells = [row[place].strip() if place < len(row) else "" for place in places]
            yield _checked(path, number, cells[0], cells[1])


def _objects(path: pathlib.Path, stream: Iterator[str]) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as e:
            raise InputError(f"{path}, line {number}: {e}.") from e
        values = found if isinstance(found, dict) else {}
        yield _checked(path, number, str(values.get("text", "")).strip(), str(values.get("label", "")).strip())


def _checked(path: pathlib.Path, number: int, text: str, label: str) -> tuple[str, str]:
    if not text or not label:
        raise InputError(f"{path}, line {number} has no {'text' if not text else 'label'}: {(text or label)[:60]!r}.")
    return text, label
