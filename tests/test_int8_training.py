"""`jaxq.int8.training`: what changes of a function and what does not, states, rules, errors, optimizers."""

from __future__ import annotations

from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

import jaxq
from jaxq.errors import CaptureError, InputError, RangeError, RecipeError, UnmatchedRuleError
from jaxq.gradients.contraction import contraction
from jaxq.gradients.geometry import geometry
from jaxq.gradients.statistics import combine_gradients
from jaxq.int8 import Backward, BackwardRule

RNG = np.random.default_rng(0)
W = RNG.normal(size=(4, 4)).astype(np.float32)
X = RNG.normal(size=(3, 4)).astype(np.float32)
NEAREST = Backward(stochastic=False)


def product(x: Any, w: Any, how: Backward = NEAREST, state: Any = None) -> Any:
    """`x @ w` in int8, called by hand."""
    eqn = jax.make_jaxpr(jnp.matmul)(x, w).eqns[0]
    return contraction(geometry("dot_general", eqn.params, x, w), how, x, w, state or {})


def both(fn: Any, params: Any, *args: Any, how: Any = NEAREST) -> Any:
    """Value and gradients of the sum of squares of a function in int8."""
    made = jaxq.int8.training(fn, how, params, *args)

    def loss(params: Any, states: Any, *args: Any) -> Any:
        return jnp.sum(jnp.square(made.apply(params, states, *args)))

    return jax.jit(jax.value_and_grad(loss))(params, made.init(params, *args), *args)


def assert_same(a: Any, b: Any) -> None:
    jax.tree.map(lambda u, v: np.testing.assert_allclose(u, v, rtol=2e-6, atol=1e-6), a, b)


def by_hand(fn: Any, params: Any, *args: Any) -> Any:
    return jax.jit(jax.value_and_grad(lambda p, *a: jnp.sum(jnp.square(fn(p, *a)))))(params, *args)


@jax.custom_jvp
def halved(x: jax.Array) -> jax.Array:
    return x @ jnp.asarray(W)


@halved.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return halved(*primals), 0.5 * tangents[0]


@jax.custom_vjp
def doubled(x: jax.Array) -> jax.Array:
    return x @ jnp.asarray(W)


doubled.defvjp(lambda x: (doubled(x), None), lambda _, g: (2.0 * g,))


@jax.custom_jvp
def halved_int8(x: jax.Array) -> jax.Array:
    return product(x, jnp.asarray(W))


@halved_int8.defjvp
def _(primals: Any, tangents: Any) -> Any:
    return halved_int8(*primals), 0.5 * tangents[0]


@jax.custom_vjp
def doubled_int8(x: jax.Array) -> jax.Array:
    return product(x, jnp.asarray(W))


doubled_int8.defvjp(lambda x: (doubled_int8(x), None), lambda _, g: (2.0 * g,))


def scanned(matmul: Any) -> Any:
    def step(carry: Any, slices: Any, w: Any) -> Any:
        new = jnp.tanh(matmul(carry, w) + slices)
        return new, new

    def fn(w: Any, x: Any) -> Any:
        steps = jnp.stack([x, 2 * x])
        carry, ys = lax.scan(lambda c, s: step(c, s, w), x, steps, reverse=True)
        return carry + ys.sum(0)

    return fn


# A function written with `@`, and the same with the int8 product called by hand.
CONTROL: dict[str, Any] = {
    "checkpoint": lambda mul: lambda w, x: jax.checkpoint(lambda v: jnp.sin(mul(v, w)))(x),
    "cond": lambda mul: lambda w, x: lax.cond(x[0, 0] > 0, lambda v: mul(v, w), lambda v: mul(v, w.T), x),
    "custom_jvp": lambda mul: lambda w, x: (halved if mul is jnp.matmul else halved_int8)(x * w[0]),
    "custom_vjp": lambda mul: lambda w, x: (doubled if mul is jnp.matmul else doubled_int8)(x * w[0]),
    "jit": lambda mul: lambda w, x: jax.jit(lambda v: mul(v, w))(x),
    "scan": scanned,
    "vmap": lambda mul: lambda w, x: jax.vmap(lambda v: jnp.tanh(v))(mul(x, w)),
}


@pytest.mark.parametrize("form", CONTROL)
def test_a_function_in_int8_is_the_function_with_its_products_in_int8(form: str):
    assert_same(both(CONTROL[form](jnp.matmul), W, X), by_hand(CONTROL[form](product), W, X))


def test_while_computes_forward_in_int8():
    def fn(matmul: Any) -> Any:
        return lambda w, x: lax.while_loop(lambda c: c[1] < 2, lambda c: (matmul(c[0], w), c[1] + 1), (x, 0))[0]

    made = jaxq.int8.training(fn(jnp.matmul), "unified", W, X)
    assert made.init(W, X) == {}
    np.testing.assert_array_equal(jax.jit(made.apply)(W, {}, X), jax.jit(fn(product))(W, X))


def test_vmap_of_a_function_in_int8_is_each_example_by_itself():
    made = jaxq.int8.training(jnp.matmul, NEAREST, W, W)
    batch = jnp.stack([W, 3 * W, -W])
    np.testing.assert_array_equal(
        jax.jit(jax.vmap(lambda b: made.apply(W, {}, b)))(batch),
        jax.jit(lambda b: jnp.stack([made.apply(W, {}, v) for v in b]))(batch),
    )


def test_shard_map_and_sharding_constraints_are_kept():
    mesh = jax.make_mesh((1,), ("data",), axis_types=(AxisType.Auto,))

    def fn(w: Any, x: Any) -> Any:
        held = lax.with_sharding_constraint(x, jax.NamedSharding(mesh, P("data")))
        return jax.shard_map(lambda v, u: v @ u, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data"))(held, w)

    assert_same(both(fn, W, X), by_hand(lambda w, x: product(x, w), W, X))
    with pytest.raises(CaptureError, match="inside a shard_map, where the scheme 'unified' cannot keep its state"):
        jaxq.int8.training(fn, "unified", W, X)


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
        self.norm = nnx.BatchNorm(4, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(4, 5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(self.drop(jax.nn.relu(self.norm(self.conv(x))).mean((1, 2))))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array, train: bool = True) -> jax.Array:
        x = linen.BatchNorm(not train, name="norm")(linen.Conv(4, (3, 3), name="conv")(x))
        x = linen.Dropout(0.5, deterministic=not train)(jax.nn.relu(x).mean((1, 2)))
        return linen.Dense(5, name="head")(x)


IMAGES = RNG.normal(size=(4, 5, 5, 3)).astype(np.float32)
FLOATS = tuple(BackwardRule(name, float=True) for name in ("conv/*", "head/*"))


def numbers(state: Any) -> list[np.ndarray]:
    """The leaves of a state, random keys by their bits."""
    leaves = jax.tree.leaves(state)
    keys = [jnp.issubdtype(v.dtype, jax.dtypes.prng_key) for v in leaves]
    return [np.asarray(jax.random.key_data(v) if key else v) for v, key in zip(leaves, keys, strict=True)]


def test_of_an_nnx_module_nothing_but_contractions_changes():
    """With every contraction left in floats, a step is bitwise the model's: statistics, dropout, gradients."""
    models = Net(nnx.Rngs(0)), jaxq.int8.training(Net(nnx.Rngs(0)), Backward(rules=FLOATS), IMAGES[:1])
    found = []
    for model in models:
        model.train()
        loss = nnx.jit(nnx.value_and_grad(lambda m: jnp.sum(jnp.square(m(IMAGES)))))
        found.append((loss(model), nnx.state(model)))
    (a, state_a), (b, state_b) = found
    np.testing.assert_array_equal(a[0], b[0])
    for one, other in ((state_a, state_b), (a[1], b[1])):
        jax.tree.map(np.testing.assert_array_equal, numbers(one), numbers(other))
    assert models[0].norm.mean[...].any()


def test_linen_has_the_users_variables_and_writes_its_statistics():
    module = jaxq.int8.training(LinenNet(), Backward(rules=FLOATS), IMAGES[:1])
    keys = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    ours, users = module.init(keys, IMAGES), LinenNet().init(keys, IMAGES)
    jax.tree.map(np.testing.assert_array_equal, ours, users)
    run = {"mutable": ["batch_stats"], "rngs": {"dropout": jax.random.key(2)}}
    for a, b in zip(module.apply(ours, IMAGES, **run), LinenNet().apply(users, IMAGES, **run), strict=True):
        jax.tree.map(np.testing.assert_array_equal, a, b)
    assert module.apply(ours, IMAGES, train=False).shape == (4, 5)
    stateful = jaxq.int8.training(LinenNet(), "unified", IMAGES[:1]).init(keys, IMAGES)
    assert set(stateful) == {"params", "batch_stats", "gradients"}
    assert set(stateful["gradients"]) == {"conv/kernel", "head/kernel"}


def test_nnx_linen_and_functions_compute_the_same():
    model = jaxq.int8.training(Net(nnx.Rngs(0)), NEAREST, IMAGES)
    model.eval()
    inner = model.model
    params = {"conv": {"kernel": inner.conv.kernel[...], "bias": inner.conv.bias[...]}}
    params["head"] = {"kernel": inner.head.kernel[...], "bias": inner.head.bias[...]}
    params["norm"] = {"scale": inner.norm.scale[...], "bias": inner.norm.bias[...]}
    stats = {"norm": {"mean": inner.norm.mean[...], "var": inner.norm.var[...]}}
    module = jaxq.int8.training(LinenNet(), NEAREST, IMAGES)
    found = module.apply({"params": params, "batch_stats": stats}, IMAGES, train=False)
    np.testing.assert_allclose(found, model(IMAGES), rtol=1e-5, atol=1e-6)
    graphdef, state = nnx.split(inner)
    function = jaxq.int8.training(lambda s, x: nnx.merge(graphdef, s)(x), NEAREST, state, IMAGES)
    np.testing.assert_allclose(function.apply(state, {}, IMAGES), model(IMAGES), rtol=1e-5, atol=1e-6)
    assert [s.name for s in function.sites] == ["conv/kernel", "head/kernel"] == [s.name for s in model.sites]


def two_layers(params: Any, x: Any) -> Any:
    return jax.nn.relu(x @ params["first"]) @ params["last"]


LAYERS = {"first": W, "last": W[:, :2]}


def test_rules_choose_by_path_and_by_line():
    line = next(s.line for s in jaxq.int8.training(two_layers, "row", LAYERS, X).sites).partition(" ")[0]
    assert line.startswith("test_int8_training.py:")
    rules = (BackwardRule(line, bits=4), BackwardRule("last", float=True))
    first, last = jaxq.int8.training(two_layers, Backward(scheme="unified", rules=rules), LAYERS, X).sites
    assert first.how == Backward(scheme="unified", bits=4) and last.how is None
    with pytest.raises(UnmatchedRuleError, match="'frist' .* matches none of the 3 names .*'first'"):
        jaxq.int8.training(two_layers, Backward(rules=(BackwardRule("frist"),)), LAYERS, X)


def test_a_weight_read_twice_and_a_scan_have_a_state_for_each():
    made = jaxq.int8.training(lambda w, x: x @ w @ w, "adaptive", W, X)
    assert len(made.init(W, X)) == 2
    made = jaxq.int8.training(scanned(jnp.matmul), "unified", W, X)
    (state,) = made.init(W, X).values()
    assert state["clip"].shape == (2, 2) and state["deviation"].shape == (2,)
    states = made.init(W, X)
    change = jax.jit(jax.grad(lambda s: jnp.sum(made.apply(W, s, X))))(states)
    (found,) = jax.tree.map(lambda s, c: s - c, states, change).values()
    assert (found["clip"] > 0).all()  # each step found its own


def test_errors_say_what_where_and_what_to_do():
    with pytest.raises(
        CaptureError, match=r"contracts integers: its operand x is int32\[3, 4\].*BackwardRule\(\"test_"
    ):
        jaxq.int8.training(lambda w, x: x.astype(int) @ w.astype(int), "row", W, X)
    with pytest.raises(
        CaptureError, match=r"test_int8_training.py:\d+ .* contracts complex numbers: .* complex64\[3, 4\]"
    ):
        jaxq.int8.training(lambda w, x: (x + 1j) @ w.astype(complex), "row", W, X)
    made = jaxq.int8.training(two_layers, "unified", LAYERS, X)
    with pytest.raises(RangeError, match=r"first at test_.* has no state of the scheme 'unified' \(clip, deviation\)"):
        made.apply(LAYERS, {}, X)
    with pytest.raises(RecipeError, match="no backward pass 'unifed'. .*'unified'"):
        jaxq.int8.training(two_layers, "unifed", LAYERS, X)
    with pytest.raises(InputError, match="needs an example"):
        jaxq.int8.training(Net(nnx.Rngs(0)), "row")
    with pytest.raises(InputError, match="not 3"):
        jaxq.int8.training(3, "row", X)


def test_an_integer_product_that_a_rule_leaves_alone_stays():
    rule = Backward(rules=(BackwardRule("test_int8_training.py:*", float=True),))
    made = jaxq.int8.training(lambda w, x: x.astype(int) @ w.astype(int), rule, W, X)
    np.testing.assert_array_equal(made.apply(W, {}, X), X.astype(int) @ W.astype(int))


def trained(model: Any, optimizer: nnx.Optimizer, steps: range) -> list[float]:
    """Losses of steps that depend on their number alone."""

    @nnx.jit
    def step(model: Any, optimizer: nnx.Optimizer, x: Any) -> Any:
        loss, gradients = nnx.value_and_grad(lambda m: jnp.mean(jnp.square(m(x) - 1)))(model)
        optimizer.update(model, gradients)
        return loss

    return [float(step(model, optimizer, IMAGES * (1 + 0.1 * i))) for i in steps]


def started() -> tuple[Any, nnx.Optimizer]:
    model = jaxq.int8.training(Net(nnx.Rngs(0)), "unified", IMAGES)
    tx = optax.chain(jaxq.optim.partition(optax.adamw(1e-2, weight_decay=0.1)), jaxq.optim.scale_by_deviation())
    return model, nnx.Optimizer(model, tx, wrt=nnx.Param)


def test_a_resumed_run_is_bitwise_the_run_that_was_not_interrupted():
    a, b = started(), started()
    whole = trained(*a, range(4))
    half = trained(*b, range(2))
    saved = [
        np.asarray(v) if hasattr(v, "dtype") and not jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v
        for v in jax.tree.leaves(nnx.state(b))
    ]
    c = started()
    nnx.update(c, jax.tree.unflatten(jax.tree.structure(nnx.state(c)), saved))
    assert half + trained(*c, range(2, 4)) == whole
    assert whole[-1] < whole[0]
    assert all((s["clip"][...] > 0).all() for s in c[0].gradients.values())


def test_partition_takes_a_state_to_what_was_found_without_rate_or_decay():
    params = {"w": jnp.ones(3), "gradients": {"w": {"clip": jnp.array([4.0, 4.0]), "deviation": jnp.array(0.5)}}}
    change = {"w": jnp.ones(3), "gradients": {"w": {"clip": jnp.array([1.0, -2.0]), "deviation": jnp.array(0.4)}}}
    tx = optax.chain(jaxq.optim.partition(optax.sgd(0.5)), jaxq.optim.scale_by_deviation(alpha=20.0, floor=0.1))
    updates = cast(Any, tx.update(change, tx.init(params), params)[0])
    new = cast(Any, optax.apply_updates(params, updates))
    np.testing.assert_allclose(new["gradients"]["w"]["clip"], [3.0, 6.0])
    np.testing.assert_allclose(new["gradients"]["w"]["deviation"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(updates["w"], -0.5 * np.exp(-2.0), rtol=1e-5)  # exp(-20 * 0.1), the new deviation


def test_the_rate_has_a_floor_and_other_parameters_keep_theirs():
    state = {"clip": jnp.zeros(2), "deviation": jnp.array(0.9)}
    params = {"a": {"kernel": jnp.ones(2), "bias": jnp.ones(2)}, "b": {"a": {"kernel": jnp.ones(2)}}}
    params = {"model": params, "gradients": {"a/kernel": state, "b/a/kernel": {**state, "deviation": jnp.array(0.0)}}}
    tx = jaxq.optim.scale_by_deviation()
    updates, _ = tx.update(jax.tree.map(jnp.zeros_like, params) | {"model": params["model"]}, tx.init(params), params)
    moved = cast(Any, updates)["model"]
    np.testing.assert_allclose(moved["a"]["kernel"], 0.1, rtol=1e-6)
    np.testing.assert_allclose(moved["a"]["bias"], 1.0)
    np.testing.assert_allclose(moved["b"]["a"]["kernel"], 1.0)  # the longest name that fits is its own


def test_accumulation_takes_the_mean_of_gradients_and_the_maximum_of_statistics():
    params = {"w": jnp.zeros(2), "s": {"channel": jnp.array([1.0, 1.0]), "deviation": jnp.array(0.0)}}
    tx = jaxq.optim.accumulate(jaxq.optim.partition(optax.sgd(1.0)), 2)
    state = tx.init(params)
    for found, g in (([3.0, 0.5], 2.0), ([2.0, 4.0], 4.0)):
        change = {"w": jnp.full(2, g), "s": {"channel": 1 - jnp.array(found), "deviation": jnp.array(-found[0])}}
        updates, state = tx.update(change, state, params)
    moved = cast(Any, optax.apply_updates(params, updates))
    np.testing.assert_allclose(moved["w"], [-3.0, -3.0])
    np.testing.assert_allclose(moved["s"]["channel"], [3.0, 4.0])
    np.testing.assert_allclose(moved["s"]["deviation"], 3.0)
    with pytest.raises(ValueError, match="1 or more"):
        jaxq.optim.accumulate(optax.sgd(1.0), 0)


def test_devices_combine_by_mean_and_maximum():
    state = {"channel": jnp.array([1.0, 2.0]), "deviation": jnp.array([0.0, 0.0])}
    change = {"w": jnp.array([2.0, 4.0]), "s": {k: v - jnp.array([5.0, 3.0]) for k, v in state.items()}}
    found = jax.vmap(lambda g: combine_gradients(g, "data"), axis_name="data")(change)
    np.testing.assert_allclose(found["w"], [3.0, 3.0])
    np.testing.assert_allclose(found["s"]["channel"], [-4.0, -4.0])


def test_int8_takes_part_in_the_order_of_the_batch():
    """Permuting the examples permutes y, and leaves every integer of a matrix product's forward pass."""
    order = np.array([2, 0, 1])
    made = jaxq.int8.training(lambda w, x: x @ w, NEAREST, W, X)
    np.testing.assert_array_equal(made.apply(W, {}, X)[order], made.apply(W, {}, X[order]))
