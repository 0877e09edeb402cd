"""OpenPose's VGG network at its published size, with random weights: the way from float to an int8 file, measured.

    python benchmarks/openpose.py [--size 64] [--images 4] [--rounds 5] [--seed 0]

Prepare, calibrate (min and max, on stick figures), convert with every integer verified, save, load, evaluate. The float
file is jaxq's too (recipe `float32`). Latencies are LiteRT's, one thread, the two files in turns in one run: the ratio
tells more than the milliseconds. Random weights have no accuracy; `jaxq train recipes/openpose_vgg` has one.
"""

from __future__ import annotations

import argparse
import pathlib
import tempfile
import time
from typing import Any

import jax
import numpy as np
from flax import nnx

import jaxq
from jaxq.export.artifact import Artifact
from jaxq.export.io_formulas import quantized
from jaxq.export.runtimes.bench import Contestant, Latency, measure
from jaxq.recipes import openpose_vgg
from jaxq.recipes.openpose import OpenPose


def made(model: OpenPose, figures: openpose_vgg.Figures) -> tuple[Artifact, Artifact, float]:
    """The float file, the int8 file, and the CPU seconds that the second took from `quantize` to the proof's end."""
    plain = jaxq.export.to_tflite(jaxq.quantize(nnx.clone(model), "float32", figures.images[:1]), progress=False)
    start = time.process_time()
    qmodel = openpose_vgg.quantized(model, "minmax", figures)
    artifact = jaxq.export.to_tflite(qmodel, verify=figures.images[:1], progress=False)
    return plain, artifact, time.process_time() - start


def latencies(files: dict[str, Artifact], image: np.ndarray, rounds: int) -> list[Latency]:
    """Of one image, one thread."""
    inputs = {name: quantized(image, file.manifest["inputs"][0]) for name, file in files.items()}
    return measure([Contestant(name, file.data, 1, [inputs[name]]) for name, file in files.items()], rounds)


def rows(plain: Artifact, artifact: Artifact, images: np.ndarray, rounds: int) -> dict[str, str]:
    """What the table says of the two files."""
    assert artifact.certificate is not None
    taken = latencies({"float": plain, "int8": artifact}, images[:1], rounds)
    whole, found = plain.run(images), artifact.run(images)
    with tempfile.TemporaryDirectory() as folder:
        file = artifact.save(pathlib.Path(folder, "model.tflite"))
        same = file.read_bytes() == artifact.data and openpose_vgg.reloaded_equal(artifact, file, images[:1])
    differing, compared = artifact.certificate.differing_integers, artifact.certificate.compared_integers
    return {
        "bytes of the float file": f"{len(plain.data):,}",
        "bytes of the int8 file": f"{len(artifact.data):,}, {len(artifact.data) / len(plain.data):.3f} of float",
        "integers that differ, of those compared": f"{sum(differing.values())} of {compared:,}",
        "saved and loaded, every output integer as before": "yes" if same else "NO",
        "SQNR of the PAFs": f"{openpose_vgg.sqnr(whole[0], found[0]):.1f} dB",
        "SQNR of the heat maps": f"{openpose_vgg.sqnr(whole[1], found[1]):.1f} dB",
        "latency, float, int8": f"{1e3 * taken[0].median:.0f} ms, {1e3 * taken[1].median:.0f} ms",
        "latency of int8 over float": f"{taken[1].ratio(taken[0]):.2f}",
    }


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("size", 64), ("images", 4), ("rounds", 5), ("seed", 0)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given: Any = parser.parse_args()
    model = OpenPose(nnx.Rngs(given.seed))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))
    figures = openpose_vgg.drawn(given.images, given.size, given.seed)
    plain, artifact, seconds = made(model, figures)
    table = {"parameters": f"{parameters:,}"} | rows(plain, artifact, figures.images, given.rounds)
    table["CPU seconds, quantize to proof"] = f"{seconds:.0f}"
    print(f"{given.size}x{given.size}, seed {given.seed}\n\n| what | value |\n| --- | --- |")
    print("\n".join(f"| {name} | {value} |" for name, value in table.items()))


if __name__ == "__main__":
    main()
