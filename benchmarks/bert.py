"""A sentence encoder in int8 beside its float file: latency and size, one run, in turns.

python benchmarks/bert.py [length]        # 64 tokens if not given; needs `jaxq weights all-MiniLM-L6-v2`

all-MiniLM-L6-v2 (six layers of 384) with a classifier's head, calibrated on movie sentences, one thread of LiteRT's
default runtime. Dynamic range is ai-edge-quantizer's, of jaxq's float file, where that package is installed. Then: how
long BERT-base (random weights) takes to plan and to write, and the most memory that it holds beside its weights.
"""

from __future__ import annotations

import resource
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxq
import jaxq.export
from jaxq.export import runtime
from jaxq.recipes import movie_sentiment
from jaxq.recipes.bert import CONFIGS, SentenceModel, example
from jaxq.recipes.bert_policies import POLICIES

ROUNDS = 30


def files(length: int) -> tuple[dict[str, bytes], list[np.ndarray]]:
    """The files by name, and one sentence for them."""
    config = movie_sentiment.Config(length=length, calibrate=64)
    train, test = movie_sentiment.data(config)
    model = movie_sentiment.network(config, 0)
    model.eval()
    made = {"float32": bytes(jaxq.export.to_tflite(jaxq.quantize(model, "float32", *example(length))).data)}
    if (dynamic := dynamic_range(made["float32"])) is not None:
        made["dynamic range (ai-edge-quantizer)"] = dynamic
    for name in POLICIES:
        made[name] = jaxq.export.to_tflite(movie_sentiment.calibrated(config, name, model, train)).data
    return made, [test.ids[:1], test.mask[:1]]


def dynamic_range(data: bytes) -> bytes | None:
    """Weights in int8, activations quantized on the device; None where the package is missing."""
    try:
        from ai_edge_quantizer import quantizer, recipe  # type: ignore
    except ImportError:
        return None
    with tempfile.NamedTemporaryFile(suffix=".tflite") as file:
        file.write(data)
        file.flush()
        return bytes(quantizer.Quantizer(file.name, recipe.dynamic_wi8_afp32()).quantize().quantized_model)


def latencies(made: dict[str, bytes], inputs: list[np.ndarray]) -> dict[str, float]:
    """Median milliseconds of one invocation on one thread, the files in turns."""
    runs = {name: runner(data, inputs) for name, data in made.items()}
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(ROUNDS + 2):
        for name, run in runs.items():
            start = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - start))
    return {name: float(np.median(taken[2:])) for name, taken in times.items()}


def runner(data: bytes, inputs: list[np.ndarray]) -> Callable[[], Any]:
    """One invocation of a file."""
    interpreter = runtime._interpreter(data, "xnnpack", threads=1)
    for detail, value in zip(interpreter.get_input_details(), inputs, strict=True):
        interpreter.set_tensor(detail["index"], value)
    return interpreter.invoke


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


def main() -> None:
    length = int(sys.argv[1]) if len(sys.argv) > 1 else 64
    planned, written, share = scale()
    print(f"BERT-base: planned in {planned:.1f} s, written in {written:.1f} s; peak {share:.1f} times its weights\n")
    made, inputs = files(length)
    taken = latencies(made, inputs)
    print(f"| file, {length} tokens | bytes | of float | ms | of float |\n| --- | --- | --- | --- | --- |")
    for name, data in made.items():
        share, ratio = len(data) / len(made["float32"]), taken[name] / taken["float32"]
        print(f"| {name} | {len(data):,} | {share:.2f} | {taken[name]:.1f} | {ratio:.2f} |")


if __name__ == "__main__":
    main()
