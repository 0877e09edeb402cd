"""What a search finds: a recipe, and the table that says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from jaxq.display.text import aligned
from jaxq.errors import InputError
from jaxq.plan.recipe import Recipe
from jaxq.quantization import given_back


@dataclasses.dataclass(frozen=True)
class Found:
    """The result of a search.

    Attributes:
      recipe: for `jaxq.quantize`, with one rule for each choice made.
      title: of the table.
      columns: their names; those that begin with ">" hold numbers.
      table: what was measured, a row of texts for each step or choice.
      facts: the same as numbers, by name.
      complete: False where the search was interrupted, and this is the best that it had found.
      tuned: of `jaxq.search.tune`, the parameters and the ranges that it ended with; `install` takes them.
    """

    recipe: Recipe
    title: str
    columns: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]
    facts: Mapping[str, Any]
    complete: bool = True
    tuned: tuple[Any, Any] | None = dataclasses.field(default=None, repr=False, compare=False)

    def install(self, target: Any, *state: Any) -> Any:
        """Give a model that was quantized by `recipe` the parameters and ranges that the search ended with.

        Args:
          target: `jaxq.quantize(model, found.recipe, example)`. Of an NNX model the user's own parameters change.
          state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.

        Returns:
          None (NNX, in place), the variables (Linen) or `(params, ranges)` (function).

        Raises: InputError where the search has none.
        """
        if self.tuned is None:
            raise InputError("This search found a recipe alone. Quantize with it, and calibrate or train.")
        back: Any = given_back(target, state, *self.tuned)
        return (back if len(back) > 1 else back[0]) if back else None

    def __str__(self) -> str:
        """The table under its title."""
        return f"{self.heading}\n{aligned(self.columns, self.table)}"

    @property
    def heading(self) -> str:
        """The title, and whether the search came to its end."""
        return self.title if self.complete else f"{self.title} (interrupted; the best so far)"

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {"recipe": msgspec.to_builtins(self.recipe), "complete": self.complete, **self.facts}
