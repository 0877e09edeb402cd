"""The statistics that BatchNorms followed in training, back among the model's own variables."""

from __future__ import annotations

from typing import Any

from jaxq.quantization import bind, given_back


def settle(target: Any, *state: Any) -> Any:
    """Write the statistics of BatchNorms that follow into the model's own variables.

    With `norm = "follow"` training moves statistics that are held among the ranges. The quantized forward and the file
    read those. The float model has its own, which this sets, as every pass of `jaxq.ptq` does.

    Args:
      target: what `jaxq.quantize` gave, calibrated.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.

    Returns:
      None (NNX, in place), the variables (Linen) or `(params, ranges)` (function).

    Example:
      >>> jaxq.ptq.settle(qmodel)
    """
    bound = bind(target, *state)
    back: Any = given_back(target, state, bound.params, bound.ranges)
    return (back if len(back) > 1 else back[0]) if back else None
