"""Shape rules of operators that move, select, reduce or combine numbers one by one."""

from __future__ import annotations

import functools
from types import EllipsisType

import numpy as np

from jaxq.export.shapes.view import Misfit, Rule, Shape, View, broadcast, ensure, size

Place = int | slice | EllipsisType | None  # of numpy's indexing, on one axis


def like(view: View) -> list[Shape]:
    """The output has the input's shape."""
    return [view.shape()]


def rows(view: View) -> list[Shape]:
    """As `like`, for operators on the last axis."""
    ensure(bool(view.shape()) and view.shape()[-1] > 0, f"works along the last axis of shape {view.shape()}")
    return [view.shape()]


def together(view: View) -> list[Shape]:
    """All inputs, broadcast."""
    return [broadcast(*(view.shape(i) for i in range(len(view.op.inputs))))]


def prelu(view: View) -> list[Shape]:
    """PRELU: slopes that broadcast to the input's shape."""
    x = view.shape()
    ensure(broadcast(x, view.shape(1)) == x, f"has slopes of shape {view.shape(1)} for an input {x}")
    return [x]


def reduction(view: View) -> list[Shape] | None:
    """MEAN, SUM, REDUCE_MAX ...: the axes of input 1, each once."""
    x, found = view.shape(), view.constant(1)
    if found is None:
        return None
    axes = [view.axis(n, len(x)) for n in found]
    ensure(len(set(axes)) == len(axes), f"reduces axes {found}, one of them twice")
    ensure(all(x[n] > 0 for n in axes), f"reduces axes {found} of shape {x}, which has nothing there")
    keep = bool(view.number("keep_dims", 0))
    return [tuple(1 if i in axes else n for i, n in enumerate(x) if keep or i not in axes)]


def arg_reduction(view: View) -> list[Shape] | None:
    """ARG_MAX, ARG_MIN along the axis of input 1."""
    x, found = view.shape(), view.constant(1)
    if found is None:
        return None
    ensure(len(found) == 1, f"has {len(found)} axes")
    axis = view.axis(found[0], len(x))
    ensure(x[axis] > 0, f"searches axis {axis} of shape {x}")
    return [x[:axis] + x[axis + 1 :]]


def reshape(view: View) -> list[Shape]:
    """RESHAPE to the constant of input 1 or option `new_shape`; the output's own shape where it is computed."""
    x, y = size(view.shape()), view.output().shape
    wanted = view.constant(1) if view.has(1) else view.op.options.get("new_shape")
    if isinstance(wanted, (list, tuple)) and (view.has(1) or wanted):
        y = _resolved(x, [int(n) for n in wanted])
    ensure(size(y) == x, f"makes shape {y} of {view.shape()}")
    return [y]


def _resolved(elements: int, wanted: list[int]) -> Shape:
    """The shape with its one -1 filled in. A lone 0 is an old writer's scalar."""
    if wanted == [0] and elements == 1:
        return ()
    ensure(min(wanted, default=0) >= -1 and wanted.count(-1) <= 1, f"makes shape {wanted}")
    known = size(tuple(n for n in wanted if n != -1))
    rest = elements // known if known else 0
    return tuple(rest if n == -1 else n for n in wanted)


def squeeze(view: View) -> list[Shape]:
    """SQUEEZE of the axes of option `squeeze_dims`, or of all of length 1."""
    x, listed = view.shape(), view.op.options.get("squeeze_dims")
    axes = [view.axis(int(n), len(x)) for n in listed] if isinstance(listed, tuple) and listed else None
    gone = {i for i, n in enumerate(x) if n == 1} if axes is None else set(axes)
    ensure(all(x[i] == 1 for i in gone), f"removes axes {sorted(gone)} of shape {x}")
    return [tuple(n for i, n in enumerate(x) if i not in gone)]


def expand_dims(view: View) -> list[Shape] | None:
    """EXPAND_DIMS at the axis of input 1."""
    x, found = view.shape(), view.constant(1)
    if found is None:
        return None
    ensure(len(found) == 1, f"has {len(found)} axes")
    axis = view.axis(found[0], len(x) + 1)
    return [(*x[:axis], 1, *x[axis:])]


def transpose(view: View) -> list[Shape] | None:
    """TRANSPOSE by the permutation of input 1."""
    x, order = view.shape(), view.constant(1)
    if order is None:
        return None
    ensure(sorted(order) == list(range(len(x))), f"has the permutation {order} of {len(x)} axes")
    return [tuple(x[i] for i in order)]


def pad(view: View) -> list[Shape] | None:
    """PAD, PADV2, MIRROR_PAD: [rank, 2] numbers of what goes before and after."""
    x, found = view.shape(), view.constant(1, 2)
    if view.op.kind == "PADV2":
        ensure(size(view.shape(2)) == 1, f"pads with {size(view.shape(2))} values")
    if found is None:
        return None
    ensure(view.shape(1) == (len(x), 2) and min(found, default=0) >= 0, f"pads shape {x} by {found}")
    return [tuple(n + low + high for n, low, high in zip(x, found[::2], found[1::2], strict=True))]


def concatenation(view: View) -> list[Shape]:
    """CONCATENATION along option `axis`."""
    shapes = [view.shape(i) for i in range(len(view.op.inputs))]
    axis = view.axis(view.number("axis", 0), len(shapes[0]))
    rests = {shape[:axis] + shape[axis + 1 :] for shape in shapes}
    ensure(len(rests) == 1 and len({len(s) for s in shapes}) == 1, f"joins shapes {shapes} along axis {axis}")
    return [(*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])]


def split(view: View) -> list[Shape] | None:
    """SPLIT along the axis of input 0 into equal parts."""
    found, x, parts = view.constant(0), view.shape(1), len(view.op.outputs)
    splits = view.number("num_splits", parts)
    ensure(splits == parts > 0, f"has num_splits {splits}, and {parts} outputs")
    if found is None:
        return None
    ensure(len(found) == 1, f"has {len(found)} axes")
    axis = view.axis(found[0], len(x))
    ensure(x[axis] % parts == 0, f"splits axis {axis} of shape {x} into {parts}")
    return [(*x[:axis], x[axis] // parts, *x[axis + 1 :])] * parts


def top_k(view: View) -> list[Shape] | None:
    """TOPK_V2: as many numbers of the last axis as input 1 says, twice."""
    found, x = view.constant(1), view.shape(0)
    ensure(len(view.op.outputs) == 2, f"has {len(view.op.outputs)} outputs, not 2")
    ensure(len(x) > 0, "has an input without axes")
    if found is None:
        return None
    ensure(len(found) == 1, f"has {len(found)} numbers for k")
    ensure(0 <= found[0] <= x[-1], f"takes {found[0]} of the {x[-1]} numbers of the last axis")
    return [(*x[:-1], int(found[0]))] * 2


def split_v(view: View) -> list[Shape] | None:
    """SPLIT_V: the sizes of input 1 along the axis of input 2."""
    x, sizes, found = view.shape(), view.constant(1), view.constant(2)
    if sizes is None or found is None:
        return None
    ensure(len(found) == 1 and len(sizes) == len(view.op.outputs), f"has sizes {sizes}, {len(view.op.outputs)} outputs")
    axis = view.axis(found[0], len(x))
    rest = x[axis] - sum(n for n in sizes if n >= 0)
    sizes = [rest if n == -1 else n for n in sizes]
    ensure(min(sizes, default=0) >= 0 and sum(sizes) == x[axis], f"splits axis {axis} of shape {x} into {sizes}")
    return [(*x[:axis], n, *x[axis + 1 :]) for n in sizes]


def slice_box(view: View) -> list[Shape] | None:
    """SLICE: begin of input 1, sizes of input 2, of which -1 is the rest."""
    x, begins, sizes = view.shape(), view.constant(1), view.constant(2)
    if begins is None or sizes is None:
        return None
    ensure(len(begins) == len(sizes) == len(x), f"slices shape {x} from {begins} by {sizes}")
    found = tuple(n - b if s == -1 else s for n, b, s in zip(x, begins, sizes, strict=True))
    inside = all(b >= 0 and s >= 0 and b + s <= n for n, b, s in zip(x, begins, found, strict=True))
    ensure(inside, f"slices shape {x} from {begins} by {sizes}")
    return [found]


def strided_slice(view: View) -> list[Shape] | None:
    """STRIDED_SLICE with its five masks, as numpy's indexing."""
    x, parts = view.shape(), [view.constant(position) for position in (1, 2, 3)]
    found = [part for part in parts if part is not None]
    if len(found) < 3:
        return None
    ensure(len({len(part) for part in found}) == 1, f"has {[len(part) for part in found]} begins, ends and strides")
    ensure(all(found[2]), "has a stride of 0")
    places = list(zip(*found, strict=True))
    index = [_index(view, axis, *place) for axis, place in enumerate(places)]
    ensure(index.count(Ellipsis) <= 1 and sum(i is not None and i is not Ellipsis for i in index) <= len(x),
           f"slices shape {x} with {len(index)} places")  # fmt: skip
    try:
        return [np.broadcast_to(np.int8(0), x)[tuple(index)].shape]
    except IndexError:
        raise Misfit(f"takes an index of shape {x} that is outside it") from None


def _index(view: View, axis: int, begin: int, end: int, step: int) -> Place:
    def masked(name: str) -> bool:
        return bool(view.number(name, 0) >> axis & 1)

    if masked("ellipsis_mask"):
        return Ellipsis
    if masked("new_axis_mask"):
        return None
    if masked("shrink_axis_mask"):
        return begin
    return slice(None if masked("begin_mask") else begin, None if masked("end_mask") else end, step)


def gather(view: View) -> list[Shape]:
    """GATHER along option `axis`, with `batch_dims` leading axes in common."""
    x, indices = view.shape(), view.shape(1)
    axis, batch = view.axis(view.number("axis", 0), len(x)), view.number("batch_dims", 0)
    batch = batch + len(indices) if batch < 0 else batch
    ensure(0 <= batch <= min(axis, len(indices)) and x[:batch] == indices[:batch], f"has batch_dims {batch} of {x}")
    ensure(x[axis] > 0, f"gathers along axis {axis} of shape {x}")
    ensure(view.input(1).dtype in ("int16", "int32", "int64"), f"has indices of {view.input(1).dtype}")
    return [(*x[:axis], *indices[batch:], *x[axis + 1 :])]


def embedding_lookup(view: View) -> list[Shape]:
    """EMBEDDING_LOOKUP: the rows of input 1 at the indices of input 0, a vector of int32."""
    (count,), table = view.shape(0, 1), view.shape(1)
    ensure(len(table) >= 2, f"looks up rows of shape {table}")
    ensure(table[0] > 0, f"looks up rows of shape {table}")
    ensure(view.input().dtype == "int32", f"has indices of {view.input().dtype}")
    q = view.input(1).quantization
    if q is not None and q.per_channel:
        ensure(q.axis == 0, f"looks up rows with a scale for each index of axis {q.axis}")
        ensure(view.output().dtype == "float32", f"looks up {view.output().dtype} of rows with scales of their own")
    return [(count, *table[1:])]


def broadcast_to(view: View) -> list[Shape] | None:
    """BROADCAST_TO the shape of input 1."""
    x, wanted = view.shape(), view.constant(1)
    if wanted is None:
        return None
    ensure(min(wanted, default=0) >= 0, f"makes shape {wanted}")
    ensure(broadcast(x, tuple(wanted)) == tuple(wanted), f"broadcasts {x} to {wanted}")
    return [tuple(wanted)]


def pack(view: View) -> list[Shape]:
    """PACK along the new axis of option `axis`."""
    shapes = [view.shape(i) for i in range(len(view.op.inputs))]
    ensure(len(set(shapes)) == 1, f"stacks shapes {shapes}")
    axis = view.axis(view.number("axis", 0), len(shapes[0]) + 1)
    return [(*shapes[0][:axis], len(shapes), *shapes[0][axis:])]


def unpack(view: View) -> list[Shape]:
    """UNPACK along option `axis`."""
    x, parts = view.shape(), len(view.op.outputs)
    axis = view.axis(view.number("axis", 0), len(x))
    ensure(x[axis] == parts, f"takes shape {x} apart along axis {axis} into {parts}")
    return [x[:axis] + x[axis + 1 :]] * parts


def tile(view: View) -> list[Shape] | None:
    """TILE by the multiples of input 1."""
    x, times = view.shape(), view.constant(1)
    if times is None:
        return None
    ensure(len(times) == len(x) and min(times, default=0) >= 0, f"repeats shape {x} {times} times")
    return [tuple(n * k for n, k in zip(x, times, strict=True))]


def blocks(view: View, sign: int) -> list[Shape]:
    """DEPTH_TO_SPACE and SPACE_TO_DEPTH by option `block_size`."""
    (n, h, w, c), k = view.shape(0, 4), view.positive("block_size", 0)
    if sign > 0:
        ensure(c % (k * k) == 0, f"has {c} channels for blocks of {k}")
        return [(n, h * k, w * k, c // (k * k))]
    ensure(h % k == 0 and w % k == 0, f"has rows and columns {(h, w)} for blocks of {k}")
    return [(n, h // k, w // k, c * k * k)]


depth_to_space: Rule = functools.partial(blocks, sign=1)
space_to_depth: Rule = functools.partial(blocks, sign=-1)


def along_axes(view: View) -> list[Shape]:
    """CUMSUM, REVERSE_V2: the axes of input 1, each once."""
    x, found = view.shape(), view.constant(1)
    axes = [view.axis(n, len(x)) for n in found or ()]
    ensure(len(set(axes)) == len(axes), f"works along axes {found}, one of them twice")
    return [x]


def nothing(view: View) -> None:
    """Shapes that `program` knows: of variables."""
