"""A sentence encoder in int8 beside its float file: latency and size, one run, in turns.

python benchmarks/bert.py latency         # and size, at 64 tokens
python benchmarks/bert.py embeddings      # cosine and rank correlation, on held-out sentences; also of a FILE given
python benchmarks/bert.py scale           # BERT-base: seconds to plan and to write, and memory
python benchmarks/bert.py sensitivity FOLDER      # which ops' integers cost accuracy; FOLDER: of `jaxq train`
python benchmarks/bert.py calibrations FOLDER     # the methods that find ranges, of that float model
python benchmarks/bert.py rollback FOLDER [DROP [SENTENCES]]    # sums not bounded: which tensors need 16 bits

all-MiniLM-L6-v2 (six layers of 384; `jaxq weights all-MiniLM-L6-v2`), calibrated on movie sentences, not fine-tuned, on
one thread of LiteRT's default runtime, by policy (`jaxq.recipes.bert_policies`). Dynamic range is ai-edge-quantizer's,
of jaxq's float file, where that package is installed.
"""

from __future__ import annotations

import dataclasses
import pathlib
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import msgspec
import numpy as np
from flax import nnx
from ptq_images import CALIBRATIONS

import jaxq
import jaxq.export
from jaxq import Recipe, Rule
from jaxq.export.flatbuffer.read import read
from jaxq.export.runtimes import litert
from jaxq.export.runtimes.bench import Contestant, measure
from jaxq.recipes import movies, stepping, weights
from jaxq.recipes.bert import CONFIGS, SentenceModel, example
from jaxq.recipes.bert_policies import NORM, POLICIES, RESIDUAL
from jaxq.recipes.movie_tasks import SENTIMENT
from jaxq.recipes.notes import Notes

# What is left in floats, by a name: globs of sites, on top of the policy `int8`.
ISLANDS: dict[str, tuple[str, ...]] = {
    "attention: scores, mask, softmax, mixing": ("batch_matmul*", "select*", "softmax*"),
    "dense layers": ("*/kernel*",),
    "GELU": ("gelu*",),
    "residual sums": RESIDUAL,
    "LayerNorm": NORM,
}
ROUNDS = 30
LENGTH = 64
SENTENCES = 500


class Files(NamedTuple):
    """Files by name; token ids and masks of held-out sentences."""

    made: dict[str, bytes]
    ids: np.ndarray
    mask: np.ndarray


def files(kind: Callable[..., Any]) -> Files:
    """The encoder with a classifier's head, or without."""
    config = movies.Config(length=LENGTH, calibrate=128, test=SENTENCES)
    train, test = movies.data(SENTIMENT, config)
    model = kind(config)
    model.eval()
    made = {"float32": jaxq.export.to_tflite(jaxq.quantize(model, "float32", *example(LENGTH))).data}
    if (dynamic := dynamic_range(made["float32"])) is not None:
        made["dynamic range (ai-edge-quantizer)"] = dynamic
    for name in POLICIES:
        made[name] = jaxq.export.to_tflite(movies.calibrated(config, name, model, train)).data
    return Files(made, test.ids, test.mask)


def classifier(config: movies.Config) -> Any:
    """With a head that nobody trained."""
    return movies.network(SENTIMENT, config, 0)


def encoder(config: movies.Config) -> Any:
    """As published."""
    return weights.pretrained("all-MiniLM-L6-v2")


def dynamic_range(data: bytes) -> bytes | None:
    """Weights in int8, activations quantized on the device; None where the package is missing."""
    try:
        from ai_edge_quantizer import quantizer, recipe  # type: ignore
    except ImportError:
        return None
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(data)
        file.flush()
        made = quantizer.Quantizer(file.name, recipe.dynamic_wi8_afp32()).quantize().quantized_model
    return bytes(made or b"")


def scale() -> tuple[float, float, float]:
    """Seconds to plan BERT-base, seconds to write it, and bytes at the peak over bytes of its weights."""
    model = SentenceModel(CONFIGS["bert-base"], 2, rngs=nnx.Rngs(0))
    model.eval()
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    before, start = peak(), time.perf_counter()
    qmodel = jaxq.quantize(model, "int8", *example(64))
    planned = time.perf_counter()
    for held in qmodel.ranges.values():
        held["scale"][...], held["observed"][...] = np.float32(0.05), np.array([-6.4, 6.4], np.float32)
    middle = time.perf_counter()
    jaxq.export.to_tflite(qmodel)
    return planned - start, time.perf_counter() - middle, (peak() - before + weights) / weights


def peak() -> int:
    """The most memory that the process has held, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def latency() -> None:
    """Prints the table of sizes and times."""
    made, ids, mask = files(classifier)
    taken = measure([Contestant(name, data, 1, [ids[:1], mask[:1]]) for name, data in made.items()], ROUNDS)
    print(f"| file, {LENGTH} tokens | bytes | of float | ms | of float |\n| --- | --- | --- | --- | --- |")
    for (name, data), latency_of in zip(made.items(), taken, strict=True):
        share, ratio = len(data) / len(made["float32"]), latency_of.ratio(taken[0])
        print(f"| {name} | {len(data):,} | {share:.2f} | {1e3 * latency_of.median:.1f} | {ratio:.2f} |")


def embeddings() -> None:
    """Prints how near the embeddings of the files are to the float file's."""
    made, ids, mask = files(encoder)
    made |= {path: pathlib.Path(path).read_bytes() for path in sys.argv[2:]}
    found = {name: embedded(data, ids, mask) for name, data in made.items()}
    real, pairs = found["float32"], np.triu_indices(SENTENCES, 1)
    print(f"| {SENTENCES} held-out sentences | cosine, mean | least | Spearman, {len(pairs[0]):,} pairs |")
    print("| --- | --- | --- | --- |")
    for name, own in found.items():
        cosine, ranks = np.sum(real * own, -1), np.stack([rank((e @ e.T)[pairs]) for e in (real, own)])
        print(f"| {name} | {np.mean(cosine):.4f} | {np.min(cosine):.4f} | {np.corrcoef(ranks)[0, 1]:.4f} |")


def embedded(data: bytes, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Sentence embeddings of length 1, [n, width]."""
    program = read(data)
    (out,) = litert.run(data, [ids, mask], "xnnpack")
    grid = program.tensors[program.outputs[0]].quantization
    real = np.asarray(out, np.float64) - (0 if grid is None else int(grid.zero_point[0]))
    return real / np.linalg.norm(real, axis=-1, keepdims=True)


def rank(numbers: np.ndarray) -> np.ndarray:
    """The place of each number in the order of all; equal ones share the middle of theirs."""
    _, inverse, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def trained() -> tuple[movies.Run, Any, np.ndarray]:
    """The run of the recipe in the folder that is named, its float model and the model's logits on the test data."""
    config, out = movies.Config(), pathlib.Path(sys.argv[2])
    notes, (train, test) = Notes(out / "summary.json", resume=True), movies.data(SENTIMENT, config)
    run = movies.Run(SENTIMENT, config, out, 0, train, test, stepping.mesh_of(), notes)
    model = movies.fine_tuned(run)
    return run, model, movies.outputs_of(run, model, test)


def calibrations() -> None:
    """Prints what calibration alone loses by the method that finds the ranges of activations, policy `int8`."""
    run, model, real = trained()
    print("| calibration | accuracy | agree | SQNR of the logits |\n| --- | --- | --- | --- |")
    for name, chosen in CALIBRATIONS.items():
        activations = msgspec.structs.replace(POLICIES["int8"].activations, **chosen)
        report_loss(name, run, msgspec.structs.replace(POLICIES["int8"], activations=activations), model, real)


def rollback() -> None:
    """Prints the tensors that need 16 bits so that, sums not bounded, all but DROP per cent of SENTENCES of the
    training data, without their labels, get the float model's class.
    """
    drop = float(sys.argv[3]) if len(sys.argv) > 3 else 5.0
    sentences = int(sys.argv[4]) if len(sys.argv) > 4 else 96
    run, model, real = trained()
    run = dataclasses.replace(run, config=dataclasses.replace(run.config, clip=None))
    qmodel = movies.calibrated(run.config, "int8", model, run.train)
    seen = run.train.ids[:sentences], run.train.mask[:sentences]
    start = time.process_time()
    found = jaxq.search.rollback(qmodel, seen, max_drop=drop, choices=("a16",), progress=False)
    print(found)
    chosen, tensors = len(found.facts["choices"]), len(qmodel.plan.graph.site_names)
    print(f"{chosen} of {tensors} tensors in 16 bits, {time.process_time() - start:.0f} CPU seconds")
    print("| recipe, sums not bounded | accuracy | agree | SQNR of the logits |\n| --- | --- | --- | --- |")
    report_loss("`int8`", run, POLICIES["int8"], model, real)
    report_loss("`int8`, after rollback", run, found.recipe, model, real)


def sensitivity() -> None:
    """Prints what calibration alone loses, by op, of the float model that a run of the recipe left."""
    run, model, real = trained()
    config, test = run.config, run.test
    print(
        "| policy, or what `int8` leaves in floats | accuracy | agree | SQNR of the logits |\n| --- | --- | --- | --- |"
    )
    print(f"| float | {100 * SENTIMENT.score(real, test):.2f} % | | |")
    free = dataclasses.replace(run, config=dataclasses.replace(config, clip=None))
    for name, recipe in POLICIES.items():
        report_loss(f"policy `{name}`", run, recipe, model, real)
    for name, sites in ISLANDS.items():
        report_loss(name, run, with_floats(sites), model, real)
    for name, recipe in POLICIES.items():
        report_loss(f"policy `{name}`, sums not bounded", free, recipe, model, real)


def with_floats(sites: tuple[str, ...]) -> Recipe:
    """The policy `int8`, but for these sites."""
    return Recipe(rules=(*POLICIES["int8"].rules, *(Rule(site, float=True) for site in sites)))


def report_loss(name: str, run: movies.Run, recipe: Recipe, model: Any, real: np.ndarray) -> None:
    """Prints one row: the model quantized by a recipe, calibrated, beside the float model's logits `real`."""
    found = movies.outputs_of(run, movies.calibrated(run.config, recipe, model, run.train), run.test)
    accuracy, agree = SENTIMENT.score(found, run.test), np.mean(found.argmax(-1) == real.argmax(-1))
    sqnr = 10 * np.log10(np.sum(real**2) / np.sum((found - real) ** 2))
    print(f"| {name} | {100 * accuracy:.2f} % | {100 * agree:.1f} % | {sqnr:.1f} dB |", flush=True)


def report_scale() -> None:
    """Prints what BERT-base costs."""
    planned, written, share = scale()
    print(f"BERT-base: planned in {planned:.1f} s, written in {written:.1f} s; peak {share:.1f} times its weights")


if __name__ == "__main__":
    {
        "calibrations": calibrations,
        "latency": latency,
        "embeddings": embeddings,
        "scale": report_scale,
        "sensitivity": sensitivity,
        "rollback": rollback,
    }[sys.argv[1]]()
