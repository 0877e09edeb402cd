"""What targets take: a table of one-operator programs with the status of each, and the tables against real runtimes."""

from __future__ import annotations

import dataclasses
import json
import pathlib
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from typer.testing import CliRunner

import jaxq
import jaxq.export
from jaxq.cli.app import app
from jaxq.errors import ExportError, RecipeError
from jaxq.export.flatbuffer.schema import OPERATORS
from jaxq.export.flatbuffer.write import write
from jaxq.export.lower import RULES
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.targets import TARGETS, check, device_named, edgetpu, macs, memory, vela
from jaxq.export.targets.device import INFERRED, MEASURED, VENDOR
from jaxq.export.targets.memory import lives, planned
from jaxq.recipes import mnist
from jaxq.target import TARGETS as PLANNED
from tests.test_exact import FEW, exported
from tests.test_kernels import (
    CASES,
    MASK,
    SLICE_MASKS,
    X,
    Y,
    Z,
    binary,
    chain,
    conv,
    convert,
    dense,
    depthwise,
    int32s,
    matmul,
    moved,
    pool,
    program,
    reduce,
    several,
    transpose_conv,
    unary,
    value,
)
from tests.zoo import ZOO

ROOT = pathlib.Path(__file__).resolve().parent.parent
ETHOS = ("ethos-u55", "ethos-u65", "ethos-u85")
TPU, NO, UNSPECIFIED = edgetpu.MAPPED, edgetpu.NOT_SUPPORTED, edgetpu.UNSPECIFIED
NPU, CPU, XNN, KERNEL = "NPU", "CPU", "XNNPACK", "kernel"


def retyped(built: Program, dtype: str, *indices: int) -> Program:
    """The program with some tensors of another type."""
    tensors = list(built.tensors)
    for i in indices:
        tensors[i] = dataclasses.replace(tensors[i], dtype=dtype)
    return dataclasses.replace(built, tensors=tuple(tensors))


def versioned(built: Program, version: int) -> Program:
    return dataclasses.replace(built, operators=(dataclasses.replace(built.operators[0], version=version),))


def computed(built: Program, index: int) -> Program:
    """The program with a constant made an input."""
    tensors = list(built.tensors)
    tensors[index] = dataclasses.replace(tensors[index], data=None)
    return dataclasses.replace(built, tensors=tuple(tensors), inputs=(*built.inputs, index))


def pad(*pads: tuple[int, int]) -> Program:
    shape = (1, 6, 6, 4)
    table = Tensor("p", (4, 2), "int32", None, np.array(pads, np.int32))
    return moved("PAD", shape, tuple(n + sum(p) for n, p in zip(shape, pads, strict=True)), table)


def with_constant(kind_of_zero: int) -> Program:
    """CONCATENATION with a constant that holds one integer."""
    constant = dataclasses.replace(value("c", (1, 4), X), data=np.full((1, 4), kind_of_zero, np.int8))
    inputs = [value("x", (1, 4), X), constant]
    return program("CONCATENATION", inputs, [value("y", (1, 8), X)], {"axis": 1, "fused_activation_function": "NONE"})


def resize(kind: str, size: int, version: int = 2, columns: int = 0, **options: Any) -> Program:
    """4 x 4 to size x columns, or to size x size."""
    options, columns = {"align_corners": False, "half_pixel_centers": False, **options}, columns or size
    shape = (1, size, columns, 8)
    return moved(kind, (1, 4, 4, 8), shape, int32s("s", size, columns), options=options, version=version)


def softmax(*shape: int) -> Program:
    return unary("SOFTMAX", (0.1, 5), (1 / 256, -128), shape=shape, beta=1.0)


def arg_max(shape: tuple[int, ...], axis: int) -> Program:
    kept = tuple(n for i, n in enumerate(shape) if i != axis)
    inputs = [value("x", shape, X), Tensor("a", (), "int32", None, np.asarray(axis, np.int32))]
    return program("ARG_MAX", inputs, [Tensor("y", kept, "int32")], {"output_type": 2})


def strided(masks: Mapping[str, int] | None = None, *strides: int) -> Program:
    wanted = tuple(-(-n // s) for n, s in zip((1, 8, 8, 4), strides, strict=True))
    parts = [int32s("b", 0, 0, 0, 0), int32s("e", 1, 8, 8, 4), int32s("s", *strides)]
    options = {**dict.fromkeys(SLICE_MASKS, 0), **(masks or {})}
    return moved("STRIDED_SLICE", (1, 8, 8, 4), wanted, *parts, options=options)


def cast(source: str, target: str) -> Program:
    codes = {"uint8": 3, "int8": 9, "int32": 2}
    options = {"in_data_type": codes[source], "out_data_type": codes[target]}
    return program("CAST", [value("x", (1, 40), (X[0], 5), source)], [value("y", (1, 40), None, target)], options, 1)


def select(dtype: str = "int8") -> Program:
    branches = [value("a", (1, 6, 4), X), value("b", (1, 6, 4), X)]
    return retyped(program("SELECT_V2", [MASK, *branches], [value("y", (1, 6, 4), X)], {}, 1), dtype, 1, 2, 3)


def custom(kind: str) -> Program:
    return program(kind, [value("x", (1, 4), X)], [value("y", (1, 4), X)], {}, 1)


def looked_up() -> Program:
    """How jaxq writes a function that is no operator."""
    tensors = (
        value("x", (1, 16, 16, 8), X), Tensor("wide", (1, 16, 16, 8), "int32"), int32s("offset", 128),
        Tensor("index", (1, 16, 16, 8), "int32"), value("y", (1, 16, 16, 8), Y),
        Tensor("table", (256,), "int8", Quantization.of(*Y), np.arange(256).astype(np.int8)),
    )  # fmt: skip
    operators = (
        Operator("CAST", (0,), (1,), {"in_data_type": 9, "out_data_type": 2}, 1),
        Operator("ADD", (1, 2), (3,), {"fused_activation_function": "NONE"}, 1),
        Operator("GATHER", (5, 3), (4,), {"axis": 0, "batch_dims": 0}, 2),
    )
    return Program(tensors, operators, (0,), (4,))


LEAK = unary("LEAKY_RELU", X, Y, 1, alpha=0.1)
IMAGE_MEAN = reduce("MEAN", (1, 9, 11, 64), (1, 2), X, Y)
SQUARE = ((1, 4, 4, 4), (1, 4, 4, 4))

# name -> (program, the status on some targets)
STATUS: dict[str, tuple[Program, dict[str, str]]] = {
    "conv": (conv((8, 8, 4), 8, (3, 3)), {"litert": XNN, "edgetpu": TPU, "ethos-u55": NPU, "tflm": KERNEL}),
    "conv, uneven dilation": (conv((9, 9, 4), 8, (3, 3), dilation=(1, 2)), {"edgetpu": UNSPECIFIED}),
    "conv, grouped": (conv((8, 8, 4), 8, (3, 3), groups=2), {"edgetpu": edgetpu.VERSION, "ethos-u55": NPU}),
    "conv, computed weights": (
        computed(conv((8, 8, 4), 8, (3, 3)), 1), {"edgetpu": edgetpu.NOT_CONSTANT, "litert": "TFLite kernel"}),
    "conv, stride 4": (
        conv((16, 16, 4), 8, (5, 5), (4, 4)), {"edgetpu": TPU, "ethos-u55": CPU, "ethos-u65": CPU, "ethos-u85": NPU}),
    "conv, stride 4, nothing to pad": (conv((16, 16, 4), 8, (4, 4), (4, 4)), {"ethos-u55": NPU}),
    "max pool, stride 4, nothing to pad": (pool("MAX_POOL_2D", (16, 16, 4), (4, 4), (4, 4)), {"ethos-u55": NPU}),
    "max pool, stride 4": (
        pool("MAX_POOL_2D", (17, 17, 4), (4, 4), (4, 4)), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "conv, stride 4, valid": (conv((16, 16, 4), 8, (5, 5), (4, 4), "VALID"), {"ethos-u55": NPU}),
    "conv, int16": (retyped(conv((8, 8, 4), 8, (3, 3)), "int16", 0, 3), {"edgetpu": edgetpu.DTYPE, "tflm": KERNEL}),
    "depthwise": (depthwise((8, 8, 8), 8, (3, 3)), {"edgetpu": TPU, "ethos-u85": NPU}),
    "depthwise, stride 4": (
        depthwise((16, 16, 8), 8, (5, 5), stride=(4, 4), padding="VALID"), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "dense, one row": (dense(1, 64, 10), {"edgetpu": TPU, "ethos-u55": NPU}),
    "dense, rows": (dense(30, 64, 10), {"edgetpu": UNSPECIFIED, "ethos-u55": NPU}),
    "dense, weights of int4": (
        retyped(dense(1, 64, 10), "int4", 1), {"ethos-u55": CPU, "ethos-u85": CPU, "tflm": KERNEL}),
    "transposed, stride 2": (transpose_conv((6, 6, 8), 8, 3, 2, "SAME"), {"edgetpu": TPU, "ethos-u55": NPU}),
    "transposed, stride 3": (transpose_conv((6, 6, 8), 8, 4, 3, "VALID"), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "matmul": (matmul((1, 4, 6, 8), (1, 4, 8, 9), (1, 4, 6, 9)),
               {"edgetpu": NO, "litert": XNN, "ethos-u55": NPU, "tflm": KERNEL}),
    "add": (binary("ADD", X, Y, Z, shapes=SQUARE), {"edgetpu": TPU, "ethos-u55": NPU, "tflm": KERNEL}),
    "add, batch of 2": (
        binary("ADD", X, Y, Z, shapes=((2, 4, 4, 4), (2, 4, 4, 4))), {"edgetpu": edgetpu.RANK, "litert": XNN}),
    "mul, far scales": (
        binary("MUL", (0.003, -128), (0.0025, 127), (0.6, 3)), {"litert": "TFLite kernel", "edgetpu": TPU}),
    "maximum, other scales": (
        binary("MAXIMUM", X, Y, Z, shapes=SQUARE), {"ethos-u55": CPU, "ethos-u85": CPU, "edgetpu": TPU}),
    "squared difference": (binary("SQUARED_DIFFERENCE", X, Y, (0.243, -128)), {"edgetpu": TPU, "ethos-u55": NPU}),
    "average pool": (pool("AVERAGE_POOL_2D", (8, 8, 4), (2, 2), (2, 2)),
                     {"edgetpu": TPU, "litert": "TFLite kernel", "ethos-u55": NPU}),
    "average pool, relu6": (pool("AVERAGE_POOL_2D", (8, 8, 4), (2, 2), (2, 2), act="RELU6"), {"edgetpu": UNSPECIFIED}),
    "average pool, 9 x 9, padded": (
        pool("AVERAGE_POOL_2D", (18, 18, 4), (9, 9), (1, 1)), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "average pool, 9 x 9, valid": (
        pool("AVERAGE_POOL_2D", (18, 18, 4), (9, 9), (1, 1), "VALID"), {"ethos-u55": NPU, "ethos-u85": NPU}),
    "max pool, stride above its window": (
        pool("MAX_POOL_2D", (12, 12, 4), (2, 2), (3, 3)), {"litert": "TFLite kernel", "edgetpu": TPU}),
    "mean": (IMAGE_MEAN, {"edgetpu": TPU, "litert": XNN, "ethos-u55": NPU}),
    "mean over channels": (reduce("MEAN", (1, 1, 9, 64), (3,), X, Y), {"edgetpu": TPU, "ethos-u55": NPU}),
    "mean over 63 channels": (reduce("MEAN", (1, 1, 9, 63), (3,), X, Y), {"edgetpu": UNSPECIFIED}),
    "mean over the batch": (reduce("MEAN", (1, 9, 64), (0,), X, Y), {"edgetpu": UNSPECIFIED}),
    "mean of images": (reduce("MEAN", (2, 9, 11, 64), (1, 2), X, Y), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "mean of rows": (reduce("MEAN", (3, 9), (1,), X, Y), {"ethos-u55": NPU, "ethos-u85": NPU}),
    "mean over channels of two rows": (reduce("MEAN", (2, 9, 4), (2,), X, Y), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "mean of all": (reduce("MEAN", (1, 4, 5, 6), (1, 2, 3), X, Y), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "reduce max": (reduce("REDUCE_MAX", (1, 9, 64), (2,), X, X), {"edgetpu": TPU, "ethos-u55": NPU, "litert": XNN}),
    "reduce max over the batch": (reduce("REDUCE_MAX", (1, 9, 64), (0,), X, X), {"edgetpu": UNSPECIFIED}),
    "arg max": (arg_max((1, 5, 5, 9), 3), {"edgetpu": NO, "ethos-u55": NPU, "ethos-u85": NPU, "tflm": KERNEL}),
    "arg max of 128": (arg_max((1, 5, 5, 128), 3), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "arg max over rows": (arg_max((1, 5, 5, 9), 1), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "softmax": (softmax(1, 10), {"edgetpu": TPU, "ethos-u55": NPU, "litert": "TFLite kernel"}),
    "softmax, rows": (softmax(1, 30, 10), {"edgetpu": UNSPECIFIED, "ethos-u55": NPU}),
    "softmax, 16,001 classes": (softmax(1, 16_001), {"edgetpu": UNSPECIFIED}),
    "softmax, 65,536 rows": (softmax(1, 65_536, 1, 2), {"ethos-u55": NPU, "ethos-u85": NPU}),
    "softmax, 65,537 rows": (softmax(65_537, 2), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "logistic": (unary("LOGISTIC", X, (1 / 256, -128)), {"edgetpu": TPU, "litert": XNN, "ethos-u55": NPU}),
    "leaky relu": (LEAK, {"edgetpu": NO, "litert": XNN, "ethos-u55": NPU, "tflm": KERNEL}),
    "hard swish": (unary("HARD_SWISH", X, Y, 1), {"edgetpu": NO, "ethos-u55": NPU, "tflm": KERNEL}),
    "gelu": (unary("GELU", X, Y, approximate=True),
             {"edgetpu": NO, "litert": "TFLite kernel", "ethos-u55": NPU, "ethos-u85": NPU, "tflm": "no kernel"}),
    "exp": (unary("EXP", X, Y), {"edgetpu": NO, "ethos-u55": NPU, "tflm": "kernel without this type"}),
    "elu": (unary("ELU", X, Y, 1), {"edgetpu": NO, "ethos-u55": NPU, "litert": XNN, "tflm": KERNEL}),
    "sqrt": (unary("SQRT", X, Y), {"edgetpu": NO, "ethos-u55": CPU, "ethos-u85": CPU}),
    "l2": (unary("L2_NORMALIZATION", X, (1 / 128, 0)), {"edgetpu": TPU, "ethos-u55": CPU, "tflm": KERNEL}),
    "relu_n1_to_1": (unary("RELU_N1_TO_1", X, X, 1), {"edgetpu": TPU, "ethos-u55": NPU, "tflm": "no kernel"}),
    "quantize, version 3": (versioned(convert("int8", X, "int8", Y), 3), {"edgetpu": edgetpu.VERSION}),
    "quantize": (convert("int8", X, "int8", Y), {"edgetpu": TPU, "litert": XNN, "ethos-u55": NPU, "tflm": KERNEL}),
    "quantize floats": (convert("float32", None, "int8", Y), {"edgetpu": edgetpu.DTYPE, "ethos-u55": CPU}),
    "quantize to uint8": (convert("int8", X, "uint8", (X[0], X[1] + 128)),
                          {"litert": "TFLite kernel", "edgetpu": TPU, "ethos-u55": NPU, "tflm": KERNEL}),
    "dequantize": (convert("int8", X, "float32", None, "DEQUANTIZE"), {"edgetpu": NO, "ethos-u55": CPU, "litert": XNN}),
    "cast of uint8": (cast("uint8", "int32"),
                      {"edgetpu": NO, "ethos-u55": CPU, "ethos-u85": NPU, "tflm": "kernel without this type"}),
    "cast of int8": (cast("int8", "int32"), {"ethos-u55": CPU, "ethos-u85": NPU, "tflm": KERNEL}),
    "select": (select(), {"edgetpu": NO, "ethos-u55": CPU, "ethos-u85": NPU, "tflm": KERNEL}),
    "gather along axis 1": (CASES["moved: gather"][0], {"edgetpu": NO, "ethos-u55": CPU, "ethos-u85": CPU}),
    "broadcast to": (CASES["moved: broadcast to"][0], {"edgetpu": NO, "ethos-u55": CPU, "ethos-u85": CPU}),
    "pad": (pad((0, 0), (1, 1), (1, 2), (0, 0)), {"edgetpu": TPU, "litert": XNN, "ethos-u55": NPU, "tflm": KERNEL}),
    "pad the batch": (pad((1, 0), (1, 1), (1, 2), (0, 0)), {"edgetpu": edgetpu.RANK}),
    "concatenation": (several("CONCATENATION", [(1, 4)] * 2, (1, 8), {"axis": 1}), {"edgetpu": TPU, "litert": XNN}),
    "concatenation of 6": (
        several("CONCATENATION", [(1, 4)] * 6, (1, 24), {"axis": 1}), {"litert": "TFLite kernel", "edgetpu": TPU}),
    "concatenation with zeros": (with_constant(X[1]), {"edgetpu": TPU}),
    "concatenation with ones": (with_constant(1), {"edgetpu": UNSPECIFIED}),
    "pack the batch": (several("PACK", [(4,)] * 2, (2, 4), {"axis": 0, "values_count": 2}), {"edgetpu": UNSPECIFIED}),
    "resize": (resize("RESIZE_BILINEAR", 8), {"edgetpu": TPU, "ethos-u55": NPU, "ethos-u85": NPU}),
    "resize by 2 x 4": (resize("RESIZE_BILINEAR", 8, 2, 16), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "nearest by 3": (resize("RESIZE_NEAREST_NEIGHBOR", 12), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "nearest by half": (resize("RESIZE_NEAREST_NEIGHBOR", 2), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "resize by 3": (resize("RESIZE_BILINEAR", 12), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "resize by 4, half pixels": (
        resize("RESIZE_BILINEAR", 16, 3, half_pixel_centers=True), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "nearest, half pixels": (
        resize("RESIZE_NEAREST_NEIGHBOR", 8, 3, half_pixel_centers=True), {"edgetpu": edgetpu.VERSION}),
    "strided slice": (strided(None, 1, 1, 1, 1), {"edgetpu": TPU, "litert": XNN, "ethos-u55": NPU, "tflm": KERNEL}),
    "strided slice by 2": (
        strided(None, 1, 2, 2, 1), {"edgetpu": UNSPECIFIED, "litert": "TFLite kernel", "ethos-u55": NPU}),
    "strided slice of channels": (strided(None, 1, 1, 1, 2), {"ethos-u55": CPU, "ethos-u85": CPU}),
    "custom": (custom("CUSTOM:TFLite_Detection"),
               {"edgetpu": NO, "litert": "TFLite kernel", "ethos-u55": CPU, "tflm": "no kernel"}),
}  # fmt: skip


def placed(built: Program, target: str) -> list[str]:
    return [p.status for p in check(built, TARGETS[target]).placements]


@pytest.mark.parametrize("name", STATUS)
def test_status_of_one_operator(name: str) -> None:
    built, wanted = STATUS[name]
    assert {target: placed(built, target) for target in wanted} == {t: [status] for t, status in wanted.items()}


# --- against the runtimes -------------------------------------------------------------------------------------------

ONE_OPERATOR = {
    **{name: built for name, (built, _) in CASES.items() if not name.startswith("large")},
    **{f"status: {name}": built for name, (built, _) in STATUS.items()},
}

# Programs that LiteRT does not load: it has no such kernel, or the program is there for its shape alone.
NOT_LOADED = {
    "status: conv, int16": "int16 activations go with a bias of other scales",
    "status: dense, weights of int4": "a constant of int4 is written packed; this one is int8 renamed",
    "status: maximum, other scales": "the kernel compares quantization parameters",
    "status: quantize, version 3": "version 3 is per channel",
    "status: custom": "nobody has it",
}


def delegated(built: Program) -> bool:
    """Whether LiteRT hands the one operator to XNNPACK."""
    interpreter = Interpreter(model_content=write(built))
    interpreter.allocate_tensors()
    return [op["op_name"] for op in interpreter._get_ops_details()][1:] == ["DELEGATE"]


@pytest.mark.parametrize("name", [name for name in ONE_OPERATOR if name not in NOT_LOADED])
def test_litert_agrees(name: str) -> None:
    built = ONE_OPERATOR[name]
    assert check(built, TARGETS["litert"]).placements[0].mapped == delegated(built)


def test_only_custom_operators_fail_on_litert() -> None:
    assert check(STATUS["gelu"][0], TARGETS["litert"]).ok
    assert not check(STATUS["custom"][0], TARGETS["litert"]).ok


# Programs that Vela cannot be asked about, and why.
NOT_COMPILED = {
    "status: conv, int16": "int16 inputs with int32 bias scale alike in neither direction",
    "status: conv, computed weights": "weights that are computed",
    "status: dense, weights of int4": "Vela ends by SIGFPE on weights of int4",
    "status: pad the batch": "the other axes of the batch are not the table's business",
    "status: custom": "Vela knows no custom operators of others",
    "moved: look-up of booleans": "Vela 5.2.0 ends by an exception, on U55 (And) and U85 (KeyError)",
}


def merged(programs: Mapping[str, Program]) -> Program:
    """All programs side by side in one; the outputs have the names of the programs."""
    tensors: list[Tensor] = []
    operators, inputs, outputs = [], [], []
    for name, built in programs.items():
        base, named = len(tensors), dict.fromkeys(built.operators[0].outputs[:1], name)
        tensors += [dataclasses.replace(t, name=named.get(i, f"{name}/{i}")) for i, t in enumerate(built.tensors)]
        for op in built.operators:
            operators.append(dataclasses.replace(op, inputs=_moved(op.inputs, base), outputs=_moved(op.outputs, base)))
        inputs += _moved(built.inputs, base)
        outputs += _moved(built.outputs, base)
    return Program(tuple(tensors), tuple(operators), tuple(inputs), tuple(outputs))


def _moved(indices: Iterable[int], base: int) -> tuple[int, ...]:
    return tuple(i if i < 0 else i + base for i in indices)


@pytest.mark.parametrize("target", ETHOS)
def test_vela_agrees_on_one_operator_programs(target: str) -> None:
    """One compilation for all programs: what Vela leaves to the CPU is what the table says."""
    programs = {name: built for name, built in ONE_OPERATOR.items() if name not in NOT_COMPILED}
    result = vela.compiled(write(merged(programs)), TARGETS[target].compilers[0])
    ours = {name for name, built in programs.items() if not check(built, TARGETS[target]).ok}
    assert {name for _, name in result.cpu} == ours


def test_vela_runs_a_look_up_on_u85_alone() -> None:
    data = write(looked_up())
    for target, cpu in (("ethos-u55", ["CAST", "GATHER"]), ("ethos-u85", [])):
        assert [kind for kind, _ in vela.compiled(data, TARGETS[target].compilers[0]).cpu] == cpu
        assert [p.kind for p in check(looked_up(), TARGETS[target]).placements if not p.mapped] == cpu


def left(built: Program, target: str) -> list[str]:
    """The outputs of the operators that the table leaves to the CPU."""
    return sorted(p.output for p in check(built, TARGETS[target]).placements if not p.mapped)


def assert_vela_agrees(artifact: jaxq.export.Artifact, target: str) -> vela.Compiled:
    result = vela.compiled(artifact.data, TARGETS[target].compilers[0])
    assert sorted(name for _, name in result.cpu) == left(artifact.program, target)
    assert result.cycles > 0 and result.seconds > 0
    return result


@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u85"])
@pytest.mark.parametrize("name", FEW[:3])
def test_vela_compiles_networks(name: str, target: str) -> None:
    assert_vela_agrees(exported(name).artifact, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ETHOS)
@pytest.mark.parametrize("name", ZOO)
def test_vela_compiles_the_zoo(name: str, target: str) -> None:
    assert_vela_agrees(exported(name).artifact, target)


@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u85"])
def test_vela_compiles_the_network_of_the_demo(target: str) -> None:
    model, images = mnist.target()
    qmodel = jaxq.quantize(model, "int8", images[:1])
    jaxq.calibrate(qmodel, [np.random.default_rng(0).random((8, *images.shape[1:]), np.float32)], progress=False)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    result = assert_vela_agrees(artifact, target)
    assert result.cpu == () and check(artifact.program, TARGETS[target]).ok
    assert result.sram + result.dram > 0


def test_vela_says_why_it_fails() -> None:
    with pytest.raises(ExportError, match=r"Vela does not compile the file for ethos-u55-256: .*Drop --compile"):
        vela.compiled(b"\0" * 64, "ethos-u55-256")
    assert str(vela.missing()) == "The package ethos-u-vela is not installed. Run: pip install 'jaxq[vela]'"


# --- one subgraph ---------------------------------------------------------------------------------------------------


def series(*kinds: str) -> Program:
    """Unary operators one after the other."""
    tensors = tuple(value(f"t{i}", (1, 4, 4, 4), X) for i in range(len(kinds) + 1))
    operators = tuple(Operator(kind, (i,), (i + 1,), {}, 1) for i, kind in enumerate(kinds))
    return Program(tensors, operators, (0,), (len(kinds),))


def test_what_follows_an_unmapped_operator_is_unmapped() -> None:
    report = check(series("RELU", "HARD_SWISH", "RELU", "HARD_SWISH", "RELU"), TARGETS["edgetpu"])
    second = edgetpu.SECOND_SUBGRAPH
    assert [p.status for p in report.placements] == [TPU, NO, second, NO, second]
    assert [p.after for p in report.placements] == [None, None, 1, None, 1]
    assert [(g.index, g.operators) for g in report.gains] == [(1, 2)]
    assert not report.ok


def test_a_branch_beside_stays_mapped() -> None:
    tensors = tuple(value(f"t{i}", (1, 4, 4, 4), X) for i in range(4))
    operators = tuple(
        Operator(k, (i,), (o,), {}, 1) for k, i, o in [("HARD_SWISH", 0, 1), ("RELU", 0, 2), ("RELU", 1, 3)]
    )
    built = Program(tensors, operators, (0,), (2, 3))
    assert [p.mapped for p in check(built, TARGETS["edgetpu"]).placements] == [False, True, False]


def test_a_quantize_of_the_input_may_stay_in_front() -> None:
    tensors = (Tensor("f", (1, 4), "float32"), *(value(f"t{i}", (1, 4), X) for i in range(2)))
    operators = (Operator("QUANTIZE", (0,), (1,), {}, 1), Operator("RELU", (1,), (2,), {}, 2))
    report = check(Program(tensors, operators, (0,), (2,)), TARGETS["edgetpu"])
    assert [p.status for p in report.placements] == [edgetpu.DTYPE, TPU]
    assert not report.ok


def test_gains_are_shares_of_macs() -> None:
    built = chain()
    report = check(built, TARGETS["edgetpu"])
    assert report.ok and not report.gains
    worse = dataclasses.replace(
        built, operators=(dataclasses.replace(built.operators[0], version=9), *built.operators[1:])
    )
    report = check(worse, TARGETS["edgetpu"])
    assert report.mapped_macs == 0 and report.macs == 12 * 12 * 8 * 27 + 80
    assert [(g.index, g.operators, g.macs) for g in report.gains] == [(0, 4, report.macs)]


# --- MACs and memory ------------------------------------------------------------------------------------------------


MACS = {
    "conv": (conv((8, 8, 4), 8, (3, 3), (2, 2)), 4 * 4 * 8 * 36),
    "conv, grouped": (conv((8, 8, 4), 8, (3, 3), groups=2), 8 * 8 * 8 * 18),
    "depthwise": (depthwise((8, 8, 4), 8, (3, 3)), 8 * 8 * 8 * 9),
    "dense": (dense(3, 64, 10), 3 * 64 * 10),
    "matmul": (matmul((1, 4, 6, 8), (1, 4, 8, 9), (1, 4, 6, 9)), 4 * 6 * 8 * 9),
    "matmul, adj_x": (matmul((1, 4, 8, 6), (1, 4, 8, 9), (1, 4, 6, 9), adj_x=True), 4 * 6 * 8 * 9),
    "transposed": (transpose_conv((6, 6, 8), 5, 3, 2, "SAME"), 6 * 6 * 8 * 5 * 9),
    "add": (binary("ADD", X, Y, Z), 0),
}


@pytest.mark.parametrize("name", MACS)
def test_macs(name: str) -> None:
    built, wanted = MACS[name]
    assert macs(built, built.operators[0]) == wanted


def test_macs_are_those_of_vela() -> None:
    for name in ("conv", "depthwise", "dense"):
        built, wanted = MACS[name]
        assert vela.compiled(write(built), "ethos-u55-256").macs == wanted, name


def test_the_arena_is_planned_greedily() -> None:
    """Input 36 bytes alive in 0; a 576 in 0-1; m 8; l 10; p 10: the second layer lies where the input was."""
    built = chain()
    assert [(life.size, life.first, life.last) for life in lives(built)] == [
        (432, 0, 0), (1152, 0, 1), (16, 1, 2), (16, 2, 3), (16, 3, 3)
    ]  # fmt: skip
    assert [at for _, at in planned(lives(built))] == [0, 1152, 0, 16, 1152]
    found = memory(built)
    assert (found.activations, found.largest) == (1584, 1584)
    assert found.constants == 8 * 27 + 8 * 4 + 2 * 4 + 80 + 10 * 4


# --- the tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_every_entry_has_a_source(name: str) -> None:
    device = TARGETS[name]
    limits = {limit for limits in device.operators.values() for limit in limits} | set(device.everywhere)
    assert all(limit.evidence in (MEASURED, VENDOR, INFERRED) and limit.source and limit.law for limit in limits)
    assert device.evidence in (MEASURED, VENDOR, INFERRED) and device.source and device.verdict
    assert {kind for kind in device.operators if not kind.startswith("CUSTOM:")} <= OPERATORS.keys()
    assert list(device.operators) == sorted(device.operators)


# What the graph's ops are in a file, where it is not the operator of the same name.
WRITTEN = {
    "AFFINE": ("DEPTHWISE_CONV_2D", "RESHAPE"),
    "CLIP": ("MAXIMUM", "MINIMUM"),
    "EMBEDDING": ("GATHER",),
    "SELECT": ("SELECT_V2",),
    "TABLE": ("CAST", "ADD", "GATHER"),
}
NO_OPERATOR = {"DROPOUT", "FAKE_QUANT", "STOP_GRADIENT"}
CHECKED_AS = {"ethos-u": "ethos-u55"}


@pytest.mark.parametrize("name", PLANNED)
def test_the_plan_forbids_what_the_check_does_not_list(name: str) -> None:
    planned_for, device = PLANNED[name], TARGETS[CHECKED_AS.get(name, name)]
    if device.runs_rest:
        assert not planned_for.forbidden and not planned_for.tables
        return
    lacking = {kind for kind in RULES if kind not in NO_OPERATOR
               and any(written not in device.operators for written in WRITTEN.get(kind, (kind,)))}  # fmt: skip
    assert planned_for.forbidden | planned_for.tables == lacking
    assert planned_for.evidence in (MEASURED, VENDOR, INFERRED) and planned_for.source


def stripped(built: Program) -> list[Program]:
    """Programs that break every expectation: without inputs, outputs, options, shapes, data or scales."""
    op = built.operators[0]
    ops = [dataclasses.replace(op, inputs=op.inputs[:n]) for n in range(len(op.inputs))]
    ops += [dataclasses.replace(op, inputs=(-1,) * len(op.inputs)), dataclasses.replace(op, outputs=())]
    ops += [dataclasses.replace(op, options={}), dataclasses.replace(op, options=dict.fromkeys(op.options, "odd"))]
    bare = [tuple(dataclasses.replace(t, **change) for t in built.tensors) for change in CHANGES]
    return [*(dataclasses.replace(built, operators=(o,)) for o in ops),
            *(dataclasses.replace(built, tensors=tensors) for tensors in bare)]  # fmt: skip


EMPTY = Quantization(np.zeros(0, np.float32), np.zeros(0, np.int64))
CHANGES: tuple[dict[str, Any], ...] = (
    {"shape": ()},
    {"shape": (0,)},
    {"shape": (2,) * 7},
    {"data": None},
    {"data": np.zeros(0, np.int32)},
    {"data": np.full(3, 99, np.int64)},
    {"dtype": "string"},
    {"quantization": None},
    {"quantization": EMPTY},
)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_raises_whatever_a_file_holds(target: str) -> None:
    device: Any = TARGETS[target]
    for built in ONE_OPERATOR.values():
        for broken in stripped(built):
            assert len(check(broken, device).placements) == 1


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(RecipeError, match="There is no target 'edge-tpu' to check a file for. Did you mean 'edgetpu'"):
        device_named("edge-tpu")


def test_the_page_of_targets_is_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs" / "make_targets.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- the command ----------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Program], str]:
    monkeypatch.chdir(tmp_path)

    def save(built: Program) -> str:
        pathlib.Path("model.tflite").write_bytes(write(built))
        return "model.tflite"

    return save


def run(*arguments: str) -> tuple[int, str, str]:
    done = CliRunner().invoke(app, ["check", *arguments])
    return done.exit_code, done.stdout, done.stderr


def mixed() -> Program:
    """chain() with a HARD_SWISH in the middle."""
    built = chain()
    tensors = (*built.tensors, value("swish", (1, 12, 12, 8), X))
    first, mean, *rest = built.operators
    swish = Operator("HARD_SWISH", first.outputs, (len(built.tensors),), {}, 1)
    mean = dataclasses.replace(mean, inputs=(len(built.tensors), mean.inputs[1]))
    return dataclasses.replace(built, tensors=tensors, operators=(first, swish, mean, *rest))


@pytest.mark.parametrize(("built", "target", "code"), [(chain(), "edgetpu", 0), (mixed(), "edgetpu", 1),
                                                       (mixed(), "litert", 0), (mixed(), "tflm", 0)])  # fmt: skip
def test_exit_codes(built: Program, target: str, code: int, saved: Callable[[Program], str]) -> None:
    assert run(saved(built), "--target", target)[0] == code


def test_the_text(saved: Callable[[Program], str], golden: Callable[[str, str], None]) -> None:
    code, out, _ = run(saved(mixed()), "--target", "edgetpu")
    assert code == 1
    golden("check.txt", out.rstrip("\n"))


def test_the_document(saved: Callable[[Program], str]) -> None:
    code, out, _ = run(saved(mixed()), "--target", "edgetpu", "--json")
    found = json.loads(out)
    assert code == 1 and found["ok"] is False and found["target"] == "edgetpu" and found["vela"] is None
    assert [op["mapped"] for op in found["operators"]] == [True, False, False, False, False]
    assert found["operators"][2]["after"] == 1
    assert found["gains"] == [{"operator": 1, "operators": 4, "macs": 80}]
    assert found["cache_bytes"] == edgetpu.CACHE_BYTES


def test_the_compilers_answer(saved: Callable[[Program], str]) -> None:
    code, out, _ = run(
        saved(looked_up()), "--target", "ethos-u55", "--compile", "--accelerator", "ethos-u55-64", "--json"
    )
    found = json.loads(out)
    assert code == 1 and found["vela"]["accelerator"] == "ethos-u55-64"
    assert [op["kind"] for op in found["vela"]["cpu"]] == ["CAST", "GATHER"]
    code, out, _ = run("model.tflite", "--target", "ethos-u85", "--compile")
    assert code == 0 and "operators on the CPU: none" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "hexagon"], "There is no target 'hexagon' to check a file for."),
        (["--target", "tflm", "--compile"], "tflm has no compiler to ask"),
        (["--target", "ethos-u55", "--accelerator", "ethos-u55-64"], "--accelerator goes with --compile."),
        (
            ["--target", "ethos-u55", "--compile", "--accelerator", "ethos-u85-512"],
            "--accelerator ethos-u85-512 is not of the target ethos-u55; one is ethos-u55-256.",
        ),
        ([], "Missing option '--target'"),
    ],
)
def test_usage(arguments: Sequence[str], message: str, saved: Callable[[Program], str]) -> None:
    code, _, err = run(saved(chain()), *arguments)
    assert code == 2 and message in err
