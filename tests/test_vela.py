"""Arm's compiler Vela against the table of Ethos-U: what it leaves to the CPU is what the table says."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping

import numpy as np
import pytest

import jaxq
import jaxq.export
from jaxq.errors import ExportError
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Program, Tensor
from jaxq.export.targets import TARGETS, check, macs, vela
from jaxq.recipes import mnist
from tests.target_cases import CPU, ETHOS, ONE_OPERATOR, looked_up, placed
from tests.test_exact import FEW, exported
from tests.test_kernels import (
    conv,
    dense,
    depthwise,
)
from tests.zoo import ZOO

# Programs that Vela 5.2.0 ends on: the targets, and its last words. The table says CPU for all of them.
CRASHES = {
    "status: conv, computed weights": (("ethos-u55", "ethos-u65"), "Non-passthrough operation (Conv2D) could not run"),
    "status: dense, weights of int4": (ETHOS, "ended by signal 8"),
    "moved: look-up of booleans": (("ethos-u55", "ethos-u65"), "Non-passthrough operation (And) could not run"),
}


def crashes(name: str, target: str) -> bool:
    """Whether Vela ends on a program: one of CRASHES, or any with weights of int4."""
    packed = any(tensor.dtype == "int4" for tensor in ONE_OPERATOR[name].tensors)
    return packed or (name in CRASHES and target in CRASHES[name][0])


def merged(programs: Mapping[str, Program]) -> Program:
    """All programs side by side in one; the outputs have the names of the programs."""
    tensors: list[Tensor] = []
    operators, inputs, outputs = [], [], []
    for name, built in programs.items():
        base, named = len(tensors), dict.fromkeys(built.operators[0].outputs[:1], name)
        tensors += [dataclasses.replace(t, name=named.get(i, f"{name}/{i}")) for i, t in enumerate(built.tensors)]
        for op in built.operators:
            operators.append(dataclasses.replace(op, inputs=_moved(op.inputs, base), outputs=_moved(op.outputs, base)))
        inputs += _moved(built.inputs, base)
        outputs += _moved(built.outputs, base)
    return Program(tuple(tensors), tuple(operators), tuple(inputs), tuple(outputs))


def _moved(indices: Iterable[int], base: int) -> tuple[int, ...]:
    return tuple(i if i < 0 else i + base for i in indices)


@pytest.mark.parametrize("target", ETHOS)
def test_vela_agrees_on_one_operator_programs(target: str) -> None:
    """One compilation for all programs: what Vela leaves to the CPU is what the table says."""
    programs = {name: built for name, built in ONE_OPERATOR.items() if not crashes(name, target)}
    result = vela.compiled(write(merged(programs)), TARGETS[target].compilers[0])
    ours = {name for name, built in programs.items() if not check(built, TARGETS[target]).ok}
    assert {name for _, name in result.cpu} == ours


@pytest.mark.parametrize(("name", "target"), [(name, ts[-1]) for name, (ts, _) in CRASHES.items()])
def test_vela_ends_where_the_table_says_cpu(name: str, target: str) -> None:
    assert placed(ONE_OPERATOR[name], target) == [CPU]
    with pytest.raises(ExportError, match=re.escape(CRASHES[name][1])):
        vela.compiled(write(ONE_OPERATOR[name]), TARGETS[target].compilers[0])


def test_vela_runs_a_look_up_on_u85_alone() -> None:
    data = write(looked_up())
    for target, cpu in (("ethos-u55", ["CAST", "GATHER"]), ("ethos-u85", [])):
        assert [kind for kind, _ in vela.compiled(data, TARGETS[target].compilers[0]).cpu] == cpu
        assert [p.kind for p in check(looked_up(), TARGETS[target]).placements if not p.mapped] == cpu


def left(built: Program, target: str) -> list[str]:
    """The outputs of the operators that the table leaves to the CPU."""
    return sorted(p.output for p in check(built, TARGETS[target]).placements if not p.mapped)


def assert_vela_agrees(artifact: jaxq.export.Artifact, target: str) -> vela.Compiled:
    result = vela.compiled(artifact.data, TARGETS[target].compilers[0])
    assert sorted(name for _, name in result.cpu) == left(artifact.program, target)
    assert result.cycles > 0 and result.seconds > 0
    return result


@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u85"])
@pytest.mark.parametrize(("name", "recipe"), [*((name, "int8") for name in FEW[:3]), ("separable", "int16x8")])
def test_vela_compiles_networks(name: str, recipe: str, target: str) -> None:
    assert_vela_agrees(exported(name, recipe).artifact, target)


# A MEAN of what a QUANTIZE widens to 16 bits: Vela 5.2.0 ends on it for U85.
WIDENED = ("random_2", "random_5")


@pytest.mark.slow
@pytest.mark.parametrize("target", ETHOS)
@pytest.mark.parametrize("recipe", ["int8", "int16x8"])
@pytest.mark.parametrize("name", ZOO)
def test_vela_compiles_the_zoo(name: str, recipe: str, target: str) -> None:
    artifact = exported(name, recipe).artifact
    if (recipe, target) == ("int16x8", "ethos-u85") and name in WIDENED:
        with pytest.raises(ExportError, match="ended by signal 11"):
            vela.compiled(artifact.data, TARGETS[target].compilers[0])
    else:
        assert_vela_agrees(artifact, target)


@pytest.mark.parametrize("target", ["ethos-u55", "ethos-u85"])
def test_vela_compiles_the_network_of_the_demo(target: str) -> None:
    model, images = mnist.target()
    qmodel = jaxq.quantize(model, "int8", images[:1])
    jaxq.calibrate(qmodel, [np.random.default_rng(0).random((8, *images.shape[1:]), np.float32)], progress=False)
    artifact = jaxq.export.to_tflite(qmodel, progress=False)
    result = assert_vela_agrees(artifact, target)
    assert result.cpu == () and check(artifact.program, TARGETS[target]).ok
    assert result.sram + result.dram > 0


def test_vela_says_why_it_fails() -> None:
    with pytest.raises(ExportError, match=r"Vela does not compile the file for ethos-u55-256: .*Drop --compile"):
        vela.compiled(b"\0" * 64, "ethos-u55-256")
    assert str(vela.missing()) == "The package ethos-u-vela is not installed. Run: pip install 'jaxq[vela]'"


def test_macs_are_those_of_vela() -> None:
    for built in (conv((8, 8, 4), 8, (3, 3)), depthwise((8, 8, 4), 8, (3, 3)), dense(3, 64, 10)):
        assert vela.compiled(write(built), "ethos-u55-256").macs == macs(built, built.operators[0])
