"""A Program as a jittable JAX function that computes every integer as a named kernel family does."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq.display.text import shortened
from jaxq.errors import ExportError, FormatError, InputError
from jaxq.export.evaluate import variables
from jaxq.export.evaluate.kernels import floats, hybrid, reference, tflm, xnnpack
from jaxq.export.evaluate.kernels.machine import PHONE, Machine, machine_named
from jaxq.export.evaluate.kernels.operands import Kernel
from jaxq.export.evaluate.variables import State
from jaxq.export.program import Operator, Program, Tensor
from jaxq.export.shapes import STATES

# The kernels of a family on a machine.
FAMILIES: dict[str, Callable[[Machine], dict[str, Kernel]]] = {
    "xnnpack": xnnpack.kernels,
    "reference": lambda machine: reference.KERNELS,
    "tflm": lambda machine: tflm.KERNELS,
}

# What a kernel raises for options and constants that it was not made for.
UNCOMPUTABLE = (ArithmeticError, AssertionError, LookupError, NotImplementedError, TypeError, ValueError)

Environment = dict[int, Any]  # by tensor: an array, of a resource the name of its variable
Apply = Callable[[Operator, list[Any]], list[Any]]  # the values of op.inputs -> those of op.outputs
Single = Callable[..., tuple[State, Environment]]  # (state, *inputs in the file's shapes) -> state, wanted values


def evaluate(
    program: Program, family: str = "xnnpack", *, machine: str = PHONE, every_tensor: bool = False
) -> Callable[..., tuple[jax.Array, ...] | dict[int, jax.Array]]:
    """The program's inputs -> its outputs, or with `every_tensor` a dict from tensor index to value, inputs
    included.

    Inputs are arrays of the inputs' own dtypes. In the file's shapes they give the file's outputs. Where the
    file's shapes begin with 1, one leading batch of any size takes its place; the outputs then have that
    batch in place of their own leading 1, or in front where they have none. A program with variables reads
    that batch as a sequence: each example sees what those before it left, as in an interpreter. The function
    can be jitted and vmapped.

    `machine`: "aarch64" or "x86_64", whose kernels of the family compute (`kernels.machine`).
    Integers are exact; float32 operators (`kernels.floats`) differ from a runtime's in the order of their sums.
    """
    wanted = run_time_tensors(program) if every_tensor else program.outputs
    single = single_step(program, family, wanted, machine)
    for subgraph in variables.initializers(program):
        kernels_of(subgraph, family, machine)

    def function(*inputs: jax.Array | np.ndarray) -> tuple[jax.Array, ...] | dict[int, jax.Array]:
        values = checked(program, inputs)
        found = over_batch(program, single, initial_state(program, family, machine), values)
        return found if every_tensor else tuple(found[index] for index in program.outputs)

    return function


def each_operator(program: Program, family: str, machine: str = PHONE) -> Callable[[Environment], Environment]:
    """Every operator on numbers that are given: all run-time tensors, in the file's shapes or in batches of them, by
    index -> what each operator makes of those it reads. Raises ExportError as `evaluate`.

    Where kernels quantize what they see, a last bit that differs becomes a step, and steps add up from one operator to
    the next: such files are compared operator by operator, each on the runtime's own numbers.
    """
    kernels = kernels_of(program, family, machine)
    folded = folded_tensors(program)
    indices = tuple(index for index in run_time_tensors(program) if index not in folded)

    def one(given: Environment) -> Environment:
        found = {index: given[index] for index in program.inputs}
        for op in program.operators:
            held = [given.get(i, found.get(i)) for i in op.inputs]
            values = [
                jnp.asarray(program.tensors[i].data) if value is None and i >= 0 else value
                for i, value in zip(op.inputs, held, strict=True)
            ]
            found.update(zip(op.outputs, kernels(op)(op, program.tensors, values), strict=True))
        return found

    def function(given: Environment) -> Environment:
        values = {index: jnp.asarray(given[index]) for index in indices}
        if all(values[index].shape == program.tensors[index].shape for index in program.inputs):
            return one(values)
        count = next(len(values[i]) for i in program.inputs if program.tensors[i].shape[:1] == (1,))
        fixed = {i for i in program.inputs if program.tensors[i].shape[:1] != (1,)}
        axes = {index: None if index in fixed else 0 for index in indices}
        shaped = {i: v if i in fixed else v.reshape(count, *program.tensors[i].shape) for i, v in values.items()}
        return jax.tree.map(joined, jax.vmap(one, (axes,), axis_size=count)(shaped))

    return function


def single_step(program: Program, family: str, wanted: Sequence[int], machine: str = PHONE) -> Single:
    """One invocation on values of the file's shapes: (state, *inputs) -> (state, the wanted values)."""
    kernels = kernels_of(program, family, machine)

    def single(state: State, *inputs: jax.Array) -> tuple[State, Environment]:
        after = dict(state)

        def apply(op: Operator, values: list[Any]) -> list[Any]:
            if op.kind in variables.KINDS:
                return variables.apply(op, program.tensors, values, after)
            if op.kind in STATES:
                return variables.recur(op, program.tensors, values, after, kernels(op))
            return kernels(op)(op, program.tensors, values)

        environment = interpret(program, inputs, apply, lambda tensor: jnp.asarray(tensor.data))
        return after, {index: environment[index] for index in wanted}

    return single


def initial_state(program: Program, family: str, machine: str = PHONE) -> State:
    """The variables before the first invocation, by name; {} for a program without. Raises ExportError."""
    state = variables.at_rest(program)
    for subgraph in variables.initializers(program):
        state = single_step(subgraph, family, (), machine)(state)[0]
    return state


def kernels_of(program: Program, family: str, machine: str = PHONE) -> Callable[[Operator], Kernel]:
    """The kernel of each of the program's operators on a machine. Raises ExportError for one that the family lacks."""
    if family not in FAMILIES:
        raise ExportError(f"No kernel family {family!r}. Families: {', '.join(FAMILIES)}.")
    tables = {name: table(machine_named(machine)) for name, table in FAMILIES.items()}

    def kernel(op: Operator) -> Kernel:
        if hybrid.is_hybrid(op, program.tensors):
            return hybrid.kernel_of(op, program.tensors, family)
        if floats.is_float(op, program.tensors):
            return floats.kernel_of(op, program.tensors)
        return _kernel(tables, op, family)

    for op in program.operators:
        if op.kind not in variables.KINDS:
            kernel(op)
    return kernel


def _kernel(tables: dict[str, dict[str, Kernel]], op: Operator, family: str) -> Kernel:
    if op.kind not in tables[family]:
        others = [name for name, table in tables.items() if op.kind in table]
        advice = f"Evaluate with family {others[0]!r}" if others else "Express it by other operators"
        raise ExportError(f"The {family} family has no exact kernel for {op.kind}. {advice}.")
    return tables[family][op.kind]


def interpret(
    program: Program, inputs: Sequence[Any], apply: Apply, constant: Callable[[Tensor], Any]
) -> dict[int, Any]:
    """All operators in order. `constant` makes the value of a tensor that has data."""
    environment: Environment = dict(zip(program.inputs, inputs, strict=True))

    def value(index: int) -> Any:
        if index in environment:
            return environment[index]
        tensor = program.tensors[index]
        if tensor.data is None:
            raise ExportError(f"Tensor {index} {tensor.name!r} is read before any operator writes it.")
        return constant(tensor)

    for i, op in enumerate(program.operators):
        kept = STATES.get(op.kind, ())
        read = [None if index < 0 or p in kept else value(index) for p, index in enumerate(op.inputs)]
        results = _applied(apply, i, op, read)
        environment.update(zip(op.outputs, results, strict=True))
    return environment | {index: value(index) for index in program.outputs}


def _applied(apply: Apply, i: int, op: Operator, values: list[Any]) -> list[Any]:
    """`apply(op, values)`. What `export.shapes` let pass and a kernel cannot compute is the file's fault."""
    try:
        with np.errstate(all="ignore"):  # scales of a hostile file overflow
            return apply(op, values)
    except UNCOMPUTABLE as e:
        raise FormatError(
            f"The file's operator {i} ({op.kind}) cannot be computed with its options and constants: "
            f"{type(e).__name__}: {shortened(str(e), 200)}. Convert the model again."
        ) from e


def run_time_tensors(program: Program) -> tuple[int, ...]:
    """The tensors that have numbers only when the program runs: inputs, and what operators write."""
    written = [index for op in program.operators for index in op.outputs if index >= 0]
    numbers = [index for index in written if program.tensors[index].dtype != "resource"]
    return tuple(dict.fromkeys([*program.inputs, *numbers]))


def folded_tensors(program: Program) -> frozenset[int]:
    """What operators make of constants alone. A runtime may compute it once, before it runs, and show no numbers."""
    found: set[int] = set()
    for op in program.operators:
        read = [i for i in op.inputs if i >= 0]
        if op.kind not in variables.KINDS and all(i in found or program.tensors[i].data is not None for i in read):
            found.update(op.outputs)
    return frozenset(found)


def checked(program: Program, inputs: Sequence[jax.Array | np.ndarray], real: bool = False) -> list[jax.Array]:
    """The inputs as arrays. Raises InputError where their number, shapes or dtypes are not the file's; with `real`,
    quantized inputs are float32.
    """
    if len(inputs) != len(program.inputs):
        raise InputError(f"{len(inputs)} inputs for a program that has {len(program.inputs)}.")
    values = [jnp.asarray(value) for value in inputs]
    for value, index in zip(values, program.inputs, strict=True):
        tensor = program.tensors[index]
        dtype, owner = (
            ("float32", "real numbers are") if real and tensor.quantization else (tensor.dtype, "the file says")
        )
        if value.dtype != jnp.dtype(dtype):
            raise InputError(f"Input {tensor.name!r} is {value.dtype}; {owner} {dtype}.")
        if value.shape != tensor.shape and (tensor.shape[:1] != (1,) or value.shape[1:] != tensor.shape[1:]):
            raise InputError(f"Input {tensor.name!r} is {value.shape}; the file says {tensor.shape}.")
    return values


def over_batch(program: Program, single: Single, initial: State, values: list[jax.Array]) -> Environment:
    """`single` on values of the file's shapes, or on each example of a batch: side by side without variables, one
    after another with them. Inputs that have no leading 1 in the file go to every example.
    """
    if all(v.shape == program.tensors[i].shape for v, i in zip(values, program.inputs, strict=True)):
        return single(initial, *values)[1]
    batched = [program.tensors[index].shape[:1] == (1,) for index in program.inputs]
    sizes = {value.shape[0] for value, has_batch in zip(values, batched, strict=True) if has_batch}
    if len(sizes) != 1:
        raise InputError(f"Inputs with batches of different sizes: {sorted(sizes)}.")
    examples = [value[:, None] for value, has_batch in zip(values, batched, strict=True) if has_batch]

    def step(state: State, example: list[jax.Array]) -> tuple[State, Environment]:
        own = iter(example)
        return single(state, *(next(own) if b else v for v, b in zip(values, batched, strict=True)))

    if variables.has_variables(program):
        found = jax.lax.scan(step, jax.tree.map(jnp.asarray, initial), examples)[1]
    else:
        found = jax.vmap(lambda example: step(initial, example)[1])(examples)
    return jax.tree.map(joined, found)


def joined(stacked: Any) -> Any:
    """(batch, 1, ...) to (batch, ...); an example's value that does not begin with 1 keeps its shape."""
    return stacked.squeeze(1) if stacked.ndim > 1 and stacked.shape[1] == 1 else stacked
