"""The table of TFLite Micro, against its interpreter. conftest.py leaves it out where tflite-micro has no wheel."""

from __future__ import annotations

import pytest

from jaxq.errors import ExportError
from jaxq.export import runtime_tflm
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Program
from jaxq.export.targets import TARGETS, check, memory
from tests.target_cases import ONE_OPERATOR
from tests.test_exact import exported
from tests.test_kernels import CASES, examples
from tests.test_tflm import LACKS
from tests.zoo import ZOO


def runs(built: Program) -> bool:
    """Whether TFLite Micro prepares and invokes the program."""
    try:
        runtime_tflm.opened(write(built), built)(examples(built, 1))
    except ExportError:
        return False
    return True


@pytest.mark.parametrize("name", ONE_OPERATOR)
def test_tflite_micro_agrees(name: str) -> None:
    built = ONE_OPERATOR[name]
    assert check(built, TARGETS["tflm"]).ok == runs(built)


def test_what_it_lacks_is_in_the_table() -> None:
    assert {name for name, (built, _) in CASES.items() if not check(built, TARGETS["tflm"]).ok} == set(LACKS)


@pytest.mark.parametrize("name", ["heads", "separable", "squeeze_excite"])
def test_the_arena_is_that_of_its_planner(name: str) -> None:
    assert_arena(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", ZOO)
def test_the_arena_of_the_zoo(name: str) -> None:
    assert_arena(name)


def assert_arena(name: str) -> None:
    """Byte for byte, where the kernels of the network ask for no scratch memory."""
    artifact = exported(name).artifact
    if check(artifact.program, TARGETS["tflm"]).ok:
        head = runtime_tflm.arena_bytes(artifact.data, artifact.program, "head")
        assert memory(artifact.program).activations == head
