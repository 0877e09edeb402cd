"""Folding: what TFLite does in one op becomes one op.

    (a @ b) * s                ->  (a * s) @ b                 attention's 1 / sqrt(d), into the projection before it
    conv(x, w) * g + c         ->  conv(x, w * g) + c          BatchNorm, a bias added by hand
    (x * g + c) @ w            ->  x @ (g * w) + c @ w         input scaling; a padded convolution only when c = 0
    (x * g + c) * h + d        ->  x * (g h) + (c h + d)
    clip(conv(x, w), 0, 6)     ->  conv with activation RELU6
    clip(clip(x))              ->  clip(x)
    dropout(x * g) @ w         ->  dropout(x) @ (g * w)        with `+ c` what is dropped is -c / g
    dropout(gelu(x)) * 2 + 1   ->  dropout(table(x))           one number; in evaluation it is a table without dropout
    dropout(conv(x, w)) * g    ->  dropout(conv(x, w * g))     in training mode; with `+ c` what is dropped is c

`g`, `c` are vectors over channels, which are last; AFFINE and CLIP move up through RESHAPE and TRANSPOSE that keep
the last axis. All of it is weight arithmetic, so gradients flow to every original parameter (Jacob et al. 2018,
section 3.2, folds with running statistics as here).
"""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp

from jaxq.graph.builder import Builder, replace
from jaxq.graph.ir import CLIPS, CONTRACTIONS, REARRANGED, WEIGHTED, Op

ACTIVATED = WEIGHTED | {"ADD", "SUB", "MUL"}


# Functions of each number that TFLite looks up with the arithmetic behind them (`jaxq.graph.tables`).
FUNCTIONS: Mapping[str, Callable[[Op], Callable[..., jax.Array]]] = {
    "GELU": lambda op: lambda x: jax.nn.gelu(x, approximate=op.attrs["approximate"]),
    "LEAKY_RELU": lambda op: lambda x: jax.nn.leaky_relu(x, op.attrs["alpha"]),
    "TABLE": lambda op: lambda *arguments: cast(Callable[..., Sequence[jax.Array]], op.call)(*arguments)[0],
}


def fuse(builder: Builder, outputs: Sequence[int]) -> tuple[Op, ...]:
    """The builder's ops, folded. `outputs` are the graph's outputs, which must survive."""
    return _Fuser(builder, outputs).run()


class _Fuser:
    def __init__(self, builder: Builder, outputs: Sequence[int]) -> None:
        self.builder = builder
        builder.ops = _needed(builder, outputs)
        self.uses = Counter(builder.resolve(v) for op in builder.ops for v in op.inputs)
        self.uses.update(builder.resolve(v) for v in outputs)
        self.slots: list[Op | None] = []
        self.slot_of: dict[int, int] = {}

    def run(self) -> tuple[Op, ...]:
        for op in self.builder.ops:
            op = replace(op, inputs=tuple(self.builder.resolve(v) for v in op.inputs))
            if op.kind in CONTRACTIONS:
                op = self._absorb_affine(op)
            if op.kind not in {"AFFINE", "CLIP"} or not self._push_up(op):
                self._append(op)
        return tuple(self._finish(op) for op in self.slots if op is not None)

    def _append(self, op: Op) -> None:
        self.slots.append(op)
        self.slot_of.update(dict.fromkeys(op.outputs, len(self.slots) - 1))

    def _sole_producer(self, value: int) -> Op | None:
        """The op that makes `value`, if nobody else reads it."""
        slot = self.slot_of.get(value)
        return self.slots[slot] if slot is not None and self.uses[value] == 1 else None

    def _put(self, old: Op, new: Op) -> None:
        slot = self.slot_of[old.outputs[0]]
        self.slots[slot] = new
        self.slot_of.update(dict.fromkeys(new.outputs, slot))

    def _push_up(self, op: Op) -> bool:
        """Merge an AFFINE or a CLIP into the op that makes its input, through moves; whether that could be done."""
        moves: list[Op] = []
        producer = self._sole_producer(op.inputs[0])
        while producer is not None and _passes(self.builder, producer, op):
            moves.append(producer)
            producer = self._sole_producer(producer.inputs[0])
        merged = None if producer is None else self._merged(producer, op) or self._as_table(producer, moves, op)
        if producer is None or merged is None:
            return False
        if not moves:
            self._put(producer, replace(merged, outputs=op.outputs))
            return True
        self._put(producer, merged)
        for move in moves:
            self._put(move, self._resting(move, op))
        last = self.slots[self.slot_of[moves[0].outputs[0]]]
        assert last is not None
        self._put(moves[0], replace(last, outputs=op.outputs))
        return True

    def _resting(self, move: Op, op: Op) -> Op:
        """A dropout that an affine moves through gives what the affine adds where it gave zero."""
        if move.kind != "DROPOUT" or op.kind != "AFFINE":
            return move
        b, (mul, add) = self.builder, _parts(self._resized(op, move))
        rest = move.inputs[2] if len(move.inputs) > 2 else None
        if rest is not None and mul is not None:
            rest = b.weight(operator.mul, (rest, mul), b.shape(rest))
        if add is not None:
            rest = add if rest is None else b.weight(operator.add, (rest, add), b.shape(rest))
        return move if rest is None else replace(move, inputs=(*move.inputs[:2], rest))

    def _merged(self, producer: Op, op: Op) -> Op | None:
        if op.kind == "CLIP":
            return _with_clip(producer, (op.attrs["low"], op.attrs["high"]))
        if producer.attrs.get("activation") is not None:
            return None
        if producer.kind == "AFFINE":
            return self._affine_of_affine(producer, op)
        return self._scaled(producer, self._resized(op, producer)) if producer.kind in CONTRACTIONS else None

    def _as_table(self, producer: Op, moves: Sequence[Op], op: Op) -> Op | None:
        """A function of each number and the arithmetic behind its dropout, as the table that they are in evaluation."""
        dropped = bool(moves) and all(move.kind == "DROPOUT" for move in moves)
        if not dropped or producer.kind not in FUNCTIONS or not op.attrs.get("one_number"):
            return None
        function, (mul, add) = FUNCTIONS[producer.kind](producer), _parts(self._resized(op, producer))
        numbers = tuple(v for v in (mul, add) if v is not None)
        count = len(producer.inputs)

        def call(*arguments: jax.Array) -> Sequence[jax.Array]:
            y, behind = function(*arguments[:count]), list(arguments[count:])
            y = y if mul is None else y * behind.pop(0)
            return [y if add is None else y + behind.pop(0)]

        of = (*producer.attrs.get("of", (producer.kind.lower(),)), "affine")
        return replace(producer, kind="TABLE", inputs=(*producer.inputs, *numbers), attrs={"of": of}, call=call)

    def _resized(self, affine: Op, producer: Op) -> Op:
        """One number for all channels, as a vector over the producer's."""
        number = affine.attrs.get("uniform")
        if number is None:
            return affine
        channels = (1, *self.builder.shape(producer.outputs[0]))[-1]
        vector = self.builder.weight(lambda c: c[:1].repeat(channels), (number,), (channels,))
        return replace(affine, attrs={"mul": vector, "add": None})

    def _affine_of_affine(self, first: Op, second: Op) -> Op:
        b, (m1, a1), (m2, a2) = self.builder, _parts(first), _parts(second)
        add = a1 if m2 is None or a1 is None else b.weight(operator.mul, (a1, m2), b.shape(a1))
        mul = m1 if m2 is None else m2 if m1 is None else b.weight(operator.mul, (m1, m2), b.shape(m1))
        if a2 is not None:
            add = a2 if add is None else b.weight(operator.add, (add, a2), b.shape(add))
        return replace(first, attrs={"mul": mul, "add": add})

    def _scaled(self, contraction: Op, affine: Op) -> Op:
        """The contraction with its weight and bias multiplied per output channel, and the offset added to its bias."""
        b, (x, w, bias), (mul, add) = self.builder, contraction.inputs, _parts(affine)
        if mul is not None:  # the output channel is the last axis of every canonical weight
            w = b.weight(operator.mul, (w, mul), b.shape(w))
            bias = b.weight(operator.mul, (bias, mul), b.shape(bias))
        if add is not None:
            bias = b.weight(operator.add, (bias, add), b.shape(bias))
        return replace(contraction, inputs=(x, w, bias))

    def _absorb_affine(self, op: Op) -> Op:
        """Input scaling folded into the contraction that follows it, when padding (real zeros) allows."""
        affine = dropout = self._sole_producer(op.inputs[0])
        if dropout is not None and dropout.kind == "DROPOUT":
            affine = self._sole_producer(dropout.inputs[0])
        if affine is None or affine.kind != "AFFINE" or affine.attrs.get("activation") is not None:
            return op
        if op.kind == "TRANSPOSE_CONV":
            return op
        b, (mul, add), (_, w, bias) = self.builder, _parts(affine), op.inputs
        if add is not None and any(map(any, op.attrs.get("padding", ()))):
            return op
        if add is not None:
            shift = b.weight(_response(op, b.shape(w)), (add, w), b.shape(bias), rounds_once=False)
            bias = b.weight(operator.add, (bias, shift), b.shape(bias))
        if mul is not None:
            w = b.weight(_input_scaled(op, b.shape(w)), (w, mul), b.shape(w))
        self.slots[self.slot_of[affine.outputs[0]]] = None
        if dropout is None or dropout is affine:
            return replace(op, inputs=(affine.inputs[0], w, bias))
        self._put(dropout, self._before(dropout, affine))
        return replace(op, inputs=(op.inputs[0], w, bias))

    def _before(self, dropout: Op, affine: Op) -> Op:
        """A dropout of what an affine reads, in the place of a dropout of its result: it gives what becomes zero."""
        b, (mul, add), rest = self.builder, _parts(affine), dropout.inputs[2:]
        if add is not None:
            rest = (
                (b.weight(operator.sub, (*rest, add), b.shape(add)),)
                if rest
                else (b.weight(operator.neg, (add,), b.shape(add)),)
            )
        if rest and mul is not None:
            rest = (b.weight(_divided, (*rest, mul), b.shape(mul)),)
        return replace(dropout, inputs=(affine.inputs[0], dropout.inputs[1], *rest))

    def _finish(self, op: Op) -> Op:
        """CLIP under the name TFLite has for it; AFFINE with both its vectors as inputs."""
        if op.kind == "CLIP":
            return replace(op, kind=CLIPS.get((op.attrs["low"], op.attrs["high"]), "CLIP"))
        if op.kind != "AFFINE":
            return op
        mul, add = _parts(op)
        channels = (1, *self.builder.shape(op.outputs[0]))[-1:]
        inputs = (op.inputs[0], mul if mul is not None else self.builder.full(1.0, channels))
        inputs += (add if add is not None else self.builder.full(0.0, channels),)
        return replace(op, inputs=inputs, attrs={"activation": op.attrs.get("activation")})


def _needed(builder: Builder, outputs: Sequence[int]) -> list[Op]:
    """The ops that something reads: a broadcast that a binary op does by itself is read by nobody."""
    wanted, kept = {builder.resolve(v) for v in outputs}, []
    for op in reversed(builder.ops):
        if wanted.intersection(op.outputs):
            wanted.update(builder.resolve(v) for v in op.inputs)
            kept.append(op)
    return kept[::-1]


def _parts(affine: Op) -> tuple[int | None, int | None]:
    return affine.attrs["mul"], affine.attrs["add"]


def _passes(builder: Builder, producer: Op, op: Op) -> bool:
    """Whether an AFFINE or a CLIP can go before `producer` as well as behind it."""
    uniform = op.attrs.get("uniform") is not None
    if producer.kind == "DROPOUT":
        return op.kind == "AFFINE"
    if producer.kind in REARRANGED:
        return uniform or op.kind == "CLIP" or _keeps_last_axis(builder, producer)
    return producer.kind == "BATCH_MATMUL" and uniform


def _keeps_last_axis(builder: Builder, move: Op) -> bool:
    if move.kind == "TRANSPOSE":
        return move.attrs["perm"][-1] == len(move.attrs["perm"]) - 1
    before, after = builder.shape(move.inputs[0]), builder.shape(move.outputs[0])
    return bool(before and after) and before[-1] == after[-1]


def _with_clip(producer: Op, bounds: tuple[float, float]) -> Op | None:
    if producer.kind == "CLIP":
        low, high = max(producer.attrs["low"], bounds[0]), min(producer.attrs["high"], bounds[1])
        return replace(producer, attrs={"low": low, "high": high}) if low < high else None
    if producer.kind not in ACTIVATED:
        return None
    own = producer.attrs.get("activation")
    if own is not None:
        bounds = (max(own[0], bounds[0]), min(own[1], bounds[1]))
    return replace(producer, attrs={**producer.attrs, "activation": bounds}) if bounds[0] < bounds[1] else None


def _divided(a: Any, b: Any) -> Any:
    """`a / b`, and zero where b is."""
    return jnp.where(b == 0, 0.0, a / jnp.where(b == 0, 1.0, b))


def _per_input(op: Op, shape: Sequence[int], vector: Any) -> Any:
    """A vector over input channels laid out like the weight: [..., I, 1], or [..., I, O] where groups differ."""
    if op.kind == "FULLY_CONNECTED":
        return vector[:, None]
    groups = shape[-1] // op.attrs["multiplier"] if op.kind == "DEPTHWISE_CONV_2D" else op.attrs["groups"]
    per_group = vector.reshape(groups, shape[-2])  # [G, I]
    return per_group.T.repeat(shape[-1] // groups, axis=1)  # [I, O]


def _input_scaled(op: Op, shape: Sequence[int]) -> Callable[..., Any]:
    return lambda w, vector: w * _per_input(op, shape, vector)


def _response(op: Op, shape: Sequence[int]) -> Callable[..., Any]:
    """The contraction's answer to a constant input: the sum of weight times vector over all but the output axis."""
    return lambda vector, w: (w * _per_input(op, shape, vector)).sum(axis=tuple(range(len(shape) - 1)))
