"""The table of TFLite Micro, against its interpreter. conftest.py leaves it out where tflite-micro has no wheel."""

from __future__ import annotations

import numpy as np
import pytest

from jaxq.errors import ExportError
from jaxq.export.flatbuffer.write import write
from jaxq.export.program import Program
from jaxq.export.runtimes import tflm
from jaxq.export.targets import TARGETS, check, memory
from tests.target_cases import ONE_OPERATOR
from tests.test_exact import exported
from tests.zoo import ZOO


def runs(built: Program) -> bool:
    """Whether TFLite Micro prepares and invokes the program."""
    try:
        tflm.run(write(built), built, [[np.zeros(t.shape, t.dtype) for t in (built.tensors[i] for i in built.inputs)]])
    except ExportError:
        return False
    return True


# What ends the process: `jaxq lint` names it.
ABORTS = {"status: softmax, 16,001 classes": "the sum of the exponentials has no room from 512 on"}


@pytest.mark.parametrize("name", [name for name in ONE_OPERATOR if name not in ABORTS])
def test_tflite_micro_agrees(name: str) -> None:
    built = ONE_OPERATOR[name]
    assert check(built, TARGETS["tflm"]).ok == runs(built)


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
        head = tflm.arena_bytes(artifact.data, artifact.program, "head")
        assert memory(artifact.program).activations == head
