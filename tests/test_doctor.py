"""`jaxq doctor` and `jaxq explain`: their tables against pyproject.toml and the library, their texts, their codes."""

from __future__ import annotations

import importlib.metadata
import json
import pathlib
import re
import tomllib
from typing import Any

import pytest
from typer.testing import CliRunner

import jaxq
from jaxq import errors
from jaxq.cli import doctor, explain
from jaxq.cli.app import app
from jaxq.export.lint import RULES
from jaxq.ops import OPS
from jaxq.plan.recipe import SHIPPED
from jaxq.plan.target import TARGETS

PROJECT = tomllib.loads((pathlib.Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
MODEL = """
import jax, numpy as np
def net():
    params = {"w": np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3)}
    return lambda p, x: jax.nn.relu(x @ p["w"]).reshape(-1, 3, 1), np.zeros((1, 4), np.float32), params
"""


def run(*arguments: Any) -> Any:
    return CliRunner().invoke(app, list(map(str, arguments)))


def names(requirements: list[str]) -> set[str]:
    return {re.split(r"[\[><=; ]", r)[0] for r in requirements} - {"jaxq"}


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_the_tables_are_those_of_the_project() -> None:
    extras = PROJECT["optional-dependencies"]
    assert set(doctor.REQUIRED) == names(PROJECT["dependencies"])
    assert doctor.EXTRAS.keys() == extras.keys() - {"docs", "test"}  # of those who work on jaxq
    assert {e: set(packages) for e, (_, packages) in doctor.EXTRAS.items()} == {
        e: names(r) for e, r in extras.items() if e in doctor.EXTRAS
    }


def test_the_doctor_tells_what_there_is() -> None:
    done = run("doctor", "--json")
    found = json.loads(done.stdout)
    assert done.exit_code == 0 and found["litert"] == "runs" and found["jaxq"] == jaxq.__version__
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert any(device.startswith("cpu:0") for device in found["devices"])


def test_what_is_missing_comes_with_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version
    monkeypatch.setattr(
        doctor, "version", lambda name: None if name in ("ethos-u-vela", "tflite-micro") else real(name)
    )
    done = run("doctor")
    assert done.exit_code == 0
    assert "  pip install 'jaxq[vela]'  # jaxq check --compile for Ethos-U" in done.stdout
    assert "tflite-micro: the kernel family tflm as a referee" in done.stdout
    assert "pip install 'jaxq[report]'" not in done.stdout


def test_a_required_package_or_a_runtime_that_fails_is_code_1(monkeypatch: pytest.MonkeyPatch) -> None:
    real = doctor.version
    with monkeypatch.context() as patched:
        patched.setattr(doctor, "version", lambda name: None if name == "optax" else real(name))
        assert run("doctor").exit_code == 1
    monkeypatch.setattr(doctor, "litert_runs", lambda: "fails: no such library")
    done = run("doctor")
    assert done.exit_code == 1 and "LiteRT: fails: no such library" in done.stdout


def test_a_gpu_that_jax_does_not_use_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = {"others": {}, "programs": {}, "devices": ["cpu:0 cpu"]}
    monkeypatch.setattr(doctor.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert list(doctor._others(found)) == [f"  {doctor.JAX_ON_A_GPU}"]
    assert list(doctor._others({**found, "devices": ["cuda:0 NVIDIA H100"]})) == []


def test_tensorflow_by_its_other_name_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(name: str) -> str:
        if name == "tensorflow-cpu":
            return "2.21.0"
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", known)
    assert doctor.version("tensorflow") == "2.21.0" and doctor.version("h5py") is None


# --- explain ----------------------------------------------------------------------------------------------------------


def test_everything_that_is_printed_can_be_explained() -> None:
    known = {name for words in explain.READERS.values() for name in words()}
    classes = {v.__name__ for v in vars(errors).values() if isinstance(v, type) and issubclass(v, errors.JaxqError)}
    assert known == {r.id for r in RULES} | (classes - {"JaxqError"}) | OPS.keys() | TARGETS.keys() | SHIPPED.keys() | {
        "FLOAT",
        "channels",
        "members",
    }


def test_a_word_of_each_kind() -> None:
    rule = RULES[0]
    assert run("explain", rule.id).stdout.splitlines()[2] == f"fix: {rule.fix}"
    assert "what to do: Call jaxq.calibrate" in run("explain", "RangeError").stdout
    relu = run("explain", "SOFTMAX").stdout
    assert "prescribed by TFLite: (0.00390625, -128)" in relu and "a table: training may differ by one step" in relu
    assert "Coral Edge TPU" in run("explain", "edgetpu").stdout
    assert 'ranges = "ema"' in run("explain", "int8-ema").stdout
    assert run("explain", "softmax").stdout == relu  # as it is written, or not
    assert "keep too few steps" in run("explain", "channels").stdout


def test_the_targets_that_lack_an_op_are_named() -> None:
    lacking = run("explain", "HARD_SWISH").stdout.splitlines()[-1]
    assert "edgetpu" in lacking and "litert" not in lacking


def test_a_site_of_a_model(tmp_path: pathlib.Path) -> None:
    (tmp_path / "net.py").write_text(MODEL)
    model = f"{tmp_path / 'net.py'}:net"
    text = run("explain", "w:out", "--model", model).stdout
    assert "made by FULLY_CONNECTED" in text and "net.py:5" in text and "weights: int8, per channel" in text
    assert "shares its scale with: reshape" in text and "read by: reshape" in text
    wrong = run("explain", "v:out", "--model", model)
    assert wrong.exit_code == 2 and "Did you mean 'w:out'" in wrong.stderr


def test_an_unknown_word_names_the_nearest() -> None:
    done = run("explain", "RangeErorr")
    assert done.exit_code == 2 and "Did you mean 'RangeError'" in done.stderr and "needs --model TARGET" in done.stderr
