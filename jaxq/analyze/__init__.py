"""Where accuracy goes: the training forward against the float reading, tensor by tensor.

`diff(qmodel, images)` says of every tensor how far it is from the float model, and whose doing that is: its own
rounding, clipping and weights, or what it inherits. `health(qmodel, images)` says what ranges clip and which channels
are dead, cheaply enough to ask while training. `sensitivity(qmodel, images)` says what the model loses when one op
alone is quantized otherwise.
"""

from __future__ import annotations

from jaxq.analyze.diff import diff as diff
from jaxq.analyze.difference import Difference as Difference
from jaxq.analyze.difference import Differences as Differences
from jaxq.analyze.difference import Error as Error
from jaxq.analyze.health import Health as Health
from jaxq.analyze.health import SiteHealth as SiteHealth
from jaxq.analyze.health import health as health
from jaxq.analyze.sensitivity import Score as Score
from jaxq.analyze.sensitivity import Sensitivity as Sensitivity
from jaxq.analyze.sensitivity import sensitivity as sensitivity

__all__ = [
    "Difference",
    "Differences",
    "Error",
    "Health",
    "Score",
    "Sensitivity",
    "SiteHealth",
    "diff",
    "health",
    "sensitivity",
]
