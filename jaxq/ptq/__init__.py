"""Post-training passes: from a calibrated model to a better one, without labels and without training.

Each pass changes parameters (or ranges) and nothing else, so the exported file still computes the training forward's
integers. Each is measured against a float reference, and never leaves its own objective worse than it was.
"""

from __future__ import annotations

from jaxq.ptq.bias import correct_biases as correct_biases
from jaxq.ptq.equalize import equalize as equalize
from jaxq.ptq.equalize import smooth as smooth
from jaxq.ptq.gptq import gptq as gptq
from jaxq.ptq.improve import improve as improve
from jaxq.ptq.norm import reestimate as reestimate
from jaxq.ptq.report import Change as Change
from jaxq.ptq.report import Report as Report
from jaxq.ptq.rounding import round_weights as round_weights
from jaxq.ptq.settle import settle as settle

__all__ = [
    "Change",
    "Report",
    "correct_biases",
    "equalize",
    "gptq",
    "improve",
    "reestimate",
    "round_weights",
    "settle",
    "smooth",
]
