"""Dynamic range: float activations that kernels quantize by the range that they see, integer for integer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import RecipeError, TargetError
from jaxq.export.evaluate.kernels import floats, hybrid
from jaxq.export.evaluate.load import Loaded
from jaxq.export.evaluate.program import evaluate
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Option, Program, Quantization, Tensor
from jaxq.export.runtimes import litert
from jaxq.numerics import dynamic_range
from tests.test_precision import Mixed, exported, kinds
from tests.zoo import examples

BOTH = ("xnnpack", "reference")
F32 = np.float32


# ---------------------------------------------------------------- the integers of an activation


def reciprocal(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """XNNPACK's float32 steps in numpy: integers without the zero point, and scales."""
    low, high = np.minimum(rows.min(1), F32(0)), np.maximum(rows.max(1), F32(0))
    flat = low == high
    m = np.where(flat, F32(1), F32(255) / np.where(flat, F32(1), high - low))
    from_low, from_high = low * m, high * m
    nearer = (F32(-128) + from_low) + (F32(127) + from_high) > 0
    zero = np.rint(np.clip(np.where(nearer, F32(-128) - from_low, F32(127) - from_high), -128, 127))
    return np.clip(np.rint(rows * m[:, None]) + zero[:, None], -128, 127) - zero[:, None], F32(1) / m


def away(x: np.ndarray) -> np.ndarray:
    whole = np.trunc(x)
    return whole + np.where(np.abs(x - whole) >= 0.5, np.sign(x), 0)


def in_float64(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """TFLite's AsymmetricQuantizeFloats, its zero point in float64."""
    low, high = np.minimum(rows.min(1), F32(0)), np.maximum(rows.max(1), F32(0))
    flat = low == high
    step = np.where(flat, F32(255), high - low).astype(np.float64) / 255.0
    below, above = low.astype(np.float64) / step, high.astype(np.float64) / step
    zero = np.where(128 + np.abs(below) < 127 + np.abs(above), -128 - below, 127 - above)
    zero = np.where(flat, 0.0, np.clip(away(zero), -128, 127))[:, None]
    scale = step.astype(F32)
    inverse = (1.0 / scale.astype(np.float64)).astype(F32)[:, None]
    return np.clip(away(rows * inverse) + zero, -128, 127) - zero, scale


def symmetric(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """TFLite's SymmetricQuantizeFloats."""
    bound = np.abs(rows).max(1)
    safe = np.where(bound == 0, F32(127), bound)
    return np.clip(away(rows * (F32(127) / safe)[:, None]), -127, 127), safe / F32(127)


def random_rows(count: int, size: int = 16) -> np.ndarray:
    """Rows of any width, of one sign, with an outlier, and with ends whose zero point is a tie: exact, or as float64
    sees it; the first is zeros.
    """
    rng, kind = np.random.default_rng(0), np.arange(count) % 6
    rows = rng.normal(size=(count, size)) * np.exp(rng.uniform(-30, 30, (count, 1)))
    rows[kind == 1], rows[kind == 2] = np.abs(rows[kind == 1]), -np.abs(rows[kind == 2])
    rows[kind == 3, 0] *= 1e6
    odd, unit = 2 * rng.integers(0, 255, count) + 1, rng.integers(1, 2**14, count)
    low, high = np.where(kind == 4, [-odd * unit, (510 - odd) * unit], np.exp(rng.uniform(-5, 5, count)) * [[-1], [1]])
    rows[kind >= 4] = rng.uniform(low[:, None], high[:, None], rows.shape)[kind >= 4]
    rows[kind >= 4, :2] = np.stack([low, high], 1)[kind >= 4]
    rows[0] = 0
    return rows.astype(F32)


WAYS: dict[str, tuple[Callable[..., Any], Callable[..., Any]]] = {
    "by reciprocal": (dynamic_range.by_reciprocal, reciprocal),
    "asymmetric": (dynamic_range.asymmetric, in_float64),
    "symmetric": (dynamic_range.symmetric, symmetric),
}


@pytest.mark.parametrize("name", WAYS)
def test_the_integers_are_the_kernels(name: str) -> None:
    ours, wanted = WAYS[name]
    rows = random_rows(60_000)
    found, (q, scale) = jax.jit(lambda x: ours(x, (1,)))(rows), wanted(rows)
    assert int((np.asarray(found.q) != q).sum()) == 0
    assert int((np.asarray(found.scale)[:, 0] != scale).sum()) == 0
    assert int((np.abs(q) > 255).sum()) == 0


def test_the_gradient_passes_straight_through() -> None:
    x = jnp.asarray(random_rows(6)[1:3])
    for ours, _ in WAYS.values():
        held, pull = jax.vjp(lambda x, f=ours: f(x, (1,)).q * f(x, (1,)).scale, x)
        np.testing.assert_allclose(pull(jnp.ones_like(held))[0], jnp.ones_like(x), rtol=1e-6)


# ---------------------------------------------------------------- operators


def program(
    kind: str,
    x: tuple[int, ...],
    w: tuple[int, ...],
    y: tuple[int, ...],
    scales: int | None = None,
    dtype: str = "int8",
    bias: bool = True,
    **options: Option,
) -> Program:
    """One operator with random weights of this shape; `scales` 1 gives one to all channels, 0 equal ones."""
    rng, axis = np.random.default_rng(1), 3 if kind == "DEPTHWISE_CONV_2D" else 0
    largest = 127 if dtype == "int8" else 7
    q = rng.integers(-largest, largest + 1, w).astype(np.int8)
    s = np.exp(rng.uniform(-8, -3, 1 if scales == 1 else w[axis])).astype(F32)
    s = np.full_like(s, s[0]) if scales == 0 else s
    tensors = [Tensor("x", x, "float32"), Tensor("w", w, dtype, Quantization(s, np.zeros(s.size, np.int64), axis), q)]
    tensors += [Tensor("b", (w[axis],), "float32", None, rng.normal(size=w[axis]).astype(F32))] * bias
    op = Operator(kind, tuple(range(len(tensors))), (len(tensors),), options, 12 if kind == "FULLY_CONNECTED" else 5)
    return Program((*tensors, Tensor("y", y, "float32")), (op,), (0,), op.outputs)


def image(kind: str, x: tuple[int, ...], w: tuple[int, ...], y: tuple[int, ...], **more: Any) -> Program:
    options = {"stride_h": 1, "stride_w": 1, "dilation_h_factor": 1, "dilation_w_factor": 1, "padding": "SAME"}
    return program(kind, x, w, y, **(options | more))


DW = {"depth_multiplier": 1}
CASES: dict[str, Program] = {
    "dense": program("FULLY_CONNECTED", (5, 64), (33, 64), (5, 33)),
    "dense, asymmetric": program("FULLY_CONNECTED", (5, 300), (7, 300), (5, 7), asymmetric_quantize_inputs=True),
    "dense, three axes": program("FULLY_CONNECTED", (1, 5, 64), (9, 64), (1, 5, 9), keep_num_dims=True),
    "dense, one scale": program("FULLY_CONNECTED", (5, 30), (7, 30), (5, 7), 1, fused_activation_function="RELU"),
    "dense, no bias": program("FULLY_CONNECTED", (5, 30), (7, 30), (5, 7), bias=False),
    "dense, int4": program("FULLY_CONNECTED", (5, 64), (9, 64), (5, 9), dtype="int4"),
    "dense, int4, odd": program("FULLY_CONNECTED", (5, 63), (9, 63), (5, 9), dtype="int4"),
    "conv": image("CONV_2D", (2, 9, 8, 5), (6, 3, 3, 5), (2, 9, 8, 6)),
    "conv, strided": image("CONV_2D", (2, 9, 8, 5), (6, 3, 2, 5), (2, 5, 4, 6), stride_h=2, stride_w=2),
    "conv, dilated": image(
        "CONV_2D", (2, 9, 8, 5), (6, 3, 3, 5), (2, 5, 4, 6), dilation_h_factor=2, dilation_w_factor=2, padding="VALID"
    ),
    "conv, groups": image("CONV_2D", (2, 9, 8, 6), (6, 3, 3, 3), (2, 9, 8, 6), fused_activation_function="RELU6"),
    "conv, one scale": image("CONV_2D", (2, 9, 8, 5), (6, 3, 3, 5), (2, 9, 8, 6), scales=1),
    "conv, equal scales": image("CONV_2D", (2, 9, 8, 5), (6, 3, 3, 5), (2, 9, 8, 6), scales=0),
    "conv, one tap": image("CONV_2D", (2, 9, 8, 5), (6, 1, 1, 5), (2, 9, 8, 6)),
    "conv, one tap, strided": image("CONV_2D", (2, 9, 8, 5), (6, 1, 1, 5), (2, 5, 4, 6), stride_h=2, stride_w=2),
    "conv, one tap, one channel": image("CONV_2D", (2, 9, 8, 1), (1, 1, 1, 1), (2, 9, 8, 1)),
    "conv, int4": image("CONV_2D", (2, 9, 8, 6), (6, 3, 3, 6), (2, 9, 8, 6), dtype="int4"),
    "depthwise": image("DEPTHWISE_CONV_2D", (2, 9, 8, 11), (1, 3, 3, 11), (2, 9, 8, 11), **DW),
    "depthwise, doubled": image("DEPTHWISE_CONV_2D", (2, 9, 8, 5), (1, 3, 3, 10), (2, 9, 8, 10), depth_multiplier=2),
    "depthwise, strided": image(
        "DEPTHWISE_CONV_2D", (2, 9, 8, 4), (1, 3, 3, 4), (2, 5, 4, 4), stride_h=2, stride_w=2, **DW
    ),
}


def inputs(shape: tuple[int, ...]) -> list[np.ndarray]:
    """Normal numbers, numbers of one sign, numbers up to both ends of [-1, 1], and an example of zeros."""
    x = np.random.default_rng(2).normal(size=shape).astype(F32)
    ends = np.tanh(3 * x)
    ends.reshape(len(x), -1)[:, :2] = -1, 1
    zeros = x.copy()
    zeros[0] = 0
    return [x, np.abs(x), ends.astype(F32), zeros]


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_litert_s_sums(name: str) -> None:
    """Both families, to 1e-6 of the largest number: less than the step of any sum, so the integers are equal."""
    case = CASES[name]
    data, w = write(case), case.tensors[1].quantization
    assert w is not None
    for family in BOTH:
        ours = jax.jit(evaluate(case, family))
        for x in inputs(case.tensors[0].shape):
            wanted, found = litert.run(data, [x], family)[0], np.asarray(ours(x)[0])
            gap = float(np.max(np.abs(found - wanted)))
            assert gap <= 1e-6 * float(np.max(np.abs(wanted)))
            least = float(np.min(np.where(x == 0, np.inf, np.abs(x)).max())) / 255 * float(w.scale.min())
            assert gap < least or name.startswith("conv, one tap")


def test_a_loaded_operator_has_a_gradient() -> None:
    """That of the float sum at the dequantized weights."""
    case = CASES["conv"]
    x, w = jnp.asarray(inputs(case.tensors[0].shape)[0]), case.tensors[1]
    weights = floats.dequantized(jnp.asarray(w.data), w)

    def real(x: jax.Array) -> jax.Array:
        return jax.lax.conv_general_dilated(x, weights, (1, 1), "SAME", dimension_numbers=("NHWC", "OHWI", "NHWC"))

    pulls = [jax.vjp(f, x) for f in (lambda x: Loaded(case).real(x)[0], real)]
    along = jnp.sin(jnp.arange(pulls[0][0].size)).reshape(pulls[0][0].shape)
    np.testing.assert_allclose(*(pull(along)[0] for _, pull in pulls), rtol=1e-3, atol=1e-5)


# ---------------------------------------------------------------- models


ALIKE = {"weights": {"bits": 8}, "activations": {"bits": 32, "dynamic": True}, "input": "float32", "output": "float32"}
EVERY = {**ALIKE, "rules": [{"match": "*/kernel", "weight_bits": 8}]}  # also the small kernels of these models


def test_a_model_computes_what_was_trained() -> None:
    """Every op on the runtime's numbers, the training forward among them; each as LiteRT's XNNPACK quantizes it."""
    qmodel, artifact = exported(EVERY)
    assert artifact.certificate is not None and artifact.certificate.ok, str(artifact.certificate)
    assert artifact.certificate.simulation is not None and artifact.certificate.simulation.floats > 10_000
    assert "numbers of float32 operators (to 1e-05) differ" in str(artifact.certificate)
    assert {k: (dtype, version) for k, (_, dtype, version) in kinds(artifact).items()} == {
        **dict.fromkeys(("wide/kernel", "point/kernel", "odd/kernel"), ("int8", 5)),
        **dict.fromkeys(("grouped/kernel", "depthwise/kernel"), ("int8", 6)),
        "head/kernel": ("int8", 12),
    }
    assert all(
        hybrid.is_hybrid(op, artifact.program.tensors) == (op.kind != "MEAN") for op in artifact.program.operators
    )
    text = str(qmodel.plan)
    scheme = "int8, per channel (axis 3), symmetric, scale = max abs(w) / 127 at each step"
    assert f"point/kernel: {scheme}; its input is quantized at run time\n" in text
    assert text.endswith("weights are stored in 8 bits; activations are quantized at run time")
    x = examples((16, 16, 3), 2)[:8]
    np.testing.assert_allclose(artifact.run(x)[0], np.asarray(qmodel(x)), atol=2e-3)


def test_a_rule_leaves_an_op_in_floats() -> None:
    _, artifact = exported({**EVERY, "rules": [*EVERY["rules"], {"match": "head/*", "float": True}]})
    assert artifact.certificate is not None and artifact.certificate.ok
    widened = [op for op in artifact.program.operators if op.kind == "DEQUANTIZE"]
    assert [artifact.program.tensors[op.inputs[0]].name for op in widened] == ["head/kernel"]


class Sizes(nnx.Module):
    """Kernels of 1,023 and of 1,024 elements."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.small, self.large = nnx.Linear(33, 31, rngs=rngs), nnx.Linear(32, 32, rngs=rngs)

    def __call__(self, x: jax.Array, y: jax.Array) -> Any:
        return self.small(x), self.large(y)


@pytest.mark.parametrize(
    ("rules", "stored"),
    [
        ([], {"large/kernel"}),
        ([{"match": "small/*", "weight_bits": 8}], {"small/kernel", "large/kernel"}),
        ([{"match": "large/*", "weight_bits": 32}], set()),
    ],
)
def test_small_weights_stay_in_floats_as_tflite_converter_leaves_them(rules: list, stored: set[str]) -> None:
    """`weights_min_num_elements` of TFLite's quantizer is 1,024; a rule says otherwise of a site."""
    x, y = (np.random.default_rng(0).normal(size=(4, n)).astype(F32) for n in (33, 32))
    qmodel = jaxq.quantize(Sizes(nnx.Rngs(0)), {**ALIKE, "rules": rules}, x[:1], y[:1])
    artifact = jaxq.export.to_tflite(qmodel, verify=(x, y), progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    types = {t.name: t.dtype for t in artifact.program.tensors if t.name in ("small/kernel", "large/kernel")}
    assert types == {name: "int8" if name in stored else "float32" for name in types} and len(types) == 2
    assert not any(op.kind == "DEQUANTIZE" for op in artifact.program.operators)


def test_weights_of_32_bits_beside_integer_activations_are_refused() -> None:
    with pytest.raises(RecipeError, match="asks for weights of 32 bits, and activations are integers of 8. To run the"):
        jaxq.quantize(
            Mixed(nnx.Rngs(0)), {"rules": [{"match": "head/*", "weight_bits": 32}]}, examples((16, 16, 3), 2)[:1]
        )


def test_training_moves_weights_through_what_the_device_quantizes() -> None:
    x = examples((16, 16, 3), 2)[:4]
    recipes = {"dynamic": EVERY, "float32": "float32"}
    models = {name: jaxq.quantize(Mixed(nnx.Rngs(0)), r, x[:1]) for name, r in recipes.items()}
    gradients = {r: nnx.grad(lambda m: jnp.sum(jnp.square(m(x))))(m) for r, m in models.items()}
    ours, wanted = (jnp.concatenate([jnp.ravel(a) for a in jax.tree.leaves(g)]) for g in gradients.values())
    assert float(jnp.max(jnp.abs(ours - wanted))) > 0
    assert float(ours @ wanted / jnp.sqrt((ours @ ours) * (wanted @ wanted))) > 0.99


def test_what_dynamic_range_cannot_do_is_said() -> None:
    x = examples((16, 16, 3), 2)[:1]
    with pytest.raises(RecipeError, match=r"activations have 8 bits, weights 8\. Set activations\.bits = 32"):
        jaxq.quantize(Mixed(nnx.Rngs(0)), {"activations": {"dynamic": True}}, x)
    recipe = {"target": "tflm", "input": "float32", "output": "float32", "activations": {"bits": 32, "dynamic": True}}
    with pytest.raises(TargetError, match="TensorFlow Lite for Microcontrollers computes integers only"):
        jaxq.export.to_tflite(jaxq.quantize(Mixed(nnx.Rngs(0)), recipe, x), progress=False)
