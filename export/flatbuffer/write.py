"""A Program to `.tflite` bytes. The same Program gives the same bytes."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

import flatbuffers
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.flatbuffer import schema
from jaxq.export.program import RAW, Operator, Option, Program, Quantization, Tensor, describe

_LARGEST = 2**31 - 2**20  # a flatbuffer's offsets end at 2 GiB; leave room for the tables
_SLACK = 2**16


def write(program: Program) -> bytes:
    """The file: its subgraphs, constants at multiples of 16 bytes, "serving_default" where inputs are named.

    Raises ExportError for data that differs from its tensor's shape or dtype, options that the operator's
    table lacks, unknown kinds, more than 2 GiB. Indices are written as they are: `read` checks them.
    """
    buffers, codes = _Buffers(), _Codes()
    count = 1 + len(program.subgraphs)
    graphs = [
        _subgraph(f"subgraph_{i}" if i else "main", graph, buffers, codes, count)
        for i, graph in enumerate((program, *program.subgraphs))
    ]
    metadata = [
        schema.new("Metadata", name=name, buffer=buffers.add(content)) for name, content in program.metadata.items()
    ]
    model = schema.new(
        "Model",
        version=schema.VERSION,
        description=program.description,
        subgraphs=graphs,
        operator_codes=codes.tables,
        buffers=buffers.tables,
        metadata=metadata,
        signature_defs=_signatures(program),
    )
    return _pack(model, buffers.size)


def _subgraph(name: str, program: Program, buffers: _Buffers, codes: _Codes, subgraphs: int) -> Any:
    return schema.new(
        "SubGraph",
        name=name,
        tensors=[_tensor(i, tensor, buffers) for i, tensor in enumerate(program.tensors)],
        operators=[_operator(i, operator, codes, subgraphs) for i, operator in enumerate(program.operators)],
        inputs=list(program.inputs),
        outputs=list(program.outputs),
    )


def _pack(model: Any, size: int) -> bytes:
    if size > _LARGEST:
        raise ExportError(
            f"The constants take {size:,} bytes; a .tflite holds {_LARGEST:,}. Quantize or split the model."
        )
    builder = flatbuffers.Builder(size + _SLACK)
    builder.Finish(model.Pack(builder), schema.IDENTIFIER)
    return bytes(builder.Output())


class _Buffers:
    """The buffers in order of first use. Equal contents share one; number 0 is for run-time values."""

    def __init__(self):
        self.tables = [schema.new("Buffer")]
        self.size = 0
        self._numbers: dict[bytes, int] = {}

    def add(self, content: bytes) -> int:
        """The number of the buffer with this content."""
        if content not in self._numbers:
            self._numbers[content] = len(self.tables)
            self.tables.append(schema.new("Buffer", data=np.frombuffer(content, np.uint8)))
            self.size += len(content) + schema.ALIGNMENT
        return self._numbers[content]


class _Codes:
    """The operator codes in order of first use, one for each kind and version."""

    def __init__(self):
        self.tables: list[Any] = []
        self._numbers: dict[tuple[str, int], int] = {}

    def number(self, kind: str, version: int) -> int:
        """The code's number. Raises KeyError for a kind that the schema does not know."""
        if (kind, version) not in self._numbers:
            self.tables.append(_code(kind, version))
            self._numbers[kind, version] = len(self.tables) - 1
        return self._numbers[kind, version]


def _code(kind: str, version: int) -> Any:
    code = schema.OPERATORS[_builtin(kind)]
    return schema.new(
        "OperatorCode",
        builtin_code=code,
        deprecated_builtin_code=min(code, 127),  # what readers older than 2020 look at: one signed byte
        custom_code=kind.removeprefix("CUSTOM:") if kind.startswith("CUSTOM:") else None,
        version=version,
    )


def _builtin(kind: str) -> str:
    return "CUSTOM" if kind.startswith("CUSTOM:") else kind


def _tensor(i: int, tensor: Tensor, buffers: _Buffers) -> Any:
    if tensor.dtype not in schema.TENSOR_TYPES:
        raise ExportError(
            f"Tensor {i} ({tensor.name!r}) has dtype {tensor.dtype!r}; use {', '.join(schema.TENSOR_TYPES)}."
        )
    return schema.new(
        "Tensor",
        name=tensor.name,
        shape=list(tensor.shape),
        type=schema.TENSOR_TYPES[tensor.dtype],
        buffer=0 if tensor.data is None else buffers.add(_content(i, tensor, tensor.data)),
        quantization=_quantization(tensor.quantization),
        has_rank=True,
        is_variable=tensor.variable,
    )


def _quantization(q: Quantization | None) -> Any:
    if q is None:
        return None
    return schema.new(
        "QuantizationParameters",
        scale=np.ascontiguousarray(q.scale, "<f4"),
        zero_point=np.ascontiguousarray(q.zero_point, "<i8"),
        quantized_dimension=q.axis,
    )


def _content(i: int, tensor: Tensor, data: np.ndarray) -> bytes:
    """A constant's bytes. Nothing is cast: a dtype that differs is an error upstream."""
    wanted, shape = schema.storage(tensor.dtype), _data_shape(tensor, data)
    if (data.dtype, data.shape) != (wanted, shape):
        raise ExportError(
            f"Tensor {i} ({tensor.name!r}) is {describe(tensor)}, but its data is "
            f"{data.dtype}{list(data.shape)}. Give it {wanted.name} data of shape {list(shape)}."
        )
    return _pack_int4(i, tensor.name, data) if tensor.dtype == "int4" else data.astype(wanted, copy=False).tobytes()


def _data_shape(tensor: Tensor, data: np.ndarray) -> tuple[int, ...]:
    """The tensor's own shape, or (bytes,) of a type that is held as bytes. A string tensor has as many as it needs."""
    if tensor.dtype == "string":
        return (data.size,)
    return (schema.byte_size(tensor.dtype, math.prod(tensor.shape)),) if tensor.dtype in RAW else tensor.shape


def _pack_int4(i: int, name: str, data: np.ndarray) -> bytes:
    """Two values per byte, the low nibble first, in row-major order; an odd count ends with a zero."""
    if data.size and not -8 <= data.min() <= data.max() <= 7:
        raise ExportError(
            f"Tensor {i} ({name!r}) is int4 and has values {data.min()} to {data.max()}; clip to [-8, 7]."
        )
    nibbles = np.pad(data.reshape(-1), (0, data.size % 2)).view(np.uint8) & 0xF
    return (nibbles[0::2] | nibbles[1::2] << 4).tobytes()


def _operator(i: int, operator: Operator, codes: _Codes, subgraphs: int) -> Any:
    if _builtin(operator.kind) not in schema.OPERATORS:
        raise ExportError(f"Operator {i} is of kind {operator.kind!r}, which is no TFLite operator. Name one.")
    return schema.new(
        "Operator",
        opcode_index=codes.number(operator.kind, operator.version),
        inputs=list(operator.inputs),
        outputs=list(operator.outputs),
        intermediates=list(operator.intermediates) or None,
        **_options(i, operator, subgraphs),
    )


def _options(i: int, operator: Operator, subgraphs: int) -> Mapping[str, Any]:
    """The union's two fields. A table is written even where no option is given: LiteRT reads it."""
    found = schema.OPTIONS.get(operator.kind)
    if found is None and not operator.options:
        return {}
    union, table = found or ("", "")
    known = schema.options_fields(table) if table else {}
    _check_subgraphs(i, operator, known, subgraphs)
    unknown = sorted(set(operator.options) - set(known))
    if unknown:
        raise ExportError(
            f"Operator {i} ({operator.kind}) has options {', '.join(unknown)}; "
            f"its table has {', '.join(known) or 'none'}. Use those names."
        )
    values = {name: _value(i, operator.kind, name, value) for name, value in operator.options.items()}
    field = schema.UNION_FIELDS[union]
    return {field: schema.new(table, **values), f"{field}_type": schema.UNIONS[union][table]}


def _check_subgraphs(i: int, operator: Operator, known: Collection[str], subgraphs: int) -> None:
    """Raise ExportError where an operator runs a subgraph that the Program does not hold."""
    for name in (name for name in known if "subgraph" in name):
        index = operator.options.get(name)
        if not isinstance(index, int) or not 0 < index < subgraphs:
            held = "one" if subgraphs == 1 else f"{subgraphs}"
            raise ExportError(
                f"Operator {i} ({operator.kind}) runs another subgraph, and a Program holds {held}: {name} is {index}. "
                "Name one of `Program.subgraphs`, from 1 on, or convert the model without control flow."
            )


def _value(i: int, kind: str, name: str, value: Option) -> Any:
    """As the generated class wants it: enums as numbers, vectors as lists."""
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, str) or name not in schema.ENUMS:
        return value
    if value not in schema.ENUMS[name]:
        raise ExportError(f"Operator {i} ({kind}) has {name} {value!r}; use {', '.join(schema.ENUMS[name])}.")
    return schema.ENUMS[name][value]


def _signatures(program: Program) -> list[Any]:
    if not program.input_names and not program.output_names:
        return []
    if len(program.input_names) != len(program.inputs) or len(program.output_names) != len(program.outputs):
        raise ExportError(
            f"{len(program.input_names)} names for {len(program.inputs)} inputs, {len(program.output_names)} "
            f"for {len(program.outputs)} outputs. Name every one or none."
        )
    return [
        schema.new(
            "SignatureDef",
            inputs=_tensor_maps(program.input_names, program.inputs),
            outputs=_tensor_maps(program.output_names, program.outputs),
            signature_key="serving_default",
            subgraph_index=0,
        )
    ]


def _tensor_maps(names: tuple[str, ...], indices: tuple[int, ...]) -> list[Any]:
    return [schema.new("TensorMap", name=name, tensor_index=i) for name, i in zip(names, indices, strict=True)]
