"""Machines: what LiteRT's default kernels compute by other integer arithmetic on another kind of processor.

Almost all kernels give the same integers on all. Three do not: contractions of 16-bit activations or of 4-bit weights,
which XNNPACK leaves to TFLite and ruy; the 8-bit SOFTMAX, which it leaves to TFLite; and XNNPACK's 8-bit MUL. Sources:
ruy/apply_multiplier.cc and kernel_arm64.cc; tflite/kernels/internal/optimized/optimized_ops.h (SoftmaxInt8LUT); XNNPACK
src/qs8-vmul/rndnu-neon.c.in. Measured on emulated processors by `make arm64` (docs/machines.md).
"""

from __future__ import annotations

import dataclasses
import platform
from collections.abc import Callable

import jax
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import softmax
from jaxq.export.evaluate.kernels.fixedpoint import Multiplier, multiply_rounding_once, multiply_rounding_up
from jaxq.export.program import Tensor


@dataclasses.dataclass(frozen=True)
class Machine:
    """A kind of processor.

    rescale: of an int32 accumulator that ruy brings to the output's scale. softmax: of 8 bits. exact_products: whether
    XNNPACK's MUL rounds the product in integers, half up, or in float32, half to even.
    """

    name: str
    title: str
    rescale: Callable[[jax.Array, Multiplier], jax.Array]
    softmax: Callable[[jax.Array, Tensor, Tensor, np.float32], jax.Array]
    exact_products: bool


MACHINES: dict[str, Machine] = {
    "aarch64": Machine("aarch64", "64-bit Arm (phones)", multiply_rounding_once, softmax.uint16_table, True),
    "wasm32": Machine("wasm32", "WebAssembly (browsers)", multiply_rounding_once, softmax.float_table, False),
    "x86_64": Machine("x86_64", "64-bit x86", multiply_rounding_up, softmax.float_table, False),
}
PHONE = "aarch64"
ALIASES = {"amd64": "x86_64", "arm64": "aarch64"}  # of platform.machine(), lower case


def machine_named(name: str) -> Machine:
    """The machine of this name. Raises ExportError with those that there are."""
    if name not in MACHINES:
        raise ExportError(f"No machine {name!r} is modelled. Machines: {', '.join(MACHINES)}.")
    return MACHINES[name]


def this_machine() -> str:
    """The name of the machine that runs this process, by Python's `platform.machine()`."""
    found = platform.machine().lower()
    return ALIASES.get(found, found)
