"""Golden texts: `golden(name, text)` compares with tests/golden/; `pytest --update-golden` writes them anew.

Effort: `make test` gives `--little-effort`, with which XLA compiles without most optimizations, except for the modules
of `FULL_EFFORT`, whose laws are about the last bit of what the training forward computes. `make test-all` does not.

Promotion: no test mixes dtypes implicitly (`jax_numpy_dtype_promotion="strict"`) but those of `PROMOTES`, and those of
`SAME_RANKS` broadcast no ranks either. docs/decisions/014-strict-promotion.md says why not all.

Tiers: `make test` leaves out what is marked slow, in the source or by `slow_cases.txt`, which names one case a line. Of
each law some cases stay in the quick tier; docs/testing.md says which. `make test-all` runs everything.
"""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
from collections.abc import Callable, Iterator

if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # before JAX reads it: tests leave nothing in the user's cache
    os.environ.setdefault("JAX_ENABLE_COMPILATION_CACHE", "false")

import jax
import pytest

from tests.effort import little_effort
from tests.web import CHROMIUM, MODULES, WEB_RUNTIME

# tflite-micro has wheels for Linux on x86-64 alone.
MICRO = importlib.util.find_spec("tflite_micro") is not None
TENSORFLOW = importlib.util.find_spec("tensorflow") is not None
collect_ignore = [] if MICRO else ["test_targets_micro.py", "test_tflm.py"]
collect_ignore += [] if CHROMIUM else ["test_report_browser.py"]
collect_ignore += [] if WEB_RUNTIME else ["test_device_proof_browser.py"]
collect_ignore += [] if TENSORFLOW else ["test_tensorflow.py", "test_tflite_converter.py"]

GOLDEN = pathlib.Path(__file__).parent / "golden"
FULL_EFFORT = ("test_dynamic", "test_exact", "test_random_networks", "test_recurrent", "test_simulate", "test_tour")
# Files of few and long cases: begun first, so that no worker is left with one of them at the end.
FIRST = ("test_exact", "test_simulate", "test_search", "test_tour", "test_precision", "test_hostile", "test_train")
# Recipes' networks, training by Adam, mixed dtypes as such: Flax's avg_pool and optax's Adam divide float32 by int32.
PROMOTES = (
    "test_bert",
    "test_capture",
    "test_finetune",
    "test_flax_example",
    "test_identity",
    "test_int8_qat",
    "test_int8_recipe",
    "test_int8_training",
    "test_keywords",
    "test_mobile",
    "test_openpose",
    "test_optim",
    "test_oscillations",
    "test_own_data",
    "test_precision",
    "test_range_methods",
    "test_readme",
    "test_recipes",
    "test_tour",
    "test_train",
    "test_tutorials",
)
SAME_RANKS = (
    "test_activations",
    "test_int8_contraction",
    "test_losses",
    "test_observers",
    "test_shapes",
    "test_squares",
)
SLOW_CASES = frozenset((pathlib.Path(__file__).parent / "slow_cases.txt").read_text().splitlines())


def pytest_report_header() -> list[str]:
    missing = [] if MICRO else ["tflite-micro is not installed: the tflm family (test_tflm.py) is not tested"]
    missing += (
        []
        if TENSORFLOW
        else ["tensorflow is not installed: test_tensorflow.py and test_tflite_converter.py are not run"]
    )
    missing += [] if CHROMIUM else ["chromium is not installed: test_report_browser.py is not run"]
    lacks = f"chromium or npm's packages in {MODULES} (make browser): test_device_proof_browser.py is not run"
    return [*missing, *([] if WEB_RUNTIME else [f"missing {lacks}"])]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--update-golden", action="store_true", help="write the texts of tests/golden/ anew")
    parser.addoption("--cpu-times", metavar="DIR", help="append the CPU seconds of each case to a file there: tiers.py")
    parser.addoption("--little-effort", action="store_true", help="compile without most optimizations")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.nodeid in SLOW_CASES:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: item.path.stem not in FIRST)  # stable


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    before = sum(os.times()[:4])
    try:
        return (yield)
    finally:
        if folder := item.config.getoption("--cpu-times"):
            _append(pathlib.Path(folder), [item.nodeid, round(sum(os.times()[:4]) - before, 3)])


def _append(folder: pathlib.Path, line: list[object]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl", "a") as file:
        file.write(f"{json.dumps(line)}\n")


@pytest.fixture(autouse=True, scope="module")
def effort(request: pytest.FixtureRequest) -> Iterator[None]:
    with little_effort(bool(request.config.getoption("--little-effort")) and request.path.stem not in FULL_EFFORT):
        yield


@pytest.fixture(autouse=True, scope="module")
def promotion(request: pytest.FixtureRequest) -> Iterator[None]:
    dtypes = "standard" if request.path.stem in PROMOTES else "strict"
    ranks = "raise" if request.path.stem in SAME_RANKS else "allow"
    with jax.numpy_dtype_promotion(dtypes), jax.numpy_rank_promotion(ranks):
        yield


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    def compare(name: str, text: str) -> None:
        if request.config.getoption("--update-golden"):
            (GOLDEN / name).write_text(f"{text}\n")
        assert text.splitlines() == (GOLDEN / name).read_text().splitlines()

    return compare
