"""Windows that slide: padding and pools."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxq.errors import ExportError
from jaxq.export.lowering.writer import Writer
from jaxq.graph import Op


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int]:
    """TFLite's SAME padding of one axis, before and after."""
    reach = (kernel - 1) * dilation + 1
    total = max((-(-size // stride) - 1) * stride + reach - size, 0)
    return total // 2, total - total // 2


def padding_of(w: Writer, op: Op, window: Sequence[int]) -> tuple[str, bool]:
    """ "SAME" or "VALID", and whether an explicit PAD must come first."""
    sizes = w.graph.avals[op.inputs[0]].shape[1:3]
    dilation = op.attrs.get("dilation", (1, 1))
    if not any(map(any, op.attrs["padding"])):
        return "VALID", False
    same = tuple(same_padding(*args) for args in zip(sizes, window, op.attrs["stride"], dilation, strict=True))
    return ("SAME", False) if same == tuple(map(tuple, op.attrs["padding"])) else ("VALID", True)


def padded(w: Writer, op: Op, lowest: bool = False) -> int:
    """The op's input with explicit padding: of real zeros, or of the least integer (which never wins a maximum)."""
    value, pads = op.inputs[0], ((0, 0), *op.attrs["padding"], (0, 0))
    shape = [size + sum(pad) for size, pad in zip(w.graph.avals[value].shape, pads, strict=True)]
    out = w.tensor(w.like(value, f"{op.name}:padded", shape))
    table = w.constant(f"{op.name}:pads", np.asarray(pads, np.int32))
    if lowest:
        like = w.like(value, f"{op.name}:least", (1,))
        number = np.finfo(np.float32).min if like.dtype == "float32" else np.iinfo(like.dtype).min
        least = w.constant(like.name, np.full((1,), number, like.dtype), like.quantization)
        w.emit("PADV2", [w.tensor_of[value], table, least], [out])
    else:
        w.emit("PAD", [w.tensor_of[value], table], [out])
    return out


def pool(w: Writer, op: Op) -> None:
    """AVERAGE_POOL_2D or MAX_POOL_2D."""
    window, (stride_h, stride_w) = op.attrs["window"], op.attrs["stride"]
    padding, explicit = padding_of(w, op, window)
    average = op.kind == "AVERAGE_POOL_2D"
    if average and padding != "VALID" and op.attrs["count_padding"]:
        padding, explicit = "VALID", True  # SAME leaves padding out of the mean: write the zeros
    if explicit and average and not op.attrs["count_padding"]:
        raise ExportError(
            f"{op.name} ({op.source}): an average pool over padding {op.attrs['padding']} that does not count it is "
            "not TFLite's SAME. Use padding='SAME', or count_include_pad=True."
        )
    x = padded(w, op, lowest=not average) if explicit else w.tensor_of[op.inputs[0]]
    size = {"filter_height": window[0], "filter_width": window[1], "stride_h": stride_h, "stride_w": stride_w}
    w.emit(op.kind, [x], [w.activation(op.outputs[0])], padding=padding, **size, fused_activation_function="NONE")


def resize_bilinear(w: Writer, op: Op) -> None:
    """RESIZE_BILINEAR with the pixels' centres aligned."""
    size = w.constant(f"{op.name}:size", np.asarray(op.attrs["size"], np.int32))
    w.emit(
        "RESIZE_BILINEAR", [w.tensor_of[op.inputs[0]], size], [w.activation(op.outputs[0])],
        align_corners=False, half_pixel_centers=True,
    )  # fmt: skip
