"""Activations that training computes in the device's fixed point: every code, at many scales, against the kernel."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxq.export.evaluate.program import evaluate
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.graph import Op
from jaxq.ops import OPS
from jaxq.ops.integer_ops import Carrier, table

CODES = np.arange(-128, 128, dtype=np.int8).reshape(1, 16, 16)
CASES = {
    "HARD_SWISH": {},
    "LEAKY_RELU": {"alpha": 0.01},
    "LEAKY_RELU of 0.3": {"alpha": 0.3},
    "LEAKY_RELU of 0": {"alpha": 0.0},
}


def kernel(kind: str, options: dict, x: tuple[float, int], y: tuple[float, int]) -> np.ndarray:
    """What the xnnpack family makes of every code."""
    grids = [Quantization(np.array([scale], np.float32), np.array([zero])) for scale, zero in (x, y)]
    tensors = tuple(Tensor(name, CODES.shape, "int8", grid) for name, grid in zip("xy", grids, strict=True))
    operator = Operator(kind, (0,), (1,), options, 1)
    return np.asarray(evaluate(Program(tensors, (operator,), (0,), (1,), ("x",), ("y",), ""), "xnnpack")(CODES)[0])


@jax.jit
def _stored(steps: jax.Array, zero: jax.Array) -> jax.Array:
    return jnp.clip(jnp.round(steps) + zero, -128, 127).astype(jnp.int8)


@pytest.mark.parametrize("case", CASES)
def test_training_computes_the_kernels_integers(case: str) -> None:
    kind, rng = case.partition(" ")[0], np.random.default_rng(0)
    op = Op(kind, kind, (0,), (1,), CASES[case], "")
    rule = OPS[kind].step
    assert rule is not None and not OPS[kind].table
    step = jax.jit(lambda q, s_x, z_x, s_y, z_y: rule(op, Carrier(q, s_x, z_x), scale=s_y, zero_point=z_y))
    for _ in range(60):
        s_x = float(np.float32(10.0 ** rng.uniform(-3, 1)))
        s_y = float(np.float32(s_x * 10.0 ** rng.uniform(-1.5, 1)))
        z_x, z_y = (int(z) for z in rng.integers(-128, 128, 2))
        steps = step(CODES.astype(np.float32) - z_x, *map(np.float32, (s_x, z_x, s_y, z_y)))
        ours = _stored(steps, np.float32(z_y))
        np.testing.assert_array_equal(
            ours, kernel(kind, CASES[case], (s_x, z_x), (s_y, z_y)), f"{s_x} {z_x} {s_y} {z_y}"
        )


def test_a_function_of_whole_numbers_is_divided_by_its_step_once() -> None:
    """A whole number at the end of a range is a tie of its step: 5 / (10 / 255) is 127.5."""
    rounded, op = table(lambda _, x: jnp.round(x)), Op("TABLE", "table", (0,), (1,), {}, "")
    zero = jnp.float32(0)
    step = jax.jit(lambda q, s_x, s_y: rounded(op, Carrier(q, s_x, zero), scale=s_y, zero_point=zero))
    q, s_x = CODES.astype(np.float32), np.float32(1 / 32)
    for bound in range(1, 60):
        s_y = np.float32(2 * bound) / np.float32(255)
        np.testing.assert_array_equal(step(q, s_x, s_y), np.round(q * s_x) / s_y, f"{bound}")
