"""Which part of its inputs one element of an operator's output is computed from.

`READS[class](op, tensors, index, position)` is that block of the input at `position`, as one slice an axis, in the
file's own shapes. `jaxq.export.operators` has each kind's class; what has none may read its whole input.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from jaxq.export.operators import OPERATORS
from jaxq.export.program import Operator, Tensor

Index = tuple[int, ...]
Block = tuple[slice, ...]
Tensors = tuple[Tensor, ...]


def read_block(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """The block of the input at `position` that the output element at `index` reads."""
    shape = tensors[op.inputs[position]].shape
    reads = OPERATORS[op.kind].reads if op.kind in OPERATORS else "all"
    return tuple(slice(0, size) for size in shape) if reads == "all" else READS[reads](op, tensors, index, position)


def _one(index: Index) -> Block:
    return tuple(slice(i, i + 1) for i in index)


def _same(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """The element at the same place, broadcast as numpy does."""
    shape = tensors[op.inputs[position]].shape
    last = index[len(index) - len(shape) :]
    return _one(tuple(0 if size == 1 else i for i, size in zip(last, shape, strict=True)))


def _row(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """The whole last axis at the same place."""
    return (*_one(index[:-1]), slice(0, tensors[op.inputs[position]].shape[-1]))


def _dense(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """The row of FULLY_CONNECTED; where the file flattens its input, that row in the input's own shape."""
    shape, out = tensors[op.inputs[position]].shape, tensors[op.outputs[0]].shape
    if len(shape) == len(out):
        return _row(op, tensors, index, position)
    return tuple(slice(0, size) for size in shape)


def _flat(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """RESHAPE: the element with the same place in memory."""
    place = np.ravel_multi_index(index, tensors[op.outputs[0]].shape)
    return _one(tuple(int(i) for i in np.unravel_index(place, tensors[op.inputs[position]].shape)))


def _permuted(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    perm = tensors[op.inputs[1]].data
    assert perm is not None
    found = dict(zip(perm.tolist(), index, strict=True))
    return _one(tuple(found[axis] for axis in range(len(index))))


def _window(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """The taps of a convolution or a pool that lie inside the input."""
    x = tensors[op.inputs[position]]
    kernel = _kernel_size(op, tensors)
    same = op.options.get("padding") == "SAME"
    steps = [(_option(op, f"stride_{side}"), _option(op, f"dilation_{side}_factor")) for side in "hw"]
    axes = [_taps(x.shape[i], kernel[i - 1], *steps[i - 1], index[i], same) for i in (1, 2)]
    return (*_one(index[:1]), *axes, _channels(op, tensors, index[3]))


def _option(op: Operator, name: str) -> int:
    return _number(op.options.get(name)) or 1


def _kernel_size(op: Operator, tensors: Tensors) -> tuple[int, int]:
    if "POOL" in op.kind:
        return _option(op, "filter_height"), _option(op, "filter_width")
    return tensors[op.inputs[1]].shape[1], tensors[op.inputs[1]].shape[2]


def _taps(size: int, kernel: int, stride: int, dilation: int, index: int, same: bool) -> slice:
    reach = (kernel - 1) * dilation + 1
    before = max((-(-size // stride) - 1) * stride + reach - size, 0) // 2 if same else 0
    start = index * stride - before
    first = start if start >= 0 else start % dilation  # the first tap inside
    return slice(first, min(start + reach, size), dilation)


def _channels(op: Operator, tensors: Tensors, channel: int) -> slice:
    """The input channels that an output channel reads: all, those of its group, or one."""
    inner, outer = tensors[op.inputs[0]].shape[3], tensors[op.outputs[0]].shape[3]
    if op.kind == "CONV_2D":
        size = tensors[op.inputs[1]].shape[3]
        first = channel // (outer // (inner // size)) * size
        return slice(first, first + size)
    one = channel // (outer // inner)
    return slice(one, one + 1)


def _reduced(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """MEAN and SUM: all along the reduced axes."""
    shape, data = tensors[op.inputs[0]].shape, tensors[op.inputs[1]].data
    assert data is not None
    axes = {int(axis) % len(shape) for axis in np.ravel(data)}
    kept = [axis for axis in range(len(shape)) if axis not in axes or op.options.get("keep_dims")]
    places = dict(zip(kept, index, strict=True))
    return tuple(
        slice(0, size) if axis in axes else slice(places[axis], places[axis] + 1) for axis, size in enumerate(shape)
    )


def _joined(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """CONCATENATION: the element, of the input that holds it; nothing of the others."""
    shapes = [tensors[i].shape for i in op.inputs]
    axis = _number(op.options.get("axis")) % len(index)
    start = sum(shape[axis] for shape in shapes[:position])
    block = list(_one(index))
    place = index[axis] - start
    block[axis] = slice(place, place + 1) if 0 <= place < shapes[position][axis] else slice(0, 0)
    return tuple(block)


def _number(option: Any) -> int:
    return int(option or 0)


def _padded(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """PAD: the element, or nothing where it is padding."""
    shape, pads = tensors[op.inputs[0]].shape, tensors[op.inputs[1]].data
    assert pads is not None
    places = [i - int(before) for i, before in zip(index, pads[:, 0], strict=True)]
    if not all(0 <= place < size for place, size in zip(places, shape, strict=True)):
        return tuple(slice(0, 0) for _ in shape)
    return _one(tuple(places))


def _begun(op: Operator, tensors: Tensors, index: Index, position: int) -> Block:
    """SLICE: the element, `begin` further on."""
    begin = tensors[op.inputs[1]].data
    assert begin is not None
    return _one(tuple(i + int(b) for i, b in zip(index, begin, strict=True)))


Rule = Callable[[Operator, Tensors, Index, int], Block]

# By the classes that `jaxq.export.operators.Facts.reads` names. Sorted.
READS: dict[str, Rule] = {
    "begun": _begun,
    "dense": _dense,
    "flat": _flat,
    "joined": _joined,
    "padded": _padded,
    "permuted": _permuted,
    "reduced": _reduced,
    "row": _row,
    "same": _same,
    "window": _window,
}
