"""TOML files of strangers: bounded in bytes, depth and digits before they are parsed.

Python's `tomllib` recurses on nested brackets, is quadratic in the parts of a dotted key, and an integer has as many
digits as one likes. A file within the bounds below is parsed in less than a second and 100 MB.
"""

from __future__ import annotations

import os
import pathlib
import re
import stat
import tomllib
from collections.abc import Mapping
from typing import Any

from jaxq.display.text import shortened
from jaxq.errors import RecipeError

LARGEST_FILE = 1 << 18  # bytes; a recipe is a page of text
DEEPEST = 16  # brackets within brackets, and parts of a dotted key
LONGEST_NUMBER = 64  # digits

# What may hold brackets, dots and digits without meaning them. An unterminated string ends with its line or the file:
# whatever begins like a string matches, so that one pass is linear.
TEXT = re.compile(
    r'"""(?:[^"\\]|\\.|"(?!""))*+(?:""")?'
    r"|'''(?:[^']|'(?!''))*+(?:''')?"
    r'|"(?:[^"\\\n]|\\.)*+"?'
    r"|'[^'\n]*+'?|#[^\n]*",
    re.DOTALL,
)


def read_toml(path: pathlib.Path, largest: int = LARGEST_FILE) -> Mapping[str, Any]:
    """The values of a TOML file.

    Args:
      path: of a regular file in UTF-8. A directory, a device and a pipe are refused, without waiting for them.
      largest: how many bytes it may have.

    Raises: RecipeError, with the path and what is wrong.
    """
    name = shortened(str(path))
    try:
        text = _contents(path, name, largest).decode("utf-8")
        _refuse_bombs(text, name)
        return tomllib.loads(text)
    except OSError as e:
        raise RecipeError(f"Cannot read the recipe {name}: {e.strerror}.") from e
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise RecipeError(f"{name} is not TOML: {shortened(str(e))}.") from e
    except ValueError as e:  # a path with a NUL, a number that Python does not take
        raise RecipeError(f"Cannot read the recipe {name!r}: {shortened(str(e))}.") from e


def _contents(path: pathlib.Path, name: str, largest: int) -> bytes:
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))  # a pipe without a writer would wait
    with os.fdopen(handle, "rb") as file:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise RecipeError(
                f"Cannot read the recipe {name}: it is no regular file (a device, a pipe or a directory)."
            )
        data = file.read(largest + 1)
    if len(data) > largest:
        size = max(status.st_size, len(data))
        raise RecipeError(f"{name} has {size:,} bytes; a recipe has at most {largest:,}. Is it another file?")
    return data


def _refuse_bombs(text: str, name: str) -> None:
    """Refuse deep nesting, long dotted keys and long numbers, by one pass over what is outside strings and comments."""
    bare = TEXT.sub("s", text)
    depth = deepest = 0
    for bracket in re.findall(r"[\[{\]}]", bare):
        depth = max(depth + (1 if bracket in "[{" else -1), 0)
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        raise RecipeError(f"{name} nests brackets {deepest:,} deep; a recipe needs at most {DEEPEST}.")
    for word in re.split(r"[\s=,\[\]{}]+", re.sub(r"[ \t]+", "", bare)):
        if word.count(".") >= DEEPEST:
            parts = word.count(".") + 1
            raise RecipeError(
                f"{name} has a key of {parts:,} parts ({word[:20]}...); a recipe needs at most {DEEPEST}."
            )
        if len(word) > LONGEST_NUMBER and word.lstrip("+-")[:1].isdigit():
            raise RecipeError(f"{name} holds a number of {len(word):,} digits ({word[:20]}...).")
