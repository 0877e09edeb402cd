"""How the range of a tensor comes from calibration data: one method, one short file, and one row of METHODS."""

from __future__ import annotations

from jaxq.observers.minmax import MINMAX
from jaxq.observers.observer import Batch as Batch
from jaxq.observers.observer import Observer as Observer
from jaxq.observers.observer import Wanted as Wanted
from jaxq.observers.percentile import PERCENTILE

METHODS: dict[str, Observer] = {
    "minmax": MINMAX,
    "percentile": PERCENTILE,
}
