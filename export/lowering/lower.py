"""How each op of the graph is written in TFLite: `RULES`, one a kind. A rule `(writer, op) -> None` adds operators.

What cannot be written is in `REFUSED`, with what to do instead. The writer gives each operator the lowest version that
expresses it (`jaxq.export.operators`): old consumers (the Edge TPU compiler, TFLite Micro) refuse higher ones.
"""

from __future__ import annotations

from collections.abc import Mapping

import jax.numpy as jnp

from jaxq.errors import ExportError, TargetError
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.lowering.rules import (
    clips,
    contractions,
    elementwise,
    functions,
    islands,
    movement,
    reductions,
    windows,
)
from jaxq.export.lowering.writer import Rule, Writer
from jaxq.export.program import Program
from jaxq.graph import Op
from jaxq.plan.plan import Plan
from jaxq.plan.target import target_named

# Kinds that no rule writes, and what to do instead.
REFUSED = {
    "FLOAT": "Move it before or after the model, or write it in ops of docs/ops.md.",
}

# Kinds that are written on integers alone.
NO_FLOATS = {
    "FAKE_QUANT": "It quantizes, and a file of floats does not: remove the FakeQuant, or quantize.",
}


def lower(frozen: Frozen) -> tuple[Program, Mapping[int, int]]:
    """The program, and for each activation of the graph the tensor that holds it. Raises ExportError, TargetError."""
    plan = frozen.plan
    _refuse(frozen)
    writer = Writer(frozen)
    inputs = [writer.input(v, i) for i, v in enumerate(plan.graph.inputs)]
    island = writer if plan.recipe.floats else islands.Island(writer)
    for op in plan.graph.ops:
        if op.name not in plan.islands:
            (elementwise.table if op.name in frozen.tables else RULES[op.kind])(writer, op)
        elif isinstance(island, Writer):
            _float_rule(op)(island, op)
        else:
            island.write(op, _float_rule(op))
    values = [v for v in plan.graph.outputs if v in plan.graph.activations]
    outputs = [writer.output(v) for v in values]
    in_names, names = plan.graph.ends
    program = Program(
        tuple(writer.tensors), tuple(writer.operators), tuple(inputs), tuple(outputs), in_names, names, "jaxq"
    )
    return program, dict(writer.tensor_of)


def _float_rule(op: Op) -> Rule:
    return functions.composition if op.kind == "TABLE" else RULES[op.kind]


def _refuse(frozen: Frozen) -> None:
    target = target_named(frozen.plan.recipe.target)
    if frozen.plan.recipe.floats and not target.float_islands:
        raise TargetError(
            f"{target.title} computes integers only ({target.source}), and the recipe's activations are floats. Use "
            "another recipe, or another target."
        )
    for op in frozen.plan.graph.ops:
        if op.kind == "DROPOUT":
            raise ExportError(
                f"{op.name} ({op.source}) drops at random: the model is in training mode, and a device computes the "
                "same thing every time. Call `qmodel.eval()` (NNX), or quantize with `deterministic=True` (Linen)."
            )
        if (refused := target.refused(op.kind, frozen.plan.graph.reads(op))) is not None:
            raise TargetError(
                f"{op.name} ({refused}, {op.source}): {target.title} does not take it ({target.source}). Use "
                "another op, or another target."
            )
        if op.name in frozen.plan.islands and not (target.float_islands and op.kind in FLOATS):
            reason, advice = frozen.plan.islands[op.name], _advice(op, frozen.plan)
            dtype = frozen.plan.graph.avals[op.outputs[0]].dtype
            if op.kind == "FLOAT" and jnp.issubdtype(dtype, jnp.integer):
                raise ExportError(f"{op.name} computes {dtype}, such as indices: {reason}. {advice}")
            raise ExportError(f"{op.name} runs in floating point: {reason}. {advice}")


def _advice(op: Op, plan: Plan) -> str:
    if "rule" in plan.islands[op.name] and not target_named(plan.recipe.target).float_islands:
        return f"Remove the rule that makes it float: {target_named(plan.recipe.target).title} computes integers only."
    return (REFUSED | NO_FLOATS).get(op.kind, "Move it before or after the model.")


# Sorted; the keys are those of jaxq.ops.OPS.
RULES: dict[str, Rule] = {
    "ADD": elementwise.binary,
    "AFFINE": contractions.affine,
    "ARG_MAX": reductions.arg,
    "ARG_MIN": reductions.arg,
    "AVERAGE_POOL_2D": windows.pool,
    "BATCH_MATMUL": contractions.batch_matmul,
    "BROADCAST_TO": movement.broadcast_to,
    "CLIP": clips.clip,
    "COMPARE": elementwise.compare,
    "CONCATENATION": movement.concatenation,
    "CONV_2D": contractions.conv,
    "CUMSUM": reductions.cumsum,
    "DEPTHWISE_CONV_2D": contractions.conv,
    "DROPOUT": elementwise.nothing,
    "EMBEDDING": movement.embedding,
    "FAKE_QUANT": elementwise.nothing,
    "FLOOR_DIV": elementwise.copying(),
    "FLOOR_MOD": elementwise.copying(),
    "FULLY_CONNECTED": contractions.fully_connected,
    "GATHER": movement.gather,
    "GELU": elementwise.gelu,
    "HARD_SWISH": elementwise.plain(),
    "INTEGER": elementwise.integer,
    "LEAKY_RELU": elementwise.leaky_relu,
    "LOGICAL_AND": elementwise.copying(),
    "LOGICAL_OR": elementwise.copying(),
    "LOGISTIC": elementwise.plain(),
    "MAXIMUM": elementwise.copying(),
    "MAX_POOL_2D": windows.pool,
    "MEAN": reductions.reduction,
    "MINIMUM": elementwise.copying(),
    "MUL": elementwise.binary,
    "PAD": movement.pad,
    "PRELU": elementwise.copying(),
    "REDUCE_MAX": reductions.reduction,
    "REDUCE_MIN": reductions.reduction,
    "RELU": elementwise.plain(),
    "RELU6": elementwise.plain(),
    "RELU_N1_TO_1": elementwise.relu_n1_to_1,
    "REQUANTIZE": elementwise.requantize,
    "RESHAPE": movement.reshape,
    "RESIZE_BILINEAR": windows.resize_bilinear,
    "REVERSE_V2": movement.reverse,
    "SELECT": movement.select,
    "SLICE": movement.slice_,
    "SOFTMAX": elementwise.plain(beta=1.0),
    "SPLIT": movement.split,
    "STOP_GRADIENT": elementwise.nothing,
    "STRIDED_SLICE": movement.strided_slice,
    "SUB": elementwise.binary,
    "SUM": reductions.reduction,
    "TABLE": elementwise.table,
    "TANH": elementwise.plain(),
    "TOPK_V2": movement.top_k,
    "TRANSPOSE": movement.transpose,
    "TRANSPOSE_CONV": contractions.transpose_conv,
}

# Ops that are written on floats as well.
FLOATS = RULES.keys() - NO_FLOATS.keys()
