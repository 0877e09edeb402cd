"""The names of the runtimes, and what is said where one is missing. No package of TensorFlow is needed."""

from __future__ import annotations

import importlib.metadata
import pathlib
import sys

import pytest
from typer.testing import CliRunner

import jaxq.export
from jaxq.cli.app import app
from jaxq.errors import ExportError
from jaxq.export.flatbuffer.write import write
from jaxq.export.runtimes import litert
from tests.test_kernels import chain, examples

INSTALL = r"The package tensorflow is not installed. Run: pip install 'jaxq\[tensorflow\]'"


def absent(name: str) -> str:
    raise importlib.metadata.PackageNotFoundError(name)


def test_a_runtime_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ExportError, match="There is no runtime 'tensorrt'. Runtimes: litert, tf.lite."):
        litert.run(write(chain()), examples(chain(), 1), "xnnpack", runtime="tensorrt")


def test_tf_lite_has_no_kernels_of_tflite_micro() -> None:
    with pytest.raises(ExportError, match="tf.lite has no kernel family 'tflm', .* xnnpack, reference"):
        litert.run(write(chain()), examples(chain(), 1), "tflm", runtime="tf.lite")


def test_without_tensorflow_the_referee_names_the_line_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", absent)
    with pytest.raises(ExportError, match=INSTALL):
        litert.run(write(chain()), examples(chain(), 1), "xnnpack", runtime="tf.lite")
    with pytest.raises(ExportError, match=INSTALL):
        litert.runtime_version(runtime="tf.lite")


def test_without_tensorflow_a_saved_model_names_the_line(
    monkeypatch: pytest.MonkeyPatch, tmp_path: pathlib.Path
) -> None:
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(ExportError, match=INSTALL):
        jaxq.export.to_saved_model(None, tmp_path / "net")
    assert list(tmp_path.iterdir()) == []


def test_the_command_names_the_runtimes(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "chain.tflite"
    file.write_bytes(write(chain()))
    found = CliRunner().invoke(app, ["verify", str(file), "--random", "1", "--runtime", "onnx"])
    assert found.exit_code == 2
    assert "There is no runtime 'onnx'. Runtimes: litert, tf.lite." in " ".join(found.output.split())
