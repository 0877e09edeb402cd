"""The law of batches: a model's graph, sites and plan are the same for an example of 1, 2 or 7."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.errors import InputError, RangeError
from jaxq.frontends.core import CACHED_SHAPES
from jaxq.graph import batch as batches
from jaxq.quantization import bind
from tests import sixty_three, zoo

RNG = np.random.default_rng(0)
X = np.round(8 * RNG.normal(0, 1, (8, 5, 4)).astype(np.float32)) / 8  # sums of products are exact


def described(plan: Any) -> tuple[str, list[tuple[str, str]], set[str]]:
    """What must not depend on the batch: the text of the plan, the ops and the sites."""
    return str(plan), [(op.kind, op.name) for op in plan.graph.ops], {*plan.graph.site_names.values()}


def same_plans(quantized: Callable[[int], Any], sizes: tuple[int, ...] = (1, 7)) -> None:
    """Assert that the plans at these batch sizes are the same."""
    first, *others = (described(quantized(n)) for n in sizes)
    for other in others:
        assert other == first


@pytest.mark.parametrize("name", sorted(zoo.ZOO))
def test_the_plan_of_a_zoo_network_is_the_same_at_each_batch(name: str) -> None:
    case = zoo.ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, "int8", *args, **kwargs)

    def plan(n: int) -> Any:
        args, kwargs = case.first(n)
        return qmodel.captured(*args, **kwargs).plan

    same_plans(plan)


@pytest.mark.parametrize("name", sorted(sixty_three.SIXTY_THREE))
def test_the_plan_of_one_op_is_the_same_at_each_batch(name: str) -> None:
    case = sixty_three.case(name)
    qmodel = jaxq.quantize(case.model, "int8", case.examples[:1])
    same_plans(lambda n: qmodel.captured(case.examples[:n]).plan)


def moments(p: Any, x: jax.Array) -> jax.Array:
    """A norm over all axes but the batch: its statistics have axes of size 1 alone where the batch is 1."""
    y = (x - x.mean((1, 2), keepdims=True)) * jax.lax.rsqrt(x.var((1, 2), keepdims=True) + 1e-3)
    return jnp.maximum(y, -1.0) * p["s"] + p["b"]


def tiled(p: Any, x: jax.Array) -> jax.Array:
    """A bias tiled over the batch in Python."""
    return x[:, 0] @ p["w"] + jnp.tile(p["b"][None], (x.shape[0], 1))


def learned_state(p: Any, x: jax.Array) -> jax.Array:
    """A recurrent layer from a learned state."""
    state = jnp.broadcast_to(p["b"], (x.shape[0], 4))
    for t in range(2):
        state = jnp.tanh(x[:, t] @ p["w"] + state @ p["w"])
    return state


def token(p: Any, x: jax.Array) -> jax.Array:
    """A token in front of a sequence, and positions in one matrix of all examples."""
    n = x.shape[0]
    y = jnp.concatenate([jnp.broadcast_to(p["b"], (n, 1, 4)), x], 1)
    return (y.reshape(n * 6, 4) @ p["w"]).reshape(n, 6, 4)[:, 0]


def of_each_channel(p: Any, x: jax.Array) -> jax.Array:
    """A matrix that depends on the batch and on nothing else, and moves that put the batch last."""
    return (x[:, 0].T + jnp.zeros((4, len(x))) + p["b"][:, None]).T @ p["w"]


FUNCTIONS = (moments, tiled, learned_state, token, of_each_channel)
PARAMS = {
    "w": np.round(8 * RNG.normal(0, 1, (4, 4)).astype(np.float32)) / 8,
    "s": np.array([3.0, -2.0, 5.0, 1.0], np.float32),
    "b": np.array([10.0, -20.0, 30.0, 5.0], np.float32),
}


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_the_plan_of_a_function_is_the_same_at_each_batch(fn: Callable[..., Any]) -> None:
    """Also where the batch is as long as another axis (4 channels, 5 steps)."""
    q = jaxq.quantize(fn, "int8", PARAMS, X[:1])
    same_plans(lambda n: q.captured(PARAMS, X[:n]).plan, (1, 2, 4, 5, 7))
    assert described(jaxq.quantize(fn, "int8", PARAMS, X[:4]).plan) == described(q.plan)


@pytest.mark.parametrize("fn", FUNCTIONS, ids=lambda fn: fn.__name__)
def test_the_float_reading_is_the_functions_at_each_batch(fn: Callable[..., Any]) -> None:
    q = jaxq.quantize(fn, "int8", PARAMS, X[:1])
    for n in (1, 4, 7):
        captured = q.captured(PARAMS, X[:n])
        found = q.core.reals(captured, PARAMS, (X[:n],), {})
        (output,) = (captured.plan.graph.site_names[v] for v in captured.plan.graph.outputs)
        np.testing.assert_allclose(found[output], fn(PARAMS, X[:n]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fn", (moments, tiled), ids=lambda fn: fn.__name__)
def test_the_file_is_the_same_calibrated_at_1_or_7(fn: Callable[..., Any]) -> None:
    def data(batch: int) -> bytes:
        q = jaxq.quantize(fn, "int8", PARAMS, X[:1])
        data = [X[i : i + batch] for i in range(0, 7, batch)]
        ranges = jaxq.calibrate(q, data, PARAMS, q.init(PARAMS, X[:1]), progress=False)
        return jaxq.export.to_tflite(q, PARAMS, ranges, verify=X[:7], progress=False).data

    assert data(1) == data(7)


ROWS: dict[str, Callable[..., Any]] = {
    "one row": lambda w, x: x[:, 0] @ w,
    "rows of all examples": lambda w, x: (x.reshape(-1, 9) @ w).reshape(len(x), -1, 8),
}


@pytest.mark.parametrize("batch", (pytest.param(1, marks=pytest.mark.slow), 7))
@pytest.mark.parametrize("name", (pytest.param("one row", marks=pytest.mark.slow), "rows of all examples"))
def test_a_batch_is_computed_as_the_file_computes(name: str, batch: int) -> None:
    """TFLite multiplies 4-bit weights by one row with another rounding than by several, on an Arm processor. The file
    has the example's shape, whatever batch trains.
    """
    x, w = (RNG.normal(size=shape).astype(np.float32) for shape in ((14, 2, 9), (9, 8)))
    q = jaxq.quantize(ROWS[name], {"weights": {"bits": 4}}, w, x[:batch])
    how = [q.captured(w, x[:n]).plan.arithmetic for n in (batch, 2, 14)]
    assert how[0] == how[1] == how[2]
    (dense,) = [op.name for op in q.plan.graph.ops if op.kind == "FULLY_CONNECTED"]
    assert how[0][dense].requantize == ("half up" if (name, batch) == ("one row", 1) else "once")
    ranges = jaxq.calibrate(q, [x], w, q.init(w, x[:batch]), progress=False)
    with pytest.warns(jaxq.PrecisionWarning, match="have 4 bits"):
        artifact = jaxq.export.to_tflite(q, w, ranges, verify=x, progress=False)
    assert artifact.certificate is not None and artifact.certificate.examples == 14


# --- inputs without a batch -------------------------------------------------------------------------------------------

TABLE = RNG.normal(size=(5, 4)).astype(np.float32)
MANY = RNG.normal(size=(70, 5, 4)).astype(np.float32)
WITHOUT_BATCH: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
    "a table": (lambda p, x, t: (x + t) @ p["w"], (MANY, TABLE)),
    "a table before": (lambda p, t, x: (x + t) @ p["w"], (TABLE, MANY)),
    "a number": (lambda p, x, t: (x * t) @ p["w"], (MANY, np.float32(0.5))),
    "a row": (lambda p, x, t: (x * t) @ p["w"], (MANY, np.ones(1, np.float32))),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "a table")) for n in WITHOUT_BATCH])
def test_an_input_without_a_batch_is_whole_in_every_chunk(name: str) -> None:
    """Of 64 examples, as calibration data and proofs are cut."""
    fn, args = WITHOUT_BATCH[name]
    example = tuple(a[:1] if a is MANY else a for a in args)
    q = jaxq.quantize(fn, "int8", PARAMS, *example)
    ranges = jaxq.calibrate(q, [args], PARAMS, q.init(PARAMS), progress=False)
    artifact = jaxq.export.to_tflite(q, PARAMS, ranges, verify=args, progress=False)
    assert artifact.certificate is not None and artifact.certificate.examples == 70
    assert jaxq.analyze.health(q, args, PARAMS, ranges).examples == 70


def test_examples_that_are_no_multiple_of_the_file_s_batch_are_refused() -> None:
    q = jaxq.quantize(lambda p, x: x @ p["w"], "int8", PARAMS, X[:3])
    ranges = jaxq.calibrate(q, [X], PARAMS, q.init(PARAMS), progress=False)
    with pytest.raises(InputError, match="2 of the examples to verify on are left over: the file takes 3 at a time"):
        jaxq.export.to_tflite(q, PARAMS, ranges, verify=X, progress=False)
    artifact = jaxq.export.to_tflite(q, PARAMS, ranges, verify=X[:6], progress=False)
    assert artifact.certificate is not None and artifact.certificate.examples == 6


def test_which_inputs_have_a_batch() -> None:
    def found(example: list[tuple[int, ...]], *shapes: tuple[int, ...]) -> tuple[bool, ...]:
        return batches.batched_inputs(example, list(shapes))

    image, table = (1, 8, 8), (5, 4)
    assert found([image, table, ()], (64, 8, 8), table, ()) == (True, False, False)
    assert found([table, image], table, (64, 8, 8)) == (False, True)
    assert found([image, table], (5, 8, 8), table) == (True, False)  # as long as the table by chance
    assert found([image, (1, 4)], (64, 8, 8), (64, 4)) == (True, True)
    assert found([image, (1,)], (64, 8, 8), (1,)) == (True, False)
    assert found([(7, 8, 8), (7, 4)], (7, 8, 8), (7, 4)) == (True, True)
    assert found([()], ()) == (False,)


def cells(rngs: nnx.Rngs) -> list[nnx.RNNCellBase]:
    return [
        nnx.LSTMCell(4, 6, rngs=rngs),
        nnx.OptimizedLSTMCell(4, 6, rngs=rngs),
        nnx.GRUCell(4, 6, rngs=rngs),
        nnx.SimpleCell(4, 6, rngs=rngs),
    ]


@pytest.mark.parametrize("index", range(4))
def test_a_recurrent_layer_is_the_same_at_each_batch(index: int) -> None:
    rngs = nnx.Rngs(0)
    model = nnx.RNN(cells(rngs)[index], rngs=rngs)
    qmodel = jaxq.quantize(model, "int8", X[:1, :2])
    same_plans(lambda n: qmodel.captured(X[:n, :2]).plan)


class LinenRecurrent(flax.linen.Module):
    """A Linen recurrent layer: its first state is made of zeros."""

    cell: Any

    @flax.linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        return flax.linen.Dense(4)(cast(jax.Array, flax.linen.RNN(self.cell(6))(x))[:, -1])


@pytest.mark.parametrize("cell", ("LSTMCell", "OptimizedLSTMCell", "GRUCell", "SimpleCell"))
def test_a_recurrent_layer_of_linen_is_the_same_at_each_batch(cell: str) -> None:
    module = LinenRecurrent(getattr(flax.linen, cell))
    same_plans(lambda n: jaxq.quantize(module, "int8", X[:n, :2]).plan)


def test_a_graph_is_derived_where_a_batch_of_one_hides_its_structure() -> None:
    """A random constant per example, of which the recorded graph of one makes a vector over channels."""
    table = RNG.normal(0, 1, (16, 4)).astype(np.float32)

    def fn(p: Any, x: Any) -> jax.Array:
        return x[:, 0] @ p["w"] + jnp.asarray(table)[jnp.arange(x.shape[0])]

    q = jaxq.quantize(fn, "int8", PARAMS, X[:1])
    same_plans(lambda n: q.captured(PARAMS, X[:n]).plan, (1, 2, 4, 7))
    for n in (1, 4):
        captured = q.captured(PARAMS, X[:n])
        found = q.core.reals(captured, PARAMS, (X[:n],), {})
        (output,) = (captured.plan.graph.site_names[v] for v in captured.plan.graph.outputs)
        np.testing.assert_allclose(found[output], fn(PARAMS, X[:n]), rtol=1e-4, atol=1e-4)


def test_a_function_of_one_batch_size_keeps_it() -> None:
    def fn(p: Any, x: jax.Array) -> jax.Array:
        return x.reshape(2, 20) @ jnp.ones((20, 3))

    q = jaxq.quantize(fn, "int8", {}, X[:2])
    assert q.plan.graph.avals[q.plan.graph.outputs[0]].shape == (2, 3)


def test_the_generic_batch_is_a_prime_that_divides_no_size() -> None:
    q = jaxq.quantize(
        lambda p, x: x.reshape(len(x), -1) @ p, "int8", np.ones((26, 22), np.float32), np.ones((1, 13, 2))
    )
    assert batches.generic_batch(11, q.plan.graph) == 17


# --- ranges of another plan ---------------------------------------------------------------------------------------


def dense(p: Any, x: jax.Array) -> jax.Array:
    return jax.nn.relu(x[:, 0] @ p["w"]) + x[:, 1]


def longer(p: Any, x: jax.Array) -> jax.Array:
    return jnp.tanh(dense(p, x)) * x[:, 2]


def ranges_of(fn: Callable[..., Any], recipe: Any = "int8") -> tuple[Any, Any]:
    q = jaxq.quantize(fn, recipe, PARAMS, X[:1])
    return q, jaxq.calibrate(q, [X], PARAMS, q.init(PARAMS, X[:1]), progress=False)


def test_ranges_of_another_plan_are_refused_with_what_differs() -> None:
    (q, ranges), (_, others) = ranges_of(dense), ranges_of(longer)
    for refused in (
        lambda: q.apply(PARAMS, others, X),
        lambda: jaxq.export.to_tflite(q, PARAMS, others),
        lambda: jaxq.calibrate(q, [X], PARAMS, others, overwrite=True, progress=False),
    ):
        with pytest.raises(RangeError, match=r"are of another plan.*[1-9] \(.*\) are no sites of this plan"):
            refused()
    del ranges["input"]
    with pytest.raises(RangeError, match=r"1 \(input\) have no range here, 0 are no sites"):
        q.apply(PARAMS, ranges, X)


def test_ranges_of_a_call_with_other_flags_are_of_this_model() -> None:
    """A call that computes less than calibration did reads some of its ranges; so does export."""

    def flagged(p: Any, x: jax.Array, more: bool) -> jax.Array:
        return longer(p, x) if more else dense(p, x)

    q = jaxq.quantize(flagged, "int8", PARAMS, X[:1], more=False)
    ranges = jaxq.calibrate(q, [(X, {"more": True})], PARAMS, q.init(PARAMS, X[:1], more=True), progress=False)
    fewer = {name: ranges[name] for name in q.init(PARAMS, X[:1], more=False)}
    assert len(fewer) < len(ranges)
    found, wanted = (q.apply(PARAMS, given, X, more=False) for given in (ranges, fewer))
    np.testing.assert_array_equal(found, wanted)
    assert jaxq.export.to_tflite(q, PARAMS, ranges, progress=False).data
    with pytest.raises(RangeError, match=r"1 \(other\) are no sites of this plan"):
        q.apply(PARAMS, {**ranges, "other": ranges["input"]}, X, more=False)


def test_ranges_of_another_method_are_refused() -> None:
    q, ranges = ranges_of(dense)
    scale = jnp.ones(4, jnp.float32)
    with pytest.raises(RangeError, match=r"1 \(input\) have a range of another kind or shape"):
        q.apply(PARAMS, {**ranges, "input": {**ranges["input"], "scale": scale}}, X)


def test_the_fingerprint_is_the_plans_and_not_the_batchs() -> None:
    plans = [jaxq.quantize(fn, recipe, PARAMS, X[:n]).plan for fn, recipe, n in (
        (dense, "int8", 1), (dense, "int8", 7), (longer, "int8", 1), (dense, {"weights": {"bits": 4}}, 1),
    )]  # fmt: skip
    first, same, *others = (plan.fingerprint for plan in plans)
    assert first == same and first not in others


def test_a_batch_that_is_written_by_hand_is_kept() -> None:
    """At another batch the resize would run over examples."""
    q = jaxq.quantize(lambda p, x: jax.image.resize(x, (1, 12, 12, 4), "bilinear"), "int8", {}, np.ones((1, 6, 6, 4)))
    assert [op.kind for op in q.plan.graph.ops] == ["RESIZE_BILINEAR"]


# --- the plans that are kept ------------------------------------------------------------------------------------------

KERNEL = RNG.normal(size=(4, 2)).astype(np.float32)


def dense_layer(face: str) -> tuple[Any, tuple[Any, ...]]:
    """A calibrated dense layer of one interface, and its state."""
    if face == "function":
        q = jaxq.quantize(lambda p, x: x @ p["kernel"], "int8", {"kernel": KERNEL}, X[:1, 0])
        params = {"kernel": KERNEL}
        return q, (params, jaxq.calibrate(q, [X[:, 0]], params, q.init(params), progress=False))
    if face == "linen":
        q = jaxq.quantize(flax.linen.Dense(2), "int8", X[:1, 0])
        return q, (jaxq.calibrate(q, [X[:, 0]], q.init(jax.random.key(0), X[:1, 0]), progress=False),)
    q = jaxq.quantize(nnx.Linear(4, 2, rngs=nnx.Rngs(0)), "int8", X[:1, 0])
    jaxq.calibrate(q, [X[:, 0]], progress=False)
    return q, ()


def result(q: Any, state: tuple[Any, ...], x: np.ndarray) -> np.ndarray:
    return np.asarray(q(x) if not state else q.apply(*state, x))


@pytest.mark.parametrize("face", ["function", "linen", "nnx"])
def test_the_seventeenth_shape_drops_the_one_used_least_recently(face: str) -> None:
    q, state = dense_layer(face)
    x, bound = np.tile(X[:, 0], (3, 1)), bind(q, *state)
    before = [result(q, state, x[:n]) for n in (1, 2)]
    held = {n: bound.captured(x[:n]) for n in range(1, CACHED_SHAPES + 1)}
    assert CACHED_SHAPES == 16
    assert bound.captured(x[:1]) is held[1]  # now the one used last
    bound.captured(x[:17])
    assert bound.captured(x[:1]) is held[1]
    again = bound.captured(x[:2])
    assert again is not held[2]
    assert len(bound.core.plans) == 1  # of one set of sites
    assert described(again.plan) == described(held[2].plan) == described(q.plan)
    np.testing.assert_array_equal(result(q, state, x[:1]), before[0])
    np.testing.assert_array_equal(result(q, state, x[:2]), before[1])
    assert result(q, state, x[:17]).shape == (17, 2)
