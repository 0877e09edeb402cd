"""Depthwise convolutions by taps against XLA's grouped convolution, on integers that float32 sums exactly."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jaxq.numerics.depthwise import Window, depthwise

# The window, the shape of x, and the window's size with the channels out.
CASES: dict[str, tuple[Window, tuple[int, ...], tuple[int, int, int]]] = {
    "dilated": (Window((1, 1), (2, 1), ((2, 2), (1, 1))), (2, 7, 5, 3), (3, 3, 3)),
    "of two channels each": (Window((1, 1), (1, 1), ((1, 1), (0, 0))), (1, 4, 5, 2), (3, 2, 4)),
    "with strides": (Window((2, 3), (1, 1), ((0, 1), (2, 0))), (3, 6, 8, 2), (3, 4, 2)),
}


@pytest.mark.parametrize("case", CASES)
def test_a_sum_over_taps_and_its_gradients_are_those_of_the_convolution(case: str) -> None:
    window, shape, (height, width, channels) = CASES[case]
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.integers(-99, 99, s), jnp.float32) for s in (shape, (height, width, 1, channels)))

    def grouped(x: Any, w: Any) -> Any:
        strides, dilation, padding = window
        numbers = ("NHWC", "HWIO", "NHWC")
        return lax.conv_general_dilated(x, w, strides, padding, None, dilation, numbers, feature_group_count=shape[-1])

    def all_of(fn: Any) -> Any:
        y, gradients = jax.vjp(fn, x, w)
        return y, *gradients(jnp.round(y % 7))

    found, wanted = (jax.jit(all_of, static_argnums=0)(fn) for fn in (lambda x, w: depthwise(window, x, w), grouped))
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)
