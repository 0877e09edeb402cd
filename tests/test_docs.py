"""The documentation says what is: generated pages are fresh, links lead somewhere, and every name it uses exists."""

from __future__ import annotations

import importlib
import importlib.util
import pathlib
import re
import subprocess
import sys
import tomllib
from types import ModuleType
from typing import Any, get_args

import jax
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.cli.app import COMMANDS, command
from jaxq.export.lowering.lower import REFUSED, RULES
from jaxq.ops import OPS
from jaxq.plan import recipe
from jaxq.plan.recipe import Activations, Recipe, Rule, Weights, read_recipe
from jaxq.plan.target import TARGETS

ROOT = pathlib.Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = [*sorted(DOCS.rglob("*.md")), *(ROOT / f"{name}.md" for name in ("CONTRIBUTING", "README", "SECURITY"))]
LONGEST = 120
ALLOWED_HOSTS = ("https://arxiv.org/", "https://github.com/", "https://doi.org/")


def name_of(page: pathlib.Path) -> str:
    return str(page.relative_to(ROOT))


def make_ops() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_ops", DOCS / "make_ops.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_table_of_ops_is_fresh() -> None:
    command = [sys.executable, str(DOCS / "make_ops.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_table_of_kernels_is_fresh() -> None:
    command = [sys.executable, str(DOCS / "make_kernels.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_every_op_has_examples_in_the_docs() -> None:
    assert make_ops().EXAMPLES.keys() == OPS.keys()


def test_every_op_is_written_or_refused_with_advice() -> None:
    assert RULES.keys() == OPS.keys()
    assert REFUSED.keys().isdisjoint(RULES)
    assert {"FLOAT"} == REFUSED.keys()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_relative_links_lead_somewhere(page: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text())
    for link in links:
        if "://" in link:
            assert link.startswith(ALLOWED_HOSTS), link
        else:
            path, _, anchor = link.partition("#")
            target = page.parent / path if path else page
            assert target.exists(), f"{name_of(page)} links to {link}"
            assert not anchor or target.suffix != ".md" or anchor in anchors(target), f"{name_of(page)} links to {link}"


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors that a page's headings have on the site and on GitHub."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: pathlib.Path) -> None:
    for path in re.findall(r"`((?:docs|tests|jaxq|export|recipes|benchmarks)/[\w./-]*\.\w+)`", page.read_text()):
        assert (ROOT / path).is_file(), f"{name_of(page)} names {path}"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_names_of_jaxq_exist(page: pathlib.Path) -> None:
    for name in sorted(set(re.findall(r"(?<![\w/.])jaxq(?:\.[A-Za-z_]\w*)+", page.read_text()))):
        resolve(name)


def test_every_room_is_named() -> None:
    page = (DOCS / "all_of_jaxq.md").read_text()
    rooms = [f.parent for package in ("jaxq", "export") for f in (ROOT / package).glob("*/__init__.py")]
    assert not [room.name for room in rooms if f"{room.name}/" not in page]


def test_what_contributing_names_is_there() -> None:
    """`raising.RAISE` is a name at the top of a file raising.py."""
    named = re.findall(r"`(?:\w+/)*(\w+)\.([A-Z]\w{3,}|[a-z_]+_[a-z_]+)`", (ROOT / "CONTRIBUTING.md").read_text())
    sources = [f for room in ("jaxq", "export") for f in (ROOT / room).rglob("*.py")]
    absent = [
        f"{module}.{name}"
        for module, name in named
        if not any(re.search(rf"^(def |class )?{name}\b", f.read_text(), re.M) for f in sources if f.stem == module)
    ]
    assert named and not absent


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def words(text: str) -> list[str]:
    """The text without its line breaks: long lines are broken in the docs."""
    return text.split()


def test_the_printed_graph_and_plan_are_those_of_the_code() -> None:
    names: dict[str, Any] = {"jax": jax, "jaxq": jaxq, "nnx": nnx, "images": np.zeros((1, 28, 28, 1), np.float32)}
    exec(compile(blocks("all_of_jaxq.md", "python")[0], "all_of_jaxq.md", "exec"), names)
    graph, plan, *_ = blocks("all_of_jaxq.md", "text")
    assert words(str(names["qmodel"].plan.graph)) == words(graph)
    assert words(str(names["qmodel"].plan)) == words(plan)


def test_the_recipe_in_toml_is_one() -> None:
    (text,) = blocks("all_of_jaxq.md", "toml")
    assert read_recipe(tomllib.loads(text)).rules[0].ranges == "frozen"


def test_every_field_of_a_recipe_is_in_the_tables() -> None:
    page = (DOCS / "all_of_jaxq.md").read_text()
    section = page[page.index("## Recipes and rules") : page.index("## Ranges")]
    fields = {f"weights.{f}" for f in Weights.__struct_fields__}
    fields |= {f"activations.{f}" for f in Activations.__struct_fields__}
    fields |= {f for f in Recipe.__struct_fields__ if f not in ("name", "weights", "activations")}
    fields |= {f for f in Rule.__struct_fields__ if f != "match"}
    missing = sorted(f for f in fields if f"`{f}`" not in section)
    assert not missing, f"docs/all_of_jaxq.md, Recipes and rules: no row for {', '.join(missing)}"


@pytest.mark.parametrize("choices", ["Calibration", "Pass", "Ranges", "WeightCalibration", "WeightRanges"])
def test_every_value_of_a_field_is_in_the_tables(choices: str) -> None:
    page = (DOCS / "all_of_jaxq.md").read_text()
    section = page[page.index("## Recipes and rules") : page.index("## Ranges")]
    values = [value for part in get_args(getattr(recipe, choices)) for value in (get_args(part) or [part])]
    assert values and not [value for value in values if f'`"{value}"`' not in section]


def test_every_target_is_in_the_tables() -> None:
    page = (DOCS / "all_of_jaxq.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| `target` |"))
    assert not [name for name in TARGETS if f'`"{name}"`' not in row]


def test_make_bench_leaves_out_what_asks_for_data() -> None:
    """A script that demands an argument, or TensorFlow, would end `make bench`."""
    left_out = re.search(r"^BY_HAND := (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    asks = re.compile(r'add_argument\("[a-z]\w*"(?!, nargs="[*?]")|required=True|sys\.argv\[1\]\]|MISSING')
    found = {file.stem for file in (ROOT / "benchmarks").glob("[a-z]*.py") if asks.search(file.read_text())}
    assert left_out is not None and found <= {*left_out[1].split()} and "ptq_images" in found


def test_options_of_the_command_exist() -> None:
    """`jaxq check F.tflite --target T`: the option after the command, on the same line or behind a backslash."""
    wrong = []
    for page in PAGES:
        text = page.read_text().replace("\\\n", " ")
        for name, rest in re.findall(r"(?<![\w/])jaxq ([a-z]+)\b([^`\n#|]*)", text):
            options = re.findall(r"(?<= )--[a-z][a-z-]*", rest)
            if name in COMMANDS and options:
                known = {one for parameter in command(name).params for one in parameter.opts}
                wrong += [f"{name_of(page)}: jaxq {name} {option}" for option in options if option not in known]
    assert not wrong


def numbers(text: str) -> set[str]:
    """Decimals, and integers with commas; no versions."""
    return set(re.findall(r"(?<![\w.,-])(?:\d+\.\d+|\d{1,3}(?:,\d{3})+)(?![\w]|\.\d)", text))


def means(text: str) -> set[str]:
    """Means of rows of three seeds, in per cent."""
    rows = re.findall(r"\| (\d+\.\d+) % \| (\d+\.\d+) % \| (\d+\.\d+) % \|", text)
    return {f"{sum(map(float, row)) / 3:.2f}" for row in rows}


def test_numbers_that_pages_quote_are_in_the_results() -> None:
    results = (DOCS / "results.md").read_text()
    readme = (ROOT / "README.md").read_text()
    limits = (DOCS / "limits.md").read_text()
    rows = [line.split("|")[-2] for line in limits.splitlines() if line.startswith("|")]
    demo = limits[limits.index("## The demo") : limits.index("## Metadata")]
    quoted = numbers(readme[readme.index("## Results") :]) | numbers("\n".join(rows)) | numbers(demo)
    assert len(quoted) > 20 and not quoted - numbers(results) - means(results)


def resolve(name: str) -> Any:
    """The object that a dotted name means: a module, or an attribute of the longest module in it."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: Any = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for part in parts[length:]:
            found = getattr(found, part)
        return found
    raise AssertionError(f"no module in {name}")


@pytest.mark.parametrize("page", [p for p in PAGES if p.stem not in ("README", "SECURITY")], ids=name_of)
def test_lines_are_not_too_long(page: pathlib.Path) -> None:
    lines = enumerate(page.read_text().splitlines(), 1)
    long = [i for i, line in lines if len(line) > LONGEST and not line.startswith("|")]  # a table's row has no break
    assert not long, f"{name_of(page)}: lines {long}"
