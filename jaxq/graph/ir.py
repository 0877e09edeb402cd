"""The graph of a model, as frozen values.

A `Trace` is what JAX recorded: equations in order, every call inlined. A `Graph` is what jaxq works on: ops of TFLite's
size (CONV_2D with its bias and activation), and beside them the *weight arithmetic*, all that depends on parameters
alone.

Tensors are small integers ("values"). `Graph.avals[v]` is the shape and dtype of value `v`; which role it plays
follows from who makes it: a graph input, a parameter, a weight equation, or an op.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax


@dataclasses.dataclass(frozen=True)
class Aval:
    """Shape and dtype of a value; the dtype of a random key is JAX's own."""

    shape: tuple[int, ...]
    dtype: Any

    def __str__(self) -> str:
        """`float32[1,28,28,1]`."""
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclasses.dataclass(frozen=True, eq=False)
class Equation:
    """One recorded step:

    `outputs = call(*inputs)`. `primitive` and `params` say which, `source` where the user wrote it.
    """

    primitive: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    params: Mapping[str, Any]
    call: Callable[..., Sequence[jax.Array]]
    source: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class Trace:
    """A function as one flat list of equations. `constants` holds literals and captured arrays by value."""

    avals: Mapping[int, Aval]
    equations: tuple[Equation, ...]
    constants: Mapping[int, Any]
    arguments: tuple[int, ...]
    outputs: tuple[int, ...]


@dataclasses.dataclass(frozen=True, eq=False)
class Op:
    """One step of TFLite's size.

    kind: a key of `jaxq.ops.OPS`. name: the op's name in recipes and reports. inputs: values, activations first, then
    weights.
    attrs: static facts (stride, axes ...), hashable. call: for kind FLOAT the recorded function, else None.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attrs: Mapping[str, Any]
    source: str = ""
    call: Callable[..., Sequence[jax.Array]] | None = None


@dataclasses.dataclass(frozen=True, eq=False)
class Graph:
    """A captured model. `inputs` are activations, `params` weights by name, `weights` their arithmetic in order.

    `input_names`, `output_names`: what the user calls `inputs` and `outputs`; empty where nobody has said.
    """

    avals: Mapping[int, Aval]
    inputs: tuple[int, ...]
    params: Mapping[int, str]
    constants: Mapping[int, Any]
    weights: tuple[Equation, ...]
    ops: tuple[Op, ...]
    outputs: tuple[int, ...]
    site_names: Mapping[int, str]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()

    @property
    def ends(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """The names of the inputs and of the outputs that are activations: the user's, else their sites'."""
        kept = [i for i, v in enumerate(self.outputs) if v in self.activations]
        inputs = self.input_names or tuple(self.site_names[v] for v in self.inputs)
        outputs = self.output_names or {i: self.site_names[self.outputs[i]] for i in kept}
        return inputs, tuple(outputs[i] for i in kept)

    @property
    def activations(self) -> frozenset[int]:
        """Every value that depends on the graph's inputs."""
        return frozenset(self.inputs).union(*(op.outputs for op in self.ops))

    def reads(self, op: Op) -> frozenset[Any]:
        """The types of the tensors that an op reads."""
        return frozenset(self.avals[v].dtype for v in op.inputs)

    def consumers(self, value: int) -> tuple[Op, ...]:
        """The ops that read `value`, in order."""
        return tuple(op for op in self.ops if value in op.inputs)

    def __str__(self) -> str:
        """One line an op; the same for the same network, whichever Flax API it was written in."""
        origins = weight_origins(self)
        head = ", ".join(f"{self.site_names[v]}: {self.avals[v]}" for v in self.inputs)
        outs = ", ".join(self.site_names.get(v, "state") for v in self.outputs if v in self.activations)
        return "\n".join([f"graph({head}) -> ({outs})", *(_op_text(self, op, origins) for op in self.ops)])


def equations_behind(weights: Sequence[Equation], values: Iterable[int]) -> tuple[Equation, ...]:
    """The equations of weight arithmetic that some values are computed by, in their order."""
    wanted, kept = set(values), []
    for eq in reversed(weights):
        if wanted.intersection(eq.outputs):
            wanted.update(eq.inputs)
            kept.append(eq)
    return tuple(reversed(kept))


def weight_origins(graph: Graph) -> dict[int, tuple[str, ...]]:
    """For each weight value, the sorted names of the parameters that it is computed from."""
    origins: dict[int, tuple[str, ...]] = {v: (name,) for v, name in graph.params.items()}
    for eq in graph.weights:
        names = sorted({name for v in eq.inputs for name in origins.get(v, ())})
        origins.update(dict.fromkeys(eq.outputs, tuple(names)))
    return origins


def _op_text(graph: Graph, op: Op, origins: Mapping[int, tuple[str, ...]]) -> str:
    args = ", ".join(_value_text(graph, v, origins) for v in op.inputs)
    outs = ", ".join(graph.site_names[v] for v in op.outputs)
    shapes = " ".join(str(graph.avals[v]) for v in op.outputs)
    attrs = "".join(f" {k}={_attr_text(k, v)}" for k, v in sorted(op.attrs.items()) if v is not None)
    return f"  {outs}: {shapes} = {op.kind}({args}){attrs}"


def _value_text(graph: Graph, value: int, origins: Mapping[int, tuple[str, ...]]) -> str:
    if value in graph.site_names:
        return graph.site_names[value]
    return "{" + " ".join(origins.get(value, ())) + "}" if origins.get(value) else "const"


# Ops whose inputs are an activation, a kernel and a bias; the output channels are the kernel's last axis.
CONTRACTIONS = frozenset({"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "TRANSPOSE_CONV"})
WEIGHTED = CONTRACTIONS | {"AFFINE"}
# Ops of which one element of the output is computed from the elements at its place, the operands broadcast as numpy's.
ELEMENTWISE = frozenset(
    {"ADD", "AFFINE", "BROADCAST_TO", "CLIP", "COMPARE", "DROPOUT", "FAKE_QUANT", "FLOOR_DIV", "FLOOR_MOD", "GELU"}
    | {"HARD_SWISH", "INTEGER", "LEAKY_RELU", "LOGICAL_AND", "LOGICAL_OR", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL"}
    | {"PRELU", "RELU", "RELU6", "RELU_N1_TO_1", "REQUANTIZE", "SELECT", "STOP_GRADIENT", "SUB", "TABLE", "TANH"}
)
# Ops that keep each number and put it elsewhere.
REARRANGED = frozenset({"RESHAPE", "TRANSPOSE"})

# Bounds of the clips that TFLite has a name for.
CLIPS = {(0.0, math.inf): "RELU", (0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}


# A constant this large that is selected instead of a number is no number but a way to say "not this one".
MASK = 1e4


def with_ones(params: Mapping[str, Any], shape: Sequence[int]) -> tuple[int, ...]:
    """The shape of a `broadcast_in_dim`'s operand among the axes of its result: ones where it has none of its own."""
    ones = [1] * len(params["shape"])
    for axis, size in zip(params["broadcast_dimensions"], shape, strict=True):
        ones[axis] = size
    return tuple(ones)


def clip_name(bounds: tuple[float, float] | None) -> str:
    """TFLite's name of a fused activation: NONE, RELU, RELU6, RELU_N1_TO_1; `CLIP(low,high)` for any other."""
    if bounds is None:
        return "NONE"
    return CLIPS.get(bounds, f"CLIP({bounds[0]:g},{bounds[1]:g})")


def _attr_text(key: str, attribute: Any) -> str:
    return clip_name(attribute) if key == "activation" else str(attribute).replace(" ", "")
