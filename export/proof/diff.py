"""From the training forward to the runtime, link by link: which integer differs first, and what reproduces it.

    training forward | model as read | the file as read | LiteRT

*As read* is jaxq's integer reading of a program: the model's own, and where one is given the file's. Each neighbours
are compared tensor by tensor. All must be equal but table ops in training, which may be one step off.
"""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxq.analyze.diff import refuse_floats
from jaxq.display.progress import bar
from jaxq.errors import InputError
from jaxq.export.artifact import to_tflite
from jaxq.export.evaluate.kernels.machine import this_machine
from jaxq.export.evaluate.load import evaluated_program
from jaxq.export.program import Program, describe
from jaxq.export.proof.certificate import FAMILIES, exact_sites, table_sites
from jaxq.export.proof.contents import Change, changes
from jaxq.export.proof.divergence import ANYTHING, Divergence, Link, Values, Watch
from jaxq.export.proof.families import Reader, refuse_aborting, whole_readers
from jaxq.export.proof.forward import Proof
from jaxq.export.proof.machines import differ
from jaxq.export.runtimes import litert
from jaxq.frontends.batches import file_chunks
from jaxq.quantization import bind

TRAINING, MODEL = "training forward", "model as read"


@dataclasses.dataclass(frozen=True, eq=False)
class Comparison:
    """What was compared and what differs; prints as a table.

    Attributes:
      examples: how many examples were compared.
      runtime: the name and version of the runtime that ran the file.
      links: neighbouring readings, in order.
      changes: a file against the model.
    """

    examples: int
    runtime: str
    links: tuple[Link, ...]
    changes: tuple[Change, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether nothing differs that must agree."""
        return not self.changes and not any(link.diverging for link in self.links)

    @property
    def first(self) -> Divergence | None:
        """The first divergence of the first link that has one."""
        return next((link.first for link in self.links if link.first is not None), None)

    def as_dict(self) -> dict[str, Any]:
        """JSON values."""
        return {
            "ok": self.ok,
            "examples": self.examples,
            "runtime": self.runtime,
            "links": [link.as_dict() for link in self.links],
            "changes": [dataclasses.asdict(change) for change in self.changes],
        }

    def to_json(self) -> str:
        """One JSON document."""
        return json.dumps(self.as_dict(), indent=2)

    def __str__(self) -> str:
        """A line a link, then what changed in the file, then the first divergence."""
        lines = [f"integers, {self.examples} examples, {self.runtime}", *(f"  {link}" for link in self.links)]
        if self.changes:
            lines += ["what the file has otherwise than the model", *(f"  {change}" for change in self.changes)]
        broken = next((link for link in self.links if link.first is not None), None)
        if broken is not None:
            lines += [f"first divergence, {broken.name}", *(f"  {line}" for line in str(broken.first).splitlines())]
        return "\n".join(lines)


def diff(
    target: Any, batches: Any, *state: Any, file: str | os.PathLike[str] | None = None, progress: bool = True
) -> Comparison:
    """Compare the integers of the training forward, of the model's file as jaxq reads it, and of LiteRT running it.

    Args:
      target, state: as in `to_tflite`.
      batches: an array of examples, a tuple or dict of arrays (several inputs), or an iterable of these.
      file: a .tflite file that should be this model's. It then takes the place of the model's own file.
      progress: show a progress bar.

    Returns:
      Comparison: the links between neighbouring readings, each with its first divergence. `ok` is the verdict.

    Raises:
      FormatError: `file` is no TFLite file.
      InputError: `file` has other inputs, or the recipe is one of floats.
      JaxqError: what `to_tflite` raises.
    """
    refuse_floats(bind(target, *state))
    proof = to_tflite(target, *state, progress=False).proof
    assert proof is not None
    chain = _Chain(proof, None if file is None else pathlib.Path(file))
    examples = 0
    with bar(progress) as shown:
        task = shown.add_task("comparing integers", total=None)
        for arrays in file_chunks(proof.bound, batches, "compare"):
            chain.add(arrays, examples)
            examples += proof.bound.core.examples(arrays)
            shown.update(task, description=f"comparing integers: {examples} examples")
    if not examples:
        raise InputError("There is no example to compare: the iterable is empty.")
    links = tuple(watch.finish() for watch in chain.watches)
    return Comparison(examples, litert.runtime_version(), links, chain.changes)


class _Chain:
    """The readings of one model, and the links between them."""

    def __init__(self, proof: Proof, path: pathlib.Path | None) -> None:
        self.proof, self.model = proof, proof.program
        self.file = self.model if path is None else evaluated_program(path)
        self.data = proof.data if path is None else path.read_bytes()
        self.changes = () if path is None else changes(self.model, self.file)
        _check_inputs(self.model, self.file)
        read = MODEL if path is None else f"{path.name} as read"
        on = "LiteRT" if path is None else f"{path.name} on LiteRT"
        self.training = Watch(TRAINING, MODEL, "xnnpack", self.model, _allowed(proof))
        self.copies = {} if path is None else {f: Watch(MODEL, read, f, self.file) for f in FAMILIES}
        self.runs = {family: Watch(read, on, family, self.file) for family in FAMILIES}
        self.readers = whole_readers(self.model, steps=proof.steps)
        apart = differ(self.model, proof.machine, this_machine())
        self.trained = whole_readers(self.model, ["xnnpack"], proof.machine, proof.steps)["xnnpack"] if apart else None
        self.file_readers = self.readers if path is None else whole_readers(self.file)

    @property
    def watches(self) -> list[Watch]:
        return [self.training, *self.copies.values(), *self.runs.values()]

    def add(self, arrays: Sequence[np.ndarray], start: int) -> None:
        """Compare a batch whose first example has the number `start`."""
        integers, inputs = self.proof.forward(arrays)
        ours = {family: _read(reader, self.model, inputs) for family, reader in self.readers.items()}
        trained = ours["xnnpack"] if self.trained is None else _read(self.trained, self.model, inputs)
        for name, index in self.proof.recorded():
            self.training.add(index, integers[name], trained, start)
        for family, run in self.runs.items():
            theirs = _read(self.file_readers[family], self.file, inputs) if self.copies else ours[family]
            if self.copies:
                self._add_copy(self.copies[family], ours[family], theirs, start)
            self._add_run(run, theirs, inputs, start)

    def _add_copy(self, watch: Watch, ours: Values, theirs: Values, start: int) -> None:
        """The model's tensors that the file has under the same name and shape, and the outputs by position."""
        known = {tensor.name: i for i, tensor in enumerate(self.file.tensors) if i in theirs}
        for index in _computed(self.model):
            tensor = self.model.tensors[index]
            there = known.get(tensor.name)
            if there is not None and self.file.tensors[there].shape == tensor.shape:
                watch.add(there, ours[index], theirs, start)
        for index, there in zip(self.model.outputs, self.file.outputs, strict=False):
            if self.file.tensors[there].shape == self.model.tensors[index].shape and there in theirs:
                watch.add(there, ours[index], theirs, start, " (output)")

    def _add_run(self, watch: Watch, theirs: Values, inputs: Sequence[np.ndarray], start: int) -> None:
        """Every tensor as LiteRT computes it, of a copy of the file that shows them; the outputs of the very file."""
        shown = litert.run(self.data, inputs, watch.family, every_tensor=True)
        for index in _computed(self.file):
            watch.add(index, theirs[index], shown, start)
        outputs = litert.run(self.data, inputs, watch.family)
        for index, output in zip(self.file.outputs, outputs, strict=True):
            watch.add(index, theirs[index], {**shown, index: output}, start, " (output)")


def _read(reader: Reader, program: Program, inputs: Sequence[np.ndarray]) -> dict[int, np.ndarray]:
    found = reader(*inputs)
    refuse_aborting(program, found)
    return {index: np.asarray(value) for index, value in found.items()}


def _computed(program: Program) -> list[int]:
    return [index for op in program.operators for index in op.outputs if index >= 0]


def _allowed(proof: Proof) -> Mapping[str, float]:
    """By how much the training forward may be off: not at all, one step at a table op, anything behind one."""
    graph = proof.frozen.plan.graph
    exact, tables = exact_sites(graph), table_sites(graph)
    if proof.frozen.plan.islands:  # a last bit of a float may be a step of the integers behind it
        exact, tables = frozenset(), frozenset()
    return {n: 0.0 if n in exact else 1.0 if n in tables else ANYTHING for n in graph.site_names.values()}


def _check_inputs(model: Program, file: Program) -> None:
    """Raise InputError for a file that does not take the model's inputs."""
    ours, theirs = ([p.tensors[i] for i in p.inputs] for p in (model, file))
    if [(t.shape, t.dtype) for t in ours] != [(t.shape, t.dtype) for t in theirs]:
        a, b = (", ".join(f"{t.name}: {describe(t)}" for t in tensors) for tensors in (ours, theirs))
        raise InputError(
            f"The file takes other inputs than the model: {b}, not {a}. Compare a file that was exported from this "
            "model, with this recipe."
        )
