"""How a device computes an op, as one frozen value: the plan gives one to every op of its graph."""

from __future__ import annotations

import dataclasses
from typing import Literal

Requantization = Literal["float32", "half up", "half away", "once", "rndnu", "15 bits"]
Dynamic = Literal["row", "example", "vectors"]


@dataclasses.dataclass(frozen=True)
class Arithmetic:
    """How the sum of an op is formed and brought to the output's scale.

    Attributes:
      bits: the width of the activations that the op computes, 8 or 16; 32 for an op on float32.
      weight_bits: the width of its weights, 8 or 4. Weights lie in [-127, 127] or [-7, 7].
      requantize: how an int32 sum comes to the output's scale.
        "float32": one multiplication by a float32 number, ties to even (XNNPACK).
        "half up": a multiplier of 31 bits, rounded in the multiplication and, half up, in the shift (ruy, NEON).
        "once": a multiplier of 31 bits, one rounding, half up, of the 64-bit product (ruy on aarch64).
        "rndnu": the product by the 24 bits of a float32 number, one rounding, half up (XNNPACK's MUL on aarch64).
        "half away": as "half up", but the shift rounds half away from zero (gemmlowp).
        "15 bits": a multiplier of 15 bits, one rounding half up (TFLite's kernels with an int64 bias).
      dynamic: for int8 weights and float32 activations, what shares a range when the device makes integers of its
        input as it runs: each "row" or each "example" by XNNPACK, each example by TFLite's "vectors" kernel. None for
        any other op.
    """

    bits: int = 8
    weight_bits: int = 8
    requantize: Requantization = "float32"
    dynamic: Dynamic | None = None

    @property
    def is_float(self) -> bool:
        """Whether the op computes in float32."""
        return self.bits == 32

    @property
    def is_int16(self) -> bool:
        """Whether activations have 16 bits, which XNNPACK leaves to TFLite's builtin kernels."""
        return self.bits == 16

    @property
    def rounds_bounds_away(self) -> bool:
        """Whether the bounds of a fused activation round half away from zero, as TFLite's builtin kernels do."""
        return self.requantize not in ("float32", "rndnu")

    @property
    def largest_bias(self) -> float:
        """The largest bias in steps of the accumulator.

        2^22 keeps the sum with an accumulator exact in float32. Sums of int16 by int8 are int32: a quarter of it.
        """
        return 2.0**29 if self.is_int16 else 2.0**22

    @property
    def largest_weight(self) -> int:
        """The largest magnitude of an integer weight."""
        return 2 ** (self.weight_bits - 1) - 1


FLOAT32 = Arithmetic(bits=32)
