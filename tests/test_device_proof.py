"""The folder that proves a file on a device: by Python without jaxq, in C, and in a browser (slow: needs Chromium)."""

from __future__ import annotations

import functools
import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

from jaxq.errors import ExportError, InputError
from jaxq.export.device_proof import save_proof
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.runtimes import litert
from tests import test_kernels as kernels

FLOATS = pathlib.Path(__file__).parent / "golden" / "small_float.tflite"


@functools.cache
def small() -> tuple[bytes, tuple[np.ndarray, ...]]:
    """conv, mean, dense, softmax; TFLite Micro has them all."""
    built = kernels.chain()
    return write(built), tuple(kernels.examples(built, 4))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    data, inputs = small()
    return save_proof(data, inputs, tmp_path_factory.mktemp("proofs") / "proof")


def without_jaxq(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd="/")


def test_the_folder_holds_three_ways(folder: pathlib.Path) -> None:
    names = {path.name for path in folder.iterdir()}
    assert names == {"model.tflite", "browser.tflite", "proof.json", "proof.c", "index.html", "check.py", "README.md"}
    assert (folder / "model.tflite").read_bytes() == small()[0]
    proof = json.loads((folder / "proof.json").read_text())
    assert sorted(proof["expected"]) == ["aarch64", "wasm32", "x86_64"]


def test_check_counts_no_differing_integer(folder: pathlib.Path) -> None:
    done = without_jaxq(sys.executable, "-W", "ignore", str(folder / "check.py"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("0 of ") and " integers differ on this device (" in done.stdout
    assert "jaxq" not in (folder / "check.py").read_text()


def test_check_counts_a_changed_integer_and_refuses_a_changed_file(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    proof = json.loads((copy / "proof.json").read_text())
    for texts in proof["expected"].values():
        texts[0] = ("B" if texts[0][0] == "A" else "A") + texts[0][1:]
    (copy / "proof.json").write_text(json.dumps(proof))
    done = without_jaxq(sys.executable, "-W", "ignore", str(copy / "check.py"))
    assert done.returncode == 1 and done.stdout.startswith("1 of ")
    (copy / "model.tflite").write_bytes(small()[0] + b"\0")
    done = without_jaxq(sys.executable, "-W", "ignore", str(copy / "check.py"))
    assert done.returncode == 1 and "is not the file that was proven" in done.stderr


def test_the_browser_s_file_has_uint8_ends(folder: pathlib.Path) -> None:
    """The same integers, 128 greater."""
    program = read((folder / "browser.tflite").read_bytes())
    assert {program.tensors[i].dtype for i in (*program.inputs, *program.outputs)} == {"uint8"}
    data, (x,) = small()
    ours = litert.run(
        (folder / "browser.tflite").read_bytes(), [(x.astype(np.int16) + 128).astype(np.uint8)], "xnnpack"
    )
    theirs = litert.run(data, [x], "xnnpack")
    assert isinstance(ours, tuple) and isinstance(theirs, tuple)
    assert all((a.astype(int) - 128 == b).all() for a, b in zip(ours, theirs, strict=True))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")
def test_the_c_file_compiles_and_counts(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    program = tmp_path / "proof"
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-DJAXQ_MAIN"]
    subprocess.run(["gcc", *flags, str(folder / "proof.c"), "-o", str(program)], check=True)
    done = subprocess.run([str(program)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.split(",")[0]) == (0, f"{len(small()[0])} bytes"), done.stdout
    text = (folder / "proof.c").read_text()
    broken = tmp_path / "broken.c"
    broken.write_text(text.replace("found[i] != jaxq_expected_0[i]", "found[i] != jaxq_expected_0[i] + 1"))
    subprocess.run(["gcc", *flags, str(broken), "-o", str(program)], check=True)
    assert subprocess.run([str(program)], capture_output=True).returncode == 1


def test_what_is_refused(folder: pathlib.Path, tmp_path: pathlib.Path) -> None:
    data, (x,) = small()
    with pytest.raises(ExportError, match="exists. Give another path, or force=True"):
        save_proof(data, (x,), folder)
    with pytest.raises(InputError, match="1 to 64 examples of a file of batch 1; here are 65"):
        save_proof(data, (np.repeat(x, 17, 0)[:65],), tmp_path / "many")
    with pytest.raises(ExportError, match="npm install @litertjs/core"):
        save_proof(data, (x,), tmp_path / "packed", runtime=tmp_path)
    assert not (tmp_path / "packed").exists() and not (tmp_path / "many").exists()
    floats = FLOATS.read_bytes()
    shape = read(floats).tensors[read(floats).inputs[0]].shape
    with pytest.raises(ExportError, match="a proof folder is of integers alone"):
        save_proof(floats, (np.zeros((1, *shape[1:]), np.float32),), tmp_path / "floats")


def test_a_file_that_differs_by_machine_has_each_machine_s_integers(tmp_path: pathlib.Path) -> None:
    built = kernels.binary("MUL", (0.5, 3), (0.25, -2), (0.25, 1), shapes=((1, 4, 40), (1, 4, 40)))
    inputs = kernels.examples(built, 4)
    expected = json.loads((save_proof(write(built), inputs, tmp_path / "mul") / "proof.json").read_text())["expected"]
    assert expected["x86_64"] == expected["wasm32"] != expected["aarch64"]
