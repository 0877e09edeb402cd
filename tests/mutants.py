"""Files that were torn, spliced or forged: `mutants(seeds, count)` gives the same ones each time.

`MUTATIONS` are what happens to files by accident (bits, truncation, splices) and on purpose (offsets and lengths of
extreme values); `BOMBS` are small files that ask for as much memory as they can.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flatbuffers
from ai_edge_litert import schema_py_generated

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

BOMBS: dict[str, bytes] = {
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
