"""Movie sentences, positive or negative: a sentence encoder fine-tuned in float, then on integers, to int8 files.

Data: 8,058 sentences to train and 2,014 to test (`jaxq.recipes.sentences`). Model: all-MiniLM-L6-v2 with a linear head
on the mean of its tokens; `jaxq weights all-MiniLM-L6-v2` fetches it. Accuracies: docs/results.md. Command: `jaxq train
recipes/movie_sentiment --out build/movies`.

Float fine-tuning; then for each policy (which tensors are not int8) calibration, fine-tuning on the integers with the
labels (Jacob et al. 2018, Zafrir et al. 2019), the same with the float model's logits as well (Hinton et al. 2015,
Kim et al. 2021), and the file.
"""

from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console
from rich.table import Table

import jaxq
from jaxq.errors import ExportError
from jaxq.export.artifact import write_whole
from jaxq.export.metadata import Metadata, TensorMetadata
from jaxq.progress import bar
from jaxq.recipes import checkpoint, weights
from jaxq.recipes.bert import CONFIGS, SentenceModel, example
from jaxq.recipes.bert import Config as Sizes
from jaxq.recipes.bert_policies import POLICIES
from jaxq.recipes.sentences import Sentences, movie_sentences, tokenize, tokenizer_json, vocabulary


@dataclasses.dataclass(frozen=True)
class Config:
    """Sizes, rates and lengths of the run. pretrained: whose weights, and tokenizer; None: a small random encoder."""

    pretrained: str | None = "all-MiniLM-L6-v2"
    sizes: Sizes = CONFIGS["minilm-l6"]
    policies: tuple[str, ...] = tuple(POLICIES)
    length: int = 48
    batch: int = 32
    float_steps: int = 500
    float_rate: float = 5e-5
    qat_steps: int = 250
    qat_rate: float = 1e-5
    range_rate: float = 1e-3
    temperature: float = 2.0
    calibrate: int = 256
    train: int = 10_000
    test: int = 10_000
    verify: int = 16


SMOKE = Config(
    None, Sizes(1, 16, 2, 32, vocabulary=64), ("int8",), length=8, batch=8, float_steps=3, qat_steps=3, calibrate=8,
    train=32, test=8, verify=2,
)  # fmt: skip


class Data(NamedTuple):
    """Token ids int32 [n, length], mask bool [n, length], labels int32 [n], a teacher's logits float32 [n, 2]."""

    ids: np.ndarray
    mask: np.ndarray
    labels: np.ndarray
    teacher: np.ndarray


def run(
    out: pathlib.Path, *, seed: int = 0, smoke: bool = False, resume: bool = False, force: bool = False,
    config: Config | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Fine-tune, quantize, export and verify; leaves a .tflite file for each policy and summary.json in `out`."""
    config = config or (SMOKE if smoke else Config())
    _make_room(out, resume, force)
    out.mkdir(parents=True, exist_ok=True)
    train, test = data(config)
    model = network(config, seed)
    fit(config, model, train, config.float_rate, config.float_steps, 0.0, seed, out / "checkpoints/float", resume)
    train = train._replace(teacher=logits_of(model, train))
    summary: dict[str, Any] = {"float": accuracy(logits_of(model, test), test)}
    for policy in config.policies:
        summary |= quantized(config, policy, model, train, test, seed, out, resume)
        write_whole({out / "summary.json": (json.dumps(summary, indent=2) + "\n").encode()})
    _report(Console(), summary)
    return summary


def quantized(
    config: Config, policy: str, model: Any, train: Data, test: Data, seed: int, out: pathlib.Path, resume: bool
) -> dict[str, Any]:
    """One policy: calibrated, fine-tuned, fine-tuned with the teacher; the last one's file on LiteRT."""
    summary: dict[str, Any] = {}
    qmodel = calibrated(config, policy, model, train)
    start = nnx.to_pure_dict(nnx.state(qmodel))
    for stage, share in (("ptq", None), ("qat", 0.0), ("qat+distillation", 0.9)):
        nnx.update(qmodel, start)  # one module for all three, compiled once
        if share is not None:
            folder = out / "checkpoints" / f"{policy}-{stage}"
            fit(config, qmodel, train, config.qat_rate, config.qat_steps, share, seed + 1, folder, resume)
        summary[f"{policy} {stage}"] = accuracy(logits_of(qmodel, test), test)
    sample = (test.ids[: config.verify], test.mask[: config.verify])
    artifact = jaxq.export.to_tflite(qmodel, verify=sample, metadata=metadata(config))
    artifact.save(out / f"{policy}.tflite", force=True)
    (logits,) = artifact.run(test.ids, test.mask)
    assert artifact.certificate is not None
    return summary | {
        f"{policy} artifact": accuracy(logits, test),
        f"{policy} bytes": len(artifact.data),
        f"{policy} differing": sum(artifact.certificate.differing_integers.values()),
        f"{policy} compared": artifact.certificate.compared_integers,
    }


def metadata(config: Config) -> Metadata:
    """What the file says of itself: `jaxq infer FILE "a sentence"` reads it."""
    words = () if config.pretrained is None else vocabulary(tokenizer_json(config.pretrained))
    inputs = (TensorMetadata("ids", "Token ids."), TensorMetadata("mask", "True at tokens, false at padding."))
    labels = (TensorMetadata("rating", "A score for each.", labels=("negative", "positive")),)
    return Metadata("Movie sentences", "Is it praise?", inputs=inputs, outputs=labels, vocabulary=words)


def network(config: Config, seed: int) -> SentenceModel:
    """The encoder with its published weights and a new head."""
    model = SentenceModel(config.sizes, 2, rngs=nnx.Rngs(seed))
    if config.pretrained is not None:
        nnx.update(model.encoder, nnx.state(weights.pretrained(config.pretrained).encoder, nnx.Param))
    return model


def calibrated(config: Config, policy: str, model: SentenceModel, train: Data) -> Any:
    """A copy of the float model, quantized by a policy and calibrated on training sentences."""
    copy = nnx.clone(model)
    copy.eval()
    qmodel = jaxq.quantize(copy, POLICIES[policy], *example(config.length))
    n = min(config.calibrate, len(train.labels))
    jaxq.calibrate(qmodel, ((train.ids[i : i + 32], train.mask[i : i + 32]) for i in range(0, n, 32)))
    return qmodel


def data(config: Config) -> tuple[Data, Data]:
    """Sentences to train and to test with, as token ids."""
    if config.pretrained is None:
        return _random(config, config.train, 0), _random(config, config.test, 1)
    settings = tokenizer_json(config.pretrained)
    sets = zip(movie_sentences(), (config.train, config.test), strict=True)
    train, test = (_encoded(sentences, config.length, n, settings) for sentences, n in sets)
    return train, test


def _encoded(sentences: Sentences, length: int, count: int, settings: str) -> Data:
    order = np.random.default_rng(0).permutation(len(sentences.texts))[:count]
    tokens = tokenize([sentences.texts[i] for i in order], length, settings)
    return Data(tokens.ids, tokens.mask, sentences.labels[order], np.zeros((len(order), 2), np.float32))


def _random(config: Config, count: int, seed: int) -> Data:
    """Sentences of no language, for a smoke test."""
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, config.sizes.vocabulary, (count, config.length)).astype(np.int32)
    mask = np.arange(config.length) < rng.integers(2, config.length + 1, (count, 1))
    return Data(ids * mask, mask, (ids[:, 0] % 2).astype(np.int32), np.zeros((count, 2), np.float32))


def accuracy(logits: np.ndarray, of: Data) -> float:
    """Share of sentences whose greatest logit is their label's."""
    return float(np.mean(np.argmax(logits, -1) == of.labels))


@nnx.jit
def _forward(model: Any, ids: jax.Array, mask: jax.Array) -> jax.Array:
    return model(ids, mask)


def logits_of(model: Any, of: Data, size: int = 64) -> np.ndarray:
    """Logits of all sentences, in evaluation mode."""
    model.eval()
    starts, ids, mask = range(0, len(of.labels), size), jnp.asarray(of.ids), jnp.asarray(of.mask)
    return np.concatenate([_forward(model, ids[i : i + size], mask[i : i + size]) for i in starts])


@nnx.jit
def train_step(model: Any, optimizer: Any, batch: Data, share: float, temperature: float) -> jax.Array:
    """One step of gradient descent on `(1 - share) cross entropy + share T^2 KL(teacher / T, model / T)`."""

    def loss_of(model: Any) -> jax.Array:
        logits = model(jnp.asarray(batch.ids), jnp.asarray(batch.mask))
        hard = optax.softmax_cross_entropy_with_integer_labels(logits, batch.labels)
        taught = jax.nn.softmax(batch.teacher / temperature)
        soft = optax.kl_divergence(jax.nn.log_softmax(logits / temperature), taught)
        return jnp.mean((1.0 - share) * hard + share * temperature**2 * soft)

    loss, grads = nnx.value_and_grad(loss_of)(model)
    optimizer.update(model, grads)
    return loss


def fit(
    config: Config, model: Any, train: Data, rate: float, steps: int, share: float, seed: int, folder: pathlib.Path,
    resume: bool,
) -> None:  # fmt: skip
    """Train a float or a quantized model, with checkpoints. Dropout in float training only."""
    integers = not isinstance(model, SentenceModel)
    model.eval() if integers else model.train()
    schedule = optax.warmup_cosine_decay_schedule(0.0, rate, max(1, steps // 10), steps)
    tx = optax.adamw(schedule, weight_decay=0.01)
    tx = jaxq.optim.partition(tx, optax.adam(config.range_rate)) if integers else tx
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    with checkpoint.manager(folder, every=100, keep=1) as checkpoints, bar() as shown:
        first = checkpoint.restore(checkpoints, model, optimizer) if resume else 0
        task, loss = shown.add_task(folder.name, total=steps, completed=first), float("nan")
        for step in range(first, steps):
            batch = batch_of(train, config.batch, step, seed)
            loss = float(train_step(model, optimizer, batch, share, config.temperature))
            shown.update(task, advance=1, description=f"{folder.name}: loss {loss:.3f}")
            checkpoint.save(checkpoints, step, model, optimizer, last=step == steps - 1)


def batch_of(train: Data, size: int, step: int, seed: int) -> Data:
    """The batch of a step, which depends on the step and the seed alone; every epoch has an order of its own."""
    epoch, place = divmod(step, len(train.labels) // size)
    order = np.random.default_rng([seed, epoch]).permutation(len(train.labels))[place * size : (place + 1) * size]
    return Data(*(array[order] for array in train))


def _make_room(out: pathlib.Path, resume: bool, force: bool) -> None:
    """Refuse a folder that holds an earlier run, unless told to go on with it or to start again."""
    if resume or not (out / "checkpoints").exists():
        return
    if not force:
        raise ExportError(
            f"{out / 'checkpoints'} exists. Go on with --resume, start again with --force, or give another --out."
        )
    shutil.rmtree(out / "checkpoints")


def _report(console: Console, summary: dict[str, Any]) -> None:
    table = Table(title="Movie sentences")
    for column in ("stage", "test accuracy"):
        table.add_column(column)
    for stage, value in summary.items():
        if isinstance(value, float):
            table.add_row(stage, f"{100 * value:.2f} %")
    console.print(table)
