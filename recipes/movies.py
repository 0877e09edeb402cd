"""A sentence encoder on movie sentences: float, then on integers, to int8 files; what the movie recipes share.

Float fine-tuning, and as many steps more as the integers will have; then for each policy (which tensors are not int8)
calibration, fine-tuning on the integers with the float model's outputs (Hinton et al. 2015, Kim et al. 2021), the same
with the data alone (Jacob et al. 2018, Zafrir et al. 2019), and the files, one for each length of sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq import Recipe
from jaxq.export.artifact import Artifact
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.recipes import checkpoint, identity, pages, processes, stepping, weights
from jaxq.recipes.bert import SentenceEncoder, SentenceModel, bounded, example
from jaxq.recipes.bert_policies import POLICIES
from jaxq.recipes.input_pipeline import Batches
from jaxq.recipes.movie_data import SMOKE as SMOKE
from jaxq.recipes.movie_data import Config as Config
from jaxq.recipes.movie_data import batches_from as batches_from
from jaxq.recipes.movie_data import data as data
from jaxq.recipes.movie_data import of_own_texts as of_own_texts
from jaxq.recipes.movie_data import of_policy as of_policy
from jaxq.recipes.movie_data import resized as resized
from jaxq.recipes.movie_tasks import Data, Task
from jaxq.recipes.notes import Notes
from jaxq.recipes.sentences import Sentences, tokenizer_json, vocabulary

Network = SentenceModel | SentenceEncoder


@dataclasses.dataclass(frozen=True)
class Run:
    """One run: what is learned, the choices, folder, sentences and devices, and what has been found so far."""

    task: Task
    config: Config
    out: pathlib.Path
    seed: int
    train: Data
    test: Data
    mesh: Mesh
    notes: Notes

    def score(self, model: Any) -> float:
        """How good a model is on the test sentences."""
        return self.task.score(outputs_of(self, model, self.test), self.test)


def ladder(
    task: Task,
    config: Config,
    out: pathlib.Path,
    *,
    seed: int = 0,
    resume: bool = False,
    force: bool = False,
    own: tuple[Sentences, Sentences] | None = None,
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Fine-tune, quantize, export and verify; leaves .tflite files for each policy and summary.json in `out`.

    Args:
      task: what is learned.
      config: the choices.
      out: a folder.
      seed: of weights and batches.
      resume: go on from the checkpoints in `out`.
      force: replace an earlier run.
      own: sentences to train and to test with in the place of the movie sentences.
      notes: what else to write into summary.json.

    Returns: the summary.
    """
    checkpoint.make_room(out, resume, force)
    train, test = data(task, config, own)
    out.mkdir(parents=True, exist_ok=True)
    kept = dataclasses.replace(config, policies=())  # each policy has checkpoints of its own
    found, devices = identity.fingerprint((train, test)), stepping.mesh_of().size
    identity.claim(out, resume, recipe=task.measure, seed=seed, config=kept, data=found, devices=devices)
    run = Run(task, config, out, seed, train, test, stepping.mesh_of(), Notes(out / "summary.json", resume=resume))
    run.notes.add(seed=seed, measure=task.measure, **(notes or {}))
    model = fine_tuned(run)
    train, test = (of._replace(teacher=outputs_of(run, model, of)) for of in (train, test))
    run.notes.add(float=task.score(test.teacher, test))
    run = dataclasses.replace(run, train=train, test=test)
    if config.float_steps:
        run.notes.once("float, longer", lambda: run.score(_longer(run, model)))
    for policy in config.policies:
        _quantized(run, policy, model)
    if processes.writes():
        _report(Console(), task.title, run.notes.found)
    return run.notes.found | {"report": run.notes.report}


def fine_tuned(run: Run) -> Network:
    """The float model; a run that resumes goes on from its checkpoint, which may be the last."""
    model = network(run.task, run.config, run.seed)
    if run.config.float_steps:
        _fit(run, "float", model, run.config.float_rate, run.config.float_steps, 0.0)
    return model


def _longer(run: Run, model: Network) -> Network:
    """The float model after the steps that a quantized one has more, on the same batches."""
    longer = nnx.clone(model)
    _fit(run, "float-longer", longer, run.config.qat_rate, run.config.qat_steps, 0.0)
    return longer


def _quantized(run: Run, policy: str, model: Network) -> None:
    """One policy: calibrated, and fine-tuned in each way; the files of the last one, one of them on LiteRT."""
    config = run.config
    qmodel = calibrated(config, policy, model, run.train)
    start = nnx.to_pure_dict(nnx.state(qmodel))
    shares = {"qat": 0.0, "qat+distillation": config.share}
    for stage in config.stages:
        nnx.update(qmodel, start)  # one module for all of them, compiled once
        if stage in shares:
            _fit(run, f"{policy}-{stage}", qmodel, config.qat_rate, config.qat_steps, shares[stage])
        run.notes.once(f"{policy} {stage}", lambda: run.score(qmodel))
    artifact = _written(run, policy, qmodel, config.length)
    (outputs,) = artifact.run(run.test.ids, run.test.mask)
    run.notes.add(**{f"{policy} artifact": run.task.score(outputs, run.test)})
    shown = None if config.pretrained is None else resized(run.test, config.length, config.verify)
    if processes.writes():
        run.notes.report += pages.written(artifact, run.out / f"{policy}.html", run.out, shown)
    for length in config.lengths:
        _written(run, f"{policy}_{length}", at_length(qmodel, config, policy, model, length), length)


def _written(run: Run, name: str, qmodel: Any, length: int) -> Artifact:
    """The file of a quantized model for sentences of a length, proven on test sentences, and saved."""
    qmodel.eval()
    said = metadata(run.task, run.config)
    sample = resized(run.test, length, run.config.verify)
    artifact = jaxq.export.to_tflite(processes.local(qmodel), verify=sample, metadata=said)
    if processes.writes():
        artifact.save(run.out / f"{name}.tflite", force=True)
    assert artifact.certificate is not None
    run.notes.add(
        **{
            f"{name} bytes": len(artifact.data),
            f"{name} differing": artifact.certificate.differing_integers,
            f"{name} compared": artifact.certificate.compared_integers,
        }
    )
    return artifact


def at_length(qmodel: Any, config: Config, policy: str, model: Network, length: int) -> Any:
    """A quantized model for sentences of another length: the same weights and ranges."""
    other = prepared(config, policy, model, length)
    nnx.update(other, nnx.state(qmodel))
    return other


def metadata(task: Task, config: Config) -> Metadata:
    """What the file says of itself: `jaxq infer FILE "a sentence"` reads it."""
    words = () if config.pretrained is None else vocabulary(tokenizer_json(config.pretrained))
    inputs = (TensorMetadata("ids", "Token ids."), TensorMetadata("mask", "True at tokens, false at padding."))
    return Metadata(task.title, task.asks, inputs=inputs, outputs=(task.says,), vocabulary=words)


def network(task: Task, config: Config, seed: int) -> Network:
    """The encoder with its published weights and a new head, or none."""
    rngs, outputs = nnx.Rngs(seed), task.outputs
    head = outputs is not None
    model = SentenceModel(config.sizes, outputs, rngs=rngs) if head else SentenceEncoder(config.sizes, rngs=rngs)
    if config.pretrained is not None:
        nnx.update(model.encoder, nnx.state(weights.pretrained(config.pretrained).encoder, nnx.Param))
    return model


def prepared(config: Config, policy: str | Recipe, model: Any, length: int) -> Any:
    """A copy of the float model, its sums bounded, quantized by a policy for sentences of a length."""
    copy = bounded(nnx.clone(model), config.clip)
    copy.eval()
    return jaxq.quantize(copy, POLICIES[policy] if isinstance(policy, str) else policy, *example(length))


def calibrated(config: Config, policy: str | Recipe, model: Network, train: Data) -> Any:
    """A copy of the float model, quantized by a policy, or by any recipe, and calibrated on training sentences."""
    qmodel = prepared(config, policy, model, config.length)
    n = min(config.calibrate, len(train.ids))
    jaxq.calibrate(qmodel, ((train.ids[i : i + 32], train.mask[i : i + 32]) for i in range(0, n, 32)))
    return qmodel


def outputs_of(run: Run, model: Any, of: Data) -> np.ndarray:
    """Outputs for all sentences, in evaluation mode."""
    model.eval()
    return stepping.outputs_of(model, (of.ids, of.mask), size=64, mesh=run.mesh)


@functools.partial(nnx.jit, static_argnames="task")
def train_step(model: Any, optimizer: Any, batch: Data, share: Any, temperature: Any, *, task: Task) -> jax.Array:
    """One step of gradient descent on `(1 - share) loss + share taught`; returns that before the step."""

    def loss_of(model: Any) -> jax.Array:
        outputs = model(jnp.asarray(batch.ids), jnp.asarray(batch.mask))
        hard = 0.0 if task.loss is None else task.loss(outputs, jnp.asarray(batch.ratings))
        soft = task.taught(outputs, jnp.asarray(batch.teacher), jnp.asarray(temperature))
        return jnp.mean((1.0 - share) * hard + share * soft)

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def _fit(run: Run, name: str, model: Any, rate: float, steps: int, share: float) -> None:
    """Train a float or a quantized model, with checkpoints. Dropout in float training only."""
    config, integers = run.config, not isinstance(model, Network)
    model.eval() if integers else model.train()
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    tx = optax.adamw(schedule, weight_decay=0.01)
    tx = jaxq.optim.partition(tx, optax.adam(config.range_rate)) if integers else tx
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)

    def begin(first: int) -> Batches:
        seed = run.seed + (name != "float")
        return batches_from(run.train, config.batch, steps, seed, first, group=run.task.group)

    def step_of(step: int, batch: Any, is_last: Callable[[], bool]) -> str:
        divided = Data(*stepping.divide(run.mesh, *batch))
        loss = train_step(model, optimizer, divided, share, config.temperature, task=run.task)
        return f"{name}: loss {float(loss):.3f}"

    with checkpoint.manager(run.out / "checkpoints" / name, every=100, keep=1) as checkpoints:
        stepping.drive((model, optimizer), steps, begin, step_of, checkpoints=checkpoints, title=name, mesh=run.mesh)


def _report(console: Console, title: str, summary: dict[str, Any]) -> None:
    table, accuracy = Table(title=title), summary["measure"] == "accuracy"
    for column in ("stage", f"test {summary['measure']}"):
        table.add_column(column)
    for stage, value in summary.items():
        if isinstance(value, float):
            table.add_row(stage, f"{100 * value:.2f} %" if accuracy else f"{value:.4f}")
    console.print(table)
