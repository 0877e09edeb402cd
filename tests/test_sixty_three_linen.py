"""Linen computes what NNX computes: the sixty-three networks in both, with the same numbers, at each batch."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest

import jaxq
from jaxq.quantization import bind
from tests import sixty_three
from tests.sixty_three_linen import LAYERS, form, with_numbers_of
from tests.test_batch import same_plans

QUICK = ("3-D dense",)
# Where flax's two layers are not one function: attention divides the query in Linen and the scores in NNX
# (jax.nn.dot_product_attention); GRUCell has a bias for the state of its candidate in Linen alone.
OTHER = {"GRU", "attention"}


def files(name: str) -> tuple[Any, Any]:
    """A network's file in NNX, and the proven one in Linen, whose plan is the same at each batch."""
    case = sixty_three.case(name)
    module, x = form(name, case.model), case.examples
    qmodule = jaxq.quantize(module, "int8", x[:1])
    variables = qmodule.init(jax.random.key(0), x[:1])
    variables = variables if name in OTHER else with_numbers_of(variables, case.model)
    same_plans(lambda n: bind(qmodule, variables).captured(x[:n]).plan, (1, 2, 7))
    variables = jaxq.calibrate(qmodule, [x], variables, progress=False)
    qmodel = jaxq.quantize(case.model, "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    assert not qmodule.plan.islands
    return jaxq.export.to_tflite(qmodel), jaxq.export.to_tflite(qmodule, variables, verify=x[:4], progress=False)


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n not in QUICK)) for n in sixty_three.SIXTY_THREE]
)
def test_linen_is_exact_and_computes_the_integers_of_nnx(name: str) -> None:
    of_nnx, of_linen = files(name)
    assert of_linen.certificate.ok
    if name in OTHER:
        return
    assert [op.kind for op in of_linen.program.operators] == [op.kind for op in of_nnx.program.operators]
    x = sixty_three.case(name).examples
    jax.tree.map(np.testing.assert_array_equal, of_linen.run(x), of_nnx.run(x))


def test_every_network_has_a_linen_form() -> None:
    for name in sixty_three.SIXTY_THREE:
        assert form(name, sixty_three.case(name).model) is not None
    assert LAYERS.keys() <= sixty_three.SIXTY_THREE.keys()
