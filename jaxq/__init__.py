"""jaxq: train a Flax model on the integers that a phone computes, and write the int8 TFLite file that computes them.

A name is imported when it is first used: `import jaxq` takes no time of its own, and the command's help needs no JAX.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # at run time all come by __getattr__
    from jaxq import analyze as analyze
    from jaxq import errors as errors
    from jaxq import export as export
    from jaxq import int8 as int8
    from jaxq import linen as linen
    from jaxq import losses as losses
    from jaxq import nnx as nnx
    from jaxq import optim as optim
    from jaxq import ptq as ptq
    from jaxq import search as search
    from jaxq.calibration import calibrate as calibrate
    from jaxq.errors import JaxqError as JaxqError
    from jaxq.errors import PrecisionWarning as PrecisionWarning
    from jaxq.export import load as load
    from jaxq.frontends.function import QuantizedFunction as QuantizedFunction
    from jaxq.nnx import FakeQuant as FakeQuant
    from jaxq.plan.recipe import Recipe as Recipe
    from jaxq.plan.recipe import Rule as Rule
    from jaxq.plan.scheme import Scheme as Scheme
    from jaxq.quantization import quantize as quantize

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

# Where a name is defined. None has the name of a module: importing that would put the module in the name's place.
DEFINED = {
    "FakeQuant": "jaxq.nnx",
    "JaxqError": "jaxq.errors",
    "PrecisionWarning": "jaxq.errors",
    "QuantizedFunction": "jaxq.frontends.function",
    "Recipe": "jaxq.plan.recipe",
    "Rule": "jaxq.plan.recipe",
    "Scheme": "jaxq.plan.scheme",
    "calibrate": "jaxq.calibration",
    "load": "jaxq.export",  # needs LiteRT (jaxq[export]); training does not
    "quantize": "jaxq.quantization",
}
MODULES = ("analyze", "errors", "export", "int8", "linen", "losses", "nnx", "optim", "ptq", "search")


def __getattr__(name: str) -> Any:
    if name in MODULES:
        return importlib.import_module(f"jaxq.{name}")
    if name not in DEFINED:
        raise AttributeError(f"module 'jaxq' has no attribute {name!r}")
    found = getattr(importlib.import_module(DEFINED[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *MODULES})
