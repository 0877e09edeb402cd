"""What int8 cannot hold is said: at calibration, in the plan, in the manifest, and where outputs are worthless."""

from __future__ import annotations

import json
import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import jaxq
from jaxq.export.proof.quality import LEAST_SQNR, Quality, doubts
from jaxq.plan.findings import LEAST, Extent
from tests import zoo
from tests.test_cli import call

RNG = np.random.default_rng(0)
ROWS = RNG.normal(size=(64, 4)).astype(np.float32)
WEIGHT = RNG.normal(size=(4, 4)).astype(np.float32)


def calibrated(fn: Callable[..., Any], *inputs: np.ndarray, recipe: Any = "int8") -> tuple[Any, Any, list[str]]:
    """A function of `(w, *inputs)`, its ranges, and what calibration warned of."""
    q = jaxq.quantize(fn, recipe, WEIGHT, *(x[:1] for x in inputs))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ranges = jaxq.calibrate(q, [inputs], WEIGHT, q.init(WEIGHT), progress=False)
    assert all(w.category is jaxq.PrecisionWarning for w in caught)
    return q, ranges, [str(w.message) for w in caught]


def step(ranges: Any, name: str) -> float:
    return float(ranges[name]["scale"])


# --- members ---------------------------------------------------------------------------------------------------------


def boxes_and_scores(w: Any, x: Any) -> Any:
    """Two tensors that share the range of a concatenation, the second with a scale that TFLite prescribes."""
    y = x @ w
    return jnp.concatenate([jnp.maximum(y, 0.0) * 100.0, jax.nn.sigmoid(y)], -1)


def test_members_of_a_shared_range_that_keep_few_steps() -> None:
    q, ranges, said = calibrated(boxes_and_scores, ROWS)
    members, channels = q.findings
    scores = np.asarray(jax.nn.sigmoid(ROWS @ WEIGHT))
    assert members.kind == "members" and members.kept[0][0] == "logistic" and members.bits == 8
    assert members.kept[0][1] == pytest.approx(scores.max() / step(ranges, members.range), rel=1e-3)
    assert channels.kind == "channels" and [name for name, _ in channels.kept] == ["4", "5", "6", "7"]
    assert (channels.place, channels.of) == ("output", 8)
    assert len(said) == 2  # one for each kind
    assert said[0].startswith("precision: 1 tensor has members that 8 bits cannot hold\n")
    assert "keep fewer than 16 of its 255 steps of" in said[0] and "logistic (" in said[0]
    assert "Scale them alike inside the model and undo it on the host" in said[0]


def test_members_of_alike_extent_are_silent() -> None:
    q, _, said = calibrated(lambda w, x: jnp.concatenate([x @ w, jnp.tanh(x @ w)], -1), ROWS)
    assert not q.findings and not said


# --- channels --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", [8, 16])
def test_columns_of_unlike_scale_in_an_input(bits: int) -> None:
    recipe = {"activations": {"bits": bits}}
    columns = np.array([1e4, 1e-3, 1.0, 5000.0], np.float32)
    x = (columns * RNG.normal(1, 0.3, (64, 4))).astype(np.float32)
    q, ranges, said = calibrated(lambda w, x: (x / columns) @ w, x, recipe=recipe)
    (finding,) = q.findings
    widths = (np.maximum(x.max(0), 0) - np.minimum(x.min(0), 0)).astype(np.float64) / step(ranges, "input")
    assert [int(name) for name, _ in finding.kept] == np.flatnonzero(widths < LEAST).tolist()
    np.testing.assert_allclose([kept for _, kept in finding.kept], widths[widths < LEAST], rtol=1e-5)
    assert finding.place == "input" and "Normalise the channels on the host" in said[0]
    assert not finding.wide and "16 bits:" not in said[0]  # 16 bits do not hold a column of 1e-3 beside 1e4


def test_sixteen_bits_are_advised_where_they_are_enough() -> None:
    x = (np.array([1.0, 0.03, 1.0, 1.0]) * ROWS).astype(np.float32)
    q, _, said = calibrated(lambda w, x: x @ w, x)
    assert q.findings[0].wide and said[0].endswith('Or give it 16 bits: Rule("input", activation_bits=16).')
    edge, _, said = calibrated(lambda w, x: x @ w, x, recipe={"target": "edgetpu"})
    assert not edge.findings[0].wide and "16 bits:" not in said[0]
    wide, _, said = calibrated(lambda w, x: x @ w, x, recipe={"rules": [{"match": "input", "activation_bits": 16}]})
    assert not [f for f in wide.findings if f.site == "input"]


def test_numbers_far_from_zero() -> None:
    """Degrees Kelvin: 256 steps from zero leave a dozen to what varies."""
    kelvin = (290.0 + ROWS).astype(np.float32)
    q, _, said = calibrated(lambda w, x: (x - 290.0) @ w, kelvin)
    finding = q.findings[0]
    assert (finding.site, finding.offset, finding.of) == ("input", True, 4)
    assert "They lie far from zero and vary little: subtract their mean" in said[0]


def test_a_few_great_channels_inside() -> None:
    """The residual stream of a transformer, of which one channel is 100 times the others."""
    great = np.array([1.0, 100.0, 1.0, 1.0], np.float32)
    q, _, _ = calibrated(lambda w, x: jax.nn.relu(((x @ w) * great + x) @ w), ROWS)
    finding = q.findings[0]
    assert (finding.place, finding.kind, [c for c, _ in finding.kept]) == ("inner", "channels", ["0", "2", "3"])
    assert "A few large channels take the steps of the rest" in finding.remedy
    assert "13.6 points" in finding.remedy and "or use the recipe int16x8" in finding.remedy  # docs/results.md
    weak = np.array([1.0, 0.01, 1.0, 1.0], np.float32)
    q, _, _ = calibrated(lambda w, x: jax.nn.relu(((x @ w) * weak) @ w), ROWS)
    assert not q.findings  # one weak channel is usual


def test_what_does_not_vary_loses_nothing() -> None:
    x = ROWS.copy()
    x[:, 1] = 1e-4  # constant: no information
    assert not calibrated(lambda w, x: x @ w, x)[0].findings


def test_masked_numbers_do_not_count() -> None:
    kept = RNG.random((64, 4)) < 0.7
    q, _, said = calibrated(lambda w, x, m: jax.nn.softmax(jnp.where(m, x @ w, -1e9), -1), ROWS, kept)
    assert not q.findings and not said


# --- summands of a SOFTMAX's input ------------------------------------------------------------------------------------

FLAGS = np.where(RNG.random((64, 4)) < 0.7, 0.0, -1e4).astype(np.float32)
TABLE = 1e3 * RNG.normal(size=(2, 2)).astype(np.float32)
SUMMANDS: dict[str, tuple[Callable[..., Any], tuple[np.ndarray, ...]]] = {
    "a mask that is added": (lambda w, x, m: jax.nn.softmax(x @ w + m, -1), (ROWS, FLAGS)),
    "the least number": (lambda w, x, m: jax.nn.softmax(x @ w - m, -1), (ROWS, -FLAGS * np.float32(1e26))),
    "a mask, moved": (
        lambda w, x, m: jax.nn.softmax((x @ w + m).reshape(-1, 2, 2) + 0.5 * x.reshape(-1, 2, 2), -1), (ROWS, FLAGS)
    ),
    "a position bias": (lambda w, x: jax.nn.softmax(jnp.tanh(x @ w).reshape(-1, 2, 2) + TABLE, -1), (ROWS,)),
}  # fmt: skip


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n != "a mask, moved")) for n in SUMMANDS])
def test_scores_beside_a_large_summand(name: str) -> None:
    fn, inputs = SUMMANDS[name]
    q, ranges, said = calibrated(fn, *inputs)
    found = next(f for f in q.findings if f.kind == "summands")
    (site, kept), *_ = found.kept
    assert found.of == 2 and 0 < kept < 1.0 and found.step == pytest.approx(step(ranges, found.range))
    assert site in ("fully_connected", "tanh") and found.step > 0.5
    text = next(s for s in said if "summands" in s)
    assert "summands that 8 bits cannot hold" in text and "1 of 2 summands keep fewer than 16" in text
    assert "jnp.where(mask, scores, -1e9)" in text


def test_a_bounded_summand_is_silent() -> None:
    q, _, _ = calibrated(SUMMANDS["a mask that is added"][0], ROWS, FLAGS / 1e3)
    assert not [f for f in q.findings if f.kind == "summands"]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_a_mask_that_holds_other_numbers_is_refused(dtype: Any) -> None:
    soft = np.array([[1, 0, 1, 1]], dtype) if dtype is np.float32 else np.array([[1, 0, 2, 1]], dtype)
    fn = lambda w, x, m: jax.nn.softmax(x @ w + (1 - m).astype(jnp.float32) * -1e4, -1)  # noqa: E731
    calibrated(fn, ROWS, np.minimum(soft, 1).repeat(64, 0))
    other = soft if dtype is np.int32 else soft * np.float32(0.25)
    held = "2" if dtype is np.int32 else "0.25"
    with pytest.raises(jaxq.errors.CalibrationError, match=rf"batch 0: input 1 \(m\) holds {held}, .* as a mask"):
        calibrated(fn, ROWS, other.repeat(64, 0))


def test_a_large_factor_is_no_mask() -> None:
    q, _, _ = calibrated(lambda w, x, y: x @ w + 1e4 * y, ROWS, ROWS)
    assert "SELECT" not in {op.kind for op in q.plan.graph.ops}


def test_extents_are_merged_over_batches() -> None:
    low, high = np.array([0.0, -1.0], np.float32), np.array([1.0, 1.0], np.float32)
    both = Extent(low, high, 4).merged(Extent(low - 1, high - 1, 4))
    np.testing.assert_array_equal(both.widths(False), [2.0, 3.0])
    assert both.seen == 8


# --- where it is said ------------------------------------------------------------------------------------------------


class Linen(flax.linen.Module):
    @flax.linen.compact
    def __call__(self, x: Any) -> Any:
        return flax.linen.Dense(4)(x)


def test_the_three_frontends_say_it() -> None:
    x = (np.array([1.0, 1e-3, 1.0, 1.0]) * ROWS).astype(np.float32)
    words = "input: 1 of 4 channels keep fewer than 16 of its 255 steps"
    model = jaxq.quantize(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), "int8", x[:1])
    assert words not in str(model.plan)
    with pytest.warns(jaxq.PrecisionWarning, match=words):
        jaxq.calibrate(model, [x], progress=False)
    assert words in str(model.plan) and str(model.plan).splitlines()[-3] == "precision (1)"
    assert words in str(jaxq.analyze.health(model, x))
    module = jaxq.quantize(Linen(), "int8", x[:1])
    with pytest.warns(jaxq.PrecisionWarning, match=words):
        variables = jaxq.calibrate(module, [x], module.init(jax.random.key(0), x), progress=False)
    assert words in str(module.plan) and str(module.findings[0]).startswith("input: ")
    artifact = jaxq.export.to_tflite(module, variables)
    (found,) = artifact.manifest["precision"]["findings"]
    assert found["site"] == "input" and found["kept"][0][0] == "1" and found["remedy"].startswith("Normalise")
    json.dumps(artifact.manifest)
    q, _, said = calibrated(lambda w, x: x @ w, x)
    assert words in str(q.plan) and words in said[0]


def test_an_error_behind_it_names_the_cause() -> None:
    columns = np.array([1e4, 1e-3, 1.0, 50.0], np.float32)
    x = (columns * RNG.normal(1, 0.3, (64, 4))).astype(np.float32)
    q, ranges, _ = calibrated(lambda w, x: jax.nn.relu(((x - columns) / (0.3 * columns)) @ w), x)
    with pytest.raises(jaxq.errors.ExportError, match="Calibration found the cause: input: 3 of 4 channels") as error:
        jaxq.export.to_tflite(q, WEIGHT, ranges)
    assert "typical data" not in str(error.value) and "Normalise the channels on the host" in str(error.value)


@pytest.mark.parametrize("name", ["average_pools", "clips", "max_pools", "perceptron"])
def test_healthy_networks_are_silent(name: str) -> None:
    case = zoo.ZOO[name]()
    args, kwargs = case.first(1)
    model = jaxq.quantize(case.model, "int8", *args, **kwargs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jaxq.calibrate(model, case.batches, progress=False)


# --- outputs beside the float model's --------------------------------------------------------------------------------


def test_sqnr_and_different_results() -> None:
    floats = RNG.normal(size=(100, 3))
    coarse = np.round(floats)
    quality = Quality()
    quality.add("y", floats[:50], coarse[:50])
    quality.add("y", floats[50:], coarse[50:])
    wanted = 10 * np.log10((floats**2).sum() / ((floats - coarse) ** 2).sum())
    assert quality.sqnr["y"] == pytest.approx(wanted, abs=1e-9) and wanted < LEAST_SQNR
    assert quality.distinct["y"] == (100, len(np.unique(coarse, axis=0)))


@pytest.mark.parametrize(("results", "doubted"), [(5, True), (15, True), (16, False), (200, False)])
def test_a_file_that_does_not_tell_its_inputs_apart_is_doubted(results: int, doubted: bool) -> None:
    floats = np.linspace(1.0, 2.0, 256)[:, None]
    quality = Quality()
    quality.add("y", floats, np.floor(floats * results * 0.999) / results)
    quality = Quality({"y": 1.0}, {"y": 0.0}, quality.rows)
    quality.rows["y"] = (quality.rows["y"][0], {bytes([i]) for i in range(results)})
    texts = doubts(quality, calibrated(lambda w, x: x @ w, ROWS)[0].plan, untrained=True)
    assert bool(texts) is doubted
    assert not doubted or f"y has {results} different results where the float model has 256." in texts[0]


def test_a_certified_file_of_few_results_is_never_silent() -> None:
    x = RNG.normal(size=(256, 4)).astype(np.float32)
    q, ranges, said = calibrated(lambda w, x: jnp.tanh(x @ w)[:, :1] * 0.5 + 100.0, x)
    assert said
    with pytest.warns(jaxq.PrecisionWarning, match="the file hardly tells its inputs apart") as caught:
        artifact = jaxq.export.to_tflite(q, WEIGHT, ranges, verify=x, progress=False)
    assert artifact.certificate is not None and artifact.certificate.ok
    (entry,) = artifact.manifest["precision"]["outputs"].values()
    results = len(np.unique(artifact.run(x)[0]))
    assert entry["distinct"] == results <= 5 and entry["distinct_float"] > 200
    assert f"has {results} different results" in str(caught[-1].message)


def test_outputs_far_from_the_float_models_are_said_with_advice() -> None:
    """A range that is fifty times too wide, as after calibration on data of another kind."""
    q, ranges, said = calibrated(lambda w, x: x @ w, ROWS * 50)
    assert not said
    with pytest.warns(jaxq.PrecisionWarning, match=r"SQNR below 15 dB\): .* dB\. Calibrate on typical data"):
        artifact = jaxq.export.to_tflite(q, WEIGHT, ranges, verify=ROWS, progress=False)
    (entry,) = artifact.manifest["precision"]["outputs"].values()
    floats = ROWS @ WEIGHT
    noise = ((floats - artifact.run(ROWS)[0]) ** 2).sum()
    assert entry["sqnr"] == pytest.approx(10 * np.log10((floats**2).sum() / noise), abs=0.01)


@pytest.mark.parametrize("recipe", ["int4", "weight-only-int4"])
def test_four_bits_without_training(recipe: str) -> None:
    model = jaxq.quantize(nnx.Linear(4, 4, rngs=nnx.Rngs(0)), recipe, ROWS[:1])
    if recipe == "int4":
        jaxq.calibrate(model, [ROWS], progress=False)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        jaxq.export.to_tflite(model)
        said = [str(w.message) for w in caught]
        model.model.kernel[...] *= 1.01
        jaxq.export.to_tflite(model)
    assert len(said) == len(caught) == (recipe == "int4")  # a trained model, the second, is not doubted
    assert not said or said[0].startswith(
        "precision: 1 of 1 weights have 4 bits (the first is kernel) and were not trained"
    )


class Encoder(nnx.Module):
    """Blocks of attention, each on a residual stream; `bound` clips its sums."""

    def __init__(self, blocks: int, bound: float | None, rngs: nnx.Rngs) -> None:
        self.layers = nnx.List([nnx.Linear(4, 4, rngs=rngs) for _ in range(blocks)])
        self.bound = bound

    def __call__(self, x: jax.Array) -> jax.Array:
        for layer in self.layers:
            y = layer(x)
            y = x + jax.nn.softmax(y @ y.swapaxes(1, 2)) @ y
            x = y if self.bound is None else jnp.clip(y, -self.bound, self.bound)
        return x


@pytest.mark.parametrize(
    "blocks, bound, recipe, sums",
    [(3, None, "int8", 2), (3, None, "int4", 2), (3, 4.0, "int8", 0), (1, None, "int8", 0), (3, None, "int16x8", 0)],
)
def test_a_plain_transformer_in_8_bits(blocks: int, bound: float | None, recipe: str, sums: int) -> None:
    q = jaxq.quantize(Encoder(blocks, bound, nnx.Rngs(0)), recipe, ROWS.reshape(4, 16, 4)[:1])
    found = [text for text in doubts(Quality(), q.plan, True) if "residual stream" in text]
    assert len(found) == (sums > 0) and not doubts(Quality(), q.plan, False)
    if found:
        assert found[0].startswith(f"precision: {sums} sums of a transformer's residual stream (the first is add)")
        assert "A plain BERT lost 13.6 points" in found[0] and "use the recipe int16x8" in found[0]
        near = Quality({"y": 1.0}, {"y": 1e-3})
        assert not [text for text in doubts(near, q.plan, True) if "residual stream" in text]


def test_four_bits_without_training_in_linen() -> None:
    module = flax.linen.Dense(4)
    variables = module.init(jax.random.key(0), ROWS)
    q = jaxq.quantize(module, "int4", ROWS[:1])
    variables = jaxq.calibrate(q, [ROWS], {**q.init(jax.random.key(0), ROWS[:1]), **variables}, progress=False)
    with pytest.warns(jaxq.PrecisionWarning, match="1 of 1 weights have 4 bits .* and were not trained"):
        jaxq.export.to_tflite(q, variables)


def test_the_command_says_it(tmp_path: pathlib.Path) -> None:
    (tmp_path / "m.py").write_text(
        "import numpy as np\nfrom flax import nnx\n"
        "def f(): return nnx.Linear(4, 4, rngs=nnx.Rngs(0)), np.zeros((1, 4), np.float32)\n"
    )
    np.save(tmp_path / "x.npy", (np.array([1.0, 1e-3, 1.0, 1.0]) * ROWS).astype(np.float32))
    files = ("--out", tmp_path / "m.tflite", "--calibrate", tmp_path / "x.npy")
    found = call("export", f"{tmp_path}/m.py:f", *files, "--json")
    assert found.code == 0
    assert found.json["precision"]["findings"][0]["site"] == "input"
    assert "warning: precision: 1 tensor has channels that 8 bits cannot hold" in found.err
