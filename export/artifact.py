"""The artifact: bytes, their program, their manifest, and the proof that they compute what was trained."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxq.calibration import fingerprint
from jaxq.errors import ExportError, MismatchError, PrecisionWarning, RangeError
from jaxq.export.device_proof import save_proof
from jaxq.export.files import refuse_place, write_whole
from jaxq.export.flatbuffer.attached import attach
from jaxq.export.flatbuffer.metadata import with_metadata
from jaxq.export.flatbuffer.read import read
from jaxq.export.flatbuffer.write import write
from jaxq.export.io_formulas import quantized, snippet
from jaxq.export.lowering.freeze import freeze
from jaxq.export.lowering.frozen import Frozen
from jaxq.export.lowering.lower import lower
from jaxq.export.lowering.scale_checks import CALIBRATE_AGAIN
from jaxq.export.manifest import manifest_of
from jaxq.export.metadata import Metadata, completed
from jaxq.export.program import Program
from jaxq.export.proof.certificate import FAMILIES, Certificate
from jaxq.export.proof.forward import Proof, training_forward
from jaxq.export.proof.quality import doubts, watched
from jaxq.export.run import outputs_of
from jaxq.export.runtimes import litert
from jaxq.frontends.batches import joined
from jaxq.frontends.core import Bound
from jaxq.plan.plan import Plan
from jaxq.quantization import bind, reference_leaves


@dataclasses.dataclass(frozen=True, eq=False)
class Artifact:
    """A finished TFLite file.

    Attributes:
      data: its bytes.
      program: the same, read.
      manifest: what `model.json` holds.
      certificate: what was proven, None where no proof ran.
      bound: the model that it was made of, with its state.
      proof: the training forward that `verify` compares the file with; None of a file without its model.
    """

    data: bytes
    program: Program
    manifest: Mapping[str, Any]
    certificate: Certificate | None
    bound: Bound = dataclasses.field(repr=False)
    proof: Proof | None = dataclasses.field(default=None, repr=False)

    def verify(
        self,
        batches: Any,
        *,
        families: Sequence[str] = FAMILIES,
        machine: str | None = None,
        runtime: str = "litert",
        progress: bool = True,
    ) -> Certificate:
        """Compare every integer on data: the training forward, our reading of each kernel family, and its runtime.

        Args:
          batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
          families: `xnnpack`, `reference`, `tflm` (needs the package tflite-micro). Each runtime runs here, and is
            compared with our reading for this machine.
          machine: whose `xnnpack` kernels the training forward is compared with, as we read them: "aarch64", "x86_64".
            By default the target's, "aarch64" for `litert`.
          runtime: whose interpreter runs `xnnpack` and `reference`: "litert" (ai-edge-litert), or "tf.lite", the one
            within TensorFlow (`pip install 'jaxq[tensorflow]'`).
          progress: show a progress bar.

        Returns:
          Certificate: how many integers were compared and how many differ, by family. `ok` is the verdict.

        Raises:
          ExportError: an operator that a family lacks, an artifact without its model, or a missing package.
          InputError: empty data, NaN, other shapes.

        Example:
          >>> artifact.verify(images, families=("reference",), progress=False).ok
          True
        """
        return self.proven.verify(batches, families, machine or self.proven.machine, progress, runtime)

    @property
    def proven(self) -> Proof:
        """The training forward that the file is compared with. Raises ExportError of a file without its model."""
        if self.proof is None:
            raise ExportError(
                "This artifact has bytes and a manifest, and no training forward to compare them with. Export the "
                "model with jaxq.export.to_tflite, and verify what that gives."
            )
        return self.proof

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """Run the file on LiteRT, as a phone would: inputs and outputs are real numbers, by the manifest's formulas.

        Args:
          args: the model's arguments, by position or by keyword; or all arrays by position in the order of the manifest
            (keyword arguments come last, in the order of their names). Of any number of examples, if the file's batch
            is 1; else of a multiple of it.
          kwargs: the model's arguments by keyword.

        Returns:
          The model's result for these examples, in the model's structure and shapes (a dict, a tuple), float32 arrays;
          None in the place of what is no output of the file; of a model that returns one array a list of one.

        Raises:
          InputError: NaN, another number of inputs, or more than one example where the examples' axis of an output is
            not known.

        Example:
          >>> (logits,) = artifact.run(images)
          >>> logits.shape
          (8, 3)
        """
        outputs = outputs_of(self.data, self.manifest, self.bound, args, kwargs)
        result = self.bound.captured().result_of(outputs)
        return [result] if isinstance(result, np.ndarray | np.generic) else result

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

        Returns:
          The folder; its README.md says how to run each.

        Raises:
          ExportError: a file with float operators, or a folder that exists.
          InputError: no examples, more than 64, NaN.
          MismatchError: the file with uint8 ends, for browsers, computes other integers.
        """
        arrays = joined(self.proven.bound, examples, "prove on")
        inputs = [quantized(a, entry) for a, entry in zip(arrays, self.manifest["inputs"], strict=True)]
        return save_proof(self.data, inputs, path, manifest=self.manifest, runtime=runtime, force=force)

    def report(
        self,
        path: str | os.PathLike[str],
        examples: Any = None,
        *,
        run: str | os.PathLike[str] | None = None,
        force: bool = False,
        progress: bool = True,
    ) -> pathlib.Path:
        """Write one HTML page on the file: verdict, remedies, the network in colours, the numbers of every tensor.

        Args:
          path: of the page, FILE.html. It opens offline.
          examples: as `verify` takes them; the first 64 are used. They add, for every tensor, a histogram and the error
            against the float model. Without them the page has neither.
          run: a folder that `jaxq train` left, with its accuracies and curves.
          force: replace a page that exists.
          progress: show a progress bar.

        Returns:
          The path.

        Raises:
          ExportError: it cannot be written, or `jaxq[report]` is missing.
          InputError: examples of other shapes, NaN.
        """
        from jaxq.report.exported import write_report

        return write_report(self, path, examples, run=run, force=force, progress=progress)

    def python(self) -> str:
        """A Python program that runs the file with numpy and ai-edge-litert alone, by the manifest's formulas.

        Returns:
          The program's text.

        Example:
          >>> "import numpy as np" in artifact.python()
          True
        """
        return snippet(self.manifest["inputs"], self.manifest["outputs"])

    def save(self, path: str | os.PathLike[str], *, force: bool = False) -> pathlib.Path:
        """Write the file and, beside it, its manifest (`model.json`): whole, the manifest first.

        A process that is killed meanwhile leaves no new model, or the old one beside a manifest that `jaxq verify`
        finds to be another file's. Of two that write at the same time without `force` one succeeds.

        Args:
          path: of the file, NAME.tflite.
          force: replace files that exist.

        Returns:
          The path.

        Raises:
          ExportError: one of the paths exists and `force` is not given, or cannot be written.
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
    reference: Any = None,
    progress: bool = True,
) -> Artifact:
    """Export a quantized model as a TFLite file whose integers are those of the training forward.

    Args:
      target: what `jaxq.quantize` gave. The file's static shapes are those of its example.
      state: nothing for NNX, `variables` for Linen, `params, ranges` for a function.
      verify: examples to prove it on; see `Artifact.verify`. Do not leave it out of a release.
      allow_mismatch: give the artifact also when an integer differs; its certificate says so.
      metadata: what the file says of itself: labels, normalization. Its host-side formulas go into the manifest.
      reference: the float parameters that outputs are compared with, by default those at hand. After a pass of
        `jaxq.ptq` or training these are no float model any more: give `report.reference`, or a copy from before.
      progress: show a progress bar.

    Returns:
      Artifact: the file's bytes, its manifest and, with `verify`, its certificate. `save` writes them.

    Raises:
      RangeError: ranges are not calibrated, not finite, or of another plan.
      ExportError: TFLite cannot express an op, its ranges or its weights.
      TargetError: the target has no kernel for an op.
      MismatchError: an integer differs, and `allow_mismatch` is not given.
      InputError: the reference is of another model.

    Warns:
      PrecisionWarning: outputs of `verify` are far from the float model's (`jaxq.export.proof.quality`).

    Example:
      >>> artifact = jaxq.export.to_tflite(qmodel, verify=images, progress=False)
      >>> artifact.certificate.ok
      True
    """
    bound = bind(target, *state)
    captured = bound.captured()
    params = jax.tree.leaves(bound.params)
    frozen = _frozen(dataclasses.replace(captured.plan, findings=bound.core.findings), params, bound)
    program, tensor_of = lower(frozen)
    metadata = None if metadata is None else completed(metadata, program)
    data = _bytes(program, metadata)
    litert.load_check(data)
    forward = training_forward(bound, captured.plan, frozen)
    proof = Proof(data, read(data), forward, frozen, bound, tensor_of)
    watching, quality = watched(forward, frozen, reference_leaves(target, bound, reference))
    found = None
    if verify is not None:
        found = dataclasses.replace(proof, forward=watching).verify(verify, FAMILIES, proof.machine, progress)
    manifest = manifest_of(frozen, program, data, found, metadata, found and quality)
    artifact = Artifact(data, proof.program, manifest, found, bound, proof)
    if found is not None and not found.ok and not allow_mismatch:
        raise MismatchError(
            f"The artifact does not compute what was trained.\n{found}\nPlease report it with this "
            f"graph:\n{captured.plan.graph}"
        )
    untrained = bound.core.calibrated == fingerprint(bound.params)
    for text in doubts(quality, frozen.plan, untrained):
        warnings.warn(text, PrecisionWarning, stacklevel=2)
    return artifact


def _frozen(plan: Plan, params: Sequence[Any], bound: Bound) -> Frozen:
    """The integers. Where a scale cannot be written and calibration found why, the error says so."""
    try:
        return freeze(plan, params, bound.ranges, bound.core.plans)
    except (ExportError, RangeError) as error:
        if not plan.findings or CALIBRATE_AGAIN not in str(error):
            raise
        cause = f"Calibration found the cause: {plan.findings[0]}. {plan.findings[0].remedy}"
        raise type(error)(str(error).replace(CALIBRATE_AGAIN, cause)) from error


def _bytes(program: Program, metadata: Metadata | None) -> bytes:
    if metadata is None:
        return write(program)
    program, files = with_metadata(program, metadata)
    return attach(write(program), files)
