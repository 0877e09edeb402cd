"""Kernels that are other code on another machine: their arithmetic, by numbers of emulated Arm processors and by int64.

`tests/golden/aarch64.npz` holds what LiteRT computes on an emulated Cortex-A76, written by `tests/arm64/golden.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.machine import MACHINES, machine_named, this_machine
from jaxq.export.evaluate.kernels.xnnpack import BY_MACHINE, differs, kernels
from jaxq.export.evaluate.op_by_op import OperatorByOperator
from jaxq.export.evaluate.program import evaluate
from jaxq.export.flatbuffer.read import read
from jaxq.graph import Op
from jaxq.numerics.fixed_point import rescale_half_up, rescale_once
from jaxq.ops import step_of
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.precision import unweighted_arithmetic
from jaxq.plan.recipe import SHIPPED
from tests.zoo import proof_of

GOLDEN = np.load(Path(__file__).parent / "golden" / "aarch64.npz")
NAMES = sorted({key.split(":")[0] for key in GOLDEN.files})


@functools.cache
def computed(name: str, machine: str) -> np.ndarray:
    program = read(GOLDEN[f"{name}:model"].tobytes())
    inputs = [GOLDEN[f"{name}:in{i}"] for i in range(len(program.inputs))]
    (found,) = jax.jit(evaluate(program, machine=machine))(*inputs)
    return np.asarray(found)


@pytest.mark.parametrize("name", NAMES)
def test_every_integer_of_an_emulated_arm_chip(name: str) -> None:
    wanted = GOLDEN[f"{name}:out"]
    assert computed(name, "aarch64").shape == wanted.shape
    assert int((computed(name, "aarch64") != wanted).sum()) == 0
    assert wanted.size >= 1000


@pytest.mark.parametrize("name", NAMES)
def test_x86_has_other_integers_where_the_table_says_so(name: str) -> None:
    """The golden numbers tell the two machines apart, so that a kernel of the wrong one fails."""
    program = read(GOLDEN[f"{name}:model"].tobytes())
    apart = differs(program.operators[0], program.tensors, MACHINES["aarch64"], MACHINES["x86_64"])
    assert bool((computed(name, "x86_64") != GOLDEN[f"{name}:out"]).any()) == apart
    assert apart != name.endswith("everywhere")


@pytest.mark.parametrize("name", NAMES)
def test_readings_share_the_operators_that_machines_compute_alike(name: str) -> None:
    program, steps = read(GOLDEN[f"{name}:model"].tobytes()), {}
    inputs = [GOLDEN[f"{name}:in{i}"] for i in range(len(program.inputs))]
    OperatorByOperator(program, machine="x86_64", steps=steps)(*inputs)
    before = len(steps)
    found = OperatorByOperator(program, machine="aarch64", steps=steps)(*inputs)
    np.testing.assert_array_equal(found[program.outputs[0]], GOLDEN[f"{name}:out"])
    assert len(steps) == before + (not name.endswith("everywhere"))


@pytest.mark.parametrize("shift", [-31, -30, -17, -2, -1, 0, 1, 7])
def test_rescale_once_is_one_rounding_of_the_64_bit_product(shift: int) -> None:
    """ruy's apply_multiplier.cc, in Python's integers."""
    rng = np.random.default_rng(shift + 31)
    largest = 2**31 - 1 if shift <= 0 else 2**20
    x = np.concatenate([rng.integers(-largest, largest, 500), [-largest, -1, 0, 1, largest]])
    q = np.concatenate([rng.integers(2**30, 2**31, 503), [2**30, 2**31 - 1]])
    got = rescale_once(jnp.asarray(x, jnp.int32), jnp.asarray(q, jnp.int32), jnp.int32(shift))
    wanted = [(int(a) * int(b) + (1 << (30 - shift))) >> (31 - shift) for a, b in zip(x, q, strict=True)]
    assert np.asarray(got).tolist() == wanted


def test_one_rounding_is_not_two() -> None:
    x = jnp.arange(-500, 500, dtype=jnp.int32)
    once, twice = (f(x, jnp.int32(1431655765), jnp.int32(-3)) for f in (rescale_once, rescale_half_up))
    assert bool((once != twice).any())
    assert int(jnp.abs(once - twice).max()) == 1


def test_only_named_kinds_depend_on_the_machine() -> None:
    arm, x86 = (kernels(MACHINES[name]) for name in ("aarch64", "x86_64"))
    assert {kind for kind in arm if arm[kind] is not x86[kind]} == set(BY_MACHINE)


def test_machines_are_named() -> None:
    assert this_machine() in MACHINES
    with pytest.raises(ExportError, match="No machine 'riscv64' is modelled. Machines: aarch64, wasm32, x86_64."):
        machine_named("riscv64")


def test_load_takes_a_machine(tmp_path: Path) -> None:
    name = next(n for n in NAMES if not n.endswith("everywhere"))
    path = tmp_path / "one.tflite"
    path.write_bytes(GOLDEN[f"{name}:model"].tobytes())
    x, wanted = GOLDEN[f"{name}:in0"], GOLDEN[f"{name}:out"]
    assert (np.asarray(jaxq.load(path)(x)[0]) == wanted).all()
    x86 = jaxq.load(path, machine="x86_64")
    assert (np.asarray(x86(x)[0]) != wanted).any()
    assert (np.asarray(x86(x, machine="aarch64")[0]) == wanted).all()
    with pytest.raises(ExportError, match="No machine 'arm'"):
        jaxq.load(path, machine="arm")


# --- training follows the target's machine --------------------------------------------------------------------------


class Small(nnx.Module):
    """A convolution of nine taps and a product of two branches: each kind that training rounds by machine."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.left, self.right = (nnx.Conv(3, 8, (3, 3), rngs=rngs) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.left(x) * self.right(x)


IMAGES = np.random.default_rng(0).uniform(0, 1, (64, 12, 12, 3)).astype(np.float32)


def exported(recipe: str, target: str) -> jaxq.export.Artifact:
    chosen = msgspec.structs.replace(SHIPPED[recipe], target=target)
    qmodel = jaxq.quantize(Small(nnx.Rngs(0)), chosen, IMAGES[:1])
    jaxq.calibrate(qmodel, [IMAGES], progress=False)
    return jaxq.export.to_tflite(qmodel, progress=False)


@pytest.mark.parametrize("recipe", ["int4", "int16x8"])
@pytest.mark.parametrize(
    ("target", "machine", "other"), [("litert", "aarch64", "x86_64"), ("litert-x86", "x86_64", "aarch64")]
)
def test_training_follows_the_target_s_machine(recipe: str, target: str, machine: str, other: str) -> None:
    artifact = exported(recipe, target)
    proof = artifact.verify(IMAGES, families=("xnnpack",), progress=False)
    assert (proof.ok, proof.machine, proof.compared_integers > 10**5) == (True, machine, True), str(proof)
    assert f"training forward, {machine}: 0 of" in str(proof)
    wrong = artifact.verify(IMAGES, families=("xnnpack",), machine=other, progress=False)
    assert not wrong.ok and wrong.simulation_differing > 0 and wrong.differing_integers == {"xnnpack": 0}
    assert f"integers are those of {machine}; other machines differ by a step in some of: CONV_2D 2" in str(
        proof_of(artifact).frozen.plan
    )
    known = proof.as_dict()["machines"]
    assert known[this_machine()] == {"ran": True, "derived_operators": 0, "modelled_operators": {}}
    apart = {"CONV_2D": 2, "MUL": 1} if recipe == "int4" else {"CONV_2D": 2}
    assert known["aarch64" if this_machine() == "x86_64" else "x86_64"]["modelled_operators"] == apart


@pytest.mark.parametrize("machine", ["aarch64", "x86_64"])
def test_products_in_training_are_the_machine_s(machine: str) -> None:
    """Scales of powers of two, where every other product is a tie: 0.5 times 0.25 on a grid of 0.25."""
    a, b = (np.arange(-128, 128, dtype=np.float32)[s] for s in (np.s_[:, None], np.s_[None, :]))
    op = Op("MUL", "mul", (0, 1), (2,), {}, "")
    rule, one = step_of("MUL", unweighted_arithmetic(op, machine, 8)), jnp.float32(0)
    assert rule is not None
    carriers = [Carrier(jnp.asarray(q), jnp.float32(s), one) for q, s in ((a, 0.5), (b, 0.25))]
    steps = jnp.round(rule(op, *carriers, scale=jnp.float32(0.25), zero_point=one))
    exact = a.astype(np.float64) * b / 2
    wanted = np.floor(exact + 0.5) if machine == "aarch64" else np.rint(exact)
    assert (np.asarray(steps) == wanted).all()
