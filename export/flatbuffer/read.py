"""Any `.tflite` to a Program: verify the structure, check the meaning, copy nothing that can be viewed.

Lost on the way, because a Program has no place for them: the option bytes of custom operators.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from jaxq.display.text import shortened
from jaxq.errors import FormatError
from jaxq.export.flatbuffer import schema
from jaxq.export.flatbuffer.buffers import Buffers
from jaxq.export.flatbuffer.table import Field, Table
from jaxq.export.flatbuffer.verify import verify
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor

_MOST_DIMENSIONS = 32
_LONGEST_CUSTOM_CODE = 1000  # characters; every operator of that code is shown with it
_MOST_ELEMENTS = 2**31 - 1
_LONGEST_EMPTY = 2**20  # of an array without numbers, whose other axes are counted all the same
_AGAIN = "The file is corrupt: copy or convert it again."


def read(data: bytes) -> Program:
    """The file's first subgraph, the others in `subgraphs`. Constants are read-only views of `data`; every operator has
    all its options.

    Raises FormatError for bytes that break the format. What a Program cannot say of a tensor (sparse constants,
    blockwise quantization) is named in `Tensor.unread`.
    """
    verify(data)
    model = Table.root(data)
    graphs, buffers = _graphs(model), Buffers(data, model.tables("buffers"))
    codes = [_code(i, table) for i, table in enumerate(model.tables("operator_codes"))]
    program, *others = [_subgraph(i, graph, buffers, codes) for i, graph in enumerate(graphs)]
    input_names, output_names = _signature(model, program.inputs, program.outputs, len(program.tensors))
    return dataclasses.replace(
        program,
        input_names=input_names,
        output_names=output_names,
        description=model.text("description") or "",
        metadata=_metadata(model, buffers),
        subgraphs=tuple(others),
    )


def _subgraph(number: int, graph: Table, buffers: Buffers, codes: Sequence[tuple[str, int]]) -> Program:
    """Tensors, operators, inputs and outputs. Errors say the subgraph of those of others than the first."""
    inner = f"subgraph {number}, " if number else ""
    tensors = tuple(_tensor(i, table, buffers, inner) for i, table in enumerate(graph.tables("tensors")))
    operators = tuple(
        _operator(f"{inner}operator {i}", table, codes, len(tensors))
        for i, table in enumerate(graph.tables("operators"))
    )
    inputs, outputs = (_indices(graph, name, len(tensors), f"subgraph {number}") for name in ("inputs", "outputs"))
    return Program(tensors, operators, inputs, outputs)


def _graphs(model: Table) -> list[Table]:
    version = model.index("version")
    if version != schema.VERSION:
        raise FormatError(f"The file is of schema version {version}; TFLite's is {schema.VERSION}. {_AGAIN}")
    subgraphs = model.tables("subgraphs")
    if not subgraphs:
        raise FormatError(f"The file has no subgraph, so nothing to run. {_AGAIN}")
    return subgraphs


def _tensor(i: int, table: Table, buffers: Buffers, inner: str) -> Tensor:
    name = table.text("name") or ""
    where = f"{inner}tensor {i} ({shortened(name)!r})"
    dtype = _dtype(table.index("type"), where)
    shape = _shape(table, where)
    quantization, buffer = table.table("quantization"), table.index("buffer")
    unread = _unread(table, quantization, buffers)
    elsewhere = unread and "quantization" not in unread
    data = None if elsewhere else buffers.constant(buffer, dtype, shape, where)
    offset = None if data is None else buffers.offset(buffer)
    parameters = _quantization(None if unread else quantization, shape, where)
    return Tensor(name, shape, dtype, parameters, data, offset, unread, bool(table.index("is_variable")))


def _unread(table: Table, quantization: Table | None, buffers: Buffers) -> str:
    """What a Program has no place for, or ""."""
    if table.table("sparsity"):
        return "sparse data"
    if table.index("external_buffer"):
        return "data in another file"
    if table.index("buffer") and not buffers.count:
        return f"data in buffer {table.index('buffer'):,} of a file without buffers"
    if quantization is not None and quantization.index("details_type"):
        return "custom or blockwise quantization"
    return ""


def _dtype(code: int, where: str) -> str:
    if code not in schema.DTYPE_NAMES:
        name = schema.TENSOR_TYPE_NAMES.get(code, "unknown")
        known = ", ".join(sorted(schema.TENSOR_TYPES))
        raise FormatError(
            f"The file's {where} is of type {code} ({name}); jaxq reads {known}. Convert the model to those."
        )
    return schema.DTYPE_NAMES[code]


def _shape(table: Table, where: str) -> tuple[int, ...]:
    dims = table.vector("shape")
    if dims is None:
        return ()
    if dims.size > _MOST_DIMENSIONS:
        raise FormatError(
            f"The file's {where} has {dims.size:,} dimensions; at most {_MOST_DIMENSIONS} are read. {_AGAIN}"
        )
    shape = tuple(dims.tolist())
    if any(d < 0 for d in shape):
        raise FormatError(
            f"The file's {where} has shape {shape}, with a negative dimension. "
            "Convert the model again, with every dimension fixed."
        )
    if math.prod(d for d in shape if d) > _MOST_ELEMENTS:  # numpy counts so too: a dimension of 0 hides no other
        raise FormatError(f"The file's {where} has shape {shape}, more than {_MOST_ELEMENTS:,} elements. {_AGAIN}")
    if 0 in shape and max(shape) > _LONGEST_EMPTY:
        raise FormatError(
            f"The file's {where} has shape {shape}: no elements, and an axis of more than {_LONGEST_EMPTY:,}. {_AGAIN}"
        )
    return shape


def _quantization(table: Table | None, shape: tuple[int, ...], where: str) -> Quantization | None:
    """None where there is no scale: minima and maxima alone are the converter's notes, not parameters."""
    if table is None:
        return None
    scale = table.vector("scale")
    if scale is None or not scale.size:
        return None
    axis = table.index("quantized_dimension")
    _check_axis(scale.size, axis, shape, where)
    return Quantization(scale, _zero_point(table, scale.size, where), axis)


def _check_axis(scales: int, axis: int, shape: tuple[int, ...], where: str) -> None:
    if scales == 1:
        return
    if not 0 <= axis < len(shape) or shape[axis] != scales:
        raise FormatError(
            f"The file's {where} has {scales:,} scales along dimension {axis} of shape {shape}; "
            f"that takes 1 scale, or one for each index of the dimension. {_AGAIN}"
        )


def _zero_point(table: Table, scales: int, where: str) -> np.ndarray:
    """int64, one for each scale. None in the file means zeros, and one stands for all, as LiteRT has it."""
    found = table.vector("zero_point")
    if found is None or not found.size:
        return np.zeros(scales, np.int64)
    if found.size not in (1, scales):
        raise FormatError(f"The file's {where} has {scales:,} scales but {found.size:,} zero points. {_AGAIN}")
    return found if found.size == scales else np.full(scales, found[0])


def _code(i: int, table: Table) -> tuple[str, int]:
    """(kind, version). Codes up to 127 may be in the old one-byte field alone: the larger field counts."""
    code = max(table.index("deprecated_builtin_code"), table.index("builtin_code"))
    if code not in schema.OPERATOR_NAMES:
        raise FormatError(
            f"The file's operator code {i} names builtin operator {code:,}; the installed schema knows 0 to "
            f"{max(schema.OPERATOR_NAMES)}. Upgrade ai-edge-litert if the file is newer, else copy it again."
        )
    kind = schema.OPERATOR_NAMES[code]
    return f"CUSTOM:{_custom_code(i, table)}" if kind == "CUSTOM" else kind, table.index("version")


def _custom_code(i: int, table: Table) -> str:
    name = table.text("custom_code") or ""
    if len(name) > _LONGEST_CUSTOM_CODE:
        raise FormatError(
            f"The file's operator code {i} names a custom operator in {len(name):,} characters; at most "
            f"{_LONGEST_CUSTOM_CODE:,} are read. {_AGAIN}"
        )
    return name


def _operator(where: str, table: Table, codes: Sequence[tuple[str, int]], tensors: int) -> Operator:
    index = table.index("opcode_index")
    if index >= len(codes):
        raise FormatError(f"The file's {where} has code {index:,}, of {len(codes):,} operator codes. {_AGAIN}")
    kind, version = codes[index]
    where = f"{where} ({kind})"
    return Operator(
        kind=kind,
        inputs=_indices(table, "inputs", tensors, where, lowest=-1),
        outputs=_indices(table, "outputs", tensors, where),
        options=_options(table, kind, where),
        version=version,
        intermediates=_indices(table, "intermediates", tensors, where, lowest=-1),
    )


def _options(table: Table, kind: str, where: str) -> Mapping[str, Option]:
    """All fields of the operator's options table; the schema's defaults where the file has no table."""
    found = schema.OPTIONS.get(kind)
    if found is None:
        return {}
    union, name = found
    field = schema.UNION_FIELDS[union]
    _check_member(table.index(f"{field}_type"), union, name, where)
    layout = schema.options_fields(name)
    options = table.table(field, layout) if table.index(f"{field}_type") else None
    if options is None:
        return _default_options(name)
    return {item.name: _option(item, options, where) for item in layout.values()}


@functools.cache
def _default_options(name: str) -> Mapping[str, Option]:
    """The options of an operator that has no table. One value for all: a thousand such operators cost one."""
    return MappingProxyType({item.name: _option(item, None, name) for item in schema.options_fields(name).values()})


def _check_member(code: int, union: str, wanted: str, where: str) -> None:
    if code not in (0, schema.UNIONS[union][wanted]):
        has = schema.union_member(union, code) or f"options of unknown type {code}"
        raise FormatError(f"The file's {where} has {has} where {wanted} belong. {_AGAIN}")


def _option(field: Field, options: Table | None, where: str) -> Option:
    if field.kind == "string":
        return options.text(field.name) if options else None
    if field.kind == "vector":
        values = options.vector(field.name) if options else None
        return None if values is None else tuple(values.tolist())
    value = options.number(field.name) if options else field.default
    names = schema.ENUM_NAMES.get(field.name)
    if names is None:
        return value
    if value not in names:
        known = ", ".join(f"{code} {name}" for code, name in names.items())
        raise FormatError(f"The file's {where} has {field.name} {value}; there is {known}. {_AGAIN}")
    return names[int(value)]


def _indices(table: Table, name: str, tensors: int, where: str, lowest: int = 0) -> tuple[int, ...]:
    indices = table.integers(name)
    for index in indices:
        if not lowest <= index < tensors:
            raise FormatError(
                f"The file's {where} has tensor {index:,} in its {name}, of {tensors:,} tensors. {_AGAIN}"
            )
    return indices


def _signature(
    model: Table, inputs: tuple[int, ...], outputs: tuple[int, ...], tensors: int
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names in the subgraph's order, from the signature "serving_default" or else the first."""
    found = [table for table in model.tables("signature_defs") if table.index("subgraph_index") == 0]
    found.sort(key=lambda table: table.text("signature_key") != "serving_default")
    if not found:
        return (), ()
    names = _names(found[0], "inputs", inputs, tensors), _names(found[0], "outputs", outputs, tensors)
    return names if (len(names[0]), len(names[1])) == (len(inputs), len(outputs)) else ((), ())


def _names(signature: Table, side: str, indices: tuple[int, ...], tensors: int) -> tuple[str, ...]:
    """One name for each index, () where the signature does not name them all. A tensor may have two."""
    names: dict[int, list[str]] = {}
    for entry in reversed(signature.tables(side)):
        index = entry.index("tensor_index")
        if index >= tensors:
            raise FormatError(
                f"The file's signature has tensor {index:,} in its {side}, of {tensors:,} tensors. {_AGAIN}"
            )
        names.setdefault(index, []).append(entry.text("name") or "")
    ordered = [names[i].pop() if names.get(i) else None for i in indices]
    return tuple(name for name in ordered if name is not None) if None not in ordered else ()


def _metadata(model: Table, buffers: Buffers) -> Mapping[str, bytes]:
    entries = ((table.text("name") or "", table.index("buffer")) for table in model.tables("metadata"))
    return {name: buffers.content(index, f"metadata {shortened(name)!r}") for name, index in entries}
