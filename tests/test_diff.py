"""`jaxq.analyze.diff` and `jaxq.export.diff`: whose error it is, and the first integer that diverges."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import pathlib
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx

import jaxq
import jaxq.export
from jaxq.analyze import Difference, Differences, Error
from jaxq.analyze.diff import decibels
from jaxq.analyze.error_sums import op_by_op, whole
from jaxq.analyze.parts import Parts, parts
from jaxq.export.evaluate.kernels.machine import MACHINES, this_machine
from jaxq.export.evaluate.program import FAMILIES
from jaxq.export.flatbuffer.read import read
from jaxq.export.operators import OPERATORS
from jaxq.export.program import Operator, Program, Quantization, Tensor
from jaxq.export.proof.contents import changes
from jaxq.export.proof.divergence import ANYTHING, Watch
from jaxq.export.proof.receptive_field import read_block
from jaxq.ops import OPS
from tests import sixty_three
from tests.zoo import ZOO, Case, proof_of

NETS = ("branches", "clips", "heads", "means", "parts", "placed", "separable", "squeeze_excite")
EXAMPLES = 16
KERNELS = FAMILIES["xnnpack"](MACHINES[this_machine()])
SURE = 2.0**-10  # steps: what float32 leaves of real arithmetic


def calibrated(name: str, recipe: Any = "int8") -> tuple[Case, Any]:
    case = ZOO[name]()
    args, kwargs = case.first(1)
    qmodel = jaxq.quantize(case.model, recipe, *args, **kwargs)
    jaxq.calibrate(qmodel, case.batches, progress=False)
    return case, qmodel


class Seen(NamedTuple):
    """A network of the zoo with the parts of its errors."""

    case: Case
    qmodel: Any
    parts: dict[str, Parts]

    @property
    def plan(self) -> Any:
        args, kwargs = self.case.first(EXAMPLES)
        return self.qmodel.captured(*args, **kwargs).plan


def parts_of(qmodel: Any, case: Case) -> dict[str, Parts]:
    args, kwargs = case.first(EXAMPLES)
    plan = qmodel.captured(*args, **kwargs).plan
    leaves = jax.tree.leaves(nnx.state(qmodel.model))
    return jax.jit(functools.partial(parts, plan))(leaves, qmodel.pure_ranges(), qmodel.core.arrays(args, kwargs))


@functools.cache
def seen(name: str, recipe: str = "int8") -> Seen:
    case, qmodel = calibrated(name, recipe)
    return Seen(case, qmodel, parts_of(qmodel, case))


def makers(found: Seen) -> dict[str, Any]:
    graph = found.plan.graph
    return {graph.site_names[v]: op for op in graph.ops for v in op.outputs}


# --- the parts ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NETS)
@pytest.mark.slow
def test_an_op_that_is_fed_right_rounds_by_half_a_step(name: str) -> None:
    """By a whole step where an operand is requantized to the output's scale before, which is a second rounding."""
    found = seen(name)
    twice = {op for op, _ in found.plan.requantized}
    for site, op in makers(found).items():
        most = 1.0 if op.name in twice else 0.5
        assert np.max(np.abs(found.parts[site].rounding)) <= most + SURE, site


@pytest.mark.parametrize("name", NETS)
def test_copies_make_no_error_and_ops_without_constants_none_of_weights(name: str) -> None:
    found = seen(name)
    requantized, activations = {op for op, _ in found.plan.requantized}, found.plan.graph.activations
    for site, op in makers(found).items():
        if OPS[op.kind].scales == "same" and OPS[op.kind].step is None and op.name not in requantized:
            assert np.max(np.abs(found.parts[site].rounding)) == 0.0, site
        if set(op.inputs) <= activations:
            assert np.max(np.abs(found.parts[site].weights)) == 0.0, site


@pytest.mark.parametrize("name", ["ConvTranspose", "attention", "embed dense", "where"])
@pytest.mark.slow
def test_ops_with_constants_of_many_kinds(name: str) -> None:
    model, x = sixty_three.case(name)
    qmodel = jaxq.quantize(model, "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    found = jaxq.analyze.diff(qmodel, x, progress=False)
    assert all(d.rounding.max_abs <= 0.5 + SURE for d in found.tensors)
    copies = [d for d in found.tensors if d.kind in ("RESHAPE", "TRANSPOSE", "SELECT")]
    assert all(d.rounding.max_abs == d.clipping.max_abs == 0.0 for d in copies)
    assert jaxq.export.diff(qmodel, x, progress=False).ok


@pytest.mark.parametrize(("recipe", "sure"), [("int4", 2.0**-4), ("int16x8", 0.05)])
@pytest.mark.slow
def test_other_widths(recipe: str, sure: float) -> None:
    """The kernels of 4-bit convolutions and of 16-bit activations round twice: a product, then its shift. LOGISTIC in
    16 bits is a table between whose entries it interpolates: within one step.
    """
    case, qmodel = calibrated("squeeze_excite", recipe)
    x = case.args[0][:EXAMPLES]
    found = jaxq.analyze.diff(qmodel, x, progress=False)
    assert all(d.rounding.max_abs <= (1.0 if d.kind == "LOGISTIC" else 0.5 + sure) for d in found.tensors)
    assert found["reshape"].own.max_abs == 0.0
    assert found["first/kernel:out"].weights.mean_abs > 10 * found["first/kernel:out"].rounding.mean_abs
    assert jaxq.export.diff(qmodel, x, progress=False).ok


def test_recipes_of_floats_have_no_steps() -> None:
    case, qmodel = calibrated("perceptron", "float16")
    for call in (jaxq.analyze.diff, jaxq.export.diff):
        with pytest.raises(jaxq.errors.InputError) as raised:
            call(qmodel, case.args[0], progress=False)
        assert str(raised.value) == (
            "The recipe float16 keeps activations in floats: there are no steps and no integers to compare. The "
            "certificate of jaxq.export.to_tflite(..., verify=images) compares the numbers."
        )


@pytest.mark.parametrize("name", ["branches", "placed", "squeeze_excite"])
def test_the_total_is_the_training_forward_less_the_float_reading(name: str) -> None:
    found = seen(name)
    args, kwargs = found.case.first(EXAMPLES)
    floats = found.qmodel.core.reals(
        found.qmodel.captured(*args, **kwargs), nnx.state(found.qmodel.model), args, kwargs
    )
    artifact = jaxq.export.to_tflite(found.qmodel, progress=False)
    integers, _ = proof_of(artifact).forward(found.qmodel.core.arrays(args, kwargs))
    assert found.parts.keys() == integers.keys()
    for site, p in found.parts.items():
        scale, zero_point = proof_of(artifact).frozen.parameters[found.plan.group_of[site]]
        total = integers[site] - zero_point - np.asarray(floats[site], np.float64) / scale
        np.testing.assert_allclose(p.total, total, atol=SURE, err_msg=site)
        np.testing.assert_allclose(p.rounding + p.clipping + p.weights + p.inherited, total, atol=SURE, err_msg=site)


@pytest.mark.parametrize("name", ["branches", "separable"])
def test_what_the_first_op_inherits_is_the_rounding_of_the_input(name: str) -> None:
    """`F(p) - F(x)`, from the model's own float reading of rounded inputs."""
    found, real = seen(name), []
    args, _ = found.case.first(EXAMPLES)
    x, input_parts = jnp.asarray(args[0]), found.parts["input"]
    rounded = x + input_parts.total * input_parts.scale
    for inputs in (x, rounded):
        captured, state = found.qmodel.captured(inputs), nnx.state(found.qmodel.model)
        real.append(found.qmodel.core.reals(captured, state, (inputs,), {}))
    graph = found.plan.graph
    first = next(op for op in graph.ops if op.name in found.plan.weights)
    assert first.inputs[0] in graph.inputs
    site = graph.site_names[first.outputs[0]]
    wanted = (np.asarray(real[1][site]) - np.asarray(real[0][site])) / found.parts[site].scale
    np.testing.assert_allclose(found.parts[site].inherited, wanted, atol=SURE)


def narrowed(qmodel: Any, site: str, share: float) -> None:
    ranges = qmodel.pure_ranges()
    qmodel.set_ranges({site: {**ranges[site], "scale": ranges[site]["scale"] * share}})


def test_a_range_too_narrow_clips_there_and_is_inherited_below() -> None:
    case, qmodel = calibrated("separable")
    before = seen("separable").parts
    narrowed(qmodel, "stem/kernel:out", 0.25)
    after = parts_of(qmodel, case)
    stem, depthwise, head = (after[f"{n}/kernel:out"] for n in ("stem", "depthwise", "head"))
    assert np.mean(stem.clipped) > 0.05 and np.max(np.abs(before["stem/kernel:out"].clipping)) < 2.0
    assert np.min(stem.clipping) < -20.0 and np.max(np.abs(stem.rounding)) <= 0.5 + SURE
    assert np.mean(np.abs(depthwise.inherited)) > 5 * np.mean(np.abs(before["depthwise/kernel:out"].inherited))
    # Own errors below are what they were: an op is judged on right inputs.
    for part in ("rounding", "clipping", "weights"):
        np.testing.assert_array_equal(getattr(head, part), getattr(before["head/kernel:out"], part))
    assert np.mean(np.abs(head.inherited)) > np.mean(np.abs(before["head/kernel:out"].inherited))


@pytest.mark.slow
def test_weights_with_one_scale_for_all_channels_show_in_the_weights_part() -> None:
    case, each = calibrated("separable")
    kernel = each.model.depthwise.kernel
    kernel[...] = kernel[...] * jnp.asarray([30.0, *[1.0] * 7])
    _, one = calibrated("separable", {"weights": {"per_channel": False}})
    one.model.depthwise.kernel[...] = kernel[...]
    found = []
    for qmodel in (each, one):
        jaxq.calibrate(qmodel, case.batches, overwrite=True, progress=False)
        found.append(parts_of(qmodel, case)["depthwise/kernel:out"])
    assert np.mean(np.abs(found[1].weights)) > 2 * np.mean(np.abs(found[0].weights))
    assert np.mean(np.abs(found[1].rounding)) < 2 * np.mean(np.abs(found[0].rounding))


# --- the numbers --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["separable", "heads"])
@pytest.mark.slow
def test_the_numbers_are_those_of_the_parts(name: str) -> None:
    found = seen(name)
    differences = jaxq.analyze.diff(found.qmodel, found.case.args[0][:EXAMPLES], progress=False)
    assert differences.examples == EXAMPLES
    assert [d.site for d in differences.tensors] == ["input", *makers(found)]
    for d in differences.tensors:
        p = found.parts[d.site]
        assert (d.elements, d.step) == (p.real.size, float(p.scale))
        assert d.clipped == pytest.approx(np.mean(p.clipped))
        for kind in ("total", "own", "rounding", "clipping", "weights", "inherited"):
            e, error = np.asarray(getattr(p, kind), np.float64), getattr(d, kind)
            assert (error.mean, error.mean_abs) == pytest.approx((np.mean(e), np.mean(np.abs(e))), abs=1e-5), (
                d.site,
                kind,
            )
            # Differences of numbers of this size: the compiled sums may contract one of their four operations.
            spacing = float(np.spacing(np.max(np.abs(p.real), initial=0.0)))
            assert error.max_abs == pytest.approx(np.max(np.abs(e)), abs=4 * spacing), (d.site, kind)
            power = np.sum(np.asarray(p.real, np.float64) ** 2)
            assert error.sqnr == pytest.approx(decibels(float(power), float(np.sum(e**2))), abs=1e-3)
        means = (d.rounding.mean, d.clipping.mean, d.weights.mean, d.inherited.mean)
        assert d.total.mean == pytest.approx(sum(means), abs=1e-6)
        assert d.own.mean == pytest.approx(sum(means[:3]), abs=1e-6)


class Sums(nnx.Module):
    """Two sums of one kind, whose first operands have other grids: integers from zero up, and prescribed ones."""

    def __call__(self, x: jax.Array) -> jax.Array:
        """[n, 6] to the same."""
        return jnp.tanh(jax.nn.relu(x + 0.5) + x) + x


def both_ways(qmodel: Any, args: Any, kwargs: Any) -> tuple[Any, Any]:
    """The sums of all errors op by op, and of the graph compiled as a whole, beside another reference."""
    plan, arrays = qmodel.captured(*args, **kwargs).plan, qmodel.core.arrays(args, kwargs)
    leaves = jax.tree.leaves(nnx.state(qmodel.model))
    reference = [1.25 * leaf if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf for leaf in leaves]
    made = (make(plan, leaves, reference)(qmodel.pure_ranges(), arrays) for make in (op_by_op, whole))
    return tuple(jax.tree.map(np.asarray, found) for found in made)


def assert_alike(found: Any, wanted: Any) -> None:
    """To what the order of float32 sums leaves."""
    assert [*sorted(found)] == [*sorted(wanted)]
    for site, sums in wanted.items():
        least = 1e-4 + 1e-5 * (np.sum(sums["real"][1]) + np.sum(sums["total"][1]))
        for kind, wanted_sums in sums.items():
            for a, b in zip(found[site][kind], wanted_sums, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-3, atol=least, err_msg=f"{site} {kind}")


def test_op_by_op_gives_what_the_whole_gives() -> None:
    """A long graph is measured op by op; every sum is the one of the graph compiled as a whole."""
    x = np.random.default_rng(0).normal(size=(4, 6)).astype(np.float32)
    qmodel = jaxq.quantize(Sums(), "int8", x)
    jaxq.calibrate(qmodel, x, progress=False)
    found, wanted = both_ways(qmodel, (x,), {})
    assert len(wanted) == 5
    assert_alike(found, wanted)


@pytest.mark.parametrize("name", sorted(ZOO))
@pytest.mark.slow
def test_op_by_op_gives_what_the_whole_gives_over_the_zoo(name: str) -> None:
    case, qmodel = calibrated(name)
    assert_alike(*both_ways(qmodel, *case.first(3)))


@pytest.mark.slow
def test_batches_add_up() -> None:
    found = seen("perceptron")
    (x,) = found.case.args
    whole = jaxq.analyze.diff(found.qmodel, x[:48], progress=False)
    pieces = jaxq.analyze.diff(found.qmodel, (x[i : i + 24] for i in (0, 24)), progress=False)
    assert pieces.examples == whole.examples == 48
    for a, b in zip(whole.tensors, pieces.tensors, strict=True):
        assert a.elements == b.elements and a.total.max_abs == b.total.max_abs
        assert a.total.mean_abs == pytest.approx(b.total.mean_abs, rel=1e-5)
        assert a.total.sqnr == pytest.approx(b.total.sqnr, abs=1e-3)


@pytest.mark.parametrize("recipe", ["int8-ema", {"weights": {"ranges": "learned"}}])
def test_other_recipes(recipe: Any) -> None:
    case, qmodel = calibrated("perceptron", recipe)
    differences = jaxq.analyze.diff(qmodel, case.args[0][:EXAMPLES], progress=False)
    assert all(d.rounding.max_abs <= 0.5 + SURE for d in differences.tensors)
    assert all(d.own.sqnr > 30.0 for d in differences.tensors)


@pytest.mark.slow
def test_keyword_inputs_and_state_of_the_other_faces() -> None:
    case, qmodel = calibrated("two_inputs")
    inputs = {k: a[:4] for k, a in case.kwargs.items()}
    assert jaxq.analyze.diff(qmodel, inputs, progress=False).examples == 4
    assert jaxq.export.diff(qmodel, inputs, progress=False).ok
    x = np.linspace(-1, 1, 24, dtype=np.float32).reshape(6, 4)
    module = jaxq.quantize(linen.Dense(3), "int8", x[:1])
    variables = jaxq.calibrate(module, [x], module.init(jax.random.key(0), x), progress=False)
    assert jaxq.analyze.diff(module, x, variables, progress=False)["kernel:out"].elements == 18
    params = {"w": x[:4, :3]}
    function = jaxq.quantize(lambda p, x: x @ p["w"], "int8", params, x[:1])
    ranges = jaxq.calibrate(function, [x], params, function.init(params), progress=False)
    assert jaxq.analyze.diff(function, x, params, ranges, progress=False)["w:out"].own.sqnr > 35.0
    assert jaxq.export.diff(function, x, params, ranges, progress=False).ok


def test_float_islands_are_read_and_not_listed() -> None:
    class Running(nnx.Module):
        def __init__(self, rngs: nnx.Rngs) -> None:
            self.first, self.head = nnx.Linear(4, 6, rngs=rngs), nnx.Linear(6, 3, rngs=rngs)

        def __call__(self, x: jax.Array) -> jax.Array:
            return jax.lax.cumlogsumexp(self.head(jax.lax.cumlogsumexp(self.first(x), 1)), 1)

    x = np.random.default_rng(0).normal(size=(32, 4)).astype(np.float32)
    qmodel = jaxq.quantize(Running(nnx.Rngs(0)), "int8", x[:1])
    jaxq.calibrate(qmodel, [x], progress=False)
    found = jaxq.analyze.diff(qmodel, x, progress=False)
    assert [d.kind for d in found.tensors] == ["INPUT", "FULLY_CONNECTED", "FLOAT", "FULLY_CONNECTED"]
    assert all(d.rounding.max_abs <= 0.5 + SURE for d in found.tensors)


# --- the text -----------------------------------------------------------------------------------------------


def difference(site: str, kind: str, clipped: float, *errors: Error) -> Difference:
    return Difference(site, kind, 0.25, 8, clipped, *errors)


NONE = Error(0.0, 0.0, 0.0, math.inf)
SOME, MORE = Error(-0.125, 0.25, 0.5, 42.25), Error(1.5, 2.0, 11.75, 17.0)
TABLE = Differences(
    8,
    (
        difference("input", "INPUT", 0.0, SOME, SOME, SOME, NONE, NONE, NONE),
        difference("conv/kernel:out", "CONV_2D", 0.03125, MORE, SOME, SOME, NONE, NONE, MORE),
        difference("reshape", "RESHAPE", 0.0, MORE, NONE, NONE, NONE, NONE, MORE),
    ),
)


def test_the_table() -> None:
    assert str(TABLE) == "\n".join([
        "training forward against the float reading, 8 examples; errors in steps of each tensor's scale, mean |e| "
        "unless max",
        "  tensor           op       SQNR dB  own dB   mean    max  rounding  clipping  weights  inherited  clipped",
        "  input            INPUT       42.2    42.2  0.250   0.50     0.250     0.000    0.000      0.000   0.00 %",
        "  conv/kernel:out  CONV_2D     17.0    42.2  2.000  11.75     0.250     0.000    0.000      2.000   3.12 %",
        "  reshape          RESHAPE     17.0   exact  2.000  11.75     0.000     0.000    0.000      2.000   0.00 %",
    ])  # fmt: skip


@pytest.mark.parametrize(
    ("order", "first"), [("program", "input"), ("sqnr", "conv"), ("own", "input"), ("max", "conv"), ("clipped", "conv")]
)
def test_orders(order: str, first: str) -> None:
    assert TABLE.sorted_by(order).tensors[0].site.startswith(first)


def test_json_has_null_for_an_infinite_sqnr() -> None:
    found = json.loads(TABLE.to_json())
    assert found["examples"] == 8 and [t["site"] for t in found["tensors"]] == ["input", "conv/kernel:out", "reshape"]
    assert found["tensors"][2]["own"] == {"mean": 0.0, "mean_abs": 0.0, "max_abs": 0.0, "sqnr": None}


def test_words_that_are_not_known() -> None:
    with pytest.raises(jaxq.JaxqError, match=r"^There is no order 'sqn'\. Did you mean 'sqnr'\?$"):
        TABLE.sorted_by("sqn")
    with pytest.raises(KeyError, match=r"There is no tensor 'reshap'\. Did you mean 'reshape'\?"):
        TABLE["reshap"]


# --- integers -----------------------------------------------------------------------------------------------


@functools.cache
def exported(name: str, recipe: str = "int8") -> tuple[Case, Any, jaxq.export.Artifact]:
    case, qmodel = calibrated(name, recipe)
    return case, qmodel, jaxq.export.to_tflite(qmodel, progress=False)


@pytest.mark.parametrize(("name", "recipe"), [("perceptron", "int8"), ("squeeze_excite", "int8-uint8-io")])
def test_a_models_own_file_is_the_model(name: str, recipe: str, tmp_path: pathlib.Path) -> None:
    case, qmodel, artifact = exported(name, recipe)
    path = artifact.save(tmp_path / "own.tflite")
    x = case.args[0][:EXAMPLES]
    found = jaxq.export.diff(qmodel, x, progress=False), jaxq.export.diff(qmodel, x, file=path, progress=False)
    for comparison in found:
        assert comparison.ok and comparison.first is None and comparison.changes == ()
        assert {count.tensor for link in comparison.links for count in link.diverging} == set()
    assert [link.name for link in found[1].links] == [
        "training forward | model as read (xnnpack)",
        "model as read | own.tflite as read (xnnpack)",
        "model as read | own.tflite as read (reference)",
        "own.tflite as read | own.tflite on LiteRT (xnnpack)",
        "own.tflite as read | own.tflite on LiteRT (reference)",
    ]
    assert [len(c.links) for c in found] == [3, 5]


def with_a_byte_changed(artifact: jaxq.export.Artifact, tensor: str, at: int, by: int) -> bytes:
    """The file, one byte of one constant changed."""
    constant = next(t.data for t in artifact.program.tensors if t.name == tensor)
    assert constant is not None
    raw = constant.tobytes()
    assert artifact.data.count(raw) == 1
    place = artifact.data.index(raw) + at
    return artifact.data[:place] + bytes([(artifact.data[place] + by) % 256]) + artifact.data[place + 1 :]


BYTES = [  # tensor, the byte, which of its numbers, the first tensor that diverges
    ("stem/kernel", 7, (0, 0, 2, 1), "stem/kernel:out"),
    ("depthwise/kernel", 12, (0, 0, 1, 4), "depthwise/kernel:out"),
    ("project/kernel:bias", 4 * 3 + 1, (3,), "project/kernel:out"),
    ("head/kernel", 40, (1, 8), "head/kernel:out"),
]


@pytest.mark.parametrize(("tensor", "byte", "at", "site"), BYTES)
def test_one_changed_byte_is_named_exactly(
    tensor: str, byte: int, at: tuple[int, ...], site: str, tmp_path: pathlib.Path
) -> None:
    case, qmodel, artifact = exported("separable")
    path = tmp_path / "bad.tflite"
    path.write_bytes(with_a_byte_changed(artifact, tensor, byte, 100))
    comparison = jaxq.export.diff(qmodel, case.args[0][:EXAMPLES], file=path, progress=False)
    assert not comparison.ok
    ours, theirs = ({t.name: t for t in p.tensors} for p in (artifact.program, read(path.read_bytes())))
    a, b = (t[tensor].data for t in (ours, theirs))
    assert a is not None and b is not None
    place = ",".join(map(str, at))
    fact = f"1 of {a.size} values differ, the first [{place}]: {a[at]} in the model, {b[at]} in the file"
    assert [str(change) for change in comparison.changes] == [f"{tensor}: {fact}"]
    broken = [link for link in comparison.links if link.diverging]
    assert [(link.right, link.family) for link in broken] == [
        ("bad.tflite as read", f) for f in ("xnnpack", "reference")
    ]
    assert all(link.diverging[0].tensor == site for link in broken)
    first = comparison.first
    assert first is not None and first.tensor == site and first.left != first.right
    assert f"\nfirst divergence, {broken[0].name}\n  {site}[" in str(comparison)
    assert str(comparison).count(f", the first {site}") == 2
    assert_reproduced(artifact, read(path.read_bytes()), first)


def assert_reproduced(artifact: jaxq.export.Artifact, bad: Program, first: Any) -> None:
    """The operator's kernel, on an input that holds the printed part alone, gives the two values."""
    index = next(i for i, t in enumerate(bad.tensors) if t.name == first.tensor)
    op = next(op for op in bad.operators if index in op.outputs)
    (part,) = first.inputs
    x = bad.tensors[op.inputs[0]]
    assert part.tensor == x.name
    whole = np.full(x.shape, 55, np.int8)
    whole[read_block(op, bad.tensors, first.index, 0)] = part.values
    for tensors, value in ((artifact.program.tensors, first.left), (bad.tensors, first.right)):
        constants = [jnp.asarray(tensors[i].data) for i in op.inputs[1:]]
        (y,) = KERNELS[op.kind](op, tensors, [jnp.asarray(whole), *constants])
        assert int(np.asarray(y)[first.index]) == value


def test_a_later_example_is_counted_from_the_first() -> None:
    watch = Watch("a", "b", "xnnpack", DENSE)
    clean, x = np.zeros((2, 3), np.int8), np.arange(4, dtype=np.int8).reshape(2, 2)
    watch.add(2, clean, {0: x, 2: clean}, 0)
    wrong = clean.copy()
    wrong[1, 2] = 5
    watch.add(2, clean, {0: x, 2: wrong}, 2)
    link = watch.finish()
    assert str(link) == "a | b (xnnpack): 1 of 12 integers differ, in 1 tensor, the first y"
    assert str(link.first) == (
        "y[0,2] of example 3: 0 | 5\n"
        "y: int8[1,3] scale=1 zp=0 = FULLY_CONNECTED.v4(x, w: int8[3,2] scale=1 zp=0)\n"
        "x[0,0:2] =\n  [[2,3]]"
    )
    assert link.first is not None and json.loads(json.dumps(link.first.as_dict())) == {
        "tensor": "y",
        "example": 3,
        "index": [0, 2],
        "left": 0,
        "right": 5,
        "operator": "y: int8[1,3] scale=1 zp=0 = FULLY_CONNECTED.v4(x, w: int8[3,2] scale=1 zp=0)",
        "inputs": [{"tensor": "x", "where": "[0,0:2]", "values": [[2, 3]]}],
    }


ONE = Quantization.of(1.0)
DENSE = Program(
    (
        Tensor("x", (1, 2), "int8", ONE),
        Tensor("w", (3, 2), "int8", ONE, np.ones((3, 2), np.int8)),
        Tensor("y", (1, 3), "int8", ONE),
    ),
    (Operator("FULLY_CONNECTED", (0, 1), (2,), {}, 4),),
    (0,),
    (2,),
)


@pytest.mark.parametrize(
    ("allowed", "gap", "diverges"), [(0.0, 1, True), (1.0, 1, False), (1.0, 2, True), (ANYTHING, 9, False)]
)
def test_table_ops_may_be_one_step_off_and_what_follows_by_any(allowed: float, gap: int, diverges: bool) -> None:
    watch = Watch("training forward", "model as read", "xnnpack", DENSE, {"y": allowed})
    y = np.zeros((4, 3), np.int8)
    watch.add(2, y + np.int8(gap), {0: np.zeros((4, 2), np.int8), 2: y}, 0)
    link = watch.finish()
    assert (link.first is not None) == diverges
    loose = f"; at and after table ops 12, by at most {gap}"
    count = 12 if diverges else 0
    tail = ", in 1 tensor, the first y" if diverges else loose
    assert str(link) == f"training forward | model as read (xnnpack): {count} of 12 integers differ{tail}"


def test_what_a_file_has_otherwise() -> None:
    x, w, y = DENSE.tensors
    assert w.data is not None
    other = dataclasses.replace(w, data=w.data * np.array([[1, 1], [1, -1], [2, 1]], np.int8))
    scaled = dataclasses.replace(y, quantization=Quantization.of(0.5, 3))
    clipped = dataclasses.replace(DENSE.operators[0], options={"fused_activation_function": "RELU"})
    file = dataclasses.replace(DENSE, tensors=(x, other, scaled), operators=(clipped,))
    assert [str(change) for change in changes(DENSE, file)] == [
        "w: 2 of 6 values differ, the first [1,1]: 1 in the model, -1 in the file",
        "y: 1 of 1 scale differ, the first [0]: 1.0 in the model, 0.5 in the file",
        "y: 1 of 1 zero_point differ, the first [0]: 0 in the model, 3 in the file",
        "y: fused_activation_function None in the model, RELU in the file",
    ]
    assert changes(DENSE, DENSE) == ()
    renamed = dataclasses.replace(DENSE, tensors=(x, w, dataclasses.replace(y, name="z")))
    assert [str(c) for c in changes(DENSE, renamed)] == [
        "outputs: y in the model, z in the file",
        "y: is not in the file",
    ]


# --- the part of an input that an element reads -------------------------------------------------------------

READ_NETS = ("average_pools", "branches", "clips", "grouped", "heads", "means", "parts", "shuffles", "windows")


@pytest.mark.parametrize("name", READ_NETS)
def test_an_element_depends_on_no_more_than_its_block(name: str) -> None:
    """Random numbers in place of everything outside the block leave the element as it is."""
    _, _, artifact = exported(name)
    program, rng = artifact.program, np.random.default_rng(0)
    for op in program.operators:
        for _ in range(3):
            out = program.tensors[op.outputs[0]]
            index = tuple(int(rng.integers(size)) for size in out.shape)
            values = [[_operand(rng, program.tensors[i]) for i in op.inputs] for _ in range(2)]
            for position, i in enumerate(op.inputs):
                if program.tensors[i].data is None:
                    block = read_block(op, program.tensors, index, position)
                    values[1][position][block] = values[0][position][block]
            found = [KERNELS[op.kind](op, program.tensors, [jnp.asarray(v) for v in vs]) for vs in values]
            first, second = (int(np.asarray(f[0])[index]) for f in found)
            assert first == second, (op.kind, out.name, index)


def _operand(rng: np.random.Generator, tensor: Tensor) -> np.ndarray:
    return rng.integers(-128, 128, tensor.shape).astype(np.int8) if tensor.data is None else tensor.data


def test_the_blocks_of_every_kind_are_tested() -> None:
    kinds = {op.kind for name in READ_NETS for op in exported(name)[2].program.operators}
    # The others have the rule of a kind that is tested.
    unlike = {"DEQUANTIZE", "GELU", "LEAKY_RELU", "MUL", "PADV2", "PRELU", "QUANTIZE", "SELECT_V2", "SUB", "SUM"}
    assert {kind for kind, facts in OPERATORS.items() if facts.reads != "all"} - kinds <= unlike


# --- misuse -------------------------------------------------------------------------------------------------


MISUSE: dict[str, tuple[Callable[[Any, np.ndarray], Any], type[Exception], str]] = {
    "no examples": (
        lambda q, x: jaxq.analyze.diff(q, iter(()), progress=False),
        jaxq.errors.InputError,
        "There is no example to compare: the iterable is empty.",
    ),
    "no examples for integers": (
        lambda q, x: jaxq.export.diff(q, iter(()), progress=False),
        jaxq.errors.InputError,
        "There is no example to compare: the iterable is empty.",
    ),
    "NaN": (
        lambda q, x: jaxq.analyze.diff(q, x * np.nan, progress=False),
        jaxq.errors.InputError,
        "Input 0 of the examples to compare holds 768 of 768 values that are NaN or infinite. Clean the data.",
    ),
    "not calibrated": (
        lambda q, x: jaxq.analyze.diff(jaxq.quantize(q.model, "int8", x[:1]), x, progress=False),
        jaxq.errors.RangeError,
        "input has no range yet (scale nan). Call jaxq.calibrate first.",
    ),
    "not quantized": (
        lambda q, x: jaxq.analyze.diff(q.model, x, progress=False),
        jaxq.errors.InputError,
        "Perceptron is not quantized; take the result of jaxq.quantize(model, ...).",
    ),
    "no such file": (
        lambda q, x: jaxq.export.diff(q, x, file="/nowhere/a.tflite", progress=False),
        jaxq.errors.FormatError,
        "Cannot read '/nowhere/a.tflite': No such file or directory.",
    ),
}


@pytest.mark.parametrize("case", MISUSE)
def test_misuse(case: str) -> None:
    call, error, text = MISUSE[case]
    net, qmodel, _ = exported("perceptron")
    with pytest.raises(error) as raised:
        call(qmodel, net.args[0])
    assert str(raised.value) == text


def test_a_file_of_other_inputs_is_refused(tmp_path: pathlib.Path) -> None:
    path = exported("separable")[2].save(tmp_path / "other.tflite")
    net, qmodel, _ = exported("perceptron")
    with pytest.raises(jaxq.errors.InputError) as raised:
        jaxq.export.diff(qmodel, net.args[0], file=path, progress=False)
    assert str(raised.value).startswith("The file takes other inputs than the model: input: int8[1,16,16,3] scale=")
    assert str(raised.value).endswith("Compare a file that was exported from this model, with this recipe.")
