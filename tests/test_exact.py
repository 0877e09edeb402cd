"""The laws of exactness, on every network of the zoo: the artifact computes what was trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen, nnx
from jax import lax

import jaxq
import jaxq.export
import jaxq.nnx
from jaxq.export.proof.certificate import Certificate
from jaxq.export.runtimes.litert import run
from jaxq.graph import Op
from jaxq.numerics.rounding import carrier_bounds
from jaxq.ops import OPS
from jaxq.ops.integer_ops import Carrier
from jaxq.quantization import bind
from tests.promotion import promoting_updates
from tests.zoo import ZOO, Case, examples, proof_of

RECIPES: dict[str, str | Mapping[str, Any]] = {
    "int8": "int8",
    "int8-ema": "int8-ema",
    "int8-float-io": "int8-float-io",
    "int8-uint8-io": "int8-uint8-io",
    "int16x8": "int16x8",
    "int16x8, int4": {"weights": {"bits": 4}, "rules": [{"match": "right/*", "activation_bits": 16}]},
    "int4": "int4",
    "int4 by rule": {"rules": [{"match": "first/*", "weight_bits": 4}]},
    "int4, learned weights": {"weights": {"bits": 4, "ranges": "learned"}},
    "int4, per-tensor weights": {"weights": {"bits": 4, "per_channel": False}},
    "learned weights": {"weights": {"ranges": "learned"}},
    "per-tensor weights": {"weights": {"per_channel": False}},
    "percentile": {"activations": {"calibration": "percentile", "percentile": 99.0}},
    "symmetric": {"activations": {"symmetric": True}},
}
OTHER_RECIPES = sorted(RECIPES.keys() - {"int8"})

# Networks that between them hold every kind of op: for the laws that cost a compilation each.
FEW = ("heads", "parts", "placed", "separable", "series", "squeeze_excite")
TRAINED = ("branches", "placed", "products", "separable", "squeeze_excite")
TABLES = ("heads", "squeeze_excite")

# Most of the random networks take as long as the named ones together: `make test-all` has them.
LONG = {"random_1", "random_2", "random_3", "random_4", "random_5"}
NETWORKS = [pytest.param(name, marks=[pytest.mark.slow] * (name in LONG)) for name in ZOO]
LONG_TRAINED = {
    ("products", "int16x8"),
    ("separable", "int4, learned weights"),
    ("branches", "int8"),
    ("clips", "int4"),
    ("perceptron", "learned weights"),
}


@dataclasses.dataclass(frozen=True)
class Exported:
    """A network of the zoo, taken all the way."""

    case: Case
    qmodel: Any
    artifact: jaxq.export.Artifact


def calibrated(name: str, recipe: str = "int8") -> tuple[Case, Any]:
    case = ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, RECIPES[recipe], *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return case, qmodel


@functools.cache
def exported(name: str, recipe: str = "int8") -> Exported:
    case, qmodel = calibrated(name, recipe)
    return Exported(case, qmodel, jaxq.export.to_tflite(qmodel, progress=False))


@functools.cache
def certified(name: str, recipe: str = "int8") -> Certificate:
    found = exported(name, recipe)
    return found.artifact.verify(found.case.arrays, progress=False)


def assert_exact(certificate: Certificate) -> None:
    assert certificate.differing_integers == {"xnnpack": 0, "reference": 0}, str(certificate)
    assert certificate.simulation_differing == 0, str(certificate)
    assert certificate.ok


def called(qmodel: Any, case: Case, n: int = 64) -> list[np.ndarray]:
    args, kwargs = case.first(n)
    return [np.asarray(y) for y in jax.tree.leaves(qmodel(*args, **kwargs))]


# --- law 2: exactness ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_every_integer_is_equal(name: str) -> None:
    assert_exact(certified(name))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_certificate_covers_every_tensor(name: str) -> None:
    plan, program = exported(name).qmodel.plan, exported(name).artifact.program
    certificate = certified(name)
    written = {program.tensors[i].name for op in program.operators for i in op.outputs}
    assert certificate.simulation is not None
    for tally in certificate.families.values():
        assert written <= set(tally.differing)
    aliases = {
        plan.graph.site_names[op.outputs[0]] for op in plan.graph.ops if op.kind in {"FAKE_QUANT", "STOP_GRADIENT"}
    }
    activations = {plan.graph.site_names[v] for v in plan.graph.activations}
    assert activations - aliases <= set(certificate.simulation.differing)
    assert certificate.examples == 64


@pytest.mark.parametrize("name", TABLES)
def test_table_ops_are_within_one_step_of_their_kernel(name: str) -> None:
    found = exported(name)
    integers, file_inputs = proof_of(found.artifact).forward(found.case.arrays)
    ours = jaxq.export.evaluate(found.artifact.program, "xnnpack", every_tensor=True)(*file_inputs)
    assert isinstance(ours, dict)
    tables = [op for op in found.qmodel.plan.graph.ops if OPS[op.kind].table]
    assert tables
    for op in tables:
        x, y = (
            np.asarray(ours[proof_of(found.artifact).tensor_of[v]], np.float32) for v in (op.inputs[0], op.outputs[0])
        )
        assert np.max(np.abs(simulated_table(found.artifact, op, x) - y)) <= 1.0, op.name
    assert integers.keys() >= {found.qmodel.plan.graph.site_names[op.outputs[0]] for op in tables}


def simulated_table(artifact: jaxq.export.Artifact, op: Op, stored: np.ndarray) -> np.ndarray:
    """What training computes for a table op, given the very integers that the kernel reads."""
    (x_scale, x_zero), (scale, zero) = (
        map(jnp.float32, proof_of(artifact).frozen.of(v)) for v in (op.inputs[0], op.outputs[0])
    )
    step = OPS[op.kind].step
    assert step is not None
    steps = step(op, Carrier(stored - x_zero, x_scale, x_zero), scale=scale, zero_point=zero)
    return np.asarray(jnp.clip(jnp.round(steps), *carrier_bounds(zero)) + zero)


@pytest.mark.parametrize("name", [*(n for n in FEW if n not in TABLES), "bfloat16", "random_0", "two_inputs"])
def test_the_artifact_computes_what_the_model_returns(name: str) -> None:
    """End to end by the manifest alone: quantize by its formula, run LiteRT, dequantize by its formula."""
    found = exported(name)
    names = {"clip": np.clip, "rint": np.rint, "float32": np.float32}
    manifest = found.artifact.manifest
    inputs = [
        eval(entry["quantize"], {**names, "x": x}).astype(entry["dtype"])
        for entry, x in zip(manifest["inputs"], found.case.arrays, strict=True)
    ]
    outputs = run(found.artifact.data, inputs, "xnnpack")
    for entry, q, y in zip(manifest["outputs"], outputs, called(found.qmodel, found.case), strict=True):
        real = eval(entry["dequantize"], {**names, "q": np.asarray(q, np.float32)})
        np.testing.assert_array_equal(jnp.asarray(real).astype(y.dtype), y)


@pytest.mark.parametrize("recipe", OTHER_RECIPES)
def test_every_recipe_is_exact(recipe: str) -> None:
    assert_exact(certified("parts", recipe))


@pytest.mark.parametrize("recipe", ["int8-float-io", "int8-uint8-io"])
def test_recipes_set_the_types_at_both_ends(recipe: str) -> None:
    program = exported("separable", recipe).artifact.program
    wanted = {"int8-float-io": "float32", "int8-uint8-io": "uint8"}[recipe]
    assert {program.tensors[i].dtype for i in (*program.inputs, *program.outputs)} == {wanted}


def test_float_ends_give_the_training_forward_itself() -> None:
    found = exported("separable", "int8-float-io")
    (outputs,) = run(found.artifact.data, found.case.arrays, "xnnpack")
    np.testing.assert_array_equal(outputs, called(found.qmodel, found.case)[0])


def test_symmetric_activations_have_zero_point_0() -> None:
    frozen = proof_of(exported("parts", "symmetric").artifact).frozen
    assert {zero for _, zero in frozen.parameters.values()} == {0}


def test_per_tensor_weights_have_one_scale() -> None:
    frozen = proof_of(exported("parts", "per-tensor weights").artifact).frozen
    assert all(np.ptp(kernel.scale) == 0.0 and kernel.scale.ndim == 1 for kernel in frozen.kernels.values())


# --- exactness after training -------------------------------------------------------------------------------


def train(qmodel: Any, case: Case, steps: int = 4) -> None:
    """A few steps towards a random target, so that scales, zero points and weights are odd numbers."""
    args, kwargs = case.first(32)
    rng = np.random.default_rng(0)
    like: Any = case.model(*args, **kwargs)  # pyright: ignore[reportCallIssue]
    target = jax.tree.map(lambda y: jnp.asarray(rng.normal(0.0, 1.0, y.shape), y.dtype), like)
    optimizer = nnx.Optimizer(qmodel, promoting_updates(jaxq.optim.partition(optax.adam(1e-3))), wrt=nnx.Param)

    @nnx.jit
    def step(model: Any, optimizer: nnx.Optimizer) -> None:
        def loss(model: Any) -> jax.Array:
            errors = jax.tree.map(lambda y, t: jnp.mean(jnp.square(y - t)), model(*args, **kwargs), target)
            return jnp.sum(jnp.stack(jax.tree.leaves(errors)))

        optimizer.update(model, nnx.grad(loss)(model))

    for _ in range(steps):
        step(qmodel, optimizer)


def scales(qmodel: Any) -> dict[str, np.ndarray]:
    return {name: np.asarray(r["scale"]) for name, r in qmodel.pure_ranges().items()}


TRAINED_AS = [
    *((name, "int8") for name in TRAINED),
    ("separable", "int8-ema"),
    ("perceptron", "learned weights"),
    ("clips", "int4"),
    ("products", "int16x8"),
    ("separable", "int4, learned weights"),
]


@pytest.mark.parametrize(
    ("name", "recipe"), [pytest.param(*p, marks=[pytest.mark.slow] * (p in LONG_TRAINED)) for p in TRAINED_AS]
)
def test_every_integer_is_equal_after_training(name: str, recipe: str) -> None:
    case, qmodel = calibrated(name, recipe)
    weights = nnx.All(nnx.Param, nnx.Not(jaxq.nnx.Range))
    before, kernels = scales(qmodel), jax.tree.leaves(nnx.state(qmodel.model, weights))
    train(qmodel, case)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    assert_exact(artifact.verify(case.arrays, progress=False))
    moved = [name for name, scale in scales(qmodel).items() if np.all(scale != before[name])]
    trained = [
        name for name, group in qmodel.plan.groups.items() if name in before and group.scheme.ranges == "learned"
    ]
    assert set(trained) <= set(moved)
    after = jax.tree.leaves(nnx.state(qmodel.model, weights))
    assert all(np.any(np.asarray(a) != np.asarray(b)) for a, b in zip(kernels, after, strict=True))


# --- law 8: invariance --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FEW)
def test_outputs_do_not_depend_on_the_batch_size(name: str) -> None:
    found = exported(name)
    whole = called(found.qmodel, found.case, 32)
    for n in (1, 7):
        for part, all_of_them in zip(called(found.qmodel, found.case, n), whole, strict=True):
            np.testing.assert_array_equal(part, all_of_them[:n])


class NnxNet(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(3, 6, (3, 3), strides=2, use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, use_running_average=True, rngs=rngs)
        self.depthwise = nnx.Conv(6, 6, (3, 3), feature_group_count=6, rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu(self.norm(self.conv(x)))
        x = x + self.depthwise(x)
        return self.head(jnp.mean(x, axis=(1, 2)))


class LinenNet(linen.Module):
    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        x = linen.Conv(6, (3, 3), strides=2, use_bias=False, name="conv")(x)
        x = linen.relu(linen.BatchNorm(use_running_average=True, name="norm")(x))
        x = x + linen.Conv(6, (3, 3), feature_group_count=6, name="depthwise")(x)
        return linen.Dense(4, name="head")(jnp.mean(x, axis=(1, 2)))


def function_net(params: Any, x: jax.Array) -> jax.Array:
    def conv(x: jax.Array, layer: Any, stride: int, groups: int = 1) -> jax.Array:
        numbers = ("NHWC", "HWIO", "NHWC")
        y = lax.conv_general_dilated(
            x,
            layer["kernel"],
            (stride, stride),
            "SAME",
            dimension_numbers=numbers,
            feature_group_count=groups,
        )
        return y + layer["bias"] if "bias" in layer else y

    norm = params["norm"]
    x = conv(x, params["conv"], 2) - norm["mean"]
    x = jax.nn.relu(x * (lax.rsqrt(norm["var"] + 1e-5) * norm["scale"]) + norm["bias"])
    x = x + conv(x, params["depthwise"], 1, 6)
    return jnp.mean(x, axis=(1, 2)) @ params["head"]["kernel"] + params["head"]["bias"]


STATISTICS = frozenset({"mean", "var"})


def three_ways(x: np.ndarray) -> dict[str, tuple[str, jaxq.export.Artifact]]:
    """One network as an NNX module, a Linen module and a function: each graph's text and artifact."""
    model = NnxNet(nnx.Rngs(5))
    nnx.update(model.norm, {"mean": jnp.linspace(-0.4, 0.3, 6), "scale": jnp.linspace(-1.0, 1.5, 6)})
    params = jax.tree.map(jnp.array, nnx.to_pure_dict(nnx.state(model)))
    made = {}

    qmodel = jaxq.quantize(model, "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    made["nnx"] = str(qmodel.plan.graph), jaxq.export.to_tflite(qmodel, progress=False)

    qmodule = jaxq.quantize(LinenNet(), "int8", x[:1])
    variables = {
        **qmodule.init(jax.random.key(0), x[:1]),
        "params": {m: {k: v for k, v in p.items() if k not in STATISTICS} for m, p in params.items()},
        "batch_stats": {"norm": {k: params["norm"][k] for k in sorted(STATISTICS)}},
    }
    variables = jaxq.calibrate(qmodule, [x], variables, progress=False)
    text = str(bind(qmodule, variables).captured().plan.graph)
    made["linen"] = text, jaxq.export.to_tflite(qmodule, variables, progress=False)

    qfunction = jaxq.quantize(function_net, "int8", params, x[:1])
    ranges = jaxq.calibrate(qfunction, [x], params, qfunction.init(params, x[:1]), progress=False)
    made["function"] = (
        str(qfunction.plan.graph),
        jaxq.export.to_tflite(qfunction, params, ranges, progress=False),
    )
    return made


def test_one_network_written_three_ways_is_one_artifact() -> None:
    made = three_ways(examples((16, 16, 3), 3))
    (nnx_text, nnx_artifact), (linen_text, linen_artifact), (function_text, function_artifact) = made.values()
    assert linen_text == nnx_text
    assert function_text == nnx_text
    assert linen_artifact.data == nnx_artifact.data
    assert function_artifact.data == nnx_artifact.data


# --- law 7: determinism -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["placed", "separable"])
def test_the_same_inputs_give_the_same_bytes(name: str) -> None:
    first = exported(name).artifact
    _, again = calibrated(name)
    assert jaxq.export.to_tflite(again, progress=False).data == first.data
    assert jaxq.export.to_tflite(exported(name).qmodel, progress=False).manifest == first.manifest


# --- laws 1 and 4: identity, folding ------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETWORKS)
def test_the_model_is_unchanged(name: str) -> None:
    untouched, found = ZOO[name](), exported(name)
    assert found.qmodel.model is found.case.model
    jax.tree.map(np.testing.assert_array_equal, nnx.state(untouched.model), nnx.state(found.qmodel.model))
    args, kwargs = untouched.first(8)
    before, after = untouched.model(*args, **kwargs), found.qmodel.model(*args, **kwargs)  # pyright: ignore[reportCallIssue]
    jax.tree.map(np.testing.assert_array_equal, before, after)


@pytest.mark.parametrize("name", [n for n in ZOO if n not in {"bfloat16", "placed", *LONG}])
def test_folding_keeps_the_float_model(name: str) -> None:
    """The folded graph in float against the model, relative to the largest output."""
    found = exported(name)
    args, kwargs = jax.tree.map(jnp.asarray, found.case.first(16))
    captured = found.qmodel.captured(*args, **kwargs)
    folded = found.qmodel.core.reals(captured, nnx.state(found.qmodel.model), args, kwargs)
    graph = captured.plan.graph
    outputs = [graph.site_names[v] for v in graph.outputs if v in graph.activations]
    for site, y in zip(outputs, jax.tree.leaves(found.case.model(*args, **kwargs)), strict=True):  # pyright: ignore[reportCallIssue]
        np.testing.assert_allclose(folded[site], y, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(y))), err_msg=site)
