"""Searches for a recipe: which ops get fewer bits under a budget, which need more, and which range each tensor gets.

Each takes a calibrated model and data and changes neither. It returns `Found`: a recipe with one rule for each choice,
for `jaxq.quantize` again, to calibrate or to train, and the table that says why.

    found = jaxq.search.mixed(qmodel, images, budget="2.5MB")
    qmodel = jaxq.quantize(model, found.recipe, images[:1])
"""

from __future__ import annotations

from jaxq.search.found import Found as Found
from jaxq.search.mixed import mixed as mixed
from jaxq.search.ranges import ranges as ranges
from jaxq.search.rollback import rollback as rollback
from jaxq.search.tune import tune as tune

__all__ = ["Found", "mixed", "ranges", "rollback", "tune"]
