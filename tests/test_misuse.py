"""What a user does wrong, and what jaxq then says: the exception, and the words that matter."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import re
from collections.abc import Callable
from typing import Any

import flax.linen
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

import jaxq
import jaxq.export
from jaxq.errors import (
    CalibrationError,
    CaptureError,
    ExportError,
    FormatError,
    InputError,
    JaxqError,
    PlanError,
    RangeError,
    RecipeError,
    TargetError,
    UnmatchedRuleError,
)
from tests.promotion import promoting_updates
from tests.zoo import proof_of

FILE = pathlib.Path(__file__).name
X = np.random.default_rng(0).normal(size=(8, 6, 6, 1)).astype(np.float32)
ROWS = X.reshape(8, 36)[:, :6]
LEARNED = {"weights": {"ranges": "learned"}}
HEAD = "head/kernel:out"


class Net(nnx.Module):
    """Convolution, mean, dense."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.conv = nnx.Conv(1, 4, (3, 3), rngs=rngs)
        self.head = nnx.Linear(4, 3, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.head(jnp.mean(nnx.relu(self.conv(x)), (1, 2)))


class Dropping(nnx.Module):
    """Dropout after a dense layer."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.head, self.dropout = nnx.Linear(6, 3, rngs=rngs), nnx.Dropout(0.5, rngs=rngs)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.dropout(self.head(x))


class Placed(nnx.Module):
    """Two quantizers by hand on one tensor."""

    def __init__(self, rngs: nnx.Rngs) -> None:
        self.head = nnx.Linear(6, 3, rngs=rngs)
        self.first, self.second = jaxq.FakeQuant(), jaxq.FakeQuant()

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.second(self.first(self.head(x)))


def fresh(recipe: Any = "int8") -> Any:
    """Quantized, not calibrated."""
    return jaxq.quantize(Net(nnx.Rngs(0)), recipe, X[:1])


def ready(recipe: Any = "int8") -> Any:
    """Quantized and calibrated."""
    qmodel = fresh(recipe)
    jaxq.calibrate(qmodel, [X], progress=False)
    return qmodel


@functools.cache
def artifact() -> jaxq.export.Artifact:
    return jaxq.export.to_tflite(ready(), progress=False)


def calibrate(batches: Any, qmodel: Any = None, **options: Any) -> Any:
    return jaxq.calibrate(qmodel or fresh(), batches, progress=False, **options)


def exhausted() -> Any:
    batches = (batch for batch in [X])
    list(batches)
    return batches


def with_value(array: np.ndarray, *values: float) -> np.ndarray:
    changed = array.copy()
    changed.reshape(-1)[: len(values)] = values
    return changed


def after_one_step() -> Any:
    qmodel = ready()
    optimizer = nnx.Optimizer(qmodel, promoting_updates(jaxq.optim.partition(optax.sgd(1e-3))), wrt=nnx.Param)
    optimizer.update(qmodel, nnx.grad(lambda m: jnp.sum(m(X)))(qmodel))
    return qmodel


def function(fn: Callable[..., Any], *inputs: np.ndarray, recipe: Any = "int8") -> jaxq.export.Artifact:
    """A function of no parameters, exported."""
    q = jaxq.quantize(fn, recipe, {}, *(x[:1] for x in inputs))
    ranges = jaxq.calibrate(q, [inputs], {}, q.init({}, *inputs), progress=False)
    return jaxq.export.to_tflite(q, {}, ranges, progress=False)


def drawn_apart() -> jaxq.export.Artifact:
    """A sum of two inputs, of which training has made one's steps next to nothing."""
    q = jaxq.quantize(lambda params, x, y: x + y, "int8", {}, X[:1], X[:1])
    ranges = jaxq.calibrate(q, [(X, X)], {}, q.init({}, X, X), progress=False)
    ranges = {**ranges, "input_1": {**ranges["input_1"], "scale": jnp.float32(1e-7)}}
    return jaxq.export.to_tflite(q, {}, ranges, progress=False)


def with_range(name: str, key: str, number: float, recipe: Any = "int8") -> Any:
    qmodel = ready(recipe)
    variable = qmodel.ranges[name][key]
    variable[...] = jnp.full_like(variable[...], number)
    return qmodel


def with_weights(number: float) -> Any:
    qmodel = ready()
    qmodel.model.head.kernel[...] = jnp.full((4, 3), number)
    return qmodel


def export(qmodel: Any) -> jaxq.export.Artifact:
    return jaxq.export.to_tflite(qmodel, progress=False)


def in_training_mode() -> Any:
    qmodel = jaxq.quantize(Dropping(nnx.Rngs(0)), "int8", ROWS)
    jaxq.calibrate(qmodel, [ROWS], progress=False)
    qmodel.train()
    return qmodel


def running(x: jax.Array) -> jax.Array:
    return jax.lax.cumlogsumexp(x, 1)


RUNNING = f"{FILE}:{running.__code__.co_firstlineno + 1} (running)"

Case = tuple[str, Callable[[], Any], type[JaxqError], str]

CALLS: list[Case] = [
    ("shape", lambda: ready()(X[:, :5]), InputError,
     "Input 0 has shape (8, 5, 6, 1); the model was quantized with (1, 6, 6, 1), and only the first axis, the batch, "
     "may differ. Resize the input, or quantize again with an example of this shape."),
    ("no batch axis", lambda: ready()(X[0]), InputError, "Input 0 has shape (6, 6, 1); the model was quantized with"),
    ("integers", lambda: ready()(X.astype(np.uint8)), InputError,
     "Input 0 has dtype uint8; the model was quantized with float32. Convert it, scaled as in training (images: "
     "`x.astype('float32') / 255`)."),
    ("too many", lambda: ready()(X, X), InputError,
     "was quantized with the inputs 0; this call gives 0, 1 (numbers are positions)."),
    ("too few", lambda: ready()(), InputError,
     "was quantized with the inputs 0; this call gives none (numbers are positions)."),
    ("another keyword", lambda: ready()(image=X), InputError,
     "was quantized with the inputs 0; this call gives image (numbers are positions)."),
    ("given twice", lambda: ready()(X, x=X), InputError,
     "was quantized with the inputs 0; this call gives 0, x (numbers are positions)."),
    ("no example", lambda: jaxq.quantize(Net(nnx.Rngs(0)), "int8"), InputError,
     'jaxq.quantize needs an example input, for its shapes: jaxq.quantize(model, "int8", images[:1]).'),
    ("no parameters", lambda: jaxq.quantize(Net(nnx.Rngs(0)).__call__, "int8", X), InputError,
     "The example of a function is its parameters and an input, and 1 was given"),
    ("quantized twice", lambda: jaxq.quantize(fresh(), "int8", X), InputError,
     "This QuantizedModel is quantized already. Quantize the float model that it was made of"),
    ("not a model", lambda: jaxq.quantize("model", "int8", X), InputError,
     "jaxq.quantize takes an nnx.Module, a Linen module or a function f(params, *inputs), not 'model'."),
    ("a class", lambda: jaxq.quantize(Net, "int8", X), InputError,
     "Net is a class. Give a model, an instance of it: jaxq.quantize(Net(...))."),
    ("a name returned", lambda: jaxq.quantize(lambda p, x: {"y": x * p, "name": "relu"}, "int8", np.ones(1), X),
     CaptureError, "The model returns 'relu', a str; the results of a file are arrays."),
    ("not calibrated", lambda: fresh()(X), RangeError, "input has no range yet"),
    ("two quantizers", lambda: jaxq.quantize(Placed(nnx.Rngs(0)), "int8", ROWS), PlanError,
     "head/kernel:out and what shares its scale pass two FakeQuant modules, fake_quant and fake_quant_1 (at "
     f"{FILE}:{Placed.__call__.__code__.co_firstlineno + 1} (__call__)); a tensor has one range. Remove one."),
]  # fmt: skip

CALIBRATION: list[Case] = [
    ("empty", lambda: calibrate([]), CalibrationError, "is empty: the iterable gave no batch."),
    ("exhausted", lambda: calibrate(exhausted()), CalibrationError, "(A generator can be read only once.)"),
    ("no examples", lambda: calibrate([X, X[:0]]), CalibrationError, "Calibration batch 1 holds no example"),
    ("not finite", lambda: calibrate([X, with_value(X, np.nan, np.inf)]), CalibrationError,
     "Calibration batch 1: input 0 holds 2 of 288 values that are NaN or infinite."),
    ("zeros", lambda: calibrate([np.zeros_like(X)]), CalibrationError,
     "input is zero in all of the calibration data: a range of no width."),
    ("bad weights", lambda: calibrate([X], with_weights(np.nan), overwrite=True), CalibrationError,
     "Calibration batch 0: head/kernel:out becomes [nan nan] in the float model, though its input is finite."),
    ("twice", lambda: calibrate([X], ready()), CalibrationError,
     "4 of 4 ranges are set already (the first is input), by calibration or by training. To discard them: "
     "jaxq.calibrate(..., overwrite=True)."),
    ("after training", lambda: calibrate([X], after_one_step()), CalibrationError, "4 of 4 ranges are set already"),
    ("None", lambda: calibrate(None), InputError, "The data is a NoneType. Give an array of examples"),
    ("text", lambda: calibrate("photos/"), InputError, "The data is a str. Give an array of examples"),
    ("shape", lambda: calibrate([X[:, :5]]), InputError, "Input 0 has shape (8, 5, 6, 1)"),
    ("numbers", lambda: calibrate([X.tolist()]), InputError, "this call holds Python numbers. Give arrays"),
    ("integers", lambda: calibrate([X.astype(np.uint8)]), InputError, "Input 0 has dtype uint8"),
    ("float model", lambda: calibrate([X], Net(nnx.Rngs(0))), InputError,
     "Net is not quantized; take the result of jaxq.quantize(model, ...)."),
    ("state", lambda: jaxq.calibrate(fresh(), [X], {}, progress=False), InputError,
     "QuantizedModel takes 0 arguments of state (none), not 1."),
]  # fmt: skip

RECIPES: list[Case] = [
    ("name", lambda: fresh("int9"), RecipeError,
     "There is no recipe 'int9'. Did you mean 'int8' or 'int4' or 'int16x8'? Or give a path to a .toml file."),
    ("field", lambda: fresh({"weights": {"per_chanel": True}}), RecipeError,
     "In the recipe: Object contains unknown field `per_chanel` - at `$.weights`. Did you mean 'per_channel'"),
    ("type", lambda: fresh({"activations": {"percentile": "high"}}), RecipeError,
     "In the recipe: Expected `float`, got `str` - at `$.activations.percentile`."),
    ("choice", lambda: fresh({"weights": {"bits": 5}}), RecipeError, "Invalid enum value 5 - at `$.weights.bits`"),
    ("type in Python", lambda: fresh(jaxq.Recipe(rules=(jaxq.Rule("*", ranges="ema"),))), RecipeError,  # type: ignore[arg-type]
     "Invalid enum value 'ema' - at `$.rules[0].ranges`"),
    ("low percentile", lambda: fresh({"activations": {"percentile": 10}}), RecipeError,
     "percentile is 10.0; it lies in (50, 100], such as 99.99."),
    ("percentile above", lambda: fresh({"activations": {"percentile": 100.5}}), RecipeError, "percentile is 100.5;"),
    ("percentile NaN", lambda: fresh({"activations": {"percentile": np.nan}}), RecipeError, "percentile is nan;"),
    ("target", lambda: fresh({"target": "edgetpv"}), RecipeError,
     "There is no target 'edgetpv'. Did you mean 'edgetpu'?"),
    ("no match", lambda: fresh({"rules": [{"match": "head/kernal", "float": True}]}), UnmatchedRuleError,
     "The rule 'head/kernal' of recipe 'custom' matches none of the model's 6 sites. Did you mean 'head/kernel' or "),
    ("rule without match", lambda: fresh({"rules": [{"float": True}]}), RecipeError,
     "Object missing required field `match` - at `$.rules[0]`"),
    ("missing file", lambda: fresh("none.toml"), RecipeError,
     "Cannot read the recipe none.toml: No such file or directory."),
]  # fmt: skip

EXPORTS: list[Case] = [
    ("not calibrated", lambda: export(fresh()), RangeError, "input has no range yet"),
    ("NaN scale", lambda: export(with_range(HEAD, "scale", np.nan)), RangeError,
     "head/kernel:out has scale nan: not finite."),
    ("infinite scale", lambda: export(with_range(HEAD, "scale", np.inf)), RangeError,
     "head/kernel:out has scale inf: not finite."),
    ("NaN zero point", lambda: export(with_range(HEAD, "zero_point", np.nan)), RangeError,
     "zero point nan: not finite."),
    ("no width", lambda: export(with_range(HEAD, "scale", 0.0)), RangeError, "a range of no width."),
    ("narrow", lambda: export(with_range(HEAD, "scale", 1e-12)), ExportError,
     "greatest scale of a product / scale of the output is"),
    ("NaN weights", lambda: export(with_weights(np.nan)), ExportError,
     "The weights of head/kernel or their scales are not finite. Did training diverge? Restore the last good "
     "checkpoint."),
    ("infinite weights", lambda: export(with_weights(np.inf)), ExportError,
     "The weights of head/kernel or their scales are not finite"),
    ("NaN weight scale", lambda: export(with_range("head/kernel", "scale", np.nan, LEARNED)), ExportError,
     "The weights of head/kernel or their scales are not finite."),
    ("ADD of unlike scales", drawn_apart, ExportError,
     "scale of input_1 / scale of the output is "),
    ("GELU for Coral", lambda: function(lambda p, x: nnx.gelu(x), X, recipe={"target": "edgetpu"}),
     TargetError, "gelu (GELU, " + FILE),
    ("island", lambda: function(lambda p, x: running(x), X), ExportError,
     f"float runs in floating point: `cumlogsumexp` ({RUNNING}) has no export rule in jaxq."),
    ("island for Coral", lambda: function(lambda p, x: running(x), X, recipe={"target": "edgetpu"}), TargetError,
     f"float (FLOAT, {RUNNING}): Coral Edge TPU does not take it"),
    ("island by rule for Coral", lambda: export(ready(
        {"target": "edgetpu", "rules": [{"match": "head/kernel", "float": True}]})), ExportError,
     "head/kernel runs in floating point: a rule of the recipe sets float = true. Remove the rule that makes it float: "
     "Coral Edge TPU computes integers only."),
    ("training mode", lambda: export(in_training_mode()), ExportError,
     "drops at random: the model is in training mode"),
    ("float model", lambda: export(Net(nnx.Rngs(0))), InputError, "Net is not quantized"),
    ("no example to verify", lambda: artifact().verify([], progress=False), InputError,
     "There is no example to verify on"),
    ("shape to verify", lambda: artifact().verify(X[:, :5], progress=False), InputError,
     "Input 0 has shape (8, 5, 6, 1)"),
    ("shape to run", lambda: artifact().run(X[:, :5]), InputError, "Input 0 has shape (8, 5, 6, 1)"),
    ("family", lambda: jaxq.export.evaluate(artifact().program, "neon"), ExportError,
     "No kernel family 'neon'. Families: xnnpack, reference, tflm."),
]  # fmt: skip


@pytest.mark.parametrize("case", [*CALLS, *CALIBRATION, *RECIPES, *EXPORTS], ids=lambda case: case[0])
def test_misuse(case: Case) -> None:
    _, misuse, kind, words = case
    with pytest.raises(kind, match=re.escape(words)) as refused:
        misuse()
    assert type(refused.value) is kind


def test_variables_that_are_none() -> None:
    q = jaxq.quantize(flax.linen.Dense(3), "int8", ROWS[:1])
    variables = flax.linen.Dense(3).init(jax.random.key(0), ROWS)
    with pytest.raises(InputError, match=r"a dict of collections, .* not dict with \['bias', 'kernel'\]"):
        jaxq.calibrate(q, [ROWS], variables["params"], progress=False)
    for use in (lambda: q.apply(variables, ROWS), lambda: jaxq.calibrate(q, [ROWS], variables, progress=False)):
        with pytest.raises(RangeError, match="There are no ranges here, and the model has 2.*which a float model"):
            use()


# --- recipe files ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"x = [", "{} is not TOML: Invalid value (at end of document)."),
        (b"\xff\xfe", "{} is not TOML: 'utf-8' codec can't decode byte 0xff"),
        (b"#" * 2_000_000, "{} has 2,000,000 bytes; a recipe has at most 262,144. Is it another file?"),
        (b"weights = 3", "In {}: Expected `object`, got `int` - at `$.weights`."),
        (b"[activation]", "In {}: Object contains unknown field `activation`. Did you mean 'activations'"),
    ],
    ids=["syntax", "not text", "size", "type", "table"],
)
def test_a_recipe_file_that_cannot_be(tmp_path: pathlib.Path, content: bytes, words: str) -> None:
    path = tmp_path / "recipe.toml"
    path.write_bytes(content)
    with pytest.raises(RecipeError, match=re.escape(words.format(path))):
        fresh(str(path))


def test_a_recipe_file_is_read(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text('name = "mine"\n[activations]\npercentile = 99\n')
    recipe = fresh(path).plan.recipe
    assert (recipe.name, recipe.activations.percentile, recipe.target) == ("mine", 99.0, "litert")


# --- numbers that are legal --------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-12])
def test_a_learned_weight_scale_cannot_push_a_bias_beyond_int32(scale: float) -> None:
    qmodel = with_range("head/kernel", "scale", scale, LEARNED)
    qmodel.model.head.bias[...] = jnp.ones(3)
    kernel = proof_of(export(qmodel)).frozen.kernels["head/kernel"]
    np.testing.assert_array_equal(np.abs(kernel.bias), 2**22)


def test_an_artifact_without_its_model_cannot_be_verified() -> None:
    alone = dataclasses.replace(export(ready()), proof=None)
    assert len(alone.run(X)) == 1
    with pytest.raises(jaxq.errors.ExportError, match="no training forward to compare them with"):
        alone.verify(X)


def test_ranges_are_replaced_when_told_to() -> None:
    qmodel = ready()
    calibrate([2 * X], qmodel, overwrite=True)
    np.testing.assert_array_equal(qmodel.ranges["input"]["observed"][...], [2 * X.min(), 2 * X.max()])


def test_a_refused_calibration_leaves_the_ranges() -> None:
    qmodel = ready()
    before = qmodel.pure_ranges()
    with pytest.raises(CalibrationError):
        calibrate([X, with_value(X, np.nan)], qmodel, overwrite=True)
    jax.tree.map(np.testing.assert_array_equal, before, qmodel.pure_ranges())


def test_keywords_go_by_their_names_whatever_their_order() -> None:
    def fn(p: Any, *, b: jax.Array, a: jax.Array) -> jax.Array:
        return a @ p + b

    w, a, b = np.ones((6, 3), np.float32), ROWS, ROWS[:, :3]
    q = jaxq.quantize(fn, "int8", w, b=b[:1], a=a[:1])
    ranges = jaxq.calibrate(q, [{"b": b, "a": a}], w, q.init(w, b=b, a=a), progress=False)
    proof = jaxq.export.to_tflite(q, w, ranges, verify={"b": b, "a": a}, progress=False).certificate
    assert proof is not None and proof.ok and proof.examples == 8


# --- files -------------------------------------------------------------------------------------------------------


def listing(folder: pathlib.Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.fixture
def place(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with an old file, an old manifest without its file, and folders where files should go."""
    (tmp_path / "old.tflite").write_bytes(b"precious")
    (tmp_path / "lone.json").write_bytes(b"{}")
    (tmp_path / "folder.tflite").mkdir()
    (tmp_path / "half.json").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("name", "force", "words"),
    [
        ("old.tflite", False, "{0}/old.tflite exists (8 bytes). Give another path, or force=True to replace it."),
        ("lone.tflite", False, "{0}/lone.json exists (2 bytes)."),
        ("model.bin", False, "{0}/model.bin does not end in .tflite; its manifest takes the same name with .json."),
        ("none/model.tflite", False, "Cannot write {0}/none/model.tflite: {0}/none does not exist."),
        (
            "old.tflite/model.tflite",
            False,
            "Cannot write {0}/old.tflite/model.tflite: {0}/old.tflite is not a directory.",
        ),
        ("folder.tflite", True, "Cannot write {0}/folder.tflite: it is a directory."),
        ("half.tflite", True, "Cannot write {0}/half.json: it is a directory."),
    ],
)
def test_a_path_that_cannot_be_written_leaves_all_as_it_was(
    place: pathlib.Path, name: str, force: bool, words: str
) -> None:
    before = listing(place)
    with pytest.raises(ExportError, match=re.escape(words.format(place))):
        artifact().save(place / name, force=force)
    assert listing(place) == before


def test_force_replaces_both_files(place: pathlib.Path) -> None:
    assert artifact().save(str(place / "old.tflite"), force=True) == place / "old.tflite"
    found = listing(place)
    assert found["old.tflite"] == artifact().data
    assert {*found} == {"lone.json", "old.json", "old.tflite"}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "The file is 0 bytes; no TFLite file is shorter than 20. Copy it again."),
        (b"TFL3", "The file is 4 bytes; no TFLite file is shorter than 20."),
        (bytes(64), r"has b'\x00\x00\x00\x00' at byte 4, where a TFLite file has b'TFL3'."),
        (np.random.default_rng(0).bytes(999), "at byte 4, where a TFLite file has b'TFL3'."),
        ("half", "it is truncated or corrupt. Copy or convert it again."),
        ("all but nine bytes", "it is truncated or corrupt."),
    ],
    ids=["empty", "short", "zeros", "random", "half", "nearly whole"],
)
def test_bytes_that_are_no_file(tmp_path: pathlib.Path, content: bytes | str, words: str) -> None:
    data = artifact().data
    whole = {"half": data[: len(data) // 2], "all but nine bytes": data[:-9]}
    path = tmp_path / "model.tflite"
    path.write_bytes(whole[content] if isinstance(content, str) else content)
    with pytest.raises(FormatError, match=re.escape(words)) as refused:
        jaxq.load(path)
    assert str(refused.value).startswith(f"{path}: ")


def test_a_file_that_cannot_be_read(tmp_path: pathlib.Path) -> None:
    with pytest.raises(FormatError, match=re.escape(f"Cannot read '{tmp_path}/none': No such file or directory.")):
        jaxq.load(tmp_path / "none")
    with pytest.raises(FormatError, match=re.escape(f"Cannot read '{tmp_path}': Is a directory.")):
        jaxq.load(tmp_path)
