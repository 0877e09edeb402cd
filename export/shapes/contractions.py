"""Shape rules of convolutions, products, pools, resizing and recurrent operators."""

from __future__ import annotations

from jaxq.export.shapes.view import Misfit, Shape, View, broadcast, ensure, size


def windows(view: View, n: int, window: int, stride: int, dilation: int = 1) -> int:
    """How many windows an axis of `n` has, with the operator's padding."""
    spread = (window - 1) * dilation + 1
    same = view.op.options.get("padding", "SAME") == "SAME"
    count = -(-n // stride) if same else (n - spread) // stride + 1
    ensure(count > 0, f"has a window of {spread} on an axis of {n}")
    return count


def conv(view: View) -> list[Shape]:
    """CONV_2D: x [n, h, w, c], weights [o, kh, kw, c / groups], bias [o]."""
    (n, *area, c), (o, kh, kw, depth) = view.shape(0, 4), view.shape(1, 4)
    ensure(min(o, kh, kw, depth) > 0, f"has weights of shape {view.shape(1)}")
    ensure(c > 0 and c % depth == 0 and o % (c // depth) == 0, f"has weights {view.shape(1)} for {c} channels")
    _weights(view, 1, o)
    _bias(view, 2, o)
    return [(n, *_area(view, area, (kh, kw)), o)]


def depthwise(view: View) -> list[Shape]:
    """DEPTHWISE_CONV_2D: x [n, h, w, c], weights [1, kh, kw, c m], bias [c m]."""
    (n, *area, c), (one, kh, kw, o) = view.shape(0, 4), view.shape(1, 4)
    ensure(one == 1 and min(c, kh, kw, o) > 0 and o % max(c, 1) == 0, f"has weights {view.shape(1)} for {c} channels")
    _weights(view, 1, o)
    _bias(view, 2, o)
    return [(n, *_area(view, area, (kh, kw)), o)]


def transpose_conv(view: View) -> list[Shape] | None:
    """TRANSPOSE_CONV: output shape [4], weights [o, kh, kw, c], x [n, h, w, c], bias [o]."""
    (o, kh, kw, depth), (n, *area, c) = view.shape(1, 4), view.shape(2, 4)
    ensure(depth == c and min(o, kh, kw, c) > 0, f"has weights {view.shape(1)} for {c} channels")
    _weights(view, 1, o)
    _bias(view, 3, o)
    wanted = view.constant(0)
    if wanted is None:
        return None
    ensure(len(wanted) == 4 and wanted[0] == n and wanted[3] == o, f"has output shape {wanted}")
    for name, out, k, n_in in zip("hw", wanted[1:3], (kh, kw), area, strict=True):
        found = windows(view, out, k, view.positive(f"stride_{name}", 1))
        ensure(found == n_in, f"makes {out} of {n_in}, which with its window is made of {found}")
    return [tuple(wanted)]


def fully_connected(view: View) -> list[Shape]:
    """FULLY_CONNECTED: x of any shape, weights [o, i], bias [o]."""
    x, (o, i) = view.shape(), view.shape(1, 2)
    ensure(o > 0 and i > 0 and size(x) % i == 0, f"has weights {(o, i)} for an input {x}")
    ensure(not view.number("weights_format", 0), "has weights in a shuffled format")
    _weights(view, 1, o)
    _bias(view, 2, o)
    if not view.number("keep_num_dims", 0):
        return [(size(x) // i, o)]
    ensure(bool(x) and x[-1] == i, f"keeps the axes of {x} with weights {(o, i)}")
    return [(*x[:-1], o)]


def batch_matmul(view: View) -> list[Shape]:
    """BATCH_MATMUL: [..., m, k] by [..., k, n]."""
    a, b = view.shape(), view.shape(1)
    ensure(len(a) >= 2 and len(b) >= 2, f"multiplies shapes {a} and {b}")
    rows = _turned(a, bool(view.number("adj_x", 0)))
    columns = _turned(b, bool(view.number("adj_y", 0)))
    ensure(rows[-1] == columns[-2], f"multiplies {rows[-2:]} by {columns[-2:]}")
    return [(*broadcast(a[:-2], b[:-2]), rows[-2], columns[-1])] if a[:-2] or b[:-2] else [(rows[-2], columns[-1])]


def pool(view: View) -> list[Shape]:
    """AVERAGE_POOL_2D, MAX_POOL_2D."""
    n, h, w, c = view.shape(0, 4)
    kernel = view.positive("filter_height", 0), view.positive("filter_width", 0)
    rows = windows(view, h, kernel[0], view.positive("stride_h", 0))
    return [(n, rows, windows(view, w, kernel[1], view.positive("stride_w", 0)), c)]


def resize(view: View) -> list[Shape] | None:
    """RESIZE_BILINEAR, RESIZE_NEAREST_NEIGHBOR: x [n, h, w, c], size [2]."""
    n, h, w, c = view.shape(0, 4)
    wanted = view.constant(1)
    if wanted is None:
        return None
    ensure(len(wanted) == 2 and min(*wanted, h, w) > 0, f"makes rows and columns {wanted} of {(h, w)}")
    return [(n, wanted[0], wanted[1], c)]


def sequence_lstm(view: View) -> list[Shape]:
    """UNIDIRECTIONAL_SEQUENCE_LSTM: x [batch, time, in] or [time, batch, in]; 4 gates of weights [cell, in] and
    [out, cell], biases [cell], state [batch, out] and [batch, cell].
    """
    x = view.shape(0, 3)
    gates = [position for position in (1, 2, 3, 4) if view.has(position)]
    ensure(gates[-3:] == [2, 3, 4], "lacks weights of a gate")
    cell, state, out = view.shape(2, 2)[0], view.shape(18, 2), view.shape(6, 2)[1]
    batch = x[1] if view.number("time_major", 0) else x[0]
    ensure(state == (batch, out) and view.shape(19, 2) == (batch, cell), f"has states {state} and {view.shape(19)}")
    for position in gates:
        _is(view, position, (cell, x[2]))
        _is(view, position + 4, (cell, out))
        _is(view, position + 11, (cell,))
    _optional(view, (9, 10, 11), (cell,))
    _optional(view, (16,), (out, cell))
    _optional(view, (17,), (out,))
    _optional(view, (20, 21, 22, 23), (cell,))
    ensure(view.has(16) or cell == out, f"has {cell} cells and {out} outputs without a projection")
    return [(*x[:2], out)]


def svdf(view: View) -> list[Shape]:
    """SVDF: x [batch, in], weights [filters, in] and [filters, memory], bias [units], state [batch, memory filters]."""
    (batch, depth), (filters, wide), (same, memory) = view.shape(0, 2), view.shape(1, 2), view.shape(2, 2)
    rank = view.positive("rank", 0)
    ensure(wide == depth and same == filters and memory > 0, f"has weights {view.shape(1)} and {view.shape(2)}")
    ensure(filters % rank == 0, f"has {filters} filters of rank {rank}")
    _bias(view, 3, filters // rank)
    ensure(view.shape(4) == (batch, memory * filters), f"has a state of shape {view.shape(4)}")
    return [(batch, filters // rank)]


def _is(view: View, position: int, wanted: Shape) -> None:
    ensure(view.shape(position) == wanted, f"reads shape {view.shape(position)} as input {position}, not {wanted}")


def _optional(view: View, positions: tuple[int, ...], wanted: Shape) -> None:
    for position in positions:
        if view.has(position):
            _is(view, position, wanted)


def _turned(shape: Shape, turned: bool) -> Shape:
    return (*shape[:-2], shape[-1], shape[-2]) if turned else shape


def _area(view: View, area: list[int], kernel: tuple[int, int]) -> list[int]:
    strides = view.positive("stride_h", 0), view.positive("stride_w", 0)
    dilations = view.positive("dilation_h_factor", 1), view.positive("dilation_w_factor", 1)
    return [windows(view, *facts) for facts in zip(area, kernel, strides, dilations, strict=True)]


def _weights(view: View, position: int, channels: int) -> None:
    """One scale, or one for each output channel."""
    q = view.input(position).quantization
    if q is not None and q.per_channel and q.scale.size != channels:
        raise Misfit(f"has weights with {q.scale.size} scales, and {channels} output channels")


def _bias(view: View, position: int, channels: int) -> None:
    if view.has(position):
        shape = view.shape(position)
        ensure(shape == (channels,), f"has a bias of shape {shape} for {channels} channels")
