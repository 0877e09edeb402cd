"""Programs of one operator and what targets say of them: a table that several test files read."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.targets import TARGETS, check, edgetpu
from tests.test_dynamic import CASES as DYNAMIC
from tests.test_kernels import (
    CASES,
    MASK,
    SLICE_MASKS,
    X,
    Y,
    Z,
    binary,
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

ETHOS = ("ethos-u55", "ethos-u65", "ethos-u85")
TPU, NO, UNSPECIFIED = edgetpu.MAPPED, edgetpu.NOT_SUPPORTED, edgetpu.UNSPECIFIED
NPU, CPU, XNN, KERNEL = "NPU", "CPU", "XNNPACK", "kernel"


def retyped(built: Program, dtype: str, *indices: int) -> Program:
    """The program with some tensors of another type."""
    tensors = list(built.tensors)
    for i in indices:
        tensors[i] = dataclasses.replace(tensors[i], dtype=dtype)
    return dataclasses.replace(built, tensors=tuple(tensors))


def one_scale(built: Program, *indices: int) -> Program:
    """The program with one scale for all numbers of some tensors: the weights and the bias of a dense layer."""
    tensors = list(built.tensors)
    for i in indices:
        q = tensors[i].quantization
        assert q is not None
        tensors[i] = dataclasses.replace(tensors[i], quantization=Quantization.of(q.scale.max(), 0, 0))
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
    "conv": (
        conv((8, 8, 4), 8, (3, 3)),
        {"litert": XNN, "edgetpu": TPU, "ethos-u55": NPU, "ethos-u65": NPU, "tflm": KERNEL}),
    "conv, uneven dilation": (conv((9, 9, 4), 8, (3, 3), dilation=(1, 2)), {"edgetpu": UNSPECIFIED}),
    "conv, grouped": (conv((8, 8, 4), 8, (3, 3), groups=2), {"edgetpu": edgetpu.VERSION, "ethos-u55": NPU}),
    "conv, computed weights": (
        computed(conv((8, 8, 4), 8, (3, 3)), 1),
        {"edgetpu": edgetpu.NOT_CONSTANT, "litert": "TFLite kernel", "ethos-u55": CPU, "ethos-u85": NPU}),
    "conv, stride 4": (
        conv((16, 16, 4), 8, (5, 5), (4, 4)), {"edgetpu": TPU, "ethos-u55": CPU, "ethos-u65": CPU, "ethos-u85": NPU}),
    "conv, stride 4, nothing to pad": (conv((16, 16, 4), 8, (4, 4), (4, 4)), {"ethos-u55": NPU}),
    "max pool, stride 4, nothing to pad": (pool("MAX_POOL_2D", (16, 16, 4), (4, 4), (4, 4)), {"ethos-u55": NPU}),
    "max pool, stride 4": (
        pool("MAX_POOL_2D", (17, 17, 4), (4, 4), (4, 4)), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "conv, stride 4, valid": (conv((16, 16, 4), 8, (5, 5), (4, 4), "VALID"), {"ethos-u55": NPU}),
    "conv, int16": (retyped(conv((8, 8, 4), 8, (3, 3), x=(X[0], 0), y=(Y[0], 0)), "int16", 0, 3),
                    {"edgetpu": edgetpu.DTYPE, "ethos-u55": NPU, "tflm": KERNEL}),
    "depthwise": (depthwise((8, 8, 8), 8, (3, 3)), {"edgetpu": TPU, "ethos-u85": NPU}),
    "depthwise, stride 4": (
        depthwise((16, 16, 8), 8, (5, 5), stride=(4, 4), padding="VALID"), {"ethos-u55": CPU, "ethos-u85": NPU}),
    "dense, one row": (one_scale(dense(1, 64, 10), 1, 2), {"edgetpu": TPU, "ethos-u55": NPU}),
    "dense, rows": (one_scale(dense(30, 64, 10), 1, 2), {"edgetpu": UNSPECIFIED, "ethos-u55": NPU}),
    "dense, a scale each": (dense(1, 64, 10), {"edgetpu": UNSPECIFIED, "ethos-u55": NPU}),
    "dense, weights of int4": (
        retyped(dense(1, 64, 10, largest=7), "int4", 1),
        {"ethos-u55": CPU, "ethos-u85": CPU, "tflm": "kernel without this type"}),
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
    **{f"{name}, dynamic range": (
        DYNAMIC[name],
        {"litert": status, "tflm": "kernel without this type", "ethos-u55": CPU, "ethos-u85": CPU})
       for name, status in (("dense", XNN), ("conv", XNN), ("depthwise", "TFLite kernel"))},
    "custom": (custom("CUSTOM:TFLite_Detection"),
               {"edgetpu": NO, "litert": "TFLite kernel", "ethos-u55": CPU, "tflm": "no kernel"}),
}  # fmt: skip


ONE_OPERATOR = {
    **{name: built for name, (built, _) in CASES.items() if not name.startswith("large")},
    **{f"status: {name}": built for name, (built, _) in STATUS.items()},
}


def placed(built: Program, target: str) -> list[str]:
    return [p.status for p in check(built, TARGETS[target]).placements]
