"""BERT: sizes as published, hidden states of the reference implementation, one network in NNX and Linen, integers that
are equal, sentences that are split without a leak.
"""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import struct
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import ExportError, InputError, WeightsError
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.recipes import (
    bert,
    bert_linen,
    bert_policies,
    mobilebert,
    movie_embedding,
    movie_rating,
    movie_sentiment,
    sentences,
    weights,
)
from jaxq.recipes.safetensors_weights import read_safetensors
from tests.test_cli import call, refused

GOLDEN = json.loads((pathlib.Path(__file__).parent / "golden" / "minilm.json").read_text())
SMALL = bert.Config(1, 16, 2, 32, vocabulary=64, positions=16)


def count(model: Any) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def some_tokens(n: int = 16, length: int = 8) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(0)
    mask = np.arange(length) < rng.integers(2, length + 1, (n, 1))
    return jnp.asarray(rng.integers(1, SMALL.vocabulary, (n, length)) * mask, jnp.int32), jnp.asarray(mask)


def small(**kwargs: Any) -> Any:
    model = bert.SentenceModel(SMALL, 2, rngs=nnx.Rngs(0), **kwargs)
    model.eval()
    return model


@pytest.mark.parametrize("name", bert.CONFIGS)
def test_an_encoder_is_of_the_published_size(name: str) -> None:
    config = bert.CONFIGS[name]
    encoder = nnx.eval_shape(lambda: bert.Bert(config, rngs=nnx.Rngs(0)))
    pooler = config.width * (config.width + 1)
    assert count(encoder) + pooler == GOLDEN["parameters"][name]


def test_mobilebert_is_of_the_published_size() -> None:
    configs = [mobilebert.Config(layers=n) for n in (1, 2)]
    one, two = (count(nnx.eval_shape(lambda c=c: mobilebert.MobileBert(c, rngs=nnx.Rngs(0)))) for c in configs)
    assert one + 23 * (two - one) + 512 * 513 == GOLDEN["parameters"]["mobilebert"]


def test_padding_changes_nothing() -> None:
    ids, mask = some_tokens()
    for pooling in ("mean", "first"):
        model = small(pooling=pooling)
        np.testing.assert_allclose(model(jnp.where(mask, ids, 7), mask), model(ids, mask), atol=1e-6)


def test_the_mean_is_over_the_tokens() -> None:
    x, mask = jax.random.normal(jax.random.key(0), (3, 5, 4)), jnp.arange(5) < jnp.array([[1], [3], [5]])
    wanted = [row[kept].mean(0) for row, kept in zip(x, mask, strict=True)]
    np.testing.assert_allclose(bert.mean_over(x, mask), np.stack(wanted), atol=1e-6)


def test_a_bound_is_part_of_the_op_that_makes_the_tensor() -> None:
    ids, mask = some_tokens()
    free, bound = (jaxq.quantize(bert.bounded(small(), clip), "int8", ids[:1], mask[:1]) for clip in (None, 0.5))
    assert [op.kind for op in free.plan.graph.ops] == [op.kind for op in bound.plan.graph.ops]
    jaxq.calibrate(bound, [(ids, mask)], progress=False)
    for site in ("encoder/layers/0/down/kernel:out", "add_1", "add_2"):
        assert np.all(np.abs(bound.ranges[site]["observed"][...]) <= 0.5)
    assert np.any(np.abs(small()(ids, mask) - bert.bounded(small(), 0.5)(ids, mask)) > 1e-3)


@pytest.mark.parametrize("clip", [0.0, -1.0, math.nan])
def test_a_bound_that_leaves_nothing(clip: float) -> None:
    ids, mask = some_tokens()
    with pytest.raises(InputError, match=f"clip is {clip}. Give a positive number, or None"):
        bert.bounded(small(), clip)(ids, mask)


def test_a_model_whose_sums_are_not_bounded() -> None:
    with pytest.raises(
        InputError, match="Linear has no jaxq.recipes.bert.Layer whose sums .*Clip them where the model adds"
    ):
        bert.bounded(nnx.Linear(2, 2, rngs=nnx.Rngs(0)), 24.0)


@pytest.mark.parametrize("clip", [None, 0.5])
def test_linen_has_the_same_numbers_and_plan(clip: float | None) -> None:
    model, (ids, mask) = bert.bounded(small(), clip), some_tokens()
    flat = {k: np.asarray(v[...]) for k, v in nnx.to_flat_state(nnx.state(model, nnx.Param))}
    variables: dict[str, Any] = {"params": {}}
    for path, array in flat.items():
        node = variables["params"]
        *modules, leaf = "/".join(map(str, path)).replace("layers/", "layers_").split("/")
        for module in modules:
            node = node.setdefault(module, {})
        node[leaf] = array
    module = bert_linen.SentenceModel(dataclasses.replace(SMALL, clip=clip), 2)
    np.testing.assert_allclose(np.asarray(module.apply(variables, ids, mask)), model(ids, mask), atol=1e-6)
    plans = [jaxq.quantize(m, "int8", ids[:1], mask[:1]).plan for m in (model, module)]
    assert [op.kind for op in plans[0].graph.ops] == [op.kind for op in plans[1].graph.ops]


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["int8", "int16"])
def test_every_integer_is_equal(policy: str) -> None:
    ids, mask = some_tokens()
    qmodel = jaxq.quantize(small(), bert_policies.POLICIES[policy], ids[:1], mask[:1])
    jaxq.calibrate(qmodel, [(ids, mask)], progress=False)
    artifact = jaxq.export.to_tflite(qmodel, verify=(ids[:4], mask[:4]))
    assert artifact.certificate is not None and artifact.certificate.ok
    assert not any(tensor.dtype == "float32" for tensor in artifact.program.tensors)
    (found,) = artifact.run(ids, mask)
    assert np.max(np.abs(found - small()(ids, mask))) < 0.2 * np.max(np.abs(found))


@pytest.fixture(scope="module")
def unpadded() -> Any:
    """Calibrated on sentences without padding."""
    ids, _ = some_tokens()
    qmodel = jaxq.quantize(small(), "int8", ids[:1])
    jaxq.calibrate(qmodel, [jnp.maximum(ids, 1)], progress=False)
    return qmodel


def test_a_mask_that_calibration_never_saw_has_room_in_the_range(unpadded: Any) -> None:
    low = float(unpadded.ranges["select_1"]["observed"][...][0])
    assert low == pytest.approx(-12.0)


WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "fine", "film", "##s")


def described(outputs: TensorMetadata, words: tuple[str, ...] = WORDS) -> Metadata:
    rest = tuple(f"word{i}" for i in range(SMALL.vocabulary - len(words)))
    return Metadata(inputs=(TensorMetadata("ids"),), outputs=(outputs,), vocabulary=words + rest)


def test_infer_reads_a_sentence(unpadded: Any, tmp_path: pathlib.Path) -> None:
    labels = TensorMetadata("rating", labels=("negative", "positive"))
    artifact = jaxq.export.to_tflite(unpadded, metadata=described(labels))
    found = call("infer", artifact.save(tmp_path / "labelled.tflite"), "A fine films", "--json").json
    (logits,) = artifact.run(np.array([[2, 4, 5, 6, 7, 3, 0, 0]], np.int32))
    scores = {c["label"]: c["score"] for c in found["outputs"][0]["classes"]}
    np.testing.assert_allclose([scores["negative"], scores["positive"]], logits[0], atol=1e-6)
    plain = jaxq.export.to_tflite(unpadded, metadata=described(TensorMetadata("embedding")))
    found = call("infer", plain.save(tmp_path / "plain.tflite"), "A fine films", "--json").json
    np.testing.assert_allclose(found["outputs"][0]["embedding"], logits[0], atol=1e-6)
    other = jaxq.export.to_tflite(unpadded, metadata=described(labels, ("[PAD]", "[UNK]")))
    said = refused(1, "infer", other.save(tmp_path / "other.tflite"), "A fine films")
    assert said.startswith("The file's vocabulary of 64 tokens lacks [CLS], [SEP]: not BERT's.")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [movie_sentiment, movie_rating, movie_embedding])
def test_the_recipe_runs(recipe: ModuleType, tmp_path: pathlib.Path) -> None:
    summary = recipe.run(tmp_path, smoke=True)
    for name in ("int8", "int8_4", "int8_16"):  # one file for each length
        assert summary[f"{name} compared"] > 0
        assert summary[f"{name} differing"] == {"xnnpack": 0, "reference": 0}
        assert jaxq.load(tmp_path / f"{name}.tflite").program.tensors
    with pytest.raises(ExportError, match="Go on with --resume"):
        recipe.run(tmp_path, smoke=True)
    assert recipe.run(tmp_path, smoke=True, resume=True) == summary


@pytest.mark.slow
def test_a_recipe_of_one_policy(tmp_path: pathlib.Path) -> None:
    summary = movie_sentiment.run(tmp_path, policy="int16", smoke=True)
    assert summary["int16 differing"] == {"xnnpack": 0, "reference": 0} and "int8 differing" not in summary


@pytest.mark.parametrize("recipe", [movie_sentiment, movie_rating, movie_embedding])
def test_a_policy_that_there_is_not(recipe: ModuleType, tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="The policy 'int4' is none of int8, int16, float. Give one of these."):
        recipe.run(tmp_path / "run", policy="int4")
    assert not (tmp_path / "run").exists()


# --- weights and text ----------------------------------------------------------------------------------------------


def safetensors(header: bytes, body: bytes) -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def test_safetensors_are_read() -> None:
    header = b'{"__metadata__": {}, "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]}}'
    found = read_safetensors(safetensors(header, np.array([1, 2], "<f4").tobytes()))
    np.testing.assert_array_equal(found["a"], [[1], [2]])


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b'{"a": {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}}', "invalid shape, data type, or offset"),
        (b'{"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}', "file not fully covered"),
        (b'{"a": {"dtype": "pickle", "shape": [2], "data_offsets": [0, 8]}}', "`pickle`"),
        (b'{"a": [1]}', "invalid type: integer"),
        (b"[", "invalid JSON in header"),
    ],
)
def test_no_safetensors(header: bytes, said: str) -> None:
    with pytest.raises(WeightsError, match=f"Not a safetensors file: .*{said}.* Fetch it again"):
        read_safetensors(safetensors(header, bytes(8)))


def test_a_sentence_is_on_one_side_however_it_is_written() -> None:
    texts = ["A fine film.", "a FINE film", "'A fine film'"]
    assert len({sentences.tested(text) for text in texts}) == 1
    share = np.mean([sentences.tested(f"sentence {i}") for i in range(2000)])
    assert 0.17 < share < 0.23


def test_sentences_that_are_not_here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    by_hand = "pip download --no-deps --no-binary=:all: vaderSentiment==3.3.2"
    with pytest.raises(WeightsError, match=f"pip could not download vaderSentiment 3.3.2: .*{by_hand}"):
        sentences.movie_sentences()


def test_a_tokenizer_that_is_not_here(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JAXQ_CACHE", str(tmp_path))
    with pytest.raises(WeightsError, match="MiniLM-L6-v2 are not in .*To fetch them once: jaxq weights all-MiniLM"):
        sentences.tokenizer_json()


@pytest.mark.slow
def test_hidden_states_are_those_of_the_reference_implementation() -> None:
    weights.install("all-MiniLM-L6-v2")
    model = weights.pretrained("all-MiniLM-L6-v2")
    ids, mask = jnp.array(GOLDEN["ids"], jnp.int32), jnp.array(GOLDEN["mask"], bool)
    x = model.encoder.embeddings(ids)
    hidden = [x, *(x := layer(x, mask) for layer in model.encoder.layers)]
    found = [np.concatenate([h[0, 3, :6], h[1, 7, -6:]]) for h in hidden]
    np.testing.assert_allclose(found, GOLDEN["hidden"], atol=1e-4)
    np.testing.assert_allclose(model(ids, mask)[:, :16], GOLDEN["pooled"], atol=1e-4)


@pytest.mark.slow
def test_sentences_become_the_tokens_of_the_reference_implementation() -> None:
    weights.install("all-MiniLM-L6-v2")
    tokens = sentences.tokenize(GOLDEN["sentences"], 32, sentences.tokenizer_json())
    np.testing.assert_array_equal(tokens.ids, GOLDEN["ids"])
    np.testing.assert_array_equal(tokens.mask, GOLDEN["mask"])


@pytest.mark.slow
def test_the_sentences_are_split_without_a_leak() -> None:
    train, test = sentences.movie_sentences()
    assert (len(train.texts), len(test.texts)) == (8058, 2014)
    assert not set(train.texts) & set(test.texts)
    assert 0.49 < np.mean(test.labels) < 0.51 and np.min(np.abs(test.ratings)) >= 0.5
