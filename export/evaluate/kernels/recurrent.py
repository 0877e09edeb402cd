"""UNIDIRECTIONAL_SEQUENCE_LSTM (8 bits, cells of 16) and SVDF: operators that keep a state from one call to the next.

A kernel takes the state among its inputs (`shapes.STATES`) and returns the output, then the new state. The two runtimes
differ in the LSTM: LiteRT adds the recurrent sum before it clips, and has gemmlowp's logistic and tanh; TFLite Micro
clips both sums, and interpolates. Sources: tflite/kernels/{lstm.cc,lstm_eval.cc,svdf.cc},
tflite/kernels/internal/reference/portable_tensor_utils.cc; tensorflow/tflite-micro,
tensorflow/lite/micro/kernels/{lstm_eval.h,lstm_eval_common.cc,svdf_common.cc}.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import contraction, gemmlowp_int16
from jaxq.export.evaluate.kernels.fixedpoint import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from jaxq.export.evaluate.kernels.operands import (
    Kernel,
    Ratio,
    Tensors,
    Values,
    centred,
    constant,
    option_float,
    option_int,
    option_str,
    present,
    ratio32,
    ratio64,
    saturate,
    scale,
    source,
    target,
    zero_point,
)
from jaxq.export.evaluate.kernels.wide import powers_of_two
from jaxq.export.program import Operator, Tensor
from jaxq.numerics import lut_int16

Multiplier = tuple[np.ndarray, np.ndarray]

LOW, HIGH = -(1 << 15), (1 << 15) - 1
TANH_BITS = 6  # the most integer bits of LiteRT's tanh
GATE_BITS = 3  # gates are Q3.12 before their function
OUTPUT_STATE, CELL_STATE, HIDDEN = 18, 19, 4
VARIANTS = {9: "a peephole", 16: "a projection", 20: "layer normalization"}


class Arithmetic(NamedTuple):
    """What the runtimes do differently. All values are int32 in the range of int16.

    gate: the two sums and their multipliers -> the sum in Q3.12. logistic, tanh: of a number with so many integer bits.
    product: of two numbers by a power of two. ratio: how a multiplier is rounded. hidden: the tensor whose parameters
    the output has inside.
    """

    gate: Callable[[jax.Array, Multiplier, jax.Array, Multiplier], jax.Array]
    logistic: Callable[[jax.Array], jax.Array]
    tanh: Callable[[jax.Array, int], jax.Array]
    product: Callable[[jax.Array, jax.Array, int], jax.Array]
    ratio: Ratio
    hidden: Callable[[Operator, Tensors], Tensor]


def _clip16(x: jax.Array) -> jax.Array:
    return jnp.clip(x, LOW, HIGH)


def _litert_gate(a: jax.Array, m: Multiplier, b: jax.Array, n: Multiplier) -> jax.Array:
    first = _clip16(multiply_by_quantized_multiplier(a, m))
    return _clip16(first + multiply_by_quantized_multiplier(b, n))


def _micro_gate(a: jax.Array, m: Multiplier, b: jax.Array, n: Multiplier) -> jax.Array:
    first = _clip16(multiply_by_quantized_multiplier(a, m))
    return _clip16(first + _clip16(multiply_by_quantized_multiplier(b, n)))


def _micro_function(real: Callable[..., jax.Array], bits: int, x: jax.Array) -> jax.Array:
    """A tabulated function of a number of `bits` integer bits: TFLite Micro shifts it to three."""
    left = bits - GATE_BITS
    return real(x, jnp.int32(3 << max(left, 0)), jnp.int32(max(-left, 0)))


def _litert_tanh(x: jax.Array, bits: int) -> jax.Array:
    """gemmlowp's tanh of a number of `bits` integer bits, of which LiteRT has compiled 0 to 6."""
    if not 0 <= bits <= TANH_BITS:
        raise ExportError(
            f"UNIDIRECTIONAL_SEQUENCE_LSTM with cells of scale 2^{bits - 15}: LiteRT's kernel takes 2^-15 to "
            f"2^{TANH_BITS - 15}. Convert the model again, or evaluate with family 'tflm'."
        )
    return jnp.asarray(gemmlowp_int16.tanh(bits))[x - LOW]


def _litert_product(a: jax.Array, b: jax.Array, exponent: int) -> jax.Array:
    """`a b 2^-exponent`, cast to int16."""
    return rounding_divide_by_pot(a * b, exponent).astype(jnp.int16).astype(jnp.int32)


def _micro_product(a: jax.Array, b: jax.Array, exponent: int) -> jax.Array:
    return _clip16(multiply_by_quantized_multiplier(a * b, quantize_multiplier(2.0**-exponent)))


def _state(op: Operator, tensors: Tensors) -> Tensor:
    return source(op, tensors, OUTPUT_STATE)


def _intermediate(op: Operator, tensors: Tensors) -> Tensor:
    """The fifth intermediate tensor. Without a projection it has the state's parameters in most files."""
    given = len(op.intermediates) > HIDDEN and op.intermediates[HIDDEN] >= 0
    return tensors[op.intermediates[HIDDEN]] if given else _state(op, tensors)


LITERT = Arithmetic(
    _litert_gate,
    lambda x: jnp.asarray(gemmlowp_int16.logistic(GATE_BITS))[x - LOW],
    _litert_tanh,
    _litert_product,
    ratio32,
    _intermediate,
)
MICRO = Arithmetic(
    _micro_gate,
    lambda x: _micro_function(lut_int16.logistic, GATE_BITS, x),
    lambda x, bits: _micro_function(lut_int16.tanh, bits, x),
    _micro_product,
    ratio64,
    _state,
)


def sequence_lstm(arithmetic: Arithmetic) -> Kernel:
    """UNIDIRECTIONAL_SEQUENCE_LSTM of int8 with an int16 cell: `c = f c + i g`, `h = o tanh(c)`, gate by gate."""

    def kernel(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        _check_lstm(op, tensors)
        x = centred(present(op, values), source(op, tensors))
        steps = x if option_int(op, "time_major", 0) else x.swapaxes(0, 1)
        step = _lstm_step(arithmetic, op, tensors)
        state = tuple(present(op, values, position).astype(jnp.int32) for position in (OUTPUT_STATE, CELL_STATE))
        (hidden, cell), outputs = lax.scan(step, state, steps)
        y = outputs if option_int(op, "time_major", 0) else outputs.swapaxes(0, 1)
        return [y.astype(target(op, tensors).dtype), hidden.astype(jnp.int8), cell.astype(jnp.int16)]

    return kernel


def _check_lstm(op: Operator, tensors: Tensors) -> None:
    """Raise ExportError for a variant that is not modelled."""
    variants = [what for position, what in VARIANTS.items() if len(op.inputs) > position and op.inputs[position] >= 0]
    variants += ["coupled input and forget gates"] * (op.inputs[1] < 0)
    if variants:
        raise ExportError(f"{op.kind} with {variants[0]} is not modelled. Use a plain LSTM.")
    dtypes = [source(op, tensors, position).dtype for position in (0, 2, OUTPUT_STATE, CELL_STATE)]
    if dtypes != ["int8", "int8", "int8", "int16"]:
        raise ExportError(
            f"{op.kind} of {dtypes[0]} with weights of {dtypes[1]} and cells of {dtypes[3]}: its kernels are modelled "
            "for int8, int8 and int16 (8x8_16). Convert the model to full integers."
        )
    name = option_str(op, "fused_activation_function", "TANH")
    if name != "TANH":
        raise ExportError(f"{op.kind} with the activation {name}: its kernels are modelled for TANH.")
    shifted = [tensors[i].name for i in op.inputs[1:9] if i >= 0 and zero_point(tensors[i])]
    if shifted:
        raise ExportError(
            f"{op.kind}: the weights {shifted[0]!r} have a zero point, and the runtimes differ there. Use 0."
        )
    if powers_of_two(scale(source(op, tensors, CELL_STATE))) is None:
        raise ExportError(f"{op.kind}: the cell's scale must be a power of two.")


def _lstm_step(arithmetic: Arithmetic, op: Operator, tensors: Tensors) -> Callable[..., tuple[tuple, jax.Array]]:
    state, cell = source(op, tensors, OUTPUT_STATE), source(op, tensors, CELL_STATE)
    power = powers_of_two(scale(cell)) or 0
    unit = np.float32(2.0**-15)
    inside = arithmetic.hidden(op, tensors)
    out = quantize_multiplier(arithmetic.ratio(scale(inside), unit, unit))
    clip = min(int(float(option_float(op, "cell_clip", 0.0)) / float(scale(cell))), HIGH)

    def step(held: tuple[jax.Array, jax.Array], x: jax.Array) -> tuple[tuple, jax.Array]:
        hidden, c = held
        h = hidden - zero_point(state)
        i, f, g, o = (_gate(arithmetic, op, tensors, gate, x, h) for gate in range(4))
        i, f, o = (arithmetic.logistic(gate) for gate in (i, f, o))
        g = arithmetic.tanh(g, GATE_BITS)
        c = _clip16(arithmetic.product(f, c, 15) + arithmetic.product(i, g, 30 + power))
        c = jnp.clip(c, -clip, clip) if clip > 0 else c
        product = o * arithmetic.tanh(c, 15 + power)
        hidden = saturate(multiply_by_quantized_multiplier(product, out) + zero_point(inside), state, -128, 127)
        return (hidden.astype(jnp.int32), c), hidden

    return step


def _gate(arithmetic: Arithmetic, op: Operator, tensors: Tensors, gate: int, x: jax.Array, h: jax.Array) -> jax.Array:
    """One gate before its function, Q3.12."""
    w, r = (source(op, tensors, 1 + gate + offset) for offset in (0, 4))
    inner = contraction.multiply_dense(x, constant(op, tensors, 1 + gate).astype(np.int32))
    recurrent = contraction.multiply_dense(h, constant(op, tensors, 5 + gate).astype(np.int32))
    inner = inner + jnp.asarray(constant(op, tensors, 12 + gate), jnp.int32)
    unit = np.float32(2.0**-12)
    m = quantize_multiplier(arithmetic.ratio(unit, scale(source(op, tensors)), scale(w)))
    n = quantize_multiplier(arithmetic.ratio(unit, scale(source(op, tensors, OUTPUT_STATE)), scale(r)))
    return arithmetic.gate(inner, m, recurrent, n)


def svdf(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SVDF of int8: each filter's product with the input enters its memory of the last ones, which `weights_time` sums.

    Equation (3) of Alvarez and Park, End-to-end Streaming Keyword Spotting (2018); the activation is not applied.
    """
    x, features, times, state, y = *(source(op, tensors, i) for i in (0, 1, 2, 4)), target(op, tensors)
    if (x.dtype, features.dtype, y.dtype) != ("int8", "int8", "int8") or times.dtype != state.dtype:
        raise ExportError(f"SVDF of {x.dtype} with weights of {features.dtype}: its kernels are modelled for int8.")
    batch, filters, memory = x.shape[0], *times.shape
    first = quantize_multiplier(ratio32(scale(state), scale(x), scale(features)))
    second = quantize_multiplier(ratio32(scale(y), scale(state), scale(times)))
    product = contraction.multiply_dense(centred(present(op, values), x), constant(op, tensors, 1).astype(np.int32))
    low, high = (LOW, HIGH) if state.dtype == "int16" else (-128, 127)
    newest = jnp.clip(multiply_by_quantized_multiplier(product, first), low, high) + zero_point(state)
    held = present(op, values, 4).astype(jnp.int32).reshape(batch, filters, memory)
    held = jnp.concatenate([held[..., 1:], newest[..., None]], axis=-1).astype(state.dtype)
    sums = ((held.astype(jnp.int32) - zero_point(state)) * constant(op, tensors, 2).astype(np.int32)).sum(-1)
    total = sums.reshape(batch, y.shape[1], -1).sum(-1)
    bias = values[3]
    total = total if bias is None else total + bias
    steps = multiply_by_quantized_multiplier(total, second) + zero_point(y)
    return [saturate(steps, y, -128, 127), held.reshape(state.shape)]


KERNELS: dict[str, dict[str, Kernel]] = {
    "reference": {"SVDF": svdf, "UNIDIRECTIONAL_SEQUENCE_LSTM": sequence_lstm(LITERT)},
    "tflm": {"SVDF": svdf, "UNIDIRECTIONAL_SEQUENCE_LSTM": sequence_lstm(MICRO)},
}
