"""Each of the sixty-three one-op networks comes out as a full-integer file of which no integer differs."""

from __future__ import annotations

from collections import Counter

import pytest

from benchmarks.coverage import FULL, Verdict, judge, markdown
from tests.sixty_three import SIXTY_THREE, case


def test_the_table_is_the_survey() -> None:
    assert Counter(row.peer for row in SIXTY_THREE.values()) == {"full": 31, "float": 25, "fails": 7}


UNROLLED = ("LSTM", "GRU")  # a minute each to compile


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] * (n in UNROLLED)) for n in SIXTY_THREE])
def test_it_comes_out_in_integers(name: str) -> None:
    verdict = judge(case(name))
    assert verdict.kind == FULL, verdict.reason


def test_the_table_reads() -> None:
    verdicts = {"relu": Verdict(FULL), "LSTM": Verdict("refused", "a | b\nand more")}
    assert markdown(verdicts).splitlines() == [
        "| network | Qwix 0.1.8 | jaxq | why |",
        "| --- | --- | --- | --- |",
        "| relu | full | full-integer |  |",
        "| LSTM | fails | refused | a / b |",
        "| **full-integer** | **1** | **1** | of 2 |",
        "| **not full-integer** | **0** | **0** | of 2 |",
        "| **differs** | **0** | **0** | of 2 |",
        "| **refused** | **1** | **1** | of 2 |",
        "| **crash** | **0** | **0** | of 2 |",
    ]
