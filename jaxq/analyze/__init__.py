"""Where accuracy goes: the training forward against the float reading, tensor by tensor.

`diff(qmodel, images)` says of every tensor how far it is from the float model, and whose doing that is: its own
rounding, clipping and weights, or what it inherits.
"""

from __future__ import annotations

from jaxq.analyze.diff import diff as diff
from jaxq.analyze.difference import Difference as Difference
from jaxq.analyze.difference import Differences as Differences
from jaxq.analyze.difference import Error as Error

__all__ = ["Difference", "Differences", "Error", "diff"]
