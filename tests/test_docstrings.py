"""Docstrings of what users call: each argument is described, results too, and the examples run."""

from __future__ import annotations

import doctest
import inspect
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.linen import QuantizedLinen
from jaxq.nnx import QuantizedModel
from tests.test_api import SIGNATURES, resolved

CALLED = sorted({*SIGNATURES, "export.Artifact.save_proof", "export.Artifact.python"} - {"FakeQuant.__init__"})
CALLED.append("export.Metadata.image_classifier")
VALUES = {"Recipe": jaxq.Recipe, "Rule": jaxq.Rule, "Scheme": jaxq.Scheme, "FakeQuant": jaxq.FakeQuant}
VALUES |= {type(jaxq.Recipe().weights).__name__: type(jaxq.Recipe().weights)}
VALUES |= {type(jaxq.Recipe().activations).__name__: type(jaxq.Recipe().activations)}
RETURNED = [
    *("analyze.Difference", "analyze.Differences", "analyze.Error", "analyze.Health", "analyze.Score"),
    *("analyze.Sensitivity", "analyze.SiteHealth", "export.Artifact", "export.Certificate", "export.Comparison"),
    *("export.Metadata", "export.Program", "export.TensorMetadata", "ptq.Change", "ptq.Report", "search.Found"),
    *("QuantizedFunction", "int8.Int8Function"),
]
VALUES |= {path: resolved(path) for path in RETURNED}
MODELS = {"linen.QuantizedLinen": QuantizedLinen, "nnx.QuantizedModel": QuantizedModel}
DOCUMENTED = {path: resolved(path) for path in (*CALLED, "losses.distilled", "losses.matched")} | VALUES


def section(doc: str, title: str) -> str:
    """The indented lines under `title:`, or ''."""
    found = re.search(rf"^{title}(?:, \w+)*:(.*(?:\n(?:  .*|))*)", inspect.cleandoc(doc), re.MULTILINE)
    return found.group(1) if found else ""


def described(doc: str) -> set[str]:
    """The arguments (a value's fields) that have an entry under `Args:` (`Attributes:`); one entry may name several."""
    entries = re.findall(r"^  (\w+(?:, \w+)*): \S", section(doc, "Args") or section(doc, "Attributes"), re.MULTILINE)
    return {name for entry in entries for name in entry.split(", ")}


def parameters(value: Any) -> set[str]:
    """The names of a callable's arguments; a frozen struct's are its fields."""
    called = value.__init__ if inspect.isclass(value) and issubclass(value, nnx.Module) else value
    return set(inspect.signature(called).parameters) - {"self"}


@pytest.mark.parametrize("path", DOCUMENTED)
def test_each_argument_is_described(path: str) -> None:
    doc = DOCUMENTED[path].__doc__ or ""
    assert parameters(DOCUMENTED[path]) - described(doc) == set(), path
    assert described(doc) - parameters(DOCUMENTED[path]) == set(), path


@pytest.mark.parametrize("path", [path for path in DOCUMENTED if path not in VALUES])
def test_results_are_described(path: str) -> None:
    assert section(DOCUMENTED[path].__doc__ or "", "Returns").strip(), f"{path} has no Returns"


def test_an_argument_without_an_entry_is_found() -> None:
    assert described("Say.\n\nArgs:\n  a, b: numbers.\n  c: one,\n    of: many.\n\nReturns:\n  d: no.") == {
        "a",
        "b",
        "c",
    }
    assert section("Say.\n\nArgs:\n  a: one.", "Returns") == ""


@pytest.fixture(scope="module")
def names() -> dict[str, Any]:
    """What examples may use: a calibrated `qmodel` of 4 inputs and 3 outputs, 8 `images` for it, its `artifact`."""
    images = np.random.default_rng(0).normal(size=(8, 4)).astype(np.float32)
    qmodel = jaxq.quantize(nnx.Linear(4, 3, rngs=nnx.Rngs(0)), "int8", images[:1])
    jaxq.calibrate(qmodel, [images], progress=False)
    artifact = jaxq.export.to_tflite(qmodel)
    common = {"jax": jax, "jaxq": jaxq, "jnp": jnp, "np": np, "nnx": nnx, "optax": optax}
    return common | {"images": images, "qmodel": qmodel, "artifact": artifact}


def examples() -> list[doctest.DocTest]:
    finder = doctest.DocTestFinder(recurse=False)
    named = (DOCUMENTED | MODELS).items()
    return [test for path, value in named for test in finder.find(value, path, globs={}) if test.examples]


@pytest.mark.parametrize("example", examples(), ids=lambda example: example.name)
def test_the_example_runs(example: doctest.DocTest, names: dict[str, Any]) -> None:
    value = (DOCUMENTED | MODELS)[example.name]
    own = getattr(inspect.unwrap(value), "__globals__", vars(inspect.getmodule(value)))
    example.globs = {**own, **names, "qmodel": nnx.clone(names["qmodel"])}  # passes change a model's parameters
    report: list[str] = []
    result = doctest.DocTestRunner(verbose=False).run(example, out=report.append)
    assert result.failed == 0, "".join(report)
    assert result.attempted == len(example.examples), "a part of it is skipped"
