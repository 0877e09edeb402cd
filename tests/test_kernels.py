"""One-operator programs: every integer of LiteRT's two kernel families equals LiteRT's. TFLite Micro: test_tflm.py."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxq.errors import ExportError, InputError
from jaxq.export.evaluate.kernels import fixedpoint
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.evaluate.program import FAMILIES, evaluate
from jaxq.export.flatbuffer.write import write
from jaxq.export.operators import call_of, lowest_version
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor
from jaxq.export.runtimes import litert

Grid = tuple[float, int]  # scale, zero point
Options = Mapping[str, Option]
BOTH = ("xnnpack", "reference")

X, Y, Z = (0.0237, -7), (0.0571, 17), (0.0630, 3)
WIDE, NARROW = (0.31, 11), (0.0051, -20)


# ---------------------------------------------------------------- programs of one operator


def value(name: str, shape: tuple[int, ...], grid: Grid | None, dtype: str = "int8") -> Tensor:
    return Tensor(name, shape, dtype, None if grid is None else Quantization.of(*grid))


def int32s(name: str, *numbers: int) -> Tensor:
    return Tensor(name, (len(numbers),), "int32", None, np.array(numbers, np.int32))


def weights(
    shape: tuple[int, ...], axis: int, scale: tuple[float, float], seed: int, x: Grid, largest: int = 127
) -> tuple[Tensor, Tensor]:
    """Per-channel int8 weights with log-uniform scales in `scale`, and an int32 bias of the accumulator's
    size.
    """
    rng = np.random.default_rng(seed)
    channels = shape[axis]
    w = rng.integers(-largest, largest + 1, shape).astype(np.int8)
    scales = np.exp(rng.uniform(np.log(scale[0]), np.log(scale[1]), channels)).astype(np.float32)
    bias = rng.integers(-20000, 20000, channels).astype(np.int32)
    return (
        Tensor("w", shape, "int8", Quantization(scales, np.zeros(channels, np.int64), axis), w),
        Tensor("b", (channels,), "int32", Quantization.of(np.float32(x[0]) * scales), bias),
    )


def program(kind: str, inputs: list[Tensor], outputs: list[Tensor], options: Options, version: int = 2) -> Program:
    tensors = (*inputs, *outputs)
    indices = range(len(tensors))
    op = Operator(kind, tuple(indices[: len(inputs)]), tuple(indices[len(inputs) :]), options, version)
    free = tuple(i for i in op.inputs if tensors[i].data is None)
    return Program(tensors, (op,), free, op.outputs)


def same(size: int, stride: int, window: int, dilation: int, padding: str) -> int:
    return -(-size // stride) if padding == "SAME" else -(-(size - (window - 1) * dilation) // stride)


def conv(
    size: tuple[int, int, int],
    out: int,
    window: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    padding: str = "SAME",
    act: str = "NONE",
    groups: int = 1,
    dilation: tuple[int, int] = (1, 1),
    x: Grid = X,
    y: Grid = WIDE,
    scale: tuple[float, float] = (0.0006, 0.025),
    seed: int = 0,
    depthwise: bool = False,
) -> Program:
    height, width, channels = size
    shape = (1, *window, out) if depthwise else (out, *window, channels // groups)
    w, b = weights(shape, 3 if depthwise else 0, scale, seed, x)
    options: dict[str, Option] = {
        "padding": padding,
        "stride_h": stride[0],
        "stride_w": stride[1],
        "dilation_h_factor": dilation[0],
        "dilation_w_factor": dilation[1],
        "fused_activation_function": act,
    }
    if depthwise:
        options["depth_multiplier"] = out // channels
    rows = same(height, stride[0], window[0], dilation[0], padding)
    columns = same(width, stride[1], window[1], dilation[1], padding)
    kind = "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D"
    inputs = [value("x", (1, *size), x), w, b]
    return program(kind, inputs, [value("y", (1, rows, columns, out), y)], options, 3 if groups == 1 else 6)


def depthwise(size: tuple[int, int, int], out: int, window: tuple[int, int], **kw: object) -> Program:
    return conv(size, out, window, depthwise=True, **kw)  # type: ignore[arg-type]


def packed(built: Program) -> Program:
    """The program with weights of 4 bits."""
    position = built.operators[0].inputs[1]
    tensors, held = list(built.tensors), built.tensors[position].data
    assert held is not None
    narrow = np.clip(held // 18, -7, 7).astype(np.int8)
    tensors[position] = dataclasses.replace(tensors[position], dtype="int4", data=narrow)
    version = {"CONV_2D": 7, "DEPTHWISE_CONV_2D": 7, "FULLY_CONNECTED": 10}[built.operators[0].kind]
    operator = dataclasses.replace(built.operators[0], version=version)
    return dataclasses.replace(built, tensors=tuple(tensors), operators=(operator,))


def wide(built: Program, bias: str = "int32") -> Program:
    """The program on int16 of a 200th of the scales, with a bias fifty times greater."""
    options: dict[str, Option] = {}
    if built.operators[0].kind in ("CONV_2D", "FULLY_CONNECTED") and bias == "int32":
        options = {"quantized_bias_type": 2}
    if built.operators[0].kind in ("ADD", "SUB"):
        options = {"pot_scale_int16": False}
    operator = built.operators[0]
    operator = dataclasses.replace(operator, options={**operator.options, **options})
    tensors = tuple(_widened(t, bias) for t in built.tensors)
    version = lowest_version(call_of(dataclasses.replace(built, tensors=tensors), operator))
    return dataclasses.replace(built, tensors=tensors, operators=(dataclasses.replace(operator, version=version),))


def _widened(tensor: Tensor, bias: str) -> Tensor:
    if tensor.quantization is None:
        return tensor
    finer = Quantization.of(tensor.quantization.scale * np.float32(1 / 200))
    if tensor.name == "b" and tensor.data is not None:
        return dataclasses.replace(tensor, dtype=bias, data=(tensor.data * 50).astype(bias), quantization=finer)
    return tensor if tensor.data is not None else dataclasses.replace(tensor, dtype="int16", quantization=finer)


def squashed(kind: str, scale: float, shape: tuple[int, ...] = (1, 256, 256), beta: float = 1.0) -> Program:
    """LOGISTIC, TANH or SOFTMAX of int16."""
    inputs, outputs = [value("x", shape, (scale, 0), "int16")], [value("y", shape, (2.0**-15, 0), "int16")]
    return program(kind, inputs, outputs, {"beta": beta} if kind == "SOFTMAX" else {}, 3)


def transpose_conv(size: tuple[int, int, int], out: int, window: int, stride: int, padding: str) -> Program:
    w, b = weights((out, window, window, size[2]), 0, (0.0006, 0.025), 5, X)
    rows, columns = (n * stride if padding == "SAME" else (n - 1) * stride + window for n in size[:2])
    shape = int32s("shape", 1, rows, columns, out)
    options = {"padding": padding, "stride_h": stride, "stride_w": stride}
    inputs = [shape, w, value("x", (1, *size), X), b]
    return program("TRANSPOSE_CONV", inputs, [value("y", (1, rows, columns, out), WIDE)], options, 3)


def dense(
    rows: int,
    depth: int,
    out: int,
    act: str = "NONE",
    y: Grid = WIDE,
    bias: bool = True,
    keep: bool = False,
    scale: tuple[float, float] = (0.0006, 0.025),
    largest: int = 127,
) -> Program:
    w, b = weights((out, depth), 0, scale, depth, X, largest)
    shape = (1, rows, depth) if keep else (rows, depth)
    options = {"keep_num_dims": keep, "fused_activation_function": act}
    inputs = [value("x", shape, X), w, *([b] if bias else [])]
    return program("FULLY_CONNECTED", inputs, [value("y", (*shape[:-1], out), y)], options, 5 if keep else 4)


def matmul(
    a: tuple[int, ...],
    b: tuple[int, ...],
    out: tuple[int, ...],
    zero: int = 0,
    adj_x: bool = False,
    adj_y: bool = False,
    const: bool = False,
) -> Program:
    data = np.random.default_rng(3).integers(-127, 128, b).astype(np.int8) if const else None
    right = dataclasses.replace(value("b", b, (0.0119, zero)), data=data)
    options = {"adj_x": adj_x, "adj_y": adj_y}
    return program("BATCH_MATMUL", [value("a", a, X), right], [value("y", out, WIDE)], options)


def binary(
    kind: str,
    a: Grid,
    b: Grid,
    y: Grid,
    act: str = "NONE",
    shapes: tuple[tuple[int, ...], tuple[int, ...]] | None = None,
    const: bool = False,
    version: int = 2,
) -> Program:
    first, second = shapes or ((1, 50, 400), (1, 50, 400))
    data = np.random.default_rng(4).integers(-128, 128, second).astype(np.int8) if const else None
    right = dataclasses.replace(value("b", second, b), data=data)
    out = np.broadcast_shapes(first, second)
    options = {} if kind in PLAIN_BINARY else {"fused_activation_function": act}
    return program(kind, [value("a", first, a), right], [value("y", out, y)], options, version)


PLAIN_BINARY = ("MAXIMUM", "MINIMUM", "SQUARED_DIFFERENCE", "PRELU")


def unary(
    kind: str, x: Grid, y: Grid, version: int = 2, shape: tuple[int, ...] = (1, 16, 64), **options: Option
) -> Program:
    return program(kind, [value("x", shape, x)], [value("y", shape, y)], options, version)


def reduce(kind: str, shape: tuple[int, ...], axes: tuple[int, ...], x: Grid, y: Grid, keep: bool = True) -> Program:
    kept = np.zeros(shape).sum(axis=axes, keepdims=keep).shape
    inputs = [value("x", shape, x), int32s("axes", *axes)]
    return program(kind, inputs, [value("y", kept, y)], {"keep_dims": keep})


def pool(
    kind: str,
    size: tuple[int, int, int],
    window: tuple[int, int],
    stride: tuple[int, int],
    padding: str = "SAME",
    act: str = "NONE",
    grid: Grid = X,
) -> Program:
    rows, columns = (same(size[i], stride[i], window[i], 1, padding) for i in (0, 1))
    options: Options = {
        "padding": padding,
        "filter_height": window[0],
        "filter_width": window[1],
        "stride_h": stride[0],
        "stride_w": stride[1],
        "fused_activation_function": act,
    }
    return program(kind, [value("x", (1, *size), grid)], [value("y", (1, rows, columns, size[2]), grid)], options)


def convert(source: str, x: Grid | None, target: str, y: Grid | None, kind: str = "QUANTIZE") -> Program:
    return program(
        kind,
        [value("x", (1, 40, 256), x, source)],
        [value("y", (1, 40, 256), y, target)],
        {},
        1 if x is None else 2,
    )


def moved(
    kind: str,
    shape: tuple[int, ...],
    out: tuple[int, ...],
    *more: Tensor,
    options: Options | None = None,
    version: int = 2,
    outputs: int = 1,
    first: bool = True,
) -> Program:
    x = value("x", shape, X)
    inputs = [x, *more] if first else [*more, x]
    return program(kind, inputs, [value(f"y{i}", out, X) for i in range(outputs)], options or {}, version)


def several(kind: str, shapes: list[tuple[int, ...]], out: tuple[int, ...], options: Options) -> Program:
    return program(kind, [value(f"x{i}", shape, X) for i, shape in enumerate(shapes)], [value("y", out, X)], options)


# ---------------------------------------------------------------- comparison


def examples(built: Program, count: int, seed: int = 0) -> list[np.ndarray]:
    """Random integers of the whole type, every fourth example at its ends; ties and far values for floats."""
    rng = np.random.default_rng(seed)
    return [_draw(rng, built, built.tensors[index], count) for index in built.inputs]


def _draw(rng: np.random.Generator, built: Program, tensor: Tensor, count: int) -> np.ndarray:
    shape = (count, *tensor.shape[1:]) if tensor.shape[:1] == (1,) else tensor.shape
    if tensor.dtype == "float32":
        grid = built.tensors[built.outputs[0]].quantization
        step = np.float32(1) if grid is None else grid.scale[0]
        ties = (rng.integers(-300, 300, shape) + np.float32(0.5)).astype(np.float32) * step
        return np.where(rng.random(shape) < 0.3, ties, rng.normal(size=shape) * 60 * step).astype(np.float32)
    int32 = (0, 3) if built.operators[0].kind == "GATHER" else (-99, 99)
    spans = {"int8": (-128, 127), "int16": (-32768, 32767), "uint8": (0, 255), "int32": int32, "bool": (0, 1)}
    low, high = spans[tensor.dtype]
    drawn = rng.integers(low, high + 1, shape)
    ends = rng.choice([low, high], shape)
    drawn[::4] = ends[::4] if shape[0] > 3 else drawn[::4]
    return drawn.astype(tensor.dtype)


def differing(built: Program, family: str, count: int, draws: int = 1) -> tuple[int, int]:
    """How many values differ between our family and LiteRT, and of how many: `draws` times `count` examples."""
    ours, data = jax.jit(evaluate(built, family, machine=this_machine())), write(built)
    found = [_compared(ours, data, family, examples(built, count, seed)) for seed in range(draws)]
    return sum(different for different, _ in found), sum(total for _, total in found)


def _compared(ours: Callable[..., Any], data: bytes, family: str, inputs: list[np.ndarray]) -> tuple[int, int]:
    theirs = litert.run(data, inputs, family)
    assert isinstance(theirs, tuple)
    pairs = [(np.asarray(a), b) for a, b in zip(ours(*inputs), theirs, strict=True)]
    assert [(a.shape, a.dtype) for a, _ in pairs] == [(b.shape, b.dtype) for _, b in pairs]
    return sum(int((a != b).sum()) for a, b in pairs), sum(a.size for a, _ in pairs)


def a_million(built: Program, family: str) -> tuple[int, int]:
    """How many of at least a million values differ, and of how many."""
    size = sum(math.prod(built.tensors[i].shape) for i in built.outputs)
    times = -(-(10**6) // size)
    largest = max(math.prod(built.tensors[i].shape) for i in (*built.inputs, *built.outputs))
    count = min(times, 1 + 2**20 // largest)  # examples at a time: what fits into memory
    draws = -(-times // count)
    if any(built.tensors[i].shape[:1] == (1,) for i in built.inputs):
        return differing(built, family, count, draws)
    return differing(_taller(built, count), family, 1, draws)


def _taller(built: Program, times: int) -> Program:
    """A dense operator on that many times as many rows, its examples being the rows."""
    free = {*built.inputs, *built.outputs}
    tensors = [
        dataclasses.replace(tensor, shape=(times * tensor.shape[0], *tensor.shape[1:])) if i in free else tensor
        for i, tensor in enumerate(built.tensors)
    ]
    return dataclasses.replace(built, tensors=tuple(tensors))


# ---------------------------------------------------------------- the table: name -> (program, examples)

ACTS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
LEFT_TO = ((1, 30, 30, 24), (24,))
ONE_TO = ((1, 30, 30, 24), (1, 1, 1, 24))

# At least 10^6 integers each, one grid of random channels or a wide spread of scales.
LARGE: dict[str, tuple[Program, int]] = {
    "conv": (conv((64, 64, 16), 64, (3, 3)), 4),
    "depthwise": (depthwise((64, 64, 64), 64, (3, 3), y=(0.21, 11)), 4),
    "dense": (dense(2500, 96, 400), 1),
    "add": (binary("ADD", X, Y, Z), 52),
    "sub": (binary("SUB", X, Y, Z), 52),
    "mul": (binary("MUL", X, Y, Z), 52),
    "mean of the image": (reduce("MEAN", (1, 7, 7, 12800), (1, 2), X, (0.0031, -20)), 80),
    "mean of the last axis": (reduce("MEAN", (1, 12800, 33), (2,), X, (0.0031, -20), keep=False), 80),
}

CONTRACTIONS: dict[str, tuple[Program, int]] = {
    "conv, strided, relu6": (conv((33, 29, 8), 24, (3, 5), (2, 2), act="RELU6"), 4),
    "conv, valid, dilated, relu": (
        conv((19, 21, 8), 24, (3, 3), padding="VALID", dilation=(2, 3), act="RELU"),
        4,
    ),
    "conv, grouped, relu_n1_to_1": (
        conv((17, 17, 12), 24, (3, 3), groups=3, act="RELU_N1_TO_1", y=(0.0095, 3)),
        4,
    ),
    "conv 1x1, saturating": (conv((9, 9, 32), 24, (1, 1), y=NARROW), 4),
    "conv, weights split in halves": (conv((5, 5, 600), 16, (3, 3), y=(4.0, 3)), 4),
    "conv, accumulators beyond 2^24": (conv((3, 3, 1100), 8, (3, 3), y=(4.0, 3)), 4),
    "conv, tiny scales": (conv((9, 9, 8), 16, (3, 3), scale=(1e-8, 1e-6), y=(0.5, 0)), 2),
    "conv, clamp bound on a tie": (conv((9, 9, 8), 16, (1, 1), act="RELU6", y=(0.0625 * 0.75, 3)), 4),
    "depthwise, multiplier 2, strided": (depthwise((33, 31, 16), 32, (5, 3), stride=(2, 2), act="RELU"), 4),
    "depthwise, dilated, valid": (depthwise((33, 31, 16), 16, (3, 3), dilation=(2, 3), padding="VALID"), 4),
    "depthwise, stride 3, relu6": (depthwise((20, 20, 8), 8, (3, 3), stride=(3, 3), act="RELU6"), 4),
    "transposed, same": (transpose_conv((9, 9, 16), 24, 3, 2, "SAME"), 4),
    "transposed, valid": (transpose_conv((9, 7, 16), 24, 4, 3, "VALID"), 4),
    "dense, one row": (dense(1, 1280, 100, y=(2.0, 4)), 40),
    "dense, no bias, relu": (dense(30, 64, 10, "RELU", bias=False), 1),
    "dense, kept dimensions, relu6": (dense(5, 64, 10, "RELU6", keep=True), 6),
    "dense, int32 sums": (dense(4, 9000, 10, y=(9.0, 4)), 1),
    "dense, tiny scales": (dense(50, 64, 10, y=(9.0, 4), scale=(1e-7, 1e-6)), 1),
    "dense, saturating": (dense(50, 64, 10, y=(0.003, 4), scale=(1e-2, 2e-2)), 1),
    "matmul": (matmul((1, 4, 60, 64), (1, 4, 64, 96), (1, 4, 60, 96)), 4),
    "matmul, zero point on the right": (matmul((1, 4, 60, 64), (1, 4, 64, 96), (1, 4, 60, 96), 5), 4),
    "matmul, adj_y": (matmul((1, 2, 60, 64), (1, 2, 96, 64), (1, 2, 60, 96), adj_y=True), 4),
    "matmul, adj_x": (matmul((1, 2, 64, 60), (1, 2, 64, 96), (1, 2, 60, 96), adj_x=True), 4),
    "matmul, constant, broadcast": (matmul((1, 4, 60, 64), (64, 96), (1, 4, 60, 96), const=True), 4),
    "matmul, deep": (matmul((1, 20, 700), (1, 700, 30), (1, 20, 30)), 4),
}

ELEMENTWISE: dict[str, tuple[Program, int]] = {
    **{f"{kind}, {act}": (binary(kind, X, Y, Z, act), 4) for kind in ("ADD", "SUB", "MUL") for act in ACTS[1:]},
    "add, constant vector": (binary("ADD", X, Y, Z, shapes=LEFT_TO, const=True), 4),
    "sub, constant vector": (binary("SUB", X, Y, Z, shapes=LEFT_TO, const=True), 4),
    "mul, constant scalar": (binary("MUL", X, Y, Z, shapes=((1, 30, 30, 24), ()), const=True), 4),
    "mul, broadcast": (binary("MUL", X, Y, Z, shapes=ONE_TO), 4),
    "add, far scales": (binary("ADD", (0.001, -7), (0.9, 17), (0.95, -120)), 4),
    "add, at the window's top": (binary("ADD", (0.255, -7), (0.001, 17), (0.001, 3)), 4),
    "add, saturating": (binary("ADD", X, Y, NARROW), 4),
    "sub, beyond the window": (binary("SUB", (0.5, -7), (0.0004, 17), (0.6, 3)), 4),
    "mul, powers of two: ties": (binary("MUL", (0.5, 0), (0.25, 0), (0.25, 0)), 4),
    "mul, above 1": (binary("MUL", (0.9, -7), (0.8, 17), (0.007, 3), version=3), 4),
    "mul, beyond the window": (binary("MUL", (0.003, -128), (0.0025, 127), (0.6, 3)), 4),
    "squared difference": (binary("SQUARED_DIFFERENCE", X, Y, (0.243, -128)), 2),
    "prelu": (
        binary("PRELU", X, (0.0021, 5), Z, shapes=((1, 20, 20, 32), (1, 1, 32)), const=True, version=1),
        2,
    ),
    "maximum": (binary("MAXIMUM", X, X, X), 2),
    "minimum": (binary("MINIMUM", X, X, X, shapes=LEFT_TO, const=True), 2),
}

POOLED: dict[str, tuple[Program, int]] = {
    "average": (pool("AVERAGE_POOL_2D", (28, 28, 32), (3, 3), (2, 2)), 4),
    "average, valid, whole image": (pool("AVERAGE_POOL_2D", (7, 7, 300), (7, 7), (1, 1), "VALID"), 4),
    "average, uneven, relu6": (pool("AVERAGE_POOL_2D", (13, 15, 16), (2, 4), (3, 1), act="RELU6"), 4),
    "maximum": (pool("MAX_POOL_2D", (28, 28, 32), (3, 3), (2, 2)), 4),
    "maximum, valid, relu": (pool("MAX_POOL_2D", (13, 15, 16), (2, 4), (3, 1), "VALID", "RELU"), 4),
    "mean, one dropped axis": (reduce("MEAN", (1, 197, 64), (1,), X, (0.0031, 5), keep=False), 4),
    "mean, all axes, coarse": (reduce("MEAN", (1, 12, 12, 64), (1, 2, 3), X, (0.9, 5)), 8),
    "mean, image, fine": (reduce("MEAN", (1, 9, 11, 64), (1, 2), (0.1, -128), (0.0007, 5), keep=False), 4),
    "sum, image": (reduce("SUM", (1, 7, 7, 64), (1, 2), (0.0473, 7), (1.37, -20)), 8),
    "sum, equal grids": (reduce("SUM", (1, 9, 64), (1,), X, X, keep=False), 8),
    "sum, saturating": (reduce("SUM", (1, 300, 33), (2,), (0.0473, -128), (0.05, 9), keep=False), 8),
    "reduce max": (reduce("REDUCE_MAX", (1, 9, 11, 64), (1, 2), X, X), 4),
    "reduce min": (reduce("REDUCE_MIN", (1, 9, 11, 64), (3,), X, X, keep=False), 4),
}

UNARY: dict[str, tuple[Program, int]] = {
    "relu": (unary("RELU", X, NARROW), 4),
    "relu, equal grids": (unary("RELU", X, X), 4),
    "relu6": (unary("RELU6", (0.0473, 7), (0.0301, -100)), 4),
    "relu_n1_to_1": (unary("RELU_N1_TO_1", (0.0473, 7), (0.0095, 3), 1), 4),
    "logistic": (unary("LOGISTIC", (0.0473, 7), (1 / 256, -128)), 4),
    "logistic, wide": (unary("LOGISTIC", (1.7, -90), (1 / 256, -128)), 4),
    "tanh": (unary("TANH", (0.0273, 7), (1 / 128, 0)), 4),
    "hard swish": (unary("HARD_SWISH", (0.0473, 7), (0.0301, -115), 1), 4),
    "hard swish, fine input": (unary("HARD_SWISH", (0.007, -7), (0.0101, 90), 1), 4),
    "hard swish, coarse input": (unary("HARD_SWISH", (0.31, 40), (0.25, -100), 1), 4),
    "softmax of 10": (unary("SOFTMAX", (0.11, 5), (1 / 256, -128), shape=(1, 300, 10), beta=1.0), 8),
    "softmax of 300": (unary("SOFTMAX", (0.043, 5), (1 / 256, -128), shape=(1, 100, 300), beta=1.0), 4),
    "softmax of 2, steep, beta": (
        unary("SOFTMAX", (0.9, 5), (1 / 256, -128), shape=(1, 300, 2), beta=2.5),
        4,
    ),
    "leaky relu": (unary("LEAKY_RELU", (0.0473, 7), (0.0301, -60), 2, alpha=0.1), 4),
    "leaky relu, beyond the window": (unary("LEAKY_RELU", (0.01, 7), (3.1, -60), 2, alpha=0.3), 4),
    "gelu": (unary("GELU", (0.0473, 7), (0.0301, -122), approximate=False), 2),
    "gelu by tanh": (unary("GELU", (0.0473, 7), (0.0301, -122), approximate=True), 2),
    "exp": (unary("EXP", (0.0173, 60), (0.0211, -128)), 2),
    "log": (unary("LOG", (0.0173, -90), (0.0211, 60)), 2),
    "rsqrt": (unary("RSQRT", (0.0473, -128), (0.0211, -128)), 2),
    "sqrt": (unary("SQRT", (0.0473, -128), (0.0211, -128), 1), 2),
    "abs": (unary("ABS", (0.0473, 7), (0.0301, -128)), 2),
    "l2": (unary("L2_NORMALIZATION", (0.04, 4), (1 / 128, 0), shape=(1, 300, 37)), 4),
    "l2 of 1": (unary("L2_NORMALIZATION", (0.04, 4), (1 / 128, 0), shape=(1, 300, 1)), 4),
}

CONVERTED: dict[str, tuple[Program, int]] = {
    "float to int8": (convert("float32", None, "int8", (0.0311, 9)), 8),
    "float to uint8": (convert("float32", None, "uint8", (0.0311, 77)), 8),
    "int8 to int8": (convert("int8", (0.0473, 7), "int8", (0.0301, -20)), 2),
    "int8 to int8, beyond the window": (convert("int8", (0.0021, 7), "int8", (0.93, -20)), 2),
    "int8 to int8, equal scales": (convert("int8", X, "int8", (X[0], 20)), 2),
    "int8 to uint8": (convert("int8", (0.0473, 7), "uint8", (0.31, 126)), 2),
    "int8 to uint8, shifted by 128": (convert("int8", X, "uint8", (X[0], X[1] + 128)), 2),
    "uint8 to int8": (convert("uint8", (0.045, 241), "int8", (0.31, 126)), 2),
    "uint8 to uint8": (convert("uint8", (0.045, 241), "uint8", (0.031, 26)), 2),
    "int8 to float": (convert("int8", X, "float32", None, "DEQUANTIZE"), 2),
    "uint8 to float": (convert("uint8", (0.045, 241), "float32", None, "DEQUANTIZE"), 2),
}


def table_of_256(dtype: str) -> Tensor:
    entries = np.random.default_rng(8).integers(-128, 128, 256)
    data = entries > 0 if dtype == "bool" else entries.astype(np.int8)
    return Tensor("t", (256,), dtype, None if dtype == "bool" else Quantization.of(*X), data)


MASK = Tensor("m", (1, 6, 4), "bool", None, np.random.default_rng(8).random((1, 6, 4)) < 0.5)
SLICE_MASKS: Options = {
    "begin_mask": 0b0010,
    "end_mask": 0b0100,
    "shrink_axis_mask": 0b1000,
    "ellipsis_mask": 0,
    "new_axis_mask": 0,
}
PADDING = Tensor("p", (3, 2), "int32", None, np.array([[0, 0], [1, 2], [0, 1]], np.int32))
LOWEST = Tensor("v", (1,), "int8", Quantization.of(*X), np.array([-128], np.int8))
NO_ACT: Options = {"axis": -1, "fused_activation_function": "NONE"}
MOVED: dict[str, tuple[Program, int]] = {
    "reshape": (moved("RESHAPE", (1, 4, 6, 8), (1, 24, 8), int32s("s", 1, 24, 8), version=1), 3),
    "squeeze": (moved("SQUEEZE", (1, 1, 6, 1), (1, 6), options={"squeeze_dims": (1, 3)}, version=1), 3),
    "expand dims": (moved("EXPAND_DIMS", (1, 6), (1, 1, 6), int32s("a", 1), version=1), 3),
    "transpose": (moved("TRANSPOSE", (1, 4, 6, 8), (1, 8, 4, 6), int32s("p", 0, 3, 1, 2)), 3),
    "pad": (moved("PAD", (1, 4, 6), (1, 7, 7), PADDING), 3),
    "padv2": (moved("PADV2", (1, 4, 6), (1, 7, 7), PADDING, LOWEST), 3),
    "concatenation": (several("CONCATENATION", [(1, 4, 6), (1, 4, 2), (1, 4, 1)], (1, 4, 9), NO_ACT), 3),
    "split": (moved("SPLIT", (1, 4, 9), (1, 4, 3), int32s("a", 2), options={"num_splits": 3}, outputs=3,
                    first=False), 3),
    "slice": (moved("SLICE", (1, 4, 9), (1, 2, 4), int32s("b", 0, 1, 5), int32s("s", 1, 2, -1)), 3),
    "strided slice": (moved("STRIDED_SLICE", (1, 9, 8, 7), (1, 3, 6), int32s("b", 0, 5, 2, -3),
                            int32s("e", 1, 6, 0, 0), int32s("s", 1, 2, 1, 1), options=SLICE_MASKS), 3),
    "strided slice, backwards": (moved("STRIDED_SLICE", (1, 9), (1, 4), int32s("b", 0, 8), int32s("e", 1, 0),
                                       int32s("s", 1, -2)), 3),
    "cast": (program("CAST", [value("x", (1, 40), (X[0], 121), "uint8")], [value("y", (1, 40), None, "int32")],
                     {"in_data_type": 3, "out_data_type": 2}, 1), 9),
    "cast of int8": (program("CAST", [value("x", (1, 40), X)], [value("y", (1, 40), None, "int32")],
                             {"in_data_type": 9, "out_data_type": 2}, 1), 9),
    "add of int32": (program("ADD", [value("x", (1, 40), None, "int32"), int32s("b", 128)],
                             [value("y", (1, 40), None, "int32")], {"fused_activation_function": "NONE"}, 1), 9),
    "look-up": (program("GATHER", [table_of_256("int8"), value("i", (1, 40), None, "int32")],
                        [value("y", (1, 40), X)], {"axis": 0}), 9),
    "look-up of booleans": (program("GATHER", [table_of_256("bool"), value("i", (1, 40), None, "int32")],
                                    [value("y", (1, 40), None, "bool")], {"axis": 0}, 3), 9),
    "broadcast to": (moved("BROADCAST_TO", (1, 4, 1, 6), (1, 4, 3, 6), int32s("s", 1, 4, 3, 6)), 3),
    "select": (program("SELECT_V2", [MASK, value("a", (1, 6, 4), X), value("b", (1, 6, 4), X)],
                       [value("y", (1, 6, 4), X)], {}, 1), 9),
    "gather": (moved("GATHER", (1, 9, 4), (1, 3, 4), int32s("i", 7, 0, 7), options={"axis": 1}), 3),
    "pack": (several("PACK", [(1, 4), (1, 4)], (1, 2, 4), {"axis": 1, "values_count": 2}), 3),
    "unpack": (moved("UNPACK", (1, 2, 4), (1, 4), options={"axis": 1, "num": 2}, outputs=2), 3),
    "split v": (moved("SPLIT_V", (1, 4, 9), (1, 4, 3), int32s("s", 3, 3, 3), int32s("a", 2),
                      options={"num_splits": 3}, outputs=3), 3),
    "tile": (moved("TILE", (1, 4, 6), (1, 8, 6), int32s("m", 1, 2, 1)), 3),
    "top k": (
        program("TOPK_V2", [value("x", (1, 4, 90), X), Tensor("k", (), "int32", None, np.array(40, np.int32))],
                [value("y", (1, 4, 40), X), Tensor("places", (1, 4, 40), "int32")], {}), 3),
    "arg max": (program("ARG_MAX", [value("x", (1, 4, 9), X), int32s("a", 2)], [Tensor("y", (1, 4), "int32")],
                        {"output_type": 2}), 3),
    "arg min": (program("ARG_MIN", [value("x", (1, 4, 9), X), int32s("a", 2)], [Tensor("y", (1, 4), "int32")],
                        {"output_type": 2}), 3),
    "reverse": (moved("REVERSE_V2", (1, 4, 6), (1, 4, 6), int32s("a", 1), version=3), 3),
    "reverse, two axes": (moved("REVERSE_V2", (1, 4, 6), (1, 4, 6), int32s("a", 1, 2), version=3), 3),
    "cumsum": (program("CUMSUM", [Tensor("x", (1, 9, 4), "int32"), int32s("a", 1)], [Tensor("y", (1, 9, 4), "int32")],
                       {"exclusive": False, "reverse": False}, 1), 3),
    "cumsum, exclusive, reverse": (
        program("CUMSUM", [Tensor("x", (1, 9, 4), "int32"), int32s("a", 1)], [Tensor("y", (1, 9, 4), "int32")],
                {"exclusive": True, "reverse": True}, 1), 3),
    "floor div": (program("FLOOR_DIV", [Tensor("x", (1, 9, 4), "int32"), int32s("b", -2, -1, 2, 3)],
                          [Tensor("y", (1, 9, 4), "int32")], {}, 1), 3),
    "floor mod": (program("FLOOR_MOD", [Tensor("x", (1, 9, 4), "int32"), int32s("b", -7, -1, 2, 3)],
                          [Tensor("y", (1, 9, 4), "int32")], {}, 1), 3),
    **{
        f"{kind.lower()} of int32": (
            program(kind, [Tensor("x", (1, 9, 4), "int32"), int32s("b", -7, 2**31 - 1, 2, 3)],
                    [Tensor("y", (1, 9, 4), "int32")], {"fused_activation_function": "NONE"}, 1), 3)
        for kind in ("ADD", "DIV", "MUL", "SUB")
    },
    **{
        f"{kind.lower()} of int32": (
            program(kind, [Tensor("x", (1, 9, 4), "int32"), int32s("a", 1)], [Tensor("y", (1, 4), "int32")],
                    {"keep_dims": False}, 1), 3)
        for kind in ("REDUCE_MAX", "REDUCE_MIN", "SUM")
    },
}  # fmt: skip

COARSE: dict[str, Any] = {"y": (0.5, 0), "scale": (0.003, 0.03)}
LEAST: dict[str, Any] = {"y": (0.05, 3), "scale": (0.003, 0.03)}  # scales at which few of the outputs saturate
PACKED: dict[str, tuple[Program, int]] = {
    "conv": (packed(conv((33, 33, 16), 64, (3, 3), **LEAST)), 8),
    "conv, one tap": (packed(conv((33, 33, 16), 64, (1, 1), **LEAST)), 8),
    "conv, strided, relu6": (packed(conv((33, 29, 15), 31, (3, 5), (2, 2), act="RELU6", **LEAST)), 4),
    "conv, valid, dilated, relu_n1_to_1": (
        packed(conv((19, 21, 8), 24, (3, 3), padding="VALID", dilation=(2, 3), act="RELU_N1_TO_1", y=(0.0095, 3))),
        4,
    ),
    "conv, clamp bound on a tie": (packed(conv((9, 9, 8), 16, (1, 1), act="RELU6", y=(0.0625 * 0.75, 3))), 4),
    "conv, grouped": (packed(conv((17, 17, 12), 24, (3, 3), groups=3, **LEAST)), 4),
    "conv, saturating": (packed(conv((9, 9, 8), 16, (3, 3), scale=(0.03, 0.3), y=(0.001, 3))), 2),
    "conv, tiny scales": (packed(conv((9, 9, 8), 16, (3, 3), scale=(1e-8, 1e-6), y=(0.5, 0))), 2),
    "dense": (packed(dense(1000, 96, 64, **LEAST)), 1),
    "dense, odd number of inputs": (packed(dense(1000, 95, 64, **LEAST)), 1),
    "dense, one row, odd": (packed(dense(1, 95, 64, **LEAST)), 40),
    "dense, kept dimensions, relu6": (packed(dense(5, 64, 10, "RELU6", keep=True)), 6),
    "dense, no bias, relu": (packed(dense(30, 64, 10, "RELU", bias=False)), 1),
}

SIXTEEN: dict[str, tuple[Program, int]] = {
    "conv": (wide(conv((64, 64, 16), 64, (3, 3), **COARSE)), 4),
    "conv, relu6, strided": (wide(conv((33, 29, 8), 24, (3, 5), (2, 2), act="RELU6", **COARSE)), 4),
    "conv, grouped": (wide(conv((17, 17, 12), 24, (3, 3), groups=3, **COARSE)), 4),
    "conv, dilated, valid": (wide(conv((19, 21, 8), 24, (3, 3), padding="VALID", dilation=(2, 3), **COARSE)), 4),
    "conv, int64 bias": (wide(conv((17, 17, 12), 24, (3, 3), **COARSE), bias="int64"), 4),
    "depthwise": (wide(depthwise((64, 64, 64), 64, (3, 3), y=(0.21, 0)), bias="int64"), 4),
    "depthwise, multiplier 2, relu6": (
        wide(depthwise((33, 31, 16), 32, (5, 3), stride=(2, 2), act="RELU6", y=(0.21, 0)), bias="int64"),
        4,
    ),
    "dense": (wide(dense(2500, 96, 64, **COARSE)), 1),
    "dense, relu, kept dimensions": (wide(dense(5, 64, 10, "RELU", keep=True, **COARSE)), 6),
    "dense, tiny scales": (wide(dense(50, 64, 10, y=(9.0, 0), scale=(1e-6, 1e-5))), 1),
    "add": (wide(binary("ADD", X, Y, Z)), 52),
    "add, not in sixteens, relu6": (wide(binary("ADD", X, Y, Z, "RELU6", shapes=((1, 333, 31), (1, 333, 31)))), 40),
    "add, broadcast": (wide(binary("ADD", X, Y, Z, shapes=ONE_TO)), 4),
    "sub": (wide(binary("SUB", X, Y, Z)), 52),
    "mul": (wide(binary("MUL", X, Y, Z)), 52),
    "mul, broadcast, relu": (wide(binary("MUL", X, Y, Z, "RELU", shapes=ONE_TO)), 4),
    "mean of the image": (wide(reduce("MEAN", (1, 7, 7, 1280), (1, 2), X, (0.0091, 0))), 40),
    "mean of the last axis": (wide(reduce("MEAN", (1, 1280, 33), (2,), X, (0.0091, 0), keep=False)), 40),
    "average": (wide(pool("AVERAGE_POOL_2D", (28, 28, 32), (3, 3), (2, 2))), 4),
    "average, valid, relu6": (wide(pool("AVERAGE_POOL_2D", (28, 28, 32), (3, 3), (2, 2), "VALID", "RELU6")), 4),
    "maximum of windows": (wide(pool("MAX_POOL_2D", (28, 28, 32), (3, 3), (2, 2))), 4),
    "relu": (wide(unary("RELU", X, X)), 4),
    "relu6": (wide(unary("RELU6", X, X)), 4),
    "logistic": (squashed("LOGISTIC", 3e-4), 1),
    "logistic, coarse": (squashed("LOGISTIC", 0.0117), 1),
    "logistic, a power of two": (squashed("LOGISTIC", 2.0**-13), 1),
    "tanh": (squashed("TANH", 3.1e-4), 1),
    "tanh, fine": (squashed("TANH", 2.1e-6), 1),
    "softmax": (squashed("SOFTMAX", 2.7e-4, (1, 640, 10)), 1),
    "softmax, one class": (squashed("SOFTMAX", 2.7e-4, (1, 64, 1)), 1),
    "softmax, flat": (squashed("SOFTMAX", 1.3e-6, (1, 20, 700)), 1),
    "softmax, steep": (squashed("SOFTMAX", 0.02, (1, 640, 10), 0.5), 1),
    "maximum": (wide(binary("MAXIMUM", X, X, X)), 2),
    "minimum": (wide(binary("MINIMUM", X, X, X, shapes=LEFT_TO)), 2),
    "to int8": (convert("int16", (0.0473 / 200, 0), "int8", (0.0301, -20)), 8),
    "to int8, a 256th": (convert("int16", (0.0473 / 256, 0), "int8", (0.0473, 0)), 8),
    "from int8": (convert("int8", (0.0473, 7), "int16", (0.0473, 0)), 2),
    "to int16": (convert("int16", (0.0473 / 200, 0), "int16", (0.0301 / 200, 0)), 8),
    "from float": (convert("float32", None, "int16", (0.0311 / 200, 0)), 8),
    "to float": (wide(convert("int8", X, "float32", None, "DEQUANTIZE")), 2),
}

SIZES = {
    "twice": (8, 6, 16, 12),
    "odd": (9, 11, 21, 30),
    "less": (13, 9, 5, 4),
    "one": (5, 7, 1, 1),
    "wide": (3, 40, 7, 61),
}
CENTRES = {"": {}, ", corners": {"align_corners": True}, ", half pixels": {"half_pixel_centers": True}}


def resized(kind: str, size: tuple[int, int, int, int], **options: bool) -> Program:
    h, w, rows, columns = size
    options = {"align_corners": False, "half_pixel_centers": False, **options}
    return moved(kind, (1, h, w, 24), (1, rows, columns, 24), int32s("s", rows, columns), options=options, version=3)


RESIZED: dict[str, tuple[Program, int]] = {
    f"{name}, {size}{centre}": (resized(kind, shape, **options), 4)
    for name, kind in (("bilinear", "RESIZE_BILINEAR"), ("nearest", "RESIZE_NEAREST_NEIGHBOR"))
    for size, shape in SIZES.items()
    for centre, options in CENTRES.items()
}

TABLES = {
    "resized": RESIZED,
    "sixteen bits": SIXTEEN,
    "packed": PACKED,
    "large": LARGE,
    "contraction": CONTRACTIONS,
    "elementwise": ELEMENTWISE,
    "pooled": POOLED,
    "unary": UNARY,
    "converted": CONVERTED,
    "moved": MOVED,
}
CASES = {f"{table}: {name}": case for table, cases in TABLES.items() for name, case in cases.items()}


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("name", CASES)
def test_every_integer_equals_litert(name: str, family: str) -> None:
    built, count = CASES[name]
    different, total = differing(built, family, count)
    assert (different, total) == (0, total)
    assert total >= (10**6 if name.startswith("large") else 1)


@pytest.mark.slow
@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("name", [name for name in CASES if not name.startswith("large")])
def test_a_million_integers_equal_litert(name: str, family: str) -> None:
    different, total = a_million(CASES[name][0], family)
    assert different == 0
    assert total >= 10**6


@pytest.mark.parametrize("kind, power", [("LOGISTIC", -12), ("TANH", -12), ("TANH", -11)])
def test_scales_that_litert_takes_for_powers_of_two(kind: str, power: int) -> None:
    """The reference kernel shifts; LiteRT's other one has arithmetic of its own, off by up to ten steps."""
    for scale in (2.0**power, 2.0**power * 1.0006, 2.0**power * 0.9994):
        built = squashed(kind, scale)
        assert differing(built, "reference", 1)[0] == 0
        with pytest.raises(ExportError, match=rf"{kind} of int16 with scale .*, near 2\^{power}: LiteRT's kernel"):
            evaluate(built, "xnnpack")(*(jnp.zeros(built.tensors[i].shape, jnp.int16) for i in built.inputs))
    assert differing(squashed(kind, 2.0**power * 1.0008), "xnnpack", 1)[0] == 0


def rows_with_every_sum(count: int) -> np.ndarray:
    """int8 rows of `count` values, one row for each sum that they can have."""
    sums = np.arange(-128 * count, 127 * count + 1)
    base = sums // count
    return (base[:, None] + (np.arange(count) < (sums - base * count)[:, None])).astype(np.int8)


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("x, y, count", [((0.0915, -50), (0.0154, -68), 38), ((0.125, 99), (0.0625, -3), 96)])
def test_mean_of_every_possible_sum(x: Grid, y: Grid, count: int, family: str) -> None:
    """Random rows hardly ever come near a tie; the exhaustive list does."""
    rows = rows_with_every_sum(count)[None]
    built = reduce("MEAN", rows.shape, (2,), x, y, keep=False)
    (ours,) = jax.jit(evaluate(built, family, machine=this_machine()))(rows)
    (theirs,) = litert.run(write(built), [rows], family)
    assert int((np.asarray(ours) != theirs).sum()) == 0


def test_an_op_of_xnnpack_alone() -> None:
    built = unary("ELU", (0.0473, 7), (0.0301, -90), 1)
    assert differing(built, "xnnpack", 8)[0] == 0
    with pytest.raises(ExportError, match="reference family has no exact kernel for ELU"):
        evaluate(built, "reference")


OUTSIDE: dict[str, tuple[Program, str, str]] = {
    "xnnpack add": (binary("ADD", (0.0005, 0), (0.5, 0), (0.6, 0)), "xnnpack", "ADD: s_in / s_y = 0.00083"),
    "xnnpack mul": (binary("MUL", (30.0, 0), (2.0, 0), (0.1, 0)), "xnnpack", "MUL: s_1 s_2 / s_y = 600"),
    "xnnpack conv": (conv((4, 4, 4), 4, (1, 1), scale=(9.0, 10.0), y=(1e-4, 0)), "xnnpack", ">= 256"),
    "reference add": (binary("ADD", (0.9, 0), (0.9, 0), (1e-6, 0)), "reference", "aborts TFLite"),
    "unknown activation": (binary("ADD", X, Y, Z, "TANH"), "reference", "fused activation TANH"),
}  # fmt: skip


@pytest.mark.parametrize("name", OUTSIDE)
def test_unmodelled_arithmetic_is_refused(name: str) -> None:
    built, family, message = OUTSIDE[name]
    with pytest.raises(ExportError, match=message):
        evaluate(built, family)(*examples(built, 1))


# ---------------------------------------------------------------- evaluate and run


def chain() -> Program:
    """conv -> relu6 conv -> mean -> dense -> softmax, with every intermediate on its own grid."""
    w1, b1 = weights((8, 3, 3, 3), 0, (0.001, 0.01), 0, X)
    w2, b2 = weights((10, 8), 0, (0.001, 0.01), 1, (0.02, 1))
    tensors = (
        value("x", (1, 12, 12, 3), X), w1, b1, value("h", (1, 12, 12, 8), (0.05, -128)), int32s("axes", 1, 2),
        value("m", (1, 8), (0.02, 1)), w2, b2, value("l", (1, 10), (0.1, 3)),
        value("p", (1, 10), (1 / 256, -128)),
    )  # fmt: skip
    same_padding = {"padding": "SAME", "stride_h": 1, "stride_w": 1, "fused_activation_function": "RELU6",
                    "dilation_h_factor": 1, "dilation_w_factor": 1}  # fmt: skip
    operators = (
        Operator("CONV_2D", (0, 1, 2), (3,), same_padding, 3),
        Operator("MEAN", (3, 4), (5,), {"keep_dims": False}, 2),
        Operator("FULLY_CONNECTED", (5, 6, 7), (8,), {}, 4),
        Operator("SOFTMAX", (8,), (9,), {"beta": 1.0}, 2),
    )
    return Program(tensors, operators, (0,), (9,))


@pytest.mark.parametrize("family", BOTH)
def test_every_tensor_of_a_chain(family: str) -> None:
    built = chain()
    inputs = examples(built, 9)
    ours = jax.jit(evaluate(built, family, machine=this_machine(), every_tensor=True))(*inputs)
    theirs = litert.run(write(built), inputs, family, every_tensor=True)
    assert isinstance(ours, dict) and isinstance(theirs, dict)
    assert sorted(ours) == sorted(theirs) == [0, 3, 5, 8, 9]
    assert {i: int((np.asarray(ours[i]) != theirs[i]).sum()) for i in ours} == dict.fromkeys(ours, 0)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit, lambda f: lambda x: [y[:, 0] for y in jax.vmap(f)(x[:, None])]])
def test_batches_jit_and_vmap_agree(wrap: Callable) -> None:
    built = chain()
    (images,) = examples(built, 3)
    function = evaluate(built)
    example = jax.jit(function)
    one_by_one = np.concatenate([np.asarray(example(image[None])[0]) for image in images])
    assert (np.asarray(wrap(function)(images)[0]) == one_by_one).all()


def test_wrong_inputs_are_named() -> None:
    function = evaluate(chain())
    with pytest.raises(InputError, match="'x' is int32"):
        function(jnp.zeros((1, 12, 12, 3), jnp.int32))
    with pytest.raises(InputError, match=r"the file says \(1, 12, 12, 3\)"):
        function(jnp.zeros((1, 12, 11, 3), jnp.int8))
    with pytest.raises(InputError, match="0 inputs"):
        function()


def test_unknown_family() -> None:
    with pytest.raises(ExportError, match="No kernel family 'ruy'. Families: xnnpack, reference, tflm"):
        evaluate(chain(), "ruy")
    with pytest.raises(ExportError, match="No runtime has a kernel family 'ruy'. Families: xnnpack, reference, tflm"):
        litert.run(write(chain()), examples(chain(), 1), "ruy")


def test_families_are_whole_tables() -> None:
    assert set(FAMILIES) == set(litert.FAMILIES)
    assert litert.runtime_version().startswith("ai-edge-litert ")


# ---------------------------------------------------------------- fixed point against int64

INT32 = st.integers(-(2**31), 2**31 - 1)
VECTOR = st.lists(INT32, min_size=8, max_size=8)


def srdhm64(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    product = a.astype(np.int64) * b.astype(np.int64)
    shifted = product + np.where(product >= 0, 1 << 30, 1 - (1 << 30))
    quotient = np.where(shifted >= 0, shifted >> 31, -((-shifted) >> 31))
    return np.minimum(quotient, 2**31 - 1)


def rounding_divide64(x: np.ndarray, exponent: int) -> np.ndarray:
    wide = x.astype(np.int64)
    half = (1 << exponent) >> 1
    return np.where(wide >= 0, (wide + half) >> exponent, -((-wide + half) >> exponent))


def ints(numbers: list[int]) -> np.ndarray:
    return np.array(numbers, np.int64).astype(np.int32)


@given(VECTOR, VECTOR)
@settings(deadline=None)
def test_srdhm(a: list[int], b: list[int]) -> None:
    got = fixedpoint.srdhm(jnp.asarray(ints(a)), ints(b))
    assert (np.asarray(got) == srdhm64(ints(a), ints(b))).all()


def test_srdhm_at_the_corners() -> None:
    corners = ints([-(2**31), -(2**31) + 1, -(2**30), -1, 0, 1, 2**15, 2**16, 2**30, 2**31 - 1])
    a, b = (axis.reshape(-1) for axis in np.meshgrid(corners, corners))
    assert (np.asarray(fixedpoint.srdhm(jnp.asarray(a), b)) == srdhm64(a, b)).all()


@given(VECTOR, st.integers(0, 31))
@settings(deadline=None)
def test_rounding_divide_by_pot(x: list[int], exponent: int) -> None:
    got = fixedpoint.rounding_divide_by_pot(jnp.asarray(ints(x)), exponent)
    assert (np.asarray(got) == rounding_divide64(ints(x), exponent)).all()


@given(st.floats(2.0**-40, 2.0**20))
def test_quantize_multiplier(real: float) -> None:
    q, shift = (int(part) for part in fixedpoint.quantize_multiplier(real))
    assert q == 0 or 1 << 30 <= q < 1 << 31
    assert math.isclose(q * 2.0 ** (shift - 31), real, rel_tol=2.0**-31) or (q == 0 and real < 2.0**-31)


@given(st.lists(st.integers(-(2**24), 2**24), min_size=8, max_size=8), st.floats(2.0**-31, 2.0**6))
@settings(deadline=None)
def test_multiply_by_quantized_multiplier(x: list[int], real: float) -> None:
    q, shift = fixedpoint.quantize_multiplier(real)
    got = fixedpoint.multiply_by_quantized_multiplier(jnp.asarray(ints(x)), (q, shift))
    left, right = max(int(shift), 0), max(-int(shift), 0)
    want = rounding_divide64(srdhm64(ints(x) << left, np.broadcast_to(q, 8)), right)
    assert (np.asarray(got) == want).all()


@given(VECTOR, st.lists(st.floats(2.0**-30, 2.0), min_size=8, max_size=8))
@settings(deadline=None)
def test_requantize_double(acc: list[int], reals: list[float]) -> None:
    m = np.array(reals)
    near = ints(acc) // np.maximum((2**31 * m / 100).astype(np.int64), 1)  # most within the output's range
    got = fixedpoint.requantize_double(jnp.asarray(near.astype(np.int32)), m, -128, 127)
    product = near * m
    want = np.clip(
        np.trunc(product) + np.where(np.abs(product - np.trunc(product)) >= 0.5, np.sign(product), 0),
        -128,
        127,
    )
    assert (np.asarray(got) == want).all()


@given(st.lists(st.integers(-32768, 32767), min_size=8, max_size=8), st.integers(-32768, 32767))
@settings(deadline=None)
def test_srdhm16(a: list[int], b: int) -> None:
    product = ints(a).astype(np.int64) * b + np.where(ints(a).astype(np.int64) * b >= 0, 1 << 14, 1 - (1 << 14))
    want = np.clip(np.where(product >= 0, product >> 15, -((-product) >> 15)), -32768, 32767)
    assert (np.asarray(fixedpoint.srdhm16(jnp.asarray(ints(a)), b)) == want).all()
