"""jaxq: train a Flax model on the integers that a phone computes, and write the int8 TFLite file that computes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jaxq import analyze as analyze
from jaxq import int8 as int8
from jaxq import losses as losses
from jaxq import optim as optim
from jaxq import ptq as ptq
from jaxq import search as search
from jaxq.calibrate import calibrate as calibrate
from jaxq.errors import JaxqError as JaxqError
from jaxq.errors import PrecisionWarning as PrecisionWarning
from jaxq.frontends.function import QuantizedFunction as QuantizedFunction
from jaxq.nnx import FakeQuant as FakeQuant
from jaxq.plan.recipe import Recipe as Recipe
from jaxq.plan.recipe import Rule as Rule
from jaxq.plan.scheme import Scheme as Scheme
from jaxq.quantize import quantize as quantize

if TYPE_CHECKING:  # at run time both come by __getattr__, for training needs no LiteRT
    from jaxq import export as export
    from jaxq.export import load as load

__version__ = "0.1.0"
__all__ = [
    "FakeQuant",
    "JaxqError",
    "PrecisionWarning",
    "QuantizedFunction",
    "Recipe",
    "Rule",
    "Scheme",
    "analyze",
    "calibrate",
    "export",
    "int8",
    "load",
    "losses",
    "optim",
    "ptq",
    "quantize",
    "search",
]


def __getattr__(name: str) -> Any:
    """`jaxq.export` and `jaxq.load` on first use: export needs LiteRT (`jaxq[export]`), training does not."""
    import importlib

    if name == "export":
        return importlib.import_module("jaxq.export")
    if name == "load":
        return importlib.import_module("jaxq.export").load
    raise AttributeError(f"module 'jaxq' has no attribute {name!r}")
