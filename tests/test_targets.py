"""What targets take: the status of one operator, what follows from it, MACs, memory, and the tables themselves."""

from __future__ import annotations

import dataclasses
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

from jaxq.errors import RecipeError
from jaxq.export.flatbuffer.schema import OPERATORS
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.targets import TARGETS, check, device_named, edgetpu, macs, memory
from jaxq.export.targets.device import INFERRED, MEASURED, VENDOR
from jaxq.export.targets.memory import lives, planned
from jaxq.plan.target import TARGETS as PLANNED
from tests.target_cases import NO, ONE_OPERATOR, STATUS, TPU, one_scale, placed
from tests.test_kernels import (
    X,
    Y,
    Z,
    binary,
    chain,
    conv,
    dense,
    depthwise,
    matmul,
    transpose_conv,
    value,
)

ROOT = pathlib.Path(__file__).resolve().parent.parent


@pytest.mark.parametrize("name", STATUS)
def test_status_of_one_operator(name: str) -> None:
    built, wanted = STATUS[name]
    assert {target: placed(built, target) for target in wanted} == {t: [status] for t, status in wanted.items()}


# Programs that LiteRT does not load.
NOT_LOADED = {"status: custom": "nobody has it"}


def delegated(built: Program) -> bool:
    """Whether LiteRT hands the one operator to XNNPACK."""
    interpreter = Interpreter(model_content=write(built))
    interpreter.allocate_tensors()
    return [op["op_name"] for op in interpreter._get_ops_details()][1:] == ["DELEGATE"]


@pytest.mark.parametrize("name", [name for name in ONE_OPERATOR if name not in NOT_LOADED])
def test_litert_agrees(name: str) -> None:
    built = ONE_OPERATOR[name]
    assert check(built, TARGETS["litert"]).placements[0].mapped == delegated(built)


def test_only_custom_operators_fail_on_litert() -> None:
    assert check(STATUS["gelu"][0], TARGETS["litert"]).ok
    assert not check(STATUS["custom"][0], TARGETS["litert"]).ok


# --- one subgraph ---------------------------------------------------------------------------------------------------


def series(*kinds: str) -> Program:
    """Unary operators one after the other."""
    tensors = tuple(value(f"t{i}", (1, 4, 4, 4), X) for i in range(len(kinds) + 1))
    operators = tuple(Operator(kind, (i,), (i + 1,), {}, 1) for i, kind in enumerate(kinds))
    return Program(tensors, operators, (0,), (len(kinds),))


def test_what_follows_an_unmapped_operator_is_unmapped() -> None:
    report = check(series("RELU", "HARD_SWISH", "RELU", "HARD_SWISH", "RELU"), TARGETS["edgetpu"])
    second = edgetpu.SECOND_SUBGRAPH
    assert [p.status for p in report.placements] == [TPU, NO, second, NO, second]
    assert [p.after for p in report.placements] == [None, None, 1, None, 1]
    assert [(g.index, g.operators) for g in report.gains] == [(1, 2)]
    assert not report.ok


def test_a_branch_beside_stays_mapped() -> None:
    tensors = tuple(value(f"t{i}", (1, 4, 4, 4), X) for i in range(4))
    operators = tuple(
        Operator(k, (i,), (o,), {}, 1) for k, i, o in [("HARD_SWISH", 0, 1), ("RELU", 0, 2), ("RELU", 1, 3)]
    )
    built = Program(tensors, operators, (0,), (2, 3))
    assert [p.mapped for p in check(built, TARGETS["edgetpu"]).placements] == [False, True, False]


def test_a_quantize_of_the_input_may_stay_in_front() -> None:
    tensors = (Tensor("f", (1, 4), "float32"), *(value(f"t{i}", (1, 4), X) for i in range(2)))
    operators = (Operator("QUANTIZE", (0,), (1,), {}, 1), Operator("RELU", (1,), (2,), {}, 2))
    report = check(Program(tensors, operators, (0,), (2,)), TARGETS["edgetpu"])
    assert [p.status for p in report.placements] == [edgetpu.DTYPE, TPU]
    assert not report.ok


def test_gains_are_shares_of_macs() -> None:
    built = one_scale(chain(), 6, 7)
    report = check(built, TARGETS["edgetpu"])
    assert report.ok and not report.gains
    worse = dataclasses.replace(
        built, operators=(dataclasses.replace(built.operators[0], version=9), *built.operators[1:])
    )
    report = check(worse, TARGETS["edgetpu"])
    assert report.mapped_macs == 0 and report.macs == 12 * 12 * 8 * 27 + 80
    assert [(g.index, g.operators, g.macs) for g in report.gains] == [(0, 4, report.macs)]


# --- MACs and memory ------------------------------------------------------------------------------------------------


MACS = {
    "conv": (conv((8, 8, 4), 8, (3, 3), (2, 2)), 4 * 4 * 8 * 36),
    "conv, grouped": (conv((8, 8, 4), 8, (3, 3), groups=2), 8 * 8 * 8 * 18),
    "depthwise": (depthwise((8, 8, 4), 8, (3, 3)), 8 * 8 * 8 * 9),
    "dense": (dense(3, 64, 10), 3 * 64 * 10),
    "matmul": (matmul((1, 4, 6, 8), (1, 4, 8, 9), (1, 4, 6, 9)), 4 * 6 * 8 * 9),
    "matmul, adj_x": (matmul((1, 4, 8, 6), (1, 4, 8, 9), (1, 4, 6, 9), adj_x=True), 4 * 6 * 8 * 9),
    "transposed": (transpose_conv((6, 6, 8), 5, 3, 2, "SAME"), 6 * 6 * 8 * 5 * 9),
    "add": (binary("ADD", X, Y, Z), 0),
}


@pytest.mark.parametrize("name", MACS)
def test_macs(name: str) -> None:
    built, wanted = MACS[name]
    assert macs(built, built.operators[0]) == wanted


def test_the_arena_is_planned_greedily() -> None:
    """Input 36 bytes alive in 0; a 576 in 0-1; m 8; l 10; p 10: the second layer lies where the input was."""
    built = chain()
    assert [(life.size, life.first, life.last) for life in lives(built)] == [
        (432, 0, 0), (1152, 0, 1), (16, 1, 2), (16, 2, 3), (16, 3, 3)
    ]  # fmt: skip
    assert [at for _, at in planned(lives(built))] == [0, 1152, 0, 16, 1152]
    found = memory(built)
    assert (found.activations, found.largest) == (1584, 1584)
    assert found.constants == 8 * 27 + 8 * 4 + 2 * 4 + 80 + 10 * 4


# --- the tables -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TARGETS)
def test_every_entry_has_a_source(name: str) -> None:
    device = TARGETS[name]
    limits = {limit for limits in device.operators.values() for limit in limits} | set(device.everywhere)
    assert all(limit.evidence in (MEASURED, VENDOR, INFERRED) and limit.source and limit.law for limit in limits)
    assert device.evidence in (MEASURED, VENDOR, INFERRED) and device.source and device.verdict
    assert {kind for kind in device.operators if not kind.startswith("CUSTOM:")} <= OPERATORS.keys()
    assert list(device.operators) == sorted(device.operators)


@pytest.mark.parametrize("name", TARGETS)
def test_each_word_of_a_target_is_the_status_of_a_case(name: str) -> None:
    given = {wanted[name] for _, wanted in STATUS.values() if name in wanted}
    assert {TARGETS[name].mapped, TARGETS[name].unlisted, TARGETS[name].limited} <= given


@pytest.mark.parametrize("name", TARGETS)
def test_the_plan_and_the_check_read_one_value(name: str) -> None:
    device, target = TARGETS[name], PLANNED[name]
    assert device.target is target
    assert target.operators is None or target.operators == device.operators.keys()
    assert target.evidence in (MEASURED, VENDOR, INFERRED) and target.source


LACKING: dict[str, set[str]] = {
    "edgetpu": {"ARG_MAX", "ARG_MIN", "BATCH_MATMUL", "BROADCAST_TO", "COMPARE", "CUMSUM", "EMBEDDING", "FLOOR_DIV",
                "FLOOR_MOD", "GATHER", "GELU", "HARD_SWISH", "INTEGER", "LEAKY_RELU", "LOGICAL_AND", "LOGICAL_OR",
                "REVERSE_V2", "SELECT", "TABLE", "TOPK_V2"},
    **dict.fromkeys(
        ("ethos-u", "ethos-u55", "ethos-u65"),
        {"ARG_MIN", "BROADCAST_TO", "COMPARE", "CUMSUM", "EMBEDDING", "FLOOR_DIV", "FLOOR_MOD", "GATHER",
         "INTEGER", "LOGICAL_AND", "LOGICAL_OR", "REVERSE_V2", "SELECT", "TABLE",
         "TOPK_V2"},
    ),
    "ethos-u85": {"ARG_MIN", "BROADCAST_TO", "CUMSUM", "FLOOR_DIV", "FLOOR_MOD", "TOPK_V2"},
    "litert": set(),
    "litert-x86": set(),
    "tflm": {"RELU_N1_TO_1", "TOPK_V2"},
}  # fmt: skip
# Of these, and of those that it takes in few sizes, what other ops stand for.
COMPOSED: dict[str, set[str]] = {
    "edgetpu": {"CUMSUM", "HARD_SWISH", "LEAKY_RELU"},
    **dict.fromkeys(("ethos-u", "ethos-u55", "ethos-u65", "ethos-u85"), {"CUMSUM", "RESIZE_BILINEAR"}),
}


@pytest.mark.parametrize("name", PLANNED)
def test_what_ops_a_target_cannot_run(name: str) -> None:
    assert PLANNED[name].forbidden == LACKING[name]


def test_what_is_written_otherwise_where_a_target_lacks_the_operator() -> None:
    assert {name: target.composed for name, target in PLANNED.items() if target.composed} == COMPOSED
    assert {name: target.tables for name, target in PLANNED.items() if target.tables} == {"tflm": {"GELU"}}


def stripped(built: Program) -> list[Program]:
    """Programs that break every expectation: without inputs, outputs, options, shapes, data or scales."""
    op = built.operators[0]
    ops = [dataclasses.replace(op, inputs=op.inputs[:n]) for n in range(len(op.inputs))]
    ops += [dataclasses.replace(op, inputs=(-1,) * len(op.inputs)), dataclasses.replace(op, outputs=())]
    ops += [dataclasses.replace(op, options={}), dataclasses.replace(op, options=dict.fromkeys(op.options, "odd"))]
    bare = [tuple(dataclasses.replace(t, **change) for t in built.tensors) for change in CHANGES]
    return [*(dataclasses.replace(built, operators=(o,)) for o in ops),
            *(dataclasses.replace(built, tensors=tensors) for tensors in bare)]  # fmt: skip


EMPTY = Quantization(np.zeros(0, np.float32), np.zeros(0, np.int64))
CHANGES: tuple[dict[str, Any], ...] = (
    {"shape": ()},
    {"shape": (0,)},
    {"shape": (2,) * 7},
    {"data": None},
    {"data": np.zeros(0, np.int32)},
    {"data": np.full(3, 99, np.int64)},
    {"dtype": "string"},
    {"quantization": None},
    {"quantization": EMPTY},
)


@pytest.mark.parametrize("target", TARGETS)
def test_nothing_raises_whatever_a_file_holds(target: str) -> None:
    device: Any = TARGETS[target]
    for built in ONE_OPERATOR.values():
        for broken in stripped(built):
            assert len(check(broken, device).placements) == 1


def test_an_unknown_target_is_named() -> None:
    with pytest.raises(RecipeError, match="There is no target 'edge-tpu' to check a file for. Did you mean 'edgetpu'"):
        device_named("edge-tpu")


def test_the_page_of_targets_is_fresh() -> None:
    command = [sys.executable, str(ROOT / "docs" / "make_targets.py"), "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
