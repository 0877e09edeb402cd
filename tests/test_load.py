"""`jaxq.load`: files that others wrote, tensor for tensor against LiteRT; gradients; variables; what is refused."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.test_util import check_grads

import jaxq
from jaxq.errors import ExportError, InputError
from jaxq.export.evaluate.kernels import floats
from jaxq.export.evaluate.kernels.machine import MACHINES, PHONE
from jaxq.export.evaluate.load import Loaded, Port
from jaxq.export.evaluate.program import FAMILIES, evaluate
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor
from jaxq.export.proof.certificate import Tally
from jaxq.export.proof.families import compare_families, readers
from jaxq.export.runtimes import litert
from tests.promotion import avg_pool

GOLDEN = Path(__file__).parent / "golden"
INTEGERS = ("mobilenet_v2", "small_ai_edge", "small_float_ends", "odd_uint8_ends", "hey_jarvis")
FLOATS = ("small_float", "odd_float", "small_dynamic", "small_ai_edge_dynamic")
FAMILY = ("xnnpack", "reference")


@functools.cache
def loaded(name: str) -> Loaded:
    return jaxq.load(GOLDEN / f"{name}.tflite")


def drawn(fn: Loaded, count: int, seed: int = 0) -> list[np.ndarray]:
    """A batch for each input, in the file's dtypes: integers of the whole range, floats in [-1, 1]."""
    rng = np.random.default_rng(seed)
    return [_drawn(rng, port, count) for port in fn.inputs]


def _drawn(rng: np.random.Generator, port: Port, count: int) -> np.ndarray:
    shape = (count, *port.shape[1:])
    if port.dtype == "float32":
        return rng.uniform(-1, 1, shape).astype(np.float32)
    ends = np.iinfo(port.dtype)
    return rng.integers(ends.min, ends.max, shape, port.dtype, endpoint=True)


def images(fn: Loaded, count: int, seed: int = 0) -> np.ndarray:
    """Real numbers in [-1, 1] for the one input."""
    return np.random.default_rng(seed).uniform(-1, 1, (count, *fn.inputs[0].shape[1:])).astype(np.float32)


def cosine(a: jax.Array, b: jax.Array) -> float:
    """Of the angle between two gradients."""
    return float((a * b).sum() / jnp.sqrt((a * a).sum() * (b * b).sum()))


# ---------------------------------------------------------------- every tensor of files that others wrote


@pytest.mark.parametrize("name", [*INTEGERS, *FLOATS])
def test_every_tensor_equals_litert(name: str) -> None:
    """The examples of hey_jarvis, a model for TFLite Micro, follow one another: its variables hold the past."""
    families, count = ((*FAMILY, "tflm"), 40) if name == "hey_jarvis" else (FAMILY, 3)
    fn, tallies = loaded(name), {family: Tally() for family in families}
    data = (GOLDEN / f"{name}.tflite").read_bytes()
    compare_families(data, fn.program, drawn(fn, count), readers(fn.program, families), tallies)
    written = {index for op in fn.program.operators for index in op.outputs}
    names = {fn.program.tensors[i].name for i in written if fn.program.tensors[i].dtype != "resource"}
    for tally in tallies.values():
        assert tally.total == 0
        assert names <= set(tally.differing)
        assert (tally.floats > 0) == (name in (*FLOATS, "odd_uint8_ends"))
        assert (tally.compared > 10_000) == (name in INTEGERS)


@pytest.mark.parametrize("family", FAMILY)
def test_batches_jit_and_vmap_agree(family: str) -> None:
    fn = loaded("small_ai_edge")
    (x,) = drawn(fn, 3)
    call = functools.partial(fn, family=family)
    (whole,) = jax.jit(call)(x)
    (named,) = jax.jit(fn, static_argnames="family")(x, family=family)
    (mapped,) = jax.jit(jax.vmap(call))(x[:, None])
    one = jax.jit(call)
    for other in (named, mapped[:, 0], np.concatenate([one(row[None])[0] for row in x])):
        np.testing.assert_array_equal(other, whole)


def test_the_family_of_the_call_goes_before_the_one_of_load() -> None:
    path = GOLDEN / "small_ai_edge.tflite"
    fn, other = loaded("small_ai_edge"), jaxq.load(path, family="reference")
    (x,) = drawn(fn, 2)
    (by_call,), (by_load,) = jax.jit(functools.partial(fn, family="reference"))(x), jax.jit(other)(x)
    np.testing.assert_array_equal(by_call, by_load)
    np.testing.assert_array_equal(litert.run(path.read_bytes(), [x], "reference")[0], by_load)
    with pytest.raises(ExportError, match="No kernel family 'ruy'. Families: "):
        fn(x, family="ruy")


def test_ports_say_what_goes_in_and_out() -> None:
    fn = loaded("odd_uint8_ends")
    assert fn.inputs == (Port("x", (1, 12, 12, 4), "uint8", float(np.float32(0.0078412537)), 128),)
    assert [port.name for port in fn.outputs] == ["output_1", "output_0", "output_2"]
    assert loaded("odd_float").inputs == (Port("x", (1, 12, 12, 4), "float32", None, None),)


# ---------------------------------------------------------------- real numbers and gradients


@pytest.mark.parametrize(
    "name, family", [("small_ai_edge", "reference"), *((name, "xnnpack") for name in ("odd_uint8_ends", "hey_jarvis"))]
)
def test_real_numbers_are_the_integers_dequantized(name: str, family: str) -> None:
    fn = loaded(name)
    x = 3 * images(fn, 5)
    reals = jax.jit(functools.partial(fn.real, family=family))(x)
    outputs = jax.jit(functools.partial(fn, family=family))(*fn.quantize_inputs(x))
    for real, same in zip(reals, fn.dequantize_outputs(*outputs), strict=True):
        np.testing.assert_array_equal(real, same)


def test_quantizing_an_input_is_the_quantize_operator() -> None:
    """A tie, both ends, and beyond."""
    fn = loaded("small_ai_edge")
    port = fn.inputs[0]
    assert port.scale is not None and port.zero_point is not None
    steps = np.resize(np.array([0, 0.5, 1.5, -0.5, 126, 128, 300, -127, -128, -300], np.float32), fn.inputs[0].shape)
    (q,) = fn.quantize_inputs(steps * np.float32(port.scale))
    np.testing.assert_array_equal(q, np.clip(np.rint(steps) + port.zero_point, -128, 127).astype(np.int8))


class Net(nnx.Module):
    """Convolutions with clips between, a sum, a mean, a dense layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 8, (3, 3), strides=2, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.head = nnx.Linear(8, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu6(self.conv(x))
        x = x + nnx.relu(self.depthwise(x))
        return self.head(avg_pool(x, (2, 2), strides=(2, 2)).mean((1, 2)))


def test_the_gradient_is_the_training_forwards(tmp_path: Path) -> None:
    """Of an exported network, with respect to its input; inputs reach beyond the calibrated range."""
    x = np.random.default_rng(0).normal(size=(16, 12, 12, 3)).astype(np.float32)
    weights = np.random.default_rng(1).normal(size=(16, 5)).astype(np.float32)
    qmodel = jaxq.quantize(Net(nnx.Rngs(0)), "int8", x[:1])
    jaxq.calibrate(qmodel, [x / 2], progress=False)
    fn = jaxq.load(jaxq.export.to_tflite(qmodel, progress=False).save(tmp_path / "net.tflite"))

    def loss_of(f: Callable[[jax.Array], jax.Array]) -> Callable[[jax.Array], jax.Array]:
        return lambda x: (f(x) * weights).sum()

    value, ours = jax.jit(jax.value_and_grad(loss_of(lambda x: fn.real(x)[0])))(x)
    wanted, theirs = jax.jit(jax.value_and_grad(loss_of(qmodel)))(x)
    np.testing.assert_allclose(value, wanted, rtol=1e-6)
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5 * float(jnp.abs(theirs).max()))
    assert 0.02 < float((ours == 0).mean()) < 0.5  # where the input saturates, and behind clips


def test_a_tables_gradient_is_its_slope(tmp_path: Path) -> None:
    """An elementwise function is a look-up in the file; training differentiates the function itself. Differences of
    integers know a slope to a twentieth or so.
    """
    x = np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32)
    params = {"w": np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)}
    q = jaxq.quantize(lambda p, x: jnp.sin(x @ p["w"]) @ p["w"].T, "int8", params, x[:1])
    ranges = jaxq.calibrate(q, [x], params, q.init(params, x[:1]), progress=False)
    fn = jaxq.load(jaxq.export.to_tflite(q, params, ranges, progress=False).save(tmp_path / "net.tflite"))
    assert [op.kind for op in fn.program.operators].count("GATHER") == 1
    ours = jax.jit(jax.grad(lambda x: fn.real(x)[0].sum()))(x)
    theirs = jax.jit(jax.grad(lambda x: q.apply(params, ranges, x).sum()))(x)
    assert cosine(ours, theirs) > 0.995


def test_gradients_of_a_float_file_are_those_of_its_function() -> None:
    fn = loaded("small_float")
    x = images(fn, 1)
    check_grads(jax.jit(lambda x: fn.real(x)[0]), (x,), order=1, modes=["fwd", "rev"], atol=0.02, rtol=0.02, eps=1e-2)


def test_a_quantized_file_has_about_its_float_files_gradient() -> None:
    x = images(loaded("small_float"), 8)

    def gradient(fn: Loaded) -> jax.Array:
        return jax.jit(jax.grad(lambda x: fn.real(x)[0][:, 3].sum()))(x)

    plain, quantized = gradient(loaded("small_float")), gradient(loaded("small_ai_edge"))
    assert cosine(plain, quantized) > 0.9


@pytest.mark.parametrize("name", ["odd_uint8_ends", "odd_float", "hey_jarvis"])
def test_gradients_are_finite(name: str) -> None:
    fn = loaded(name)
    x = 2 * images(fn, 2)
    gradient = jax.jit(
        jax.grad(lambda x: sum((y * jnp.arange(1.0, y.size + 1).reshape(y.shape)).sum() for y in fn.real(x)))
    )(x)
    assert bool(jnp.isfinite(gradient).all()) and bool((gradient != 0).any())


def test_every_exact_operator_has_a_float_meaning() -> None:
    without = {
        "SVDF",
        "UNIDIRECTIONAL_SEQUENCE_LSTM",
    }  # their state is integer: refused by name, tests/test_recurrent.py
    assert set().union(*(table(MACHINES[PHONE]) for table in FAMILIES.values())) - set(floats.KERNELS) == without


# ---------------------------------------------------------------- variables


def test_steps_are_the_interpreters_invocations() -> None:
    fn = loaded("hey_jarvis")
    (x,) = drawn(fn, 30)
    state = fn.initial_state()
    assert sorted(state) == ["stream/states", *(f"stream_{i}/states" for i in range(1, 6))]
    after, (ours,) = jax.jit(lambda s, x: jax.lax.scan(fn.step, s, x))(state, x[:, None])
    theirs = litert.run((GOLDEN / "hey_jarvis.tflite").read_bytes(), [x], "xnnpack")[0]
    np.testing.assert_array_equal(ours[:, 0], theirs)
    np.testing.assert_array_equal(jax.jit(fn)(x)[0], theirs)
    np.testing.assert_array_equal(after["stream/states"][0, :, 0], x[-1, -2:])


def test_streams_side_by_side() -> None:
    fn = loaded("hey_jarvis")
    x = drawn(fn, 8)[0].reshape(2, 4, 1, 3, 40)
    states = jax.tree.map(lambda v: jnp.stack([v, v]), fn.initial_state())
    step, alone = jax.jit(jax.vmap(fn.step)), jax.jit(fn)
    results = []
    for t in range(4):
        states, (y,) = step(states, x[:, t])
        results.append(y[:, 0])
    np.testing.assert_array_equal(np.stack(results, 1), [alone(stream[:, 0])[0] for stream in x])


def test_a_state_that_lacks_a_variable() -> None:
    fn = loaded("hey_jarvis")
    (x,) = drawn(fn, 2)
    with pytest.raises(ExportError, match="Variable 'stream_1/states' is read before it has a value"):
        fn.step({}, x[:1])
    with pytest.raises(InputError, match=r"Input '.*' of one step is \(2, 3, 40\); the file says \(1, 3, 40\)."):
        fn.step(fn.initial_state(), x)


def test_subgraphs_are_written_as_they_were_read() -> None:
    program = loaded("hey_jarvis").program
    again = read(write(program))
    assert str(again) == str(program)
    assert [str(g) for g in again.subgraphs] == [str(g) for g in program.subgraphs] != []
    broken = dataclasses.replace(program, subgraphs=())
    with pytest.raises(ExportError, match=r"CALL_ONCE runs subgraph 1 of 1. The file is corrupt"):
        evaluate(broken)


# ---------------------------------------------------------------- what is refused


def single(kind: str, x: Tensor, y: Tensor, *more: Tensor, **options: Option) -> Program:
    """A program of one operator."""
    inputs = tuple(range(1 + len(more)))
    return Program((x, *more, y), (Operator(kind, inputs, (len(inputs),), options),), (0,), (len(inputs),))


def test_dynamic_range_operators_that_a_family_lacks_are_refused() -> None:
    w = Tensor("w", (4, 3), "int8", Quantization.of(0.1), np.ones((4, 3), np.int8))
    x, y = Tensor("x", (1, 3), "float32"), Tensor("y", (1, 4), "float32")
    evaluate(single("FULLY_CONNECTED", x, y, w))
    message = "FULLY_CONNECTED reads floats and 'w', which is int8: a dynamic-range operator, which the tflm family "
    with pytest.raises(ExportError, match=message + "computes for EMBEDDING_LOOKUP with int8 weights of zero point 0"):
        evaluate(single("FULLY_CONNECTED", x, y, w), "tflm")
    with pytest.raises(ExportError, match="BATCH_MATMUL reads .* computes for CONV_2D, .*, FULLY_CONN"):
        evaluate(single("BATCH_MATMUL", x, y, w))
    moved = dataclasses.replace(w, quantization=Quantization.of(0.1, 3))
    with pytest.raises(ExportError, match="which is int8: a dynamic-range operator, .* weights of zero point 0"):
        evaluate(single("FULLY_CONNECTED", x, y, moved))


def test_unknown_float_operators_are_refused() -> None:
    x, y = Tensor("x", (1, 3), "float32"), Tensor("y", (1, 3), "float32")
    with pytest.raises(ExportError, match="There is no float32 kernel for SEGMENT_SUM. Express it by other operators."):
        evaluate(single("SEGMENT_SUM", x, y))


def test_real_inputs_are_float32() -> None:
    fn = loaded("small_ai_edge")
    with pytest.raises(InputError, match="Input '.*' is int8; real numbers are float32."):
        fn.real(drawn(fn, 1)[0])
    with pytest.raises(InputError, match="2 outputs for a program that has 1."):
        fn.dequantize_outputs(jnp.zeros(1), jnp.zeros(1))


# ---------------------------------------------------------------- float32 operators one by one


def unary(kind: str, low: float = -3.0, high: float = 3.0, **options: Option) -> tuple[Program, tuple[float, float]]:
    x, y = (Tensor(name, (1, 5, 7), "float32") for name in "xy")
    return single(kind, x, y, **options), (low, high)


def binary(kind: str, **options: Option) -> tuple[Program, tuple[float, float]]:
    other = np.random.default_rng(1).uniform(0.5, 2, 7).astype(np.float32)
    x, y = (Tensor(name, (1, 5, 7), "float32") for name in "xy")
    return single(kind, x, y, Tensor("other", (7,), "float32", None, other), **options), (-3.0, 3.0)


def pool(kind: str, padding: str) -> tuple[Program, tuple[float, float]]:
    size = (1, 3, 4, 3) if padding == "SAME" else (1, 2, 3, 3)
    options: dict[str, Any] = {"filter_height": 3, "filter_width": 2, "stride_h": 2, "stride_w": 2, "padding": padding,
                               "fused_activation_function": "RELU"}  # fmt: skip
    return single(kind, Tensor("x", (1, 6, 7, 3), "float32"), Tensor("y", size, "float32"), **options), (-3.0, 3.0)


ONE: dict[str, tuple[Program, tuple[float, float]]] = {
    **{kind: unary(kind) for kind in ("RELU", "RELU6", "RELU_N1_TO_1", "LOGISTIC", "TANH", "ABS", "NEG", "SQUARE",
                                      "EXP", "HARD_SWISH", "LOG_SOFTMAX", "L2_NORMALIZATION")},
    **{kind: unary(kind, 0.01) for kind in ("LOG", "SQRT", "RSQRT")},
    "SOFTMAX": unary("SOFTMAX", beta=0.5),
    "LEAKY_RELU": unary("LEAKY_RELU", alpha=0.3),
    "GELU": unary("GELU", approximate=False),
    "GELU by tanh": unary("GELU", approximate=True),
    **{kind: binary(kind) for kind in ("PRELU", "SQUARED_DIFFERENCE", "MAXIMUM", "MINIMUM")},
    **{f"{kind}, {act}": binary(kind, fused_activation_function=act) for kind in ("ADD", "SUB", "MUL", "DIV")
       for act in ("NONE", "RELU6")},
    **{f"{kind}, {padding}": pool(kind, padding) for kind in ("AVERAGE_POOL_2D", "MAX_POOL_2D")
       for padding in ("SAME", "VALID")},
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_float_operators_agree_with_litert(name: str) -> None:
    program, (low, high) = ONE[name]
    x = np.random.default_rng(0).uniform(low, high, program.tensors[0].shape).astype(np.float32)
    for family in FAMILY:
        tally = Tally()
        theirs = np.asarray(list(litert.run(write(program), [x], family))[0])
        tally.add(name, np.asarray(jax.jit(evaluate(program, family))(x)[0]), theirs, 1e-5)
        assert (tally.total, tally.floats) == (0, theirs.size)
