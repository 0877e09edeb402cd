"""Re-estimation: the moments are the reference's, by the formula of plain numpy."""

from __future__ import annotations

import numpy as np

import jaxq
from tests.ptq_cases import grid, inputs, quantized, rounded


def test_means_and_deviations_are_the_references() -> None:
    """The identity. Mutants: the variance in place of the deviation; the factor left out of the bias."""
    q = quantized()
    found, ranges, report = jaxq.ptq.reestimate(q.q, inputs(), *q.state)
    assert all(change.before > 1e-5 and change.after < 1e-10 for change in report.changes)
    _, _, again = jaxq.ptq.reestimate(q.q, inputs(), found, ranges, reference=q.params)
    assert all(change.before < 1e-10 for change in again.changes)


def test_the_numbers_are_those_of_plain_numpy() -> None:
    """Mutant: moments of the float input on the integer kernel."""
    q = quantized()
    found, _, _ = jaxq.ptq.reestimate(q.q, inputs(), *q.state)
    w, b = (np.asarray(q.params["first"][k], np.float64) for k in ("kernel", "bias"))
    x = inputs().astype(np.float64)
    y = x @ w + b
    y_q = grid(q.ranges["input"]["scale"], np.rint(q.ranges["input"]["zero_point"]), x) @ rounded(w) + b
    factor = y.std(0) / y_q.std(0)
    np.testing.assert_allclose(found["first"]["kernel"], w * factor, rtol=2e-6)
    np.testing.assert_allclose(found["first"]["bias"], y.mean(0) - factor * (y_q.mean(0) - b), atol=2e-6)
