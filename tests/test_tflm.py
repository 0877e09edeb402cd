"""The `tflm` family: every integer equals TFLite Micro's. conftest.py leaves it out where tflite-micro has no wheel."""

from __future__ import annotations

import dataclasses
import functools
import json
import pathlib

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

import jaxq
import jaxq.export
from jaxq.cli.app import app
from jaxq.errors import ExportError, InputError
from jaxq.export.evaluate.program import FAMILIES, evaluate
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Program, Quantization
from jaxq.export.runtimes import litert, tflm
from tests.target_cases import ONE_OPERATOR
from tests.test_exact import exported
from tests.test_kernels import (
    CASES,
    Grid,
    X,
    a_million,
    binary,
    chain,
    differing,
    examples,
    int32s,
    program,
    reduce,
    rows_with_every_sum,
    unary,
    value,
)
from tests.test_tour import artifact, digits
from tests.zoo import ZOO

INT4_DENSE = ("", ", odd number of inputs", ", one row, odd", ", kept dimensions, relu6", ", no bias, relu")
# Cases that TFLite Micro does not run, and what it says.
LACKS = {
    "unary: relu_n1_to_1": "Didn't find op for builtin opcode 'RELU_N1_TO_1'",
    "unary: gelu": "Didn't find op for builtin opcode 'GELU'",
    "unary: gelu by tanh": "Didn't find op for builtin opcode 'GELU'",
    "unary: exp": "input->type != kTfLiteFloat32 (INT8 != FLOAT32); Node EXP (number 0) failed to prepare",
    "unary: log": "input->type != expected_type (INT8 != FLOAT32); Node LOG (number 0) failed to invoke",
    "unary: sqrt": "input->type != expected_type (INT8 != FLOAT32); Node SQRT (number 0) failed to invoke",
    "converted: float to uint8": "Input FLOAT32, output UINT8 not supported.; Node QUANTIZE",
    "converted: uint8 to uint8": "Input UINT8, output UINT8 not supported.; Node QUANTIZE",
    "moved: cumsum": "Node CUMSUM (number 0) failed to prepare",
    "moved: cumsum, exclusive, reverse": "CUMSUM (number 0) failed to prepare",
    "moved: floor div": "Type 'INT32' is not supported by FLOOR_DIV.",
    "moved: floor mod": "Type 'INT32' is not supported by FLOOR_MOD.",
    "moved: reduce_max of int32": "Only float32 and int8 types are supported.",
    "moved: reduce_min of int32": "Only float32 and int8 types are supported.",
    "moved: sum of int32": "Only float32, int8, and int16 types are supported.",
    "moved: top k": "Didn't find op for builtin opcode 'TOPK_V2'",
    "moved: tile": "Didn't find op for builtin opcode 'TILE'",
    "moved: look-up of booleans": "Type 'BOOL' is not supported by gather.; Node GATHER",
    "moved: cast": "Input type UINT8 (3) not supported.; Node CAST",
    **{f"packed: dense{form}": "filter->type != kTfLiteInt4" for form in INT4_DENSE},
}

# Scales whose multipliers, or results, stand next to a tie: float64 against float32, fixed point against a table.
CODES = np.arange(-128, 128, dtype=np.int8)[None]
PAIRS = [grid[None] for grid in np.meshgrid(CODES[0], CODES[0])]
SQUARE = ((1, 256, 256), (1, 256, 256))
A, B, C = (0.08119126409292221, -45), (0.0010074834572151303, -53), (0.00012174713629065081, 78)
P, Q, R = (0.002850370481610298, 46), (0.0764826089143753, -100), (0.00010259001282975078, -110)
OUTER = program(
    "BATCH_MATMUL",
    [value("a", (1, 256, 1), (0.16579151153564453, 100)), value("b", (1, 1, 256), (0.01974572241306305, 77))],
    [value("y", (1, 256, 256), (0.009976908564567566, 0))],
    {"adj_x": False, "adj_y": False},
)


def table(kind: str, x: Grid, y: Grid, version: int = 2, **options: float) -> Program:
    return unary(kind, x, y, version, (1, 256), **options)


TIES: dict[str, tuple[Program, list[np.ndarray]]] = {
    "mul": (binary("MUL", A, B, C, shapes=SQUARE), PAIRS),
    "matmul": (OUTER, [CODES.reshape(1, 256, 1), CODES.reshape(1, 1, 256)]),
    "prelu": (binary("PRELU", P, Q, R, shapes=SQUARE), PAIRS),
    "relu": (table("RELU", (0.04617226868867874, -52), (0.012628313153982162, 39)), [CODES]),
    "leaky relu": (
        table("LEAKY_RELU", (0.28696250915527344, 11), (0.24325299263000488, -115), alpha=0.8732831478118896),
        [CODES],
    ),
    "abs": (table("ABS", (0.12844567000865936, -35), (0.17774103581905365, -13)), [CODES]),
    "hard swish": (table("HARD_SWISH", (0.000616762728895992, 112), (3.810002453974448e-05, -11)), [CODES]),
    "logistic": (table("LOGISTIC", (0.24304138123989105, 93), (1 / 256, -128)), [CODES]),
    "logistic, fine": (table("LOGISTIC", (0.002929803216829896, -59), (1 / 256, -128)), [CODES]),
    "tanh": (table("TANH", (0.007357441820204258, 97), (1 / 128, 0)), [CODES]),
}

# What only TFLite Micro does with a file.
ALONE: dict[str, tuple[Program, list[np.ndarray]]] = {
    **{
        f"cumsum of int8, zero point {zero}, {options}": (
            program(
                "CUMSUM",
                [value("x", (1, 64, 4), (0.02, zero)), int32s("a", 1)],
                [value("y", (1, 64, 4), (0.31, 3))],
                dict(options),
                1,
            ),
            [np.resize(CODES, (1, 64, 4))],
        )
        for zero in (0, -3)
        for options in ((("exclusive", False), ("reverse", False)), (("exclusive", True), ("reverse", True)))
    },
    "relu6 copies": (table("RELU6", (0.0473, 7), (0.0301, -100)), [CODES]),
    "logistic to its own grid": (table("LOGISTIC", (0.11, 5), (1 / 128, -128)), [CODES]),
    "tanh to its own grid": (table("TANH", (0.11, 5), (1 / 64, 3)), [CODES]),
    "elu": (table("ELU", (0.0473, 7), (0.0301, -90)), [CODES]),
    "sum": (reduce("SUM", (1, 2551, 10), (2,), (0.125, 99), (0.85, -3)), [rows_with_every_sum(10)[None]]),
    "mean": (reduce("MEAN", (1, 9691, 38), (2,), (0.0915, -50), (0.0154, -68)), [rows_with_every_sum(38)[None]]),
}

NETWORKS = ("grouped", "heads", "max_pools", "means", "parts", "placed", "separable", "series", "squeeze_excite")


def micro(built: Program, inputs: list[np.ndarray]) -> np.ndarray:
    """The first output, as TFLite Micro computes it."""
    outputs = litert.run(write(built), inputs, "tflm")
    assert isinstance(outputs, tuple)
    return outputs[0]


def ours(built: Program, inputs: list[np.ndarray], family: str = "tflm") -> np.ndarray:
    """The first output, as we do."""
    found = jax.jit(evaluate(built, family))(*inputs)
    assert isinstance(found, tuple)
    return np.asarray(found[0])


# --- one operator -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in CASES if name not in LACKS])
def test_every_integer_equals_tflite_micro(name: str) -> None:
    built, count = CASES[name]
    different, total = differing(built, "tflm", count)
    assert (different, total) == (0, total)
    assert total >= (10**6 if name.startswith("large") else 1)


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in CASES if name not in LACKS and not name.startswith("large")])
def test_a_million_integers_equal_tflite_micro(name: str) -> None:
    different, total = a_million(CASES[name][0], "tflm")
    assert different == 0
    assert total >= 10**6


@pytest.mark.parametrize("name", LACKS)
def test_what_tflite_micro_lacks_is_refused_by_name(name: str) -> None:
    built, _ = CASES[name]
    inputs = examples(built, 1)
    with pytest.raises(ExportError) as refused:
        micro(built, inputs)
    assert LACKS[name] in str(refused.value)
    with pytest.raises(
        ExportError, match=f"(tflm family has no exact kernel for|Micro has no) {built.operators[0].kind}"
    ):
        evaluate(built, "tflm")(*inputs)


@pytest.mark.parametrize("name", TIES)
def test_next_to_a_tie_the_family_is_not_the_reference(name: str) -> None:
    built, inputs = TIES[name]
    found = ours(built, inputs)
    assert int((found != micro(built, inputs)).sum()) == 0
    assert int((found != ours(built, inputs, "reference")).sum()) > 0


@pytest.mark.parametrize("name", ALONE)
def test_what_tflite_micro_does_alone(name: str) -> None:
    built, inputs = ALONE[name]
    assert int((ours(built, inputs) != micro(built, inputs)).sum()) == 0


def test_one_weight_scale_is_used_in_float64_as_well() -> None:
    built, count = CASES["contraction: dense, one row"]
    one = Quantization.of(0.0016571733867749572, 0)
    bias = Quantization.of(np.float32(X[0]) * one.scale[0], 0)
    tensors = list(built.tensors)
    tensors[1:3] = (dataclasses.replace(t, quantization=q) for t, q in zip(tensors[1:3], (one, bias), strict=True))
    assert differing(dataclasses.replace(built, tensors=tuple(tensors)), "tflm", count)[0] == 0


@pytest.mark.parametrize("kind", ["ADD", "SUB"])
def test_sums_that_would_end_the_process_are_refused(kind: str) -> None:
    built = binary(kind, (0.9, 0), (0.9, 0), (1e-6, 0))
    with pytest.raises(ExportError, match=f"{kind}: .* = 1.72 >= 1 aborts TFLite"):
        evaluate(built, "tflm")(*examples(built, 1))


# --- the runtime --------------------------------------------------------------------------------------------


def test_every_tensor_of_a_chain() -> None:
    built = chain()
    inputs = examples(built, 9)
    found = jax.jit(evaluate(built, "tflm", every_tensor=True))(*inputs)
    theirs = litert.run(write(built), inputs, "tflm", every_tensor=True)
    assert isinstance(found, dict) and isinstance(theirs, dict)
    assert sorted(found) == sorted(theirs) == [0, 3, 5, 8, 9]
    assert {i: int((np.asarray(found[i]) != theirs[i]).sum()) for i in found} == dict.fromkeys(found, 0)


def test_wrong_inputs_are_named() -> None:
    data = write(chain())
    with pytest.raises(InputError, match="TFLite Micro refuses the input 'x': .*FLOAT32 but expected type INT8"):
        litert.run(data, [np.zeros((1, 12, 12, 3), np.float32)], "tflm")
    with pytest.raises(InputError, match="TFLite Micro refuses the input 'x': .*Got 4 but expected 3"):
        litert.run(data, [np.zeros((1, 12, 12, 4), np.int8)], "tflm")


def test_a_kernel_that_aborts_is_an_error_that_names_the_operator() -> None:
    """TFLite Micro's SOFTMAX has no room for a sum of 512 exponentials or more."""
    program = ONE_OPERATOR["status: softmax, 16,001 classes"]
    inputs = [np.zeros(program.tensors[i].shape, np.int8) for i in program.inputs]
    with pytest.raises(ExportError, match=r"TFLite Micro ended its process \(SIG[A-Z]+\) in SOFTMAX, which makes"):
        litert.run(write(program), inputs, "tflm")
    assert tflm.arena_bytes(write(chain()), chain()) > 0  # served again


def test_standard_error_is_given_back(capfd: pytest.CaptureFixture[str]) -> None:
    built, _ = CASES["unary: gelu"]
    with pytest.raises(ExportError, match="GELU"):
        micro(built, examples(built, 1))
    tflm.arena_bytes(write(chain()), chain())
    assert capfd.readouterr().err == ""


def test_the_arena_holds_the_largest_pair_of_tensors() -> None:
    x, y = 1 * 12 * 12 * 3, 1 * 12 * 12 * 8  # bytes of the convolution's ends, both alive while it runs
    arena = tflm.arena_bytes(write(chain()), chain())
    assert x + y <= arena <= x + y + 4096


def test_the_version_names_every_package() -> None:
    version = litert.runtime_version(FAMILIES)
    assert version.startswith("ai-edge-litert ") and ", tflite-micro " in version
    assert litert.runtime_version(["tflm"]).startswith("tflite-micro ")


# --- networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "recipe"),
    [
        *((name, "int8") for name in NETWORKS),
        *(pytest.param(name, "int16x8", marks=[pytest.mark.slow][: name != "separable"]) for name in NETWORKS),
    ],
)
def test_every_tensor_of_a_network_is_equal(name: str, recipe: str) -> None:
    found = exported(name, recipe)
    certificate = found.artifact.verify(found.case.arrays, families=("tflm",), progress=False)
    assert certificate.differing_integers == {"tflm": 0}, str(certificate)
    assert certificate.ok and certificate.runtime.startswith("tflite-micro ")
    program = found.artifact.program
    written = {program.tensors[i].name for op in program.operators for i in op.outputs}
    assert written <= set(certificate.families["tflm"].differing)


def test_the_target_takes_16_bits() -> None:
    case = ZOO["separable"]()
    qmodel = jaxq.quantize(case.model, {"activations": {"bits": 16}, "target": "tflm"}, *case.first(1)[0])
    assert "TensorFlow Lite for Microcontrollers takes every op" in str(qmodel.plan) and ": int16, " in str(qmodel.plan)


@pytest.mark.slow
def test_the_digits_of_the_tour_are_equal_in_all_three_families() -> None:
    certificate = artifact().verify(digits().test_images[:64], families=tuple(FAMILIES), progress=False)
    assert certificate.differing_integers == {"xnnpack": 0, "reference": 0, "tflm": 0}
    assert certificate.ok


def test_the_command_verifies_by_tflite_micro(tmp_path: pathlib.Path) -> None:
    file = tmp_path / "chain.tflite"
    file.write_bytes(write(chain()))
    found = CliRunner().invoke(app, ["verify", str(file), "--random", "3", "--family", "tflm", "--json"])
    assert found.exit_code == 0 and json.loads(found.stdout)["differing_integers"] == {"tflm": 0}


@functools.cache
def with_gelu() -> jaxq.export.Artifact:
    """A network with an operator that TFLite Micro lacks."""
    x = np.linspace(-3, 3, 12, dtype=np.float32).reshape(3, 4)
    q = jaxq.quantize(lambda params, x: jax.nn.gelu(x @ params), "int8", np.eye(4, dtype=np.float32), x[:1])
    params = np.eye(4, dtype=np.float32)
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x[:1]), progress=False)
    return jaxq.export.to_tflite(q, params, ranges, progress=False)


def test_an_artifact_that_tflite_micro_cannot_run_is_refused() -> None:
    x = np.zeros((2, 4), np.float32)
    assert with_gelu().verify(x, progress=False).ok
    with pytest.raises(ExportError, match="The tflm family has no exact kernel for GELU"):
        with_gelu().verify(x, families=("tflm",), progress=False)
