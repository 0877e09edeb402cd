"""Dynamic-range operators: int8 weights, float32 activations that the kernel quantizes by the range that it sees.

The integers are exact: those of the activation (`numerics.dynamic_range`) and the int32 sums. What follows is float32,
in the kernel's order. XNNPACK rounds the last multiplication and the addition of the bias once, on chips that can, and
so does XLA there; a chip that cannot gives another last bit.

XNNPACK takes FULLY_CONNECTED by row, CONV_2D by example or, of one tap, by pixel; DEPTHWISE_CONV_2D, and in the
reference family all three, are TFLite's builtin kernels (tflite/kernels/{fully_connected,conv,depthwise_conv}.cc).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import contraction, floats
from jaxq.export.evaluate.kernels.operands import (
    Kernel,
    Tensors,
    Values,
    constant,
    option_int,
    present,
    scales,
    source,
    target,
    zero_point,
)
from jaxq.export.program import Operator
from jaxq.numerics.dynamic_range import (
    ASYMMETRIC,
    ASYMMETRIC_IN_TURN,
    ASYMMETRIC_IN_VECTORS,
    SYMMETRIC,
    XNNPACK,
    Dynamic,
    Way,
)
from jaxq.numerics.rounding import straight_through, unfused

Choice = Callable[[Operator, Tensors], Way]

WEIGHTS = ("int8", "int4")
INTEGERS = (*WEIGHTS, "uint8", "int16")
IMAGE, CHANNELS = (1, 2, 3), (3,)  # the axes of an example, and of a pixel


def is_hybrid(op: Operator, tensors: Tensors) -> bool:
    """Whether an operator computes on floats and on integers."""
    return floats.is_float(op, tensors) and any(tensors[i].dtype in INTEGERS for i in op.inputs if i >= 0)


def kernel_of(op: Operator, tensors: Tensors, family: str) -> Kernel:
    """The kernel of a dynamic-range operator. Raises ExportError for one that the family does not have."""
    mixed = next(tensors[i] for i in op.inputs if i >= 0 and tensors[i].dtype in INTEGERS)
    known = KERNELS.get(family, {})
    if op.kind not in known or mixed.dtype not in WEIGHTS or zero_point(mixed):
        raise ExportError(
            f"{op.kind} reads floats and {mixed.name!r}, which is {mixed.dtype}: a dynamic-range operator, which the "
            f"{family} family computes for {', '.join(known) or 'no kind'} with int8 weights of zero point 0. Convert "
            "the model to full integers or to floats."
        )
    return known[op.kind]


def conv(choose: Choice, pixels: Callable[[Operator, Tensors], bool]) -> Kernel:
    """CONV_2D. x NHWC, weights OHWI. pixels: whether each pixel has a range of its own."""

    def kernel(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        x, w, way = present(op, values), _weights(op, tensors), choose(op, tensors)
        contract = contraction.convolution(x.shape, w.shape, *floats.windows(op))
        held = way.quantize(x, CHANNELS if pixels(op, tensors) else IMAGE)
        return _finished(op, tensors, values, way, held, contract, w)

    return kernel


def depthwise_conv(choose: Choice) -> Kernel:
    """DEPTHWISE_CONV_2D. Weights 1HWO."""

    def kernel(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        x, w, way = present(op, values), _weights(op, tensors).transpose(3, 1, 2, 0), choose(op, tensors)
        contract = contraction.depthwise_convolution(x.shape, w.shape, *floats.windows(op))
        return _finished(op, tensors, values, way, way.quantize(x, IMAGE), contract, w)

    return kernel


def fully_connected(choose: Choice) -> Kernel:
    """FULLY_CONNECTED. Weights (O, I); a range for each row of the input."""

    def kernel(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        w, way = _weights(op, tensors), choose(op, tensors)
        rows = present(op, values).reshape(-1, w.shape[1])
        y = _finished(op, tensors, values, way, way.quantize(rows, (1,)), _product, w)
        return [y[0].reshape(target(op, tensors).shape)]

    return kernel


def embedding_lookup(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """EMBEDDING_LOOKUP of an integer table: `q s`, with one scale or one a row (tflite/kernels/embedding_lookup.cc)."""
    table, indices = source(op, tensors, 1), present(op, values)
    s = np.resize(scales(table), table.shape[:1]).reshape(-1, *[1] * (len(table.shape) - 1))
    q, s = (jnp.take(jnp.asarray(a), indices, axis=0, mode="clip") for a in (_weights(op, tensors), s))
    return [unfused(q.astype(jnp.float32) * s)]


def _product(a: jax.Array, w: jax.Array) -> jax.Array:
    return lax.dot_general(a, w, (((1,), (1,)), ((), ())), lax.Precision.HIGHEST, preferred_element_type=a.dtype)


def _weights(op: Operator, tensors: Tensors) -> np.ndarray:
    return constant(op, tensors, 1).astype(np.int32)


def _finished(
    op: Operator, tensors: Tensors, values: Values, way: Way, x: Dynamic, contract: contraction.Contract, w: np.ndarray
) -> list[jax.Array]:
    """`sum q_x q_w` scaled, with the bias, clamped. The gradient is that of the float sum."""
    exact = contraction.accumulate(contract, lax.stop_gradient(x.q).astype(jnp.int32), w, (0,))
    total = straight_through(exact.astype(jnp.float32), contract(x.q, jnp.asarray(w, jnp.float32)))
    y = way.scale(total, x.scale, jnp.asarray(scales(source(op, tensors, 1))))
    bias = values[2] if len(values) > 2 else None
    return [floats.activated(op, y if bias is None else y + bias)]


# --- which way a family takes ---------------------------------------------------------------------------------------


def _by_option(op: Operator, tensors: Tensors) -> Way:
    return ASYMMETRIC if option_int(op, "asymmetric_quantize_inputs", 0) else SYMMETRIC


def _by_scales(op: Operator, tensors: Tensors) -> Way:
    """TFLite's CONV_2D has a kernel for weights whose scales are all equal, and another for the rest and for groups."""
    x, w = source(op, tensors), source(op, tensors, 1)
    if len(set(scales(w).tolist())) == 1 and x.shape[-1] == w.shape[-1]:
        return SYMMETRIC
    return ASYMMETRIC_IN_TURN


def _xnnpack_conv(op: Operator, tensors: Tensors) -> Way:
    """XNNPACK takes no CONV_2D without a bias, and none with int4 weights."""
    w = source(op, tensors, 1)
    if w.dtype == "int8":
        return XNNPACK
    way = _by_scales(op, tensors)
    return way if way is SYMMETRIC or source(op, tensors).shape[-1] != w.shape[-1] else ASYMMETRIC


def _xnnpack_pixels(op: Operator, tensors: Tensors) -> bool:
    """XNNPACK makes a FULLY_CONNECTED of a convolution of one tap (src/subgraph/convolution-2d.c)."""
    w = source(op, tensors, 1)
    one_tap = w.shape[1:3] == (1, 1) and floats.windows(op)[0] == (1, 1) and w.shape[3] == source(op, tensors).shape[3]
    return w.dtype == "int8" and one_tap and w.shape[0] + w.shape[3] > 2


def _never(op: Operator, tensors: Tensors) -> bool:
    return False


def _xnnpack_dense(op: Operator, tensors: Tensors) -> Way:
    """XNNPACK takes int4 weights of an even number of inputs."""
    w = source(op, tensors, 1)
    return _by_option(op, tensors) if w.dtype == "int4" and w.shape[1] % 2 else XNNPACK


def _asymmetric(op: Operator, tensors: Tensors) -> Way:
    return ASYMMETRIC


def _tflm_embedding_lookup(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    table = source(op, tensors, 1)
    if table.dtype != "int8" or scales(table).size > 1:
        raise ExportError(
            f"TFLite Micro looks up rows of float32 and of int8 with one scale; {table.name!r} is {table.dtype} with "
            f"{scales(table).size}. Give it one scale."
        )
    return embedding_lookup(op, tensors, values)


def _vector(op: Operator, tensors: Tensors) -> Way:
    return ASYMMETRIC_IN_VECTORS


KERNELS: dict[str, dict[str, Kernel]] = {
    "xnnpack": {
        "CONV_2D": conv(_xnnpack_conv, _xnnpack_pixels),
        "DEPTHWISE_CONV_2D": depthwise_conv(_vector),
        "EMBEDDING_LOOKUP": embedding_lookup,
        "FULLY_CONNECTED": fully_connected(_xnnpack_dense),
    },
    "reference": {
        "CONV_2D": conv(_by_scales, _never),
        "DEPTHWISE_CONV_2D": depthwise_conv(_asymmetric),
        "EMBEDDING_LOOKUP": embedding_lookup,
        "FULLY_CONNECTED": fully_connected(_by_option),
    },
    "tflm": {"EMBEDDING_LOOKUP": _tflm_embedding_lookup},
}
