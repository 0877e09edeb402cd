"""Masks from token ids, in the idioms that models are written in: integers, compared, and exact in the file."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq

WORDS, LENGTH, WIDTH, HEADS = 50, 6, 8, 2
RNG = np.random.default_rng(0)
PARAMS = {name: jnp.asarray(RNG.normal(size=(WIDTH, WIDTH)) / 3, jnp.float32) for name in "qkvo"}
PARAMS["words"] = jnp.asarray(RNG.normal(size=(WORDS, WIDTH)), jnp.float32)
IDS = np.where(np.arange(LENGTH) < RNG.integers(2, LENGTH + 1, (32, 1)), RNG.integers(1, WORDS, (32, LENGTH)), 0)
IDS = IDS.astype(np.int32)


def attention(p, ids, *, bias=None, where=None):
    """Self-attention of embedded words, [n, LENGTH, WIDTH]."""
    x = p["words"][ids]
    q, k, v = ((x @ p[n]).reshape(-1, LENGTH, HEADS, WIDTH // HEADS).swapaxes(1, 2) for n in "qkv")
    scores = q @ k.swapaxes(-1, -2) / 2
    scores = scores if bias is None else scores + bias
    scores = scores if where is None else jnp.where(where, scores, -1e9)
    return (jax.nn.softmax(scores, -1) @ v).swapaxes(1, 2).reshape(-1, LENGTH, WIDTH) @ p["o"]


def over_heads(mask):
    return mask[:, None, None, :]


def pooled(p, ids):
    """The mean over the words that are there."""
    y, there = attention(p, ids, where=over_heads(ids != 0)), (ids != 0).astype(jnp.float32)[..., None]
    return (y * there).sum(1) / there.sum(1)


IDIOMS = {
    "where": lambda p, ids: attention(p, ids, where=over_heads(ids > 0)),
    "not": lambda p, ids: attention(p, ids, where=~over_heads(ids == 0)),
    "added, chosen": lambda p, ids: attention(p, ids, bias=over_heads(jnp.where(ids >= 1, 0.0, -3e38))),
    "added, computed": lambda p, ids: attention(p, ids, bias=over_heads((1.0 - (ids != 0).astype(jnp.float32)) * -1e9)),
    "subtracted": lambda p, ids: attention(p, ids, bias=-(over_heads(1e9 * (ids < 1).astype(jnp.float32)))),
    "of flax": lambda p, ids: attention(p, ids, where=nnx.make_attention_mask(ids > 0, ids > 0).astype(bool)),
    "pooled": pooled,
}


LONG = {"added, chosen", "subtracted", "of flax", "not", "pooled"}


@pytest.mark.parametrize("idiom", [pytest.param(i, marks=[pytest.mark.slow] * (i in LONG)) for i in IDIOMS])
def test_a_mask_from_ids_is_exact(idiom):
    fn = IDIOMS[idiom]
    q = jaxq.quantize(fn, "int8", PARAMS, IDS[:1])
    ranges = jaxq.calibrate(q, [IDS], PARAMS, q.init(PARAMS, IDS[:1]), progress=False)
    assert not q.plan.islands
    artifact = jaxq.export.to_tflite(q, PARAMS, ranges, verify=IDS)
    assert artifact.certificate is not None
    assert artifact.certificate.differing_integers == {"xnnpack": 0, "reference": 0}
    real, ours = (np.asarray(y) for y in (fn(PARAMS, IDS), q.apply(PARAMS, ranges, IDS)))
    there = IDS != 0 if real.ndim == 3 else slice(None)
    np.testing.assert_allclose(ours[there], real[there], atol=0.06 * np.abs(real).max())


def test_scores_keep_their_integers_beside_a_mask_that_is_added():
    q = jaxq.quantize(IDIOMS["added, computed"], "int8", PARAMS, IDS[:1])
    (select,) = [op for op in q.plan.graph.ops if op.kind == "SELECT"]
    ranges = jaxq.calibrate(q, [IDS], PARAMS, q.init(PARAMS, IDS[:1]), progress=False)
    group = q.plan.group(select.outputs[0])
    assert group is not None
    assert float(ranges[group.name]["scale"]) < 0.2


@pytest.mark.parametrize("least", [np.finfo(np.float32).min, -np.inf])
def test_files_of_floats_hold_the_number_of_a_mask(least):
    """flax masks with float32's least number."""
    scores = np.asarray(RNG.normal(size=(4, LENGTH)), np.float32)

    def fn(p, x, there):
        return jax.nn.softmax(jnp.where(there, x @ p, least))

    w, there = np.eye(LENGTH, dtype=np.float32), np.tri(4, LENGTH, dtype=bool)
    q = jaxq.quantize(fn, "float32", w, scores[:1], there[:1])
    artifact = jaxq.export.to_tflite(q, w, q.init(w, scores[:1], there[:1]), verify=(scores, there), progress=False)
    np.testing.assert_allclose(artifact.run(scores, there)[0], fn(w, scores, there), rtol=1e-5, atol=1e-7)
