"""A sentence encoder on movie sentences: float, then on integers, to int8 files; what the movie recipes share.

Float fine-tuning, and as many steps more as the integers will have; then for each policy (which tensors are not int8)
calibration, fine-tuning on the integers with the float model's outputs (Hinton et al. 2015, Kim et al. 2021), the same
with the data alone (Jacob et al. 2018, Zafrir et al. 2019), and the files, one for each length of sentence.
"""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import zlib
from collections.abc import Callable
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
from jaxq.errors import InputError
from jaxq.export.artifact import Artifact
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.recipes import checkpoint, identity, pages, stepping, weights
from jaxq.recipes.bert import CONFIGS, SentenceEncoder, SentenceModel, bounded, example
from jaxq.recipes.bert import Config as Sizes
from jaxq.recipes.bert_policies import POLICIES
from jaxq.recipes.movie_tasks import Data, Task
from jaxq.recipes.notes import Notes
from jaxq.recipes.sentences import Sentences, movie_sentences, tokenize, tokenizer_json, vocabulary

Network = SentenceModel | SentenceEncoder


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and lengths of the run.

    pretrained: whose weights, and tokenizer; None: a small random encoder. length: tokens of a sentence in training and
    testing. lengths: of the files besides. stages: of each policy, from calibration on; the last one's files are
    written. share: the teacher's part of the loss where it teaches. policies: of `bert_policies.POLICIES`.
    float_steps: 0 takes the encoder as published, and leaves the longer float training out.
    clip: bounds what a layer adds to a token in the quantized copies, not in the float model (`bert.Config`).
    """

    pretrained: str | None = "all-MiniLM-L6-v2"
    sizes: Sizes = CONFIGS["minilm-l6"]
    policies: tuple[str, ...] = ("float", "int8")
    stages: tuple[str, ...] = ("ptq", "qat+distillation", "qat")
    length: int = 40
    lengths: tuple[int, ...] = (32, 64, 128)
    clip: float | None = 24.0
    batch: int = 32
    float_steps: int = 300
    float_rate: float = 5e-5
    qat_steps: int = 300
    qat_rate: float = 2e-5
    range_rate: float = 1e-3
    share: float = 0.9
    temperature: float = 2.0
    calibrate: int = 256
    train: int = 10_000
    test: int = 10_000
    verify: int = 16


SMOKE = Config(
    None, Sizes(1, 16, 2, 32, vocabulary=64), ("int8",), ("ptq", "qat+distillation"), length=8, lengths=(4, 16),
    batch=8, float_steps=3, qat_steps=3, calibrate=8, train=32, test=8, verify=2,
)  # fmt: skip


def of_policy(config: Config, policy: str | None) -> Config:
    """The same run of one policy alone; None: of those that it has. Raises InputError for a name that is none."""
    if policy is None:
        return config
    if policy not in POLICIES:
        raise InputError(f"The policy {policy!r} is none of {', '.join(POLICIES)}. Give one of these.")
    return dataclasses.replace(config, policies=(policy,))


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
) -> dict[str, Any]:
    """Fine-tune, quantize, export and verify; leaves .tflite files for each policy and summary.json in `out`.

    `own`: sentences to train and to test with in the place of the movie sentences.
    """
    checkpoint.make_room(out, resume, force)
    train, test = data(task, config, own)
    out.mkdir(parents=True, exist_ok=True)
    kept = dataclasses.replace(config, policies=())  # each policy has checkpoints of its own
    found, devices = identity.fingerprint((train, test)), stepping.mesh_of().size
    identity.claim(out, resume, recipe=task.measure, seed=seed, config=kept, data=found, devices=devices)
    run = Run(task, config, out, seed, train, test, stepping.mesh_of(), Notes(out / "summary.json", resume=resume))
    run.notes.add(seed=seed, measure=task.measure)
    model = fine_tuned(run)
    train, test = (of._replace(teacher=outputs_of(run, model, of)) for of in (train, test))
    run.notes.add(float=task.score(test.teacher, test))
    run = dataclasses.replace(run, train=train, test=test)
    if config.float_steps:
        run.notes.once("float, longer", lambda: run.score(_longer(run, model)))
    for policy in config.policies:
        _quantized(run, policy, model)
    _report(Console(), run.notes.found)
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
    run.notes.report += pages.written(artifact, run.out / f"{policy}.html", run.out, shown)
    for length in config.lengths:
        _written(run, f"{policy}_{length}", at_length(qmodel, config, policy, model, length), length)


def _written(run: Run, name: str, qmodel: Any, length: int) -> Artifact:
    """The file of a quantized model for sentences of a length, proven on test sentences, and saved."""
    qmodel.eval()
    said = metadata(run.task, run.config)
    sample = resized(run.test, length, run.config.verify)
    artifact = jaxq.export.to_tflite(qmodel, verify=sample, metadata=said)
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


def resized(of: Data, length: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Ids and masks of the first sentences, cut or padded to a length."""
    wide = max(0, length - of.ids.shape[1])
    ids, mask = (np.pad(a[:count, :length], ((0, 0), (0, wide))) for a in (of.ids, of.mask))
    return ids, mask


def metadata(task: Task, config: Config) -> Metadata:
    """What the file says of itself: `jaxq infer FILE "a sentence"` reads it."""
    words = () if config.pretrained is None else vocabulary(tokenizer_json(config.pretrained))
    inputs = (TensorMetadata("ids", "Token ids."), TensorMetadata("mask", "True at tokens, false at padding."))
    return Metadata("Movie sentences", task.asks, inputs=inputs, outputs=(task.says,), vocabulary=words)


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


def data(task: Task, config: Config, own: tuple[Sentences, Sentences] | None = None) -> tuple[Data, Data]:
    """Sentences to train and to test with, as token ids: one's own, or movie sentences."""
    if config.pretrained is None and own is not None:
        train, test = (_hashed(task, config, sentences) for sentences in own)
        return train, test
    if config.pretrained is None:
        return _random(task, config, config.train, 0), _random(task, config, config.test, 1)
    settings = tokenizer_json(config.pretrained)
    sets = zip(own or movie_sentences(task.least), (config.train, config.test), strict=True)
    train, test = (_encoded(task, config, sentences, n, settings) for sentences, n in sets)
    return train, test


def _encoded(task: Task, config: Config, sentences: Sentences, count: int, settings: str) -> Data:
    order = np.random.default_rng(0).permutation(len(sentences.texts))[:count]
    tokens = tokenize([sentences.texts[i] for i in order], config.length, settings)
    return Data(tokens.ids, tokens.mask, sentences.ratings[order], _untaught(task, config, len(order)))


def _hashed(task: Task, config: Config, of: Sentences) -> Data:
    """Sentences for an encoder without a vocabulary: a word's id is a hash of it, 0 is padding."""
    words = [text.split()[: config.length] for text in of.texts]
    ids = np.array(
        [[zlib.crc32(w.encode()) % (config.sizes.vocabulary - 1) + 1 for w in row] + [0] * (config.length - len(row))
         for row in words], np.int32,
    )  # fmt: skip
    return Data(ids, ids != 0, of.ratings, _untaught(task, config, len(ids)))


def _random(task: Task, config: Config, count: int, seed: int) -> Data:
    """Sentences of no language, for a smoke test."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, config.sizes.vocabulary, (count, config.length)).astype(np.int32)
    mask = np.arange(config.length) < rng.integers(2, config.length + 1, (count, 1))
    ratings = (ids[:, 0] % 2 * 2 - 1).astype(np.float32)
    return Data(ids * mask, mask, ratings, _untaught(task, config, count))


def _untaught(task: Task, config: Config, count: int) -> np.ndarray:
    """What a teacher says before there is one."""
    return np.zeros((count, config.sizes.width if task.outputs is None else task.outputs), np.float32)


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

    def step_of(step: int, is_last: Callable[[], bool]) -> str:
        batch = Data(*stepping.divide(run.mesh, *batch_of(run.train, config.batch, step, run.seed + (name != "float"))))
        loss = train_step(model, optimizer, batch, share, config.temperature, task=run.task)
        return f"{name}: loss {float(loss):.3f}"

    with checkpoint.manager(run.out / "checkpoints" / name, every=100, keep=1) as checkpoints:
        stepping.drive((model, optimizer), steps, step_of, checkpoints=checkpoints, title=name, mesh=run.mesh)


def batch_of(train: Data, size: int, step: int, seed: int) -> Data:
    """The batch of a step, which depends on the step and the seed alone; every epoch has an order of its own."""
    epoch, place = divmod(step, len(train.ids) // size)
    order = np.random.default_rng([seed, epoch]).permutation(len(train.ids))[place * size : (place + 1) * size]
    return Data(*(array[order] for array in train))


def _report(console: Console, summary: dict[str, Any]) -> None:
    table, accuracy = Table(title="Movie sentences"), summary["measure"] == "accuracy"
    for column in ("stage", f"test {summary['measure']}"):
        table.add_column(column)
    for stage, value in summary.items():
        if isinstance(value, float):
            table.add_row(stage, f"{100 * value:.2f} %" if accuracy else f"{value:.4f}")
    console.print(table)
