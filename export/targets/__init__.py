"""Targets: what a device takes of a finished file, as data with provenance, and `check`, which applies it.

Which operators a target has is in `jaxq.plan.target`, which the plan asks before training. Here are the limits of one
operator in its shapes, types, scales and versions, for any program, whoever wrote it. `TARGETS` is the table by name.
"""

from __future__ import annotations

from jaxq.display.text import did_you_mean
from jaxq.errors import RecipeError
from jaxq.export.targets.check import Gain as Gain
from jaxq.export.targets.check import Placement as Placement
from jaxq.export.targets.check import Report as Report
from jaxq.export.targets.check import check as check
from jaxq.export.targets.device import Device as Device
from jaxq.export.targets.device import Limit as Limit
from jaxq.export.targets.edgetpu import EDGETPU
from jaxq.export.targets.ethos_u import U55, U65, U85
from jaxq.export.targets.litert import LITERT
from jaxq.export.targets.macs import macs as macs
from jaxq.export.targets.memory import Memory as Memory
from jaxq.export.targets.memory import memory as memory
from jaxq.export.targets.tflm import TFLM

__all__ = ["TARGETS", "Device", "Gain", "Limit", "Memory", "Placement", "Report", "check", "device_named", "macs"]
__all__ += ["memory"]

TARGETS: dict[str, Device] = {d.name: d for d in (LITERT, EDGETPU, U55, U65, U85, TFLM)}


def device_named(name: str) -> Device:
    """The target of this name. Raises RecipeError with the nearest names."""
    if name in TARGETS:
        return TARGETS[name]
    raise RecipeError(f"There is no target {name!r} to check a file for. {did_you_mean(name, TARGETS)}")
