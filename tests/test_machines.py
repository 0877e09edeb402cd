"""Kernels that are other code on another machine: their arithmetic, by numbers of emulated Arm processors and by int64.

`tests/golden/aarch64.npz` holds what LiteRT computes on an emulated Cortex-A76, written by `tests/arm64/golden.py`.
"""

from __future__ import annotations

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxq
from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels.machine import MACHINES, machine_named, this_machine
from jaxq.export.evaluate.kernels.xnnpack import BY_MACHINE, differs_by_machine, kernels
from jaxq.export.evaluate.program import evaluate
from jaxq.export.flatbuffer.read import read
from jaxq.numerics.fixed_point import rescale_half_up, rescale_once

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
    differs = differs_by_machine(program.operators[0], program.tensors)
    assert bool((computed(name, "x86_64") != GOLDEN[f"{name}:out"]).any()) == differs
    assert differs != name.endswith("everywhere")


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
