"""What a row of `jaxq.export.operators` can say: `Facts`, and the reasons for which a use needs a higher version.

Source of versions: `GetBuiltinOperatorVersion` in google-ai-edge/LiteRT,
tflite/converter/tools/versioning/op_version.cc.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from jaxq.export.program import Option, Tensor

Types = tuple[str, ...]
Positions = tuple[int, ...] | Literal["all"]


class Layout(NamedTuple):
    """Where a contraction has its operands among its inputs, and the weights' axis of output channels."""

    x: int
    weights: int
    bias: int
    axis: int


@dataclasses.dataclass(frozen=True)
class Call:
    """One use of an operator, which decides its version. An absent optional input is None."""

    kind: str
    inputs: Sequence[Tensor | None]
    outputs: Sequence[Tensor]
    options: Mapping[str, Option]

    def read(self, position: int) -> Tensor | None:
        """The tensor at a position, None where it is absent."""
        return self.inputs[position] if position < len(self.inputs) else None


# The version that a use of an operator needs for one reason; 1 where the reason does not apply.
Need = Callable[[Call], int]


@dataclasses.dataclass(frozen=True)
class Facts:
    """What is known of one kind of operator.

    versions: by the type of the input that decides, the version that took it up; 1 for a type that is not listed.
    needs: what else raises the version. decides: that input's position.
    parameters: the positions of inputs that say how to compute and hold no data (axes, shapes, paddings).
    copies: the inputs whose integers are copied or selected, so that they have the output's scale and zero point.
    scaled: the inputs with whose scales an integer kernel computes.
    scale: the scale and zero point that int8 kernels prescribe for the output. tolerance: of that scale, relative.
    fuses: whether an activation can be fused into it.
    reads: the part of an input that one element of the output is computed from, a key of
    `jaxq.export.proof.receptive_field.READS`; "all" of it where that is not known.
    layout: of an operator with weights. tflm: the types that TFLite Micro's kernel reads and writes beside parameters,
    weights and biases; () where there is none, or where its types are a matter of positions.
    """

    versions: Mapping[str, int]
    needs: tuple[Need, ...] = ()
    decides: int = 0
    parameters: tuple[int, ...] = ()
    copies: Positions = ()
    scaled: tuple[int, ...] = ()
    scale: tuple[float, int] | None = None
    tolerance: float = 0.0
    fuses: bool = False
    reads: str = "all"
    layout: Layout | None = None
    tflm: Types = ()


# --- reasons for a higher version -----------------------------------------------------------------------------------


def rank_above(*steps: tuple[int, int], of: int = 0) -> Need:
    """`(rank, version)`: more axes of an input than that need that version."""

    def need(call: Call) -> int:
        x = call.read(of)
        return max([1, *(version for rank, version in steps if x is not None and len(x.shape) > rank)])

    return need


def not_four_axes(version: int) -> Need:
    """An input whose rank is not 4."""

    def need(call: Call) -> int:
        x = call.read(0)
        return version if x is not None and len(x.shape) != 4 else 1

    return need


def broadcast_above_four(version: int) -> Need:
    """Operands of different shapes, one of more than four axes."""

    def need(call: Call) -> int:
        shapes = [t.shape for t in call.inputs[:2] if t is not None]
        return version if len(set(shapes)) > 1 and max(map(len, shapes)) > 4 else 1

    return need


def option(name: str, version: int, plain: tuple[Option, ...] = (None, False, 0, "NONE")) -> Need:
    """An option that is set to anything but what version 1 does."""
    return lambda call: 1 if call.options.get(name) in plain else version


def reads(position: int, **versions: int) -> Need:
    """The type of another input than the one that decides."""

    def need(call: Call) -> int:
        tensor = call.read(position)
        return 1 if tensor is None else versions.get(tensor.dtype, 1)

    return need


def writes(**versions: int) -> Need:
    """The type of the output."""
    return lambda call: max([1, *(versions.get(t.dtype, 1) for t in call.outputs[:1])])


def per_channel(version: int, output: bool = False, of: int = 0) -> Need:
    """An integer input, the one at position `of`, (or the output) with several scales."""

    def need(call: Call) -> int:
        tensor = (call.outputs[0] if call.outputs else None) if output else call.read(of)
        many = tensor is not None and tensor.quantization is not None and tensor.quantization.per_channel
        return version if many and tensor is not None and tensor.dtype != "int4" else 1

    return need


def dynamic_range(one: int, several: int) -> Need:
    """Float activations and int8 weights, of one scale or of several."""

    def need(call: Call) -> int:
        x, w = call.read(0), call.read(1)
        if x is None or w is None or x.dtype != "float32" or w.dtype != "int8":
            return 1
        return several if w.quantization is not None and w.quantization.per_channel else one

    return need


def grouped(call: Call) -> int:
    """CONV_2D with fewer input channels in its weights than in its input."""
    x, w = call.read(0), call.read(1)
    groups = x is not None and w is not None and len(x.shape) == len(w.shape) == 4 and x.shape[3] != w.shape[3]
    return 6 if groups else 1


def without_bias(call: Call) -> int:
    """FULLY_CONNECTED without a bias."""
    return 6 if len(call.inputs) == 2 else 1


def with_bias(call: Call) -> int:
    """TRANSPOSE_CONV with a bias."""
    return 3 if call.read(3) is not None else 1


def rescales_up(call: Call) -> int:
    """MUL with `s_1 s_2 / s_y >= 1`."""
    found = [_one_scale(t) for t in (*(call.read(k) for k in (0, 1)), *call.outputs[:1])]
    a, b, y = (*found, 0.0, 0.0, 0.0)[:3]
    return 3 if y and a * b / y >= 1 else 1


def _one_scale(tensor: Tensor | None) -> float:
    q = None if tensor is None else tensor.quantization
    return float(q.scale[0]) if q is not None and q.scale.size == 1 else 0.0
