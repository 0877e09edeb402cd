"""The bytes of a `.tflite`: what is written is read back, LiteRT runs it, no bytes harm the reader."""

from __future__ import annotations

import dataclasses
import random
import time
import tracemalloc
from collections.abc import Callable, Mapping
from typing import Any

import flatbuffers
import numpy as np
import pytest
from ai_edge_litert import schema_py_generated
from ai_edge_litert.interpreter import Interpreter

from jaxq.errors import ExportError, FormatError
from jaxq.export.flatbuffer import schema
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.table import TABLES
from jaxq.export.flatbuffer.verify import verify
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor

generated: Any = schema_py_generated  # its vectors are typed as None
CONV: Mapping[str, Option] = {
    "padding": "SAME",
    "stride_w": 1,
    "stride_h": 1,
    "fused_activation_function": "RELU6",
}


def activation(name: str, *shape: int, scale: float = 0.05, zero_point: int = -3) -> Tensor:
    return Tensor(name, shape, "int8", Quantization.of(scale, zero_point))


def constant(name: str, data: np.ndarray, q: Quantization | None = None, dtype: str = "") -> Tensor:
    return Tensor(name, data.shape, dtype or data.dtype.name, q, data)


def net() -> Program:
    """Convolutions per channel, dense int4, reshape, mean, softmax, metadata, a signature."""
    rng = np.random.default_rng(0)

    def weights(*shape: int, low: int = -127, high: int = 127) -> np.ndarray:
        return rng.integers(low, high, shape, np.int8, endpoint=True)

    scales = rng.uniform(0.001, 0.01, 4).astype(np.float32)
    tensors = (
        activation("x", 1, 6, 6, 3),
        constant("conv/w", weights(4, 3, 3, 3), Quantization.of(scales)),
        constant("conv/b", np.arange(4, dtype=np.int32), Quantization.of(scales * np.float32(0.05))),
        activation("conv", 1, 6, 6, 4),
        constant("dw/w", weights(1, 3, 3, 4), Quantization.of(scales, axis=3)),
        constant("dw/b", np.arange(4, dtype=np.int32), Quantization.of(scales * np.float32(0.05))),
        activation("dw", 1, 6, 6, 4),
        constant("axes", np.array([1, 2], np.int32)),
        activation("mean", 1, 1, 1, 4),
        constant("shape", np.array([1, 4], np.int32)),
        activation("flat", 1, 4),
        constant("fc/w", weights(5, 4, low=-8, high=7), Quantization.of(0.01), "int4"),
        constant("fc/b", np.arange(5, dtype=np.int32), Quantization.of(0.0005)),
        activation("logits", 1, 5),
        activation("probabilities", 1, 5, scale=1 / 256, zero_point=-128),
    )
    operators = (
        Operator("CONV_2D", (0, 1, 2), (3,), CONV, 3),
        Operator("DEPTHWISE_CONV_2D", (3, 4, 5), (6,), {**CONV, "depth_multiplier": 1}, 3),
        Operator("MEAN", (6, 7), (8,), {"keep_dims": True}, 2),
        Operator("RESHAPE", (8, 9), (10,), {"new_shape": (1, 4)}),
        Operator("FULLY_CONNECTED", (10, 11, 12), (13,), {"keep_num_dims": False}, 10),
        Operator("SOFTMAX", (13,), (14,), {"beta": 1.0}, 2),
    )
    metadata = {"jaxq": b'{"recipe": "int8"}', "empty": b""}
    return Program(tensors, operators, (0,), (14,), ("image",), ("probabilities",), "a test", metadata)


def small(**changes: Any) -> Program:
    """RELU over one vector, with some of its fields replaced."""
    program = Program((activation("x", 4), activation("y", 4)), (Operator("RELU", (0,), (1,), {}, 2),), (0,), (1,))
    return dataclasses.replace(program, **changes)


def with_tensor(tensor: Tensor) -> Program:
    return small(tensors=(*small().tensors, tensor))


def with_operator(kind: str, options: Mapping[str, Option], inputs: tuple[int, ...] = (0,)) -> Program:
    return small(operators=(Operator(kind, inputs, (1,), options),))


def assert_same_array(a: np.ndarray | None, b: np.ndarray | None) -> None:
    assert (a is None) == (b is None)
    if a is not None and b is not None:
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        assert a.tobytes() == b.tobytes()


def assert_same_tensor(a: Tensor, b: Tensor) -> None:
    assert (a.name, a.shape, a.dtype) == (b.name, b.shape, b.dtype)
    assert_same_array(a.data, b.data)
    assert (a.quantization is None) == (b.quantization is None)
    if a.quantization is not None and b.quantization is not None:
        assert a.quantization.axis == b.quantization.axis
        assert_same_array(a.quantization.scale, b.quantization.scale)
        assert_same_array(a.quantization.zero_point, b.quantization.zero_point)


def defaults(kind: str) -> Mapping[str, Option]:
    found = schema.OPTIONS.get(kind)
    return read(write(with_operator(kind, {}))).operators[0].options if found else {}


def assert_same(wanted: Program, got: Program) -> None:
    """Equal in every field; the options that `wanted` leaves out are the schema's defaults."""
    for a, b in zip(wanted.tensors, got.tensors, strict=True):
        assert_same_tensor(a, b)
    for a, b in zip(wanted.operators, got.operators, strict=True):
        assert dataclasses.replace(a, options={**defaults(a.kind), **a.options}) == b
    for field in ("inputs", "outputs", "input_names", "output_names", "description", "metadata"):
        assert getattr(wanted, field) == getattr(got, field)


# Round trips


def test_a_net_reads_back_as_it_was_written():
    assert_same(net(), read(write(net())))


def test_bytes_are_deterministic_and_a_fixed_point():
    data = write(net())
    assert data == write(net())
    assert data == write(read(data))


def test_constants_are_views_of_the_file():
    data = write(net())
    weights = read(data).tensors[1].data
    assert weights is not None
    assert np.shares_memory(weights, np.frombuffer(data, np.uint8))


@pytest.mark.parametrize("kind", [k for k in schema.OPERATORS if k != "CUSTOM"])
def test_every_builtin_operator_round_trips_with_all_its_options(kind: str):
    program = with_operator(kind, {})
    fields = schema.options_fields(schema.OPTIONS[kind][1]) if kind in schema.OPTIONS else {}
    if any("subgraph" in name for name in fields):
        with pytest.raises(ExportError, match=rf"Operator 0 \({kind}\) runs another subgraph, and a Program holds one"):
            write(program)
        return
    options = read(write(program)).operators[0].options
    assert set(options) == set(fields)
    values = {f.name: _other(f.kind, f.name, f.type) for f in fields.values()}
    assert read(write(with_operator(kind, values))).operators[0].options == values


def control_flow() -> bytes:
    """The net with CALL_ONCE, which runs another subgraph, as its first operator."""
    model: Any = generated.ModelT.InitFromPackedBuf(write(net()), 0)
    code, operator, options = generated.OperatorCodeT(), generated.OperatorT(), generated.CallOnceOptionsT()
    code.builtinCode, code.version = generated.BuiltinOperator.CALL_ONCE, 1
    options.initSubgraphIndex = 1
    operator.opcodeIndex, operator.inputs, operator.outputs = len(model.operatorCodes), [], []
    operator.builtinOptionsType, operator.builtinOptions = generated.BuiltinOptions.CallOnceOptions, options
    model.operatorCodes.append(code)
    model.subgraphs[0].operators.insert(0, operator)
    return pack(model)


def test_control_flow_is_read_but_not_written():
    program = read(control_flow())
    assert (program.operators[0].kind, program.operators[0].options) == ("CALL_ONCE", {"init_subgraph_index": 1})
    with pytest.raises(ExportError, match="runs another subgraph"):
        write(program)


def _other(kind: str, name: str, dtype: str) -> Option:
    """A value of the field's type that is not its default."""
    if kind == "string":
        return "name"
    if kind == "vector":
        return (0.5, 2.0) if dtype == "<f4" else (1, 0, 1)
    if name in schema.ENUMS:
        return list(schema.ENUMS[name])[1]
    return {"|b1": False, "<f4": 0.25}.get(dtype, 3)


class Recorder:
    """Stands in for a builder, and notes the one call that a generated `TableAddField` makes of it."""

    call: tuple[str, int, Any] | None = None

    def __getattr__(self, method: str) -> Any:
        def note(slot: int, value: int, default: Any) -> None:
            self.call = (method.removeprefix("Prepend").removesuffix("Slot"), slot, default)

        return note


def test_layouts_agree_with_the_generated_schema():
    for table, layout in TABLES.items():
        for name, field in layout.items():
            builder = Recorder()
            camel = "".join(part.capitalize() for part in name.split("_"))
            getattr(generated, f"{table}Add{camel}")(builder, 0)
            dtype = np.dtype(field.type).name.capitalize() if field.kind == "number" else "UOffsetTRelative"
            assert builder.call == (dtype, field.slot, field.default), (table, name)


# Bytes of six values of the types that a Program holds as the bytes of their buffer.
RAW_BYTES = {"bfloat16": 12, "float8_e4m3fn": 6, "float8_e5m2": 6, "int2": 2, "string": 8, "uint4": 3}


def six_values(dtype: str) -> np.ndarray:
    if dtype in RAW_BYTES:
        return np.arange(RAW_BYTES[dtype], dtype=np.uint8)
    return np.array([[0, 1, 1], [1, 0, 1]]).astype(schema.storage(dtype))


@pytest.mark.parametrize("dtype", list(schema.TENSOR_TYPES))
def test_every_dtype_round_trips(dtype: str):
    tensor = Tensor("c", (2, 3), dtype, None, six_values(dtype))
    assert_same_tensor(tensor, read(write(with_tensor(tensor))).tensors[2])


@pytest.mark.parametrize("dtype", [d for d in RAW_BYTES if d != "string"])
def test_the_bytes_of_a_type_held_as_bytes_are_those_that_litert_needs(dtype: str):
    data = six_values(dtype)
    Interpreter(model_content=write(with_tensor(Tensor("c", (2, 3), dtype, None, data)))).allocate_tensors()
    with pytest.raises(ExportError, match=rf"but its data is uint8\[{data.size - 1}\]. Give it uint8 data of shape"):
        write(with_tensor(Tensor("c", (2, 3), dtype, None, data[1:])))
    short: Any = generated.ModelT.InitFromPackedBuf(write(with_tensor(Tensor("c", (2, 3), dtype, None, data))), 0)
    short.buffers[1].data = data[1:]
    with pytest.raises(FormatError, match=rf"needs {data.size} bytes, but its buffer 1 has {data.size - 1}"):
        read(pack(short))
    with pytest.raises(ValueError, match="required_bytes <= bytes was not true"):
        Interpreter(model_content=pack(short)).allocate_tensors()


@pytest.mark.parametrize("shape", [(), (0,), (1,), (7,), (3, 5), (2, 0, 3)])
def test_int4_packs_two_values_in_a_byte(shape: tuple[int, ...]):
    values = np.random.default_rng(1).integers(-8, 7, shape, np.int8, endpoint=True)
    tensor = Tensor("c", shape, "int4", None, np.asarray(values, np.int8))
    assert_same_tensor(tensor, read(write(with_tensor(tensor))).tensors[2])


def test_int4_has_its_low_nibble_first():
    tensor = Tensor("c", (3,), "int4", None, np.array([1, -2, 7], np.int8))
    model = generated.ModelT.InitFromPackedBuf(write(with_tensor(tensor)))
    assert bytes(model.buffers[1].data) == bytes([0xE1, 0x07])


def test_custom_operators_absent_inputs_and_shared_codes():
    operators = (
        Operator("CUSTOM:Mine", (0, -1), (1,)),
        Operator("CUSTOM:Mine", (1,), (0,)),
        Operator("CUSTOM:Yours", (0,), (1,)),
        Operator("GELU", (0,), (1,), {"approximate": True}, 2),
    )
    data = write(small(operators=operators))
    assert read(data).operators == operators
    codes = generated.ModelT.InitFromPackedBuf(data).operatorCodes
    assert [(c.builtinCode, c.deprecatedBuiltinCode, c.version) for c in codes] == [
        (32, 32, 1),
        (32, 32, 1),
        (150, 127, 2),
    ]


def test_one_tensor_may_be_two_outputs_with_two_names():
    program = small(outputs=(1, 1), input_names=("a",), output_names=("b", "c"))
    assert read(write(program)).output_names == ("b", "c")


# Layout of the file


def test_every_constant_starts_at_a_multiple_of_16():
    data = write(net())
    for tensor in read(data).tensors:
        if tensor.data is not None and tensor.dtype != "int4":
            assert data.count(tensor.data.tobytes()) >= 1
            address = tensor.data.__array_interface__["data"][0]
            start = np.frombuffer(data, np.uint8).__array_interface__["data"][0]
            assert (address - start) % 16 == 0
    model = generated.Model.GetRootAs(data)
    vectors = [model.Buffers(i) for i in range(model.BuffersLength()) if not model.Buffers(i).DataIsNone()]
    assert [b._tab.Vector(b._tab.Offset(4)) % 16 for b in vectors] == [0] * len(vectors)


def test_equal_constants_share_a_buffer():
    """conv/b and dw/b hold the same four int32."""
    model = generated.ModelT.InitFromPackedBuf(write(net()))
    buffers = [t.buffer for t in model.subgraphs[0].tensors]
    assert buffers[2] == buffers[5] != 0
    assert model.buffers[0].data is None


def test_litert_runs_what_is_written():
    interpreter = Interpreter(model_content=write(net()))
    runner = interpreter.get_signature_runner("serving_default")
    x = np.random.default_rng(2).integers(-128, 128, (1, 6, 6, 3)).astype(np.int8)
    got = runner(image=x)["probabilities"]
    assert got.shape == (1, 5) and abs(int((got.astype(int) + 128).sum()) - 256) <= 5


# Files of others


def foreign(**tensor_fields: Any) -> bytes:
    """MUL of a matrix and a constant by the generated object API: unaligned data, no signature, old code."""
    return pack(foreign_model(**tensor_fields))


def foreign_model(**tensor_fields: Any) -> Any:
    model, graph, code, operator = (
        generated.ModelT(),
        generated.SubGraphT(),
        generated.OperatorCodeT(),
        generated.OperatorT(),
    )
    model.version, model.buffers = 3, [generated.BufferT(), generated.BufferT()]
    model.buffers[1].data = np.arange(8, dtype=np.int32).view(np.uint8)
    code.deprecatedBuiltinCode, code.builtinCode = 18, 0
    operator.inputs, operator.outputs = [0, 1], [2]
    graph.tensors = [generated.TensorT() for _ in range(3)]
    for i, tensor in enumerate(graph.tensors):
        tensor.name, tensor.shape, tensor.type, tensor.buffer = (
            f"t{i}",
            [2, 4],
            generated.TensorType.INT32,
            int(i == 1),
        )
    for name, value in tensor_fields.items():
        setattr(graph.tensors[1], name, value)
    graph.operators, graph.inputs, graph.outputs = [operator], [0], [2]
    model.operatorCodes, model.subgraphs = [code], [graph]
    return model


def pack(model: Any) -> bytes:
    builder = flatbuffers.Builder(0)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def quantization(scale: int, zero_point: int | None, axis: int = 0) -> Any:
    q = generated.QuantizationParametersT()
    q.scale = [0.5] * scale
    q.zeroPoint = None if zero_point is None else [7] * zero_point
    q.quantizedDimension = axis
    return q


def test_a_foreign_file_reads():
    program = read(foreign())
    assert program.operators == (Operator("MUL", (0, 1), (2,), {"fused_activation_function": "NONE"}),)
    assert (program.input_names, program.description, dict(program.metadata)) == ((), "", {})
    data = program.tensors[1].data
    assert data is not None and data.tolist() == [[0, 1, 2, 3], [4, 5, 6, 7]]


def test_zero_points_may_be_absent_or_one_for_all():
    for count, wanted in ((None, [0] * 4), (0, [0] * 4), (1, [7] * 4), (4, [7] * 4)):
        q = read(foreign(quantization=quantization(4, count, axis=1))).tensors[1].quantization
        assert q is not None and (q.zero_point.tolist(), q.zero_point.dtype, q.axis) == (wanted, np.int64, 1)
    assert read(foreign(quantization=quantization(0, None))).tensors[1].quantization is None


def test_data_behind_the_flatbuffer_reads():
    model = foreign_model()
    model.buffers[1].data, model.buffers[1].offset, model.buffers[1].size = None, 1, 1
    size = len(pack(model))
    model.buffers[1].offset, model.buffers[1].size = size + 1, 32
    data = pack(model)
    assert len(data) == size
    behind = read(data + b"-" + bytes(range(32))).tensors[1].data
    assert behind is not None and behind.flags.aligned
    assert behind.tobytes() == bytes(range(32))
    with pytest.raises(FormatError, match="but the data of its tensor 1 .* lies at bytes"):
        read(data)


def test_names_that_are_not_utf8_are_escaped():
    assert read(foreign(name=b"\xff\xfeweights")).tensors[1].name == "\\xff\\xfeweights"


# Messages


FOREIGN_ERRORS = [
    ({"type": 99}, r"tensor 1 \('t1'\) is of type 99 \(unknown\); jaxq reads bfloat16, bool"),
    ({"shape": [2, -1]}, r"tensor 1 \('t1'\) has shape \(2, -1\), with a negative dimension"),
    ({"shape": [2, 5]}, r"tensor 1 \('t1'\), int32\[2, 5\], needs 40 bytes, but its buffer 1 has 32"),
    ({"shape": [1] * 33}, "has 33 dimensions; at most 32"),
    ({"shape": [65536, 65536]}, "more than 2,147,483,647 elements"),
    ({"shape": [0, 2**31 - 1, 2**31 - 1]}, "more than 2,147,483,647 elements"),
    ({"shape": [2**31 - 1, 0]}, r"shape \(2147483647, 0\): no elements, and an axis of more than 1,048,576"),
    ({"buffer": 9}, r"tensor 1 \('t1'\) has buffer 9, of 2 buffers"),
    ({"quantization": quantization(3, 3)}, r"has 3 scales along dimension 0 of shape \(2, 4\)"),
    ({"quantization": quantization(4, 4, axis=5)}, r"has 4 scales along dimension 5 of shape \(2, 4\)"),
    ({"quantization": quantization(4, 3, axis=1)}, "has 4 scales but 3 zero points"),
]


@pytest.mark.parametrize(("fields", "message"), FOREIGN_ERRORS, ids=[m[:40] for _, m in FOREIGN_ERRORS])
def test_tensors_that_break_a_rule(fields: dict[str, Any], message: str):
    with pytest.raises(FormatError, match=message):
        read(foreign(**fields))


def blockwise() -> Any:
    q = quantization(1, 1)
    q.detailsType, q.details = generated.QuantizationDetails.CustomQuantization, generated.CustomQuantizationT()
    q.details.custom = [0] * 8
    return q


UNREAD = {
    "sparse data": {"sparsity": generated.SparsityParametersT()},
    "data in another file": {"externalBuffer": 1},
    "custom or blockwise quantization": {"quantization": blockwise()},
}


@pytest.mark.parametrize("what", UNREAD)
def test_what_a_program_cannot_hold_is_named(what: str):
    tensor = read(foreign(**UNREAD[what])).tensors[1]
    assert tensor.unread == what
    assert (tensor.data is None) == ("quantization" not in what) and tensor.quantization is None


def test_types_that_are_not_computed_are_read_as_bytes():
    tensor = read(foreign(type=generated.TensorType.BFLOAT16, shape=[4, 4])).tensors[1]
    assert tensor.dtype == "bfloat16" and tensor.data is not None and tensor.data.nbytes == 32
    assert read(foreign(type=generated.TensorType.UINT64, shape=[4])).tensors[1].dtype == "uint64"


def test_a_file_without_buffers_is_read():
    model = foreign_model()
    model.buffers = []
    assert read(pack(model)).tensors[1].unread == "data in buffer 1 of a file without buffers"


def broken_operator(**fields: Any) -> bytes:
    model = foreign_model()
    for name, value in fields.items():
        setattr(model.subgraphs[0].operators[0], name, value)
    return pack(model)


def broken_code(code: int) -> bytes:
    model = foreign_model()
    model.operatorCodes[0].builtinCode = code
    return pack(model)


def mul_options(**fields: Any) -> dict[str, Any]:
    options = generated.MulOptionsT()
    for name, value in fields.items():
        setattr(options, name, value)
    return {"builtinOptions": options, "builtinOptionsType": generated.BuiltinOptions.MulOptions}


def no_subgraph() -> bytes:
    model = foreign_model()
    model.subgraphs = []
    return pack(model)


def old_version() -> bytes:
    model = foreign_model()
    model.version = 2
    return pack(model)


FILE_ERRORS = [
    (b"", "The file is 0 bytes; no TFLite file is shorter than 20. Copy it again."),
    (b"PK\x03\x04" + bytes(40), r"has b'\\x00\\x00\\x00\\x00' at byte 4, where a TFLite file has b'TFL3'"),
    (b"\x00\x00\x00\x7fTFL3" + bytes(40), "The file is 48 bytes, but its model needs bytes 2,130,706,432 to"),
    (b"\x09\x00\x00\x00TFL3" + bytes(40), "its model lies at byte 9, not at a multiple of 4"),
    (b"\x08\x00\x00\x00TFL3" + bytes(40), "its model has a vtable of 0 bytes for a table of 0"),
    (old_version(), "schema version 2; TFLite's is 3"),
    (no_subgraph(), "The file has no subgraph"),
    (broken_code(4242), "operator code 0 names builtin operator 4,242; the installed schema knows 0 to 209"),
    (broken_operator(opcodeIndex=3), "operator 0 has code 3, of 1 operator codes"),
    (broken_operator(inputs=[0, 3]), r"operator 0 \(MUL\) has tensor 3 in its inputs, of 3 tensors"),
    (broken_operator(inputs=[0, -2]), r"operator 0 \(MUL\) has tensor -2 in its inputs"),
    (broken_operator(outputs=[-1]), r"operator 0 \(MUL\) has tensor -1 in its outputs"),
    (broken_operator(**mul_options(fusedActivationFunction=77)), "fused_activation_function 77; there is"),
    (broken_operator(**mul_options() | {"builtinOptionsType": 11}), "has AddOptions where MulOptions belong"),
    (broken_operator(**mul_options() | {"builtinOptionsType": 250}), "has options of unknown type 250"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "message"), FILE_ERRORS, ids=[m[:40] for _, m in FILE_ERRORS])
def test_files_that_break_a_rule(data: bytes, message: str):
    with pytest.raises(FormatError, match=message):
        read(data)


PROGRAM_ERRORS = [
    (
        with_tensor(Tensor("c", (2,), "int8", None, np.zeros(3, np.int8))),
        r"int8\[2\], but its data is int8\[3\]",
    ),
    (
        with_tensor(Tensor("c", (2,), "int8", None, np.zeros(2))),
        r"its data is float64\[2\]. Give it int8 data of shape \[2\]",
    ),
    (
        with_tensor(Tensor("c", (2,), "int4", None, np.array([8, 0], np.int8))),
        "is int4 and has values 0 to 8",
    ),
    (with_tensor(Tensor("c", (2,), "int5")), "has dtype 'int5'; use float32"),
    (with_operator("CONV", {}), "Operator 0 is of kind 'CONV', which is no TFLite operator"),
    (with_operator("RELU", {"beta": 1.0}), r"\(RELU\) has options beta; its table has none"),
    (with_operator("SOFTMAX", {"gamma": 1.0}), "has options gamma; its table has beta"),
    (
        with_operator("ADD", {"fused_activation_function": "GELU"}),
        "fused_activation_function 'GELU'; use NONE, RELU",
    ),
    (small(input_names=("a",)), "1 names for 1 inputs, 0 for 1 outputs"),
]


@pytest.mark.parametrize(("program", "message"), PROGRAM_ERRORS, ids=[m[:40] for _, m in PROGRAM_ERRORS])
def test_programs_that_cannot_be_written(program: Program, message: str):
    with pytest.raises(ExportError, match=message):
        write(program)


# Hostile bytes


def survives(data: bytes) -> bool:
    """Whether `read` accepts the bytes; any exception but FormatError passes through and fails the test."""
    try:
        read(data)
    except FormatError:
        return False
    return True


def test_truncation_is_a_format_error():
    data = write(net())
    for i in range(64):
        assert not survives(data[: len(data) * i // 64])


@pytest.mark.parametrize(("make", "times"), [(lambda: write(net()), 300), (foreign, 1700)], ids=["ours", "foreign"])
def test_mutated_bytes_are_read_or_refused(make: Callable[[], bytes], times: int):
    data, rng = make(), random.Random(0)
    start = time.monotonic()
    outcomes = [survives(mutated(data, rng)) for _ in range(times)]
    assert 0 < sum(outcomes) < len(outcomes)
    assert time.monotonic() - start < 30


def mutated(data: bytes, rng: random.Random) -> bytes:
    """One to four bytes, or one aligned word, replaced by values that offsets and lengths find awkward."""
    changed = bytearray(data)
    if rng.random() < 0.3:
        at = rng.randrange(len(data) // 4) * 4
        changed[at : at + 4] = rng.choice((0, 1, 4, len(data), 2**31 - 1, 2**31, 2**32 - 1)).to_bytes(4, "little")
        return bytes(changed)
    for _ in range(rng.randint(1, 4)):
        changed[rng.randrange(len(data))] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def bomb(tables: int) -> bytes:
    """A subgraph whose every tensor is one table with one name, half as long as the file."""
    builder = flatbuffers.Builder(0)
    name = builder.CreateString("n" * 4 * tables)
    generated.TensorStart(builder)
    generated.TensorAddName(builder, name)
    tensor = generated.TensorEnd(builder)
    generated.SubGraphStartTensorsVector(builder, tables)
    for _ in range(tables):
        builder.PrependUOffsetTRelative(tensor)
    vector = builder.EndVector()
    generated.SubGraphStart(builder)
    generated.SubGraphAddTensors(builder, vector)
    graph = generated.SubGraphEnd(builder)
    generated.ModelStartSubgraphsVector(builder, 1)
    builder.PrependUOffsetTRelative(graph)
    graphs = builder.EndVector()
    generated.ModelStart(builder)
    generated.ModelAddVersion(builder, 3)
    generated.ModelAddSubgraphs(builder, graphs)
    builder.Finish(generated.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def test_tables_that_overlap_are_refused_before_they_cost_anything():
    data = bomb(100_000)
    tracemalloc.start()
    with pytest.raises(FormatError, match="visited: its parts overlap"):
        verify(data)
    assert tracemalloc.get_traced_memory()[1] < len(data)
    tracemalloc.stop()


def test_buffers_that_overlap_behind_the_flatbuffer_are_refused():
    model = foreign_model()
    for _ in range(9):
        model.buffers.append(generated.BufferT())
    for i, buffer in enumerate(model.buffers[2:], start=2):
        buffer.data, buffer.offset, buffer.size = None, 2, 3000
        entry = generated.MetadataT()
        entry.name, entry.buffer = f"m{i}", i
        model.metadata = [*(model.metadata or []), entry]
    with pytest.raises(FormatError, match="claim more than that behind the flatbuffer"):
        read(pack(model) + bytes(3000))
