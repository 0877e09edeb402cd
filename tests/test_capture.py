"""What a JAX function becomes: its ops, their names, the lines they come from, and what is refused."""

from __future__ import annotations

import inspect
import itertools
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import BatchStatisticsError, CaptureError, ControlFlowError
from jaxq.graph import Graph
from jaxq.recipes import mnist
from jaxq.simulate.reals import reals

Shape = tuple[int, ...]

NHWC = ("NHWC", "HWIO", "NHWC")
IMAGE: Shape = (2, 8, 8, 3)
SERIES: Shape = (2, 4, 3)
ROWS: Shape = (2, 6)
KERNEL: dict[str, Shape] = {"w": (3, 3, 3, 8)}
MATRIX: dict[str, Shape] = {"w": (6, 4)}
NOTHING: dict[str, Shape] = {}


class Row(NamedTuple):
    """A function f(params, *inputs), the shapes of both, and the ops that it becomes."""

    name: str
    fn: Callable[..., Any]
    params: Mapping[str, Shape]
    inputs: tuple[Shape, ...]
    ops: str


def conv(
    p: Any, x: jax.Array, stride: int = 1, padding: Any = "SAME", numbers: Any = NHWC, **options: Any
) -> jax.Array:
    return lax.conv_general_dilated(x, p["w"], (stride, stride), padding, dimension_numbers=numbers, **options)


def channelwise(p: Any, x: jax.Array) -> jax.Array:
    return conv(p, x, feature_group_count=3)


def series_conv(p: Any, x: jax.Array) -> jax.Array:
    return lax.conv_general_dilated(x, p["w"], (2,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))


def normed(p: Any, y: jax.Array) -> jax.Array:
    """BatchNorm by hand."""
    return (y - p["mean"]) * lax.rsqrt(jnp.square(p["var"]) + 1e-3) * p["gamma"] + p["beta"]


NORM: dict[str, Shape] = {name: (8,) for name in ("beta", "gamma", "mean", "var")}

TABLE = [
    # convolutions
    Row("conv", conv, KERNEL, (IMAGE,), "CONV_2D"),
    Row("strides", lambda p, x: conv(p, x, 2), KERNEL, (IMAGE,), "CONV_2D"),
    Row("valid", lambda p, x: conv(p, x, 1, "VALID"), KERNEL, (IMAGE,), "CONV_2D"),
    Row("explicit", lambda p, x: conv(p, x, 1, ((2, 0), (1, 3))), KERNEL, (IMAGE,), "CONV_2D"),
    Row("dilation", lambda p, x: conv(p, x, rhs_dilation=(2, 2)), KERNEL, (IMAGE,), "CONV_2D"),
    Row(
        "nchw",
        lambda p, x: conv(p, x, numbers=("NCHW", "OIHW", "NCHW")),
        {"w": (8, 3, 3, 3)},
        ((2, 3, 8, 8),),
        "TRANSPOSE CONV_2D TRANSPOSE",
    ),
    Row("oihw", lambda p, x: conv(p, x, numbers=("NHWC", "OIHW", "NHWC")), {"w": (8, 3, 3, 3)}, (IMAGE,), "CONV_2D"),
    Row("one axis", series_conv, {"w": (3, 3, 8)}, (SERIES,), "RESHAPE CONV_2D RESHAPE"),
    Row("depthwise", channelwise, {"w": (3, 3, 1, 3)}, (IMAGE,), "DEPTHWISE_CONV_2D"),
    Row("multiplier", channelwise, {"w": (3, 3, 1, 6)}, (IMAGE,), "DEPTHWISE_CONV_2D"),
    Row("grouped", lambda p, x: conv(p, x, feature_group_count=2), {"w": (3, 3, 2, 6)}, ((2, 8, 8, 4),), "CONV_2D"),
    # products with a matrix
    Row("vector", lambda p, x: x @ p["w"], MATRIX, ((6,),), "RESHAPE FULLY_CONNECTED RESHAPE"),
    Row("rows", lambda p, x: x @ p["w"], MATRIX, (ROWS,), "FULLY_CONNECTED"),
    Row("rank 3", lambda p, x: x @ p["w"], {"w": (3, 5)}, (SERIES,), "FULLY_CONNECTED"),
    Row("left", lambda p, x: p["w"] @ x, {"w": (5, 6)}, ((6, 2),), "TRANSPOSE FULLY_CONNECTED TRANSPOSE"),
    Row("by its rows", lambda p, x: x @ p["w"].T, {"w": (4, 6)}, (ROWS,), "FULLY_CONNECTED"),
    Row(
        "many axes in",
        lambda p, x: jnp.einsum("bthd,hdo->bto", x, p["w"]),
        {"w": (2, 3, 5)},
        ((2, 4, 2, 3),),
        "TRANSPOSE RESHAPE FULLY_CONNECTED",
    ),
    Row(
        "many axes out",
        lambda p, x: jnp.einsum("btd,dho->btho", x, p["w"]),
        {"w": (3, 2, 5)},
        (SERIES,),
        "FULLY_CONNECTED RESHAPE",
    ),
    Row("vmap", lambda p, x: jax.vmap(lambda row: jnp.tanh(row @ p["w"]))(x), MATRIX, (ROWS,), "FULLY_CONNECTED TANH"),
    Row("checkpoint", lambda p, x: jax.checkpoint(lambda y: y @ p["w"])(x), MATRIX, (ROWS,), "FULLY_CONNECTED"),
    # sums and products
    Row("add", lambda p, x, y: x + y, NOTHING, (IMAGE, IMAGE), "ADD"),
    Row("sub", lambda p, x, y: x - y, NOTHING, (IMAGE, IMAGE), "SUB"),
    Row("mul", lambda p, x, y: x * y, NOTHING, (IMAGE, IMAGE), "MUL"),
    Row("square", lambda p, x: x**2, NOTHING, (IMAGE,), "MUL"),
    Row("gate", lambda p, x, s: x * s[:, None, None, :], NOTHING, (IMAGE, (2, 3)), "RESHAPE MUL"),
    Row("lower rank", lambda p, x, s: x + s, NOTHING, (IMAGE, (3,)), "RESHAPE ADD"),
    Row("outer", lambda p, x, y: x[:, :, None] * y[:, None, :], NOTHING, ((2, 3), (2, 4)), "RESHAPE RESHAPE MUL"),
    Row("per channel", lambda p, x: x * p["c"], {"c": (3,)}, (IMAGE,), "AFFINE"),
    Row("offset", lambda p, x: x + p["c"], {"c": (1, 1, 1, 3)}, (IMAGE,), "AFFINE"),
    Row("number", lambda p, x: 1.0 - x / 2.0, NOTHING, (IMAGE,), "AFFINE"),
    Row("negative", lambda p, x: -x, NOTHING, (IMAGE,), "AFFINE"),
    Row("positions", lambda p, x: x + p["c"], {"c": (1, 4, 3)}, (SERIES,), "ADD"),
    Row("positions, lower rank", lambda p, x: x + p["c"], {"c": (4, 3)}, (SERIES,), "ADD"),
    Row("mask", lambda p, x: x * p["c"], {"c": (1, 4, 3)}, (SERIES,), "MUL"),
    # pools and means
    Row("average", lambda p, x: linen.avg_pool(x, (2, 2), (2, 2)), NOTHING, (IMAGE,), "AVERAGE_POOL_2D"),
    Row("average, same", lambda p, x: linen.avg_pool(x, (3, 3), (2, 2), "SAME"), NOTHING, (IMAGE,), "AVERAGE_POOL_2D"),
    Row(
        "average, inside",
        lambda p, x: linen.avg_pool(x, (3, 3), (2, 2), "SAME", count_include_pad=False),
        NOTHING,
        (IMAGE,),
        "AVERAGE_POOL_2D",
    ),
    Row("max", lambda p, x: nnx.max_pool(x, (2, 2), (2, 2)), NOTHING, (IMAGE,), "MAX_POOL_2D"),
    Row("max, same", lambda p, x: nnx.max_pool(x, (3, 3), (2, 2), "SAME"), NOTHING, (IMAGE,), "MAX_POOL_2D"),
    Row("mean", lambda p, x: jnp.mean(x, (1, 2)), NOTHING, (IMAGE,), "MEAN"),
    Row("mean, method", lambda p, x: x.mean(-1), NOTHING, (IMAGE,), "MEAN"),
    Row("mean, axes kept", lambda p, x: x.mean((1, 2), keepdims=True), NOTHING, (IMAGE,), "MEAN"),
    Row("mean, by hand", lambda p, x: jnp.sum(x, (1, 2)) / 64, NOTHING, (IMAGE,), "MEAN"),
    Row("mean, average", lambda p, x: jnp.average(x, axis=1), NOTHING, (IMAGE,), "MEAN"),
    Row("mean, twice", lambda p, x: x.mean(1).mean(1), NOTHING, (IMAGE,), "MEAN MEAN"),
    # movement
    Row("reshape", lambda p, x: x.reshape(2, -1), NOTHING, (IMAGE,), "RESHAPE"),
    Row("transpose", lambda p, x: x.transpose(0, 3, 1, 2), NOTHING, (IMAGE,), "TRANSPOSE"),
    Row("swapaxes", lambda p, x: jnp.swapaxes(x, 1, 2), NOTHING, (IMAGE,), "TRANSPOSE"),
    Row("squeeze", lambda p, x: jnp.squeeze(x, 1), NOTHING, ((2, 1, 3),), "RESHAPE"),
    Row("expand_dims", lambda p, x: jnp.expand_dims(x, 1), NOTHING, (ROWS,), "RESHAPE"),
    Row("new axis", lambda p, x: x[:, None], NOTHING, (ROWS,), "RESHAPE"),
    Row("concatenate", lambda p, x, y: jnp.concatenate([x, y], -1), NOTHING, (IMAGE, IMAGE), "CONCATENATION"),
    Row("split", lambda p, x: jnp.split(x, 2, 1), NOTHING, (IMAGE,), "SPLIT"),
    Row("split, uneven", lambda p, x: jnp.split(x, [3], 1), NOTHING, (IMAGE,), "SLICE SLICE"),
    Row("slice", lambda p, x: x[:, 1:4], NOTHING, (IMAGE,), "SLICE"),
    Row("index", lambda p, x: x[:, -1], NOTHING, (IMAGE,), "SLICE RESHAPE"),
    Row("strided slice", lambda p, x: x[:, 1::2], NOTHING, (IMAGE,), "STRIDED_SLICE"),
    Row("pad", lambda p, x: jnp.pad(x, ((0, 0), (1, 1), (0, 2), (0, 0))), NOTHING, (IMAGE,), "PAD"),
    # functions of one tensor
    Row("relu", lambda p, x: jax.nn.relu(x), NOTHING, (IMAGE,), "RELU"),
    Row("maximum", lambda p, x: jnp.maximum(x, 0), NOTHING, (IMAGE,), "RELU"),
    Row("relu6", lambda p, x: jax.nn.relu6(x), NOTHING, (IMAGE,), "RELU6"),
    Row("jnp.clip", lambda p, x: jnp.clip(x, -1, 1), NOTHING, (IMAGE,), "RELU_N1_TO_1"),
    Row("lax.clamp", lambda p, x: lax.clamp(0.0, x, 6.0), NOTHING, (IMAGE,), "RELU6"),
    Row("other bounds", lambda p, x: jnp.clip(x, -0.5, 0.75), NOTHING, (IMAGE,), "CLIP"),
    Row("two clips", lambda p, x: jnp.clip(jax.nn.relu(x), -1, 6), NOTHING, (IMAGE,), "RELU6"),
    Row("logistic", lambda p, x: jax.nn.sigmoid(x), NOTHING, (IMAGE,), "LOGISTIC"),
    Row("tanh", lambda p, x: jnp.tanh(x), NOTHING, (IMAGE,), "TANH"),
    Row("softmax", lambda p, x: jax.nn.softmax(x), NOTHING, (ROWS,), "SOFTMAX"),
    Row("silu", lambda p, x: jax.nn.silu(x), NOTHING, (IMAGE,), "LOGISTIC MUL"),
    Row("gelu by tanh", lambda p, x: jax.nn.gelu(x), NOTHING, (IMAGE,), "GELU"),
    Row("gelu by erf", lambda p, x: jax.nn.gelu(x, approximate=False), NOTHING, (IMAGE,), "GELU"),
    Row("hard_swish", lambda p, x: jax.nn.hard_swish(x), NOTHING, (IMAGE,), "HARD_SWISH"),
    Row("hard_swish, relu6", lambda p, x: x * jax.nn.relu6(x + 3) / 6, NOTHING, (IMAGE,), "HARD_SWISH"),
    Row("hard_swish, clip", lambda p, x: x * jnp.clip(x + 3, 0, 6) / 6, NOTHING, (IMAGE,), "HARD_SWISH"),
    Row("hard_swish, times", lambda p, x: x * (jax.nn.relu6(x + 3) * (1 / 6)), NOTHING, (IMAGE,), "HARD_SWISH"),
    Row("stop_gradient", lambda p, x: x + lax.stop_gradient(x), NOTHING, (IMAGE,), "STOP_GRADIENT ADD"),
    # folding
    Row("norm", lambda p, x: jax.nn.relu(normed(p, conv(p, x))), {**KERNEL, **NORM}, (IMAGE,), "CONV_2D"),
    Row("norm, dense", lambda p, x: normed(p, x @ p["w"]), {"w": (6, 8), **NORM}, (ROWS,), "FULLY_CONNECTED"),
    Row("norm, first", lambda p, x: normed(p, x), NORM, ((2, 8),), "AFFINE"),
    Row("bias", lambda p, x: conv(p, x) + p["b"], {**KERNEL, "b": (8,)}, (IMAGE,), "CONV_2D"),
    Row("scaled input, valid", lambda p, x: conv(p, x * 2 - 1, padding="VALID"), KERNEL, (IMAGE,), "CONV_2D"),
    Row("scaled input, same", lambda p, x: conv(p, x * 2 - 1), KERNEL, (IMAGE,), "AFFINE CONV_2D"),
    Row("scaled input, no offset", lambda p, x: conv(p, x * 2), KERNEL, (IMAGE,), "CONV_2D"),
    Row(
        "scaled input, depthwise",
        lambda p, x: channelwise(p, x * p["c"]),
        {"w": (3, 3, 1, 6), "c": (3,)},
        (IMAGE,),
        "DEPTHWISE_CONV_2D",
    ),
    Row(
        "scaled input, dense",
        lambda p, x: (x * p["c"] + 1) @ p["w"],
        {**MATRIX, "c": (6,)},
        (ROWS,),
        "FULLY_CONNECTED",
    ),
    Row(
        "norm after relu",
        lambda p, x: normed(p, jax.nn.relu(conv(p, x))),
        {**KERNEL, **NORM},
        (IMAGE,),
        "CONV_2D AFFINE",
    ),
    Row("read twice", lambda p, x: (y := conv(p, x)) * 2 + y, KERNEL, (IMAGE,), "CONV_2D AFFINE ADD"),
    Row("relu6 after add", lambda p, x, y: jax.nn.relu6(x + y), NOTHING, (IMAGE, IMAGE), "ADD"),
    Row("unused", lambda p, x: (jnp.sin(x), x + x)[1], NOTHING, (IMAGE,), "ADD"),
]

# What no op says: one float op each, with the user's line.
ISLANDS: list[tuple[str, Callable[[Any, jax.Array], Any], str]] = [
    ("sort by two keys", lambda p, x: jnp.lexsort((x, x)), "sort"),
    ("running logsumexp", lambda p, x: lax.cumlogsumexp(x, 1), "cumlogsumexp"),
]

FILE = pathlib.Path(__file__).name


def zeros(shapes: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def random(shapes: Iterable[Shape], seed: int) -> list[jax.Array]:
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in shapes]


def graph_of(fn: Callable[..., Any], params: Any, *inputs: np.ndarray, **options: Any) -> Graph:
    return jaxq.quantize(fn, "int8", params, *inputs, **options).plan.graph


def kinds(graph: Graph) -> str:
    return " ".join(op.kind for op in graph.ops)


def names(graph: Graph) -> list[str]:
    return [op.name for op in graph.ops]


def line_of(fn: Callable[..., Any]) -> str:
    """`test_capture.py:12`: where a function of one line stands."""
    return f"{FILE}:{inspect.getsourcelines(fn)[1]}"


# --- the table ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_ops(row: Row) -> None:
    graph = graph_of(row.fn, zeros(row.params), *(np.zeros(s, np.float32) for s in row.inputs))
    assert kinds(graph) == row.ops


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.name)
def test_the_graph_computes_what_the_function_does(row: Row) -> None:
    """In floats, with every factor of either sign: folding moves numbers and changes none of them."""
    params, inputs = dict(zip(row.params, random(row.params.values(), 0), strict=True)), random(row.inputs, 1)
    plan = jaxq.quantize(row.fn, "int8", params, *inputs).plan
    found = reals(plan, jax.tree.leaves(params), inputs)
    wanted = jax.tree.leaves(row.fn(params, *inputs))
    for value, array in zip(plan.graph.outputs, wanted, strict=True):
        assert found[value].shape == array.shape
        np.testing.assert_allclose(found[value], array, rtol=1e-4, atol=1e-5)


def test_the_table_holds_each_op_once_per_name() -> None:
    assert len({row.name for row in TABLE}) == len(TABLE)


def test_the_graph_as_text() -> None:
    graph = graph_of(
        lambda p, x: jax.nn.relu(conv(p, x, 2) + p["b"]), zeros({**KERNEL, "b": (8,)}), np.zeros(IMAGE, np.float32)
    )
    assert str(graph).splitlines() == [
        "graph(input: float32[2,8,8,3]) -> (w:out)",
        "  w:out: float32[2,4,4,8] = CONV_2D(input, {w}, {b}) activation=RELU dilation=(1,1) groups=1 "
        "padding=((0,1),(0,1)) stride=(2,2)",
    ]


def test_a_broadcast_that_both_operands_share_is_kept() -> None:
    def fn(p: Any, x: jax.Array, y: jax.Array) -> jax.Array:
        return jnp.broadcast_to(x[:, None], SERIES) + jnp.broadcast_to(y[:, None], SERIES)

    x, y = random(((2, 3), (2, 3)), 0)
    plan = jaxq.quantize(fn, "int8", {}, x, y).plan
    np.testing.assert_array_equal(reals(plan, [], [x, y])[plan.graph.outputs[0]], fn({}, x, y))


# --- float islands -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fn", "primitive"), [row[1:] for row in ISLANDS], ids=[row[0] for row in ISLANDS])
def test_an_unknown_primitive_is_an_island_with_its_line(fn: Callable[..., Any], primitive: str) -> None:
    plan = jaxq.quantize(fn, "int8", {}, np.zeros(ROWS, np.float32)).plan
    assert kinds(plan.graph) == "FLOAT"
    reason = f"`{primitive}` ({line_of(fn)} (<lambda>)) has no export rule in jaxq"
    assert plan.islands == {"float": reason}
    assert f"float islands (1)\n  float: {reason}\n" in str(plan)


def test_two_calls_of_one_jitted_function_have_their_own_lines() -> None:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        y = x[:, ::-1]
        x = jnp.arctan2(x, y)  # jitted inside JAX: the line is the caller's
        return jnp.arctan2(x, y)

    first = inspect.getsourcelines(fn)[1]
    reasons = jaxq.quantize(fn, "int8", {}, np.zeros(ROWS, np.float32)).plan.islands.values()
    assert [*reasons] == [f"`atan2` ({FILE}:{first + i} (fn)) has no export rule in jaxq" for i in (2, 3)]


@pytest.mark.parametrize("folder", ["jax", "flax", "optax", "export", "jaxq", "_src"])
def test_a_file_in_a_folder_named_like_a_library_is_the_users(tmp_path: pathlib.Path, folder: str) -> None:
    place = tmp_path / folder / "model.py"
    namespace: dict[str, Any] = {"lax": lax}
    exec(compile("def f(p, x):\n    return lax.cumlogsumexp(x, 1)\n", str(place), "exec"), namespace)
    plan = jaxq.quantize(namespace["f"], "int8", {}, np.zeros(ROWS, np.float32)).plan
    assert plan.islands["float"].startswith("`cumlogsumexp` (model.py:2 (f)) ")


# --- gradients of the user's own ---------------------------------------------------------------------------------


@jax.custom_vjp
def steep(x: jax.Array) -> jax.Array:
    return jnp.sin(x)


def steep_forward(x: jax.Array) -> tuple[jax.Array, None]:
    return steep(x), None


def steep_backward(_: None, g: jax.Array) -> tuple[jax.Array]:
    return (7.0 * g,)


steep.defvjp(steep_forward, steep_backward)


@jax.custom_jvp
def positive(x: jax.Array) -> jax.Array:
    return jnp.maximum(x, 0.0)


@positive.defjvp
def positive_jvp(primals: Any, tangents: Any) -> Any:
    return positive(*primals), jnp.where(primals[0] > 0, tangents[0], 0.0)


def test_a_custom_jvp_around_an_op_of_ours_is_that_op() -> None:
    assert (
        kinds(graph_of(lambda p, x: positive(x @ p["w"]), zeros(MATRIX), np.zeros(ROWS, np.float32)))
        == "FULLY_CONNECTED"
    )


def test_an_elementwise_custom_vjp_is_a_table_and_trains_by_its_own_gradient() -> None:
    (w,), (x,) = random(((6, 4),), 0), random(((8, 6),), 1)
    q = jaxq.quantize(lambda p, x: steep(x @ p), "int8", w, x)
    assert kinds(q.plan.graph) == "FULLY_CONNECTED TABLE"
    ranges = jaxq.calibrate(q, [x, 2 * x], w, q.init(w, x), progress=False)
    gradient = jax.grad(lambda w: jnp.sum(q.apply(w, ranges, x)))(w)
    scale, zero = (np.asarray(ranges["input"][key]) for key in ("scale", "zero_point"))
    on_grid = scale * (np.clip(np.rint(x * (1 / scale)) + zero, -128, 127) - zero)
    np.testing.assert_allclose(gradient, 7.0 * on_grid.sum(0)[:, None].repeat(4, 1), rtol=1e-5)


# --- control flow and batch statistics ---------------------------------------------------------------------------


def scanned(p: Any, x: jax.Array) -> jax.Array:
    return lax.scan(lambda c, _: (c @ p["w"], None), x, None, 10_000)[0]


def looped(p: Any, x: jax.Array) -> jax.Array:
    return lax.while_loop(lambda c: c[0, 0] < 3, lambda c: c + 1, x)


def branched(p: Any, x: jax.Array) -> jax.Array:
    return lax.cond(p["w"][0, 0] > 0, lambda y: y, lambda y: -y, x)


UNROLL = "Unroll it (a Python loop over layers)"
CHOOSE = "Choose the branch in Python, by a flag that is no array, or compute both and choose with jnp.where"


@pytest.mark.parametrize(
    ("fn", "primitive", "remedy"), [(scanned, "scan", UNROLL), (looped, "while", UNROLL), (branched, "cond", CHOOSE)]
)
def test_control_flow_is_refused_with_its_line(fn: Callable[..., Any], primitive: str, remedy: str) -> None:
    with pytest.raises(ControlFlowError) as refused:
        graph_of(fn, zeros({"w": (6, 6)}), np.zeros(ROWS, np.float32))
    line = inspect.getsourcelines(fn)[1] + 1
    assert str(refused.value) == (
        f"`{primitive}` at {FILE}:{line} ({fn.__name__}) runs over activations; an integer graph for a device is "
        f"static and has no control flow. {remedy}, or move it out of the model."
    )


def test_control_flow_over_parameters_is_weight_arithmetic() -> None:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        return x @ lax.fori_loop(0, 3, lambda _, w: w * 2, p["w"])

    assert kinds(graph_of(fn, zeros(MATRIX), np.zeros(ROWS, np.float32))) == "FULLY_CONNECTED"


def test_a_model_that_ignores_its_input_is_refused() -> None:
    with pytest.raises(CaptureError, match="No output of the model depends on its inputs"):
        graph_of(lambda p, x: p["w"], zeros(MATRIX), np.zeros(ROWS, np.float32))


class Normed(nnx.Module):
    """A convolution, BatchNorm, Dropout, a shared dense layer twice."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.dense = nnx.Linear(4, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.relu(self.norm(self.conv(x)))
        x = self.dropout(jnp.mean(x, (1, 2)))
        return self.dense(nnx.relu(self.dense(x)))


class LinenNormed(linen.Module):
    """Dense, BatchNorm, Dropout, dense."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = linen.Dense(4)(x)
        x = linen.BatchNorm(use_running_average=not train)(x)
        return linen.Dense(3)(linen.Dropout(0.5, deterministic=not train)(x))


def normed_model(seed: int = 0) -> nnx.Module:
    model = Normed(nnx.Rngs(seed))
    model.eval()
    return model


class OwnNorm(nnx.Module):
    """A norm written by hand, on the statistics of the batch."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.dense = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.dense(x)
        return y - jnp.mean(y, 0)


def test_batch_statistics_are_refused_with_reason_and_fix() -> None:
    lines, first = inspect.getsourcelines(OwnNorm.__call__)
    with pytest.raises(BatchStatisticsError) as refused:
        jaxq.quantize(OwnNorm(nnx.Rngs(0)), "int8", np.zeros((2, 6), np.float32))
    message = str(refused.value)
    assert f" at {FILE}:{first + len(lines) - 1} (__call__) reduces over axis 0, the batch" in message
    assert "Use statistics that are stored, as `nnx.BatchNorm` and `flax.linen.BatchNorm` do" in message


def test_batch_norm_of_nnx_has_its_running_statistics_in_every_mode() -> None:
    images = random((IMAGE,), 0)[0]
    qmodel = jaxq.quantize(normed_model(), "int8", images)
    qmodel.model.train()
    training = qmodel.captured(images).plan
    assert "DROPOUT" in kinds(training.graph) and "MEAN" in kinds(training.graph)
    assert [*training.groups] == [*qmodel.ranges]


def test_batch_norm_of_linen_has_its_running_statistics_in_every_mode() -> None:
    rows = np.zeros(ROWS, np.float32)
    training = jaxq.quantize(LinenNormed(), "int8", rows, train=True).plan
    assert "DROPOUT" in kinds(training.graph)
    assert [*training.groups] == [*jaxq.quantize(LinenNormed(), "int8", rows).plan.groups]


# --- names and modes ---------------------------------------------------------------------------------------------


def test_a_weight_read_twice_is_numbered() -> None:
    graph = graph_of(lambda p, x: jax.nn.relu(x @ p["w"]) @ p["w"], zeros({"w": (6, 6)}), np.zeros(ROWS, np.float32))
    assert names(graph) == ["w", "w#2"]
    assert list(graph.site_names.values()) == ["input", "w:out", "w#2:out"]


def test_ops_without_a_weight_are_numbered_by_kind() -> None:
    graph = graph_of(lambda p, x: jnp.tanh((x + x) * (x - x) + x), {}, np.zeros(ROWS, np.float32))
    assert names(graph) == ["add", "sub", "mul", "add_1", "tanh"]


def test_names_are_unique_whatever_the_parameters_are_called() -> None:
    params = zeros({"add_1": (6,), "input": (6,), "mul": (6,)})

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return (x + x) * (x * x + x) + jnp.tanh(x * p["add_1"]) + jnp.tanh(x * p["input"]) + jnp.tanh(x * p["mul"])

    graph = graph_of(fn, params, np.zeros(ROWS, np.float32))
    assert len(set(names(graph))) == len(graph.ops)
    assert len(set(graph.site_names.values())) == len(graph.site_names) == len(graph.ops) + 1


def test_paths_are_those_of_the_params_tree() -> None:
    params = {
        "blocks": [{"w": np.zeros((6, 6), np.float32)}, {"w": np.zeros((6, 6), np.float32)}],
        "head": (np.zeros((6, 3), np.float32),),
    }

    def fn(p: Any, x: jax.Array) -> jax.Array:
        for block in p["blocks"]:
            x = jax.nn.relu(x @ block["w"])
        return x @ p["head"][0]

    assert names(graph_of(fn, params, np.zeros(ROWS, np.float32))) == ["blocks/0/w", "blocks/1/w", "head/0"]


def test_sites_of_nnx_are_the_same_in_training_and_in_evaluation() -> None:
    images = np.zeros(IMAGE, np.float32)
    qmodel = jaxq.quantize(normed_model(), "int8", images)
    evaluation = qmodel.plan
    qmodel.train()
    training = qmodel.captured(images).plan
    assert "DROPOUT" in kinds(training.graph) and "DROPOUT" not in kinds(evaluation.graph)
    assert list(training.groups) == list(evaluation.groups) == [*qmodel.ranges]
    assert training.weights == evaluation.weights
    assert [*evaluation.weights] == ["conv/kernel", "dense/kernel", "dense/kernel#2"]
    qmodel.eval()
    assert kinds(qmodel.captured(images).plan.graph) == kinds(evaluation.graph)


class LinenDropout(linen.Module):
    """Dropout between two dense layers."""

    @linen.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        x = linen.Dropout(0.5, deterministic=not train)(linen.relu(linen.Dense(4, name="a")(x)))
        return linen.Dense(3, name="b")(x)


def test_sites_of_linen_are_the_same_in_training_and_in_evaluation() -> None:
    (x,) = random((ROWS,), 0)
    q = jaxq.quantize(LinenDropout(), "int8", x)
    variables = jaxq.calibrate(q, [x], q.init(jax.random.key(0), x), progress=False)
    assert sorted(variables["ranges"]) == ["a/kernel:out", "b/kernel:out", "input"]
    trained = q.apply(variables, x, train=True, rngs={"dropout": jax.random.key(1)})
    assert trained.shape == (2, 3)
    assert not np.array_equal(trained, q.apply(variables, x))


# --- what is given and what comes back ---------------------------------------------------------------------------


def test_several_inputs_keywords_flags_and_nested_outputs() -> None:
    def fn(p: Any, x: jax.Array, *, scale: float, other: jax.Array, negative: bool) -> Any:
        y = x @ p["w"] * scale
        return {"sum": y + other, "pair": (-y if negative else y, None)}

    (w,), (x, other) = random(((6, 4),), 0), random((ROWS, (2, 4)), 1)
    flags = {"scale": 0.5, "negative": True}
    q = jaxq.quantize(fn, "int8", {"w": w}, x, other=other, **flags)
    assert [q.plan.graph.site_names[v] for v in q.plan.graph.inputs] == ["input", "input_1"]
    batch = (x, {"other": other, **flags})
    ranges = jaxq.calibrate(q, [batch], {"w": w}, q.init({"w": w}, x, other=other, **flags), progress=False)
    assert {*ranges} == {"input", "input_1", "w:out", "affine", "add"}
    found = q.apply({"w": w}, ranges, x, other=other, **flags)
    assert {*found} == {"sum", "pair"} and found["pair"][1] is None
    other_flags = q.apply({"w": w}, ranges, x, other=other, scale=0.5, negative=False)
    assert not np.array_equal(found["pair"][0], other_flags["pair"][0])
    np.testing.assert_array_equal(found["sum"], other_flags["sum"])


def test_outputs_keep_their_tree_and_their_dtypes() -> None:
    def fn(p: Any, x: jax.Array) -> Any:
        y = x.astype(jnp.bfloat16)
        return {"half": y + y, "whole": [x + x, (jnp.tanh(x),)]}

    (x,) = random((ROWS,), 0)
    q = jaxq.quantize(fn, "int8", {}, x)
    found = q.apply({}, jaxq.calibrate(q, [x], {}, q.init({}, x), progress=False), x)
    assert jax.tree.structure(found) == jax.tree.structure(fn({}, x))
    assert [str(a.dtype) for a in jax.tree.leaves(found)] == ["bfloat16", "float32", "float32"]


def test_a_model_in_bfloat16_is_the_same_graph() -> None:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        y = conv({"w": p["w"].astype(jnp.bfloat16)}, x.astype(jnp.bfloat16)) + p["b"].astype(jnp.bfloat16)
        return jnp.mean(jax.nn.relu(y), (1, 2)).astype(jnp.float32)

    graph = graph_of(fn, zeros({**KERNEL, "b": (8,)}), np.zeros(IMAGE, np.float32))
    assert kinds(graph) == "CONV_2D MEAN"
    assert names(graph) == ["w", "mean"]


def test_an_example_of_numpys_floats_is_read_as_float32() -> None:
    graph = graph_of(lambda p, x: x @ p["w"], {"w": np.zeros((6, 4))}, np.zeros(ROWS))
    assert {str(graph.avals[v].dtype) for v in graph.activations} == {"float32"}


def test_a_random_key_may_be_an_input() -> None:
    def fn(p: Any, x: jax.Array, key: jax.Array) -> jax.Array:
        y = x @ p["w"]
        return jnp.where(jax.random.bernoulli(key, 0.5, y.shape), y / 0.5, 0.0)

    (w,), (x,), key = random(((6, 4),), 0), random((ROWS,), 1), jax.random.key(0)
    q = jaxq.quantize(fn, "int8", {"w": w}, x, key)
    ranges = jaxq.calibrate(q, [(x, key)], {"w": w}, q.init({"w": w}, x, key), progress=False)
    assert q.apply({"w": w}, ranges, x, key).shape == (2, 4)


def test_one_trace_serves_each_batch_size() -> None:
    traced = itertools.count()

    def fn(p: Any, x: jax.Array) -> jax.Array:
        next(traced)
        return x @ p

    (w,), (x,) = random(((6, 4),), 0), random(((8, 6),), 1)
    q = jaxq.quantize(fn, "int8", w, x[:1])
    ranges = jaxq.calibrate(q, [x, x], w, q.init(w, x), progress=False)
    for _ in range(3):
        q.apply(w, ranges, x)
    assert next(traced) == 3  # the example, a generic batch, the batches


# --- golden texts ------------------------------------------------------------------------------------------------


def digits() -> Any:
    """The digits recipe's model, calibrated on fixed noise."""
    model, example = mnist.target()
    qmodel = jaxq.quantize(model, "int8", example)
    jaxq.calibrate(qmodel, [np.random.default_rng(0).random((8, 28, 28, 1), np.float32)], progress=False)
    return qmodel


def test_golden_texts_of_the_digits_recipe(golden: Callable[[str, str], None]) -> None:
    qmodel = digits()
    golden("graph_digits.txt", str(qmodel.plan.graph))
    golden("plan_digits.txt", str(qmodel.plan))
    golden("program_digits.txt", str(jaxq.export.to_tflite(qmodel, progress=False).program))


# --- functions of one activation: tables -------------------------------------------------------------------------

TABLES: list[tuple[str, Callable[[Any, jax.Array], Any], str]] = [
    ("exp", lambda p, x: jnp.exp(x), "exp"),
    ("reciprocal", lambda p, x: 1 / (x + 3), "add div"),
    ("cube", lambda p, x: x**3, "integer_pow"),
    ("mish", lambda p, x: x * jnp.tanh(jax.nn.softplus(x)), "custom_jvp_call tanh mul"),
    ("branches", lambda p, x: jnp.where(x > 0.5, x, 0.1 * x * x), "gt mul select_n"),
    ("behind arithmetic", lambda p, x: lax.rsqrt(2 * x + 1), "mul add rsqrt"),
    ("a trained factor", lambda p, x: jnp.where(x > 0.5, x, p["slope"] * x * x), "gt mul select_n"),
]


@pytest.mark.parametrize(("fn", "primitives"), [row[1:] for row in TABLES], ids=[row[0] for row in TABLES])
def test_a_function_of_one_activation_is_one_table(fn: Callable[..., Any], primitives: str) -> None:
    params = {"slope": np.float32(0.25)}
    plan = jaxq.quantize(fn, "int8", params, np.zeros(ROWS, np.float32)).plan
    (op,) = plan.graph.ops
    assert (op.kind, " ".join(op.attrs["of"])) == ("TABLE", primitives)
    x = np.linspace(-0.4, 2.0, int(np.prod(ROWS)), dtype=np.float32).reshape(ROWS)
    real = reals(plan, list(params.values()), [x])[plan.graph.outputs[0]]
    np.testing.assert_allclose(real, fn(params, x), rtol=1e-6)


def test_arithmetic_alone_is_no_table() -> None:
    graph = graph_of(lambda p, x: jax.nn.relu(2 * x + 1) * x, {}, np.zeros(ROWS, np.float32))
    assert kinds(graph) == "AFFINE MUL"


def test_two_activations_under_a_table_are_two_ops() -> None:
    x = np.zeros(ROWS, np.float32)
    assert kinds(graph_of(lambda p, x, y: jnp.exp(x) * y, {}, x, x)) == "TABLE MUL"
    assert kinds(graph_of(lambda p, x, y: jnp.exp(x * y), {}, x, x)) == "MUL TABLE"
    assert kinds(graph_of(lambda p, x, y: x / jnp.sqrt(y), {}, x, x)) == "TABLE MUL"


def test_softmax_is_found_by_what_it_means() -> None:
    def plainly(p: Any, x: jax.Array) -> jax.Array:
        powers = jnp.exp(x)
        return powers / jnp.sum(powers, -1, keepdims=True)

    assert kinds(graph_of(plainly, {}, np.zeros(ROWS, np.float32))) == "SOFTMAX"
    other = graph_of(lambda p, x: jax.nn.softmax(x, 1), {}, np.zeros(SERIES, np.float32))
    assert kinds(other) == "TRANSPOSE SOFTMAX TRANSPOSE"


def test_a_short_scan_is_its_steps() -> None:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        return lax.scan(lambda c, row: (jnp.tanh(c + row @ p["w"]), c), jnp.zeros((2, 6)), jnp.swapaxes(x, 0, 1))[0]

    (w,), (x,) = random(((6, 6),), 0), random(((2, 3, 6),), 1)
    plan = jaxq.quantize(fn, "int8", {"w": w}, x).plan
    assert kinds(plan.graph).split().count("FULLY_CONNECTED") == 3
    np.testing.assert_allclose(reals(plan, [w], [x])[plan.graph.outputs[0]], fn({"w": w}, x), rtol=1e-5, atol=1e-6)
