"""Whether the shapes of a program fit its operators: `faults` lists what does not, `check` refuses it."""

from jaxq.export.shapes.program import Fault, beyond, check, faults, misfits

__all__ = ["Fault", "beyond", "check", "faults", "misfits"]
