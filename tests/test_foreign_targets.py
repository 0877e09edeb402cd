"""Files of other writers on targets: recurrent operators, float16 constants, files that are compiled already."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

from jaxq.cli.app import app
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.targets import check, device_named
from tests.test_recurrent import lstm


def halves() -> Program:
    """A float32 CONV_2D and FULLY_CONNECTED, their weights and biases kept in float16."""
    rng = np.random.default_rng(0)
    shapes = {"w": (4, 3, 3, 3), "b": (4,), "v": (5, 144), "c": (5,)}
    kept = [Tensor(f"{n}16", s, "float16", None, rng.normal(size=s).astype(np.float16)) for n, s in shapes.items()]
    wide = [Tensor(n, s, "float32") for n, s in shapes.items()]
    data = [Tensor("x", (1, 6, 6, 3), "float32"), Tensor("y", (1, 6, 6, 4), "float32"), Tensor("z", (1, 5), "float32")]
    options = {"padding": "SAME", "stride_h": 1, "stride_w": 1}
    operators = (
        *(Operator("DEQUANTIZE", (i,), (4 + i,), {}, 2) for i in range(4)),
        Operator("CONV_2D", (8, 4, 5), (9,), options, 1),
        Operator("FULLY_CONNECTED", (9, 6, 7), (10,), {}, 1),
    )
    return Program((*kept, *wide, *data), operators, (8,), (10,), ("x",), ("z",))


def compiled() -> Program:
    tensors = (Tensor("x", (1, 4), "int8"), Tensor("scratch", (64,), "uint8"), Tensor("y", (1, 4), "int8"))
    return Program(tensors, (Operator("CUSTOM:ethos-u", (0, 1), (2,)),), (0,), (2,), ("x",), ("y",))


def test_constants_of_float16_are_constants_to_litert():
    report = check(halves(), device_named("litert"))
    assert report.mapped == len(report.placements) and report.mapped_macs == report.macs > 0
    interpreter = Interpreter(model_content=write(halves()))
    interpreter.allocate_tensors()
    assert [op["op_name"] for op in interpreter._get_ops_details()].count("DELEGATE") == 1


def test_the_biases_and_states_of_an_lstm_are_no_data():
    for name in ("edgetpu", "ethos-u55"):
        assert [p.reason for p in check(lstm(), device_named(name)).placements] == [""]


def test_a_file_that_vela_compiled_is_known(tmp_path: Path):
    for name, mapped in (("ethos-u55", True), ("ethos-u85", True), ("edgetpu", False), ("litert", False)):
        (placement,) = check(compiled(), device_named(name)).placements
        assert (placement.mapped, placement.reason) == (mapped, "the file is already compiled by Vela")
    file = tmp_path / "compiled.tflite"
    file.write_bytes(write(compiled()))
    answer = CliRunner().invoke(app, ["check", str(file), "--target", "edgetpu"])
    assert "the file is already compiled by Vela" in answer.stdout
    assert "Check the file that went into the compiler." in answer.stdout
