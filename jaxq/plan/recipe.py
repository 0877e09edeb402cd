"""A recipe says how a model is quantized: one frozen value, from Python, a dict, a TOML file, or the name of a
shipped one.

    Recipe(rules=(Rule("head/*", float=True),))
    {"activations": {"ranges": "ema"}, "rules": [{"match": "head/*", "float": true}]}

Rules match site names by glob (`fnmatch`: `*` crosses slashes). Later rules win. A rule that matches nothing is an
error.
"""

from __future__ import annotations

import fnmatch
import os
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, Literal, get_args

import msgspec

from jaxq.display.text import did_you_mean, shortened
from jaxq.errors import RecipeError, UnmatchedRuleError
from jaxq.gradients.backward import Backward
from jaxq.plan.target import target_named
from jaxq.plan.toml_file import read_toml

IOType = Literal["int8", "uint8", "float32"]
Calibration = Literal["entropy", "mean", "minmax", "mse", "percentile"]  # of activations: `jaxq.observers.METHODS`
WeightCalibration = Literal["max", "mse", "octav"]  # `jaxq.observers.WEIGHT_METHODS`
TrainedRanges = Literal["clip", "frozen", "learned", "lsq", "lsq+", "tqt"]  # of one site
Ranges = Literal[TrainedRanges, "ema"]  # `jaxq.range_methods.METHODS`
WeightRanges = Literal["follow", "frozen", "learned"]
Percent = float
Pass = Literal["equalize", "smooth", "round", "gptq", "bias", "norm"]  # `jaxq.ptq.improve.PASSES`


class Weights(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Weights: symmetric integers in [-127, 127], of 4 bits in [-7, 7].

    Args:
      bits: 8 or 4; with float activations also 16 or 32, which are floats.
      per_channel: one scale for each output channel; else one for the tensor.
      ranges: "follow" (scale = max|w| / 127 at every step), "learned" (a trained scale), or "frozen" (as initialised).
      calibration: where a learned or frozen scale starts: "max" (max|w| / 127), "mse" (least squared error, by search)
        or "octav" (the same, by Newton's iteration).

    Example:
      >>> Recipe(weights=Weights(bits=4)).weights.per_channel
      True
    """

    bits: Literal[4, 8, 16, 32] = 8
    per_channel: bool = True
    ranges: WeightRanges = "follow"
    calibration: WeightCalibration = "max"


class Activations(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Activations: one scale and one zero point for each tensor.

    Args:
      bits: 8; 16, which is symmetric, where TFLite has kernels for it; or 32, floats.
      dynamic: with 32 bits, the device quantizes what convolutions and dense layers read, by the range that it sees.
      symmetric: zero point 0.
      ranges: by gradient, "lsq+" (scale and rounded zero point), of which "learned" is another name, "lsq" (the scale
        alone), "tqt" (a power of two, by its logarithm), or "clip" (the range's ends, PACT); "frozen"; or "ema" (moving
        min and max, Jacob et al. 2018).
      observe: keep the moving min and max up to date in training also when ranges are learned, for
        `jaxq.optim.partition(observe=n)`.
      calibration: "minmax", "percentile", "mse" (least squared error), "entropy" (least loss of information,
        TensorRT's), or "mean" (the average of each batch's extremes).
      percentile: in (50, 100]; "percentile" clips `100 - percentile` per cent, at both ends together.

    Example:
      >>> Recipe(activations=Activations(calibration="percentile", percentile=99.9)).activations.bits
      8
    """

    bits: Literal[8, 16, 32] = 8
    dynamic: bool = False
    symmetric: bool = False
    ranges: Ranges = "learned"
    observe: bool = False
    calibration: Calibration = "minmax"
    percentile: float = 99.99


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes for the sites or ops whose name matches a glob. None leaves a choice as it was.

    Args:
      match: the glob (`fnmatch`: `*` crosses slashes), such as `head/*`.
      float: run the op in floating point; of dynamic range, without quantizing its input.
      ranges: as of activations; weights take "learned" and "frozen" of it.
      symmetric: zero point 0.
      weight_bits: 4 or 8; with float activations 32 leaves a kernel or an embedding table in float32, and 8 stores in
        dynamic range also one of fewer than 1,024 elements, which otherwise stays in float32.
      activation_bits: 8 or 16.
      per_channel: a scale for each output channel of the weights, or one.
      calibration: how the range of the activations or of the weights is found, as far as the method is for them ("mse"
        is for both).
      percentile: for "percentile", in (50, 100].

    Example:
      >>> Recipe(rules=(Rule("stem/*", ranges="frozen"),)).rules[0].match
      'stem/*'
    """

    match: str
    float: bool | None = None
    ranges: TrainedRanges | None = None
    symmetric: bool | None = None
    weight_bits: Literal[4, 8, 32] | None = None
    activation_bits: Literal[8, 16] | None = None
    per_channel: bool | None = None
    calibration: Calibration | WeightCalibration | None = None
    percentile: Percent | None = None


class Recipe(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to quantize a model.

    Args:
      name: as plan and manifest print it.
      target: a name of docs/targets.md, such as "litert", "tflm", "edgetpu".
      input: the element type of the file's inputs: "int8", "uint8" or "float32".
      output: of its outputs.
      weights: of every weight.
      activations: of every activation.
      rules: changes for the sites that match a glob; later rules win.
      ties: sets of tensors, by the names of sites or of the file's ends, that share one range; a state that leaves a
        streaming model and enters it again.
      carrier: the float type that holds integers in training ("bfloat16" is exact, and fast on an accelerator).
      backward: how gradients of contractions are quantized in training, None for float gradients; the forward pass and
        the file do not depend on it.
      passes: what `jaxq.ptq.improve` runs after calibration.
      norm: what the running statistics of a folded BatchNorm do in training: "frozen", or "follow" the batches by a
        moving average (`jaxq.optim.partition(norm_decay=, norm_freeze=)`), held among the ranges. The forward pass
        computes with running statistics either way.

    Example:
      >>> Recipe(name="uint8 in", input="uint8").output
      'int8'
    """

    name: str = "custom"
    target: str = "litert"
    input: IOType = "int8"
    output: IOType = "int8"
    weights: Weights = Weights()
    activations: Activations = Activations()
    rules: tuple[Rule, ...] = ()
    ties: tuple[tuple[str, ...], ...] = ()
    carrier: Literal["float32", "bfloat16"] = "float32"
    backward: Backward | None = None
    passes: tuple[Pass, ...] = ()
    norm: Literal["frozen", "follow"] = "frozen"

    @property
    def floats(self) -> bool:
        """Whether activations are floats."""
        return self.activations.bits == 32


def _floating(name: str, bits: Literal[4, 8, 16, 32], dynamic: bool = False) -> Recipe:
    """Float activations; weights stored in so many bits."""
    ends: Any = {"input": "float32", "output": "float32"}
    return Recipe(name=name, weights=Weights(bits=bits), activations=Activations(bits=32, dynamic=dynamic), **ends)


SHIPPED: dict[str, Recipe] = {
    "dynamic-range-int8": _floating("dynamic-range-int8", 8, dynamic=True),
    "float16": _floating("float16", 16),
    "float32": _floating("float32", 32),
    "int8": Recipe(name="int8"),
    "int4": Recipe(name="int4", weights=Weights(bits=4)),
    "int16x8": Recipe(name="int16x8", activations=Activations(bits=16)),
    "int8-ema": Recipe(name="int8-ema", activations=Activations(ranges="ema")),
    "int8-float-io": Recipe(name="int8-float-io", input="float32", output="float32"),
    "int8-uint8-io": Recipe(name="int8-uint8-io", input="uint8", output="uint8"),
    "weight-only-int4": _floating("weight-only-int4", 4),
    "weight-only-int8": _floating("weight-only-int8", 8),
}


def read_recipe(source: Recipe | str | os.PathLike[str] | Mapping[str, Any]) -> Recipe:
    """A recipe from a Recipe, a shipped name, a mapping, or the path of a TOML file.

    Raises:
      RecipeError: it is none of these, cannot be read, or has a field or value that is unknown.
    """
    if isinstance(source, Recipe):
        return _convert(msgspec.to_builtins(source), "the recipe")  # a constructor checks no types
    if isinstance(source, Mapping):
        return _convert(source, "the recipe")
    if isinstance(source, str) and source in SHIPPED:
        return SHIPPED[source]
    if not isinstance(source, str | os.PathLike):
        raise RecipeError(
            f"The recipe is a {type(source).__name__}; it is a Recipe, a name, a dict or a path. After the model "
            "comes the "
            'recipe, then the example: jaxq.quantize(model, "int8", images[:1]).'
        )
    path = pathlib.Path(source)
    if path.suffix != ".toml":
        raise RecipeError(
            f"There is no recipe {shortened(str(source))!r}. {did_you_mean(str(source), SHIPPED)} Or give a path to a "
            ".toml file."
        )
    return _convert(read_toml(path), shortened(str(path)))


def _convert(values: Mapping[str, Any], where: str) -> Recipe:
    try:
        return _checked(msgspec.convert(dict(values), Recipe), where)
    except msgspec.ValidationError as e:
        raise RecipeError(f"In {where}: {shortened(str(e))}.{_suggestion(str(e))}") from e


def _checked(recipe: Recipe, where: str) -> Recipe:
    target_named(recipe.target)
    if {"round", "gptq"} <= set(recipe.passes):
        raise RecipeError(f'In {where}: passes has "round" and "gptq", which choose the same integers. Keep one.')
    for percentile in (
        recipe.activations.percentile,
        *(r.percentile for r in recipe.rules if r.percentile is not None),
    ):
        if not 50.0 < percentile <= 100.0:
            raise RecipeError(f"In {where}: percentile is {percentile}; it lies in (50, 100], such as 99.99.")
    if recipe.weights.calibration != "max" and recipe.weights.ranges == "follow":
        raise RecipeError(
            f'In {where}: weights.calibration is "{recipe.weights.calibration}", and weights.ranges is "follow": a '
            'scale that follows max|w| at every step has no calibration. Set weights.ranges to "learned" or "frozen".'
        )
    if recipe.weights.bits > 8 and not recipe.floats:
        raise RecipeError(
            f"In {where}: weights of {recipe.weights.bits} bits are floats, and activations are integers of "
            f"{recipe.activations.bits}. Set activations.bits = 32, or weights.bits = 8."
        )
    wide = next((rule.match for rule in recipe.rules if rule.weight_bits == 32), None)
    if wide is not None and not recipe.floats:
        raise RecipeError(
            f"In {where}: the rule {wide!r} asks for weights of 32 bits, and activations are integers of "
            f"{recipe.activations.bits}. To run the op in floating point give it float = true."
        )
    if recipe.activations.dynamic and (recipe.activations.bits, recipe.weights.bits) != (32, 8):
        raise RecipeError(
            f"In {where}: activations.dynamic quantizes float activations for int8 weights, and activations have "
            f"{recipe.activations.bits} bits, weights {recipe.weights.bits}. Set activations.bits = 32 and "
            "weights.bits = 8."
        )
    if recipe.floats and (recipe.input, recipe.output) != ("float32", "float32"):
        raise RecipeError(
            f"In {where}: activations.bits = 32 keeps activations in float32, but input is {recipe.input} and output "
            f'is {recipe.output}. Set both to "float32".'
        )
    return recipe


def _suggestion(message: str) -> str:
    if "unknown field" not in message:
        return ""
    field = message.split("`")[1]
    known = {name for s in (Recipe, Weights, Activations, Rule) for name in s.__struct_fields__}
    return " " + did_you_mean(field, sorted(known))


CHANGES = tuple(field for field in Rule.__struct_fields__ if field != "match")


def rule_for(recipe: Recipe, names: Iterable[str]) -> Rule:
    """The combined rule for something that goes by any of `names`; later rules win."""
    combined = Rule("")
    for rule in recipe.rules:
        if any(fnmatch.fnmatchcase(name, rule.match) for name in names):
            changes = {f: v for f in CHANGES if (v := getattr(rule, f)) is not None}
            combined = msgspec.structs.replace(combined, **changes)
    return combined


def calibration_for(recipe: Recipe, names: Iterable[str], methods: Any, default: str) -> str:
    """The calibration that the last matching rule asks for among `methods` (`Calibration`, `WeightCalibration`)."""
    matching = [rule for rule in recipe.rules if any(fnmatch.fnmatchcase(name, rule.match) for name in names)]
    return next((r.calibration for r in reversed(matching) if r.calibration in get_args(methods)), None) or default


def check_rules(recipe: Recipe, names: Iterable[str]) -> None:
    """Raise UnmatchedRuleError for a rule that matches none of the model's names."""
    known = list(names)
    for rule in recipe.rules:
        if not any(fnmatch.fnmatchcase(name, rule.match) for name in known):
            raise UnmatchedRuleError(
                f"The rule {rule.match!r} of recipe {recipe.name!r} matches none of the model's {len(known)} sites. "
                f"{did_you_mean(rule.match, known)}"
            )
