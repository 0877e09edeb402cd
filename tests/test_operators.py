"""The table of operator facts: its versions against TFLite's own, and its agreement with the catalogue of ops."""

from __future__ import annotations

import json
import pathlib
import re

import numpy as np
import pytest

from jaxq.export.lowering.lower import RULES
from jaxq.export.operator_facts import Call
from jaxq.export.operators import OPERATORS, lowest_version, prescribed_scale
from jaxq.export.program import Quantization, Tensor
from jaxq.export.proof.receptive_field import READS
from jaxq.graph.fuse import ACTIVATED
from jaxq.graph.ir import WEIGHTED
from jaxq.ops import OPS, operators_of
from jaxq.ops.builtin_ops import STEPS

GOLDEN = pathlib.Path(__file__).parent / "golden" / "op_versions.json"

# Where the table says otherwise than op_version.cc, and why.
OTHERWISE = {
    "CAST int8[4] {}": 1,  # the kernel has had int8 since version 1; 3 came when the converter began to write it
    # op_version.cc has no case for int16 activations by int8 weights: its 1 is the version of uint8.
    "CONV_2D int16[1,4,4,8] int8[8,3,3,8] int32[8] {}": 3,
    "DEPTHWISE_CONV_2D int16[1,4,4,8] int8[1,3,3,8] int32[8] {}": 3,
    "FULLY_CONNECTED int16[1,8] int8[8,8] int32[8] {}": 4,
    # keep_num_dims came before int4, and is asked for first there.
    "FULLY_CONNECTED int8[1,8] int4[8,8] int32[8] {'keep_num_dims': True}": 10,
    "QUANTIZE int16[1,4,4,8] {}": 2,  # it looks at the output alone
    "STRIDED_SLICE int16[1,4,4,8] {}": 4,  # it has no case for int16, which came later than version 1
}


def tensor(text: str) -> Tensor:
    """`int8[1,8]/8` is an int8 tensor of that shape with eight scales."""
    found = re.fullmatch(r"(\w+)\[([\d,]*)\](?:/(\d+))?", text)
    assert found is not None
    shape = tuple(int(n) for n in found[2].split(",") if n)
    scales = int(found[3] or 1)
    return Tensor("t", shape, found[1], Quantization.of(np.full(scales, 0.1, np.float32)) if found[3] else None)


def cases() -> list[tuple[str, list[str], str, dict[str, object], int]]:
    return json.loads(GOLDEN.read_text())


def name_of(case: tuple[str, list[str], str, dict[str, object], int]) -> str:
    return f"{' '.join([case[0], *case[1]])} {case[3]}"


def test_exceptions_are_cases():
    assert OTHERWISE.keys() <= {name_of(case) for case in cases()}


@pytest.mark.parametrize("case", cases(), ids=lambda case: name_of(case))
def test_versions_are_tflites(case: tuple[str, list[str], str, dict[str, object], int]):
    kind, inputs, output, options, wanted = case
    found = lowest_version(Call(kind, [tensor(t) for t in inputs], [tensor(output)], options))  # type: ignore[arg-type]
    assert found == OTHERWISE.get(name_of(case), wanted)


def test_mul_that_scales_up_is_version_3():
    a, y = (Tensor("t", (4,), "int8", Quantization.of(scale)) for scale in (1.0, 0.5))
    assert lowest_version(Call("MUL", [a, a], [y], {})) == 3
    assert lowest_version(Call("MUL", [y, y], [a], {})) == 2


def test_every_kind_with_a_version_has_golden_numbers():
    golden = {case[0] for case in cases()}
    raised = {kind for kind, facts in OPERATORS.items() if max(facts.versions.values()) > 1 or facts.needs}
    assert raised - golden <= {"SELECT", "GATHER_ND"}  # which jaxq does not write


def test_the_tables_are_sorted():
    assert list(OPERATORS) == sorted(OPERATORS) and list(OPS) == sorted(OPS)
    assert RULES.keys() == OPS.keys()


def test_the_classes_of_receptive_fields_are_those_in_use():
    assert {facts.reads for facts in OPERATORS.values()} == {*READS, "all"}


@pytest.mark.parametrize("kind", OPS)
def test_an_op_and_the_operators_that_it_is_written_as_agree(kind: str):
    spec, written = OPS[kind], operators_of(kind)
    assert set(written) <= OPERATORS.keys()
    if spec.int16 and kind != "RELU_N1_TO_1":  # written as MAXIMUM and MINIMUM there
        assert all("int16" in OPERATORS[operator].versions for operator in written)
    if spec.scales == "same" and not spec.weights and spec.step is None and kind not in ("DROPOUT", "STOP_GRADIENT"):
        assert all(OPERATORS[operator].copies for operator in written)
    if isinstance(spec.scales, tuple):
        assert prescribed_scale(kind, "int8") == (*spec.scales, OPERATORS[kind].tolerance)


def test_rules_of_16_bits_belong_to_ops_that_have_16_bits():
    assert {kind for kind in STEPS if not OPS[kind].int16} == set()


def test_the_graph_and_the_catalogue_name_the_same_ops_with_weights() -> None:
    assert {kind for kind, spec in OPS.items() if spec.weights} == WEIGHTED


def test_what_training_fuses_an_activation_into_has_kernels_that_fuse_it() -> None:
    for kind in ACTIVATED:
        assert all(OPERATORS[operator].fuses for operator in operators_of(kind)), kind
