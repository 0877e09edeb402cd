"""Texts with labels, numbers or scores, out of .csv, .tsv and .jsonl files."""

from __future__ import annotations

import csv
import json
import math
import pathlib
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jaxq.display.text import did_you_mean
from jaxq.errors import InputError
from jaxq.recipes.sentences import Sentences, tested

DELIMITERS = {".csv": ",", ".tsv": "\t"}
Sides = tuple[Sentences, Sentences]


class Texts(NamedTuple):
    """Texts, the number of the class of each, int32 [n], and the names of the classes, sorted."""

    texts: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]


class Numbered(NamedTuple):
    """Texts and the number of each, float64 [n]."""

    texts: list[str]
    numbers: np.ndarray


class Pairs(NamedTuple):
    """Two texts each, and how near they are, float64 [n]: the greater the nearer."""

    texts: list[tuple[str, str]]
    scores: np.ndarray


def read(path: pathlib.Path) -> Texts:
    """The texts of a file and their classes.

    Args:
      path: .csv or .tsv with the columns text and label in its first row, or without such a row the text first and the
        label second; or .jsonl with an object of both a line.

    Raises: InputError for a file that cannot be read, a line without text or label, and fewer than two classes.
    """
    rows = [cells for _, cells in _lines(path, ("text", "label"))]
    classes = tuple(sorted({label for _, label in rows}))
    if len(classes) == 1:
        raise InputError(
            f"{path} has {len(rows):,} texts of one class, {classes[0]!r}; there must be two classes or more. Add "
            "texts of another."
        )
    _refuse_numbers(path, len(rows), classes)
    labels = np.array([classes.index(label) for _, label in rows], np.int32)
    return Texts([text for text, _ in rows], labels, classes)


def _refuse_numbers(path: pathlib.Path, count: int, classes: Sequence[str]) -> None:
    """Raise InputError where labels are numbers that hardly repeat: no classes."""
    if len(classes) > max(20, count // 2) and all(_is_number(name) for name in classes):
        raise InputError(
            f"{path} has {count:,} texts and {len(classes):,} different labels, all numbers. Numbers are learned by "
            "jaxq train recipes/text_regression; for classes give each many texts."
        )


def read_numbers(path: pathlib.Path) -> Numbered:
    """The texts of a file and their numbers: as `read`, with a number for a label.

    Raises: InputError, also where a label is no finite number, and where all are equal.
    """
    rows = [(cells[0], _number(path, line, "label", cells[1])) for line, cells in _lines(path, ("text", "label"))]
    return Numbered([text for text, _ in rows], _different(path, "label", [number for _, number in rows]))


def read_pairs(path: pathlib.Path) -> Pairs:
    """The pairs of a file and their scores: as `read`, with the columns text_a, text_b and score.

    Raises: InputError, also where a score is no finite number, and where all are equal.
    """
    lines = _lines(path, ("text_a", "text_b", "score"))
    rows = [((a, b), _number(path, line, "score", score)) for line, (a, b, score) in lines]
    return Pairs([pair for pair, _ in rows], _different(path, "score", [score for _, score in rows]))


def split(texts: Texts) -> Sides:
    """Those to train with and those to test with, a fifth: what is tested depends on nothing but a text's words.

    Raises InputError where a class has nothing on one side.
    """
    side = np.array([tested(text) for text in texts.texts])
    for name, chosen in (("train", ~side), ("test", side)):
        absent = set(range(len(texts.classes))) - set(texts.labels[chosen].tolist())
        if absent:
            count = int(np.sum(texts.labels == min(absent)))
            raise InputError(
                f"The class {texts.classes[min(absent)]!r} has {count} of {len(texts.labels):,} texts and none to "
                f"{name} with: a fifth of the texts is tested with. Give more texts of it. If it is the name of "
                "a column, name the columns text and label."
            )
    return _sentences(texts, ~side), _sentences(texts, side)


def split_numbers(texts: Numbered) -> tuple[Sides, float, float]:
    """As `split`: the two sides, whose ratings are (number - mean) / std, and mean and std of those to train with.

    Raises InputError where a side has fewer than two different numbers.
    """
    side = np.array([tested(text) for text in texts.texts])
    _enough(texts.numbers, side, "label")
    mean, std = float(texts.numbers[~side].mean()), float(texts.numbers[~side].std())
    ratings = ((texts.numbers - mean) / std).astype(np.float32)
    return (_rated(texts.texts, ratings, ~side), _rated(texts.texts, ratings, side)), mean, std


def split_pairs(pairs: Pairs) -> Sides:
    """As `split`: the two sides, the texts of a pair one after the other, each with the pair's rating.

    Ratings are scores from the least, 0, to the greatest, 1. What is tested depends on the words of both texts.

    Raises InputError where a side has fewer than two different scores.
    """
    side = np.array([tested(" ".join(sorted(pair))) for pair in pairs.texts])
    _enough(pairs.scores, side, "score")
    low, high = pairs.scores.min(), pairs.scores.max()
    ratings = np.repeat(((pairs.scores - low) / (high - low)).astype(np.float32), 2)
    texts, both = [text for pair in pairs.texts for text in pair], np.repeat(side, 2)
    return _rated(texts, ratings, ~both), _rated(texts, ratings, both)


def made_up(seed: int, count: int = 160) -> Texts:
    """Texts of no language in two classes, for a smoke test."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, count).astype(np.int32)
    words = [[f"w{n}" for n in rng.integers(0, 20, 5)] for _ in range(count)]
    return Texts([" ".join([*w, f"class{label}"]) for w, label in zip(words, labels, strict=True)], labels, ("a", "b"))


def made_up_pairs(seed: int, count: int = 160) -> Pairs:
    """Pairs of texts of no language, some of them of the same words, for a smoke test."""
    texts = made_up(seed, count).texts
    same = np.random.default_rng((seed, 1)).integers(0, 2, count)
    return Pairs([(a, a if s else b) for a, b, s in zip(texts, texts[::-1], same, strict=True)], same.astype(float))


def _sentences(texts: Texts, chosen: np.ndarray) -> Sentences:
    return _rated(texts.texts, texts.labels.astype(np.float32), chosen)


def _rated(texts: Sequence[str], ratings: np.ndarray, chosen: np.ndarray) -> Sentences:
    kept = [text for text, c in zip(texts, chosen, strict=True) if c]
    return Sentences(kept, ratings[chosen], ratings[chosen].astype(np.int32))


# --- reading ----------------------------------------------------------------------------------------------------------


def _lines(path: pathlib.Path, columns: tuple[str, ...]) -> list[tuple[int, list[str]]]:
    """The number of each line, and its cells in the order of `columns`, none of them empty."""
    if path.suffix not in (*DELIMITERS, ".jsonl"):
        raise InputError(f"{path} does not end in .csv, .tsv or .jsonl. Save it as one of these: {_form(columns)}.")
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = _objects if path.suffix == ".jsonl" else _rows
            found = [_checked(path, number, columns, cells) for number, cells in reader(path, stream, columns)]
    except OSError as e:
        raise InputError(f"Cannot read {path}: {e.strerror}.") from e
    except UnicodeDecodeError as e:
        raise InputError(f"{path}{_where(path)} is not UTF-8. Save it as UTF-8: iconv -f LATIN1 -t UTF-8.") from e
    except csv.Error as e:
        raise InputError(f"{path} is no table of texts: {e}. Save it as {_form(columns)}.") from e
    if not found:
        raise InputError(f"{path} has no line of data. It needs {_form(columns)}.")
    return found


def _form(columns: Sequence[str]) -> str:
    return f"a first row {','.join(columns)} and a row for each example, or a line of JSON with these keys for each"


def _where(path: pathlib.Path) -> str:
    """The first line that is not UTF-8."""
    for number, line in enumerate(path.read_bytes().split(b"\n"), start=1):
        try:
            line.decode("utf-8")
        except UnicodeDecodeError:
            return f", line {number}"
    return ""


def _rows(path: pathlib.Path, stream: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    rows = csv.reader(stream, delimiter=DELIMITERS[path.suffix])
    places = list(range(len(columns)))
    for number, row in enumerate(rows, start=1):
        names = [cell.strip().lower() for cell in row]
        if number == 1 and set(columns) & set(names):
            _refuse_missing(f"{path} has the columns {', '.join(names)}", columns, names)
            places = [names.index(column) for column in columns]
        elif row:
            yield number, [row[place].strip() if place < len(row) else "" for place in places]


def _objects(path: pathlib.Path, stream: Iterator[str], columns: Sequence[str]) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
        except ValueError as e:
            reason = e.msg if isinstance(e, json.JSONDecodeError) else e
            keys = ", ".join(f'"{column}": ...' for column in columns)
            raise InputError(f"{path}, line {number} is no JSON ({reason}). Write {{{keys}}}.") from e
        values = found if isinstance(found, dict) else {}
        if values:
            _refuse_missing(f"{path}, line {number} has {', '.join(map(str, values))}", columns, list(values))
        yield number, [str(values.get(column, "")).strip() for column in columns]


def _refuse_missing(has: str, columns: Sequence[str], names: Sequence[str]) -> None:
    for column in columns:
        if column not in names:
            raise InputError(f"{has}, and no {column}. {did_you_mean(column, names)} It needs {', '.join(columns)}.")


def _checked(path: pathlib.Path, number: int, columns: Sequence[str], cells: list[str]) -> tuple[int, list[str]]:
    for column, cell in zip(columns, cells, strict=True):
        if not cell:
            rest = next((other for other in cells if other), "")
            raise InputError(
                f"{path}, line {number} has no {column}: {rest[:60]!r}. Each line needs {', '.join(columns)}: fill it "
                "in, or delete the line."
            )
    return number, cells


def _number(path: pathlib.Path, line: int, column: str, cell: str) -> float:
    if not _is_number(cell):
        first = f" If the first row names the columns, one must be {column}." if line == 1 else ""
        raise InputError(f"{path}, line {line}: the {column} is {cell[:60]!r}, which is no finite number.{first}")
    return float(cell)


def _is_number(cell: str) -> bool:
    """Whether it is a finite number."""
    try:
        return math.isfinite(float(cell))
    except ValueError:
        return False


def _different(path: pathlib.Path, column: str, numbers: Sequence[float]) -> np.ndarray:
    if len(set(numbers)) < 2:
        raise InputError(
            f"{path}: of {len(numbers):,} lines every {column} is {numbers[0]:g}; there must be two different ones or "
            "more."
        )
    return np.array(numbers, np.float64)


def _enough(numbers: np.ndarray, side: np.ndarray, column: str) -> None:
    for name, chosen in (("train", ~side), ("test", side)):
        if len(set(numbers[chosen].tolist())) < 2:
            raise InputError(
                f"{int(chosen.sum()):,} of {len(numbers):,} lines are to {name} with, and have fewer than two "
                f"different {column}s: a fifth of the lines is tested with. Give more."
            )
