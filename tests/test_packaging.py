"""What a user installs: sdist and wheel hold the linked packages as real files, and their types are seen."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
STEM = f"{PROJECT['name']}-{PROJECT['version']}"

# Each line that assigns must be a type error. A checker that finds no types sees Any, and reports none.
CONSUMER = """\
import jaxq.errors
import jaxq.export.program
import jaxq.recipes
wrong1: int = jaxq.errors.JaxqError("")
wrong2: int = jaxq.export.program.Quantization.of(1.0)
wrong3: int = jaxq.recipes
"""


def run(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(c) for c in command], cwd=cwd, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, f"{' '.join(map(str, command))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def package_files() -> dict[str, bytes]:
    """Every file of the package by its name in an archive, read through the links."""
    found = {}
    for folder, _, names in os.walk(ROOT / "jaxq", followlinks=True):
        for file in (Path(folder, n) for n in names if "__pycache__" not in folder and not n.startswith(".")):
            found[file.relative_to(ROOT).as_posix()] = file.read_bytes()
    return found


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    out = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT, cwd=out)
    return out / f"{STEM}.tar.gz", out / f"{STEM}-py3-none-any.whl"


def test_sdist_and_wheel_hold_every_module(archives: tuple[Path, Path]):
    sdist, wheel = archives
    files = package_files()
    assert "jaxq/py.typed" in files
    assert any(f.startswith("jaxq/export/") for f in files) and any(f.startswith("jaxq/recipes/") for f in files)
    with tarfile.open(sdist) as tar:
        assert not [m.name for m in tar if m.issym() or m.islnk()]
        members = {m.name.removeprefix(f"{STEM}/"): m for m in tar if m.isfile()}
        shipped = {n: tar.extractfile(m).read() for n, m in members.items()}  # pyright: ignore[reportOptionalMemberAccess]
    assert {n: b for n, b in shipped.items() if n.startswith("jaxq/")} == files
    assert shipped.keys() >= {"LICENSE", "README.md", "pyproject.toml", "tests/test_packaging.py"}
    with zipfile.ZipFile(wheel) as archive:
        shipped = {n: archive.read(n) for n in archive.namelist()}
    info = f"{STEM}.dist-info"
    assert {n: b for n, b in shipped.items() if not n.startswith(f"{info}/")} == files
    assert f"\nVersion: {PROJECT['version']}\n" in shipped[f"{info}/METADATA"].decode()
    assert b"jaxq = jaxq.cli:main" in shipped[f"{info}/entry_points.txt"]
    assert f"{info}/licenses/LICENSE" in shipped


@pytest.mark.slow
@pytest.mark.parametrize("form", ["wheel", "editable"])
def test_an_installed_jaxq_imports_and_is_typed(form: str, archives: tuple[Path, Path], tmp_path: Path):
    python = tmp_path / "venv" / "bin" / "python"
    run(sys.executable, "-m", "venv", tmp_path / "venv", cwd=tmp_path)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", cwd=tmp_path).strip())
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib"))  # this interpreter's packages, after its own
    what = [archives[1]] if form == "wheel" else ["--no-build-isolation", "-e", ROOT]
    run(python, "-m", "pip", "install", "--no-deps", "--no-index", "--force-reinstall", *what, cwd=tmp_path)

    code = "import jaxq, jaxq.export, jaxq.recipes as r; print(jaxq.export.__file__); print(r.__file__)"
    home = (site if form == "wheel" else ROOT) / "jaxq"
    assert run(python, "-c", code, cwd=tmp_path).split() == [
        str(home / "export" / "__init__.py"),
        str(home / "recipes" / "__init__.py"),
    ]
    code = "import importlib.metadata as m; print(m.version('jaxq'))"
    assert run(python, "-c", code, cwd=tmp_path).strip() == PROJECT["version"]

    (tmp_path / "consumer.py").write_text(CONSUMER)
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", python, "consumer.py"]
    done = subprocess.run([str(c) for c in command], cwd=tmp_path, capture_output=True, text=True)
    seen = [(d["range"]["start"]["line"] + 1, d.get("rule")) for d in json.loads(done.stdout)["generalDiagnostics"]]
    assert sorted(seen) == [(line, "reportAssignmentType") for line in (4, 5, 6)], done.stdout
