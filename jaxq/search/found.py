"""What a search finds: a recipe, and the table that says why."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import msgspec

from jaxq.display.text import aligned
from jaxq.plan.recipe import Recipe


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
    """

    recipe: Recipe
    title: str
    columns: tuple[str, ...]
    table: tuple[tuple[str, ...], ...]
    facts: Mapping[str, Any]
    complete: bool = True

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
