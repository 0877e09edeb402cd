"""Shapes, options and constants are held against the operators when a file is loaded."""

from __future__ import annotations

import dataclasses
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest

import jaxq
from jaxq.errors import FormatError
from jaxq.export.evaluate import variables
from jaxq.export.evaluate.kernels import floats
from jaxq.export.evaluate.kernels.machine import PHONE, machine_named
from jaxq.export.evaluate.load import load_program
from jaxq.export.evaluate.program import FAMILIES, evaluate
from jaxq.export.flatbuffer.attached import attached
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor
from jaxq.export.shapes import check, faults
from jaxq.export.shapes.table import SHAPES
from tests.test_kernels import CASES

GOLDEN = Path(__file__).parent / "golden"
GRID = Quantization.of(0.05, -3)


def x(*shape: int, dtype: str = "int8", scale: float = 0.05, zero_point: int = -3) -> Tensor:
    return Tensor("x", shape, dtype, Quantization.of(scale, zero_point))


def w(*shape: int) -> Tensor:
    return Tensor("w", shape, "int8", Quantization.of(0.01), np.ones(shape, np.int8))


def i(*numbers: int) -> Tensor:
    return Tensor("i", (len(numbers),), "int32", None, np.array(numbers, np.int32))


def pads(*rows: tuple[int, int]) -> Tensor:
    return Tensor("p", (len(rows), 2), "int32", None, np.array(rows, np.int32))


def one(kind: str, inputs: list[Tensor], *outputs: Tensor, **options: Option) -> Program:
    tensors, n = (*inputs, *outputs), len(inputs)
    op = Operator(kind, tuple(range(n)), tuple(range(n, len(tensors))), options)
    return Program(tensors, (op,), tuple(k for k, t in enumerate(inputs) if t.data is None), op.outputs)


CONV = {"stride_h": 1, "stride_w": 1, "padding": "VALID"}
POOL = {"filter_height": 2, "filter_width": 2, **CONV}
WRONG: dict[str, tuple[Program, str]] = {
    "rank": (one("CONV_2D", [x(4, 4, 3), w(5, 1, 1, 3)], x(4, 4, 5), **CONV), "of rank 4"),
    "groups": (one("CONV_2D", [x(1, 4, 4, 4), w(5, 1, 1, 3)], x(1, 4, 4, 5), **CONV), "for 4 channels"),
    "stride": (one("CONV_2D", [x(1, 4, 4, 3), w(5, 1, 1, 3)], x(1, 4, 4, 5), padding="SAME"), "stride_h 0; it takes 1"),
    "window": (one("CONV_2D", [x(1, 2, 2, 3), w(5, 3, 3, 3)], x(1, 1, 1, 5), **CONV), "a window of 3 on an axis of 2"),
    "bias": (
        one("CONV_2D", [x(1, 2, 2, 3), w(5, 1, 1, 3), i(1, 2)], x(1, 2, 2, 5), **CONV),
        "bias of shape .2,. for 5",
    ),
    "depthwise": (one("DEPTHWISE_CONV_2D", [x(1, 2, 2, 3), w(1, 1, 1, 4)], x(1, 2, 2, 4), **CONV), "for 3 channels"),
    "transposed": (
        one("TRANSPOSE_CONV", [i(1, 9, 2, 5), w(5, 1, 1, 3), x(1, 2, 2, 3)], x(1, 9, 2, 5), **CONV),
        "makes 9 of 2, which with its window is made of 9",
    ),
    "dense": (one("FULLY_CONNECTED", [x(1, 7), w(5, 3)], x(1, 5)), "weights .5, 3. for an input .1, 7."),
    "dense keeps": (one("FULLY_CONNECTED", [x(2, 3), w(5, 6)], x(1, 5), keep_num_dims=True), "keeps the axes"),
    "matmul": (one("BATCH_MATMUL", [x(2, 3), x(2, 3)], x(2, 3)), "multiplies .2, 3. by .2, 3."),
    "pool": (one("MAX_POOL_2D", [x(1, 4, 4, 3)], x(1, 4, 4, 3), **POOL), "where its inputs make .1, 3, 3, 3."),
    "resize": (one("RESIZE_BILINEAR", [x(1, 4, 4, 3), i(0, 8)], x(1, 0, 8, 3)), "rows and columns .0, 8."),
    "broadcast": (one("ADD", [x(1, 4), x(1, 3)], x(1, 4)), "broadcasts shapes"),
    "slopes": (one("PRELU", [x(1, 4), x(2, 4)], x(2, 4)), "slopes of shape .2, 4."),
    "axis": (one("MEAN", [x(1, 4), i(2)], x(1)), "axis 2 of a tensor of rank 2"),
    "an axis twice": (one("MEAN", [x(1, 4), i(1, -1)], x(1)), "one of them twice"),
    "nothing to reduce": (one("MEAN", [x(1, 0), i(1)], x(1)), "has nothing there"),
    "arg max": (one("ARG_MAX", [x(1, 4), i(-3)], Tensor("y", (1,), "int32")), "axis -3"),
    "softmax of a scalar": (one("SOFTMAX", [x()], x(scale=1 / 256, zero_point=-128)), "last axis of shape"),
    "reshape": (one("RESHAPE", [x(2, 3), i(4, 2)], x(4, 2)), r"makes shape \(4, 2\) of"),
    "reshape to less": (one("RESHAPE", [x(2, 3), i(-1, -1)], x(2, 3)), r"makes shape \[-1, -1\]"),
    "squeeze": (one("SQUEEZE", [x(2, 3)], x(3), squeeze_dims=(0,)), "removes axes"),
    "expand": (one("EXPAND_DIMS", [x(2, 3), i(5)], x(2, 3, 1)), "axis 5 of a tensor of rank 3"),
    "transpose": (one("TRANSPOSE", [x(2, 3), i(0, 0)], x(2, 2)), r"permutation \[0, 0\] of 2 axes"),
    "pad": (one("PAD", [x(2, 3), pads((0, -1), (0, 0))], x(1, 3)), "pads shape"),
    "concatenate": (one("CONCATENATION", [x(2, 3), x(3, 3)], x(2, 6), axis=1), "joins shapes"),
    "split": (one("SPLIT", [i(1), x(2, 3)], x(2, 1), x(2, 1), num_splits=2), "splits axis 1 of shape .2, 3. into 2"),
    "split at": (one("SPLIT_V", [x(2, 3), i(1, 1), i(1)], x(2, 1), x(2, 1)), r"splits axis 1 .* into \[1, 1\]"),
    "slice": (one("SLICE", [x(2, 3), i(0, 2), i(2, 2)], x(2, 2)), "slices shape"),
    "a slice by a matrix": (
        one("SLICE", [x(2, 3), pads((0, 0)), i(2, 2)], x(2, 2)),
        "reads shape .1, 2. as input 1, of rank 1",
    ),
    "stride of 0": (one("STRIDED_SLICE", [x(2, 3), i(0, 0), i(2, 3), i(1, 0)], x(2, 3)), "a stride of 0"),
    "outside": (
        one("STRIDED_SLICE", [x(2, 3), i(5, 0), i(6, 3), i(1, 1)], x(3), shrink_axis_mask=1),
        "an index of shape .2, 3. that is outside it",
    ),
    "gather": (one("GATHER", [x(2, 3), i(0)], x(2, 1), axis=2), "axis 2 of a tensor of rank 2"),
    "batch": (one("GATHER", [x(2, 3), i(0)], x(2, 1), axis=1, batch_dims=3), "batch_dims 3"),
    "broadcast to": (one("BROADCAST_TO", [x(2, 3), i(2, 4)], x(2, 4)), "broadcasts"),
    "pack": (one("PACK", [x(2), x(3)], x(2, 2)), "stacks shapes"),
    "unpack": (one("UNPACK", [x(3, 2)], x(2), x(2)), "apart along axis 0 into 2"),
    "tile": (one("TILE", [x(2, 3), i(2)], x(4, 3)), "repeats shape"),
    "inputs": (one("ADD", [x(2)], x(2)), "has 1 inputs, and takes 2"),
    "types": (one("ADD", [x(2), x(2, dtype="uint8", zero_point=3)], x(2)), "mixes int8 and uint8"),
    "zero point": (one("ABS", [x(2, zero_point=2**31)], x(2)), "zero point 2147483648, beyond int8"),
    "scale": (one("ABS", [x(2, scale=0.0)], x(2)), "has scale 0"),
    "a type of its own": (one("ABS", [Tensor("x", (2,), "uint64")], Tensor("y", (2,), "uint64")), "jaxq does not eval"),
    "a variable": (one("READ_VARIABLE", [Tensor("x", (), "resource")], x(2)), "no VAR_HANDLE names|of type resource"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str):
    program, words = WRONG[name]
    with pytest.raises(FormatError, match=words):
        check(program)
    with pytest.raises(FormatError, match=words):
        jaxq.load(write(program))


def test_values_are_written_once_before_they_are_read():
    program = one("ABS", [x(2)], x(2))
    twice = dataclasses.replace(program, operators=program.operators * 2)
    with pytest.raises(FormatError, match=r"operator 1 \(ABS\) writes tensor 1, which has a value already"):
        check(twice)
    with pytest.raises(FormatError, match=r"operator 0 \(ABS\) reads tensor 0 before it has a value"):
        check(dataclasses.replace(program, inputs=()))
    with pytest.raises(FormatError, match=r"tensor 2 \('z'\) is an output that nothing writes"):
        check(
            dataclasses.replace(program, tensors=(*program.tensors, dataclasses.replace(x(2), name="z")), outputs=(2,))
        )


def test_every_kernel_has_a_shape_rule():
    kernels = [table(machine_named(PHONE)) for table in FAMILIES.values()]
    kinds = set().union(*kernels, floats.KERNELS, variables.KINDS)
    assert kinds <= set(SHAPES)
    assert list(SHAPES) == sorted(SHAPES)


def test_what_runtimes_run_has_no_faults():
    programs = {name: case[0] if isinstance(case, tuple) else case for name, case in CASES.items()}
    assert {name: found for name, program in programs.items() if (found := list(faults(program)))} == {}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.tflite")), ids=lambda path: path.stem)
def test_files_of_other_writers_have_no_faults(path: Path):
    assert list(faults(load_program(path))) == []


def test_load_takes_bytes_a_buffer_or_a_path(tmp_path: Path):
    data = write(one("ABS", [x(2)], x(2)))
    path = tmp_path / "abs.tflite"
    path.write_bytes(data)
    value = np.array([-128, 7], np.int8)
    found = [np.asarray(jaxq.load(s)(value)[0]) for s in (data, bytearray(data), memoryview(data), path, str(path))]
    assert all(np.array_equal(y, found[0]) for y in found)
    with pytest.raises(FormatError, match="The file has .* at byte 4"):
        jaxq.load(b"not a TFLite file at all")
    with pytest.raises(FormatError, match="Cannot read 'a.x00b'"):
        jaxq.load("a\0b")


def test_a_kernel_that_cannot_compute_is_the_files_fault():
    unchecked = evaluate(WRONG["broadcast"][0])
    with pytest.raises(FormatError, match=r"operator 0 \(ADD\) cannot be computed .* TypeError: add got incompatible"):
        unchecked(np.zeros((1, 4), np.int8), np.zeros((1, 3), np.int8))


def test_an_archive_that_does_not_decompress_is_a_format_error():
    whole = BytesIO()
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("labels.txt", "cat\ndog\n" * 20)
    data = bytearray(whole.getvalue())
    at = data.index(b"labels.txt") + len("labels.txt")
    data[at + 4 : at + 9] = b"\xff" * 5  # LZMA's properties
    with pytest.raises(FormatError, match="an archive of files behind its flatbuffer that cannot be read"):
        attached(bytes(data))
