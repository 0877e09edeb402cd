"""The artifact: bytes, their program, their manifest, and the proof that they compute what was trained."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxq import __version__
from jaxq.calibrate import fingerprint
from jaxq.display.progress import bar
from jaxq.errors import ExportError, InputError, MismatchError, PrecisionWarning, RangeError
from jaxq.export.device_proof import save_proof
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.evaluate.program import joined
from jaxq.export.files import refuse_place, write_whole
from jaxq.export.flatbuffer.attached import attach
from jaxq.export.flatbuffer.metadata import with_metadata
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.io_formulas import dequantized, described, formula, quantized, snippet
from jaxq.export.lowering.freeze import CALIBRATE_AGAIN, Frozen, freeze
from jaxq.export.lowering.lower import lower
from jaxq.export.metadata import Metadata, completed
from jaxq.export.program import Program
from jaxq.export.proof.bounds import accumulator_bounds
from jaxq.export.proof.certificate import (
    FAMILIES,
    FLOAT_TOLERANCE,
    Certificate,
    Reader,
    Tally,
    certificate,
    compare_families,
    loose_sites,
    new_tallies,
    one_by_one,
    readers,
    tolerance_of,
)
from jaxq.export.proof.machines import differ
from jaxq.export.proof.quality import Quality, doubts, watched
from jaxq.export.runtimes import litert
from jaxq.frontends.batches import chunks, refuse_non_finite
from jaxq.frontends.core import Bound
from jaxq.ops.integer_ops import Carrier
from jaxq.plan.plan import Plan
from jaxq.plan.target import target_named
from jaxq.quantize import bind
from jaxq.simulate.forward import simulate


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A finished TFLite file.

    `data`: its bytes. `manifest`: what `model.json` holds. `certificate`: the proof, if one ran.
    """

    data: bytes
    program: Program
    manifest: Mapping[str, Any]
    certificate: Certificate | None
    forward: Callable[..., tuple[dict[str, np.ndarray], list[np.ndarray]]] = dataclasses.field(repr=False)
    frozen: Frozen = dataclasses.field(repr=False)
    bound: Bound = dataclasses.field(repr=False)
    tensor_of: Mapping[int, int] = dataclasses.field(repr=False)
    result_of: Callable[[Sequence[Any]], Any] = dataclasses.field(repr=False)  # the model's structure of the outputs

    @property
    def machine(self) -> str:
        """The machine whose kernels the training forward follows: the recipe's target's."""
        return target_named(self.frozen.plan.recipe.target).machine

    def verify(
        self, batches: Any, *, families: Sequence[str] = FAMILIES, machine: str | None = None, progress: bool = True
    ) -> Certificate:
        """Compare every integer on data: the training forward, our reading of each kernel family, and its runtime.

        Args:
          batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
          families: `xnnpack`, `reference`, `tflm` (needs the package tflite-micro). Each runtime runs here, and is
            compared with our reading for this machine.
          machine: whose `xnnpack` kernels the training forward is compared with, as we read them: "aarch64", "x86_64".
            By default the target's, "aarch64" for `litert`.

        Raises: ExportError for an operator that a family lacks.
        """
        machine = machine or self.machine
        if one_by_one(self.program):
            return self._verify_each(batches, families, machine)
        if self.frozen.plan.recipe.floats:
            return self._verify_floats(batches, families)
        ours = readers(self.program, {"xnnpack": None, **dict.fromkeys(families)})
        trained = self._reader(machine) or ours["xnnpack"]
        tallies, simulated, examples = new_tallies(families), Tally(), 0
        with bar(progress) as shown:
            task = shown.add_task("verifying", total=None)
            for chunk in chunks(self.bound, batches, "verify on"):
                integers, file_inputs = self.forward(chunk)
                found = trained(*file_inputs)
                for name, index in self.recorded():
                    simulated.add(name, integers[name], np.asarray(found[index]))
                compare_families(self.data, self.program, file_inputs, ours, tallies)
                examples += len(file_inputs[0])
                shown.update(task, description=f"verifying: {examples} examples")
        if not examples:
            raise InputError("There is no example to verify on: the iterable is empty.")
        return certificate(examples, tallies, simulated, self.frozen.plan.graph, self.program, machine)

    def _verify_floats(self, batches: Any, families: Sequence[str]) -> Certificate:
        """The training forward against LiteRT, within `FLOAT_TOLERANCE` of each tensor's largest number."""
        tallies, examples = new_tallies(families), 0
        for chunk in chunks(self.bound, batches, "verify on"):
            found, file_inputs = self.forward(chunk)
            for family, tally in tallies.items():
                theirs = litert.run(self.data, file_inputs, family, every_tensor=True)
                assert isinstance(theirs, dict)
                for name, index in self.recorded():
                    if name in found:
                        tally.add(name, found[name], theirs[index], FLOAT_TOLERANCE)
            examples += len(file_inputs[0])
        if not examples:
            raise InputError("There is no example to verify on: the iterable is empty.")
        return certificate(examples, tallies, None, None, self.program)

    def _reader(self, machine: str) -> Reader | None:
        """Our `xnnpack` reading for a machine, None where this one's is the same."""
        apart = differ(self.program, machine, this_machine())
        return readers(self.program, ["xnnpack"], machine)["xnnpack"] if apart else None

    def _verify_each(self, batches: Any, families: Sequence[str], machine: str) -> Certificate:
        """Our reading of each family against its runtime, and the training forward against XNNPACK: every op on the
        runtime's own numbers, within its tolerance.
        """
        ours, tallies, simulated, examples = readers(self.program, families), new_tallies(families), Tally(), 0
        makers, trained = {index: op for op in self.program.operators for index in op.outputs}, self._reader(machine)
        for chunk in chunks(self.bound, batches, "verify on"):
            theirs = litert.run(self.data, self.forward(chunk)[1], "xnnpack", every_tensor=True)
            assert isinstance(theirs, dict)
            found, file_inputs = self.forward(chunk, {name: theirs[index] for name, index in self.recorded()})
            wanted = theirs if trained is None else trained(theirs)
            for name, index in self.recorded():
                if name in found and index in makers:
                    tolerance = tolerance_of(makers[index], self.program)
                    simulated.add(name, found[name], np.asarray(wanted[index]), tolerance)
            compare_families(self.data, self.program, file_inputs, ours, tallies)
            examples += len(file_inputs[0])
        if not examples:
            raise InputError("There is no example to verify on: the iterable is empty.")
        loose = loose_sites(self.frozen.plan)
        proof = certificate(examples, tallies, simulated, None, self.program, machine)
        return dataclasses.replace(proof, exact_sites=frozenset(simulated.differing) - loose, table_sites=loose)

    def run(self, *inputs: Any) -> Any:
        """Run the file on LiteRT, as a phone would: inputs and outputs are real numbers, by the manifest's formulas.

        Args:
          inputs: the arrays of the model's arguments, in the order of the manifest; of any number of examples.

        Returns: the model's result in the model's structure (a dict, a tuple), None in the place of what is no output
        of the file; of a model that returns one array a list of one.
        Raises: InputError for NaN, and for another number of inputs.
        """
        formulas = self.manifest["inputs"]
        if len(inputs) != len(formulas):
            raise InputError(f"The file has {len(formulas)} inputs; {len(inputs)} were given.")
        for entry, array in zip(formulas, inputs, strict=True):
            refuse_non_finite(entry["name"], np.asarray(array))
        integers = [quantized(np.asarray(a), entry) for entry, a in zip(formulas, inputs, strict=True)]
        outputs = litert.run(self.data, integers, "xnnpack")
        assert isinstance(outputs, tuple)
        found = [dequantized(q, entry) for entry, q in zip(self.manifest["outputs"], outputs, strict=True)]
        result = self.result_of(found)
        return [result] if isinstance(result, np.ndarray) else result

    def save_proof(
        self,
        path: str | os.PathLike[str],
        examples: Any,
        *,
        runtime: str | os.PathLike[str] | None = None,
        force: bool = False,
    ) -> pathlib.Path:
        """Write a folder that proves the file on a device without jaxq: by Python, in a browser, on TFLite Micro.

        Args:
          path: the folder, made here.
          examples: 1 to 64, as `verify` takes them.
          runtime: a node_modules folder with @litertjs/core and @litertjs/wasm-utils, to pack LiteRT's web runtime.
          force: replace a folder that exists.

        Returns: the folder; its README.md says how to run each.
        Raises: ExportError for a file with float operators, InputError, MismatchError.
        """
        batches = list(chunks(self.bound, examples, "prove on"))
        arrays = [np.concatenate(parts) for parts in zip(*batches, strict=True)]
        inputs = [quantized(a, entry) for a, entry in zip(arrays, self.manifest["inputs"], strict=True)]
        return save_proof(self.data, inputs, path, manifest=self.manifest, runtime=runtime, force=force)

    def python(self) -> str:
        """A Python program that runs the file with numpy and ai-edge-litert alone, by the manifest's formulas."""
        return snippet(self.manifest["inputs"], self.manifest["outputs"])

    def recorded(self) -> list[tuple[str, int]]:
        """The sites that the program holds under their own name, and their tensors."""
        names, plan = self.frozen.plan.graph.site_names, self.frozen.plan
        integers = {v: i for v, i in self.tensor_of.items() if plan.recipe.floats or plan.group(v) is not None}
        return [(names[v], i) for v, i in integers.items() if self.program.tensors[i].name == names[v]]

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> pathlib.Path:
        """Write the file and, beside it, its manifest (`model.json`): whole, the manifest first.

        A process that is killed meanwhile leaves no new model, or the old one beside a manifest that `jaxq verify`
        finds to be another file's. Of two that write at the same time without `force` one succeeds. Raises ExportError
        if one of the paths exists and `force` is not given, or cannot be written.
        """
        target = pathlib.Path(path)
        if target.suffix != ".tflite":
            raise ExportError(f"{target} does not end in .tflite; its manifest takes the same name with .json.")
        for file in (target, target.with_suffix(".json")):
            refuse_place(file, force)
        text = json.dumps(self.manifest, indent=2) + "\n"
        write_whole({target.with_suffix(".json"): text.encode(), target: self.data}, force=force)
        return target


def to_tflite(
    target: Any,
    *state: Any,
    verify: Any = None,
    allow_mismatch: bool = False,
    metadata: Metadata | None = None,
    progress: bool = True,
) -> Artifact:
    """Export a quantized model as a TFLite file whose integers are those of the training forward.

    Args:
      target: what `jaxq.quantize` gave. The file's static shapes are those of its example.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      verify: examples to prove it on; see `Artifact.verify`. Do not leave it out of a release.
      allow_mismatch: give the artifact also when an integer differs; its certificate says so.
      metadata: what the file says of itself: labels, normalization. Its host-side formulas go into the manifest.

    Raises: RangeError, ExportError, TargetError before anything is written; MismatchError when one integer differs.
    Warns: PrecisionWarning where outputs of `verify` are far from the float model's (`jaxq.export.proof.quality`).
    """
    bound = bind(target, *state)
    captured = bound.captured()
    params = jax.tree.leaves(bound.params)
    frozen = _frozen(dataclasses.replace(captured.plan, findings=bound.core.findings), params, bound.ranges)
    program, tensor_of = lower(frozen)
    metadata = None if metadata is None else completed(metadata, program)
    data = _bytes(program, metadata)
    litert.load_check(data)
    artifact = Artifact(
        data, read(data), {}, None, _forward(bound, captured.plan, frozen), frozen, bound, tensor_of, captured.result_of
    )
    forward, quality = watched(artifact.forward, frozen, params)
    watching = dataclasses.replace(artifact, forward=forward)
    proof = None if verify is None else watching.verify(verify, progress=progress)
    manifest = _manifest(frozen, program, data, proof, metadata) | _precision(frozen.plan, proof and quality)
    artifact = dataclasses.replace(artifact, certificate=proof, manifest=manifest)
    if proof is not None and not proof.ok and not allow_mismatch:
        raise MismatchError(
            f"The artifact does not compute what was trained.\n{proof}\nPlease report it with this "
            f"graph:\n{captured.plan.graph}"
        )
    untrained = bound.core.calibrated == fingerprint(bound.params)
    for text in doubts(quality, frozen.plan, untrained):
        warnings.warn(text, PrecisionWarning, stacklevel=2)
    return artifact


def _frozen(plan: Plan, params: Sequence[Any], ranges: Any) -> Frozen:
    """The integers. Where a scale cannot be written and calibration found why, the error says so."""
    try:
        return freeze(plan, params, ranges)
    except (ExportError, RangeError) as error:
        if not plan.findings or CALIBRATE_AGAIN not in str(error):
            raise
        cause = f"Calibration found the cause: {plan.findings[0]}. {plan.findings[0].remedy}"
        raise type(error)(str(error).replace(CALIBRATE_AGAIN, cause)) from error


def _precision(plan: Plan, quality: Quality | None) -> dict[str, Any]:
    """What the manifest says of the file's worth: findings of calibration, and the outputs beside the float model's."""
    measured = None if quality is None else quality.as_dict()
    return {"precision": {"findings": [f.as_dict() for f in plan.findings], "outputs": measured}}


def _bytes(program: Program, metadata: Metadata | None) -> bytes:
    if metadata is None:
        return write(program)
    program, files = with_metadata(program, metadata)
    return attach(write(program), files)


Forward = Callable[..., tuple[dict[str, np.ndarray], list[np.ndarray]]]


def _forward(bound: Bound, plan: Plan, frozen: Frozen) -> Forward:
    """The training forward of a batch, as stored integers by site, and the file's inputs in the file's type. `others`:
    of a recipe of floats, numbers by site that take the place of those computed, in what reads them.

    It runs the file's own graph on one example after the other: where an axis of the batch moves (a BATCH_MATMUL of all
    heads of all examples), the graph of a batch holds the same integers in another order.
    """
    params, ranges = jax.tree.leaves(bound.params), {n: dict(r) for n, r in bound.ranges.items()}
    shapes = [plan.graph.avals[v].shape for v in plan.graph.inputs]
    names = [plan.graph.site_names[v] for v in plan.graph.inputs]
    groups = [plan.group(v) for v in plan.graph.inputs]
    types = ["" if g is None else f"int{g.scheme.bits}" for g in groups]
    axes = [0 if shape[:1] == (1,) else None for shape in shapes]

    def recorded(params: Any, ranges: Any, inputs: Any, given: Any) -> dict[str, jax.Array]:
        seen: dict[str, jax.Array] = {}

        def record(value: int, carrier: Carrier) -> None:
            seen[plan.graph.site_names[value]] = carrier.q + carrier.zero_point

        simulate(plan, params, ranges, inputs, record, given)
        return seen

    one = jax.jit(recorded)
    many = jax.jit(jax.vmap(recorded, in_axes=(None, None, axes, 0)))
    sites = {name: value for value, name in plan.graph.site_names.items() if value not in plan.graph.inputs}

    def forward(
        arrays: Sequence[Any], others: Mapping[str, np.ndarray] | None = None
    ) -> tuple[dict[str, np.ndarray], list[np.ndarray]]:
        given = {sites[name]: a for name, a in (others or {}).items() if name in sites}
        if [a.shape for a in arrays] == shapes:
            found = one(params, ranges, list(arrays), given)
        else:
            examples = [a if axis is None else a[:, None] for a, axis in zip(arrays, axes, strict=True)]
            given = {v: a.reshape(-1, *plan.graph.avals[v].shape) for v, a in given.items()}
            found = {name: joined(q) for name, q in many(params, ranges, examples, given).items()}
        found = {name: np.asarray(q) for name, q in found.items()}
        return found, [
            _file_input(frozen, found.get(n), a, own) for n, a, own in zip(names, arrays, types, strict=True)
        ]

    return forward


def _file_input(frozen: Frozen, integers: np.ndarray | None, array: Any, own: str) -> np.ndarray:
    dtype = frozen.plan.recipe.input
    if integers is None or frozen.plan.recipe.floats:
        return np.asarray(array, np.float32) if jnp.issubdtype(np.asarray(array).dtype, jnp.floating) else array
    if dtype == "float32":
        return np.asarray(array, np.float32)
    return (integers + (128 if dtype == "uint8" else 0)).astype(dtype if dtype == "uint8" else own)


def _manifest(
    frozen: Frozen, program: Program, data: bytes, proof: Certificate | None, metadata: Metadata | None
) -> dict[str, Any]:
    recipe, graph = frozen.plan.recipe, frozen.plan.graph
    inputs, outputs = ([formula(name, program.tensors[i]) for name, i in zip(*end, strict=True)]
                       for end in zip(graph.ends, (program.inputs, program.outputs), strict=True))  # fmt: skip
    if metadata is not None:
        inputs, outputs = described(inputs, metadata.inputs), described(outputs, metadata.outputs)
    return {
        "format": 1,
        "jaxq": __version__,
        "sha256": hashlib.sha256(data).hexdigest(),
        "bytes": len(data),
        "recipe": recipe.name,
        "target": recipe.target,
        "plan": frozen.plan.fingerprint,
        "inputs": inputs,
        "outputs": outputs,
        "ranges": {name: {"scale": float(s), "zero_point": z} for name, (s, z) in frozen.parameters.items()},
        "accumulators": accumulator_bounds(frozen),
        "certificate": None if proof is None else proof.as_dict(),
    }
