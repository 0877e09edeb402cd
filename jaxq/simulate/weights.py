"""Weight arithmetic and weight quantization: from parameters to the integers that ship.

Training and export both run this file, and every number between a parameter and an integer passes an optimization
barrier, so that XLA cannot fuse, reassociate or contract (`a * b + c` into one rounding) in one of them and not in
the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.graph import Equation, Graph
from jaxq.numerics.rounding import SMALLEST_SCALE, clip_ste, namespace, positive, round_ste, true_divide, unfused
from jaxq.ops.arithmetic import Arithmetic
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.scheme import Scheme

Runner = Callable[[Equation, Sequence[Any]], Sequence[Any]]

# Equations whose arguments may be widened to float32 whatever they were recorded with.
ELEMENTWISE = frozenset(
    {"add", "sub", "mul", "div", "neg", "sqrt", "rsqrt", "square", "integer_pow", "max", "min", "weight", "custom"}
    | {"reshape", "transpose", "broadcast_in_dim", "squeeze", "expand_dims", "slice", "concatenate", "copy"}
)

# A channel's scale is at least this part of its tensor's largest: a dead channel keeps a scale that kernels accept.
LEAST_RATIO = 2.0**-20
# Of a kernel of zeros, which any scale stands for: in the middle of those that kernels take. A last scale or a bias
# that is trained from zero makes one.
SCALE_OF_ZEROS = 2.0**-7
# Biases stay below this many steps (`Arithmetic.largest_bias`).
LARGEST_BIAS = Arithmetic().largest_bias


def weight_values(graph: Graph, params: Sequence[Any], run: Runner | None = None) -> dict[int, Any]:
    """Every weight value of the graph, computed from its parameters in the graph's order, in float32.

    A model that computes in bfloat16 keeps float32 parameters, and integers are made of those: casts to a narrower
    float are passed over. `run(equation, arguments)` computes one equation; by default JAX does.
    """
    env: dict[int, Any] = dict(graph.constants)
    env.update(zip(graph.params, params, strict=True))
    run = run or traced
    for eq in graph.weights:
        arguments = widened(eq, [env[v] for v in eq.inputs])
        env.update(zip(eq.outputs, arguments if _narrows(eq, arguments) else run(eq, arguments), strict=True))
    return env


def _narrows(eq: Equation, arguments: Sequence[Any]) -> bool:
    """Whether an equation only casts float32 to a narrower float."""
    return (
        eq.primitive == "convert_element_type"
        and arguments[0].dtype == np.float32
        and _is_narrow(eq.params["new_dtype"])
    )


def traced(eq: Equation, arguments: Sequence[Any]) -> Sequence[Any]:
    """One equation of weight arithmetic in JAX, each number of its result rounded once, whatever program is around it.

    `rsqrt` is a quotient and a root, which IEEE 754 rounds: XLA's own is a Newton step, whose last bit depends on how
    the compiler contracts it. A quotient is `true_divide`'s: `w / sqrt(var)` has a broadcast divisor.
    """
    if eq.primitive in EXACT and arguments[0].dtype == jnp.float32:
        return [unfused(EXACT[eq.primitive](*arguments))]
    return [unfused(out) if out.dtype == jnp.float32 else out for out in eq.call(*arguments)]


def _quotient(a: Any, b: Any) -> Any:
    return true_divide(jnp.asarray(a), jnp.asarray(b))  # a constant is numpy's


def _rsqrt(x: Any) -> Any:
    return _quotient(jnp.ones_like(x), unfused(lax.sqrt(x)))


# Primitives that XLA rewrites, in a form that it does not; of float32. numpy computes the same at export.
EXACT: Mapping[str, Callable[..., Any]] = {"div": _quotient, "rsqrt": _rsqrt}


def widened(eq: Equation, arguments: Sequence[Any]) -> list[Any]:
    """The arguments of elementwise and moving equations in float32, where any is."""
    if eq.primitive not in ELEMENTWISE or not any(getattr(a, "dtype", None) == np.float32 for a in arguments):
        return list(arguments)
    return [a.astype(np.float32) if _narrow(a) else a for a in arguments]


def _narrow(array: Any) -> bool:
    return _is_narrow(getattr(array, "dtype", np.dtype(bool)))


def _is_narrow(dtype: Any) -> bool:
    return dtype in (jnp.bfloat16, np.float16)


def weight_scale(w: Any, scheme: Scheme, bias: Any, x_scale: Any, largest: float = LARGEST_BIAS) -> Any:
    """`max|w| / 127` per channel of the last axis (or of the tensor, as a vector all the same), shape (channels,).

    TFLite wants a vector even where all scales are equal: its ARM kernels compute a scalar one otherwise.
    """
    xp = namespace(w)
    magnitude = xp.max(xp.abs(w), axis=tuple(range(w.ndim - 1)))
    if scheme.axis is None:
        magnitude = xp.full_like(magnitude, xp.max(magnitude))
    return _shared(floored(bound_scale(magnitude, scheme.qmax), bias, x_scale, largest), scheme)


def bound_scale(bound: Any, qmax: int) -> Any:
    """The scale by which the greatest integer stands for `bound`. (channels,)."""
    return true_divide(bound, namespace(bound).full_like(bound, qmax))


def _shared(scale: Any, scheme: Scheme) -> Any:
    """The scales of channels; where one stands for all, the greatest, for a large bias may have raised its own."""
    return namespace(scale).full_like(scale, namespace(scale).max(scale)) if scheme.axis is None else scale


def floored(scale: Any, bias: Any, x_scale: Any, largest: float = LARGEST_BIAS) -> Any:
    """Channel scales, none so small that its bias passes `largest` steps or that kernels refuse it."""
    xp = namespace(scale)
    greatest = _constant(xp.max(scale))
    floor = xp.maximum(greatest * np.float32(LEAST_RATIO), np.float32(SMALLEST_SCALE))
    floor = xp.where(greatest == 0, np.float32(SCALE_OF_ZEROS), floor)
    if bias is not None:
        floor = xp.maximum(floor, _constant(true_divide(xp.abs(bias), x_scale * np.float32(largest))))
    return xp.maximum(scale, floor)


def _constant(x: Any) -> Any:
    return x if namespace(x) is np else lax.stop_gradient(x)


def quantized_weight(
    w: Any, bias: Any, scheme: Scheme, x_scale: Any, trained: Mapping[str, Any] | None, largest: float = LARGEST_BIAS
) -> Carrier:
    """A kernel as integers in [-127, 127] with one scale an output channel (the last axis).

    A scale that follows its weight is a constant for the gradient, as in Jacob et al. 2018: differentiating through
    max|w| would send all of a channel's rounding error to its largest weight.
    """
    w, bias = w.astype(np.float32), bias.astype(np.float32)
    if trained is None:  # max|w| / s is 127 to within an ulp: nothing to clip
        scale = unfused(_constant(weight_scale(w, scheme, bias, x_scale, largest)))
        return Carrier(round_ste(w * _reciprocal(scale)), scale, jnp.float32(0.0))
    own = positive(trained["scale"] if scheme.ranges == "learned" else _constant(trained["scale"]))
    scale = _shared(floored(own, bias, x_scale, largest), scheme)
    return quantized_constant(w, unfused(scale), scheme.qmax)


def float_kernel(w: Any, scheme: Scheme, trained: Mapping[str, Any] | None) -> Carrier:
    """The integers and scales of a kernel whose op reads floats: its bias, a float, sets no bound on them."""
    return quantized_weight(w, namespace(w).zeros(w.shape[-1:], np.float32), scheme, np.float32(1), trained)


def dequantized_weight(w: Any, scheme: Scheme, trained: Mapping[str, Any] | None) -> Any:
    """A kernel on its integers' grid, `s_w q`: what an op on floats computes with. Straight-through gradient."""
    kernel = float_kernel(w, scheme, trained)
    return kernel.q * kernel.scale


def half_precision(w: Any) -> Any:
    """A kernel rounded to float16, as float32. The gradient is that of the cast."""
    return w.astype(np.float16).astype(np.float32)


def integer_bias(bias: Any, product: Any) -> Any:
    """`round(b / (s_x s_w))`: the bias in steps of the accumulator (Jacob et al. 2018, section 2.4)."""
    return round_ste(true_divide(bias.astype(np.float32), product))


def quantized_constant(w: Any, scale: Any, qmax: int) -> Carrier:
    """`clip(round(w * (1 / s)), -qmax, qmax)`, ties to even; `1 / s` is rounded once, and so is the product."""
    q = clip_ste(round_ste(w * _reciprocal(scale)), np.float32(-qmax), np.float32(qmax))
    return Carrier(q, scale, jnp.float32(0.0))


def quantized_operand(constant: Any, scale: Any, bits: int = 8) -> Carrier:
    """A constant operand of ADD, SUB or MUL: symmetric, `max|c| / 127`, not below a 2^9th of the output's scale.

    bits: of the op's activations; of 16 the divisor is 32767.
    """
    qmax = 2 ** (bits - 1) - 1
    xp = namespace(constant)
    magnitude = xp.max(xp.abs(constant))
    own = true_divide(magnitude, xp.full_like(magnitude, qmax))
    least = (scale if xp is np else lax.stop_gradient(scale)) * np.float32(2.0**-9)
    return quantized_constant(constant, xp.maximum(own, xp.maximum(least, np.float32(SMALLEST_SCALE))), qmax)


def _reciprocal(scale: Any) -> Any:
    return true_divide(namespace(scale).ones_like(scale), scale)
