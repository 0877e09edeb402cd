"""Imports point one way, and some packages may be imported in one place only: the two tables below."""

from __future__ import annotations

import ast
import fnmatch
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# A module imports from its own row and from the rows above it in this list. A name covers its submodules.
LAYERS = [
    ["jaxq.errors", "jaxq.display"],
    ["jaxq.numerics"],
    ["jaxq.gradients"],
    ["jaxq.graph"],
    ["jaxq.ops"],
    ["jaxq.plan", "jaxq.observers", "jaxq.range_methods"],
    ["jaxq.simulate"],
    ["jaxq.assign", "jaxq.frontends"],
    ["jaxq.nnx", "jaxq.linen"],
    ["jaxq.quantization"],
    ["jaxq.calibration", "jaxq.optim", "jaxq.analyze", "jaxq.int8", "jaxq.losses", "jaxq.ptq", "jaxq.recipe"],
    ["jaxq.search"],
    ["jaxq"],  # the package's own __init__: the public names. It covers no submodule, so that a new one needs a row.
    ["jaxq.export", "jaxq.report"],  # Artifact.report writes what jaxq.report makes of the artifact
    ["jaxq.snippets"],
    ["jaxq.recipes", "jaxq.cli", "jaxq.__main__"],
]

# Who may import what: files relative to jaxq/, as globs. The longest matching name decides.
WALLS = {
    "jax.extend": ["graph/capture.py"],
    "jax._src": [],
    "flax": ["nnx.py", "linen.py", "int8/nnx.py", "int8/linen.py", "graph/patterns.py", "recipes/*"],
    "altair": ["report/charts.py"],
    "flatbuffers": ["export/flatbuffer/*"],
    "ai_edge_litert": ["export/runtimes/worker.py"],
    "ai_edge_litert.schema_py_generated": ["export/flatbuffer/*"],
    "grain": ["recipes/input_pipeline.py"],
    "jinja2": ["report/page.py", "snippets/render.py"],
    "h5py": ["recipes/weight_files.py"],
    "onnx": ["recipes/weight_files.py"],
    "tflite_micro": ["export/runtimes/worker.py"],
    "vl_convert": ["report/charts.py"],
    "tensorflow": ["export/runtimes/worker.py", "export/saved_model.py", "export/tflite_converter.py"],
    "jax.experimental.jax2tf": ["export/saved_model.py", "export/tflite_converter.py"],
    "export": [],  # by its bare name a second copy of every class: import jaxq.export
    "recipes": [],
    "pickle": [],
    "cloudpickle": [],
    "dill": [],
    "marshal": [],
    "shelve": [],
    "ftplib": [],
    "http": [],
    "requests": [],
    "socket": [],
    "urllib": [],
}

BANNED_CALLS = ["eval", "exec", "__import__"]


def covering(name: str, names: list[str]) -> str | None:
    """The longest of `names` that is `name` or a package of it. The bare "jaxq" covers itself alone."""
    fits = [n for n in names if name == n or (name.startswith(n + ".") and n != "jaxq")]
    return max(fits, key=len, default=None)


def row(module: str) -> int | None:
    """The position in LAYERS of the row that holds `module`, or None."""
    return next((i for i, names in enumerate(LAYERS) if covering(module, names)), None)


def sources() -> dict[str, Path]:
    """Every module of the library by its dotted name, through the links jaxq/export and jaxq/recipes."""
    found = {}
    for folder, _, files in os.walk(ROOT / "jaxq", followlinks=True):
        for file in (Path(folder, f) for f in files if f.endswith(".py")):
            parts = file.relative_to(ROOT).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(
    tree: ast.Module, module: str, is_package: bool
) -> Iterator[tuple[str, ast.Import | ast.ImportFrom | ast.expr]]:
    """Every dotted name that the module imports, wherever it stands; `from a import b` counts as a.b."""
    package = module.split(".") if is_package else module.split(".")[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            origin = ".".join([*base, *filter(None, [node.module])])
            yield from ((f"{origin}.{alias.name}" if alias.name != "*" else origin, node) for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "import_module" and node.args:
            if isinstance(node.args[0], ast.Constant):
                yield str(node.args[0].value), node
        elif isinstance(node, ast.Attribute) and (name := ast.unparse(node)) in WALLS:
            yield name, node  # import jax; jax.extend.core


def deferred(tree: ast.Module) -> set[ast.AST]:
    """The nodes that do not run when the module is imported: function bodies and `if TYPE_CHECKING`."""
    lazy = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)]
    typed = [n for n in ast.walk(tree) if isinstance(n, ast.If) and ast.unparse(n.test).endswith("TYPE_CHECKING")]
    branches = [b for n in typed for b in n.body]
    return {child for node in [*lazy, *branches] for child in ast.walk(node)}


def upward(module: str, source: str, is_package: bool = False) -> list[str]:
    """The imports of `source` that point up. Only jaxq/__init__ may defer one, as a lazy attribute."""
    tree, own = ast.parse(source), row(module)
    late = deferred(tree) if module == "jaxq" else set()
    found = []
    for name, node in imports(tree, module, is_package):
        if name.split(".")[0] == "jaxq" and node not in late:
            target = row(name)
            target = row("jaxq") if target is None else target  # a public name of the package itself
            if own is not None and target is not None and own < target:
                found.append(f"{module} imports {name}, which sits above it")
    return found


def breaches(file: str, module: str, source: str, is_package: bool = False) -> list[str]:
    """The imports and calls of `source` that a wall forbids to `file`."""
    tree, found = ast.parse(source), []
    for name, node in imports(tree, module, is_package):
        wall = covering(name, list(WALLS))
        if wall and not any(fnmatch.fnmatch(file, allowed) for allowed in WALLS[wall]):
            place = f"in {' and '.join(WALLS[wall])}" if WALLS[wall] else "nowhere"
            found.append(f"{file}:{node.lineno} imports {name}: {wall} belongs {place}")
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in BANNED_CALLS:
            found.append(f"{file}:{node.lineno} calls {node.func.id}")
        if isinstance(node, ast.keyword) and node.arg == "allow_pickle" and ast.unparse(node.value) != "False":
            found.append(f"{file}:{node.lineno} allows pickle")
    return found


def test_every_module_has_a_row():
    homeless = [name for name in sources() if row(name) is None]
    assert not homeless, f"{', '.join(homeless)}: give it a place in LAYERS"


def test_imports_point_one_way():
    found = [m for name, f in sources().items() for m in upward(name, f.read_text(), f.name == "__init__.py")]
    assert not found, "\n".join(found)


def test_walls_hold():
    found = []
    for name, file in sources().items():
        relative = file.relative_to(ROOT / "jaxq").as_posix()
        found += breaches(relative, name, file.read_text(), file.name == "__init__.py")
    assert not found, "\n".join(found)


def test_the_links_are_walked():
    assert {name.split(".")[1] for name in sources() if "." in name} >= {"errors", "export"}


def test_pyright_is_given_the_links():
    """It checks what it is given, and follows no link on its way."""
    given = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pyright"]["include"]
    assert {"jaxq", "jaxq/export", "jaxq/recipes"} <= set(given)


def loaded(*code: str) -> set[str]:
    """The modules that a fresh interpreter holds after some code."""
    words = [sys.executable, "-c", "; ".join([*code, "import sys", "print(*sys.modules)"])]
    return set(subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split())


def test_import_jaxq_and_the_help_of_the_command_load_next_to_nothing():
    found = loaded("import jaxq.cli.app as cli", "[cli.app] and str(cli.COMMANDS)")
    assert not {"jax", "numpy", "flax", "optax", "msgspec", "jaxq.export", "jaxq.graph"}.intersection(found)


def test_training_needs_no_runtime():
    found = loaded("import jaxq", "jaxq.quantize, jaxq.calibrate, jaxq.optim, jaxq.analyze, jaxq.ptq, jaxq.search")
    heavy = {"jaxq.export", "jaxq.recipes", "jaxq.cli", "ai_edge_litert", "tensorflow", "typer", "torch"}
    assert "jaxq.graph.ir" in found and not heavy.intersection(found)


@pytest.mark.parametrize(
    ("module", "source", "seen"),
    [
        ("jaxq.numerics", "import jaxq.export", "jaxq.export"),
        ("jaxq.numerics", "from jaxq import export", "jaxq.export"),
        ("jaxq.numerics", "from .export import write", "jaxq.export.write"),
        ("jaxq.graph.capture", "from ..plan import Plan", "jaxq.plan.Plan"),
        ("jaxq.graph.capture", "from ... import x\nfrom .. import ops", "jaxq.ops"),
        (
            "jaxq.ops.table",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from jaxq.plan import Plan",
            "jaxq.plan.Plan",
        ),
        ("jaxq.plan", "def f():\n    from jaxq import simulate", "jaxq.simulate"),
        ("jaxq.plan", "import importlib\nimportlib.import_module('jaxq.simulate')", "jaxq.simulate"),
        ("jaxq.plan", "import jaxq", "jaxq"),
        ("jaxq.plan", "from jaxq import Recipe", "jaxq.Recipe"),
        ("jaxq.export.write", "from jaxq.cli import main", "jaxq.cli.main"),
        ("jaxq", "from jaxq import export", "jaxq.export"),
        ("jaxq", "try:\n    import jaxq.recipes\nexcept ImportError:\n    pass", "jaxq.recipes"),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str, seen: str):
    assert upward(module, source) == [f"{module} imports {seen}, which sits above it"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("jaxq.plan", "from jaxq import ops\nfrom .errors import PlanError\nimport jax"),
        ("jaxq.export.lower", "import jaxq\nfrom jaxq.graph.ir import Graph\nfrom .program import Program"),
        ("jaxq.cli.main", "def f():\n    import jaxq.recipes, jaxq.export"),
        ("jaxq", "from .quantize import quantize\ndef __getattr__(name):\n    from jaxq import export"),
        ("jaxq", "import typing\nif typing.TYPE_CHECKING:\n    from jaxq import export"),
    ],
)
def test_a_downward_import_is_allowed(module: str, source: str):
    assert upward(module, source, is_package=module == "jaxq") == []


@pytest.mark.parametrize(
    ("file", "source", "seen"),
    [
        (
            "plan.py",
            "from jax.extend import core",
            "plan.py:1 imports jax.extend.core: jax.extend belongs in graph/capture.py",
        ),
        (
            "plan.py",
            "from jax import extend",
            "plan.py:1 imports jax.extend: jax.extend belongs in graph/capture.py",
        ),
        (
            "plan.py",
            "import jax\njax.extend.core",
            "plan.py:2 imports jax.extend: jax.extend belongs in graph/capture.py",
        ),
        (
            "export/runtimes/litert.py",
            "from ai_edge_litert import schema_py_generated",
            "export/runtimes/litert.py:1 imports ai_edge_litert.schema_py_generated: "
            "ai_edge_litert.schema_py_generated belongs in export/flatbuffer/*",
        ),
        (
            "export/flatbuffer/read.py",
            "import ai_edge_litert.interpreter",
            "export/flatbuffer/read.py:1 imports ai_edge_litert.interpreter: "
            "ai_edge_litert belongs in export/runtimes/worker.py",
        ),
        (
            "export/x.py",
            "def f():\n    import tensorflow as tf",
            "export/x.py:2 imports tensorflow: "
            "tensorflow belongs in export/runtimes/worker.py and export/saved_model.py and export/tflite_converter.py",
        ),
        ("x.py", "eval('1')", "x.py:1 calls eval"),
        ("x.py", "np.load(f, allow_pickle=True)", "x.py:1 allows pickle"),
    ],
)
def test_a_breach_is_seen(file: str, source: str, seen: str):
    assert breaches(file, "jaxq.x", source) == [seen]


@pytest.mark.parametrize(
    ("file", "source"),
    [
        ("graph/capture.py", "from jax.extend import core"),
        ("recipes/mnist/train.py", "from flax import nnx"),
        ("export/flatbuffer/read.py", "from ai_edge_litert import schema_py_generated"),
        ("x.py", "model.eval()\nfrom jaxq.export import flatbuffer, runtime\nimport httpx_like"),
    ],
)
def test_a_wall_has_its_gate(file: str, source: str):
    assert breaches(file, "jaxq.x", source) == []
