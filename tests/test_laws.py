"""The laws of the design on one small network, in the quick tier. `make test-all` proves each on the whole zoo; which
test that is says docs/testing.md.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax import lax

import jaxq
import jaxq.export
from jaxq.errors import CalibrationError, RangeError
from jaxq.export.flatbuffer.read import read
from jaxq.export.lint import lint
from jaxq.recipes import checkpoint
from tests.hostile import opened
from tests.mutants import mutants
from tests.promotion import promoting_updates

IMAGES = np.random.default_rng(0).normal(0.2, 1.0, (8, 6, 6, 2)).astype(np.float32)


class Net(nnx.Module):
    """A convolution that a BatchNorm folds into, ops that share its range, a dense layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(2, 4, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(4, use_running_average=True, rngs=rngs)
        self.head = nnx.Linear(36, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        x = nnx.max_pool(jax.nn.relu(self.norm(self.conv(x))), (2, 2), strides=(2, 2))
        return self.head(x.reshape(x.shape[0], -1))


def built() -> Net:
    model = Net(nnx.Rngs(0))
    line = jnp.linspace(-0.5, 1.0, 4)
    nnx.update(model.norm, {"mean": line, "var": jnp.exp(line), "scale": 1.5 - line, "bias": line[::-1]})
    return model


@dataclasses.dataclass(frozen=True)
class Made:
    """The network, quantized, calibrated, exported and proven."""

    model: Net
    qmodel: Any
    artifact: jaxq.export.Artifact


@functools.cache
def made() -> Made:
    model = built()
    qmodel = jaxq.quantize(model, "int8", IMAGES[:1])
    jaxq.calibrate(qmodel, [IMAGES], progress=False)
    return Made(model, qmodel, jaxq.export.to_tflite(qmodel, verify=IMAGES, progress=False))


def test_law_1_the_model_and_its_outputs_are_unchanged() -> None:
    untouched, found = built(), made()
    assert found.qmodel.model is found.model
    jax.tree.map(np.testing.assert_array_equal, nnx.state(untouched), nnx.state(found.model))
    np.testing.assert_array_equal(untouched(jnp.asarray(IMAGES)), found.qmodel.model(jnp.asarray(IMAGES)))


def test_law_2_every_integer_is_equal_and_every_tensor_is_one() -> None:
    artifact = made().artifact
    certificate = artifact.certificate
    assert certificate is not None and certificate.differing_integers == {"xnnpack": 0, "reference": 0}
    forward = artifact.manifest["certificate"]["training_forward"]
    assert (forward["differing"], forward["after_table_ops"]) == (0, {}) and forward["compared"] > 8 * (72 + 144 + 3)
    assert {t.dtype for t in artifact.program.tensors} == {"int8", "int32"}


def test_law_3_what_has_no_range_is_refused_and_what_has_no_operator_is_listed() -> None:
    fresh = jaxq.quantize(built(), "int8", IMAGES[:1])
    with pytest.raises(RangeError, match="input has no range yet"):
        fresh(IMAGES[:1])
    q = jaxq.quantize(lambda p, x: lax.cumlogsumexp(x @ p, 1), "int8", np.ones((2, 2), np.float32), IMAGES[:1, 0, 0])
    assert list(q.plan.islands) == ["float"]
    assert re.search(r"`cumlogsumexp` \(test_laws\.py:\d+", q.plan.islands["float"])
    assert "float: `cumlogsumexp`" in str(q.plan)


def test_law_4_the_folded_graph_is_the_model() -> None:
    found, x = made(), jnp.asarray(IMAGES)
    captured = found.qmodel.captured(x)
    assert [op.kind for op in captured.plan.graph.ops if op.kind == "AFFINE"] == []
    folded = found.qmodel.core.reals(captured, nnx.state(found.model), (x,), {})["head/kernel:out"]
    y = found.model(x)
    np.testing.assert_allclose(folded, y, rtol=1e-5, atol=1e-5 * float(jnp.max(jnp.abs(y))))


def test_law_5_ops_that_copy_integers_have_one_range() -> None:
    found = made()
    assert sorted(found.qmodel.pure_ranges()) == ["conv/kernel:out", "head/kernel:out", "input"]
    grids = {t.name: t.quantization for t in found.artifact.program.tensors}
    shared = [grids[name] for name in ("conv/kernel:out", "max_pool_2d", "reshape")]
    assert all(str(grid) == str(shared[0]) for grid in shared) and str(grids["input"]) != str(shared[0])


def test_law_6_calibration_never_replaces_ranges_that_are_set() -> None:
    before = jax.tree.map(np.array, made().qmodel.pure_ranges())
    with pytest.raises(CalibrationError, match="3 of 3 ranges are set already"):
        jaxq.calibrate(made().qmodel, [2.0 * IMAGES], progress=False)
    jax.tree.map(np.testing.assert_array_equal, before, made().qmodel.pure_ranges())


@nnx.jit
def train_step(qmodel: Any, optimizer: nnx.Optimizer, images: jax.Array) -> None:
    optimizer.update(qmodel, nnx.grad(lambda model: jnp.mean(jnp.square(model(images) - 1.0)))(qmodel))


def test_law_6_a_resumed_run_is_the_run(tmp_path: pathlib.Path) -> None:
    """Two steps, a checkpoint, two steps of a model that was never trained: the bits of four steps. Ranges observe the
    first step, learn in the next two and stand still in the last.
    """
    whole, cut, resumed = (nnx.clone(made().qmodel) for _ in range(3))
    tx = promoting_updates(jaxq.optim.partition(optax.adam(1e-2), observe=1, freeze=3))
    optimizers = [nnx.Optimizer(qmodel, tx, wrt=nnx.Param) for qmodel in (whole, cut, resumed)]

    def train(model: Any, optimizer: nnx.Optimizer, steps: range) -> None:
        for step in steps:
            train_step(model, optimizer, jnp.asarray(IMAGES * np.float32(1 + step)))

    train(whole, optimizers[0], range(4))
    train(cut, optimizers[1], range(2))
    with checkpoint.manager(tmp_path, every=1) as checkpoints:
        checkpoint.save(checkpoints, 1, cut, optimizers[1], last=True)
        assert checkpoint.restore(checkpoints, resumed, optimizers[2]) == 2
    train(resumed, optimizers[2], range(2, 4))
    states = [nnx.to_pure_dict(nnx.state(node)) for node in (resumed, optimizers[2], whole, optimizers[0])]
    jax.tree.map(np.testing.assert_array_equal, states[:2], states[2:])


def test_law_7_the_same_inputs_give_the_same_bytes() -> None:
    again = jaxq.quantize(built(), "int8", IMAGES[:1])
    nnx.update(again, nnx.state(made().qmodel))
    artifact = jaxq.export.to_tflite(again, progress=False)
    assert artifact.data == made().artifact.data and artifact.manifest["ranges"] == made().artifact.manifest["ranges"]


def test_law_8_results_do_not_depend_on_the_batch() -> None:
    qmodel = made().qmodel
    whole = np.asarray(qmodel(jnp.asarray(IMAGES)))
    for n in (1, 7):
        np.testing.assert_array_equal(qmodel(jnp.asarray(IMAGES[:n])), whole[:n])


def test_law_9_the_file_has_no_finding() -> None:
    assert [str(finding) for finding in lint(read(made().artifact.data))] == []


def test_law_13_a_pass_changes_parameters_and_never_the_lowering() -> None:
    qmodel = nnx.clone(made().qmodel)
    report = jaxq.ptq.correct_biases(qmodel, IMAGES)
    assert all(change.after <= change.before for change in report.changes)
    artifact = jaxq.export.to_tflite(qmodel, verify=IMAGES[:7], progress=False)
    assert artifact.certificate is not None and not sum(artifact.certificate.differing_integers.values())
    kinds = [[op.kind for op in made_by.program.operators] for made_by in (artifact, made().artifact)]
    assert kinds[0] == kinds[1] and artifact.data != made().artifact.data


def test_hostile_bytes_are_read_or_refused() -> None:
    data = made().artifact.data
    outcomes = [opened(mutant)[0] is not None for mutant in mutants([data], 40)]
    assert len(set(outcomes)) == 2


# --- docs/testing.md -------------------------------------------------------------------------------------------------

TESTS = pathlib.Path(__file__).parent
ROWS = [
    line.split("|")[1:4] for line in (TESTS.parent / "docs" / "testing.md").read_text().splitlines() if "`test_" in line
]
SLOW_CASES = (TESTS / "slow_cases.txt").read_text().splitlines()


def named(cell: str) -> list[tuple[str, str]]:
    """The file and the rest of each test that a cell names."""
    return [(file, rest) for file, rest in re.findall(r"`(test_\w+\.py)(?:::([^`]+))?`", cell)]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_the_page_of_laws_names_tests_that_are_there(row: list[str]) -> None:
    for file, rest in [*named(row[1]), *named(row[2])]:
        name = rest.split("[")[0]
        assert re.search(rf"^def {name}", (TESTS / file).read_text(), re.MULTILINE), f"{file} has no {name}"
    assert named(row[1]) and named(row[2])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0].strip())
def test_cases_are_in_the_tier_that_the_page_says(row: list[str], request: pytest.FixtureRequest) -> None:
    collected = [item.nodeid for item in request.session.items]
    for file, rest in named(row[1]):
        case = f"tests/{file}::{rest}"
        assert not [slow for slow in SLOW_CASES if slow == case or slow.startswith(f"{case}[")], f"{case} is slow"
        if any(other.startswith(f"tests/{file}::") for other in collected) and len(collected) > 1_000:  # a whole run
            assert [other for other in collected if other == case or other.startswith(f"{case}[")], f"{case} is no case"


def test_every_law_of_this_file_is_on_the_page() -> None:
    text = "".join(cell for row in ROWS for cell in row)
    laws = re.findall(r"^def (test_(?:law_\d+|hostile)\w*)", pathlib.Path(__file__).read_text(), re.MULTILINE)
    assert len(laws) == 12 and not [law for law in laws if law not in text]
