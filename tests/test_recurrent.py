"""UNIDIRECTIONAL_SEQUENCE_LSTM and SVDF of int8: every integer and every state, from call to call, of two runtimes."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType

import jaxq
from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import gemmlowp_int16
from jaxq.export.evaluate.load import Loaded
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor

runtime = pytest.importorskip("tflite_micro.python.tflite_micro.runtime", exc_type=ImportError)
CALLS = 4


def lstm(
    batch: int = 1, time: int = 5, depth: int = 7, cells: int = 6, power: int = -12, clip: float = 0.0,
    hidden: tuple[float, int] = (0.0078, 3), major: bool = False, weights: float = 0.01,
) -> Program:  # fmt: skip
    """A network of one LSTM. `power`: of the cell's scale. `weights`: the scale of the first gate's."""
    rng = np.random.default_rng(batch + time + depth - power)
    x = Quantization.of(0.05, -9)
    tensors = [Tensor("x", (time, batch, depth) if major else (batch, time, depth), "int8", x)]

    def add(name: str, data: np.ndarray, q: Quantization) -> int:
        tensors.append(Tensor(name, data.shape, data.dtype.name, q, data))
        return len(tensors) - 1

    def matrix(name: str, wide: int, scale: float) -> int:
        return add(name, rng.integers(-127, 128, (cells, wide)).astype(np.int8), Quantization.of(scale))

    inner = [matrix(f"w{gate}", depth, weights * (1 + gate)) for gate in range(4)]
    recurrent = [matrix(f"r{gate}", cells, 0.02 / (1 + gate)) for gate in range(4)]
    biases = [add(f"b{gate}", rng.integers(-3000, 3000, cells).astype(np.int32), Quantization.of(0.05 * weights))
              for gate in range(4)]  # fmt: skip
    states = (
        Tensor("h", (batch, cells), "int8", Quantization.of(*hidden), variable=True),
        Tensor("c", (batch, cells), "int16", Quantization.of(2.0**power), variable=True),
    )
    inside = [Tensor(f"i{k}", (0,), "float32") for k in range(4)] + [
        Tensor("i4", (0,), "int8", Quantization.of(*hidden))
    ]
    first = len(tensors)
    out = Tensor("y", (*tensors[0].shape[:2], cells), "int8", Quantization.of(*hidden))
    tensors += [*states, *inside, out]
    inputs = (0, *inner, *recurrent, -1, -1, -1, *biases, -1, -1, first, first + 1, -1, -1, -1, -1)
    options: dict[str, Option] = {"fused_activation_function": "TANH", "cell_clip": clip, "time_major": major}
    op = Operator("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, (first + 7,), options, 1, tuple(range(first + 2, first + 7)))
    return Program(tuple(tensors), (op,), (0,), (first + 7,), ("x",), ("y",))


def svdf(
    batch: int = 1, rank: int = 2, filters: int = 8, depth: int = 6, memory: int = 5, bias: bool = True
) -> Program:
    rng = np.random.default_rng(rank + memory)
    state, times = np.float32(0.004), np.float32(0.00003)
    tensors = (
        Tensor("x", (batch, depth), "int8", Quantization.of(0.05, 4)),
        Tensor("f", (filters, depth), "int8", Quantization.of(0.01),
               rng.integers(-127, 128, (filters, depth), np.int8)),
        Tensor("t", (filters, memory), "int16", Quantization.of(times),
               rng.integers(-20000, 20000, (filters, memory), np.int16)),
        Tensor("b", (filters // rank,), "int32", Quantization.of(state * times),
               rng.integers(-9000, 9000, filters // rank).astype(np.int32)),
        Tensor("s", (batch, memory * filters), "int16", Quantization.of(state), variable=True),
        Tensor("y", (batch, filters // rank), "int8", Quantization.of(0.01, -5)),
    )  # fmt: skip
    op = Operator("SVDF", (0, 1, 2, 3 if bias else -1, 4), (5,), {"rank": rank, "fused_activation_function": "RELU"}, 3)
    return Program(tensors, (op,), (0,), (5,), ("x",), ("y",))


NETWORKS = {
    "plain": lstm(),
    "cells of 2^-11, clipped": lstm(power=-11, clip=3.0),
    "cells of 2^-14": lstm(power=-14, cells=9),
    "cells of 2^-9": lstm(power=-9, weights=0.2),
    "saturated gates": lstm(weights=0.5, hidden=(0.006, -7)),
    "a batch": lstm(batch=3),
    "time first": lstm(batch=2, major=True),
    "svdf": svdf(),
    "svdf, a batch of rank 1": svdf(batch=2, rank=1),
}


def examples(program: Program) -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(-128, 128, program.tensors[0].shape).astype(np.int8) for _ in range(CALLS)]


def called(fn: Loaded, inputs: list[np.ndarray]) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """The state and the output after each call."""
    step, state, found = jax.jit(fn.step), fn.initial_state(), []
    for x in inputs:
        state, (y,) = step(state, x)
        found.append(({name: np.asarray(value) for name, value in state.items()}, np.asarray(y)))
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_every_integer_and_state_equals_litert(name: str):
    data, inputs = write(NETWORKS[name]), examples(NETWORKS[name])
    referee = Interpreter(model_content=data, experimental_op_resolver_type=OpResolverType.BUILTIN_REF)
    referee.allocate_tensors()
    for x, (state, y) in zip(inputs, called(jaxq.load(data, family="reference"), inputs), strict=True):
        referee.set_tensor(referee.get_input_details()[0]["index"], x)
        referee.invoke()
        np.testing.assert_array_equal(y, referee.get_tensor(referee.get_output_details()[0]["index"]))
        for key, value in state.items():
            np.testing.assert_array_equal(value, referee.get_tensor(int(key.rsplit(":", 1)[1])))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_integer_equals_tflite_micro(name: str):
    data, inputs = write(NETWORKS[name]), examples(NETWORKS[name])
    referee = runtime.Interpreter.from_bytes(data)
    for x, (_, y) in zip(inputs, called(jaxq.load(data, family="tflm"), inputs), strict=True):
        referee.set_input(x, 0)
        referee.invoke()
        np.testing.assert_array_equal(y, referee.get_output(0))


def test_a_batch_is_a_sequence_of_calls():
    fn = jaxq.load(write(NETWORKS["plain"]), family="reference")
    inputs = examples(NETWORKS["plain"])
    together = np.asarray(fn(np.concatenate(inputs))[0])
    np.testing.assert_array_equal(together, np.concatenate([y for _, y in called(fn, inputs)]))


def test_files_keep_variables_and_intermediates():
    program = read(write(lstm()))
    assert [t.name for t in program.tensors if t.variable] == ["h", "c"]
    assert [program.tensors[i].name for i in program.operators[0].intermediates] == ["i0", "i1", "i2", "i3", "i4"]


def test_what_is_not_modelled_says_so():
    plain, op = lstm(), lstm().operators[0]
    with pytest.raises(ExportError, match="The xnnpack family has no exact kernel .* Evaluate with family 'reference'"):
        jaxq.load(write(plain))
    coupled = dataclasses.replace(op, inputs=(0, -1, *op.inputs[2:5], -1, *op.inputs[6:12], -1, *op.inputs[13:]))
    fn = jaxq.load(write(dataclasses.replace(plain, operators=(coupled,))), family="reference")
    with pytest.raises(ExportError, match="with coupled input and forget gates is not modelled"):
        fn(examples(plain)[0])
    with pytest.raises(ExportError, match="UNIDIRECTIONAL_SEQUENCE_LSTM has no float meaning"):
        jaxq.load(write(plain), family="tflm").real(np.zeros((1, 5, 7), np.float32))


@pytest.mark.parametrize("power", [-5, -16])
def test_cells_beyond_litert_s_tanh_are_refused(power: int):
    """LiteRT computes something else there, and TFLite Micro the same as elsewhere."""
    program = lstm(time=1, power=power)
    with pytest.raises(ExportError, match=rf"cells of scale 2\^{power}: LiteRT's kernel takes 2\^-15 to 2\^-9"):
        jaxq.load(write(program), family="reference")(examples(program)[0])


def test_weights_with_a_zero_point_are_refused():
    program = lstm(time=1)
    shifted = dataclasses.replace(program.tensors[1], quantization=Quantization.of(0.01, 5))
    program = dataclasses.replace(program, tensors=(program.tensors[0], shifted, *program.tensors[2:]))
    with pytest.raises(ExportError, match="the weights 'w0' have a zero point"):
        jaxq.load(write(program), family="tflm")(examples(program)[0])


def test_functions_of_16_bits_are_near_the_real_ones():
    x = np.arange(-32768, 32768)
    assert np.abs(gemmlowp_int16.logistic(3) / 32768 - 1 / (1 + np.exp(-x / 4096.0))).max() < 6e-4
    for bits in (0, 3, 5):
        assert np.abs(gemmlowp_int16.tanh(bits) / 32768 - np.tanh(x * 2.0 ** (bits - 15))).max() < 2e-3
