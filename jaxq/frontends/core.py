"""What the NNX, Linen and function interfaces share: capture, plan and run one target. Knows no Flax.

A target is captured once with the example, for its plan. At every call the function is captured again for the shapes of
that call (cached), so any batch size works; the plan's names are the same each time: the keys of the ranges.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxq.errors import CaptureError, InputError
from jaxq.frontends.call import Call, is_key, places, split_call
from jaxq.frontends.captured import Captured, captured_by, planned
from jaxq.frontends.ranges import check_ranges, initial_ranges, range_states
from jaxq.frontends.signature import Arguments, argument_names, parameters_of, placed_as, result_names
from jaxq.graph import Graph, capture
from jaxq.graph.batch import BatchedGraphs, batched_inputs
from jaxq.graph.recent import Recent
from jaxq.plan.findings import Finding
from jaxq.plan.plan import Plan
from jaxq.plan.recipe import Recipe
from jaxq.simulate.forward import simulate
from jaxq.simulate.qparams import Ranges
from jaxq.simulate.reals import reals
from jaxq.simulate.run import Record


class Called(NamedTuple):
    """What a user calls: `called`, whose parameters after the first `skip` are the arguments, and `result`, which takes
    the user's result out of what the captured function returns.
    """

    called: Callable[..., Any]
    skip: int = 0
    result: Callable[[Any], Any] = lambda returned: returned


class Target(NamedTuple):
    """What is captured: `fn(params, *args, **kwargs)`.

    key: tells functions apart (a graph definition, a module). names: the paths of the leaves of params.
    """

    fn: Callable[..., Any]
    key: Hashable
    params: Any
    names: Sequence[str]


# How many sets of shapes keep their plans and compiled simulations. One more drops the least recently used one, which
# is captured anew where it comes again: the same plan.
CACHED_SHAPES = 16


class Core:
    """Captures, plans and runs one target. `plan` is that of the example, of which shapes and dtypes are kept: what
    calibration and export default to.
    """

    def __init__(
        self, recipe: Recipe, called: Called, example: tuple[Sequence[Any], Mapping[str, Any]], target: Target
    ) -> None:
        self.recipe = recipe
        self.call = called
        self.example = shapes_of(*example)
        self._parameters = parameters_of(called.called, called.skip)
        self.findings: tuple[Finding, ...] = ()  # what the last calibration found that its ranges cannot hold
        self.calibrated = 0  # the fingerprint of the parameters that it saw
        self._captured = Recent[Captured](CACHED_SHAPES)
        self._recorded = Recent[_Recorded](CACHED_SHAPES)
        self._by_sites: dict[frozenset[str], Plan] = {}  # is not bounded by shapes: `plans` forgets no site
        self._in_file: Plan | None = None
        self._in_file = self.plan = self.capture(target, *self.example).plan

    def as_example(self, args: Any, kwargs: Mapping[str, Any]) -> Arguments:
        """The arguments of a call where the example has them: by position or by keyword."""
        return placed_as(self._parameters, len(self.example[0]), args, kwargs)

    def completed(self, args: Any, kwargs: Mapping[str, Any]) -> Arguments:
        """Arguments of calibration, verification and export: the example's where there are none; else with the
        arguments of the example that hold no arrays (`train=False`) and that are not given.
        """
        if not args and not kwargs:
            return self.example
        args, kwargs = self.as_example(args, kwargs)
        flags = {k: v for k, v in self.example[1].items() if not split_call((), {k: v}).arrays}
        others = self.example[0][len(args) :]
        return args if split_call(others, {}).arrays else (*args, *others), {**flags, **kwargs}

    @property
    def plans(self) -> tuple[Plan, ...]:
        """A plan for each set of sites met so far: a call with other flags than the example's may have other sites."""
        return tuple(self._by_sites.values())

    def capture(self, target: Target, args: Any, kwargs: Any) -> Captured:
        """The plan for these shapes."""
        args, kwargs = self.as_example(args, kwargs)
        call, leaves = split_call(args, kwargs), jax.tree.leaves(target.params)
        self.check_names(args, kwargs)
        shapes = tuple(
            (tuple(a.shape), jnp.dtype(a.dtype) if not is_key(a) else a.dtype) for a in (*leaves, *call.arrays)
        )
        return self._captured.get((target.key, call.static, shapes), lambda: self._capture(target, call))

    def _capture(self, target: Target, call: Call) -> Captured:
        self.check_shapes(call.arrays)
        self._check_dtypes(call.arrays)
        recorded = _Recorded(target, call, self.batched(call.arrays))
        batch = recorded.batch
        recorded = self._recorded.get((target.key, call.static, *recorded.shapes), lambda: recorded)
        graph = recorded.graphs.at(batch)
        structure = recorded.structures[0]
        named = self._named(graph, structure, call)
        plan = planned(named, self.recipe, self._in_file)
        found = captured_by(plan, named, structure, self.call.result, recorded.graphs.results)
        self._by_sites.setdefault(frozenset(range_states(found.plan)), found.plan)
        return found

    def _named(self, graph: Graph, structure: Any, call: Call) -> Graph:
        """The graph with the user's names of its ends: arguments, and keys of the result."""
        array = object()  # tells arrays from flags, of which one can be True
        args, kwargs = call.rebuild([array] * len(call.arrays))
        names = argument_names(self.call.called, self.call.skip, args, kwargs)
        inputs = [name for name, leaf in zip(names, jax.tree.leaves((args, kwargs)), strict=True) if leaf is array]
        numbers = jax.tree.unflatten(structure, range(structure.num_leaves))
        order = jax.tree.leaves(self.call.result(numbers))
        outputs = dict(zip(order, result_names(self.call.result(numbers)), strict=True))
        ends = [outputs.get(i, f"state_{i}") for i in range(structure.num_leaves)]
        return dataclasses.replace(graph, input_names=tuple(inputs), output_names=tuple(ends))

    def check_names(self, args: Any, kwargs: Any) -> None:
        """The arrays of a call come in the places they had in the example, for sites are named by their order."""
        here, known = places(*self.as_example(args, kwargs)), places(*self.example)
        if here != known:
            if any(isinstance(leaf, int | float) for leaf in jax.tree.leaves((args, kwargs))):
                raise InputError(
                    f"The model was quantized with the arrays {', '.join(known)}; this call holds Python numbers. Give "
                    "arrays: np.asarray(x, np.float32)."
                )
            raise InputError(
                f"The model was quantized with the inputs {', '.join(known)}; this call gives "
                f"{', '.join(here) or 'none'} (numbers are positions). Give them as in the example of jaxq.quantize (a "
                "batch for calibration: a tuple, ending in a dict of keywords)."
            )

    def check_shapes(self, arrays: Sequence[Any]) -> None:
        """The arrays of a call have the sizes of the example's but for the first axis. Raises InputError."""
        for i, (array, example) in enumerate(zip(arrays, split_call(*self.example).arrays, strict=True)):
            shape = tuple(example.shape)
            if len(array.shape) != len(shape) or tuple(array.shape[1:]) != shape[1:]:
                raise InputError(
                    f"Input {i} has shape {tuple(array.shape)}; the model was quantized with {shape}, and only the "
                    "first axis, the batch, may differ. Resize the input, or quantize again with an example of "
                    "this shape."
                )

    def _check_dtypes(self, arrays: Sequence[Any]) -> None:
        """The arrays of a call are floats where the example has floats. Raises InputError."""
        for i, (array, example) in enumerate(zip(arrays, split_call(*self.example).arrays, strict=True)):
            if jnp.issubdtype(example.dtype, jnp.floating) and not jnp.issubdtype(array.dtype, jnp.floating):
                raise InputError(
                    f"Input {i} has dtype {array.dtype}; the model was quantized with {example.dtype}. Convert it, "
                    "scaled as in training (images: `x.astype('float32') / 255`)."
                )

    def run(
        self, captured: Captured, params: Any, ranges: Ranges, args: Any, kwargs: Any, record: Record | None = None
    ) -> Any:
        """The simulated forward: the function's result, on the integers of the device."""
        check_ranges(captured.plan, ranges, self.plans)
        run = captured.simulate if record is None else functools.partial(simulate, captured.plan, record=record)
        outputs = run(jax.tree.leaves(params), _plain(ranges), self.arrays(args, kwargs))
        return jax.tree.unflatten(captured.structure, outputs)

    def with_arrays(self, arrays: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The example's arguments with these arrays in the place of its own."""
        return split_call(*self.example).rebuild(arrays)

    def arrays(self, args: Any, kwargs: Any) -> tuple[Any, ...]:
        """The arrays of a call, in the order of the graph's inputs."""
        return split_call(*self.as_example(args, kwargs)).arrays

    def batched(self, arrays: Sequence[Any]) -> tuple[bool, ...]:
        """Which inputs of a call have a batch."""
        return batched_inputs([a.shape for a in split_call(*self.example).arrays], [a.shape for a in arrays])

    def examples(self, arrays: Sequence[Any]) -> int:
        """How many examples the arrays of a call hold: one where none has a batch."""
        return next((a.shape[0] for a, own in zip(arrays, self.batched(arrays), strict=True) if own), 1)

    def reals(self, captured: Captured, params: Any, args: Any, kwargs: Any) -> dict[str, jax.Array]:
        """The float reading of the folded graph: every activation by its site's name."""
        found = reals(captured.plan, jax.tree.leaves(params), self.arrays(args, kwargs))
        return {captured.plan.graph.site_names[v]: array for v, array in found.items()}


class _Recorded:
    """A function with the shapes of one call. has_batch: which of its inputs have a batch."""

    def __init__(self, target: Target, call: Call, has_batch: Sequence[bool]) -> None:
        self.fn, self.names, self.rebuild = target.fn, target.names, call.rebuild
        leaves, self.tree = jax.tree.flatten(target.params)
        self.leaves, self.inputs = [_canonical(a) for a in leaves], [_canonical(a) for a in call.arrays]
        self.has_batch = tuple(has_batch)
        self.batch = next((a.shape[0] for a, own in zip(self.inputs, has_batch, strict=True) if own), 1)
        self.structures: list[Any] = []  # of the function's result, the same at every batch
        self.graphs = BatchedGraphs(self._at)

    @property
    def shapes(self) -> tuple[Hashable, ...]:
        """The shapes and dtypes that a graph is of, but for the batch."""
        ends = zip(self.inputs, self.has_batch, strict=True)
        return tuple((a.shape[1:] if own else a.shape, own, a.dtype) for a, own in ends) + (
            tuple((a.shape, a.dtype) for a in self.leaves),
        )

    def _at(self, batch: int) -> Graph:
        """The graph recorded at a batch size."""
        ends = zip(self.inputs, self.has_batch, strict=True)
        inputs = [jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) if own else a for a, own in ends]
        return capture(self._flat, self.leaves, self.names, inputs)

    def _flat(self, *arrays: Any) -> list[Any]:
        params, inputs = arrays[: len(self.leaves)], arrays[len(self.leaves) :]
        args, kwargs = self.rebuild(inputs)
        out, structure = jax.tree.flatten(self.fn(jax.tree.unflatten(self.tree, params), *args, **kwargs))
        self.structures.append(structure)
        return [_array(o) for o in out]


def _array(result: Any) -> Any:
    """A leaf of a result as an array. Raises CaptureError for what is none, such as a name."""
    if isinstance(result, int | float | complex):
        return jnp.asarray(result)
    if not hasattr(result, "dtype"):
        raise CaptureError(
            f"The model returns {result!r:.80}, a {type(result).__name__}; the results of a file are arrays. Leave it "
            "out of what the model returns."
        )
    return result if is_key(result) else jnp.asarray(result)


def graph_of(target: Target, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Graph, Any]:
    """The graph of a target at the shapes of an example, and the structure of what its function returns."""
    call = split_call(args, kwargs)
    recorded = _Recorded(target, call, [True] * len(call.arrays))
    return capture(recorded._flat, recorded.leaves, recorded.names, recorded.inputs), recorded.structures[0]


def _plain(ranges: Ranges) -> dict[str, dict[str, jax.Array]]:
    return {name: dict(r) for name, r in ranges.items()}


def _canonical(array: Any) -> jax.ShapeDtypeStruct:
    """Shape and dtype of an array as JAX will hold it: numpy's float64 is float32 here."""
    dtype = array.dtype if is_key(array) else jax.dtypes.canonicalize_dtype(array.dtype)
    return jax.ShapeDtypeStruct(array.shape, dtype)


def shapes_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example with the shapes and dtypes of its arrays in their place. Raises InputError for one without arrays."""
    if not split_call(args, kwargs).arrays:
        raise InputError(
            'jaxq.quantize needs an example input, for its shapes: jaxq.quantize(model, "int8", images[:1]).'
        )
    return jax.tree.map(_shaped, (tuple(args), dict(kwargs)))


def zeros_of(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """An example with arrays of zeros in the place of its shapes."""
    return jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype) if hasattr(a, "shape") else a, (args, kwargs))


def _shaped(leaf: Any) -> Any:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) if hasattr(leaf, "shape") and hasattr(leaf, "dtype") else leaf


class Bound(NamedTuple):
    """A quantized target with its state, in the one form that calibration, analysis and export take.

    captured(*args, **kwargs) gives the plan for those shapes, without arguments for the example's. fn: the function
    that is captured, `fn(params, *args, **kwargs)`. statistics: the names of leaves of params that no gradient trains,
    such as BatchNorm's running mean.
    """

    core: Core
    captured: Callable[..., Captured]
    params: Any
    ranges: Mapping[str, Mapping[str, jax.Array]]
    fn: Callable[..., Any]
    statistics: frozenset[str] = frozenset()

    def outputs(self, *arrays: Any) -> list[Any]:
        """The float model's outputs that are activations, in the graph's order, for the arrays of a call."""
        args, kwargs = self.core.with_arrays(arrays)
        leaves, graph = jax.tree.leaves(self.fn(self.params, *args, **kwargs)), self.core.plan.graph
        return [leaf for leaf, v in zip(leaves, graph.outputs, strict=True) if v in graph.activations]


def replanned(bound: Bound, recipe: Recipe) -> Bound:
    """The same model with another recipe. Its ranges are `bound`'s own, those of sites that it did not have are new."""
    core = copy.copy(bound.core)
    core.recipe, core.findings = recipe, ()
    replans, in_file = Recent[Captured](CACHED_SHAPES), bound.captured().under(recipe).plan

    def captured(*args: Any, **kwargs: Any) -> Captured:
        found = bound.captured(*args, **kwargs)
        return replans.get(found, lambda: found.under(recipe, in_file))

    return bound._replace(
        core=core, captured=captured, ranges={**initial_ranges(captured().plan), **bound.ranges}, statistics=frozenset()
    )
