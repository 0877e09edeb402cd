"""Our reading of each kernel family, against the runtime that runs the very file."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.errors import ExportError
from jaxq.export.evaluate.kernels import floats, hybrid
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.evaluate.op_by_op import OperatorByOperator, Steps
from jaxq.export.evaluate.program import each_operator, evaluate, folded_tensors
from jaxq.export.evaluate.variables import has_variables
from jaxq.export.program import Operator, Program
from jaxq.export.proof.certificate import FAMILIES, FLOAT_TOLERANCE, Tally
from jaxq.export.runtimes.litert import run
from jaxq.simulate.effort import LONG, quickly

Reader = Callable[..., dict[int, jax.Array]]


def readers(
    program: Program, families: Iterable[str] = FAMILIES, machine: str | None = None, steps: Steps | None = None
) -> dict[str, Reader]:
    """Our reading of a program by each kernel family on a machine (None: this one): inputs -> every tensor by its
    index. Of a program whose operators are compared one by one: the runtime's tensors -> ours.

    steps: compiled operators of this program, shared by all its readers that are given them.

    Raises ExportError for a family that does not exist, or that lacks an operator of the program.
    """
    if not one_by_one(program):
        return whole_readers(program, families, machine, steps)
    on, steps = machine or this_machine(), {} if steps is None else steps
    if is_long(program):
        return {family: OperatorByOperator(program, family, on, steps).on for family in families}
    return {family: _compiled(each_operator(program, family, on)) for family in families}


def whole_readers(
    program: Program, families: Iterable[str] = FAMILIES, machine: str | None = None, steps: Steps | None = None
) -> dict[str, Reader]:
    """Our reading of a program from its inputs on: inputs -> every tensor by its index."""
    on, steps = machine or this_machine(), {} if steps is None else steps
    if is_long(program):
        return {family: OperatorByOperator(program, family, on, steps) for family in families}
    return {family: _compiled(evaluate(program, family, machine=on, every_tensor=True)) for family in families}


def is_long(program: Program) -> bool:
    """Whether a program is compiled operator by operator: as a whole a long one takes more than linear time."""
    return len(program.operators) >= LONG and not has_variables(program)


def _compiled(reading: Callable[..., Any]) -> Reader:
    """Compiled with little effort: a proof runs few examples, and integers do not depend on the effort."""
    return jax.jit(reading, compiler_options=quickly())


def one_by_one(program: Program) -> bool:
    """Whether the operators are compared one by one: some quantize, as they run or in a QUANTIZE of its own, floats
    that others compute, so that a last bit may become a step.
    """
    computed = {i for op in program.operators if floats.is_float(op, program.tensors) for i in op.outputs}
    quantized = any(op.kind == "QUANTIZE" and op.inputs[0] in computed for op in program.operators)
    return quantized or any(hybrid.is_hybrid(op, program.tensors) for op in program.operators)


def compare_families(
    data: bytes,
    program: Program,
    inputs: Sequence[np.ndarray],
    ours: Mapping[str, Reader],
    tallies: Mapping[str, Tally],
    runtime: str = "litert",
) -> None:
    """Add to `tallies` our reading of a file against the runtime's: every tensor, and the outputs of the very file.

    Runtimes show intermediate tensors only of a copy of the file that has them all as outputs; hence the second
    comparison. Every integer must be equal; numbers of float32 operators agree to FLOAT_TOLERANCE, and where
    activations are quantized as they run each operator does so on the runtime's own numbers. `runtime`: "litert" or
    "tf.lite", for the families that both have.
    """
    for family, tally in tallies.items():
        found = None if one_by_one(program) else ours[family](*inputs)
        if found is not None:
            refuse_aborting(program, found)
        theirs = run(data, inputs, family, every_tensor=True, runtime=runtime)
        found = ours[family](theirs) if found is None else found
        allowed = tolerances(program)
        for index, tolerance in allowed.items():
            tally.add(program.tensors[index].name, np.asarray(found[index]), theirs[index], tolerance)
        for index, output in zip(program.outputs, run(data, inputs, family, runtime=runtime), strict=True):
            name, tolerance = f"{program.tensors[index].name} (output)", allowed.get(index, 0.0)
            tally.add(name, np.asarray(found[index]), np.asarray(output), tolerance)


def tolerances(program: Program) -> dict[int, float]:
    """The difference allowed in each tensor that an operator computes: 0, except for float32 operators."""
    folded = folded_tensors(program)
    written = [(op, index) for op in program.operators for index in op.outputs if index not in folded]
    return {index: tolerance_of(op, program) for op, index in written if program.tensors[index].dtype != "resource"}


def tolerance_of(op: Operator, program: Program) -> float:
    """What may differ in an operator's result, as a share of its greatest number."""
    return FLOAT_TOLERANCE if floats.is_float(op, program.tensors) else 0.0


def refuse_aborting(program: Program, found: Mapping[int, jax.Array]) -> None:
    """Raise ExportError where TFLite's reference SOFTMAX would abort the process (exponentials that sum to 512)."""
    for op in program.operators:
        if op.kind != "SOFTMAX":
            continue
        x = program.tensors[op.inputs[0]]
        if x.shape[-1] >= 512 and x.quantization is not None:
            q = np.asarray(found[op.inputs[0]], np.float32) * x.quantization.scale[0]
            worst = float(np.max(np.sum(np.exp(q - np.max(q, -1, keepdims=True)), -1)))
            if worst >= 511.0:
                raise ExportError(
                    f"{program.tensors[op.outputs[0]].name}: a SOFTMAX over {x.shape[-1]} nearly equal numbers (sum of "
                    f"exponentials {worst:.0f}) aborts TFLite's reference kernel and TFLite Micro at 512. Export the "
                    "logits, and take the softmax on the host."
                )
