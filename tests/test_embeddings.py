"""Embeddings whose activations are floats: tables in int8, as TFLiteConverter stores them, and EMBEDDING_LOOKUP."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import ExportError, FormatError
from jaxq.export.evaluate.program import evaluate
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.operators import call_of, lowest_version
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.runtimes import litert

GOLDEN = pathlib.Path(__file__).parent / "golden"
BOTH = ("xnnpack", "reference")
F32 = np.float32


def tables() -> list[np.ndarray]:
    """Those of `words` in tests/golden/make_tflite.py."""
    rng = np.random.default_rng(3)
    return [rng.normal(size=(n, 16)).astype(F32) for n in (70, 20)]


class Words(nnx.Module):
    """The network of that file, with its tables."""

    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.ids, self.places = nnx.Embed(70, 16, rngs=rngs), nnx.Embed(20, 16, rngs=rngs)
        self.head = nnx.Linear(16, 70, rngs=rngs)
        for embed, table in zip((self.ids, self.places), tables(), strict=True):
            embed.embedding[...] = jnp.asarray(table)

    def __call__(self, ids: jax.Array, places: jax.Array) -> jax.Array:
        return self.head(jnp.mean(self.ids(ids) + self.places(places), 1))


def indices(count: int = 7) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    return rng.integers(0, 70, (count, 7), np.int32), rng.integers(0, 20, (count, 7), np.int32)


def made(recipe: Any) -> tuple[Any, jaxq.export.Artifact]:
    x = indices()
    qmodel = jaxq.quantize(Words(), recipe, *(a[:1] for a in x))
    return qmodel, jaxq.export.to_tflite(qmodel, verify=x, progress=False)


def stored(artifact: jaxq.export.Artifact) -> dict[str, str]:
    """The type of each table, by the site that reads it."""
    program = artifact.program
    return {
        program.tensors[op.outputs[0]].name.split(":")[0]: program.tensors[op.inputs[0]].dtype
        for op in program.operators
        if op.kind == "GATHER"
    } | {
        program.tensors[op.inputs[0]].name.split(":")[0]: "float16"
        for op in program.operators
        if program.tensors[op.inputs[0]].dtype == "float16"
    }


def test_a_table_is_what_tflite_converter_makes_of_it() -> None:
    """1,120 numbers are stored in int8 with one scale, 320 stay floats, in both; so are the operators."""
    qmodel, artifact = made("dynamic-range-int8")
    assert artifact.certificate is not None and artifact.certificate.ok, str(artifact.certificate)
    theirs = read((GOLDEN / "words_dynamic.tflite").read_bytes())
    ours = artifact.program
    for mine, other in zip(*(_looked_up(program) for program in (ours, theirs)), strict=True):
        assert mine.dtype == other.dtype and mine.data is not None and other.data is not None
        np.testing.assert_array_equal(mine.data, other.data)
        scales = [None if t.quantization is None else t.quantization.scale.tolist() for t in (mine, other)]
        assert scales[0] == scales[1]
    assert [op.kind for op in ours.operators] == ["GATHER", "DEQUANTIZE", "GATHER", "ADD", "MEAN", "FULLY_CONNECTED"]
    assert len(artifact.data) <= len((GOLDEN / "words_dynamic.tflite").read_bytes())
    line = "ids/embedding: int8, per tensor, symmetric, scale = max abs(w) / 127 at each step; the rows read are deq"
    assert line in str(qmodel.plan) and "places/embedding: int8" not in str(qmodel.plan)


def _looked_up(program: Program) -> list[Tensor]:
    return [program.tensors[op.inputs[0]] for op in program.operators if op.kind == "GATHER"]


@pytest.mark.parametrize(
    ("recipe", "rules", "wanted"),
    [
        ("dynamic-range-int8", [{"match": "ids/*", "weight_bits": 32}], ("float32", "float32")),
        pytest.param(
            "dynamic-range-int8",
            [{"match": "places/*", "weight_bits": 8}],
            ("int8", "int8"),
            marks=pytest.mark.slow,
        ),
        pytest.param("weight-only-int8", [], ("int8", "int8"), marks=pytest.mark.slow),
        pytest.param("weight-only-int4", [], ("int8", "int8"), marks=pytest.mark.slow),
        pytest.param("float16", [], ("float16", "float16"), marks=pytest.mark.slow),
    ],
)
def test_a_rule_says_otherwise_of_a_table(recipe: str, rules: list[Any], wanted: tuple[str, str]) -> None:
    base = jaxq.plan.recipe.SHIPPED[recipe]
    whole = {"weights": {"bits": base.weights.bits}, "activations": {"bits": 32, "dynamic": base.activations.dynamic}}
    _, artifact = made({**whole, "input": "float32", "output": "float32", "rules": rules})
    assert artifact.certificate is not None and artifact.certificate.ok
    found = stored(artifact)
    assert (found["ids/embedding"], found["places/embedding"]) == wanted


def test_rows_are_those_of_the_runtime_bit_for_bit() -> None:
    qmodel, artifact = made("dynamic-range-int8")
    ids, places = indices()
    site = next(i for i, t in enumerate(artifact.program.tensors) if t.name == "ids/embedding:out")
    table, largest = tables()[0], np.abs(tables()[0]).max()
    scale = largest / F32(127)
    wanted = (np.rint(table * (F32(1) / scale)) * scale)[ids]
    for family in BOTH:
        theirs = litert.run(artifact.data, [ids, places], family, every_tensor=True)
        found = evaluate(artifact.program, family, every_tensor=True)(ids, places)
        np.testing.assert_array_equal(theirs[site], wanted)
        np.testing.assert_array_equal(found[site], wanted)


def test_a_table_trains_through_its_integers() -> None:
    """The gradient is that of the rows read, straight through the rounding; repeated rows add up."""
    ids, places = np.array([[1, 1, 2, 0, 0, 0, 0]], np.int32), np.zeros((1, 7), np.int32)
    qmodel = jaxq.quantize(Words(), "weight-only-int8", ids, places)
    model = Words()
    quantized, plain = (nnx.grad(lambda m: jnp.sum(m(ids, places)))(m) for m in (qmodel, model))
    grads = [np.asarray(g) for g in (quantized["model"]["ids"]["embedding"][...], plain["ids"]["embedding"][...])]
    assert np.count_nonzero(np.abs(grads[0]).sum(1)) == 3
    np.testing.assert_allclose(grads[0], grads[1], rtol=0.05, atol=0.02)


def test_a_table_that_is_not_finite_is_refused() -> None:
    model = Words()
    model.ids.embedding[...] = model.ids.embedding[...].at[3, 4].set(jnp.nan)
    qmodel = jaxq.quantize(model, "dynamic-range-int8", *(a[:1] for a in indices()))
    with pytest.raises(ExportError, match="The table of ids/embedding is not finite"):
        jaxq.export.to_tflite(qmodel, progress=False)


# ---------------------------------------------------------------- EMBEDDING_LOOKUP of other writers


def lookup(dtype: str, scales: int, tail: tuple[int, ...] = (6,), out: str = "float32", rows: int = 9) -> Program:
    """One EMBEDDING_LOOKUP; `scales` 0 is a table of floats."""
    rng = np.random.default_rng(1)
    grid = Quantization(np.exp(rng.uniform(-6, -3, scales)).astype(F32), np.zeros(scales, np.int64), 0)
    most = {"int4": 7, "int8": 127}.get(dtype, 1)
    data = rng.normal(size=(rows, *tail)).astype(F32)
    if scales:
        data = rng.integers(-most - 1, most + 1, data.shape).astype(np.int8)
    table = Tensor("table", data.shape, dtype, grid if scales else None, data)
    tensors = (Tensor("ids", (5,), "int32"), table, Tensor("y", (5, *tail), out, grid if out != "float32" else None))
    op = Operator("EMBEDDING_LOOKUP", (0, 1), (2,))
    program = Program(tensors, (op,), (0,), (2,))
    versioned = dataclasses.replace(op, version=lowest_version(call_of(program, op)))
    return dataclasses.replace(program, operators=(versioned,))


LOOKUPS = {
    "float": lookup("float32", 0),
    "float, three axes": lookup("float32", 0, (2, 3)),
    "int8": lookup("int8", 1),
    "int8, by row, three axes": lookup("int8", 9, (3, 2)),
    "int8 to int8": lookup("int8", 1, out="int8"),
    "int4": lookup("int4", 1),
    "int4, by row": lookup("int4", 9),
}


@pytest.mark.parametrize("name", LOOKUPS)
def test_embedding_lookup_is_litert_s(name: str) -> None:
    program, ids = LOOKUPS[name], np.array([0, 8, 3, 3, 1], np.int32)
    data = write(program)
    for family in BOTH:
        (wanted,), (found,) = litert.run(data, [ids], family), evaluate(read(data), family)(ids)
        np.testing.assert_array_equal(found, wanted)
    assert program.operators[0].version == (4 if "row" in name or "int4" in name else 1)


def test_embedding_lookup_is_refused_where_it_does_not_fit() -> None:
    program = LOOKUPS["int8"]
    wrong = dataclasses.replace(program.tensors[0], shape=(5, 1))
    with pytest.raises(FormatError, match=r"EMBEDDING_LOOKUP\) reads shape \(5, 1\) as input 0, of rank 1"):
        jaxq.load(write(dataclasses.replace(program, tensors=(wrong, *program.tensors[1:]))))
    rows = LOOKUPS["int8, by row, three axes"]
    whole = Tensor("y", rows.tensors[2].shape, "int8", Quantization.of(0.1))
    with pytest.raises(FormatError, match="looks up int8 of rows with scales of their own"):
        jaxq.load(write(dataclasses.replace(rows, tensors=(*rows.tensors[:2], whole))))
    columns = Quantization(np.full(6, 0.1, F32), np.zeros(6, np.int64), 1)
    table = dataclasses.replace(program.tensors[1], quantization=columns)
    with pytest.raises(FormatError, match="looks up rows with a scale for each index of axis 1"):
        jaxq.load(write(dataclasses.replace(program, tensors=(program.tensors[0], table, program.tensors[2]))))
    with pytest.raises(ExportError, match="TFLite Micro looks up rows of float32 and of int8 with one scale"):
        jaxq.load(write(LOOKUPS["int8, by row, three axes"]), family="tflm")(np.zeros(5, np.int32))


NODES = np.random.default_rng(6).normal(size=(4, 6)).astype(np.float32)
EDGES = np.array([3, 0, 0, 2, 1, 3, 3], np.int32)
KERNEL = np.random.default_rng(7).normal(size=(6, 5)).astype(np.float32)


def gathered(p: Any, edges: Any, nodes: Any) -> jax.Array:
    """A row of an activation for each edge, as networks on graphs read them."""
    return jnp.tanh(nodes @ p)[edges]


def of_nodes(recipe: Any) -> tuple[Any, Any]:
    q = jaxq.quantize(gathered, recipe, KERNEL, EDGES, NODES)
    return q, jaxq.calibrate(q, [(EDGES, NODES)], KERNEL, q.init(KERNEL, EDGES, NODES), progress=False)


def test_rows_of_an_activation_have_its_range() -> None:
    q, ranges = of_nodes("int8")
    assert sorted(ranges) == ["fully_connected", "input_1"]  # TFLite prescribes that of TANH, which the rows have
    found = np.asarray(q.apply(KERNEL, ranges, EDGES, NODES))
    every = np.asarray(q.apply(KERNEL, ranges, np.array([0, 1, 2, 3, 0, 0, 0], np.int32), NODES))
    np.testing.assert_array_equal(found, every[EDGES])
    np.testing.assert_allclose(found, gathered(KERNEL, EDGES, NODES), atol=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["int8", "int16x8", {"target": "tflm"}, "dynamic-range-int8"])
def test_rows_of_an_activation_are_the_file_s(recipe: Any) -> None:
    q, ranges = of_nodes(recipe)
    artifact = jaxq.export.to_tflite(q, KERNEL, ranges, verify=(EDGES, NODES), progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
