"""Recipes: `jaxq.Recipe` and `jaxq.Rule`, what they are made of, and `read_recipe`."""

from __future__ import annotations

from jaxq.plan.recipe import Activations as Activations
from jaxq.plan.recipe import Recipe as Recipe
from jaxq.plan.recipe import Rule as Rule
from jaxq.plan.recipe import Weights as Weights
from jaxq.plan.recipe import read_recipe as read_recipe

__all__ = ["Activations", "Recipe", "Rule", "Weights", "read_recipe"]
