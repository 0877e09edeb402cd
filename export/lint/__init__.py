"""Lint: what is wrong, fragile or wasteful in a finished TFLite file, anyone's. `RULES` is the table of it.

A rule is a pure function of the Program: nothing is run. A file without findings breaks no rule that is known here;
whether it is accurate, or computes what was trained, is for `verify` to say.
"""

from __future__ import annotations

from jaxq.export.lint.apply import lint as lint
from jaxq.export.lint.finding import ERROR as ERROR
from jaxq.export.lint.finding import WARNING as WARNING
from jaxq.export.lint.finding import Finding as Finding
from jaxq.export.lint.finding import Place as Place
from jaxq.export.lint.finding import Rule as Rule
from jaxq.export.lint.rules import RULES as RULES

__all__ = ["ERROR", "RULES", "WARNING", "Finding", "Place", "Rule", "lint"]
