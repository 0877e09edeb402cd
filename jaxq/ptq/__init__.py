"""Post-training passes: from a calibrated model to a better one, without labels and without training.

Each pass changes parameters (or ranges) and nothing else, so the exported file still computes the training forward's
integers. Each is measured against a float reference, and never leaves its own objective worse than it was.
"""

from __future__ import annotations

from jaxq.ptq.bias import correct_biases as correct_biases
from jaxq.ptq.report import Change as Change
from jaxq.ptq.report import Report as Report

__all__ = ["Change", "Report", "correct_biases"]
