"""Writes docs/ops.md from the tables that the library runs on: `python docs/make_ops.py [--check]`.

How an op is written in TFLite is not copied from a table but found out: each row's examples are captured, planned,
frozen and lowered, and the operators that its rule added are printed. `tests/test_docs.py` asserts that the page is
fresh.
"""

from __future__ import annotations

import functools
import inspect
import pathlib
import sys
import textwrap
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen
from jax import lax

import jaxq
from jaxq.errors import ExportError
from jaxq.export.evaluate import variables
from jaxq.export.evaluate.kernels import floats, hybrid
from jaxq.export.evaluate.kernels.machine import PHONE, machine_named
from jaxq.export.evaluate.program import FAMILIES, evaluate
from jaxq.export.lowering.freeze import freeze
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.lowering.lower import RULES, Writer, lower
from jaxq.export.lowering.rules.functions import WRITE
from jaxq.graph.patterns import PATTERNS
from jaxq.graph.raising import RAISE
from jaxq.ops import OPS
from jaxq.ops.fake_quant import jaxq_fake_quant
from jaxq.plan.precision import dynamic_arithmetic
from jaxq.plan.target import TARGETS

PAGE = pathlib.Path(__file__).parent / "ops.md"
KERNELS = {name: made(machine_named(PHONE)) for name, made in FAMILIES.items()}  # of each family, as a phone has them

IMAGE, ROW, IDS = (1, 6, 6, 4), (1, 4), (1, 5)  # IDS is of integers
NHWC = ("NHWC", "HWIO", "NHWC")
Function = Callable[..., Any]


def weights() -> dict[str, np.ndarray]:
    """The parameters of every example."""
    draw = np.random.default_rng(0)
    shapes = {
        "hwio": (3, 3, 4, 4),
        "grouped": (3, 3, 2, 4),
        "depthwise": (3, 3, 1, 4),
        "dense": (4, 3),
        "channels": (4,),
    }
    arrays: dict[str, np.ndarray] = {k: draw.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    kept = draw.random(IMAGE) < 0.9
    return arrays | {"scale": np.float32(0.02) * np.ones(()), "zero_point": np.zeros((), np.float32), "kept": kept}


def conv(kernel: str, padding: Any = "SAME", groups: int = 1) -> Function:
    """A convolution by one of the kernels."""

    def fn(p: Any, x: jax.Array) -> jax.Array:
        return lax.conv_general_dilated(
            x, p[kernel], (1, 1), padding, dimension_numbers=NHWC, feature_group_count=groups
        )

    return fn


def after(first: Function, then: Function) -> Function:
    """One function behind another."""
    return lambda p, x: then(first(p, x))


def plain(fn: Function) -> Function:
    """A function without parameters."""
    return lambda p, *xs: fn(*xs)


def pool(fn: Function, padding: Any, **options: Any) -> Function:
    """A pool with windows of 3 by 3 and strides of 2."""
    return plain(functools.partial(fn, window_shape=(3, 3), strides=(2, 2), padding=padding, **options))


CLIP = functools.partial(jnp.clip, min=-0.3, max=0.7)
AROUND = ((1, 1), (1, 1))

# By op: what is special about the example ("" for nothing), its function, the shapes of its inputs.
EXAMPLES: dict[str, tuple[tuple[str, Function, tuple[tuple[int, ...], ...]], ...]] = {
    "ADD": (
        ("", plain(jnp.add), (IMAGE, IMAGE)),
        ("clipped to other bounds", plain(lambda a, b: CLIP(a + b)), (IMAGE, IMAGE)),
    ),
    "AFFINE": (
        ("four axes", lambda p, x: x * p["channels"], (IMAGE,)),
        ("other", lambda p, x: x * p["channels"], (ROW,)),
    ),
    "ARG_MAX": (("", plain(lambda x: jnp.argmax(x, -1)), (IMAGE,)),),
    "ARG_MIN": (("", plain(lambda x: jnp.argmin(x, -1)), (IMAGE,)),),
    "AVERAGE_POOL_2D": (
        ("", pool(linen.avg_pool, "VALID"), (IMAGE,)),
        ("padding counted", pool(linen.avg_pool, AROUND, count_include_pad=True), (IMAGE,)),
    ),
    "BATCH_MATMUL": (("", plain(lambda a, b: jnp.einsum("bhwc,bhvc->bhwv", a, b)), (IMAGE, IMAGE)),),
    "BROADCAST_TO": (("", plain(lambda x: jnp.repeat(x, 2, 1)), (IMAGE,)),),
    "CLIP": (("", plain(CLIP), (IMAGE,)),),
    "COMPARE": (("", lambda p, ids: jnp.where(ids[..., None] > 0, jnp.take(p["dense"], ids, axis=0), 0.0), (IDS,)),),
    "CONCATENATION": (
        ("", plain(lambda a, b: jnp.concatenate([a, b], -1)), (IMAGE, IMAGE)),
        ("an operand with a fixed scale", plain(lambda a, b: jnp.concatenate([a, jnp.tanh(b)], -1)), (IMAGE, IMAGE)),
    ),
    "CONV_2D": (
        ("", conv("hwio"), (IMAGE,)),
        ("groups", conv("grouped", groups=2), (IMAGE,)),
        ("padding that is not SAME", conv("hwio", ((2, 2), (2, 2))), (IMAGE,)),
        ("clipped to other bounds", after(conv("hwio"), CLIP), (IMAGE,)),
    ),
    "CUMSUM": (("of int32; real numbers are a product", plain(lambda ids: jnp.cumsum(ids, 1)), (IDS,)),),
    "DEPTHWISE_CONV_2D": (
        ("", conv("depthwise", groups=4), (IMAGE,)),
        ("padding that is not SAME", conv("depthwise", ((2, 2), (2, 2)), groups=4), (IMAGE,)),
        ("clipped to other bounds", after(conv("depthwise", groups=4), CLIP), (IMAGE,)),
    ),
    "DROPOUT": (("", lambda p, x: lax.select(p["kept"], x / 0.9, jnp.zeros_like(x)), (IMAGE,)),),
    "EMBEDDING": (("", lambda p, ids: jnp.take(p["dense"], ids, axis=0), (IDS,)),),
    "FAKE_QUANT": (("", lambda p, x: jaxq_fake_quant(x, p["scale"], p["zero_point"]), (IMAGE,)),),
    "FLOOR_DIV": (("of int32; real numbers are a table", plain(lambda ids: ids // 2), (IDS,)),),
    "FLOOR_MOD": (("of int32; real numbers are a table", plain(lambda ids: ids % 2), (IDS,)),),
    "FULLY_CONNECTED": (
        ("two axes", lambda p, x: x @ p["dense"], (ROW,)),
        ("more", lambda p, x: x @ p["dense"], (IMAGE,)),
    ),
    "GATHER": (("", plain(lambda x: x[:, np.array([2, 0, 2])]), (IMAGE,)),),
    "GELU": (("", plain(jax.nn.gelu), (IMAGE,)),),
    "HARD_SWISH": (("", plain(jax.nn.hard_swish), (IMAGE,)),),
    "INTEGER": (("of int32", plain(lambda ids: jnp.maximum(ids * 2 + 1, 0)), (IDS,)),),
    "LEAKY_RELU": (("", plain(jax.nn.leaky_relu), (IMAGE,)),),
    "LOGICAL_AND": (("", plain(lambda x, y: jnp.where((x > 0.1) & (y > 0.1), x, y)), (IMAGE, IMAGE)),),
    "LOGICAL_OR": (("", plain(lambda x, y: jnp.where((x > 0.1) | (y > 0.1), x, y)), (IMAGE, IMAGE)),),
    "LOGISTIC": (("", plain(jax.nn.sigmoid), (IMAGE,)),),
    "MAXIMUM": (("", plain(jnp.maximum), (IMAGE, IMAGE)),),
    "MAX_POOL_2D": (
        ("", pool(linen.max_pool, "SAME"), (IMAGE,)),
        ("padding that is not SAME", pool(linen.max_pool, AROUND), (IMAGE,)),
    ),
    "MEAN": (("", plain(lambda x: jnp.mean(x, (1, 2))), (IMAGE,)),),
    "MINIMUM": (("", plain(jnp.minimum), (IMAGE, IMAGE)),),
    "MUL": (("", plain(jnp.multiply), (IMAGE, IMAGE)),),
    "PAD": (("", plain(lambda x: jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))), (IMAGE,)),),
    "PRELU": (("", lambda p, x: jnp.where(x >= 0, x, p["channels"] * x), (IMAGE,)),),
    "REDUCE_MAX": (("", plain(lambda x: jnp.max(x, (1, 2))), (IMAGE,)),),
    "REDUCE_MIN": (("", plain(lambda x: jnp.min(x, (1, 2))), (IMAGE,)),),
    "RELU": (("", plain(jax.nn.relu), (IMAGE,)),),
    "RELU6": (("", plain(jax.nn.relu6), (IMAGE,)),),
    "RELU_N1_TO_1": (("", plain(lambda x: jnp.clip(x, -1.0, 1.0)), (IMAGE,)),),
    "REQUANTIZE": (("between 16 and 8 bits", plain(jax.nn.gelu), (IMAGE,)),),
    "RESHAPE": (("", plain(lambda x: x.reshape(1, -1)), (IMAGE,)),),
    "RESIZE_BILINEAR": (("", plain(lambda x: jax.image.resize(x, (1, 12, 12, 4), "bilinear")), (IMAGE,)),),
    "REVERSE_V2": (("", plain(lambda x: jnp.flip(x, 1)), (IMAGE,)),),
    "SELECT": (
        ("a constant mask", plain(lambda x: jnp.where(np.arange(4) < 2, x, 0.5)), (IMAGE,)),
        ("a computed one", plain(lambda x, y: jnp.where(x > 0.1, x, y)), (IMAGE, IMAGE)),
    ),
    "SLICE": (("", plain(lambda x: x[:, 1:4]), (IMAGE,)),),
    "SOFTMAX": (("", plain(jax.nn.softmax), (ROW,)),),
    "SPLIT": (("", plain(lambda x: jnp.split(x, 2, -1)), (IMAGE,)),),
    "STOP_GRADIENT": (("", plain(lax.stop_gradient), (IMAGE,)),),
    "STRIDED_SLICE": (("", plain(lambda x: x[:, ::2]), (IMAGE,)),),
    "SUB": (("", plain(jnp.subtract), (IMAGE, IMAGE)),),
    "SUM": (("of int32; real numbers are a MEAN", plain(lambda ids: jnp.sum(ids, 1)), (IDS,)),),
    "TABLE": (
        ("numbers", plain(jnp.exp), (IMAGE,)),
        ("yes or no", plain(lambda x, y: jnp.where(x > 0.1, x, y)), (IMAGE, IMAGE)),
    ),
    "TANH": (("", plain(jnp.tanh), (IMAGE,)),),
    "TOPK_V2": (("", plain(lambda x: lax.top_k(x, 2)), (IMAGE,)),),
    "TRANSPOSE": (("", plain(lambda x: x.transpose(0, 2, 1, 3)), (IMAGE,)),),
    "TRANSPOSE_CONV": (
        ("", lambda p, x: lax.conv_transpose(x, p["hwio"], (2, 2), "SAME"), (IMAGE,)),
        ("cropped otherwise", lambda p, x: lax.conv_transpose(x, p["hwio"], (2, 2), ((2, 0), (2, 0))), (IMAGE,)),
    ),
}


def frozen_example(fn: Function, shapes: tuple[tuple[int, ...], ...], recipe: str = "int8") -> Frozen:
    """An example with its integers; every range is one sixteenth a step."""
    params = weights()
    inputs = [np.zeros(shape, np.int32 if shape == IDS else np.float32) for shape in shapes]
    q = jaxq.quantize(fn, recipe, params, *inputs)
    ranges = {name: {**r, "scale": jnp.float32(1 / 16)} for name, r in q.init(params).items()}
    return freeze(q.plan, jax.tree.leaves(params), ranges)


def written(kind: str) -> Iterator[tuple[str, list[str]]]:
    """For each example of an op, what is special about it and the operators, with versions, that the op's rule adds."""
    for label, fn, shapes in EXAMPLES[kind]:
        writer = Writer(frozen_example(fn, shapes, "int16x8" if kind == "REQUANTIZE" else "int8"))
        for i, value in enumerate(writer.graph.inputs):
            writer.input(value, i)
        found: list[str] | None = None
        for op in writer.graph.ops:
            before = len(writer.operators)
            RULES[op.kind](writer, op)
            if op.kind == kind:
                found = [f"{o.kind}.v{o.version}" for o in writer.operators[before:]]
        assert found is not None, f"the example {label!r} of {kind} is captured without it: {writer.graph}"
        yield label, found


def reads(kind: str) -> set[Any]:
    """The types of what an op's first example reads."""
    _, fn, shapes = EXAMPLES[kind][0]
    graph = frozen_example(fn, shapes, "int8").plan.graph
    return {dtype for op in graph.ops if op.kind == kind for dtype in graph.reads(op)}


def evaluates(kind: str, family: str) -> bool:
    """Whether a family takes the op's examples as they are written: it may have an operator, and not for that type."""
    try:
        for _, fn, shapes in EXAMPLES[kind]:
            program, _ = lower(frozen_example(fn, shapes))
            inputs = [jax.ShapeDtypeStruct(t.shape, t.dtype) for t in (program.tensors[i] for i in program.inputs)]
            jax.eval_shape(lambda *xs, program=program: evaluate(program, family)(*xs), *inputs)
    except ExportError:
        return False
    return True


def scales(kind: str) -> str:
    """What the op demands of its scales."""
    rule = OPS[kind].scales
    return rule if isinstance(rule, str) else f"fixed 1/{round(1 / rule[0])}, {rule[1]}"


def arithmetic(kind: str) -> str:
    """How the training forward compares with the device."""
    return "within a step" if OPS[kind].table else "exact"


def meaning(kind: str) -> str:
    """The first sentence of the op's float function."""
    return (inspect.getdoc(OPS[kind].compute) or "").partition("\n\n")[0].replace("\n", " ").replace("|", "\\|")


def all_but(chosen: list[str], known: list[str]) -> str:
    """Names as `all`, `all but x`, or one by one."""
    missing = [name for name in known if name not in chosen]
    return (
        "all" if not missing else f"all but {', '.join(missing)}" if len(missing) == 1 else ", ".join(chosen) or "none"
    )


def rules_row(kind: str) -> list[str]:
    """What the op demands, and who computes it."""
    operators = {o.partition(".")[0] for _, found in written(kind) for o in found}
    families = [name for name in KERNELS if operators <= KERNELS[name].keys() and evaluates(kind, name)]
    targets = [name for name, target in TARGETS.items() if not target.refused(kind, reads(kind))]
    return [
        f"`{kind}`",
        scales(kind),
        arithmetic(kind) if operators else "training only",
        ", ".join(families) if operators else "-",
        packed(kind),
        "yes" if dynamic(kind) else "-",
        widths(kind),
        all_but(targets, list(TARGETS)) if operators else "-",
    ]


def widths(kind: str) -> str:
    """What becomes of activations of 16 bits."""
    if not OPS[kind].int16:
        return "computes in 8"
    return f"for all but {', '.join(name for name, target in TARGETS.items() if not target.int16)}"


def dynamic(kind: str) -> bool:
    """Whether a recipe of dynamic range quantizes what the op reads as it runs."""
    graph = frozen_example(*EXAMPLES[kind][0][1:]).plan.graph
    return OPS[kind].weights and any(dynamic_arithmetic(op, graph) for op in graph.ops if op.kind == kind)


def packed(kind: str) -> str:
    """What becomes of weights of 4 bits."""
    if not OPS[kind].weights:
        return "-"
    return f"packed for {', '.join(n for n, t in TARGETS.items() if kind in t.packed) or 'none'}"


def written_rows(kind: str) -> list[list[str]]:
    """The op's forms in a file, one a row."""
    return [[f"`{kind}`", label, " ".join(f"`{o}`" for o in found) or "nothing"] for label, found in written(kind)]


def table(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows))


def wrapped(text: str) -> str:
    """A paragraph of lines that are not too long."""
    return textwrap.fill(text, 116, break_on_hyphens=False)


TEXT = """# Ops

Generated by `python docs/make_ops.py` from `jaxq.ops.OPS`, `jaxq.export.lowering.lower.RULES`,
`jaxq.export.evaluate.program.FAMILIES` and `jaxq.plan.target.TARGETS`.
Do not edit; `tests/test_docs.py` holds it fresh.

## The {ops} ops of a graph

Activations are NHWC, weights HWIO or [in, out]. One more kind, `FLOAT`, is a primitive that has no row
here: it trains as recorded, and `to_tflite` refuses it. An op of this table that a rule makes `float` is exported.
On which processors each kernel's integers are proven: [kernels.md](kernels.md).

{meanings}

## What they demand, and who computes them

*Scales*: free (the output has a scale of its own), same (inputs and output share one: the kernel copies integers), or
the scale and zero point that TFLite prescribes. *Training forward*: exact where its integers are those of the `xnnpack`
family; within a step where the device has a table or a fixed-point form and training a float function. *Exact kernels*:
the families that compute every operator that the op is written as. *int4 weights*: the targets for which weights of 4
bits take half a byte; for others, and in grouped convolutions, they are int8 tensors. *dynamic range*: whether the
recipe `dynamic-range-int8` quantizes what the op reads as it runs, for `litert` alone; the rest stays float32. *int16
activations*: the targets
for which the op computes in 16 bits, there always exactly; an op that computes in 8 has its operands converted.
*Targets*: those whose entry
in `jaxq.plan.target.TARGETS` does not refuse the kind of op; finer rules are in [targets.md](targets.md). They are
{targets}

{rules}

## How they are written in TFLite

The operators that the op's rule adds, with their versions, found by lowering one example a row. A clip to bounds other
than those of RELU, RELU6 and RELU_N1_TO_1 is a MAXIMUM and a MINIMUM with constants, each left out where it changes
nothing. In a file of floats a TABLE is a composition of float operators ({primitives_written} JAX primitives).

{written}

## What is recognised

JAX primitives that are raised one by one (`jaxq.graph.raising.RAISE`):

{primitives}

What is a function of one activation, number by number, and is not in the lists below is a TABLE
(`jaxq.graph.tables`); SOFTMAX is found by its meaning, along any axis. A `scan` of few steps is unrolled.

Ops that JAX spells in several primitives, with the primitive of their result (`jaxq.graph.patterns.PATTERNS`):

{patterns}

## The {kinds} operators that `jaxq.load` computes

Any file may hold these. jaxq itself writes those of the table above, and QUANTIZE and DEQUANTIZE at the file's ends.
*float32*: what computes a float operator of the file, the same for every family and good to rounding; and, beside the
integers, the gradient of `jaxq.load(path).real`. Of dynamic range (weights of int8 or int4, activations of float32)
there are {hybrid}, for `xnnpack` and `reference`.
There are also the variables of streaming models: {variables}.

{operators}
"""


def page() -> str:
    """The text of docs/ops.md."""
    readings = {**KERNELS, "float32": floats.KERNELS}
    kinds = sorted(set().union(*readings.values()))
    families = [[f"`{k}`", *("yes" if k in kernels else "no" for kernels in readings.values())] for k in kinds]
    head = [
        "op",
        "scales",
        "training forward",
        "exact kernels",
        "int4 weights",
        "dynamic range",
        "int16 activations",
        "targets",
    ]
    return TEXT.format(
        ops=len(OPS),
        kinds=len(kinds),
        targets=wrapped(", ".join(f"`{name}` ({target.title})" for name, target in TARGETS.items()) + "."),
        meanings=table(["op", "meaning"], [[f"`{kind}`", meaning(kind)] for kind in OPS]),
        rules=table(head, [rules_row(kind) for kind in OPS]),
        written=table(["op", "when", "operators"], [cells for kind in OPS for cells in written_rows(kind)]),
        primitives_written=len(WRITE),
        primitives=wrapped(", ".join(f"`{name}`" for name in sorted(RAISE)) + "."),
        patterns=wrapped(", ".join(dict.fromkeys(f"{p.kind} (`{p.root}`)" for p in PATTERNS)) + "."),
        operators=table(["operator", *readings], families),
        hybrid=" and ".join(", ".join(f"`{kind}`" for kind in sorted(hybrid.KERNELS["xnnpack"])).rsplit(", ", 1)),
        variables=", ".join(f"`{kind}`" for kind in variables.KINDS),
    )


def main() -> None:
    """Write the page, or with `--check` exit with 1 where it is not what would be written."""
    text = page()
    if "--check" not in sys.argv[1:]:
        PAGE.write_text(text)
    elif PAGE.read_text() != text:
        sys.exit(f"{PAGE.name} is stale. Run: python docs/make_ops.py")


if __name__ == "__main__":
    main()
