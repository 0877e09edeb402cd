"""Operators that move or select bytes: the same in every kernel family, for every dtype.

Input and output quantization must be equal; TFLite mostly does not check it, and neither do these kernels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import resize
from jaxq.export.evaluate.kernels.operands import (
    Kernel,
    Tensors,
    Values,
    constant,
    option_int,
    present,
    target,
    zero_point,
)
from jaxq.export.program import Operator


def reshape(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """RESHAPE, SQUEEZE, EXPAND_DIMS: the output tensor's static shape."""
    return [present(op, values).reshape(target(op, tensors).shape)]


def transpose(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TRANSPOSE by the constant permutation of input 1."""
    return [present(op, values).transpose(tuple(int(axis) for axis in constant(op, tensors, 1)))]


def pad(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """PAD with real zero: the output's zero point."""
    out = target(op, tensors)
    fill = 0 if out.quantization is None else zero_point(out)
    widths = [(int(low), int(high)) for low, high in constant(op, tensors, 1)]
    return [jnp.pad(present(op, values), widths, constant_values=fill)]


def pad_with(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """PADV2: pad with the scalar of input 2."""
    widths = [(int(low), int(high)) for low, high in constant(op, tensors, 1)]
    fill = present(op, values, 2).reshape(())
    return [jnp.pad(present(op, values), widths, constant_values=fill)]


def concatenate(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CONCATENATION along option `axis`."""
    _no_activation(op)
    parts = [present(op, values, i) for i in range(len(op.inputs))]
    return [jnp.concatenate(parts, axis=option_int(op, "axis", 0))]


def split(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SPLIT into equal parts; the axis is input 0."""
    axis = int(constant(op, tensors, 0).reshape(()))
    return list(jnp.split(present(op, values, 1), len(op.outputs), axis=axis))


def split_at(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SPLIT_V: the sizes of input 1 along the axis of input 2."""
    axis = int(constant(op, tensors, 2).reshape(()))
    sizes = [tensors[i].shape[axis] for i in op.outputs]
    return list(jnp.split(present(op, values), np.cumsum(sizes)[:-1], axis=axis))


def slice_box(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SLICE: begin (input 1) and size (input 2, -1 is the rest)."""
    begins, sizes = constant(op, tensors, 1), constant(op, tensors, 2)
    box = tuple(slice(int(b), None if s < 0 else int(b + s)) for b, s in zip(begins, sizes, strict=True))
    return [present(op, values)[box]]


def strided_slice(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """STRIDED_SLICE with all five masks, which mean what numpy's indexing means."""
    begins, ends, steps = (constant(op, tensors, position) for position in (1, 2, 3))
    index = tuple(
        _index(op, axis, int(b), int(e), int(s)) for axis, (b, e, s) in enumerate(zip(begins, ends, steps, strict=True))
    )
    return [present(op, values)[index].reshape(target(op, tensors).shape)]


def _index(op: Operator, axis: int, begin: int, end: int, step: int) -> object:
    def masked(name: str) -> bool:
        return bool(option_int(op, name, 0) >> axis & 1)

    if masked("ellipsis_mask"):
        return Ellipsis
    if masked("new_axis_mask"):
        return None
    if masked("shrink_axis_mask"):
        return slice(begin, begin + 1 or None)
    return slice(None if masked("begin_mask") else begin, None if masked("end_mask") else end, step)


def gather(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """GATHER along option `axis` with `batch_dims` leading batch axes. Indices must be in range."""
    x, indices = present(op, values), present(op, values, 1)
    axis, batch = option_int(op, "axis", 0), option_int(op, "batch_dims", 0)
    axis = axis + x.ndim if axis < 0 else axis

    def take(a: jax.Array, i: jax.Array) -> jax.Array:
        return jnp.take(a, i, axis=axis - batch, mode="clip")

    for _ in range(batch):
        take = jax.vmap(take)
    return [take(x, indices)]


def embedding_lookup(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """EMBEDDING_LOOKUP: rows of the table as they are. Indices must be in range."""
    return [jnp.take(present(op, values, 1), present(op, values), axis=0, mode="clip")]


def broadcast_to(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """BROADCAST_TO the shape of the output."""
    return [jnp.broadcast_to(present(op, values), tensors[op.outputs[0]].shape)]


def select(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """SELECT_V2: the second operand where the first holds, else the third, broadcasting."""
    return [jnp.where(*(present(op, values, i) for i in range(3)))]


def logical(f: Callable[..., jax.Array]) -> Kernel:
    """LOGICAL_AND, LOGICAL_OR, broadcasting, and LOGICAL_NOT."""
    return lambda op, tensors, values: [f(*(present(op, values, i) for i in range(len(op.inputs))))]


def comparison(relation: Callable[..., jax.Array]) -> Kernel:
    """EQUAL, LESS and their like, broadcasting, of numbers without a scale. Raises ExportError for quantized ones."""

    def compare(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        if any(tensors[i].quantization is not None for i in op.inputs):
            raise ExportError(
                f"{op.kind} of quantized numbers is not evaluated; of integers, floats and booleans it is."
            )
        return [relation(present(op, values), present(op, values, 1))]

    return compare


def or_of_int32(f: Callable[..., jax.Array], kernel: Callable[..., list[jax.Array]]) -> Callable[..., list[jax.Array]]:
    """An operator of two int32 without a scale, f, which wraps around; of any other numbers `kernel`."""

    def of_both(op: Operator, tensors: Tensors, values: Values, **machine: Any) -> list[jax.Array]:
        if target(op, tensors).dtype != "int32":
            return kernel(op, tensors, values, **machine)
        _no_activation(op)
        return [f(*jnp.broadcast_arrays(present(op, values), present(op, values, 1)))]

    return of_both


def sum_of_int32_or(kernel: Kernel) -> Kernel:
    """SUM of int32 over the constant axes of input 1, wrapping; of any other numbers `kernel`."""

    def total(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        if target(op, tensors).dtype != "int32":
            return kernel(op, tensors, values)
        axes = tuple(int(axis) for axis in constant(op, tensors, 1).reshape(-1))
        return [present(op, values).sum(axis=axes, keepdims=bool(option_int(op, "keep_dims", 0)))]

    return total


def _no_kernel(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    dtype = target(op, tensors).dtype
    raise ExportError(f"{op.kind} has an exact kernel of int32 and of floats, none of {dtype}. Use other operators.")


def cast(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CAST of integers and booleans, as C converts them."""
    return [present(op, values).astype(tensors[op.outputs[0]].dtype)]


def pack(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """PACK: stack along a new axis."""
    parts = [present(op, values, i) for i in range(len(op.inputs))]
    return [jnp.stack(parts, axis=option_int(op, "axis", 0))]


def unpack(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """UNPACK: the slices along one axis."""
    parts = jnp.moveaxis(present(op, values), option_int(op, "axis", 0), 0)
    return [parts[i] for i in range(len(op.outputs))]


def tile(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TILE by the constant multiples of input 1."""
    return [jnp.tile(present(op, values), tuple(int(n) for n in constant(op, tensors, 1)))]


def maximum(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MAXIMUM of the raw values, broadcast."""
    return [jnp.maximum(present(op, values), present(op, values, 1))]


def minimum(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """MINIMUM of the raw values, broadcast."""
    return [jnp.minimum(present(op, values), present(op, values, 1))]


def reduce_max(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """REDUCE_MAX over the constant axes of input 1."""
    axes = tuple(int(axis) for axis in constant(op, tensors, 1).reshape(-1))
    return [present(op, values).max(axis=axes, keepdims=bool(option_int(op, "keep_dims", 0)))]


def reduce_min(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """REDUCE_MIN over the constant axes of input 1."""
    axes = tuple(int(axis) for axis in constant(op, tensors, 1).reshape(-1))
    return [present(op, values).min(axis=axes, keepdims=bool(option_int(op, "keep_dims", 0)))]


def top_k(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """TOPK_V2 over the last axis, descending: numbers and places, of equal numbers the first place first."""
    found, places = lax.top_k(present(op, values), int(constant(op, tensors, 1).reshape(())))
    return [found, places.astype(tensors[op.outputs[1]].dtype)]


def arg(find: Callable[..., jax.Array]) -> Kernel:
    """ARG_MAX and ARG_MIN along the constant axis of input 1: the first of the largest or of the least, int32."""

    def kernel(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
        axis = int(constant(op, tensors, 1).reshape(()))
        return [find(present(op, values), axis=axis).astype(jnp.int32)]

    return kernel


def reverse(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """REVERSE_V2 along the constant axes of input 1."""
    return [jnp.flip(present(op, values), tuple(int(axis) for axis in constant(op, tensors, 1).reshape(-1)))]


def cumsum(op: Operator, tensors: Tensors, values: Values) -> list[jax.Array]:
    """CUMSUM along the constant axis of input 1, of int32 (wrapping) and of floats, which LiteRT takes alone."""
    x = present(op, values)
    if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype not in (jnp.int32, jnp.int64):
        raise ExportError(f"CUMSUM of {x.dtype}: LiteRT has no such kernel. Use int32 or float32.")
    axis, backwards = int(constant(op, tensors, 1).reshape(())), bool(option_int(op, "reverse", 0))
    total = lax.cumsum(x, axis=axis % x.ndim, reverse=backwards)
    return [total - x if option_int(op, "exclusive", 0) else total]


def rounded_down(f: Callable[..., jax.Array]) -> Kernel:
    """FLOOR_DIV and FLOOR_MOD of the raw values, broadcast; scales play no part. LiteRT refuses a divisor of 0."""
    return lambda op, tensors, values: [f(present(op, values), present(op, values, 1))]


def _no_activation(op: Operator) -> None:
    fused = op.options.get("fused_activation_function", "NONE")
    if fused != "NONE":
        raise ExportError(f"{op.kind} with the fused activation {fused}. Put the activation in an operator of its own.")


KERNELS: dict[str, Kernel] = {
    "RESHAPE": reshape,
    "SQUEEZE": reshape,
    "EXPAND_DIMS": reshape,
    "TRANSPOSE": transpose,
    "PAD": pad,
    "PADV2": pad_with,
    "CONCATENATION": concatenate,
    "SPLIT": split,
    "SPLIT_V": split_at,
    "SLICE": slice_box,
    "STRIDED_SLICE": strided_slice,
    "BROADCAST_TO": broadcast_to,
    "SELECT_V2": select,
    "LOGICAL_AND": logical(jnp.logical_and),
    "LOGICAL_NOT": logical(jnp.logical_not),
    "LOGICAL_OR": logical(jnp.logical_or),
    "EQUAL": comparison(jnp.equal),
    "NOT_EQUAL": comparison(jnp.not_equal),
    "GREATER": comparison(jnp.greater),
    "GREATER_EQUAL": comparison(jnp.greater_equal),
    "LESS": comparison(jnp.less),
    "LESS_EQUAL": comparison(jnp.less_equal),
    "CAST": cast,
    "DIV": or_of_int32(lax.div, _no_kernel),
    "EMBEDDING_LOOKUP": embedding_lookup,
    "GATHER": gather,
    "PACK": pack,
    "UNPACK": unpack,
    "TILE": tile,
    "RESIZE_NEAREST_NEIGHBOR": resize.nearest,
    "MAXIMUM": maximum,
    "MINIMUM": minimum,
    "REDUCE_MAX": reduce_max,
    "REDUCE_MIN": reduce_min,
    "ARG_MAX": arg(jnp.argmax),
    "ARG_MIN": arg(jnp.argmin),
    "CUMSUM": cumsum,
    "FLOOR_DIV": rounded_down(jnp.floor_divide),
    "FLOOR_MOD": rounded_down(jnp.remainder),
    "REVERSE_V2": reverse,
    "TOPK_V2": top_k,
}
