"""Recipe files of strangers: whatever a path names is read or refused as a RecipeError within a second and 100 MB."""

from __future__ import annotations

import os
import pathlib
import re
import subprocess
import sys
import time
from typing import Any

import pytest

from jaxq.errors import RecipeError
from jaxq.plan.recipe import read_recipe

BOMBS = {
    "brackets": ("x = " + "[" * 100_000 + "]" * 100_000, "nests brackets 100,000 deep; a recipe needs at most 16."),
    "braces": ("x = " + "{a=" * 60_000, "nests brackets 60,000 deep"),
    "digits": (
        "[activations]\npercentile = " + "9" * 100_000,
        "holds a number of 100,000 digits (99999999999999999999",
    ),
    "negative": ("[activations]\npercentile = -" + "9" * 5_000, "holds a number of 5,001 digits"),
    "hexadecimal": ("[activations]\npercentile = 0x" + "f" * 100_000, "holds a number of 100,002 digits"),
    "dots": ("a" + ".a" * 20_000 + " = 1", "has a key of 20,001 parts (a.a.a"),
    "spaced dots": ("a" + " . a" * 20_000 + " = 1", "has a key of 20,001 parts"),
    "quoted parts": ("a" + '."b c"' * 20_000 + " = 1", "has a key of 20,001 parts"),
    "table": ("[" + "a." * 20_000 + "a]", "has a key of 20,001 parts"),
    "many keys": ("\n".join(f"a.b.k{i} = 1" for i in range(18_000)), "unknown field `a`"),
    "many tables": ("\n".join(f"[a.b.k{i}]" for i in range(18_000)), "unknown field `a`"),
    "spaces": (" " * 250_000 + "a", "is not TOML: Expected '='"),
    "quotes": ('"' * 250_000, "is not TOML"),
    "escaped quotes": ('"' + '\\"' * 125_000, "is not TOML: Unterminated string"),
    "apostrophes": ("'''" + "''" * 120_000, "is not TOML"),
    "long name": ('"' + "k" * 200_000 + '" = 1', "unknown field `kkk"),
    "large": ("#" * 2_000_000, "has 2,000,000 bytes; a recipe has at most 262,144. Is it another file?"),
    "surrogate": ('name = "\\ud800"', "is not TOML"),
}


def refused(source: Any, words: str) -> None:
    start = time.process_time()
    with pytest.raises(RecipeError, match=re.escape(words)) as error:
        read_recipe(source)
    assert len(str(error.value)) < 700
    assert time.process_time() - start < 1.0


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_within_a_second(tmp_path: pathlib.Path, name: str) -> None:
    text, words = BOMBS[name]
    (tmp_path / "bomb.toml").write_text(text)
    refused(tmp_path / "bomb.toml", words)


def test_brackets_dots_and_digits_within_text_are_text(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "recipe.toml"
    text = "[" * 40 + "a." * 40 + "9" * 100
    path.write_text(f'# {text}\nname = "{text}"\n[[rules]]\nmatch = \'{text}\'\nranges = "frozen"')
    recipe = read_recipe(path)
    assert recipe.name == recipe.rules[0].match == text


def test_what_is_no_regular_file_is_refused(tmp_path: pathlib.Path) -> None:
    os.mkfifo(tmp_path / "pipe.toml")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    for name in ("pipe.toml", "zero.toml"):
        refused(tmp_path / name, "it is no regular file (a device, a pipe or a directory).")
    (tmp_path / "folder.toml").mkdir()
    refused(tmp_path / "folder.toml", "Is a directory")
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    refused(tmp_path / "loop.toml", "Too many levels of symbolic links.")


def test_paths_that_are_none() -> None:
    refused("a\0.toml", "Cannot read the recipe 'a\\x00.toml': embedded null byte.")
    refused("\ud800.toml", "Cannot read the recipe")
    refused("x" * 5_000 + ".toml", "File name too long.")
    refused("x" * 5_000_000, "There is no recipe 'xxx")
    refused(b"int8", "The recipe is a bytes")


def test_values_in_python_that_are_none() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100_000):
        deep = {"a": deep}
    refused(deep, "unknown field `a`")
    refused({"activations": {"percentile": 10**5000}}, "Number out of range")
    refused({"target": "x" * 100_000}, "There is no target 'xxx")


def test_a_file_within_the_bounds_takes_little_memory(tmp_path: pathlib.Path) -> None:
    """Peak memory of a process of its own, less what importing takes."""
    (tmp_path / "rules.toml").write_text("rules = [" + "1," * 120_000 + "]")
    (tmp_path / "zero.toml").symlink_to("/dev/zero")
    code = f"""
import resource
from jaxq.errors import RecipeError
from jaxq.plan.recipe import read_recipe
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for name in ("rules", "zero"):
    try: read_recipe({str(tmp_path)!r} + "/" + name + ".toml")
    except RecipeError: pass
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(found.stdout) < 100
