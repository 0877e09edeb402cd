"""`Backward` says how the backward pass of contractions is quantized: one frozen value, or the name of a shipped one.

Backward(scheme="unified", rules=(BackwardRule("head/*", float=True),))
"row"
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from jaxq.display.text import did_you_mean
from jaxq.errors import RecipeError, UnmatchedRuleError

SchemeName = Literal["row", "unified", "adaptive", "tensor-sr", "tensor"]
Compute = Literal["auto", "int8", "carriers"]


class BackwardRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Changes for the contractions whose name matches a glob. None leaves a choice as it was.

    A contraction goes by the path of its weight (`block0/conv/kernel`) and by the user's line (`model.py:29`).

    Attributes:
      match: the glob (`fnmatch`: `*` crosses slashes).
      float: compute this contraction, forward and backward, in floats as the model does.
      bits, scheme, stochastic, input_gradient, weight_gradient: as in `Backward`.
    """

    match: str
    float: bool | None = None
    bits: Literal[8, 4] | None = None
    scheme: SchemeName | None = None
    stochastic: bool | None = None
    input_gradient: bool | None = None
    weight_gradient: bool | None = None


class Backward(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How the backward pass of convolutions and matrix products is quantized.

    Attributes:
      bits: of the gradient, 8 or 4: integers in [-127, 127] or [-7, 7].
      scheme: which numbers share a scale, and how it is found; a key of `jaxq.gradients.schemes.SCHEMES`.
      stochastic: round gradients stochastically. None: as the scheme does (all but "tensor" do).
      input_gradient: quantize the product that gives the gradient of the activations.
      weight_gradient: quantize the product that gives the gradient of the weights. False leaves it in floats, as
        SwitchBack does (Wortsman et al. 2023), and holds the activations in floats for it.
      compute: "int8" multiplies int8 numbers, "carriers" the same integers in a floating type, "auto" takes the one
        that is faster on this machine (`jaxq.gradients.products`). The integers are the same.
      rules: changes for some contractions. Later rules win. A rule that matches nothing is an error.
    """

    bits: Literal[8, 4] = 8
    scheme: SchemeName = "row"
    stochastic: bool | None = None
    input_gradient: bool = True
    weight_gradient: bool = True
    compute: Compute = "auto"
    rules: tuple[BackwardRule, ...] = ()


SHIPPED: dict[str, Backward] = {
    "adaptive": Backward(scheme="adaptive"),
    "row": Backward(),
    "row-4bit": Backward(bits=4),
    "switchback": Backward(weight_gradient=False),
    "tensor": Backward(scheme="tensor"),
    "tensor-sr": Backward(scheme="tensor-sr"),
    "unified": Backward(scheme="unified"),
}


def read_backward(source: Backward | str) -> Backward:
    """A `Backward` from one, or from the name of a shipped one.

    Raises:
      RecipeError: an unknown name, or a value of the wrong type or out of its bounds.
    """
    if isinstance(source, str):
        if source not in SHIPPED:
            raise RecipeError(f"There is no backward pass {source!r}. {did_you_mean(source, SHIPPED)}")
        return SHIPPED[source]
    if not isinstance(source, Backward):
        raise RecipeError(
            f"The backward pass is a {type(source).__name__}; it is a jaxq.int8.Backward or a name, such as "
            'jaxq.int8.training(model, "row", images[:1]).'
        )
    try:
        return msgspec.convert(msgspec.to_builtins(source), Backward)  # a constructor checks no types
    except msgspec.ValidationError as e:
        raise RecipeError(f"In the backward pass: {e}.") from e


CHANGES = tuple(field for field in BackwardRule.__struct_fields__ if field not in ("match", "float"))


def backward_for(how: Backward, names: Sequence[str]) -> Backward | None:
    """What holds for a contraction that goes by any of `names`: a `Backward` without rules, None for floats."""
    changes: dict[str, Any] = {}
    in_floats = False
    for rule in (r for r in how.rules if _matches(r.match, names)):
        changes |= {f: v for f in CHANGES if (v := getattr(rule, f)) is not None}
        in_floats = in_floats if rule.float is None else rule.float
    return None if in_floats else msgspec.structs.replace(how, rules=(), **changes)


def check_backward_rules(how: Backward, names: Iterable[str]) -> None:
    """Raise UnmatchedRuleError for a rule that matches none of the contractions' names."""
    known = list(names)
    for rule in how.rules:
        if not _matches(rule.match, known):
            raise UnmatchedRuleError(
                f"The rule {rule.match!r} of the backward pass matches none of the {len(known)} names of the model's "
                f"contractions. {did_you_mean(rule.match, known)}"
            )


def _matches(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for name in names)
