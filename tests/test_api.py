"""The public names: what there is, how it is called, that each is documented; the tree of exceptions."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import jaxq
import jaxq.export
from jaxq import errors

NAMES = [
    "FakeQuant",
    "JaxqError",
    "PrecisionWarning",
    "QuantizedFunction",
    "Recipe",
    "Rule",
    "Scheme",
    "analyze",
    "calibrate",
    "export",
    "int8",
    "load",
    "losses",
    "optim",
    "ptq",
    "quantize",
    "search",
]
EXPORT_NAMES = [
    *("Artifact", "Certificate", "Comparison", "Metadata", "Program", "SideBySide"),
    *("TensorMetadata", "compare", "diff", "evaluate", "freeze", "load", "lower", "to_saved_model", "to_tflite"),
]
ANALYZE_NAMES = [
    *("Difference", "Differences", "Error", "Health", "Score", "Sensitivity", "SiteHealth"),
    *("diff", "health", "sensitivity"),
]
PTQ_NAMES = [
    *("Change", "Report", "correct_biases", "equalize", "gptq", "improve", "reestimate", "round_weights", "settle"),
    "smooth",
]

# What a call of each looks like: a change here is a change for every user.
SIGNATURES = {
    "quantize": "(target, recipe='int8', *example, **example_kwargs)",
    "calibrate": "(target, batches, *state, overwrite=False, progress=True)",
    "load": "(source, *, family='xnnpack', machine='aarch64')",
    "analyze.diff": "(target, batches, *state, reference=None, progress=True)",
    "analyze.health": "(target, batches, *state, reference=None)",
    "analyze.sensitivity": (
        "(target, batches, *state, labels=None, loss=None, choices=('w4', 'a16', 'float'), progress=True)"
    ),
    "export.compare": (
        "(target, batches, *state, against='tflite-converter', labels=None, samples=None, rounds=50, progress=True)"
    ),
    "export.diff": "(target, batches, *state, file=None, progress=True)",
    "export.to_tflite": (
        "(target, *state, verify=None, allow_mismatch=False, metadata=None, reference=None, progress=True)"
    ),
    "export.to_saved_model": "(target, path, *state, machine=None, platforms=('cpu',), progress=True)",
    "export.Artifact.save": "(self, path, *, force=False)",
    "export.Artifact.verify": (
        "(self, batches, *, families=('xnnpack', 'reference'), machine=None, runtime='litert', progress=True)"
    ),
    "export.Artifact.report": "(self, path, examples=None, *, run=None, force=False, progress=True)",
    "export.Artifact.run": "(self, *args, **kwargs)",
    "int8.combine_gradients": "(gradients, axis_name)",
    "int8.training": "(target, how='row', *example, **example_kwargs)",
    "ptq.correct_biases": "(target, batches, *state, reference=None, examples=512)",
    "ptq.equalize": "(target, batches, *state, reference=None, examples=512)",
    "ptq.gptq": "(target, batches, *state, reference=None, examples=512)",
    "ptq.improve": "(target, batches, *state, passes=None, examples=512, reference=None, steps=2000)",
    "ptq.reestimate": "(target, batches, *state, reference=None, examples=512)",
    "ptq.round_weights": (
        "(target, batches, *state, reference=None, examples=512, steps=2000, rate=0.01, drop=0.0, block=False, "
        "fisher=False, seed=0)"
    ),
    "ptq.smooth": "(target, batches, *state, alpha=0.5, reference=None, examples=512)",
    "optim.accumulate": "(inner, every)",
    "optim.scale_by_deviation": "(alpha=20.0, floor=0.1)",
    "losses.dampening": "(params, plan)",
    "optim.freeze_oscillations": "(inner, plan, *, threshold=0.02, momentum=0.01)",
    "optim.oscillations": "(state, *, frequency=0.02)",
    "optim.partition": (
        "(weights, ranges=None, *, observe=0, freeze=None, decay=0.99, norm_decay=0.99, norm_freeze=None)"
    ),
    "optim.qat_schedule": "(float_rate, steps, *, share=0.01)",
    "search.mixed": ("(target, batches, *state, budget, labels=None, loss=None, choices=('w4', 'w8'), progress=True)"),
    "search.ranges": (
        "(target, batches, *state, labels=None, loss=None, methods=('minmax', 'percentile', 'mse', 'entropy'), "
        "progress=True)"
    ),
    "search.rollback": (
        "(target, batches, *state, max_drop, labels=None, metric=None, reference=None, choices=('a16', 'float'), "
        "progress=True)"
    ),
    "search.tune": (
        "(target, batches, *state, max_drop, labels=None, metric=None, calibration=None, methods=('minmax', 'mean', "
        "'percentile', 'mse', 'entropy'), choices=('a16', 'float'), steps=0, rate=0.0001, progress=True)"
    ),
    "FakeQuant.__init__": "(self, low=-6.0, high=6.0)",
}


def modules() -> Iterator[ModuleType]:
    """The package and every module in it."""
    yield jaxq
    for found in pkgutil.walk_packages(jaxq.__path__, "jaxq."):
        if not found.name.endswith("__main__"):
            yield importlib.import_module(found.name)


def public(module: ModuleType) -> Iterator[tuple[str, Any]]:
    """The functions and classes that a module defines for others, and the methods of the classes."""
    for name, value in vars(module).items():
        own = getattr(value, "__module__", None) == module.__name__
        if own and not name.startswith("_") and (inspect.isclass(value) or inspect.isfunction(value)):
            yield f"{module.__name__}.{name}", value
            if inspect.isclass(value):
                methods = ((n, m) for n, m in vars(value).items() if inspect.isfunction(m) and not n.startswith("_"))
                yield from ((f"{module.__name__}.{name}.{n}", m) for n, m in methods if m.__module__ == module.__name__)


def resolved(path: str) -> Any:
    value: Any = jaxq
    for name in path.split("."):
        value = getattr(value, name)
    return value


def bare(signature: inspect.Signature) -> str:
    """A signature without its annotations."""
    plain = [p.replace(annotation=inspect.Parameter.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=plain, return_annotation=inspect.Signature.empty))


def test_the_names_of_the_package() -> None:
    assert jaxq.__all__ == NAMES
    assert [name for name in NAMES if not hasattr(jaxq, name)] == []


def test_the_names_of_export() -> None:
    assert jaxq.export.__all__ == EXPORT_NAMES
    assert [name for name in EXPORT_NAMES if not hasattr(jaxq.export, name)] == []


def test_the_names_of_analyze() -> None:
    assert jaxq.analyze.__all__ == ANALYZE_NAMES
    assert [name for name in ANALYZE_NAMES if not hasattr(jaxq.analyze, name)] == []


def test_the_names_of_ptq() -> None:
    assert jaxq.ptq.__all__ == PTQ_NAMES
    assert [name for name in PTQ_NAMES if not hasattr(jaxq.ptq, name)] == []


def test_the_names_of_search() -> None:
    assert jaxq.search.__all__ == ["Found", "mixed", "ranges", "rollback", "tune"]
    assert [name for name in jaxq.search.__all__ if not hasattr(jaxq.search, name)] == []


def test_the_lazy_names_are_the_ones_of_export() -> None:
    assert jaxq.load is jaxq.export.load
    with pytest.raises(AttributeError, match="module 'jaxq' has no attribute 'quantise'"):
        jaxq.__getattr__("quantise")


@pytest.mark.parametrize("path", SIGNATURES)
def test_signatures(path: str) -> None:
    assert bare(inspect.signature(resolved(path))) == SIGNATURES[path]


def test_everything_public_has_a_docstring() -> None:
    found = [module.__name__ for module in modules() if not module.__doc__]
    found += [name for module in modules() for name, value in public(module) if not (value.__doc__ or "").strip()]
    assert found == []


def drawn(cls: type, indent: str = "") -> list[str]:
    """The names of an exception's subclasses, drawn as a tree, in order of definition."""
    children = cls.__subclasses__()
    lines = []
    for i, child in enumerate(children):
        last = i == len(children) - 1
        lines.append(f"{indent}{'└' if last else '├'}── {child.__name__}")
        lines += drawn(child, indent + ("    " if last else "│   "))
    return lines


def described() -> list[str]:
    """The tree in the docstring of jaxq.errors, without what it says of each."""
    lines = (line.removeprefix("    ") for line in (errors.__doc__ or "").splitlines())
    return [line[: line.index("Error") + len("Error")] for line in lines if "── " in line]


def test_the_tree_of_exceptions_is_the_one_in_the_docstring() -> None:
    assert described() == drawn(errors.JaxqError)


def test_every_exception_is_in_the_tree() -> None:
    found = {value for _, value in public(errors)} - {jaxq.PrecisionWarning}
    assert all(issubclass(value, jaxq.JaxqError) for value in found)
    assert len(found) == len(described()) + 1


def test_every_public_name_is_there_and_no_module_takes_its_place() -> None:
    """A name that a module has too would become the module when that is imported."""
    for name in (*jaxq.__all__, *jaxq.MODULES):
        assert getattr(jaxq, name) is not None and name in dir(jaxq)
    names = {found.name for found in pkgutil.iter_modules(jaxq.__path__)}
    assert not names.intersection(jaxq.DEFINED) and names >= set(jaxq.MODULES)
    assert set(jaxq.__all__) <= {*jaxq.DEFINED, *jaxq.MODULES}
    with pytest.raises(AttributeError, match="module 'jaxq' has no attribute 'quantise'"):
        jaxq.quantise  # noqa: B018  # pyright: ignore[reportAttributeAccessIssue]
