"""How many bytes the weights of a plan take in the file, and budgets of bytes."""

from __future__ import annotations

import math
import re

from jaxq.errors import InputError
from jaxq.plan.plan import Plan

ALIGNMENT = 16  # of every buffer of a TFLite file
BESIDE = 12  # bytes beside the content of a buffer: its length, and the table that points to it
# At most this much more takes an operator that a file has in two versions, for weights of 4 and of 8 bits.
OPERATOR_CODE = 32
UNITS = {"": 1, "KB": 1000, "KIB": 1024, "MB": 1000**2, "MIB": 1024**2, "GB": 1000**3}


def kernel_bytes(plan: Plan, name: str) -> int:
    """The bytes that one op's kernel adds to the file: its buffer, with length, table and padding."""
    op = next(op for op in plan.graph.ops if op.name == name)
    elements = math.prod(plan.graph.avals[op.inputs[1]].shape)
    bits = {"int4": 4, "int8": 8, "float16": 16}.get(plan.storage.get(name, "float32"), 32)
    return -(-(-(-elements * bits // 8) + BESIDE) // ALIGNMENT) * ALIGNMENT


def budget_bytes(budget: int | float | str, whole: int) -> int:
    """A budget in bytes.

    Args:
      budget: an int is bytes, a float in (0, 1] a share of `whole`; text is a number with KB, MB (powers of 1000), KiB
        or MiB (of 1024), or a percentage of `whole`.
      whole: bytes.

    Raises: InputError for anything else.
    """
    if isinstance(budget, int) and not isinstance(budget, bool) and budget > 0:
        return budget
    if isinstance(budget, float) and 0.0 < budget <= 1.0:
        return math.floor(budget * whole)
    found = re.fullmatch(r"\s*([0-9]+(?:\.[0-9]*)?)\s*([a-zA-Z]*)(%?)\s*", str(budget))
    if isinstance(budget, str) and found and found[2].upper() in UNITS and not (found[2] and found[3]):
        number = float(found[1])
        return math.floor(number / 100.0 * whole if found[3] else number * UNITS[found[2].upper()])
    raise InputError(
        f"The budget is {budget!r}; it is a number of bytes (2_500_000), a share between 0 and 1 (0.6), or text such "
        'as "2.5MB", "900KiB" or "60%".'
    )
