"""Other widths than 8 bits: how they are stored, planned, refused; the arithmetic of TFLite's builtin kernels."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.export.evaluate.kernels.fixedpoint import quantize_multiplier
from jaxq.export.evaluate.kernels.wide import round_double
from jaxq.export.evaluate.load import Loaded
from jaxq.export.proof.certificate import Tally, new_tallies
from jaxq.export.proof.families import compare_families, readers
from jaxq.numerics.fixed_point import quantized_ratio
from jaxq.ops.builtin_ops import REQUANTIZE
from jaxq.ops.contract import Accumulator
from tests.zoo import ZOO, examples, proof_of

FOUR_BITS = {"weights": {"bits": 4}}


class Mixed(nnx.Module):
    """Each kind of op with weights: a grouped and a depthwise convolution, one tap, an odd number of channels."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.wide = nnx.Conv(3, 8, (3, 3), rngs=rngs)
        self.grouped = nnx.Conv(8, 8, (3, 3), feature_group_count=2, rngs=rngs)
        self.depthwise = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
        self.point, self.odd = nnx.Conv(8, 5, (1, 1), rngs=rngs), nnx.Conv(5, 6, (1, 1), rngs=rngs)
        self.head = nnx.Linear(6, 4, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = jax.nn.relu6(self.wide(x))
        x = jax.nn.relu(self.depthwise(self.grouped(x)))
        x = jax.nn.relu(self.odd(jax.nn.relu6(self.point(x))))
        return self.head(jnp.mean(x, axis=(1, 2)))


def exported(recipe: Any, n: int = 16) -> tuple[Any, jaxq.export.Artifact]:
    x = examples((16, 16, 3), 2)[:n]
    qmodel = jaxq.quantize(Mixed(nnx.Rngs(0)), recipe, x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    return qmodel, jaxq.export.to_tflite(qmodel, verify=x, progress=False)


def kinds(artifact: jaxq.export.Artifact) -> dict[str, tuple[str, str, int]]:
    """By the name of an op's weights: the operator, their type, the operator's version."""
    tensors = artifact.program.tensors
    return {
        tensors[op.inputs[1]].name: (op.kind, tensors[op.inputs[1]].dtype, op.version)
        for op in artifact.program.operators
        if op.kind.endswith(("CONV_2D", "CONNECTED"))
    }


# --- weights of 4 bits --------------------------------------------------------------------------------------


def test_weights_of_4_bits_are_packed_where_there_is_a_kernel() -> None:
    qmodel, artifact = exported(FOUR_BITS)
    assert artifact.certificate is not None and artifact.certificate.ok
    assert kinds(artifact) == {
        "wide/kernel": ("CONV_2D", "int4", 7),
        "grouped/kernel": ("CONV_2D", "int8", 6),
        "depthwise/kernel": ("DEPTHWISE_CONV_2D", "int8", 3),
        "point/kernel": ("FULLY_CONNECTED", "int4", 10),
        "odd/kernel": ("FULLY_CONNECTED", "int4", 10),
        "head/kernel": ("FULLY_CONNECTED", "int4", 10),
    }
    assert all(np.abs(k.q).max() == 7 for k in proof_of(artifact).frozen.kernels.values())
    text = str(qmodel.plan)
    scheme = "int4, per channel (axis {}), symmetric, scale = max abs(w) / 7 at each step"
    slow = "computed by TFLite's builtin kernel, which is slower than XNNPACK's"
    assert f"wide/kernel: {scheme.format(3)}; {slow}\n" in text
    assert f"grouped/kernel: {scheme.format(3)}; stored as int8\n" in text
    assert f"head/kernel: {scheme.format(1)}\n" in text


def test_a_rule_gives_one_layer_its_width() -> None:
    _, artifact = exported({**FOUR_BITS, "rules": [{"match": "wide/*", "weight_bits": 8}]})
    assert kinds(artifact)["wide/kernel"] == ("CONV_2D", "int8", 3)
    assert kinds(artifact)["head/kernel"] == ("FULLY_CONNECTED", "int4", 10)


def test_a_target_without_such_kernels_gets_int8_tensors() -> None:
    _, artifact = exported({**FOUR_BITS, "target": "ethos-u"})
    assert {dtype for _, dtype, _ in kinds(artifact).values()} == {"int8"}
    assert all(np.abs(k.q).max() == 7 for k in proof_of(artifact).frozen.kernels.values())


# --- the arithmetic of builtin kernels ----------------------------------------------------------------------


def multipliers(count: int) -> tuple[np.ndarray, ...]:
    """Triples of float32, random, with few bits, and with quotients next to a power of two."""
    rng = np.random.default_rng(0)
    wide = [np.exp(rng.uniform(-15, 5, count)).astype(np.float32) for _ in range(3)]
    few = [(2.0 ** rng.integers(-10, 3, count) * rng.integers(1, 64, count)).astype(np.float32) for _ in range(3)]
    a = rng.integers(2**22, 2**23, count) * 2 + 1
    b = np.array([pow(int(x), -1, 2**24) for x in a])
    below = [b % 2**24, -b % 2**24]  # a b = 2^24 c +- 1
    near = [(a, x, (a * x - s) // 2**24) for x, s in zip(below, (1, -1), strict=True)]
    exact = [np.concatenate(parts).astype(np.float32) for parts in zip(*near, strict=True)]
    kept = (exact[1] >= 1) & (exact[2] >= 1)
    return tuple(np.concatenate([w, f, e[kept]]) for w, f, e in zip(wide, few, exact, strict=True))


def test_multipliers_are_those_of_float64() -> None:
    a, b, c = multipliers(200_000)
    q, shift = jax.jit(quantized_ratio)(a, b, c)
    wanted_q, wanted_shift = quantize_multiplier(a.astype(np.float64) * b.astype(np.float64) / c.astype(np.float64))
    assert int((np.asarray(q) != wanted_q).sum()) == 0
    assert int((np.asarray(shift) != wanted_shift).sum()) == 0
    assert int((wanted_q == 1 << 30).sum()) > 1000  # rounded up to the next power of two, among others


def test_integer_steps_have_the_gradient_of_the_real_product() -> None:
    accumulator, scales = jnp.array([-700.0, 3.0, 90000.0]), (jnp.float32(0.02), jnp.float32(0.003), jnp.float32(0.07))

    def real(acc: jax.Array, x: jax.Array, w: jax.Array, y: jax.Array) -> jax.Array:
        return acc * (x * w / y)

    def half_up(acc: Any, x: Any, w: Any, y: Any) -> Any:
        return REQUANTIZE["half up"](Accumulator(acc, acc.astype(jnp.int32)), x, w, y)

    for i in range(4):
        ours, wanted = (jax.jacobian(f, argnums=i)(accumulator, *scales) for f in (half_up, real))
        np.testing.assert_allclose(ours, wanted, rtol=1e-5)


@pytest.mark.parametrize("bits", [3, 5, 16])
def test_other_widths_of_weights_are_refused(bits: int) -> None:
    with pytest.raises(jaxq.errors.RecipeError, match="weights.bits"):
        jaxq.quantize(Mixed(nnx.Rngs(0)), {"weights": {"bits": bits}}, examples((16, 16, 3), 2)[:1])


# --- floats -------------------------------------------------------------------------------------------------

FLOATING = ("float32", "float16", "weight-only-int8", "weight-only-int4")


def zoo_artifact(name: str, recipe: Any) -> tuple[Any, jaxq.export.Artifact]:
    case = ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    return case, jaxq.export.to_tflite(qmodel, verify=case.arrays, progress=False)


@pytest.mark.parametrize(
    ("name", "recipe"),
    [*(("separable", r) for r in FLOATING), *((n, "float32") for n in ("bfloat16", "clips", "heads", "parts"))],
)
def test_a_file_of_floats_computes_what_was_trained(name: str, recipe: str) -> None:
    """Every tensor within 1e-5 of its largest number, on both resolvers; no calibration is needed."""
    _, artifact = zoo_artifact(name, recipe)
    assert artifact.certificate is not None and artifact.certificate.ok, str(artifact.certificate)
    assert artifact.certificate.tolerance == 1e-5
    outputs = {artifact.program.tensors[op.outputs[0]].dtype for op in artifact.program.operators}
    assert outputs == {"float32"}


def test_weights_of_a_file_of_floats_are_stored_as_the_recipe_says() -> None:
    wanted = {
        "float32": None,
        "float16": ("float16", 3),
        "weight-only-int8": ("int8", 5),
        "weight-only-int4": ("int4", 6),
    }
    for recipe, stored in wanted.items():
        artifact = zoo_artifact("perceptron", recipe)[1]
        tensors = artifact.program.tensors
        found = {(tensors[o.inputs[0]].dtype, o.version) for o in artifact.program.operators if o.kind == "DEQUANTIZE"}
        assert found == ({stored} if stored else set())


@pytest.mark.parametrize("recipe", FLOATING)
def test_a_file_of_floats_can_be_loaded(recipe: str) -> None:
    """Weights of one scale a channel that a DEQUANTIZE widens; LiteRT does it once, before it runs."""
    case, artifact = zoo_artifact("perceptron", recipe)
    tallies = new_tallies()
    compare_families(artifact.data, artifact.program, case.arrays, readers(artifact.program), tallies)
    assert [(t.total, t.compared, t.floats > 1000) for t in tallies.values()] == [(0, 0, True)] * 2


def test_a_difference_beyond_the_tolerance_is_counted() -> None:
    tally = Tally()
    tally.add("y", np.array([1.0, 2.0, np.nan]), np.array([1.0 + 1e-5, 2.0 + 3e-5, 0.0]), 1e-5)
    assert (tally.total, tally.floats, tally.compared, tally.first) == (2, 3, 0, "y")


def test_weight_only_training_moves_weights_on_their_grid() -> None:
    x = examples((16, 16, 3), 2)[:4]
    qmodel = jaxq.quantize(Mixed(nnx.Rngs(0)), "weight-only-int4", x[:1])
    float_model = jaxq.quantize(Mixed(nnx.Rngs(0)), "float32", x[:1])
    assert float(jnp.max(jnp.abs(qmodel(x) - float_model(x)))) > 1e-3
    gradient = nnx.grad(lambda m: jnp.sum(jnp.square(m(x))))(qmodel)
    assert all(np.any(np.asarray(leaf) != 0.0) for leaf in jax.tree.leaves(gradient))


UNFIT: tuple[tuple[str, Any, str], ...] = (
    ("ends", {"activations": {"bits": 32}}, "in float32, but input is int8 and output is int8"),
    ("weights", {"weights": {"bits": 16}}, "weights of 16 bits are floats, and activations are integers of 8"),
)


@pytest.mark.parametrize(("name", "recipe", "message"), UNFIT, ids=[u[0] for u in UNFIT])
def test_recipes_that_contradict_themselves(name: str, recipe: Any, message: str) -> None:
    with pytest.raises(jaxq.errors.RecipeError, match=message):
        jaxq.quantize(Mixed(nnx.Rngs(0)), recipe, examples((16, 16, 3), 2)[:1])


def test_placed_quantizers_are_refused_in_a_file_of_floats() -> None:
    case = ZOO["placed"]()
    qmodel = jaxq.quantize(case.model, "float32", *case.first(1)[0])
    with pytest.raises(jaxq.errors.ExportError, match="It quantizes, and a file of floats does not"):
        jaxq.export.to_tflite(qmodel, progress=False)


def test_targets_of_integers_refuse_floats() -> None:
    x = examples((16, 16, 3), 2)[:1]
    recipe = {"target": "ethos-u", "input": "float32", "output": "float32", "activations": {"bits": 32}}
    qmodel = jaxq.quantize(Mixed(nnx.Rngs(0)), recipe, x)
    assert "verdict: Arm Ethos-U, any of U55, U65, U85 does not take" in str(qmodel.plan)
    with pytest.raises(jaxq.errors.TargetError, match="Arm Ethos-U, any of U55, U65, U85 computes integers only"):
        jaxq.export.to_tflite(qmodel, progress=False)


# --- activations of 16 bits ---------------------------------------------------------------------------------


def widths(artifact: jaxq.export.Artifact) -> dict[str, str]:
    """The type of every activation that an operator computes."""
    tensors = artifact.program.tensors
    return {tensors[i].name: tensors[i].dtype for op in artifact.program.operators for i in op.outputs}


def test_everything_is_16_bits_and_exact() -> None:
    qmodel, artifact = exported("int16x8")
    assert artifact.certificate is not None and artifact.certificate.ok, str(artifact.certificate)
    assert set(widths(artifact).values()) == {"int16"}
    assert {version for _, _, version in kinds(artifact).values()} == {3, 8, 11}
    assert all(zero == 0 for _, zero in proof_of(artifact).frozen.parameters.values())
    assert artifact.manifest["inputs"][0]["dtype"] == "int16"
    x = examples((16, 16, 3), 2)[:8]
    np.testing.assert_array_equal(Loaded(artifact.program).real(x)[0], np.asarray(qmodel(x)))  # aarch64, the target's


@pytest.mark.slow
def test_sixteen_bits_follow_the_float_model_more_closely() -> None:
    x = examples((16, 16, 3), 2)[:8]
    wanted = np.asarray(Mixed(nnx.Rngs(0))(jnp.asarray(x)))
    errors = [float(np.mean(np.abs(np.asarray(exported(r)[0](x)) - wanted))) for r in ("int16x8", "int8")]
    assert errors[0] < errors[1], errors


def test_rules_mix_widths_and_the_file_converts_between_them() -> None:
    """8 bits widen exactly, 16 are divided by 256; the certificate covers the tensors between."""
    rules = [{"match": "wide/*", "activation_bits": 16}, {"match": "head/*", "activation_bits": 16}]
    qmodel, artifact = exported({"rules": rules})
    assert artifact.certificate is not None and artifact.certificate.ok, str(artifact.certificate)
    found = widths(artifact)
    assert (
        found["input:int16"] == found["wide/kernel:out"] == found["mean:int16"] == found["head/kernel:out"] == "int16"
    )
    assert found["wide/kernel:out:int8"] == found["grouped/kernel:out"] == found["mean"] == "int8"
    assert (
        "wide/kernel:out:int8: int8, per tensor, symmetric, learned range; the integers of wide/kernel:out in 8 bits"
        in str(qmodel.plan)
    )
    scales = proof_of(artifact).frozen.parameters
    assert scales["wide/kernel:out:int8"] == (scales["wide/kernel:out"][0] * np.float32(256), 0)
    assert scales["mean:int16"] == (scales["mean"][0], 0)


def test_functions_keep_their_16_bits_or_compute_in_8() -> None:
    """TANH, LOGISTIC and SOFTMAX have kernels of 16 bits, exact in training too; HARD_SWISH has none."""
    case = ZOO["heads"]()
    qmodel = jaxq.quantize(case.model, "int16x8", *case.first(1)[0])
    jaxq.calibrate(qmodel, case.batches, progress=False)
    artifact = jaxq.export.to_tflite(qmodel, verify=case.arrays, progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    found, simulated = widths(artifact), artifact.certificate.simulation
    assert found["hard_swish"] == "int8" and found["swish/kernel:out"] == "int16" and simulated is not None
    assert {(found[n], simulated.differing[n]) for n in ("tanh", "logistic", "softmax")} == {("int16", 0)}
    assert all(proof_of(artifact).frozen.parameters[n] == (2.0**-15, 0) for n in ("tanh", "logistic", "softmax"))
    assert "tanh: int16, scale 3.05176e-05 and zero point 0 prescribed by TFLite" in str(qmodel.plan)


def test_what_16_bits_cannot_do_is_said() -> None:
    case = ZOO["heads"]()
    message = r"A rule gives hard_swish 16 bits, and hard_swish \(HARD_SWISH, .*computes in 8"
    with pytest.raises(jaxq.errors.PlanError, match=message):
        jaxq.quantize(case.model, {"rules": [{"match": "hard_swish", "activation_bits": 16}]}, *case.first(1)[0])
    with pytest.raises(jaxq.errors.PlanError, match="Coral Edge TPU takes no activations of 16 bits"):
        jaxq.quantize(case.model, {"target": "edgetpu", "activations": {"bits": 16}}, *case.first(1)[0])
    with pytest.raises(jaxq.errors.ExportError, match="has 16 bits, and the recipe's end of the file is uint8"):
        exported({"input": "uint8", "activations": {"bits": 16}})


def test_a_scale_that_litert_takes_for_a_power_of_two_is_refused() -> None:
    """The inputs reach 8.0 exactly, so that a step is 2^-12 (32768 / 32767)."""
    x = np.linspace(-8, 8, 16, dtype=np.float32).reshape(2, 8)
    q = jaxq.quantize(lambda params, x: jnp.tanh(x), "int16x8", {}, x[:1])
    ranges = jaxq.calibrate(q, [x], {}, q.init({}), progress=False)
    with pytest.raises(
        jaxq.errors.ExportError, match=r"within 0\.07 per cent of 2\^-12, where LiteRT has a kernel of its"
    ):
        jaxq.export.to_tflite(q, {}, ranges, progress=False)


def test_rounding_of_float64_by_integers() -> None:
    """Random sums, and those whose product lies within an ulp of a tie."""
    rng = np.random.default_rng(0)
    m = np.exp(rng.uniform(np.log(1e-7), np.log(0.9), 4000))
    near = np.rint((rng.integers(0, 40000, m.size) + 0.5) / m) + rng.integers(-1, 2, m.size)
    acc = np.stack([np.clip(near, 0, 2**31 - 1), rng.integers(0, 2**31, m.size) * (m < 1e-5)]).astype(np.int32)
    acc = np.concatenate([acc, -acc])
    products = acc.astype(np.float64) * m
    wanted = np.sign(products) * np.floor(np.abs(products) + 0.5)
    exact = np.abs(products) < 65536
    got = np.asarray(jax.jit(lambda a: round_double(a, m))(jnp.asarray(acc)))
    assert int((got != wanted)[exact].sum()) == 0
