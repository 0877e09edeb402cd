"""Whether the shapes of a program fit its operators: `faults` lists what does not, `check` refuses it."""

from jaxq.export.shapes.program import Fault, beyond, check, faults, misfits
from jaxq.export.shapes.table import STATES

__all__ = ["STATES", "Fault", "beyond", "check", "faults", "misfits"]
