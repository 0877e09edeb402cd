"""Whatever a network is made of, it comes out exact or is refused with a reason; random ones, by seed."""

from __future__ import annotations

import functools
import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxq
from jaxq.ops import OPS
from tests.random_moves import MOVES
from tests.random_networks import Outcome, Program, Step, drawn, network, outcome, parameters, shrunk

SEEDS = range(10)
LONG = {2, 3, 6, 8}  # they compile for longer than the others together
RIGHT = {"exact", "refused"}

# No move makes these: they are in no exported graph, need a module, or take or give integers (tests/sixty_three.py,
# tests/test_masks.py, tests/test_mirrors.py).
NOT_DRAWN = {
    *("ARG_MAX", "ARG_MIN", "COMPARE", "CUMSUM", "DROPOUT", "EMBEDDING", "FAKE_QUANT", "FLOOR_DIV", "FLOOR_MOD"),
    "INTEGER",
    "LOGICAL_OR",
    "REQUANTIZE",
    "SUM",
    "TOPK_V2",
}

# The smallest parts of programs that once went wrong, and what comes of them now.
FOUND = {
    "hard_swish of a range whose scale overflows its kernel": (
        Program((7, 5, 4), 30.0, 0.0, (Step("multiply", 0, 0, 1654), Step("multiply", 3, 0, 1446), Step("hard_swish"))),
        "refused",
    ),
}


@functools.cache
def of_seed(seed: int) -> Outcome:
    return outcome(drawn(seed, most=12))


def right(program: Program, found: Outcome) -> None:
    """Fails with the smallest part of the program that goes as wrong."""
    if found.kind not in RIGHT:
        less = shrunk(program)
        pytest.fail(f"{found.kind}: {outcome(less).reason}\n{less!r}")
    assert found.reason or found.kind == "exact"


@pytest.mark.parametrize("seed", [pytest.param(s, marks=[pytest.mark.slow] * (s in LONG)) for s in SEEDS])
def test_a_random_network_is_exact_or_refused(seed: int) -> None:
    right(drawn(seed, most=12), of_seed(seed))


@pytest.mark.slow
def test_most_random_networks_come_out() -> None:
    kinds = Counter(of_seed(seed).kind for seed in SEEDS)
    assert kinds["exact"] >= 0.7 * len(SEEDS), [of_seed(seed).reason for seed in SEEDS]


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found_stays_right(name: str) -> None:
    program, kind = FOUND[name]
    found = outcome(program)
    assert found.kind == kind, found.reason


def kinds_of(*steps: Step) -> set[str]:
    program = Program((6, 6, 4), 1.0, 0.0, steps)
    example = np.zeros((1, *program.shape), np.float32)
    plan = jaxq.quantize(network(program), "int8", parameters(program), example).plan
    return {op.kind for op in plan.graph.ops}


def test_every_kind_of_op_can_be_drawn() -> None:
    kinds: set[str] = set()
    for seed, move in itertools.product(range(5), MOVES):
        it, dense = Step(move, seed=seed), Step("dense", seed=seed)
        kinds |= kinds_of(Step("transpose", seed=seed), it)  # nothing that a clip could fuse into
        kinds |= kinds_of(dense, dense._replace(first=1), it) if seed == 0 else set()  # two of one shape
        if kinds >= OPS.keys() - NOT_DRAWN:
            break
    assert OPS.keys() - NOT_DRAWN - kinds == set()


def test_shrinking_leaves_what_matters() -> None:
    bad = Step("no such move")
    program = Program((5,), 1.0, 0.0, (Step("relu"), Step("tanh"), bad, Step("relu")))
    assert shrunk(program).steps == (bad,)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(st.integers(1000, 2**32))
def test_more_and_longer_random_networks(seed: int) -> None:
    program = drawn(seed)
    right(program, outcome(program))
