"""Files that were torn, spliced or forged: `mutants(seeds, count)` gives the same ones each time.

`MUTATIONS` are what happens to files by accident (bits, truncation, splices) and on purpose (offsets and lengths of
extreme values); `bombs()` are small files that ask for as much memory as they can.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated

from jaxq.errors import ExportError
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor
from jaxq.export.shapes.table import SHAPES

generated: Any = schema_py_generated
WORD = 2**32


def flip(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    """One to eight bits the other way round."""
    for _ in range(rng.randint(1, 8)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)


def truncate(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    """The end missing."""
    del data[rng.randrange(20, len(data)) :]


def overwrite(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    """An integer as wide as an offset, a vtable's entry or a zero point, replaced by one that is hard to bear."""
    width, size = rng.choice((1, 2, 4, 4, 4, 8)), len(data)
    at = rng.randrange(size - width)
    at -= at % width if rng.random() < 0.9 else 0
    extremes = (0, 1, 2, 4, 8, 127, 128, 255, 2**15, 2**16 - 1, 2**24, 2**31 - 1, 2**31, WORD - 1, WORD - 4, 2**63)
    value = rng.choice((*extremes, size, size - 1, size - at, WORD - at, WORD - size))
    data[at : at + width] = (value % 2 ** (8 * width)).to_bytes(width, "little")


def nudge(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    """An aligned integer, a little more or less: an offset then points beside its table."""
    at = rng.randrange(len(data) // 4) * 4
    value = int.from_bytes(data[at : at + 4], "little") + rng.choice((-16, -8, -4, -2, -1, 1, 2, 4, 8, 16))
    data[at : at + 4] = (value % WORD).to_bytes(4, "little")


def lengthen(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    """What may be a vector's length, made huge."""
    small = [at for at in range(0, len(data) - 4, 4) if 0 < int.from_bytes(data[at : at + 4], "little") < 64]
    if small:
        at = rng.choice(small)
        length = rng.choice((len(data) // 8, len(data) // 4, len(data), 2**20, 2**30, 2**31 - 1, WORD - 1))
        data[at : at + 4] = length.to_bytes(4, "little")


def splice(data: bytearray, seeds: Sequence[bytes], rng: random.Random) -> None:
    """A stretch of another file over this one, or this file's own bytes twice."""
    other = rng.choice(seeds)
    start, length = rng.randrange(len(other)), rng.randint(1, 256)
    at = rng.randrange(len(data))
    end = at if rng.random() < 0.3 else at + length
    data[at:end] = other[start : start + length]


MUTATIONS: tuple[Callable[[bytearray, Sequence[bytes], random.Random], None], ...] = (
    flip,
    truncate,
    overwrite,
    nudge,
    lengthen,
    splice,
)


def mutants(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """Files that went through one mutation, or two, or three."""
    rng = random.Random(seed)
    for _ in range(count):
        data = bytearray(rng.choice(seeds))
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if len(data) > 24:
                rng.choice(MUTATIONS)(data, seeds, rng)
        yield bytes(data)


# --- programs -----------------------------------------------------------------------------------------------


def program_mutants(seeds: Sequence[bytes], count: int, seed: int = 0) -> Iterator[bytes]:
    """Well-formed files of programs that are not: a shape, an option, an index, a constant, a type or a parameter is
    another one. Bytes changed at random seldom come so far.
    """
    rng = random.Random(seed)
    programs = [read(data) for data in seeds]
    for _ in range(count):
        program = rng.choice(programs)
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            program = rng.choice(CHANGES)(program, rng)
        with contextlib.suppress(ExportError):
            yield write(program)
            continue
        yield rng.choice(seeds)


def _odd(rng: random.Random, value: int) -> int:
    nearby = (value - 1, value + 1, 2 * value, value // 2, -value)
    return rng.choice((*nearby, 0, 1, 2, 3, -1, -2, 7, 127, 128, 255, 1000, 2**15, 2**31 - 1, -(2**31)))


def _other_operator(program: Program, rng: random.Random, change: Callable[[Operator], Operator]) -> Program:
    if not program.operators:
        return program
    i = rng.randrange(len(program.operators))
    operators = (*program.operators[:i], change(program.operators[i]), *program.operators[i + 1 :])
    return dataclasses.replace(program, operators=operators)


def _other_tensor(program: Program, rng: random.Random, change: Callable[[Tensor], Tensor]) -> Program:
    i = rng.randrange(len(program.tensors))
    return dataclasses.replace(
        program, tensors=(*program.tensors[:i], change(program.tensors[i]), *program.tensors[i + 1 :])
    )


def other_shape(program: Program, rng: random.Random) -> Program:
    """A dimension more, less, or of another size."""

    def change(tensor: Tensor) -> Tensor:
        sizes = list(tensor.shape)
        at = rng.randrange(len(sizes) + 1)
        how = rng.randrange(4)
        if how == 0 or not sizes:
            sizes.insert(at, rng.choice((1, 1, 2, 5)))
        elif how == 1:
            sizes.pop(min(at, len(sizes) - 1))
        elif how == 2:
            sizes.reverse()
        else:
            sizes[min(at, len(sizes) - 1)] = min(abs(_odd(rng, sizes[min(at, len(sizes) - 1)])), 2**12)
        data = None if tensor.data is None else np.resize(tensor.data, sizes).astype(tensor.data.dtype)
        return dataclasses.replace(tensor, shape=tuple(sizes), data=data)

    return _other_tensor(program, rng, change)


def other_constant(program: Program, rng: random.Random) -> Program:
    """A number of a small constant, such as an axis."""

    def change(tensor: Tensor) -> Tensor:
        if tensor.data is None or not 0 < tensor.data.size <= 16 or tensor.dtype not in ("int32", "int64"):
            return tensor
        data = tensor.data.copy().reshape(-1)
        at = rng.randrange(data.size)
        data[at] = _odd(rng, int(data[at]))
        return dataclasses.replace(tensor, data=data.reshape(tensor.shape))

    for _ in range(20):
        found = _other_tensor(program, rng, change)
        if any(a is not b for a, b in zip(found.tensors, program.tensors, strict=True)):
            return found
    return program


def other_type(program: Program, rng: random.Random) -> Program:
    """Another dtype, the same numbers."""

    def change(tensor: Tensor) -> Tensor:
        dtype = rng.choice(("float32", "int8", "uint8", "int16", "int32", "int64", "bool", "uint64", "string"))
        if tensor.data is None:
            return dataclasses.replace(tensor, dtype=dtype)
        return dataclasses.replace(
            tensor, dtype=dtype, data=tensor.data.astype("uint8" if dtype == "string" else dtype)
        )

    return _other_tensor(program, rng, change)


def other_parameters(program: Program, rng: random.Random) -> Program:
    """Another scale or zero point, or none."""

    def change(tensor: Tensor) -> Tensor:
        scale = np.float32(rng.choice((1e-38, 1e-20, 1e-3, 0.5, 1.0, 256.0, 1e20, 3e38)))
        made = Quantization.of(scale, rng.choice((0, 0, -128, 127, 128, 255, 2**31)))
        return dataclasses.replace(tensor, quantization=rng.choice((None, made, made)))

    return _other_tensor(program, rng, change)


def other_option(program: Program, rng: random.Random) -> Program:
    """Another number or name for an option."""

    def change(op: Operator) -> Operator:
        if not op.options:
            return op
        name = rng.choice(sorted(op.options))
        value = op.options[name]
        if isinstance(value, bool):
            made: Option = not value
        elif isinstance(value, int):
            made = _odd(rng, value) % 128 if name != "axis" else max(min(_odd(rng, value), 9), -9)
        elif isinstance(value, float):
            made = rng.choice((0.0, -1.0, 1e30, 3.5))
        elif name == "padding":
            made = "VALID" if value == "SAME" else "SAME"
        elif name == "fused_activation_function":
            made = rng.choice(("NONE", "RELU", "RELU6", "TANH"))
        else:
            made = value
        return dataclasses.replace(op, options={**op.options, name: made})

    return _other_operator(program, rng, change)


def other_ends(program: Program, rng: random.Random) -> Program:
    """An operator that reads or writes another tensor, one more, or one less; or that is of another kind."""

    def change(op: Operator) -> Operator:
        end = rng.choice(("inputs", "inputs", "outputs"))
        indices, how = list(getattr(op, end)), rng.randrange(4)
        tensor = rng.randrange(-1 if end == "inputs" else 0, len(program.tensors))
        if how == 0:
            return dataclasses.replace(op, kind=rng.choice(KINDS), options={})
        if how == 1 and indices:
            indices.pop()
        elif how == 2 or not indices:
            indices.append(tensor)
        else:
            indices[rng.randrange(len(indices))] = tensor
        return dataclasses.replace(op, **{end: tuple(indices)})

    return _other_operator(program, rng, change)


KINDS = tuple(SHAPES)
CHANGES = (other_shape, other_shape, other_constant, other_constant, other_type, other_parameters, other_option,
           other_option, other_ends)  # fmt: skip


# --- bombs --------------------------------------------------------------------------------------------------


def file_of(
    tensors: Callable[[Any], Sequence[int]] = lambda b: [],
    operators: Callable[[Any], Sequence[int]] = lambda b: [],
    codes: Callable[[Any], Sequence[int]] = lambda b: [],
    padding: int = 0,
) -> bytes:
    """A file with these tables, of one empty buffer, and with bytes that nothing reads."""
    b: Any = flatbuffers.Builder(0)
    b.CreateByteVector(bytes(padding))
    tables = {"Tensors": tensors(b), "Operators": operators(b)}
    vectors = {name: vector(b, entries) for name, entries in tables.items()}
    generated.SubGraphStart(b)
    for name, entries in vectors.items():
        getattr(generated, f"SubGraphAdd{name}")(b, entries)
    graphs = vector(b, [generated.SubGraphEnd(b)])
    generated.BufferStart(b)
    buffers, listed = vector(b, [generated.BufferEnd(b)]), vector(b, codes(b))
    generated.ModelStart(b)
    generated.ModelAddVersion(b, 3)
    generated.ModelAddSubgraphs(b, graphs)
    generated.ModelAddBuffers(b, buffers)
    generated.ModelAddOperatorCodes(b, listed)
    b.Finish(generated.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def vector(b: Any, offsets: Sequence[int]) -> int:
    """A vector of tables."""
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return b.EndVector()


def tensors(count: int, name: bytes = b"", scale: bool = False, apart: bool = True) -> Callable[[Any], list[int]]:
    """Tensors that share a name and parameters: each a table of its own, or all one table."""

    def build(b: Any) -> list[int]:
        text = b.CreateString(name) if name else 0
        parameters = quantization(b) if scale else 0
        made = [tensor(b, text, parameters) for _ in range(count if apart else 1)]
        return made if apart else made * count

    return build


def tensor(b: Any, name: int, parameters: int) -> int:
    generated.TensorStart(b)
    if name:
        generated.TensorAddName(b, name)
    if parameters:
        generated.TensorAddQuantization(b, parameters)
    return generated.TensorEnd(b)


def quantization(b: Any) -> int:
    b.StartVector(4, 1, 4)
    b.PrependFloat32(0.5)
    scale = b.EndVector()
    generated.QuantizationParametersStart(b)
    generated.QuantizationParametersAddScale(b, scale)
    return generated.QuantizationParametersEnd(b)


def operators(count: int, options: bool = False, apart: bool = True) -> Callable[[Any], list[int]]:
    """Operators of code 0, with an options table that they share, or without."""

    def build(b: Any) -> list[int]:
        generated.Conv2DOptionsStart(b)
        shared = generated.Conv2DOptionsEnd(b)
        made = [operator(b, shared if options else 0) for _ in range(count if apart else 1)]
        return made if apart else made * count

    return build


def operator(b: Any, options: int) -> int:
    generated.OperatorStart(b)
    if options:
        generated.OperatorAddBuiltinOptionsType(b, generated.BuiltinOptions.Conv2DOptions)
        generated.OperatorAddBuiltinOptions(b, options)
    return generated.OperatorEnd(b)


def code(kind: int, custom: bytes = b"") -> Callable[[Any], list[int]]:
    """One operator code."""

    def build(b: Any) -> list[int]:
        name = b.CreateString(custom) if custom else 0
        generated.OperatorCodeStart(b)
        generated.OperatorCodeAddBuiltinCode(b, kind)
        if name:
            generated.OperatorCodeAddCustomCode(b, name)
        return [generated.OperatorCodeEnd(b)]

    return build


CONV = code(generated.BuiltinOperator.CONV_2D)
MANY = 4000
WIDE = "\U0001f600".encode() + b"\xff" * 50_000  # four bytes a character in memory, four characters a byte


@functools.cache
def bombs() -> dict[str, bytes]:
    """The files by name. Made once they are asked for: collecting the tests asks for none."""
    return {
        "tensors": file_of(tensors(MANY)),
        "one tensor many times": file_of(tensors(MANY, apart=False), padding=3 * MANY),
        "scales": file_of(tensors(MANY, scale=True), padding=12 * MANY),
        "one scale many times": file_of(tensors(MANY, scale=True, apart=False), padding=14 * MANY),
        "a long name twice": file_of(tensors(2, WIDE)),
        "operators": file_of(operators=operators(MANY), codes=CONV),
        "one operator many times": file_of(operators=operators(MANY, apart=False), codes=CONV, padding=3 * MANY),
        "options": file_of(operators=operators(MANY, options=True), codes=CONV),
        "one options many times": file_of(
            operators=operators(MANY, options=True, apart=False), codes=CONV, padding=6 * MANY
        ),
        "a long custom code": file_of(operators=operators(MANY), codes=code(32, b"x" * 9 * MANY)),
    }
